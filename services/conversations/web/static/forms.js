// Forms that keep what is typed over a reload, and are sent by Ctrl or ⌘ and Enter.

import { forget, forgetAll, keep, kept } from "./kept.js";

export function startForms() {
  forgetAll("others");
  for (const form of document.querySelectorAll("form[data-draft]")) keepDraft(form);
  // The conversation is there, so what it was made of is no draft any more.
  if (document.querySelector("[data-thread]") && kept("sent")) {
    forget(kept("sent"));
    forget("sent");
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.form?.dataset.draft) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  });
  for (const form of document.querySelectorAll('form[action="/session/end"]')) {
    form.addEventListener("submit", () => forgetAll());
  }
  for (const search of document.querySelectorAll("[data-filters]")) filterOptions(search);
  addEventListener("pageshow", startBlank); // after the browser has restored what it restores
}

function keepDraft(form) {
  const name = `draft:${form.dataset.draft}`;
  // A status belongs to one submit: it is chosen each time, and never kept.
  const fields = [...form.elements].filter(
    (field) => field.name && field.name !== "status" && !["hidden", "submit"].includes(field.type),
  );
  const draft = kept(name) ?? {};
  for (const text of form.querySelectorAll("textarea")) text.removeAttribute("maxlength"); // what is too long is said, not cut
  for (const field of fields) {
    // What the server sent back, or the address chose, is newer than what was kept.
    const fits = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === draft[field.name]);
    if (!field.value && draft[field.name] && fits) field.value = draft[field.name];
  }
  form.addEventListener("input", () => {
    const typed = Object.fromEntries(fields.map((field) => [field.name, field.value]));
    if (Object.values(typed).some(Boolean)) keep(name, typed);
    else forget(name);
  });
  form.addEventListener("submit", () => {
    if (!form.dataset.send) keep("sent", name);
  });
}

/** Start the status of a reply blank, whatever the browser restores of an earlier visit to the page. */
function startBlank() {
  const choice = document.getElementById("choose-status");
  if (choice) choice.value = "";
}

/** Narrow a long choice to what contains the words. */
function filterOptions(search) {
  const select = document.getElementById(search.dataset.filters);
  const options = [...select.options];
  search.hidden = false;
  search.addEventListener("input", (event) => {
    event.stopPropagation();
    const words = search.value.toLowerCase().split(/\s+/);
    const chosen = select.value;
    const left = options.filter(
      (option) => !option.value || words.every((word) => option.text.toLowerCase().includes(word)),
    );
    select.replaceChildren(...left);
    select.value = left.some((option) => option.value === chosen) ? chosen : (left[search.value.trim() ? 1 : 0]?.value ?? "");
  });
}
