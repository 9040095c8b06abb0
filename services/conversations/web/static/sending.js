// Sends messages without leaving the conversation. An unsent message survives a reload and is retried with the same
// idempotency key, so the server never saves it twice. It is also sent when another conversation is on the screen.

import { fill } from "./announce.js";
import { call, newKey } from "./api.js";
import { uploadsOf } from "./attachments.js";
import { load, remove, save } from "./tab-storage.js";
import { onRefresh } from "./refresh.js";
import { refreshThread, showEnd } from "./thread.js";
import { showToast, statusName } from "./toast.js";

const RETRY_DELAY = 10_000; // ms
const DOUBLE_CLICK = 1_000; // ms between the clicks at most
const outboxes = new Map(); // by conversation

addEventListener("online", flush);

/** Send what is written in a conversation, and show what is not sent yet. */
export function startSending(thread, closed) {
  const form = thread.querySelector("#reply");
  if (!form?.dataset.send) return;
  const { draft } = form.dataset;
  if (!outboxes.has(draft)) outboxes.set(draft, new Outbox(form));
  outboxes.get(draft).attach(form, closed);
}

/** Send all unsent messages. */
export function flush() {
  for (const outbox of outboxes.values()) outbox.flush();
}

/** The unsent messages of a conversation, in order. `form` is its form while it is on the screen, or null. */
class Outbox {
  constructor({ dataset, elements }) {
    this.name = `outbox:${dataset.draft}`;
    this.draft = `draft:${dataset.draft}`;
    this.method = dataset.method ?? "POST";
    this.url = dataset.send;
    this.fieldName = [...elements].find((element) => element.tagName === "TEXTAREA").name;
    this.items = load(this.name) ?? []; // [{ key, fields }], oldest first
    this.form = null;
    this.isFlushing = false;
    this.timer = null;
    this.submittedAt = -Infinity;
  }

  attach(form, closed) {
    this.form = form;
    closed.addEventListener("abort", () => {
      if (this.form === form) this.form = null;
    });
    form.addEventListener("submit", (event) => this.submit(event));
    onRefresh(() => {
      for (const bubble of document.querySelectorAll(".pending[data-sent]")) {
        if (document.querySelector(`[data-id="${bubble.dataset.sent}"]`)) bubble.remove();
      }
    }, closed);
    for (const item of this.items) this.show(item);
    this.flush();
  }

  get field() {
    return this.form.elements[this.fieldName];
  }

  submit(event) {
    const typed = new FormData(this.form, event.submitter);
    const text = this.field.value.trimEnd().replace(/^\s*\n/, ""); // as the server trims it
    const statuses = typed.getAll("status").filter(Boolean);
    const files = uploadsOf(this.form)?.files ?? [];
    if (!text && !files.length) {
      if (event.timeStamp < this.submittedAt + DOUBLE_CLICK) event.preventDefault(); // the first click has sent the text
      return; // a status alone is submitted as a form
    }
    event.preventDefault();
    this.submittedAt = event.timeStamp;
    const fields = {
      ...(text && { [this.fieldName]: text }),
      ...(files.length && { attachments: files.map(({ id }) => id) }),
      ...(statuses.length && { status: statuses.at(-1) }),
      seen_number: Number(typed.get("seen_number")),
    };
    const item = { key: newKey(), fields, files, before: document.getElementById("status")?.dataset.status };
    this.items.push(item);
    save(this.name, this.items);
    this.form.parentElement.querySelectorAll(".error, .refused-status").forEach((old) => old.remove());
    this.form.reset();
    uploadsOf(this.form)?.clear();
    this.write("");
    this.show(item);
    this.flush();
  }

  /** Send in order, one message at a time. */
  async flush() {
    clearTimeout(this.timer);
    if (this.isFlushing || !this.items.length) return;
    this.isFlushing = true;
    try {
      while (this.items.length && (await this.send(this.items[0])));
    } finally {
      this.isFlushing = false;
    }
    if (this.items.length) this.timer = setTimeout(() => this.flush(), RETRY_DELAY);
  }

  /** Send a message; true when it was sent or rejected, false to retry. */
  async send(item) {
    setState(item, "sending");
    let response;
    let result;
    try {
      response = await call(this.method, this.url, { body: item.fields, key: item.key });
      if (response.ok) result = await response.json();
    } catch {
      setState(item, "failed");
      return false;
    }
    if (response.ok) {
      const bubble = bubbleOf(item);
      if (bubble) {
        bubble.dataset.sent = result.last_message?.id ?? result.id;
        document.getElementById("new")?.remove(); // what is answered is not new any more
      }
      this.drop(item);
      refreshThread();
      this.sayWhatWasDone(item, result);
      return true;
    }
    if (response.status === 429 || response.status === 401 || response.status >= 500) {
      setState(item, response.status === 429 ? "wait" : "failed");
      return false;
    }
    const { code } = await response.json().catch(() => ({}));
    if (code === "newer-messages") {
      this.notice("crossed-message");
      this.returnToForm(...this.items); // later messages were also written before the newer ones were seen
      refreshThread();
    } else if (response.status === 413) {
      this.notice("too-long-message");
      this.returnToForm(item); // the server would also reject the form
    } else {
      this.returnToForm(item);
      this.submitForm(item.fields);
    }
    return true;
  }

