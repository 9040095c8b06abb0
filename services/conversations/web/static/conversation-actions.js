// What an admin does to a conversation from the keyboard or its header, without leaving it.

import { call } from "./api.js";
import { thread } from "./current-thread.js";
import { opensBeside, refreshInbox } from "./desk.js";
import { load } from "./tab-storage.js";
import { refreshThread } from "./thread.js";
import { showToast, statusName } from "./toast.js";

const REASONS = { "newer-messages": "crossed", "rate-limited": "often" }; // texts of the notice, by code
const byId = (id) => document.getElementById(id);

/** Let the forms in the conversation's header act without leaving the page. */
export function startHeader(shown) {
  shown.querySelector("form[data-sets-status]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const menu = event.target.closest("details");
    menu.open = false;
    menu.querySelector("summary").focus();
    setStatus(targetOf(shown), event.submitter.value);
  });
  shown.querySelector("#mark-unread")?.addEventListener("submit", (event) => {
    if (!opensBeside()) return; // the list is another page
    event.preventDefault();
    markUnread(targetOf(shown));
  });
}

/** Return what an action needs to know of the conversation of a row, or of the one on the screen; null if it cannot act. */
export function targetOf(element) {
  if (element.matches(".row")) {
    if (!element.dataset.newest) return null; // another list has this class
    const { status, newest } = element.dataset;
    return { id: element.id.slice(2), subject: element.querySelector("h2 a")?.textContent, status, seen: Number(newest) };
  }
  const { status } = byId("status").dataset;
  const seen = byId("status-seen-number")?.value;
  if (seen === undefined) return null; // the page shows earlier messages
  return { id: element.dataset.thread, subject: element.querySelector("h1").textContent, status, seen: Number(seen) };
}

/** Set a status; its toast undoes it, unless there are newer messages or the status has changed by then. */
export async function setStatus({ id, subject, status: before, seen }, status) {
  const conversation = await change("PATCH", id, { status, seen_number: seen });
  if (!conversation || before === status) return;
  const undo = async () => {
    const body = { status: before, expected_status: status, seen_number: conversation.message_count };
    const response = await send("PATCH", id, body);
    if (response?.ok) showToast("undone", { subject, status: statusName(before) });
    else showToast("notUndone", { subject });
  };
  showToast("status", { subject, status: statusName(status) }, undo);
}

export async function markUnread({ id, subject }) {
  if (id === thread?.dataset.thread) {
    thread.dataset.peek = "";
    delete thread.dataset.dwells;
  }
  if (await change("POST", `${id}/unread`)) showToast("unread", { subject });
}

/** Resolve a conversation, and then call `go`. With a draft, ask first: it would not be sent. */
export function resolve(target, go) {
  if (["RESOLVED", "CLOSED"].includes(target.status)) return;
  const act = () => {
    setStatus(target, "RESOLVED");
    go();
  };
  if (!hasDraft(target.id)) return act();
  const dialog = byId("resolve-draft");
  // Once it is closed: until then nothing else can have the focus.
  dialog.querySelector("[value=yes]").onclick = () => dialog.addEventListener("close", act, { once: true });
  dialog.showModal();
}

/** Hide the error at the next action. */
export function hideError() {
  byId("key-refused")?.setAttribute("hidden", "");
}

function hasDraft(id) {
  const written = id === thread?.dataset.thread ? byId("reply_body")?.value : load(`draft:${id}`)?.reply_body;
  return Boolean(written?.trim());
}

/** Change a conversation; return the answer, or show an error and return null. */
async function change(method, path, body) {
  const response = await send(method, path, body);
  if (response?.ok) return response.status === 204 ? {} : response.json();
  const { code } = (await response?.json().catch(() => null)) ?? {};
  const notice = byId("key-refused");
  notice.textContent = notice.dataset[REASONS[code] ?? "failed"];
  notice.hidden = false;
  return null;
}

async function send(method, path, body) {
  const response = await call(method, `/api/v1/admin/conversations/${path}`, { body }).catch(() => null);
  refreshThread();
  refreshInbox();
  return response;
}
