// The page brings itself up to date: it is fetched again, and its live regions that differ are swapped. What the
// server makes is the only markup there is.

import { fetchPage, person } from "./api.js";

const AWAY = 3_000; // ms until what could not be fetched is tried again
const swapped = new Set();
let running = null;
let again = false;
let quietUntil = 0;

/** Be called with the new document behind each refresh. */
export function onRefresh(callback) {
  swapped.add(callback);
}

/** Bring the page up to date, at most once every `pace` ms; a hidden one when it is looked at again. */
export function refresh(pace = 0) {
  if (document.hidden) {
    again = true;
    return Promise.resolve();
  }
  if (running) {
    again = true;
    return running;
  }
  running = run(pace).finally(() => {
    running = null;
    if (again && !document.hidden) {
      again = false;
      refresh(pace);
    }
  });
  return running;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && again) {
    again = false;
    refresh();
  }
});

async function run(pace) {
  const wait = quietUntil - performance.now();
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
  again = false; // what has happened up to here is in what is fetched now
  const url = new URL(location.href);
  url.searchParams.set("peek", "true");
  url.hash = "";
  let page = null;
  try {
    page = await fetchPage(url);
  } catch {
    // No event will tell of this one again.
    again = true;
    quietUntil = performance.now() + AWAY * (0.75 + Math.random() / 2);
    return;
  }
  // Not all at once: many may have heard of the same event.
  quietUntil = performance.now() + pace * (0.75 + Math.random() / 2);
  if (page) swap(page);
}

/** Take over from `page` what differs. */
export function swap(page) {
  // Somebody else has signed in at this browser: nothing of theirs belongs among what stands here.
  if (page.querySelector('meta[name="chats-person"]')?.content !== person) return location.reload();
  for (const region of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(region.id);
    if (!fresh) continue;
    if (region.dataset.live === "list") merge(region, fresh);
    else if (region.dataset.live === "value") region.value = fresh.value;
    else if (!region.isEqualNode(fresh)) replace(region, fresh);
  }
  for (const callback of swapped) callback(page);
}

/** Replace a region, keeping what its reader has selected and focused. */
function replace(region, fresh) {
  const checked = [...region.querySelectorAll(":checked[id]")].map((box) => box.id);
  const focused = region.contains(document.activeElement) && document.activeElement.id;
  region.replaceWith(fresh);
  for (const id of checked) {
    const box = document.getElementById(id);
    if (box) box.checked = true;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** Bring a list up to date item by item; those marked `data-keep`, and those above what was fetched, stay. */
function merge(list, fresh) {
  // More came than a page holds: what lies between is on neither.
  if (isApart(list, fresh)) return location.reload();
  for (const empty of list.querySelectorAll(":scope > .empty")) empty.remove();
  let before = null;
  for (const item of [...fresh.children]) {
    const old = document.getElementById(item.id);
    if (!old) {
      if (before) before.after(item);
      else list.insertBefore(item, list.querySelector(":scope > .pending"));
      item.classList.add("arrived");
      before = item;
    } else if (!("keep" in old.dataset)) {
      // What is kept stays where it was: what is new must not follow it there.
      if (!old.isEqualNode(item)) old.replaceWith(item);
      before = document.getElementById(item.id);
    }
  }
}

function isApart(list, fresh) {
  const numbered = (where) => [...where.querySelectorAll(":scope > [data-number]")];
  const shown = new Set(numbered(list).map((item) => item.id));
  return shown.size > 0 && !numbered(fresh).some((item) => shown.has(item.id));
}
