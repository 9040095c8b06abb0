// The buttons that send a failed email again, and emails to a suppressed address. Emails belong to the other service, so
// they need scripts.

import { call } from "./api.js";

export function startEmailRetry(thread, closed) {
  thread.addEventListener("click", retry, { signal: closed });
  thread.addEventListener("click", unsuppress, { signal: closed });
}

async function retry({ target }) {
  const button = target.closest("[data-retry-email]");
  if (!button) return;
  button.disabled = true; // until an event tells what became of it
  const path = `/api/v1/notifications/emails/${button.dataset.retryEmail}/retry`;
  const response = await call("POST", path).catch(() => null);
  if (!response?.ok) button.disabled = false;
}

async function unsuppress({ target }) {
  const button = target.closest("[data-unsuppress]");
  if (!button) return;
  button.disabled = true;
  const path = "/api/v1/notifications/emails/suppressed";
  const remove = async ({ id }) => (await call("DELETE", `${path}/${id}`)).ok;
  try {
    const response = await call("GET", `${path}?user_id=${encodeURIComponent(button.dataset.unsuppress)}`);
    const done = response.ok && (await Promise.all((await response.json()).items.map(remove))).every(Boolean);
    if (done) document.getElementById("no-email").hidden = true; // until the page is next fetched, which knows it by then
    else button.disabled = false;
  } catch {
    button.disabled = false;
  }
}
