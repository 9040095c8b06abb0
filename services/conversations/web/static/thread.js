// An open conversation: marks itself read while its end is visible, shows new messages, and loads earlier ones.

import { call, fetchPage } from "./api.js";
import { announce } from "./announce.js";
import { onRefresh, refresh } from "./refresh.js";

const NEAR = 48; // pixels from the end that count as the end
const thread = document.querySelector("[data-thread]");
const messages = document.getElementById("messages");
const panel = messages?.closest(".MessageHistoryPanel");
const peeks = new URLSearchParams(location.search).has("peek"); // shows without marking as read
const path = thread && `${thread.dataset.side === "admin" ? "/api/v1/admin" : "/api/v1"}/conversations/${thread.dataset.thread}`;

export function startThread() {
  if (!thread) return;
  let read = Number(thread.dataset.read); // by loading the page; a prefetch marks nothing
  let announced = newest();
  const toNewest = document.getElementById("to-newest");

  const markRead = () => {
    const seen = newest();
    if (isAtEnd()) toNewest.hidden = true;
    // New messages below are unread while the reader has scrolled up.
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
      if (Number(item.dataset.number) <= announced) continue;
      announce("message", { name: item.querySelector(".author").textContent });
      toNewest.hidden = isAtEnd();
    }
    announced = newest();
    markRead();
  });
  for (const type of ["visibilitychange", "prerenderingchange"]) document.addEventListener(type, markRead);
  panel.addEventListener("scroll", markRead, { passive: true });
  toNewest.addEventListener("click", showEnd);
  document.getElementById("earlier")?.addEventListener("click", loadEarlier);
  markRead();
}

/** Return whether an event is about this conversation. */
export function concerns(data) {
  return thread && data.conversation_id === thread.dataset.thread;
}

/** Refresh the conversation, unless the page shows earlier messages. */
export function refreshThread() {
  return "earlier" in thread.dataset ? Promise.resolve() : refresh(200);
}

/** Scroll to the newest message. */
export function showEnd() {
  panel.scrollTop = 0; // the panel is reversed: 0 is the end, and above it is negative
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
  // The panel keeps its distance from the end, so keep the distance from the start here: nothing moves on the screen.
  const fromEnd = panel.scrollTop;
  messages.prepend(...older.children);
  panel.scrollTop = fromEnd;
  document.getElementById("earlier").replaceChildren(...page.getElementById("earlier").children);
}
