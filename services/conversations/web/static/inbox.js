// The admins' inbox: keys, choosing many, finding a customer, and who else is looking.

import { call, role } from "./api.js";
import { fill } from "./announce.js";
import { onRefresh, refresh } from "./refresh.js";
import { refreshThread } from "./thread.js";

const LOOKING_EVERY = 15_000; // ms; the server forgets who has not said so for 30 s
const TYPING = 150; // ms without a key before a search
const thread = document.querySelector("[data-thread]");
const byId = (id) => document.getElementById(id);

export function startInbox() {
  if (role !== "admin") return;
  // What was deleted is told of once, and not again when the page is loaded anew.
  if (new URLSearchParams(location.search).has("deleted")) history.replaceState(null, "", location.pathname);
  startKeys();
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
  }
  const keys = {
    j: () => step(1),
    k: () => step(-1),
    r: () => byId("reply_body")?.focus(),
    e: resolve,
    u: () => (thread ? byId("mark-unread")?.requestSubmit() : onRow("POST", "/unread")),
    "/": () => byId("filter-search")?.focus(),
    "?": () => dialog?.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
    if (event.key === "Escape" && typing) return typing.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const act = keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

const focusedRow = () => document.activeElement?.closest(".row");

function step(by) {
  const rows = [...document.querySelectorAll(".rows .row")];
  const at = rows.indexOf(focusedRow());
  const next = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[next]?.querySelector(".subject a").focus();
}

/** Do something to the conversation that the keyboard is on. */
async function onRow(method, suffix, body) {
  const row = focusedRow();
  if (!row) return;
  await call(method, `/api/v1/admin/conversations/${row.id.slice(2)}${suffix}`, { body }).catch(() => null);
  refresh();
}

/** Resolve what is open, and nothing else: what stands in the form is sent by its buttons only. */
async function resolve() {
  const shown = thread ? byId("status") : focusedRow();
  if (!shown || shown.querySelector(".status.resolved, .status.closed")) return;
  if (!thread) return onRow("PATCH", "", { status: "RESOLVED" });
  const body = { status: "RESOLVED", seen_number: Number(byId("seen_number").value) };
  await call("PATCH", `/api/v1/admin/conversations/${thread.dataset.thread}`, { body }).catch(() => null);
  refreshThread();
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
