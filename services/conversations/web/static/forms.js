// Forms: drafts that survive a reload, sending with Ctrl or ⌘ and Enter, and filters of long selects.

import { clear, load, remove, save } from "./tab-storage.js";

export function startForms() {
  clear("others");
  startDrafts(document);
  // The new conversation exists, so its draft is obsolete.
  if (document.querySelector("[data-thread]") && load("sent")) {
    remove(load("sent"));
    remove("sent");
  }
  document.addEventListener("keydown", (event) => {
    const form = event.target.form;
    const way = event.key === "Enter" && form?.dataset.draft && wayToSend(event);
    const button = way && way !== "send" && form.querySelector(`[data-way="${way}"]`);
    if (!way || button === null) return;
    event.preventDefault();
    form.requestSubmit(button || undefined);
  });
  for (const form of document.querySelectorAll('form[action="/session/end"]')) {
    form.addEventListener("submit", () => clear());
  }
  for (const search of document.querySelectorAll("[data-filters]")) filterOptions(search);
  addEventListener("pageshow", startBlank); // after the browser has restored the form
}

/** Return what Enter does with these modifiers: `send`, one of the other ways, or null. */
function wayToSend({ altKey, ctrlKey, metaKey, shiftKey }) {
  const isCommand = ctrlKey || metaKey;
  if (isCommand === altKey) return null; // both are AltGr
  if (isCommand) return shiftKey ? "resolve" : "send";
  return shiftKey ? "close" : "keep";
}

/** Keep the drafts of the forms in an element. */
export function startDrafts(element) {
  for (const form of element.querySelectorAll("form[data-draft]:not([data-kept])")) keepDraft(form);
}

function keepDraft(form) {
  form.dataset.kept = "";
  const name = `draft:${form.dataset.draft}`;
  // A status belongs to one submit and is never saved.
  const fields = [...form.elements].filter(
    (field) => field.name && field.name !== "status" && !["checkbox", "file", "hidden", "submit"].includes(field.type),
  );
  const draft = load(name) ?? {};
  for (const text of form.querySelectorAll("textarea")) text.removeAttribute("maxlength"); // the server reports text that is too long
  for (const field of fields) {
    // A value from the server is newer than the draft, unless it is a proposal for the same order.
    const fits = field.tagName !== "SELECT" || [...field.options].some((option) => option.value === draft[field.name]);
    const { proposedBy } = field.dataset;
    const isProposed = proposedBy && form.elements[proposedBy].value === draft[proposedBy];
    if ((!field.value || isProposed) && draft[field.name] && fits) field.value = draft[field.name];
  }
  form.addEventListener("input", () => {
    const typed = Object.fromEntries(fields.map((field) => [field.name, field.value]));
    if (Object.values(typed).some(Boolean)) save(name, typed);
    else remove(name);
  });
  form.addEventListener("submit", () => {
    if (!form.dataset.send) save("sent", name);
  });
}

/** Clear the status of a reply, which the browser may have restored. */
function startBlank() {
  const choice = document.getElementById("choose-status");
  if (choice) choice.value = "";
}

/** Filter the options of a long select by words. */
function filterOptions(search) {
  const select = document.getElementById(search.dataset.filters);
  const options = [...select.options];
  search.hidden = false;
  search.addEventListener("input", (event) => {
    event.stopPropagation();
    const words = search.value.toLowerCase().split(/\s+/);
    const chosen = select.value;
    const matches = options.filter(
      (option) => !option.value || words.every((word) => option.text.toLowerCase().includes(word)),
    );
    select.replaceChildren(...matches);
    const isKept = matches.some((option) => option.value === chosen);
    select.value = isKept ? chosen : (matches[search.value.trim() ? 1 : 0]?.value ?? "");
  });
}
