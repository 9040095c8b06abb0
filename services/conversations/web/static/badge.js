/*
 * <chats-badge>: how many conversations are unread, for a store's own header.
 *
 *   <script type="module" src="https://chats.example/chats-static/badge.js"></script>
 *   <a href="/messages">Messages <chats-badge token-url="/chats-token" label="{count} unread"></chats-badge></a>
 *
 * token-url  where the store's own backend gives a fresh token of whoever is signed in, as {"token": "…"}; without it
 *            the chats' own session counts, for a store that serves the chats on its own origin
 * href       where a click leads, when the badge is to be the link itself; its content is then the link's
 * label      what is read aloud, with {count} in it
 * base       the origin of the chats; where this script came from, unless given
 *
 * It looks as --chats-badge-background, --chats-badge-color and --chats-badge-font say, and as ::part(link) and
 * ::part(count) do. While the chats are away, or nobody is signed in, it shows nothing and says nothing.
 */

const FIRST_PAUSE = 1_000; // milliseconds before the second try, doubled at each one that fails …
const LONGEST_PAUSE = 60_000; // … up to this: where there is no stream the number is asked for so often
const STEADY = 10_000; // a stream that held for so long did not fail, whatever ended it
const SILENCE = 60_000; // without a word for so long a stream is dead: a comment comes every 25 s
const HIDDEN = 5 * 60_000; // a tab that nobody has looked at for so long lets go of its stream
const NEARLY_OVER = 30_000; // what a token must have left to be used again

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
  #words = element("span", { id: "words" }); // the link's name, for which a status would not count
  #news = element("span", { id: "news", role: "status" });
  #unread = null;
  #watching = null;
  #patience = 0;

  constructor() {
    super();
    this.#link.append(element("slot"), this.#count);
    this.attachShadow({ mode: "open" }).append(this.#link, this.#words, this.#news);
    this.shadowRoot.adoptedStyleSheets = [STYLE];
    this.#draw();
  }

  connectedCallback() {
    document.addEventListener("visibilitychange", this);
    addEventListener("pagehide", this); // what a page holds keeps it out of the browser's back and forward cache
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
    clearTimeout(this.#patience);
    if (type === "pagehide") this.#stop();
    else if (document.hidden) this.#patience = setTimeout(() => this.#stop(), HIDDEN);
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
    clearTimeout(this.#patience);
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
    if (this.#words.textContent && this.#words.textContent !== words) this.#news.textContent = words; // the first: none
    this.#words.textContent = words;
    set(this.#link, "href", href);
    set(this.#link, "aria-labelledby", href !== null && words ? "words" : null);
  }
}

/** Shows the number, and keeps it true, until the signal. One tab of a browser asks, the others hear of it. */
function watch(chats, signal, show) {
  return persist(signal, show, async () => {
    const name = `chats-badge ${await chats.whose(signal)}`;
    const tabs = new BroadcastChannel(name);
    let heard = false;
    tabs.onmessage = ({ data }) => {
      heard = true;
      show(data);
    };
    const tell = (unread) => {
      show(unread);
      tabs.postMessage(unread);
    };
    try {
      const unread = await chats.unread(signal);
      if (!heard) show(unread); // what was heard meanwhile is newer
      await oneAtATime(name, signal, () => persist(signal, tell, () => follow(chats, signal, tell)));
    } finally {
      tabs.close();
    }
  });
}

/** Tells each number that the stream brings, until it ends. */
async function follow(chats, signal, tell) {
  const dead = new AbortController();
  let patience;
  const alive = () => {
    clearTimeout(patience);
    patience = setTimeout(() => dead.abort(), SILENCE);
  };
  alive();
  try {
    const both = AbortSignal.any([signal, dead.signal]);
    // Also where the stream is refused, as the sixth of a person is, this number is shown.
    const [stream] = await Promise.allSettled([chats.get("/api/v1/stream", both)]);
    // A number is a state and no history: asked for once the stream is open it has all that was missed, and there is
    // nothing to resume.
    tell(await chats.unread(both));
    if (stream.reason) throw stream.reason;
    for await (const { type, data } of readEvents(stream.value.body, alive)) {
      if (type === "unread") tell(JSON.parse(data));
      else if (type === "reset") tell(await chats.unread(both));
    }
  } finally {
    clearTimeout(patience);
    dead.abort();
  }
}

/** Runs something again and again until the signal, with longer and longer pauses while it fails. */
async function persist(signal, tell, attempt) {
  let pause = FIRST_PAUSE;
  while (!signal.aborted) {
    const began = performance.now();
    try {
      await attempt();
    } catch (error) {
      if (error instanceof SignedOut) tell(null);
      // Anything else is silence on purpose: a store's page is no place to complain that the chats are away.
    }
    pause = performance.now() - began > STEADY ? FIRST_PAUSE : Math.min(2 * pause, LONGEST_PAUSE);
    await sleep(pause * (0.5 + Math.random() / 2), signal);
  }
}

/** Runs something in one tab of the browser, in the next one when that is closed; in each where there are no locks. */
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

/** Reads Server-Sent Events; `alive` is called at every sign of life. */
async function* readEvents(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return; // an event that is not complete does not count
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

/** The chats' API, as whoever is signed in. */
class Chats {
  #base;
  #tokenUrl;
  #token = null;
  #claims = {};

  constructor(base, tokenUrl) {
    this.#base = base;
    this.#tokenUrl = tokenUrl;
  }

  /** A name for whose number it is: tabs share one only with the same person's. */
  async whose(signal) {
    if (this.#tokenUrl !== null) await this.#freshToken(signal);
    return `${this.#base} ${this.#claims.sub ?? ""} ${this.#claims.role ?? ""}`;
  }

  async unread(signal) {
    const { unread, more } = await (await this.get("/api/v1/unread", signal)).json();
    return { unread, more };
  }

  async get(path, signal) {
    let answer = await this.#ask(path, signal);
    if (answer.status === 401) {
      await this.#renew(signal);
      answer = await this.#ask(path, signal);
    }
    if (answer.ok) return answer;
    await answer.body?.cancel();
    throw answer.status === 401 ? new SignedOut() : new Error(`${path} answers ${answer.status}`);
  }

  async #ask(path, signal) {
    if (this.#tokenUrl === null) return fetch(this.#base + path, { signal, cache: "no-store" });
    const headers = { Authorization: `Bearer ${await this.#freshToken(signal)}` };
    return fetch(this.#base + path, { signal, headers, cache: "no-store", credentials: "omit" });
  }

  async #renew(signal) {
    this.#token = null;
    if (this.#tokenUrl !== null) return;
    // A page of the chats gives a live session a fresh cookie; `peek` does not count as being there.
    const page = await fetch(`${this.#base}/dashboard/messages/?peek=true`, { signal, redirect: "manual" });
    await page.body?.cancel();
  }

  async #freshToken(signal) {
    if (this.#token === null || this.#claims.exp * 1000 < Date.now() + NEARLY_OVER) {
      const headers = { Accept: "application/json" };
      const answer = await fetch(this.#tokenUrl, { signal, headers, cache: "no-store" });
      if (answer.status === 401 || answer.status === 403) throw new SignedOut();
      this.#token = (await answer.json()).token;
      this.#claims = claimsOf(this.#token);
    }
    return this.#token;
  }
}

function claimsOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return {}; // then it is used until it is refused
  }
}

function element(name, attributes = {}) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

function set(made, attribute, value) {
  if (value === null) made.removeAttribute(attribute);
  else made.setAttribute(attribute, value);
}

customElements.define("chats-badge", ChatsBadge);
