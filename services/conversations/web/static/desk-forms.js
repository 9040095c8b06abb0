// Forms of the desk, sent to the API without leaving the page: a reply may be half written.

import { call, role } from "./api.js";
import { thread } from "./current-thread.js";
import { refreshInbox } from "./desk.js";
import { apiPath, refreshThread } from "./thread.js";

// The method and body of each kind of form.
const REQUESTS = {
  assign: (fields) => ["PUT", { admin_id: fields.get("admin_id") || null, expected: fields.get("expected") || null }],
  "add-label": (fields) => ["PATCH", { add: [fields.get("add")] }],
  "remove-label": (fields) => ["PATCH", { remove: [fields.get("remove")] }],
  note: (fields) => ["POST", { body: fields.get("body"), mentions: fields.getAll("mentions") }],
  "delete-note": () => ["DELETE"],
  "remove-message": () => ["DELETE"],
};

export function startDeskForms() {
  if (role === "admin") document.addEventListener("submit", send);
}

/** Open the form of a note that was begun. Writing `@Name` chooses an admin. */
export function startNotes(thread) {
  const note = thread.querySelector("#note-body");
  if (!note) return;
  const form = note.closest("details");
  if (note.value) form.open = true;
  // Without the focus in the field, what is typed would be single-key shortcuts.
  form.addEventListener("toggle", () => form.open && document.activeElement === form.firstElementChild && note.focus());
  note.addEventListener("input", () => {
    const boxes = [...note.form.querySelectorAll(".mentions [data-name]")];
    const named = namesIn(note.value, boxes.map((box) => box.dataset.name));
    for (const box of boxes) {
      const chosen = box.tagName === "OPTION" ? "selected" : "checked"; // a large team has a list as well
      const isNamed = named.has(box.dataset.name);
      if (isNamed === "named" in box.dataset) continue; // once: it can be unchecked
      if (!isNamed) {
        if (box.dataset.named) box[chosen] = false;
        delete box.dataset.named;
      } else {
        box.dataset.named = box[chosen] ? "" : "chosen";
        box[chosen] = true;
      }
    }
  });
}

/** Return the names that stand in a text behind an `@`: of "Kim" and "Kim Lee" the longer one, and none within a word. */
function namesIn(text, names) {
  const lower = text.toLocaleLowerCase();
  const marks = names.map((name) => `@${name.toLocaleLowerCase()}`);
  const isAt = (mark, place) => lower.startsWith(mark, place) && !/^[\p{L}\p{N}]/u.test(lower.slice(place + mark.length));
  const found = new Set();
  for (let place = lower.indexOf("@"); place >= 0; place = lower.indexOf("@", place + 1)) {
    const here = marks.filter((mark) => isAt(mark, place));
    const longest = Math.max(...here.map((mark) => mark.length));
    for (const [index, mark] of marks.entries()) if (mark.length === longest && here.includes(mark)) found.add(names[index]);
  }
  return found;
}

async function send(event) {
  const form = event.target.closest("form[data-act]");
  if (!form || !thread) return;
  event.preventDefault();
  if (form.dataset.sending) return; // a second click
  form.dataset.sending = "true";
  const place = thread; // another one may be shown when the answer comes
  const sameForm = `form[data-act="${form.dataset.act}"][data-path="${form.dataset.path}"]`;
  const fields = new FormData(form);
  const [method, body] = REQUESTS[form.dataset.act](fields);
  const key = fields.get("idempotency_key") ?? undefined;
  const response = await call(method, `${apiPath(thread)}/${form.dataset.path}`, { body, key }).catch(() => null);
  delete form.dataset.sending;
  const shown = place.contains(form) ? form : (place.querySelector(sameForm) ?? form); // a refresh may have replaced it
  if (response?.status === 409) return showPresent(place, form);
  if (!response?.ok) return show(shown, await reason(response));
  shown.querySelector(".rejected")?.remove();
  shown.closest("details.menu, details.note-form")?.removeAttribute("open");
  if (form.dataset.act !== "assign") shown.reset(); // the choice stays on the screen
  shown.dispatchEvent(new Event("input")); // which drops the draft
  const item = form.closest("li[id]")?.id;
  if ("earlier" in place.dataset) return location.reload(); // such a page is not refreshed
  await refreshThread(); // which also brings a new idempotency key
  keepFocus(form.dataset.act, item);
  refreshInbox();
}

/** Show who has been assigned meanwhile. */
async function showPresent(place, form) {
  if ("earlier" in place.dataset) return location.reload();
  form.reset(); // its choice was made for another assignee
  await refreshThread();
  document.getElementById("assignee-changed")?.removeAttribute("hidden");
}

/** Put the focus to where something was deleted, or a note was saved: its button is gone. */
function keepFocus(act, item) {
  if (act === "remove-label") document.getElementById("new-label")?.focus();
  if (act === "note" && document.activeElement === document.body) document.querySelector("#note-form summary")?.focus();
  if (act !== "delete-note" && act !== "remove-message") return;
  const place = document.getElementById(item);
  if (!place) return;
  place.tabIndex = -1;
  place.focus({ preventScroll: true });
}

/** Return what the API says is wrong, or nothing if it did not answer. */
async function reason(response) {
  const problem = await response?.json().catch(() => null);
  return problem?.errors?.[0]?.msg ?? problem?.detail;
}

/** Show why a form was rejected, below it. */
function show(form, text) {
  const notice = form.querySelector(".rejected") ?? document.createElement("p");
  notice.className = "error rejected";
  notice.setAttribute("role", "alert");
  notice.textContent = text ?? document.getElementById("key-refused").dataset.failed;
  form.append(notice);
}
