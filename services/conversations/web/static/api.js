// Calls of the APIs with the session's cookie.

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

export const person = meta("chats-person");
export const role = meta("chats-role");
export const position = meta("chats-position");
export const calls = meta("chats-calls"); // what the paths of the APIs start with, in the frame in a store's page

/** Call an API; after a 401, renew the session's cookie and retry once. Rejects when the server is unreachable. */
export async function call(method, path, { body, key } = {}) {
  const send = () =>
    fetch(calls + path, {
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

/** Fetch one of our pages; null when the session has ended or the page is gone. Rejects like `call`. */
export async function fetchPage(url, signal) {
  const response = await fetch(url, { headers: { Accept: "text/html" }, redirect: "manual", signal });
  if (response.status === 429 || response.status >= 500) throw new Error(`answered ${response.status}`);
  if (!response.ok) return null; // redirects are not followed, and not ok
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

/** Renew the session's cookie; false when the session has ended. Rejects when the service is unavailable. */
export async function renew() {
  const response = await fetch(`${calls}/session/renew`, {
    method: "POST",
    headers: { "X-CSRF-Token": meta("csrf-token") },
  });
  if (response.ok) return true;
  if (response.status === 401 || response.status === 403) return false;
  throw new Error(`not renewed: ${response.status}`); // such as a proxy's 502
}

/** Return a unique key. `crypto.randomUUID` is available with https only. */
export function newKey() {
  const hex = (byte) => byte.toString(16).padStart(2, "0");
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), hex).join("");
}
