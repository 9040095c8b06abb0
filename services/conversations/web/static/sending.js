// Sending from a thread without leaving it. A message that could not be sent stays, over a reload as well, and is sent
// again under the same key: the server knows it, and never takes it twice.

import { fill } from "./announce.js";
import { call, newKey } from "./api.js";
import { forget, keep, kept } from "./kept.js";
import { onRefresh } from "./refresh.js";
import { refreshThread, showEnd } from "./thread.js";

const form = document.getElementById("reply");
const messages = document.getElementById("messages");
const field = form?.querySelector("textarea");
const outboxName = form && `outbox:${form.dataset.draft}`;
const AGAIN = 10_000; // ms until what failed is tried again by itself

let outbox = []; // [{ key, fields }], oldest first: what is sent, and under which key
let flushing = false;
let timer = null;

export function startSending() {
  if (!form?.dataset.send) return;
  outbox = kept(outboxName) ?? [];
  outbox.forEach(show);
  form.addEventListener("submit", submit);
  addEventListener("online", flush);
  onRefresh(() => {
    for (const bubble of messages.querySelectorAll(".pending[data-sent]")) {
      if (document.querySelector(`[data-id="${bubble.dataset.sent}"]`)) bubble.remove();
    }
  });
  flush();
}

function submit(event) {
  const typed = new FormData(form, event.submitter);
  const text = field.value.trimEnd().replace(/^\s*\n/, ""); // as the server trims it: the first line keeps its indentation
  // A status alone is a form like any other.
  if (!text) return;
  event.preventDefault();
  const statuses = typed.getAll("status").filter(Boolean);
  const fields = {
    [field.name]: text,
    ...(statuses.length && { status: statuses.at(-1) }),
    seen_number: Number(typed.get("seen_number")),
  };
  const item = { key: newKey(), fields };
  outbox.push(item);
  keep(outboxName, outbox);
  form.parentElement.querySelectorAll(".error, .refused-status").forEach((old) => old.remove());
  form.reset();
  field.value = "";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
  show(item);
  flush();
}

/** Send what waits, one after the other, so that nothing overtakes. */
export async function flush() {
  clearTimeout(timer);
  if (flushing || !outbox.length) return;
  flushing = true;
  try {
    while (outbox.length) {
      const [item] = outbox;
      if (!(await send(item))) break;
      drop(item);
    }
  } finally {
    flushing = false;
  }
  if (outbox.length) timer = setTimeout(flush, AGAIN);
}

/** Send one; true when it is done with, one way or the other. */
async function send(item) {
  const bubble = document.getElementById(`pending-${item.key}`);
  say(bubble, "sending");
  let response;
  try {
    response = await call(form.dataset.method ?? "POST", form.dataset.send, { body: item.fields, key: item.key });
  } catch {
    say(bubble, "failed");
    return false;
  }
  if (response.ok) {
    const answer = await response.json();
    bubble.dataset.sent = answer.last_message?.id ?? answer.id;
    refreshThread();
    return true;
  }
  if (response.status === 429 || response.status === 401 || response.status >= 500) {
    say(bubble, response.status === 429 ? "wait" : "failed");
    return false;
  }
  const { code } = await response.json().catch(() => ({}));
  if (code === "newer-messages") {
    tell("crossed-message");
    giveBack(...outbox); // what was written behind it did not know of the newer ones either
    refreshThread();
  } else if (response.status === 413) {
    tell("too-long-message");
    giveBack(item); // the server has not looked at it, and would not look at a form of it
  } else {
    giveBack(item);
    // The server says what is wrong, in the reader's language, with what was typed, the button's status included.
    const { status, seen_number } = item.fields;
    const add = ({ formData }) => {
      formData.set("seen_number", seen_number);
      if (status) formData.set("status", status);
    };
    form.addEventListener("formdata", add, { once: true });
    form.submit();
  }
  return true;
}

/** Say above the form why nothing was sent. */
function tell(words) {
  form.before(document.getElementById(words).content.cloneNode(true));
}

/** Take what was refused back into the form. */
function giveBack(...items) {
  const texts = items.map((item) => item.fields[field.name]);
  field.value = [...texts, field.value].filter(Boolean).join("\n\n");
  const { status } = items.at(-1).fields;
  if (status) sayNotSet(status);
  for (const item of items) {
    document.getElementById(`pending-${item.key}`).remove();
    drop(item);
  }
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}

/** Say which status was not set. It is not chosen again by itself: the next reply would set it unnoticed. */
function sayNotSet(status) {
  const name = form.querySelector(`option[value="${status}"]`).textContent;
  const line = document.getElementById("refused-status-words").content.cloneNode(true).firstElementChild;
  line.textContent = fill(line.textContent, { status: name });
  form.parentElement.querySelector(".refused-status")?.remove();
  form.before(line);
}

function drop(item) {
  outbox = outbox.filter((other) => other !== item);
  outbox.length ? keep(outboxName, outbox) : forget(outboxName);
}

function show(item) {
  const bubble = document.getElementById("pending-message").content.cloneNode(true).firstElementChild;
  bubble.id = `pending-${item.key}`;
  bubble.querySelector(".body").textContent = item.fields[field.name];
  bubble.querySelector("[data-retry]").addEventListener("click", flush);
  bubble.querySelector("[data-discard]").addEventListener("click", () => {
    drop(item);
    bubble.remove();
  });
  document.getElementById("no-messages")?.remove();
  messages.append(bubble);
  say(bubble, "sending");
  showEnd();
}

function say(bubble, words) {
  const line = bubble.querySelector(".fate");
  line.textContent = line.dataset[words];
  bubble.classList.toggle("failed", words !== "sending");
  bubble.querySelector(".rescue").hidden = words === "sending";
}
