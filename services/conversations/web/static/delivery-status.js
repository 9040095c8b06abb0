// The delivery status of each admin message: read, or the state of its email. Emails belong to the notifications
// service; while it is unavailable, the status that the server rendered stays.

import { call } from "./api.js";
import { fill } from "./announce.js";
import { thread } from "./current-thread.js";
import { onRefresh } from "./refresh.js";
import { writeMoment } from "./times.js";

const MIN_INTERVAL = 2_000; // ms between requests while an email is pending, doubled after each one …
const MAX_INTERVAL = 30_000; // … up to this
const EMAIL_EXPECTED = 3_600_000; // ms for which a message may have no email yet, because the other service lags
const PENDING = new Set(["scheduled", "sending"]);

let texts = null; // of the conversation on the screen; null on customers' pages
let emails = new Map(); // by message id
let timer = null;
let interval = MIN_INTERVAL;

export function startDeliveryStatus(thread, closed) {
  texts = thread.querySelector("#delivery-status-texts");
  if (!texts) return;
  emails = new Map();
  closed.addEventListener("abort", () => clearTimeout(timer));
  onRefresh(() => {
    show();
    if (!timer && isEmailMissing()) refreshDeliveryStatus();
  }, closed);
  refreshDeliveryStatus();
}

/** Load the emails now, and again until none is pending: no live event reports them. */
export function refreshDeliveryStatus() {
  interval = MIN_INTERVAL;
  return load();
}

async function load() {
  if (!texts) return;
  clearTimeout(timer);
  timer = null;
  const asked = thread;
  const path = `/api/v1/notifications/emails?conversation_id=${thread.dataset.thread}&limit=100`;
  const response = await call("GET", path).catch(() => null);
  if (thread !== asked) return;
  if (response?.ok) {
    const { items } = await response.json();
    const newestLast = items.filter((email) => email.audience === "customer").reverse(); // the newest email wins
    emails = new Map(newestLast.flatMap((email) => email.message_ids.map((id) => [id, email])));
    show();
  }
  const pending = [...emails.values()].filter((email) => PENDING.has(email.state));
  const isMissing = !response?.ok || isEmailMissing();
  if (!pending.length && !isMissing) return;
  // An email that is due later needs no earlier request, but this browser's clock may be wrong.
  const due = Math.min(...pending.map((email) => Date.parse(email.next_attempt_at) || 0)) - Date.now();
  timer = setTimeout(load, (isMissing ? 0 : Math.min(Math.max(due, 0), MAX_INTERVAL)) + interval);
  interval = Math.min(2 * interval, MAX_INTERVAL);
}

/** Return whether an unread message has no email yet. */
function isEmailMissing() {
  const unread = [...document.querySelectorAll("[data-message-id]:not([data-read])")];
  return unread.some((line) => {
    const written = Date.parse(line.closest("li").querySelector("time").dateTime);
    return !emails.has(line.dataset.messageId) && Date.now() - written < EMAIL_EXPECTED;
  });
}

function show() {
  for (const line of document.querySelectorAll("[data-message-id]")) {
    const email = emails.get(line.dataset.messageId);
    if (!email || ("read" in line.dataset && email.state !== "sent")) continue;
    const { text, reason } = describe(email, "read" in line.dataset);
    line.textContent = reason ? `${text} ${reason}` : text;
    line.classList.toggle("error", email.state === "failed");
    if (email.state === "failed") line.append(" ", retryButton(email));
  }
}

function describe(email, isRead) {
  const moment = email.state === "scheduled" ? email.next_attempt_at : email.finished_at;
  const time = moment ? writeMoment(moment) : "";
  const reason = email.reason && `why-${email.reason}`.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
  return { text: fill(texts.dataset[isRead ? "readAndSent" : email.state] ?? "", { time }), reason: texts.dataset[reason] };
}

function retryButton(email) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = texts.dataset.retry;
  button.addEventListener("click", async () => {
    button.disabled = true;
    await call("POST", `/api/v1/notifications/emails/${email.id}/retry`).catch(() => null);
    refreshDeliveryStatus();
  });
  return button;
}
