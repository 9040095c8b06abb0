// The desk: in wide windows conversations open beside the inbox, which stays where it is. Narrow windows, and the
// browser's own ways to open a link, lead to the page of the conversation.

import { fetchPage, role } from "./api.js";
import { startThread, thread } from "./current-thread.js";
import { onRefresh, refresher, swap } from "./refresh.js";
import { refreshThread } from "./thread.js";

const WIDE = matchMedia("(width >= 75rem)"); // as in the style
const desk = document.querySelector(".desk");
const inbox = () => document.getElementById("inbox");
let opening = new AbortController();
let arriving = null; // { id, stale } of the conversation that is being fetched

/** Refresh the inbox; a page without it has nothing to refresh. */
export const refreshInbox = refresher(() => inbox().dataset.url, swap);

/** Return whether the inbox is in the document: the page of a conversation has none until a wide window fetches it. */
export const hasInbox = () => Boolean(inbox()?.firstElementChild);

/** Return whether conversations open beside the inbox. */
export const opensBeside = () => hasInbox() && WIDE.matches;

export function startDesk() {
  if (role !== "admin" || !desk) return;
  desk.addEventListener("click", follow);
  desk.addEventListener("submit", search);
  addEventListener("popstate", followHistory);
  WIDE.addEventListener("change", fetchInbox);
  onRefresh(markRow);
  fetchInbox();
}

/** Note an event about a conversation that may be on its way to the screen. */
export function noteEvent({ conversation_id: id }) {
  if (arriving?.id === id) arriving.stale = true;
}

/** Open a conversation beside the inbox. `enter` is the method of `history` that changes the address, or null. */
export async function open(href, { peek = false, enter = "pushState" } = {}) {
  opening.abort();
  opening = new AbortController();
  const { signal } = opening;
  const url = new URL(href, location);
  const fetched = new URL(url);
  if (peek) fetched.searchParams.set("peek", "true");
  const arrival = { id: threadIdOf(url), stale: false };
  arriving = arrival;
  const page = await fetchPage(fetched, signal).catch(() => null);
  if (signal.aborted) return;
  const fresh = page?.querySelector("[data-thread]");
  if (!fresh) return location.assign(url); // the server says why
  arriving = null;
  if (enter) history[enter](null, "", url);
  thread?.remove();
  desk.append(fresh);
  document.title = page.title;
  document.body.className = page.body.className;
  startThread();
  swap(page);
  if (arrival.stale) refreshThread();
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
  if (threadIdOf(link)) open(link.href);
  else if (link.pathname === desk.dataset.root) showInbox(link.href);
  else return;
  event.preventDefault();
}

function search(event) {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "get" || !opensBeside()) return;
  const url = new URL(form.action);
  if (url.pathname !== desk.dataset.root) return;
  event.preventDefault();
  const typed = [...new FormData(form)].filter(([, value]) => value.trim());
  url.search = new URLSearchParams(typed);
  showInbox(url.href);
}

/** Fetch the inbox that a link leads to, and keep the conversation that is open beside it. */
async function showInbox(href, enter = "pushState") {
  const page = await fetchPage(href).catch(() => null);
  if (!place(page)) return location.assign(href);
  if (!enter) return;
  const url = new URL(inbox().dataset.url, location);
  if (thread) url.pathname = location.pathname;
  history[enter](null, "", url);
}

/** In a wide window, fetch the inbox for the page of a conversation. */
async function fetchInbox() {
  if (!WIDE.matches || hasInbox()) return;
  place(await fetchPage(inbox().dataset.url).catch(() => null));
}

/** Put the inbox of another page into this one; false if that page has none. */
function place(page) {
  const fresh = page?.getElementById("inbox");
  if (!fresh?.firstElementChild) return false;
  const old = inbox();
  const focused = old.contains(document.activeElement) && document.activeElement.id;
  const opened = [...old.querySelectorAll("details[open][id]")].map(({ id }) => id);
  old.replaceWith(fresh);
  for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  swap(page);
  return true;
}

function followHistory() {
  const id = threadIdOf(location);
  if (!opensBeside() || (!id && location.pathname !== desk.dataset.root)) return location.reload();
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
