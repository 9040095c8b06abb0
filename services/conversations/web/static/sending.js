// Sends messages without leaving the conversation. An unsent message survives a reload and is retried with the same
// idempotency key, so the server never saves it twice.

import { fill } from "./announce.js";
import { call, newKey } from "./api.js";
import { load, remove, save } from "./tab-storage.js";
import { onRefresh } from "./refresh.js";
import { refreshThread, showEnd } from "./thread.js";

const form = document.getElementById("reply");
const messages = document.getElementById("messages");
const field = form?.querySelector("textarea");
const outboxName = form && `outbox:${form.dataset.draft}`;
const RETRY_DELAY = 10_000; // ms

let outbox = []; // [{ key, fields }], oldest first
let flushing = false;
let timer = null;

export function startSending() {
  if (!form?.dataset.send) return;
  outbox = load(outboxName) ?? [];
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
  const text = field.value.trimEnd().replace(/^\s*\n/, ""); // as the server trims it
  if (!text) return; // a status alone is submitted as a form
  event.preventDefault();
  const statuses = typed.getAll("status").filter(Boolean);
  const fields = {
    [field.name]: text,
    ...(statuses.length && { status: statuses.at(-1) }),
    seen_number: Number(typed.get("seen_number")),
  };
  const item = { key: newKey(), fields };
  outbox.push(item);
  save(outboxName, outbox);
  form.parentElement.querySelectorAll(".error, .refused-status").forEach((old) => old.remove());
  form.reset();
  field.value = "";
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
  show(item);
  flush();
}

/** Send the outbox in order, one message at a time. */
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
  if (outbox.length) timer = setTimeout(flush, RETRY_DELAY);
}

/** Send a message; true when it was sent or rejected, false to retry. */
async function send(item) {
  const bubble = document.getElementById(`pending-${item.key}`);
  setState(bubble, "sending");
  let response;
  try {
    response = await call(form.dataset.method ?? "POST", form.dataset.send, { body: item.fields, key: item.key });
  } catch {
    setState(bubble, "failed");
    return false;
  }
  if (response.ok) {
    const result = await response.json();
    bubble.dataset.sent = result.last_message?.id ?? result.id;
    refreshThread();
    return true;
  }
  if (response.status === 429 || response.status === 401 || response.status >= 500) {
    setState(bubble, response.status === 429 ? "wait" : "failed");
    return false;
  }
  const { code } = await response.json().catch(() => ({}));
  if (code === "newer-messages") {
    showNotice("crossed-message");
    returnToForm(...outbox); // later messages were also written before the newer ones were seen
    refreshThread();
  } else if (response.status === 413) {
    showNotice("too-long-message");
    returnToForm(item); // the server would also reject the form
  } else {
    returnToForm(item);
    // Submit the form, with the button's status, so that the server renders the error in the reader's language.
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

/** Show above the form why nothing was sent. */
function showNotice(templateId) {
  form.before(document.getElementById(templateId).content.cloneNode(true));
}

/** Move rejected messages back into the form. */
function returnToForm(...items) {
  const texts = items.map((item) => item.fields[field.name]);
  field.value = [...texts, field.value].filter(Boolean).join("\n\n");
  const { status } = items.at(-1).fields;
  if (status) showStatusNotSet(status);
  for (const item of items) {
    document.getElementById(`pending-${item.key}`).remove();
    drop(item);
  }
  field.dispatchEvent(new Event("input", { bubbles: true }));
  field.focus();
}

/** Show which status was not set. It is not selected again: the next reply would set it unnoticed. */
function showStatusNotSet(status) {
  const name = form.querySelector(`option[value="${status}"]`).textContent;
  const line = document.getElementById("refused-status-words").content.cloneNode(true).firstElementChild;
  line.textContent = fill(line.textContent, { status: name });
  form.parentElement.querySelector(".refused-status")?.remove();
  form.before(line);
}

function drop(item) {
  outbox = outbox.filter((other) => other !== item);
  outbox.length ? save(outboxName, outbox) : remove(outboxName);
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
  setState(bubble, "sending");
  showEnd();
}

function setState(bubble, state) {
  const line = bubble.querySelector(".delivery-status");
  line.textContent = line.dataset[state];
  bubble.classList.toggle("failed", state !== "sending");
  bubble.querySelector(".rescue").hidden = state === "sending";
}
