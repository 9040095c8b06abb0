// What a tab keeps over a reload: drafts, and messages on their way. It ends with the tab, and with the session.

import { person } from "./api.js";

const PREFIX = "chats:";
const named = (name) => `${PREFIX}${person}:${name}`;

export function keep(name, value) {
  try {
    sessionStorage.setItem(named(name), JSON.stringify(value));
  } catch {
    // A browser that keeps nothing is still one to write with.
  }
}

export function kept(name) {
  try {
    return JSON.parse(sessionStorage.getItem(named(name)));
  } catch {
    return null;
  }
}

export function forget(name) {
  sessionStorage.removeItem(named(name));
}

/** Forget what was kept for anybody: the next person at this tab must not find it. */
export function forgetAll(except = "") {
  for (const key of Object.keys(sessionStorage)) {
    if (key.startsWith(PREFIX) && !(except && key.startsWith(named("")))) sessionStorage.removeItem(key);
  }
}
