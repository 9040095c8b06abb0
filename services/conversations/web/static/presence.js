// Shows the other admins that are viewing the conversation.

import { call } from "./api.js";
import { fill } from "./announce.js";

const INTERVAL = 15_000; // ms; the server forgets viewers after 30 s

/** Report that this admin is viewing the conversation, and show the others, until it is left. */
export function startPresence(thread, closed) {
  const line = thread.querySelector("#viewing");
  if (!line) return;
  const path = `/api/v1/admin/conversations/${thread.dataset.thread}/viewing`;
  const report = async () => {
    if (document.hidden) return;
    const response = await call("POST", path, { body: {} }).catch(() => null);
    if (!response?.ok || closed.aborted) return;
    const names = (await response.json()).others.map((other) => other.name);
    const words = names.length > 1 ? line.dataset.several : line.dataset.one;
    line.hidden = !names.length;
    line.textContent = names.length ? fill(words, { names: names.join(", ") }) : "";
  };
  const leave = () => {
    fetch(path, {
      method: "POST",
      keepalive: true, // the page is unloading
      body: JSON.stringify({ gone: true }),
      headers: {
        "Content-Type": "application/json",
        "X-CSRF-Token": document.querySelector('meta[name="csrf-token"]').content,
      },
    }).catch(() => null);
  };
  const start = () => {
    report();
    const timer = setInterval(report, INTERVAL);
    document.addEventListener("visibilitychange", () => (document.hidden ? leave() : report()), { signal: closed });
    addEventListener("pagehide", leave, { signal: closed });
    closed.addEventListener("abort", () => {
      clearInterval(timer);
      leave();
    });
  };
  if ("peek" in thread.dataset) thread.addEventListener("chats:opened", start, { once: true });
  else start();
}
