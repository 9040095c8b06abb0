// What became of each of an admin's messages: read, or where its mail stands. The mails are the other service's; when
// it is away, what the page said at first stays.

import { call } from "./api.js";
import { fill } from "./announce.js";
import { onRefresh } from "./refresh.js";
import { writeMoment } from "./times.js";

const SHORTEST = 2_000; // ms between looks while a mail is under way, doubled at each one …
const LONGEST = 30_000; // … up to this
const AWAITED = 3_600_000; // ms for which a message may have no mail yet, because the other service is behind
const UNDER_WAY = new Set(["scheduled", "sending"]);
const thread = document.querySelector("[data-thread]");
const words = document.getElementById("fate-words");

let mails = new Map(); // of each message
let timer = null;
let pause = SHORTEST;

export function startFates() {
  if (!thread || !words) return;
  onRefresh(() => {
    show();
    if (!timer && isAwaited()) look();
  });
  look();
}

/** Ask again what became of the mails, and again until each one is done with: no event tells of them. */
export function look() {
  pause = SHORTEST;
  return ask();
}

async function ask() {
  if (!words) return;
  clearTimeout(timer);
  timer = null;
  const path = `/api/v1/notifications/emails?conversation_id=${thread.dataset.thread}&limit=100`;
  const response = await call("GET", path).catch(() => null);
  if (response?.ok) {
    const { items } = await response.json();
    const ours = items.filter((mail) => mail.audience === "customer").reverse(); // the newest mail has the last word
    mails = new Map(ours.flatMap((mail) => mail.message_ids.map((id) => [id, mail])));
    show();
  }
  const underWay = [...mails.values()].filter((mail) => UNDER_WAY.has(mail.state));
  const awaited = !response?.ok || isAwaited();
  if (!underWay.length && !awaited) return;
  // What is due later needs no look before; but our clock may be wrong.
  const due = Math.min(...underWay.map((mail) => Date.parse(mail.next_attempt_at) || 0)) - Date.now();
  timer = setTimeout(ask, (awaited ? 0 : Math.min(Math.max(due, 0), LONGEST)) + pause);
  pause = Math.min(2 * pause, LONGEST);
}

/** Tell whether there is a message that nobody has read, and whose mail is not known yet. */
function isAwaited() {
  const unread = [...document.querySelectorAll("[data-fate]:not([data-read])")];
  return unread.some((line) => {
    const written = Date.parse(line.closest("li").querySelector("time").dateTime);
    return !mails.has(line.dataset.fate) && Date.now() - written < AWAITED;
  });
}

function show() {
  for (const line of document.querySelectorAll("[data-fate]")) {
    const mail = mails.get(line.dataset.fate);
    if (!mail || ("read" in line.dataset && mail.state !== "sent")) continue;
    const { text, why } = tell(mail, "read" in line.dataset);
    line.textContent = why ? `${text} ${why}` : text;
    line.classList.toggle("error", mail.state === "failed");
    if (mail.state === "failed") line.append(" ", retryButton(mail));
  }
}

function tell(mail, read) {
  const moment = mail.state === "scheduled" ? mail.next_attempt_at : mail.finished_at;
  const time = moment ? writeMoment(moment, words.dataset.locale, words.dataset.zone) : "";
  const why = mail.reason && `why-${mail.reason}`.replace(/-(\w)/g, (_, letter) => letter.toUpperCase());
  return { text: fill(words.dataset[read ? "readAndSent" : mail.state] ?? "", { time }), why: words.dataset[why] };
}

function retryButton(mail) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = words.dataset.retry;
  button.addEventListener("click", async () => {
    button.disabled = true;
    await call("POST", `/api/v1/notifications/emails/${mail.id}/retry`).catch(() => null);
    look();
  });
  return button;
}
