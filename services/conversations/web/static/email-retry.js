// The button that sends a failed email again. Emails belong to the other service, so it needs scripts.

import { call } from "./api.js";

export function startEmailRetry(thread, closed) {
  thread.addEventListener("click", retry, { signal: closed });
}

async function retry({ target }) {
  const button = target.closest("[data-retry-email]");
  if (!button) return;
  button.disabled = true; // until an event tells what became of it
  const path = `/api/v1/notifications/emails/${button.dataset.retryEmail}/retry`;
  const response = await call("POST", path).catch(() => null);
  if (!response?.ok) button.disabled = false;
}
