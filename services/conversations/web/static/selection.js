// Conversations that are selected in the inbox.

import { fill } from "./announce.js";
import { onRefresh } from "./refresh.js";

const boxes = () => [...document.querySelectorAll('input[name="ids"]')];

/** Show how many are selected, and let a checkbox select all. */
export function startSelection() {
  document.addEventListener("change", ({ target }) => {
    if (target.matches("[data-selects]")) for (const box of boxes()) box.checked = target.checked;
    if (target.matches("[data-selects], [name=ids]")) show();
  });
  onRefresh(show); // a row may be gone
  show();
}

function show() {
  const all = document.querySelector("[data-selects]");
  if (!all) return;
  const chosen = boxes().filter((box) => box.checked).length;
  all.closest("label").hidden = false;
  all.checked = chosen > 0 && chosen === boxes().length;
  all.indeterminate = chosen > 0 && !all.checked;
  const count = document.getElementById("selected");
  if (count) count.textContent = chosen ? fill(count.dataset.words, { count: chosen }) : "";
  all.form?.classList.toggle("selecting", chosen > 0);
  for (const button of document.querySelectorAll(`#${all.dataset.selects} button`)) button.disabled = !chosen;
}
