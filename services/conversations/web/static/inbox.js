// The admins' keyboard shortcuts, and changes of a conversation without leaving it.

import { call, role } from "./api.js";
import { onThread, thread } from "./current-thread.js";
import { hasInbox, refreshInbox } from "./desk.js";
import { startPeopleSearch } from "./people-search.js";
import { startSelection } from "./selection.js";
import { refreshThread } from "./thread.js";

const SHORTCUTS_OFF = "chats:keys-off"; // in localStorage; speech input would trigger single-key shortcuts
const byId = (id) => document.getElementById(id);

export function startInbox() {
  if (role !== "admin") return;
  // A reload must not show the notice about deleted conversations again.
  if (new URLSearchParams(location.search).has("deleted")) history.replaceState(null, "", location.pathname);
  startKeys();
  onThread((shown) => shown.querySelector("form[data-sets-status]")?.addEventListener("submit", setStatus));
  startSelection();
  startPeopleSearch();
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
    u: () => (focusedRow() ? markUnread(focusedRow()) : byId("mark-unread")?.requestSubmit()),
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
  const row = focusedRow();
  const target = row ?? (thread && byId("status"));
  if (!target || target.querySelector(".status.resolved, .status.closed")) return;
  const newest = row ? row.dataset.newest : byId("seen_number")?.value;
  if (newest === undefined) return; // the page shows earlier messages
  const id = row ? idOf(row) : thread.dataset.thread;
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
  refreshThread();
  if (hasInbox()) refreshInbox();
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
