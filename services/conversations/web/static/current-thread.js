// The conversation on the screen. Beside the inbox another one can take its place without a new page.

const starters = [];
let closing = new AbortController();

/** The element of the conversation on the screen, or null. */
export let thread = null;

/** Call `start(thread, closed)` for each conversation that is shown. The signal `closed` is aborted when it leaves. */
export function onThread(start) {
  starters.push(start);
}

/** Stop the scripts of the previous conversation, and start those of the one that is now in the document. */
export function startThread() {
  closing.abort();
  closing = new AbortController();
  thread = document.querySelector("[data-thread]");
  if (thread) for (const start of starters) start(thread, closing.signal);
}
