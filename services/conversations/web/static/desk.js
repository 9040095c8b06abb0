// The desk: in wide windows conversations open beside the inbox, which stays where it is. Narrow windows, and the
// browser's own ways to open a link, lead to the page of the conversation.

import { fetchPage, role } from "./api.js";
import { startThread, thread } from "./current-thread.js";
import { askForShownRows } from "./inbox-rows.js";
import { onRefresh, refresher, swap } from "./refresh.js";
import { refreshThread } from "./thread.js";
import { showToast } from "./toast.js";

export const LIST_INTERVAL = 1_500; // ms between refreshes of a busy list
const DWELL = 2_000; // ms on the screen after which a conversation counts as opened
const WIDE = matchMedia("(width >= 75rem)"); // as in the style
const desk = document.querySelector(".desk");
const inbox = () => document.getElementById("inbox");
let opening = new AbortController();
let arriving = null; // { id, stale } of the conversation that is being fetched
let asking = new AbortController(); // for the inbox that a link leads to

const fetchInbox = refresher(() => inbox().dataset.url, (page) => (hasInbox() ? swap(page) : place(page)), askForShownRows);

/** Return whether the inbox is in the document: the page of a conversation has none until a wide window fetches it. */
export const hasInbox = () => Boolean(inbox()?.firstElementChild);

/** Return whether conversations open beside the inbox. */
export const opensBeside = () => hasInbox() && WIDE.matches;

/** Refresh the inbox. Before a wide window has one, fetch it again: the one that is on its way may be older. */
export function refreshInbox(interval = 0) {
  if (hasInbox() || (inbox() && WIDE.matches)) fetchInbox(interval);
}

export function startDesk() {
  if (role !== "admin" || !desk) return;
  // A reload must not show the notice about deleted conversations again.
  if (new URLSearchParams(location.search).has("deleted")) history.replaceState(null, "", location.pathname);
  desk.addEventListener("click", follow);
  desk.addEventListener("click", ({ target }) => target.id === "new-rows" && showInbox(inbox().dataset.url, null));
  desk.addEventListener("submit", search);
  addEventListener("popstate", followHistory);
  WIDE.addEventListener("change", addInbox);
  onRefresh(markRow);
  addInbox();
}

/** Note an event about a conversation that may be on its way to the screen. */
export function noteEvent({ conversation_id: id }) {
  if (arriving?.id === id) noteMissed();
}

/** Note that the conversation on its way to the screen may be older than what has happened. */
export function noteMissed() {
  if (arriving) arriving.stale = true;
}

/**
 * Open a conversation beside the inbox. With `peek` it is only shown: it counts as opened by a click in it, by typing,
 * and with `dwells` after a while. `enter` is the method of `history` that changes the address, or null.
 */
export async function open(href, { peek = false, dwells = true, enter = "pushState" } = {}) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  const url = new URL(href, location);
  if (!peek && threadIdOf(url) === thread?.dataset.thread && "peek" in thread.dataset) return countAsOpened();
  const fetched = new URL(url);
  if (peek) fetched.searchParams.set("peek", "true");
  const arrival = { id: threadIdOf(url), stale: false };
  arriving = arrival;
  const page = await fetchPage(fetched, signal).catch(() => undefined);
  if (signal.aborted) return;
  if (page === undefined) return showToast("failed"); // the server is unreachable
  const fresh = page?.querySelector("[data-thread]");
  if (!fresh) return location.assign(url); // the server says why
  arriving = null;
  if (peek && dwells) fresh.dataset.dwells = "";
  if (enter) history[enter](null, "", url);
  thread?.remove();
  desk.append(fresh);
  document.title = page.title;
  document.body.className = page.body.className;
  startThread();
  swap(page);
  if (arrival.stale) refreshThread();
}

/** Count a conversation that was only shown as opened, when its reader turns to it. */
export function startPeeking(thread, closed) {
  if (!("peek" in thread.dataset)) return;
  let timer = null;
  const dwell = () => {
    clearTimeout(timer);
    const isSeen = "dwells" in thread.dataset && !document.hidden && document.hasFocus();
    if (isSeen) timer = setTimeout(() => "dwells" in thread.dataset && countAsOpened(), DWELL);
  };
  for (const type of ["pointerdown", "input"]) thread.addEventListener(type, countAsOpened, { once: true });
  for (const type of ["focus", "blur"]) addEventListener(type, dwell, { signal: closed });
  document.addEventListener("visibilitychange", dwell, { signal: closed });
  closed.addEventListener("abort", () => clearTimeout(timer));
  dwell();
}

