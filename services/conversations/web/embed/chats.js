// The API of Customer Chats for the store's user.

const MIN_TOKEN_LIFETIME = 30_000; // ms that a token must be valid for to be used again

export class SignedOut extends Error {}

/** `tokens` is a URL of the store's backend, or a function, that returns a token; null stands for the session's cookie. */
export class Chats {
  #token = null;
  #claims = {};
  #fetched = 0;

  constructor(base, tokens) {
    this.base = base;
    this.tokens = tokens;
  }

  /** Return a name for the user: only tabs of the same user share a number. */
  async name(signal) {
    if (this.tokens !== null) await this.token(signal);
    return `chats-badge ${this.base} ${this.#claims.sub ?? ""} ${this.#claims.role ?? ""}`;
  }

  async unread(signal) {
    const { unread, more } = await (await this.get("/api/v1/unread", signal)).json();
    return { unread, more };
  }

  async get(path, signal) {
    let response = await this.#fetch(path, signal);
    if (response.status === 401) {
      await this.#renew(signal);
      response = await this.#fetch(path, signal);
    }
    if (response.ok) return response;
    if (response.status === 401 && this.tokens !== null) {
      const { reason, detail } = await response.json().catch(() => ({}));
      console.warn(`${this.base} refused the token: ${reason ?? detail}. See docs/embedding.md#tokens.`);
    } else await response.body?.cancel();
    throw response.status === 401 ? new SignedOut() : new Error(`${path} returned ${response.status}`);
  }

  /** Return a token that was fetched at most `maxAge` ms ago. */
  async token(signal, maxAge = Infinity) {
    const isOld = performance.now() - this.#fetched > maxAge || this.#claims.exp * 1000 < Date.now() + MIN_TOKEN_LIFETIME;
    if (this.#token === null || isOld) {
      this.#token = typeof this.tokens === "function" ? await this.tokens() : await this.#ask(signal);
      if (!this.#token) throw new SignedOut();
      this.#fetched = performance.now();
      this.#claims = claimsOf(this.#token);
    }
    return this.#token;
  }

  async #ask(signal) {
    const response = await fetch(this.tokens, { signal, headers: { Accept: "application/json" }, cache: "no-store" });
    if (response.status === 401 || response.status === 403) throw new SignedOut();
    if (!response.ok) throw new Error(`${this.tokens} returned ${response.status}`);
    return (await response.json()).token;
  }

  async #fetch(path, signal) {
    if (this.tokens === null) return fetch(this.base + path, { signal, cache: "no-store" });
    const headers = { Authorization: `Bearer ${await this.token(signal)}` };
    return fetch(this.base + path, { signal, headers, cache: "no-store", credentials: "omit" });
  }

  async #renew(signal) {
    this.#token = null;
    if (this.tokens !== null) return;
    // Loading a page renews the session's cookie; `peek` does not extend the session.
    const page = await fetch(`${this.base}/dashboard/messages/?peek=true`, { signal, redirect: "manual" });
    await page.body?.cancel();
  }
}

function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return {}; // an opaque token is used until it is rejected
  }
}
