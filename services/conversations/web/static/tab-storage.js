// Data that a tab keeps across reloads: drafts and unsent messages. It is removed with the tab or the session.

import { person } from "./api.js";

const PREFIX = "chats:";
const keyOf = (name) => `${PREFIX}${person}:${name}`;

export function save(name, value) {
  try {
    sessionStorage.setItem(keyOf(name), JSON.stringify(value));
  } catch {
    // Without storage, writing and sending still work.
  }
}

export function load(name) {
  try {
    return JSON.parse(sessionStorage.getItem(keyOf(name)));
  } catch {
    return null;
  }
}

export function remove(name) {
  sessionStorage.removeItem(keyOf(name));
}

/** Remove the data of all users, so that the next user of this tab cannot find it; with "others", keep one's own. */
export function clear(except = "") {
  for (const key of Object.keys(sessionStorage)) {
    if (key.startsWith(PREFIX) && !(except && key.startsWith(keyOf("")))) sessionStorage.removeItem(key);
  }
}
