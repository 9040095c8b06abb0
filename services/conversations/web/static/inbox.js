// The admins' inbox: keyboard shortcuts, bulk selection, customer search, and other viewers of a conversation.

import { call, role } from "./api.js";
import { fill } from "./announce.js";
import { onRefresh, refresh } from "./refresh.js";
import { refreshThread } from "./thread.js";

const VIEWING_INTERVAL = 15_000; // ms; the server forgets viewers after 30 s
const SEARCH_DELAY = 150; // ms after the last key
const SHORTCUTS_OFF = "chats:keys-off"; // in localStorage; speech input would trigger single-key shortcuts
const thread = document.querySelector("[data-thread]");
const byId = (id) => document.getElementById(id);

export function startInbox() {
  if (role !== "admin") return;
  // A reload must not show the notice about deleted conversations again.
  if (new URLSearchParams(location.search).has("deleted")) history.replaceState(null, "", location.pathname);
  startKeys();
  document.querySelector("form[data-sets-status]")?.addEventListener("submit", setStatus);
  for (const box of document.querySelectorAll("[data-selects]")) startSelection(box);
  for (const input of document.querySelectorAll("input[data-people]")) startSearch(input);
  if (thread && byId("viewing")) startViewing();
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
    u: () => (thread ? byId("mark-unread")?.requestSubmit() : markUnread(focusedRow())),
    "/": () => byId("filter-search")?.focus(),
    "?": () => dialog?.showModal(),
  };
  document.addEventListener("pointerdown", hideError);
  document.addEventListener("keydown", (event) => {
    hideError();
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const action = keys[event.key.toLowerCase()];
    if (!action || areShortcutsOff()) return;
    event.preventDefault();
    action();
  });
}

/** The checkbox that turns single-key shortcuts and their hint off. */
function startSwitch(box) {
  const show = () => {
    box.checked = !areShortcutsOff();
    byId("keys-hint")?.toggleAttribute("hidden", areShortcutsOff());
  };
  box.addEventListener("change", () => {
    try {
      box.checked ? localStorage.removeItem(SHORTCUTS_OFF) : localStorage.setItem(SHORTCUTS_OFF, "true");
    } catch {
      // Without storage they stay on.
    }
    show();
  });
  addEventListener("storage", show); // changed in another tab
  show();
}

function areShortcutsOff() {
  try {
    return localStorage.getItem(SHORTCUTS_OFF) !== null;
  } catch {
    return false;
  }
}

const focusedRow = () => document.activeElement?.closest(".row");

function step(offset) {
  const rows = [...document.querySelectorAll(".rows .row")];
  const current = rows.indexOf(focusedRow());
  const next = current < 0 ? (offset > 0 ? 0 : rows.length - 1) : Math.min(Math.max(current + offset, 0), rows.length - 1);
  rows[next]?.querySelector(".subject a").focus();
}

/** Resolve the open or focused conversation. The reply form is not sent. */
function resolve() {
  const target = thread ? byId("status") : focusedRow();
  if (!target || target.querySelector(".status.resolved, .status.closed")) return;
  const newest = thread ? byId("seen_number")?.value : target.dataset.newest;
  if (newest === undefined) return; // the page shows earlier messages
  const id = thread ? thread.dataset.thread : idOf(target);
  change("PATCH", id, { status: "RESOLVED", seen_number: Number(newest) });
}

/** Set the status chosen in the header, without leaving the page: a reply may be half written. */
function setStatus(event) {
  event.preventDefault();
  const chosen = new FormData(event.target, event.submitter);
  const menu = event.target.closest("details");
  menu.open = false;
  menu.querySelector("summary").focus();
  change("PATCH", thread.dataset.thread, { status: chosen.get("status"), seen_number: Number(chosen.get("seen_number")) });
}

function markUnread(row) {
  if (row) change("POST", `${idOf(row)}/unread`);
}

const idOf = (row) => row.id.slice(2);

/** Change a conversation, refresh the page, and show an error if the change was rejected. */
async function change(method, path, body) {
  const response = await call(method, `/api/v1/admin/conversations/${path}`, { body }).catch(() => null);
  thread ? refreshThread() : refresh();
  if (response?.ok) return;
  const { code } = (await response?.json().catch(() => null)) ?? {};
  const notice = byId("key-refused");
  notice.textContent = notice.dataset[{ "newer-messages": "crossed", "rate-limited": "often" }[code] ?? "failed"];
  notice.hidden = false;
}

/** Hide the error at the next action. */
function hideError() {
  byId("key-refused")?.setAttribute("hidden", "");
}

/** A checkbox that selects all others of its form. */
function startSelection(box) {
  const form = byId(box.dataset.selects);
  const button = form.querySelector("button");
  const others = () => [...document.querySelectorAll(`input[name="ids"][form="${form.id}"], #${form.id} input[name="ids"]`)];
  box.closest("[hidden]")?.removeAttribute("hidden");
  box.addEventListener("change", () => {
    for (const other of others()) other.checked = box.checked;
    update();
  });
  const update = () => {
    const chosen = others().filter((other) => other.checked).length;
    box.checked = chosen > 0 && chosen === others().length;
    box.indeterminate = chosen > 0 && !box.checked;
    const count = byId("selected");
    if (count) count.textContent = chosen ? fill(count.dataset.words, { count: chosen }) : "";
    button.disabled = !chosen;
  };
  document.addEventListener("change", (event) => event.target.name === "ids" && update());
  onRefresh(update); // a row may be gone
  update();
}

/** Suggest customers that match the typed text. */
function startSearch(input) {
  const list = input.list;
  let timer = null;
  input.addEventListener("input", () => {
    clearTimeout(timer);
    const q = input.value.trim();
    if (q) timer = setTimeout(() => suggest(q), SEARCH_DELAY);
  });
  const suggest = async (q) => {
    const response = await call("GET", `/api/v1/admin/users?limit=10&q=${encodeURIComponent(q)}`).catch(() => null);
    if (!response?.ok || input.value.trim() !== q) return;
    const { items } = await response.json();
    list.replaceChildren(...items.map(({ id, name, email }) => new Option([name, email].filter(Boolean).join(" · "), id)));
  };
}

function startViewing() {
  const path = `/api/v1/admin/conversations/${thread.dataset.thread}/viewing`;
  const line = byId("viewing");
  const report = async () => {
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
      keepalive: true, // the page is unloading
      body: JSON.stringify({ gone: true }),
      headers: {
        "Content-Type": "application/json",
        "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]').content,
      },
    }).catch(() => null);
  };
  report();
  setInterval(report, VIEWING_INTERVAL);
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : report()));
  addEventListener("pagehide", leave);
}
