// Refreshes the page: fetches it again and replaces the live regions that differ. Only the server renders markup.

import { fetchPage, person } from "./api.js";
import { isHidden } from "./frame.js";
import { updateRows } from "./inbox-rows.js";
import { replace, replaceItem } from "./replace.js";

const RETRY_DELAY = 3_000; // ms after a failed fetch
const LONGEST_PRESS = 3_000; // ms; what is held longer, as by a hand that selects text, does not keep the page old
const callbacks = new Set();

/** Refresh the page, at most once every `interval` ms; a hidden page is refreshed when it becomes visible. */
export const refresh = refresher(() => location.href, swap);

/** Call `callback` with the new document after each refresh, until the signal `closed` is aborted. */
export function onRefresh(callback, closed) {
  callbacks.add(callback);
  closed?.addEventListener("abort", () => callbacks.delete(callback));
}

/**
 * Return a function that refreshes what `locate()` has the URL of: it fetches it again, and calls `apply` with it. For
 * events, it does so once every `interval` ms; without an interval, for what the reader did, at once.
 * `prepare` may add parameters to the URL.
 */
export function refresher(locate, apply, prepare = () => {}) {
  let running = null;
  let again = false;
  let quietUntil = 0;
  let retryAt = 0;
  let wake = () => {};

  function refresh(interval = 0) {
    if (isHidden()) {
      again = true;
      return Promise.resolve();
    }
    if (running) {
      again = true;
      if (!interval) wake();
      return running;
    }
    running = run(interval).finally(() => {
      running = null;
      if (again && !isHidden()) {
        again = false;
        refresh(interval);
      }
    });
    return running;
  }

  async function run(interval) {
    const wait = Math.max(interval ? quietUntil : 0, retryAt) - performance.now();
    if (wait > 0) {
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, wait);
      });
    }
    again = false; // the fetch includes all changes up to now
    const located = locate();
    const url = new URL(located, location);
    url.searchParams.set("peek", "true");
    prepare(url);
    url.hash = "";
    let page = null;
    try {
      page = await fetchPage(url);
    } catch {
      // The event that caused this refresh does not come again.
      again = true;
      retryAt = performance.now() + RETRY_DELAY * (0.75 + Math.random() / 2);
      return;
    }
    await releaseOf("[data-live] :active");
    // Random, because many pages get the same event.
    quietUntil = performance.now() + interval * (0.75 + Math.random() / 2);
    if (locate() !== located) again = true;
    else if (page) apply(page);
  }

  document.addEventListener("visibilitychange", () => {
    if (again && !isHidden()) {
      again = false;
      refresh();
    }
  });
  return refresh;
}

/** Resolve when what this selector finds, if anything, is released: a click needs its button until it ends. */
export async function releaseOf(pressed) {
  if (!document.querySelector(pressed)) return;
  await new Promise((resolve) => {
    for (const type of ["pointerup", "pointercancel", "keyup"]) addEventListener(type, resolve, { once: true });
    setTimeout(resolve, LONGEST_PRESS);
  });
  await new Promise((resolve) => setTimeout(resolve)); // the click comes after the release
}

/** Replace the live regions that differ in `page`. */
export function swap(page) {
  // Another user has signed in in this browser: do not mix their data with this page.
  if (page.querySelector('meta[name="chats-person"]')?.content !== person) return location.reload();
  if (!moveTo(page.documentElement.dataset.zone, page)) return location.reload();
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (!fresh) continue;
    if (region.dataset.live === "list") mergeInPlace(region, fresh);
    else if (region.dataset.live === "rows") updateRows(region, fresh);
    else if (region.dataset.live === "value") region.value = fresh.value;
    else if (!region.isEqualNode(fresh)) replace(region, fresh);
  }
  for (const callback of callbacks) callback(page);
}

/** Take over the time zone of `page`; false if parts that are not replaced would keep their times. */
function moveTo(zone, page) {
  const { dataset } = document.documentElement;
  if (dataset.zone === zone) return true;
  const [first] = document.querySelectorAll(".messages > [data-number]");
  if ((first && !page.getElementById(first.id)) || document.getElementById("order_id")) return false;
  dataset.zone = zone;
  for (const day of document.querySelectorAll(".messages > .day")) day.remove(); // `page` has those of its zone
  return true;
}

/** Update the messages; those on the screen stay where they are, unless the end is visible. */
function mergeInPlace(list, fresh) {
  const panel = list.closest(".MessageHistoryPanel");
  const top = panel.getBoundingClientRect().top;
  const isAtEnd = panel.scrollTop > -1;
  const anchor = [...list.querySelectorAll(":scope > [data-number]")].find((item) => item.getBoundingClientRect().bottom > top);
  const before = anchor?.getBoundingClientRect().top;
  merge(list, fresh);
  const kept = anchor && document.getElementById(anchor.id);
  if (kept && !isAtEnd) panel.scrollTop += kept.getBoundingClientRect().top - before;
}

/** Update a list item by item. Items with `data-keep`, and those before the fetched ones, stay. */
function merge(list, fresh) {
  // More new messages than a page has: those between are on neither page.
  if (hasGap(list, fresh)) return location.reload();
  for (const empty of list.querySelectorAll(":scope > .empty")) empty.remove();
  const start = startOf(list, fresh);
  let before = null;
  for (const item of [...fresh.children]) {
    const old = document.getElementById(item.id);
    if (!old) {
      if (before) before.after(item);
      else list.insertBefore(item, start);
      item.classList.add("arrived");
      before = item;
    } else if (!("keep" in old.dataset)) {
      // Kept items stay in place, and new items are not inserted after them.
      if (!old.isEqualNode(item)) replaceItem(old, item);
      before = document.getElementById(item.id);
    }
  }
}

/** Return the item before which new first items belong. */
function startOf(list, fresh) {
  const known = [...fresh.children].find((item) => document.getElementById(item.id));
  if (!known) return list.querySelector(":scope > .pending");
  let start = document.getElementById(known.id);
  while (start.previousElementSibling?.matches("[data-keep]")) start = start.previousElementSibling;
  return start;
}

function hasGap(list, fresh) {
  const numbered = (where) => [...where.querySelectorAll(":scope > [data-number]")];
  const shown = new Set(numbered(list).map((item) => item.id));
  return shown.size > 0 && !numbered(fresh).some((item) => shown.has(item.id));
}
