// Live events. One tab of a browser holds the stream and tells the others; when it goes, another takes over from
// where it stood, so nothing is missed.

import { person, position, renew } from "./api.js";

const TYPES = [
  "conversation.created",
  "message.posted",
  "conversation.updated",
  "conversation.read",
  "conversation.deleted",
  "unread",
];
const LONGEST_WAIT = 30_000; // ms between tries
const PATIENCE = 3_000; // ms before a lost connection is told of

/**
 * Follow the stream from the page's own position on.
 *
 * `on.event(type, data)` is called for each event, `on.missed()` when the page may lack some and should look again,
 * `on.connection(state)` with "open", "lost", or "over" when the session has ended.
 */
export function follow(on) {
  const channel = new BroadcastChannel(`chats:${person}`);
  let last = position; // of the log, as far as this tab has heard
  let leads = false;

  const tell = (message) => {
    hear(message);
    channel.postMessage(message);
  };
  const hear = ({ kind, type, data, id, state }) => {
    if (kind === "event") {
      last = id || last;
      on.event(type, data);
    } else if (kind === "missed") {
      last = id || last;
      on.missed();
    } else if (kind === "connection") {
      on.connection(state);
    }
  };
  channel.onmessage = ({ data: message }) => {
    if (message.kind === "hello") {
      if (leads) channel.postMessage({ kind: "at", id: last });
    } else if (message.kind === "at") {
      // What came between the making of this page and its first word was told to the others.
      if (!leads && message.id !== position) on.missed();
    } else {
      hear(message);
    }
  };

  const left = new AbortController();
  const lead = () => {
    leads = true;
    connect(() => last, tell, left.signal);
    return new Promise((resolve) => left.signal.addEventListener("abort", resolve)); // held until the page is left
  };
  channel.postMessage({ kind: "hello" });
  // Without https there are no locks: each tab has a stream of its own.
  if (navigator.locks) navigator.locks.request(`chats:${person}`, { signal: left.signal }, lead).catch(() => null);
  else lead();
  // A page in the browser's back/forward cache hears nothing, and must not lead the tabs that do. It is loaded anew
  // when somebody comes back to it.
  addEventListener("pagehide", () => {
    left.abort();
    channel.close();
  });
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
}

function connect(last, tell, left) {
  let tries = 0;
  let lost = null;

  const open = () => {
    if (left.aborted) return;
    const source = new EventSource(`/api/v1/stream?after=${encodeURIComponent(last())}`);
    left.addEventListener("abort", () => {
      clearTimeout(lost);
      source.close();
    });
    source.onopen = () => {
      tries = 0;
      clearTimeout(lost);
      lost = null;
      tell({ kind: "connection", state: "open" });
    };
    source.onerror = () => {
      lost ??= setTimeout(() => tell({ kind: "connection", state: "lost" }), PATIENCE);
      if (source.readyState === EventSource.CLOSED) retry(); // otherwise the browser itself tries again
    };
    for (const type of TYPES) {
      source.addEventListener(type, (event) => {
        tell({ kind: "event", type, data: JSON.parse(event.data), id: event.lastEventId });
      });
    }
    source.addEventListener("reset", (event) => tell({ kind: "missed", id: event.lastEventId }));
  };

  const retry = async () => {
    const wait = Math.min(LONGEST_WAIT, 1000 * 2 ** tries) * (0.5 + Math.random() / 2);
    tries += 1;
    await new Promise((resolve) => setTimeout(resolve, wait));
    try {
      if (left.aborted) return;
      if (!(await renew())) return tell({ kind: "connection", state: "over" });
      if (tries > 1) tell({ kind: "missed" }); // refused for another reason: look without the stream
    } catch {
      return retry(); // nobody answers
    }
    return open();
  };

  addEventListener("online", () => {
    tries = 0;
  });
  open();
}
