// Shows the other admins that are viewing the conversation, and those that are writing a reply.

import { call, person } from "./api.js";
import { fill } from "./announce.js";
import { thread } from "./current-thread.js";

const INTERVAL = 15_000; // ms between reports; the server forgets viewers after 30 s
const WRITING_EVERY = 4_000; // ms between reports while this admin is writing
const WRITING_FOR = 8_000; // ms that a report of another admin's writing counts

let others = new Map(); // by id: the name, and until when that admin is writing
let changes = 0; // events about them

/** Report that this admin is viewing the conversation, and writing, and show the others, until it is left. */
export function startPresence(thread, closed) {
  others = new Map();
  if (!thread.querySelector("#viewing")) return;
  const path = `/api/v1/admin/conversations/${thread.dataset.thread}/viewing`;
  let writingAt = null; // when it was last reported
  let reporting = null; // the report on its way
  const report = async (fields = {}) => {
    if (document.hidden) return;
    const before = changes;
    reporting = call("POST", path, { body: fields }).catch(() => null);
    const response = await reporting;
    const present = response?.ok && (await response.json()).others;
    if (!present || closed.aborted) return;
    if (changes !== before) return report(); // the answer may be older than the event
    others = new Map(present.map(({ id, name }) => [id, { name, until: others.get(id)?.until ?? 0 }]));
    show();
  };
  const leave = () => {
    fetch(path, {
      method: "POST",
      keepalive: true, // the page is unloading
      body: JSON.stringify({ gone: true }),
      headers: {
        "Content-Type": "application/json",
        "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]').content,
      },
    }).catch(() => null);
  };
  const reply = thread.querySelector("#reply_body");
  const write = () => {
    const isOver = !reply.value.trim();
    if (isOver ? writingAt === null : writingAt !== null && performance.now() - writingAt < WRITING_EVERY) return;
    writingAt = isOver ? null : performance.now();
    report({ writing: !isOver });
  };
  const start = () => {
    report();
    const timer = setInterval(report, INTERVAL);
    const leaveAfterReport = () => Promise.resolve(reporting).then(leave); // or the server may get both in another order
    document.addEventListener("visibilitychange", () => (document.hidden ? leaveAfterReport() : report()), { signal: closed });
    addEventListener("pagehide", leave, { signal: closed });
    reply?.addEventListener("input", write);
    reply?.form.addEventListener("submit", () => {
      if (writingAt !== null) report({ writing: false });
      writingAt = null;
    });
    closed.addEventListener("abort", () => {
      clearInterval(timer);
      leaveAfterReport();
    });
  };
  if ("peek" in thread.dataset) thread.addEventListener("chats:opened", start, { once: true });
  else start();
}

/** Say that another admin has answered while this one is writing, until the draft is sent or empty. */
export function noteAnswer({ sender }) {
  const [line, reply] = ["#answered", "#reply_body"].map((id) => thread?.querySelector(id));
  if (!line || sender.role !== "admin" || sender.id === person || !reply?.value.trim()) return;
  line.textContent = fill(line.dataset.text, { name: sender.name });
  line.hidden = false;
  const hide = () => (line.hidden = true);
  reply.addEventListener("input", () => reply.value.trim() || hide());
  reply.form.addEventListener("submit", hide);
}

/** Show what another admin does, as an event says. */
export function notePresence({ conversation_id: conversation, admin, viewing, writing }) {
  if (conversation !== thread?.dataset.thread || admin.id === person) return;
  changes += 1;
  if (!viewing) others.delete(admin.id);
  else if (writing) others.set(admin.id, { name: admin.name, until: performance.now() + WRITING_FOR });
  else others.set(admin.id, { name: admin.name, until: (writing === null && others.get(admin.id)?.until) || 0 });
  show();
  if (writing) setTimeout(show, WRITING_FOR + 100);
}

function show() {
  const line = thread?.querySelector("#viewing");
  if (!line) return;
  const all = [...others.values()];
  const writing = all.filter(({ until }) => until > performance.now());
  const named = (people, words) =>
    people.length && fill(line.dataset[people.length > 1 ? `${words}Several` : `${words}One`], { names: people.map(({ name }) => name).join(", ") });
  const looking = all.filter((other) => !writing.includes(other));
  const text = [named(writing, "writing"), named(looking, "looking")].filter(Boolean).join(" · ");
  line.hidden = !text;
  line.classList.toggle("writing", writing.length > 0);
  if (line.textContent !== text) line.textContent = text;
}
