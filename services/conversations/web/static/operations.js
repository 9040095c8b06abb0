// The page of the operators: the state of the notifications service, and failed emails in bulk.

import { fill } from "./announce.js";
import { call } from "./api.js";
import { refresh } from "./refresh.js";
import { writeMoment } from "./times.js";

const API = "/api/v1/notifications";
const INTERVAL = 5_000; // ms
const byId = (id) => document.getElementById(id);
const words = byId("notifications").dataset;

// What to show for each fact: a text, and whether something is wrong.
const FACTS = {
  position: ({ behind, rebuilding }) =>
    rebuilding ? [fill(words.rebuilding, { reason: rebuilding }), true] : [fill(words.behind, { count: number(behind) })],
  consumers: ({ consumers }) =>
    consumers.length ? [consumers.map(describeConsumer).join(" · "), consumers.some(({ reason }) => reason)] : [words.noWorker, true],
  sending: ({ sending }) => [{ on: words.on, paused: words.paused, "on-hold": words.onHold }[sending], sending !== "on"],
  breaker: ({ breaker }) => (breaker ? [describeBreaker(breaker), true] : [words.healthy]),
  oldest_due_seconds: ({ oldest_due_seconds: seconds, late }) =>
    seconds ? [fill(words.due, { seconds: number(Math.round(seconds)) }), late] : [words.noneDue],
  deferred: ({ deferred, deferred_reply: reply }) => [reply ? `${number(deferred)}: ${reply}` : number(deferred)],
  held_back: ({ held_back: count }) => [number(count)],
  emails: ({ emails }) => [
    Object.entries(emails)
      .map(([state, count]) => `${number(count)} ${words[state]}`)
      .join(", ") || number(0),
  ],
  parked: ({ parked }) => [number(parked), parked > 0],
};

byId("retry-form").addEventListener("submit", retry);
document.addEventListener("visibilitychange", () => document.hidden || load());
setInterval(() => document.hidden || load(), INTERVAL);
load();

async function load() {
  refresh(INTERVAL);
  const state = await get("/operations");
  byId("unavailable").hidden = state !== null;
  if (!state) return;
  byId("facts").hidden = byId("retry").hidden = false;
  for (const row of document.querySelectorAll("[data-fact]")) {
    const [text, isFault] = FACTS[row.dataset.fact](state);
    const shown = row.querySelector("dd");
    if (shown.textContent !== text) shown.textContent = text;
    row.classList.toggle("error", Boolean(isFault));
  }
  byId("parked").hidden = !state.parked;
  if (state.parked) showParked((await get("/parked"))?.items ?? []);
}

async function get(path) {
  const response = await call("GET", API + path).catch(() => null);
  return response?.ok ? response.json() : null;
}

function describeConsumer({ process, reason, detail, since }) {
  return fill(reason ? words.unusable : words.usable, { process, detail, time: writeMoment(since) });
}

function describeBreaker({ busy, since, next_probe_at: probe, phase, reply }) {
  const moment = (iso) => (iso ? writeMoment(iso) : "–");
  return fill(busy ? words.busy : words.failing, { time: moment(since), phase, reply, probe: moment(probe) });
}

function showParked(items) {
  const row = ({ id, type, reason, parked_at: at }) => {
    const line = byId("parked-event").content.cloneNode(true);
    [writeMoment(at), type, reason ?? "", id].forEach((text, index) => (line.querySelectorAll("td")[index].textContent = text));
    for (const button of line.querySelectorAll("button")) {
      button.addEventListener("click", () => act(id, button));
      button.ariaDescription = type;
    }
    return line;
  };
  // A row under the hand stays.
  if (!byId("parked-events").contains(document.activeElement)) byId("parked-events").replaceChildren(...items.map(row));
}

/** Retry a parked event, or give it up after a question. */
async function act(id, button) {
  if (button.dataset.question && !confirm(button.dataset.question)) return;
  button.disabled = true;
  const response = await call("POST", `${API}/parked/${id}/${button.value}`).catch(() => null);
  byId("acted").textContent = response?.ok || response?.status === 404 ? button.dataset.done : words.notRetried;
  button.blur();
  load();
}

/** Retry the chosen emails, in as many calls as they need. */
async function retry(event) {
  event.preventDefault();
  const button = event.submitter;
  button.disabled = true;
  const since = Number(byId("since").value);
  const reply = byId("reply").value.trim();
  const body = { ...(since && { since_seconds: since }), ...(reply && { reply }) };
  let [retried, skipped, more] = [0, 0, true];
  let failed = false;
  while (more && !failed) {
    const response = await call("POST", `${API}/emails/retry`, { body }).catch(() => null);
    const answer = response?.ok ? await response.json() : null;
    failed = !answer;
    more = answer?.more;
    retried += answer?.retried ?? 0;
    skipped = answer?.skipped ?? skipped;
  }
  const done = retried || !failed ? fill(words.retried, { retried: number(retried), skipped: number(skipped) }) : "";
  byId("retried").textContent = [done, failed && words.notRetried].filter(Boolean).join(" ");
  button.disabled = false;
  load();
}

function number(value) {
  return value.toLocaleString(document.documentElement.dataset.locale);
}
