// The number of unread conversations of a store's user, which all elements of a page and all tabs of a browser share.

import { Chats, SignedOut } from "./chats.js";
import { readEvents } from "./events.js";

const MIN_RETRY = 1_000; // milliseconds before the second attempt, doubled after each failure …
const MAX_RETRY = 60_000; // … up to this, which is also the polling interval without a stream
const SIGNED_OUT = 10 * 60_000; // ms until a store that says that nobody is signed in is asked again, or until a focus
const STABLE = 10_000; // a stream that lasted this long counts as a success
const STREAM_TIMEOUT = 60_000; // a stream without data for this long is dead: a comment comes every 25 s
const HIDDEN_TIMEOUT = 5 * 60_000; // a tab that is hidden for this long closes its stream

const sources = [];

/** Return the source of numbers with these tokens, one for all elements of the page. */
export function sourceOf(base, tokens) {
  let source = sources.find(({ chats }) => chats.base === base && chats.tokens === tokens);
  if (!source) sources.push((source = new Source(new Chats(base, tokens))));
  return source;
}

class Source {
  unread = undefined; // not known yet; null: nobody is signed in
  #listeners = new Set();
  #watching = null;
  #fed = null; // while a frame brings the numbers
  #hideTimer = 0;

  constructor(chats) {
    this.chats = chats;
  }

  /** Call `listener` now and whenever the number changes; return a function that ends it. */
  follow(listener) {
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) {
      document.addEventListener("visibilitychange", this);
      addEventListener("pagehide", this); // an open stream would keep the page out of the back/forward cache
      addEventListener("pageshow", this);
      this.handleEvent({});
    }
    if (this.unread !== undefined) listener(this.unread);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size) return;
      document.removeEventListener("visibilitychange", this);
      removeEventListener("pagehide", this);
      removeEventListener("pageshow", this);
      this.#stop();
    };
  }

  handleEvent({ type }) {
    clearTimeout(this.#hideTimer);
    if (type === "pagehide") this.#stop();
    else if (document.hidden) this.#hideTimer = setTimeout(() => this.#fed || this.#stop(), HIDDEN_TIMEOUT);
    else this.#start();
  }

  /** Take the number from the messenger's frame instead of a stream, for the other tabs as well. */
  feed(unread) {
    if (!this.#listeners.size) return;
    if (!this.#fed) {
      this.#stop();
      this.#fed = new AbortController();
      const { signal } = this.#fed;
      lead(this.chats, signal).then((tell) => {
        if (signal.aborted) return; // another frame may have begun
        this.tell = tell;
        tell(this.unread);
      }, () => {});
    }
    this.#show(unread);
    this.tell?.(unread);
  }

  /** The frame brings no more numbers. */
  starve() {
    if (!this.#fed) return;
    this.#stop();
    if (this.#listeners.size) this.handleEvent({});
  }

  #start() {
    if (this.#watching || this.#fed) return;
    this.#watching = new AbortController();
    const { signal } = this.#watching;
    watch(this.chats, signal, (unread) => signal.aborted || this.#show(unread));
  }

  #stop() {
    clearTimeout(this.#hideTimer);
    this.#watching?.abort();
    this.#fed?.abort();
    this.#watching = this.#fed = this.tell = null;
  }

  #show(unread) {
    this.unread = unread;
    for (const listener of this.#listeners) listener(unread);
  }
}

/** Show the number, and update it until the signal. One tab of a browser has the stream and tells the others. */
function watch(chats, signal, show) {
  const signedOut = async () => {
    show(null);
    await sleep(SIGNED_OUT, signal, "focus");
  };
  return persist(signal, signedOut, async () => {
    const name = await chats.name(signal);
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
    const leave = (error) => {
      publish(null);
      throw error; // so that another tab can have the stream, such as that of the next user
    };
    try {
      const unread = await chats.unread(signal);
      if (!received) show(unread); // a number from another tab is newer
      await oneAtATime(name, signal, (mine) => persist(mine, leave, () => follow(chats, mine, publish)));
    } finally {
      tabs.close();
    }
  });
}

/** Take the stream's place until the signal: return a function that tells the other tabs the number. */
async function lead(chats, signal) {
  const name = await chats.name(signal);
  const tabs = new BroadcastChannel(name);
  const until = new Promise((resolve) => signal.addEventListener("abort", resolve)).then(() => tabs.close());
  navigator.locks?.request(name, { steal: true }, () => until).catch(() => {}); // another tab's frame may steal it
  return (unread) => signal.aborted || tabs.postMessage(unread);
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

/** Repeat an attempt until the signal, with exponential backoff while it fails; with nobody signed in, call `signedOut`. */
async function persist(signal, signedOut, attempt) {
  let pause = MIN_RETRY;
  while (!signal.aborted) {
    const began = performance.now();
    try {
      await attempt();
    } catch (error) {
      if (error instanceof SignedOut) await signedOut(error);
      // Other errors are not reported: a store's page is not the place for them.
    }
    pause = performance.now() - began > STABLE ? MIN_RETRY : Math.min(2 * pause, MAX_RETRY);
    await sleep(pause * (0.5 + Math.random() / 2), signal);
  }
}

/** Run work in one tab of the browser until its signal, and in another when that is closed. Without locks, run it in each. */
async function oneAtATime(name, signal, work) {
  if (!navigator.locks) return work(signal); // not under plain http
  const stolen = new AbortController(); // by a tab with a frame
  try {
    return await navigator.locks.request(name, { signal }, () => work(AbortSignal.any([signal, stolen.signal])));
  } finally {
    stolen.abort();
  }
}

function sleep(milliseconds, signal, ...wakers) {
  return new Promise((resolve) => {
    const waking = new AbortController();
    const wake = () => {
      clearTimeout(timer);
      waking.abort();
      resolve();
    };
    const timer = setTimeout(wake, milliseconds);
    for (const type of ["online", ...wakers]) addEventListener(type, wake, { signal: waking.signal });
    signal.addEventListener("abort", wake, { signal: waking.signal });
    if (signal.aborted) wake();
  });
}
