// Says what was done, and offers to undo it for a while.

import { fill } from "./announce.js";

const SHOWN = 10_000; // ms
let timer = null;
let undoing = null;

/** Show the text with this name; `undo` is called when the reader asks for it in time. */
export function showToast(name, values = {}, undo = null) {
  const region = document.getElementById("toast");
  if (!region) return; // customers' pages have none
  clearTimeout(timer);
  undoing = undo;
  const toast = document.getElementById("toast-parts").content.cloneNode(true).firstElementChild;
  toast.querySelector("[data-text]").textContent = fill(region.dataset[name], values);
  const button = toast.querySelector("button");
  if (undo) button.addEventListener("click", undoLast);
  else button.remove();
  region.replaceChildren(toast);
  const hideLater = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, SHOWN);
  };
  for (const type of ["pointerenter", "focusin"]) toast.addEventListener(type, () => clearTimeout(timer));
  for (const type of ["pointerleave", "focusout"]) toast.addEventListener(type, hideLater);
  hideLater();
}

/** Undo what the toast on the screen says. */
export function undoLast() {
  const undo = undoing;
  hide();
  undo?.();
}

/** Return the name of a status. */
export function statusName(status) {
  return JSON.parse(document.getElementById("toast").dataset.statuses)[status];
}

function hide() {
  clearTimeout(timer);
  undoing = null;
  document.getElementById("toast")?.replaceChildren();
}
