// Emails to a conversation that are held. They belong to the other service, so it needs scripts to say more of them.

import { call } from "./api.js";
import { onRefresh } from "./refresh.js";

const API = "/api/v1/notifications/inbound";
const notices = () => document.querySelectorAll("[data-held]");
const words = () => document.getElementById("held-words").dataset;

export function startHeldEmails(thread, closed) {
  if (thread.dataset.side !== "admin") return;
  thread.addEventListener("click", act, { signal: closed });
  onRefresh(() => explain(thread), closed);
  explain(thread);
}

/** Say of each who it says it is from, and why it is held. */
async function explain(thread) {
  if ([...notices()].every((notice) => notice.querySelector("[data-why]").textContent)) return;
  const response = await call("GET", `${API}?conversation_id=${thread.dataset.thread}&state=held&limit=100`).catch(() => null);
  if (!response?.ok) return;
  const emails = new Map((await response.json()).items.map((email) => [email.id, email]));
  for (const notice of notices()) {
    const email = emails.get(notice.dataset.held);
    const why = email && words()[email.reason?.replace(/-./g, (letters) => letters[1].toUpperCase())];
    notice.querySelector("[data-why]").textContent = [email?.from_address, why].filter(Boolean).join(": ");
  }
}

async function act({ target }) {
  const button = target.closest("[data-post-held], [data-discard-held]");
  if (!button) return;
  const notice = button.closest("[data-held]");
  for (const other of notice.querySelectorAll("button")) other.disabled = true; // until an event tells what became of it
  const response = await call("POST", `${API}/${notice.dataset.held}/${"postHeld" in button.dataset ? "post" : "discard"}`).catch(() => null);
  if (response?.ok) return;
  for (const other of notice.querySelectorAll("button")) other.disabled = false;
}
