// Live events. One tab of a browser has the stream and forwards events to the others. When it closes, another tab
// continues from the same position, so nothing is missed.

import { calls, person, position, renew } from "./api.js";

const TYPES = [
  "conversation.created",
  "message.posted",
  "conversation.updated",
  "conversation.read",
  "conversation.deleted",
  "message.removed",
  "note.posted",
  "note.deleted",
  "notification.created",
  "email.updated",
  "inbound.updated",
  "presence",
  "unread",
];
const MAX_RETRY = 30_000; // ms between attempts
const NOTICE_DELAY = 3_000; // ms before a lost connection is shown

/**
 * Follow the stream from the page's position.
 *
 * `on.event(type, data)` is called for each event, `on.missed()` when the page may have missed some,
 * `on.connection(state)` with "open", "lost", or "over" when the session has ended.
 */
export function follow(on) {
  const channel = new BroadcastChannel(`chats:${person}`);
  let last = position; // of the last event that this tab got
  let isLeader = false;
  let isKnown = false; // whether this tab has missed events before its hello

  const publish = (message) => {
    handle(message);
    channel.postMessage(message);
  };
  const handle = ({ kind, type, data, id, state }) => {
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
      if (isLeader) channel.postMessage({ kind: "at", id: last });
    } else if (message.kind === "at") {
      if (isLeader || isKnown) return;
      isKnown = true;
      // This tab has missed the events between the rendering of its page and its hello.
      if (message.id !== position) on.missed();
    } else {
      handle(message);
    }
  };

  const closed = new AbortController();
  const lead = () => {
    isLeader = true;
    channel.postMessage({ kind: "at", id: last }); // for tabs whose hello nobody has answered
    connect(() => last, publish, closed.signal);
    return new Promise((resolve) => closed.signal.addEventListener("abort", resolve)); // keeps the lock
  };
  channel.postMessage({ kind: "hello" });
  // Without https there are no locks, and each tab has its own stream.
  if (navigator.locks) navigator.locks.request(`chats:${person}`, { signal: closed.signal }, lead).catch(() => null);
  else lead();
  // A page in the back/forward cache gets no events, so it must not be the leader. It is reloaded when it is restored.
  addEventListener("pagehide", () => {
    closed.abort();
    channel.close();
  });
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload());
}

function connect(last, publish, closed) {
  let attempts = 0;
  let lost = null;

  const open = () => {
    if (closed.aborted) return;
    const source = new EventSource(`${calls}/api/v1/stream?after=${encodeURIComponent(last())}`);
    closed.addEventListener("abort", () => {
      clearTimeout(lost);
      source.close();
    });
    source.onopen = () => {
      attempts = 0;
      clearTimeout(lost);
      lost = null;
      publish({ kind: "connection", state: "open" });
    };
    source.onerror = () => {
      lost ??= setTimeout(() => publish({ kind: "connection", state: "lost" }), NOTICE_DELAY);
      if (source.readyState === EventSource.CLOSED) retry(); // otherwise the browser reconnects by itself
    };
    for (const type of TYPES) {
      source.addEventListener(type, (event) => {
        publish({ kind: "event", type, data: JSON.parse(event.data), id: event.lastEventId });
      });
    }
    source.addEventListener("reset", (event) => publish({ kind: "missed", id: event.lastEventId }));
  };

  const retry = async () => {
    const wait = Math.min(MAX_RETRY, 1000 * 2 ** attempts) * (0.5 + Math.random() / 2);
    attempts += 1;
    await new Promise((resolve) => setTimeout(resolve, wait));
    try {
      if (closed.aborted) return;
      if (!(await renew())) return publish({ kind: "connection", state: "over" });
      if (attempts > 1) publish({ kind: "missed" }); // rejected for another reason: refresh without the stream
    } catch {
      return retry(); // the server is unreachable
    }
    return open();
  };

  addEventListener("online", () => {
    attempts = 0;
  });
  open();
}
