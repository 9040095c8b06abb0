// The rows of the inbox. Nothing moves under the hand: rows change in place, those that no longer match stay until the
// filter is applied again, and new ones wait behind a button.

import { fill } from "./announce.js";
import { replace } from "./replace.js";
import { showViewers } from "./row-presence.js";

const idsOf = (list) => [...list.querySelectorAll(":scope > .row")].map((row) => row.id);

/** Ask the server for all rows on the screen, also for those that no longer match. */
export function askForShownRows(url) {
  for (const row of document.querySelectorAll("#conversations .row")) url.searchParams.append("shown", row.id.slice(2));
}

/** Update the rows in `region` from a newer list. */
export function updateRows(region, fresh) {
  const [shown, listed] = [region, fresh].map((list) => list.querySelector(".rows"));
  if (!shown) return replace(region, fresh); // there is nothing that could move
  const known = idsOf(shown);
  showNew(countNew(known, listed ? idsOf(listed) : [], !region.querySelector("[rel=next]")));
  for (const id of known) update(document.getElementById(id), fresh.querySelector(`#${id}`));
}

/** Return how many conversations are new: a row that only slid up from the next page is not. */
function countNew(known, listed, isComplete) {
  const last = Math.max(...known.map((id) => listed.indexOf(id)));
  return listed.filter((id, index) => !known.includes(id) && (isComplete || index < last)).length;
}

function update(row, fresh) {
  if (!fresh) return remove(row);
  const current = row.querySelector("a[aria-current]");
  if (current) fresh.querySelector("h2 a").setAttribute("aria-current", "true");
  showViewers(fresh);
  if (!row.isEqualNode(fresh)) replace(row, fresh);
}

/** Empty the row of a deleted conversation; its space stays. */
function remove(row) {
  row.style.minBlockSize = `${row.offsetHeight}px`;
  row.classList.add("deleted");
  row.replaceChildren();
}

function showNew(count) {
  const button = document.getElementById("new-rows");
  button.hidden = !count;
  const text = fill(count === 1 ? button.dataset.one : button.dataset.several, { count });
  if (count && button.textContent !== text) button.textContent = text;
}
