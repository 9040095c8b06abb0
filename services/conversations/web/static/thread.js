// An open conversation: marks itself read while its end is visible, shows new messages, and loads earlier ones.

import { call, fetchPage } from "./api.js";
import { announce } from "./announce.js";
import { thread } from "./current-thread.js";
import { isHidden } from "./frame.js";
import { onRefresh, refresh } from "./refresh.js";

const NEAR = 48; // pixels from the end that count as the end
const RETRY_DELAY = 3_000; // ms after a failed call
const byId = (id) => document.getElementById(id);

export function startReading(thread, closed) {
  let read = Number(thread.dataset.read); // by loading the page; a prefetch marks nothing
  let announced = newest();
  const path = `${apiPath(thread)}/read`;
  const panel = panelOf(thread);
  const toNewest = byId("to-newest");

  const markRead = () => {
    const seen = newest();
    if (isAtEnd()) toNewest.hidden = true;
    // New messages below are unread while the reader has scrolled up.
    if (isHidden() || document.prerendering || seen <= read || "peek" in thread.dataset || "earlier" in thread.dataset || !isAtEnd()) return;
    const before = read;
    read = seen;
    call("POST", path, { body: { up_to: seen } })
      .then(({ status }) => status === 429 || status >= 500)
      .catch(() => true)
      .then((failed) => {
        if (!failed) return;
        read = before;
        setTimeout(() => closed.aborted || markRead(), RETRY_DELAY);
      });
  };
  onRefresh(() => {
    for (const item of thread.querySelectorAll(".message.other.arrived")) {
      if (Number(item.dataset.number) <= announced) continue;
      announce("message", { name: item.querySelector(".author").textContent });
      toNewest.hidden = isAtEnd();
    }
    announced = newest();
    markRead();
  }, closed);
  for (const type of ["visibilitychange", "prerenderingchange"]) document.addEventListener(type, markRead, { signal: closed });
  panel.addEventListener("scroll", markRead, { passive: true });
  thread.addEventListener("chats:opened", markRead);
  // A note for the reader has no number: what was read before is reported again.
  thread.addEventListener("chats:awaited", () => {
    read = Math.min(read, newest() - 1);
    markRead();
  });
  toNewest.addEventListener("click", showEnd);
  byId("earlier")?.addEventListener("click", loadEarlier);
  markRead();
}

/** Return whether an event is about this conversation. */
export function concerns(data) {
  return thread && data.conversation_id === thread.dataset.thread;
}

/** Return the path of a conversation in the API of its reader's side. */
export function apiPath(thread) {
  return `${thread.dataset.side === "admin" ? "/api/v1/admin" : "/api/v1"}/conversations/${thread.dataset.thread}`;
}

/** Refresh the conversation, unless the page shows earlier messages. */
export function refreshThread() {
  return !thread || "earlier" in thread.dataset ? Promise.resolve() : refresh(200);
}

/** Scroll to the newest message. */
export function showEnd() {
  panelOf(thread).scrollTop = 0; // the panel is reversed: 0 is the end, and above it is negative
}

const panelOf = (thread) => thread.querySelector(".MessageHistoryPanel");

function isAtEnd() {
  return panelOf(thread).scrollTop > -NEAR;
}

function newest() {
  return Math.max(0, ...[...byId("messages").querySelectorAll("[data-number]")].map((item) => Number(item.dataset.number)));
}

async function loadEarlier(event) {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const page = await fetchPage(link.href).catch(() => null);
  if (!link.isConnected) return; // another conversation is on the screen
  const older = page?.getElementById("messages");
  if (!older) return location.assign(link.href);
  for (const item of older.querySelectorAll(":scope > .separator")) byId(item.id)?.remove();
  // The panel keeps its distance from the end, so keep the distance from the start here: nothing moves on the screen.
  const panel = panelOf(thread);
  const fromEnd = panel.scrollTop;
  byId("messages").prepend(...older.children);
  panel.scrollTop = fromEnd;
  byId("earlier").replaceChildren(...page.getElementById("earlier").children);
}
