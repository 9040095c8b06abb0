/*
 * <chats-badge>: the number of unread conversations, for a store's header.
 *
 *   <script type="module" src="https://chats.example/chats-static/badge.js"></script>
 *   <a href="/messages">Messages <chats-badge token-url="/chats-token" label="{count} unread"></chats-badge></a>
 *
 * token-url  a URL of the store's backend that returns a fresh token of the signed-in user, as {"token": "…"}; without
 *            it the badge uses the session cookie, for a store that serves Customer Chats on its own origin
 * href       makes the badge a link to this URL, around its content
 * label      the text for screen readers, with {count} in it
 * base       the origin of Customer Chats; by default the origin of this script
 *
 * Style it with --chats-badge-background, --chats-badge-color and --chats-badge-font, and with ::part(link) and
 * ::part(count). While Customer Chats is unavailable, or nobody is signed in, it shows nothing.
 */

const MIN_RETRY = 1_000; // milliseconds before the second attempt, doubled after each failure …
const MAX_RETRY = 60_000; // … up to this, which is also the polling interval without a stream
const STABLE = 10_000; // a stream that lasted this long counts as a success
const STREAM_TIMEOUT = 60_000; // a stream without data for this long is dead: a comment comes every 25 s
const HIDDEN_TIMEOUT = 5 * 60_000; // a tab that is hidden for this long closes its stream
const MIN_TOKEN_LIFETIME = 30_000; // a token is reused while it is valid for this long

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { position: relative; }
  a { color: inherit; text-decoration: inherit; }
  [part="count"] {
    display: inline-block; box-sizing: border-box;
    min-inline-size: 1.7em; margin-inline-start: .3em; padding-inline: .45em;
    border: 1px solid transparent; border-radius: 1em; text-align: center; white-space: nowrap;
    background: var(--chats-badge-background, #b3261e); color: var(--chats-badge-color, #fff);
    font: var(--chats-badge-font, 700 .75em/1.5 system-ui, sans-serif); font-variant-numeric: tabular-nums;
  }
  [part="count"][hidden] { display: none; }
  #words, #news { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); }
`);

class ChatsBadge extends HTMLElement {
  static observedAttributes = ["href", "label"];

  #link = element("a", { part: "link" });
  #count = element("span", { part: "count", "aria-hidden": "true" });
  #words = element("span", { id: "words" }); // the link's name; a live region cannot name it
  #news = element("span", { id: "news", role: "status" });
  #unread = null;
  #watching = null;
  #hideTimer = 0;

  constructor() {
    super();
    this.#link.append(element("slot"), this.#count);
    this.attachShadow({ mode: "open" }).append(this.#link, this.#words, this.#news);
    this.shadowRoot.adoptedStyleSheets = [STYLE];
    this.#draw();
  }

  connectedCallback() {
    document.addEventListener("visibilitychange", this);
    addEventListener("pagehide", this); // an open stream would keep the page out of the back/forward cache
    addEventListener("pageshow", this);
    this.handleEvent({ type: "connected" });
  }

  disconnectedCallback() {
    document.removeEventListener("visibilitychange", this);
    removeEventListener("pagehide", this);
    removeEventListener("pageshow", this);
    this.#stop();
  }

  attributeChangedCallback() {
    this.#draw();
  }

  handleEvent({ type }) {
    clearTimeout(this.#hideTimer);
    if (type === "pagehide") this.#stop();
    else if (document.hidden) this.#hideTimer = setTimeout(() => this.#stop(), HIDDEN_TIMEOUT);
    else this.#start();
  }

  #start() {
    if (this.#watching) return;
    this.#watching = new AbortController();
    const base = this.getAttribute("base") ?? new URL(import.meta.url).origin;
    const { signal } = this.#watching;
    watch(new Chats(base, this.getAttribute("token-url")), signal, (unread) => {
      if (signal.aborted) return;
      this.#unread = unread;
      this.#draw();
    });
  }

  #stop() {
    clearTimeout(this.#hideTimer);
    this.#watching?.abort();
    this.#watching = null;
  }

  #draw() {
    const href = this.getAttribute("href");
    const shown = this.#unread && (this.#unread.more ? `${this.#unread.unread - 1}+` : `${this.#unread.unread}`);
    const label = this.getAttribute("label") ?? (href === null ? "{count} unread" : "Messages, {count} unread");
    this.#count.hidden = !this.#unread?.unread;
    this.#count.textContent = shown;
    const words = shown === null ? "" : label.replaceAll("{count}", shown);
    if (this.#words.textContent && this.#words.textContent !== words) this.#news.textContent = words; // changes only
    this.#words.textContent = words;
    set(this.#link, "href", href);
    set(this.#link, "aria-labelledby", href !== null && words ? "words" : null);
  }
}

/** Show the number, and update it until the signal. One tab of a browser has the stream and tells the others. */
function watch(chats, signal, show) {
  return persist(signal, show, async () => {
    const name = `chats-badge ${await chats.identity(signal)}`;
    const tabs = new BroadcastChannel(name);
    let received = false;
    tabs.onmessage = ({ data }) => {
      received = true;
      show(data);
    };
    const publish = (unread) => {
      show(unread);
      tabs.postMessage(unread);
    };
    try {
      const unread = await chats.unread(signal);
      if (!received) show(unread); // a number from another tab is newer
      await oneAtATime(name, signal, () => persist(signal, publish, () => follow(chats, signal, publish)));
    } finally {
      tabs.close();
    }
  });
}

/** Publish each number that the stream brings, until it ends. */
async function follow(chats, signal, publish) {
  const dead = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => dead.abort(), STREAM_TIMEOUT);
  };
  alive();
  try {
    const both = AbortSignal.any([signal, dead.signal]);
    // The number is shown even if the stream is rejected, as a user's sixth is.
    const [stream] = await Promise.allSettled([chats.get("/api/v1/stream", both)]);
    // The number that is loaded once the stream is open includes all that was missed, so there is nothing to resume.
    publish(await chats.unread(both));
    if (stream.reason) throw stream.reason;
    for await (const { type, data } of readEvents(stream.value.body, alive)) {
      if (type === "unread") publish(JSON.parse(data));
      else if (type === "reset") publish(await chats.unread(both));
    }
  } finally {
    clearTimeout(timer);
    dead.abort();
  }
}

/** Repeat an attempt until the signal, with exponential backoff while it fails. */
async function persist(signal, publish, attempt) {
  let pause = MIN_RETRY;
  while (!signal.aborted) {
    const began = performance.now();
    try {
      await attempt();
    } catch (error) {
      if (error instanceof SignedOut) publish(null);
      // Other errors are not reported: a store's page is not the place for them.
    }
    pause = performance.now() - began > STABLE ? MIN_RETRY : Math.min(2 * pause, MAX_RETRY);
    await sleep(pause * (0.5 + Math.random() / 2), signal);
  }
}

/** Run work in one tab of the browser, and in another when that is closed. Without locks, run it in each. */
async function oneAtATime(name, signal, work) {
  if (!navigator.locks) return work(); // not under plain http
  return navigator.locks.request(name, { signal }, work);
}

function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const waking = new AbortController();
    const wake = () => {
      clearTimeout(timer);
      waking.abort();
      resolve();
    };
    const timer = setTimeout(wake, milliseconds);
    addEventListener("online", wake, { signal: waking.signal });
    signal.addEventListener("abort", wake, { signal: waking.signal });
    if (signal.aborted) wake();
  });
}

