// The admins' inbox: keys, choosing many, finding a customer, and who else is looking.

import { call, role } from "./api.js";
import { fill } from "./announce.js";
import { onRefresh, refresh } from "./refresh.js";
import { refreshThread } from "./thread.js";

const LOOKING_EVERY = 15_000; // ms; the server forgets who has not said so for 30 s
const TYPING = 150; // ms without a key before a search
const OFF = "chats:keys-off"; // where the browser keeps that single letters do nothing: who dictates says many
const thread = document.querySelector("[data-thread]");
const byId = (id) => document.getElementById(id);

export function startInbox() {
  if (role !== "admin") return;
  // What was deleted is told of once, and not again when the page is loaded anew.
  if (new URLSearchParams(location.search).has("deleted")) history.replaceState(null, "", location.pathname);
  startKeys();
  document.querySelector("form[data-sets-status]")?.addEventListener("submit", setStatus);
  for (const box of document.querySelectorAll("[data-selects]")) startSelection(box);
  for (const input of document.querySelectorAll("input[data-people]")) startSearch(input);
  if (thread && byId("viewing")) startLooking();
}

function startKeys() {
  const dialog = byId("shortcuts");
  const button = byId("shortcuts-button");
  if (dialog && button) {
    button.hidden = false;
    button.addEventListener("click", () => dialog.showModal());
    startSwitch(byId("single-keys"));
  }
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    r: () => byId("reply_body")?.focus(),
    e: resolve,
    u: () => (thread ? byId("mark-unread")?.requestSubmit() : giveBack(focusedRow())),
    "/": () => byId("filter-search")?.focus(),
    "?": () => dialog?.showModal(),
  };
  document.addEventListener("pointerdown", hideRefusal);
  document.addEventListener("keydown", (event) => {
    hideRefusal();
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const act = keys[event.key.toLowerCase()];
    if (!act || areOff()) return;
    event.preventDefault();
    act();
  });
}

/** Let keys that are one letter be turned off, and the hint at them with them. */
function startSwitch(box) {
  const show = () => {
    box.checked = !areOff();
    byId("keys-hint")?.toggleAttribute("hidden", areOff());
  };
  box.addEventListener("change", () => {
    try {
      box.checked ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "true");
    } catch {
      // A browser that keeps nothing leaves them on.
    }
    show();
  });
  addEventListener("storage", show); // another tab's switch
  show();
}

function areOff() {
  try {
    return localStorage.getItem(OFF) !== null;
  } catch {
    return false;
  }
}

const focusedRow = () => document.activeElement?.closest(".row");

function step(by) {
  const rows = [...document.querySelectorAll(".rows .row")];
  const at = rows.indexOf(focusedRow());
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[next]?.querySelector(".subject a").focus();
}

/** Resolve what is open, and nothing else: what stands in the form is sent by its buttons only. */
function resolve() {
  const shown = thread ? byId("status") : focusedRow();
  if (!shown || shown.querySelector(".status.resolved, .status.closed")) return;
  const newest = thread ? byId("seen_number")?.value : shown.dataset.newest;
  if (newest === undefined) return; // these are earlier messages
  const id = thread ? thread.dataset.thread : idOf(shown);
  change("PATCH", id, { status: "RESOLVED", seen_number: Number(newest) });
}

/** Set the status that was chosen in the head of a conversation, without leaving the page: a reply may be half written. */
function setStatus(event) {
  event.preventDefault();
  const chosen = new FormData(event.target, event.submitter);
  const menu = event.target.closest("details");
  menu.open = false;
  menu.querySelector("summary").focus();
  change("PATCH", thread.dataset.thread, { status: chosen.get("status"), seen_number: Number(chosen.get("seen_number")) });
}

function giveBack(row) {
  if (row) change("POST", `${idOf(row)}/unread`);
}

const idOf = (row) => row.id.slice(2);

/** Change a conversation, show what has become of it, and say so when it was refused. */
async function change(method, path, body) {
  const response = await call(method, `/api/v1/admin/conversations/${path}`, { body }).catch(() => null);
  thread ? refreshThread() : refresh();
  if (response?.ok) return;
  const { code } = (await response?.json().catch(() => null)) ?? {};
  const notice = byId("key-refused");
  notice.textContent = notice.dataset[{ "newer-messages": "crossed", "rate-limited": "often" }[code] ?? "failed"];
  notice.hidden = false;
}

/** Take away what was refused: it is told until something else is done. */
function hideRefusal() {
  byId("key-refused")?.setAttribute("hidden", "");
}

/** A box that ticks all others of its form. */
function startSelection(box) {
  const form = byId(box.dataset.selects);
  const button = form.querySelector("button");
  const others = () => [...document.querySelectorAll(`input[name="ids"][form="${form.id}"], #${form.id} input[name="ids"]`)];
  box.closest("[hidden]")?.removeAttribute("hidden");
  box.addEventListener("change", () => {
    for (const other of others()) other.checked = box.checked;
    tell();
  });
  const tell = () => {
    const chosen = others().filter((other) => other.checked).length;
    box.checked = chosen > 0 && chosen === others().length;
    box.indeterminate = chosen > 0 && !box.checked;
    const count = byId("selected");
    if (count) count.textContent = chosen ? fill(count.dataset.words, { count: chosen }) : "";
    button.disabled = !chosen;
  };
  document.addEventListener("change", (event) => event.target.name === "ids" && tell());
  onRefresh(tell); // a row that has gone is chosen no more
  tell();
}

/** Offer the customers that match what is typed. */
function startSearch(input) {
  const list = input.list;
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    const q = input.value.trim();
    if (q) timer = setTimeout(() => offer(q), TYPING);
  });
  const offer = async (q) => {
    const response = await call("GET", `/api/v1/admin/users?limit=10&q=${encodeURIComponent(q)}`).catch(() => null);
    if (!response?.ok || input.value.trim() !== q) return;
    const { items } = await response.json();
    list.replaceChildren(...items.map(({ id, name, email }) => new Option([name, email].filter(Boolean).join(" · "), id)));
  };
}

function startLooking() {
  const path = `/api/v1/admin/conversations/${thread.dataset.thread}/viewing`;
  const line = byId("viewing");
  const look = async () => {
    if (document.hidden) return;
    const response = await call("POST", path, { body: {} }).catch(() => null);
    if (!response?.ok) return;
    const names = (await response.json()).others.map((other) => other.name);
    const words = names.length > 1 ? line.dataset.several : line.dataset.one;
    line.hidden = !names.length;
    line.textContent = names.length ? fill(words, { names: names.join(", ") }) : "";
  };
  const leave = () => {
    fetch(path, {
      method: "POST",
      keepalive: true, // the page is going
      body: JSON.stringify({ gone: true }),
      headers: {
        "Content-Type": "application/json",
        "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]').content,
      },
    }).catch(() => null);
  };
  look();
  setInterval(look, LOOKING_EVERY);
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : look()));
  addEventListener("pagehide", leave);
}
