// Emails that are held. They belong to the other service, so it needs scripts to say more of them.

import { call, role } from "./api.js";
import { onRefresh } from "./refresh.js";

const API = "/api/v1/notifications/inbound";
// By the ids of emails: pages are refreshed often.
const contents = new Map();
const refusals = new Map(); // why what the admin decided was refused
const deciding = new Set(); // until an event tells what became of it
const SMALL = 256 * 1024; // bytes of an email whose text is shown

export function startHeldEmails(thread, closed) {
  if (thread.dataset.side !== "admin") return;
  const explainAll = () => explain(thread.querySelector("#held"), `conversation_id=${thread.dataset.thread}`);
  thread.addEventListener("click", act, { signal: closed });
  onRefresh(explainAll, closed);
  explainAll();
}

/** Those that belong to no conversation, in the inbox. */
export function startUnmatched() {
  if (role !== "admin") return;
  const explainAll = () => explain(document.querySelector("[data-unmatched]"), "kind=conversation");
  document.addEventListener("submit", open);
  document.addEventListener("click", (event) => event.target.closest("[data-unmatched]") && act(event));
  onRefresh(explainAll);
  explainAll();
}

/** Say of each who it says it is from, why it is held, and what it says. */
async function explain(region, filter) {
  const notices = [...(region?.querySelectorAll("[data-held]") ?? [])];
  if (notices.every((notice) => notice.querySelector("[data-why]").textContent)) return;
  for (const { dataset } of notices) showDecision(dataset.held);
  const response = await call("GET", `${API}?${filter}&state=held&limit=100`).catch(() => null);
  if (!response?.ok) return;
  const emails = new Map((await response.json()).items.map((email) => [email.id, email]));
  const words = region.querySelector("[data-held-words]")?.dataset ?? {};
  for (const notice of notices) {
    const email = emails.get(notice.dataset.held);
    const reason = email && words[email.reason?.replace(/-./g, (letters) => letters[1].toUpperCase())];
    const why = [email?.from_address, reason].filter(Boolean).join(": ");
    notice.querySelector("[data-why]").textContent = refusals.get(notice.dataset.held) ?? why;
    const post = notice.querySelector("[data-post-held]");
    if (post && email?.kind === "note") post.textContent = words.asNote;
    if (post && email?.kind === "admin-message") post.textContent = words.asAnswer;
    const customer = notice.querySelector("[name=user_id]");
    if (customer && !customer.value) customer.value = email?.user_id ?? "";
    if (email?.original && email.size <= SMALL) await showText(notice, email.id);
  }
}

async function showText(notice, id) {
  if (!contents.has(id)) {
    const response = await call("GET", `${API}/${id}`).catch(() => null);
    if (!response?.ok) return;
    contents.set(id, await response.json());
  }
  const { subject, text, files } = contents.get(id);
  const heading = notice.querySelector("[data-subject]");
  if (heading && subject) heading.textContent = subject;
  const original = notice.querySelector("[data-text]");
  original.textContent = [text, ...files.map(({ name }) => `📎 ${name}`)].filter(Boolean).join("\n");
  original.hidden = !original.textContent;
}

async function open(event) {
  const form = event.target.closest("form[data-post-unmatched]");
  if (!form) return;
  event.preventDefault();
  await decide(form.closest("[data-held]"), "post", { user_id: new FormData(form).get("user_id").trim() });
}

async function act({ target }) {
  const button = target.closest("[data-post-held], [data-discard-held]");
  if (button) await decide(button.closest("[data-held]"), "postHeld" in button.dataset ? "post" : "discard");
}

async function decide({ dataset: { held } }, action, body) {
  if (deciding.has(held)) return; // a second click
  deciding.add(held);
  showDecision(held);
  const response = await call("POST", `${API}/${held}/${action}`, { body }).catch(() => null);
  if (response?.ok) return;
  const problem = await response?.json().catch(() => null);
  deciding.delete(held);
  if (problem?.detail) refusals.set(held, problem.detail);
  showDecision(held);
}

/** Show what became of a decision about an email. A refresh may have replaced its notice meanwhile. */
function showDecision(held) {
  const notice = document.querySelector(`[data-held="${held}"]`);
  if (!notice) return;
  for (const button of notice.querySelectorAll("button")) button.disabled = deciding.has(held);
  if (refusals.has(held)) notice.querySelector("[data-why]").textContent = refusals.get(held);
}
