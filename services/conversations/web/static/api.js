// Calls of the product's own APIs by the session's cookie.

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

export const person = meta("chats-person");
export const role = meta("chats-role");
export const position = meta("chats-position");

/** Call an API. Without a live session any more, renew it and try once again. Rejects when nobody answers. */
export async function call(method, path, { body, key } = {}) {
  const send = () =>
    fetch(path, {
      method,
      body: body && JSON.stringify(body),
      headers: {
        "X-CSRF-Token": meta("csrf-token"),
        ...(body && { "Content-Type": "application/json" }),
        ...(key && { "Idempotency-Key": key }),
      },
    });
  const response = await send();
  return response.status === 401 && (await renew()) ? send() : response;
}

/** Fetch one of our own pages; null when there is none: the session is over, or what it shows gone. Rejects as `call`. */
export async function fetchPage(url) {
  const response = await fetch(url, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (response.status === 429 || response.status >= 500) throw new Error(`answered ${response.status}`);
  if (!response.ok) return null; // a redirect is not followed, and not ok either
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

/** Get a fresh token for the session; false when the session is over. Rejects when nobody who knows answers. */
export async function renew() {
  const response = await fetch("/session/renew", {
    method: "POST",
    headers: { "X-CSRF-Token": meta("csrf-token") },
  });
  if (response.ok) return true;
  if (response.status === 401 || response.status === 403) return false;
  throw new Error(`not renewed: ${response.status}`); // a proxy before a service that is away says so, too
}

/** Make a key that nobody else makes; `crypto.randomUUID` is there under https only. */
export function newKey() {
  const hex = (byte) => byte.toString(16).padStart(2, "0");
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join("");
}
