// Changes the selected conversations without leaving the inbox.

import { call, person, role } from "./api.js";
import { thread } from "./current-thread.js";
import { refreshInbox } from "./desk.js";
import { refreshThread } from "./thread.js";
import { showToast } from "./toast.js";

const PATH = "/api/v1/admin/conversations";
// What each button changes; the others lead to a page.
const CHANGES = {
  resolve: () => ({ status: "RESOLVED" }),
  close: () => ({ status: "CLOSED" }),
  read: () => ({ read: true }),
  unread: () => ({ read: false }),
  mine: () => ({ assignee_id: person }),
  label: (fields) => ({ add_labels: [fields.get("label")] }),
};

export function startBulk() {
  if (role === "admin") document.addEventListener("submit", submit);
}

function submit(event) {
  const change = event.target.id === "bulk" && CHANGES[event.submitter?.value];
  if (!change) return;
  event.preventDefault();
  if (event.submitter.value === "label" && !document.getElementById("bulk-label").value.trim()) return;
  changeSelected(event.target, change(new FormData(event.target)));
}

async function changeSelected(form, change) {
  const boxes = [...document.querySelectorAll('input[name="ids"]:checked')];
  const rows = boxes.map((box) => box.closest(".row")).map(({ id, dataset }) => ({
    id: id.slice(2),
    seen_number: Number(dataset.newest),
    status: dataset.status,
  }));
  const items = rows.map(({ id, seen_number }) => ({ id, seen_number }));
  const response = await call("POST", `${PATH}/bulk`, { body: { items, ...change } }).catch(() => null);
  if (!response?.ok) {
    const notice = document.getElementById("key-refused");
    notice.textContent = notice.dataset.failed;
    notice.hidden = false;
    return;
  }
  const { changed, changed_meanwhile: left } = await response.json();
  for (const { id } of rows) {
    const box = document.querySelector(`#c-${id} [name="ids"]`); // a refresh may have replaced it
    if (!box) continue;
    box.checked = false;
    box.dispatchEvent(new Event("change", { bubbles: true }));
  }
  form.querySelector("details").open = false;
  form.querySelector("#bulk-label").value = "";
  refresh();
  const done = change.status && rows.filter(({ id, status }) => !left.includes(id) && status !== change.status);
  showToast(left.length ? "bulkLeft" : "bulk", { count: changed, left: left.length }, done?.length ? () => undo(done, change.status) : null);
}

/** Set the statuses that they had, except where somebody has written or set another status since. */
async function undo(rows, status) {
  let count = 0;
  for (const { id, seen_number, status: before } of rows) {
    const body = { status: before, expected_status: status, seen_number };
    const response = await call("PATCH", `${PATH}/${id}`, { body }).catch(() => null);
    count += response?.ok ? 1 : 0;
  }
  refresh();
  const left = rows.length - count;
  showToast(left ? "bulkUndoneLeft" : "bulkUndone", { count, left });
}

function refresh() {
  refreshInbox();
  if (thread) refreshThread();
}
