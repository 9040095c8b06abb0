// A conversation that is open: it reads itself while its end is looked at, grows live, and loads what came before.

import { call, fetchPage } from "./api.js";
import { announce } from "./announce.js";
import { onRefresh, refresh } from "./refresh.js";

const NEAR = 48; // pixels from the end that count as being there
const thread = document.querySelector("[data-thread]");
const messages = document.getElementById("messages");
const panel = messages?.closest(".MessageHistoryPanel");
const peeks = new URLSearchParams(location.search).has("peek"); // to look without reading
const path = thread && `${thread.dataset.side === "admin" ? "/api/v1/admin" : "/api/v1"}/conversations/${thread.dataset.thread}`;

export function startThread() {
  if (!thread) return;
  let read = Number(thread.dataset.read); // fetching the page has: nothing, if a browser did it ahead
  let heard = newest();
  const toNewest = document.getElementById("to-newest");

  const readOn = () => {
    const seen = newest();
    if (isAtEnd()) toNewest.hidden = true;
    // What came in below, while the reader is further up, has not been read.
    if (document.hidden || document.prerendering || seen <= read || peeks || "earlier" in thread.dataset || !isAtEnd()) return;
    const before = read;
    read = seen;
    call("POST", `${path}/read`, { body: { up_to: seen } }).then(
      (response) => response.ok || (read = before),
      () => (read = before),
    );
  };
  onRefresh(() => {
    for (const item of messages.querySelectorAll(".message.other.arrived")) {
      if (Number(item.dataset.number) <= heard) continue;
      announce("message", { name: item.querySelector(".author").textContent });
      toNewest.hidden = isAtEnd();
    }
    heard = newest();
    readOn();
  });
  for (const seen of ["visibilitychange", "prerenderingchange"]) document.addEventListener(seen, readOn);
  panel.addEventListener("scroll", readOn, { passive: true });
  toNewest.addEventListener("click", showEnd);
  document.getElementById("earlier")?.addEventListener("click", loadEarlier);
  readOn();
}

/** Tell whether an event changes what this thread shows. */
export function concerns(data) {
  return thread && data.conversation_id === thread.dataset.thread;
}

/** Bring the thread up to date, unless it shows old messages only. */
export function refreshThread() {
  return "earlier" in thread.dataset ? Promise.resolve() : refresh(200);
}

/** Scroll to the newest message. */
export function showEnd() {
  panel.scrollTop = 0; // turned round: 0 is the end, and what is above is negative
}

function isAtEnd() {
  return panel.scrollTop > -NEAR;
}

function newest() {
  return Math.max(0, ...[...messages.querySelectorAll("[data-number]")].map((item) => Number(item.dataset.number)));
}

async function loadEarlier(event) {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const page = await fetchPage(link.href).catch(() => null);
  const older = page?.getElementById("messages");
  if (!older) return location.assign(link.href);
  for (const item of older.querySelectorAll(":scope > .separator")) document.getElementById(item.id)?.remove();
  // The panel holds on to its end by itself; held on to the beginning here, nothing moves under the reader's eyes.
  const fromEnd = panel.scrollTop;
  messages.prepend(...older.children);
  panel.scrollTop = fromEnd;
  document.getElementById("earlier").replaceChildren(...page.getElementById("earlier").children);
}