/** Read Server-Sent Events; `alive` is called for every chunk. */
async function* readEvents(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // an incomplete event is dropped
    alive();
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // the \r at the end may be half a \r\n
    rest = lines.pop();
    for (const line of lines) {
      const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") event.type = content;
      else if (field === "data") event.data.push(content);
      else if (line === "") {
        if (event.data.length) yield { type: event.type, data: event.data.join("\n") };
        event = { type: "message", data: [] };
      }
    }
  }
}

class SignedOut extends Error {}

/** The API of Customer Chats for the signed-in user. */
class Chats {
  #base;
  #tokenUrl;
  #token = null;
  #claims = {};

  constructor(base, tokenUrl) {
    this.#base = base;
    this.#tokenUrl = tokenUrl;
  }

  /** Return the name of the user: only tabs of the same user share a number. */
  async identity(signal) {
    if (this.#tokenUrl !== null) await this.#freshToken(signal);
    return `${this.#base} ${this.#claims.sub ?? ""} ${this.#claims.role ?? ""}`;
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
    await response.body?.cancel();
    throw response.status === 401 ? new SignedOut() : new Error(`${path} returned ${response.status}`);
  }

  async #fetch(path, signal) {
    if (this.#tokenUrl === null) return fetch(this.#base + path, { signal, cache: "no-store" });
    const headers = { Authorization: `Bearer ${await this.#freshToken(signal)}` };
    return fetch(this.#base + path, { signal, headers, cache: "no-store", credentials: "omit" });
  }

  async #renew(signal) {
    this.#token = null;
    if (this.#tokenUrl !== null) return;
    // Loading a page renews the session's cookie; `peek` does not extend the session.
    const page = await fetch(`${this.#base}/dashboard/messages/?peek=true`, { signal, redirect: "manual" });
    await page.body?.cancel();
  }

  async #freshToken(signal) {
    if (this.#token === null || this.#claims.exp * 1000 < Date.now() + MIN_TOKEN_LIFETIME) {
      const headers = { Accept: "application/json" };
      const response = await fetch(this.#tokenUrl, { signal, headers, cache: "no-store" });
      if (response.status === 401 || response.status === 403) throw new SignedOut();
      this.#token = (await response.json()).token;
      this.#claims = claimsOf(this.#token);
    }
    return this.#token;
  }
}

function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return {}; // an opaque token is used until it is rejected
  }
}

function element(name, attributes = {}) {
  const created = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  return created;
}

function set(target, attribute, value) {
  if (value === null) target.removeAttribute(attribute);
  else target.setAttribute(attribute, value);
}

customElements.define("chats-badge", ChatsBadge);