  /** Show above the form why nothing was sent. */
  notice(templateId) {
    this.form?.before(document.getElementById(templateId).content.cloneNode(true));
  }

  /** Submit the form, with the button's status, so that the server renders the error in the reader's language. */
  submitForm({ seen_number, status }) {
    if (!this.form) return;
    const add = ({ formData }) => {
      formData.set("seen_number", seen_number);
      if (status) formData.set("status", status);
    };
    this.form.addEventListener("formdata", add, { once: true });
    this.form.submit();
  }

  /** Move rejected messages back into the form, or into its draft when another conversation is on the screen. */
  returnToForm(...items) {
    const texts = items.map((item) => item.fields[this.fieldName]);
    const files = items.flatMap((item) => item.files ?? []);
    for (const item of items) {
      bubbleOf(item)?.remove();
      this.drop(item);
    }
    if (!this.form) {
      const draft = load(this.draft) ?? {};
      showToast("returned");
      if (files.length) save(this.draft.replace("draft:", "files:"), files);
      return save(this.draft, { ...draft, [this.fieldName]: [...texts, draft[this.fieldName]].filter(Boolean).join("\n\n") });
    }
    uploadsOf(this.form)?.restore(files);
    this.write([...texts, this.field.value].filter(Boolean).join("\n\n"));
    showStatusNotSet(this.form, items.at(-1).fields.status);
  }

  /** Say what an admin's reply did, with an undo: unless somebody else has written, the last message is this one. */
  sayWhatWasDone(item, { status, message_count, last_message }) {
    if (!status) return;
    const isLast = message_count === item.fields.seen_number + 1;
    const undo = isLast ? () => this.takeBack(item, last_message.id, { status, message_count }) : null;
    showToast(item.fields.status === "KEEP" ? "kept" : "sent", { status: statusName(status) }, undo);
  }

  /** Remove a message that was just sent, set the status from before, and put the text back. */
  async takeBack(item, id, { status, message_count }) {
    const response = await call("DELETE", `${this.url}/messages/${id}`).catch(() => null);
    if (!response?.ok) return showToast("notUnsent");
    if (item.before && item.before !== status) {
      const body = { status: item.before, expected_status: status, seen_number: message_count };
      await call("PATCH", this.url, { body }).catch(() => null);
    }
    this.returnToForm({ ...item, files: [] }); // its files are gone
    refreshThread();
    showToast(item.files?.length ? "unsentFiles" : "unsent");
  }

  write(text) {
    this.field.value = text;
    this.field.dispatchEvent(new Event("input", { bubbles: true }));
    this.field.focus();
  }

  drop(item) {
    this.items = this.items.filter((other) => other !== item);
    this.items.length ? save(this.name, this.items) : remove(this.name);
  }

  show(item) {
    const bubble = document.getElementById("pending-message").content.cloneNode(true).firstElementChild;
    bubble.id = `pending-${item.key}`;
    bubble.querySelector(".body").textContent = [item.fields[this.fieldName], ...(item.files ?? []).map(({ name }) => name)]
      .filter(Boolean)
      .join("\n");
    bubble.querySelector("[data-retry]").addEventListener("click", () => this.flush());
    bubble.querySelector("[data-discard]").addEventListener("click", () => {
      this.drop(item);
      bubble.remove();
    });
    document.getElementById("no-messages")?.remove();
    document.getElementById("messages").append(bubble);
    setState(item, "sending");
    showEnd();
  }
}

/** Show which status was not set. It is not selected again: the next reply would set it unnoticed. */
function showStatusNotSet(form, status) {
  const option = status && form.querySelector(`option[value="${status}"]`);
  if (!option) return;
  const line = document.getElementById("refused-status-words").content.cloneNode(true).firstElementChild;
  line.textContent = fill(line.textContent, { status: option.textContent.trim() });
  form.parentElement.querySelector(".refused-status")?.remove();
  form.before(line);
}

const bubbleOf = (item) => document.getElementById(`pending-${item.key}`);

function setState(item, state) {
  const bubble = bubbleOf(item);
  if (!bubble) return; // another conversation is on the screen
  const line = bubble.querySelector(".delivery-status");
  line.textContent = line.dataset[state];
  bubble.classList.toggle("failed", state !== "sending");
  bubble.querySelector(".rescue").hidden = state === "sending";
}
