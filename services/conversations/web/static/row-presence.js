// Shows in the rows of the inbox which other admins are viewing a conversation, as far as events have said so since
// the page was opened: an admin who was there before shows when they write, or come again.

import { fill } from "./announce.js";
import { person } from "./api.js";

const FORGET_AFTER = 10 * 60_000; // ms without a word: a browser that crashed does not say that it has left

const viewers = new Map(); // by conversation: the admins by id, each with the name and when that was last said

/** Note what an event says about another admin. */
export function noteViewer({ conversation_id: conversation, admin, viewing }) {
  if (admin.id === person || !document.getElementById("inbox")) return;
  const others = viewers.get(conversation) ?? new Map();
  if (viewing) others.set(admin.id, { name: admin.name, at: performance.now() });
  else others.delete(admin.id);
  viewers.set(conversation, others);
  const row = document.getElementById(`c-${conversation}`);
  if (row) showViewers(row);
}

/** Show the viewers in a row, which may not be on the page yet. */
export function showViewers(row) {
  const others = [...(viewers.get(row.id.slice(2))?.values() ?? [])].filter(({ at }) => performance.now() - at < FORGET_AFTER);
  const place = row.querySelector(".customer");
  place?.querySelector(".looking")?.remove();
  if (!place || !others.length) return;
  const { lookingOne, lookingSeveral } = document.getElementById("inbox").dataset;
  const text = document.createElement("bdi");
  text.className = "label looking";
  text.append(fill(others.length > 1 ? lookingSeveral : lookingOne, { names: others.map(({ name }) => name).join(", ") }));
  place.append(text);
}