function countAsOpened() {
  if (!("peek" in thread.dataset)) return;
  delete thread.dataset.peek;
  thread.dispatchEvent(new Event("chats:opened"));
}

/** Close the conversation that is open beside the inbox. */
export function close() {
  opening.abort();
  thread?.remove();
  startThread();
  document.title = document.title.replace(/^(\([0-9]+\+?\) )?.*( · .*)$/s, `$1${desk.dataset.title}$2`);
  markRow();
}

function follow(event) {
  const link = event.target.closest("a[href]");
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  if (link.origin !== location.origin || !opensBeside()) return;
  if (threadIdOf(link)) openByHand(link.href, { byKey: event.detail === 0 });
  else if (link.pathname === desk.dataset.root) showInbox(link.href);
  else return;
  event.preventDefault();
}

/** Open a conversation; a key leads into it, a click leaves the focus where it is. */
async function openByHand(href, { byKey }) {
  await open(href);
  if (byKey) thread?.querySelector(".MessageHistoryPanel").focus();
}

function search(event) {
  const form = event.target;
  // A form without an address is sent by another script.
  if (event.defaultPrevented || form.method !== "get" || !form.hasAttribute("action") || !opensBeside()) return;
  const url = new URL(form.action);
  if (url.pathname !== desk.dataset.root) return;
  event.preventDefault();
  const typed = [...new FormData(form)].filter(([, value]) => value.trim());
  url.search = new URLSearchParams(typed);
  showInbox(url.href);
}

/** Fetch the inbox that a link leads to, and keep the conversation that is open beside it. */
async function showInbox(href, enter = "pushState") {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const page = await fetchPage(href, signal).catch(() => undefined);
  if (signal.aborted) return;
  if (page === undefined) return showToast("failed");
  if (!place(page)) return location.assign(href);
  if (!enter) return;
  const url = new URL(inbox().dataset.url, location);
  if (thread) url.pathname = location.pathname;
  history[enter](null, "", url);
}

/** In a wide window, fetch the inbox for the page of a conversation. */
function addInbox() {
  if (!hasInbox()) refreshInbox(LIST_INTERVAL);
}

/** Put the inbox of another page into this one; false if that page has none. */
function place(page) {
  const fresh = page?.getElementById("inbox");
  if (!fresh?.firstElementChild) return false;
  const old = inbox();
  const focused = old.contains(document.activeElement) && document.activeElement.id;
  const opened = [...old.querySelectorAll("details[open][id]")].map(({ id }) => id);
  const isSame = fresh.dataset.url === old.dataset.url; // with rows that are new
  const selected = isSame ? [...old.querySelectorAll('[name="ids"]:checked')].map(({ id }) => id) : [];
  old.replaceWith(fresh);
  for (const id of selected) Object.assign(document.getElementById(id) ?? {}, { checked: true });
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  swap(page);
  return true;
}

function followHistory() {
  const id = threadIdOf(location);
  if (!opensBeside() || (!id && location.pathname !== desk.dataset.root)) return location.reload();
  opening.abort(); // what was asked for before
  asking.abort();
  if (!id) close();
  else if (id !== thread?.dataset.thread) open(location.href, { enter: null });
  const url = new URL(desk.dataset.root + location.search, location);
  if (url.href !== new URL(inbox().dataset.url, location).href) showInbox(url.href, null);
}

/** Mark the row of the conversation on the screen. */
function markRow() {
  const row = thread && document.getElementById(`open-${thread.dataset.thread}`);
  for (const link of document.querySelectorAll(".row a[aria-current]")) if (link !== row) link.removeAttribute("aria-current");
  row?.setAttribute("aria-current", "true");
}

function threadIdOf({ pathname }) {
  const { root } = desk.dataset;
  const [, id] = pathname.startsWith(root) ? /^([0-9a-f-]{36})\/$/.exec(pathname.slice(root.length)) ?? [] : [];
  return id ?? null;
}
