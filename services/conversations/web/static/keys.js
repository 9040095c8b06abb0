// The admins' keyboard shortcuts.

import { role } from "./api.js";
import { hideError, markUnread, resolve, targetOf } from "./conversation-actions.js";
import { thread } from "./current-thread.js";
import { open, opensBeside } from "./desk.js";
import { undoLast } from "./toast.js";

const SHORTCUTS_OFF = "chats:keys-off"; // in localStorage; speech input would trigger single-key shortcuts
const byId = (id) => document.getElementById(id);

export function startKeys() {
  if (role !== "admin") return;
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
    e: () => on((target) => resolve(target, goOn)),
    u: () => on(markUnread),
    z: undoLast,
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

/** Return the row with the focus, else that of the conversation beside the inbox. */
function currentRow() {
  const opened = opensBeside() && thread && byId(`c-${thread.dataset.thread}`);
  return document.activeElement?.closest(".row") ?? (opened || null);
}

/** Call `action` for the current conversation. */
function on(action) {
  const element = currentRow() ?? thread;
  const target = element && targetOf(element);
  return target ? action(target) : null;
}

/** Move to a row. Beside the inbox its conversation is shown, which does not count as opened. */
function step(offset, options = {}) {
  const rows = [...document.querySelectorAll(".rows .row:not(.deleted)")];
  const current = rows.indexOf(currentRow());
  const next = current < 0 ? (offset > 0 ? 0 : rows.length - 1) : Math.min(Math.max(current + offset, 0), rows.length - 1);
  if (next === current || !rows[next]) return;
  const link = rows[next].querySelector("h2 a");
  link.focus();
  if (opensBeside()) open(link.href, { peek: true, enter: thread ? "replaceState" : "pushState", ...options });
}

/** Select the next conversation, which does not count as opened by being on the screen. */
function goOn() {
  if (currentRow()) step(1, { dwells: false });
}
