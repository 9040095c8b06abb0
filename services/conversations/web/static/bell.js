// The bell: a customer's newest NEW_MESSAGE records, from the other service. When that is away, the rest goes on.

import { call } from "./api.js";

const SHOWN = 10;
const SETTLE = 1_000; // ms that a record comes behind its message
const bell = document.getElementById("bell");
let timer = null;

export function startBell() {
  if (!bell) return;
  bell.hidden = false;
  bell.addEventListener("toggle", () => bell.open && list());
  document.getElementById("bell-read-all").addEventListener("click", async () => {
    await call("POST", "/api/v1/notifications/read-all").catch(() => null);
    list();
  });
  count();
}

/** Look again in a moment: something has happened. */
export function ring() {
  if (!bell) return;
  clearTimeout(timer);
  timer = setTimeout(() => (bell.open ? list() : count()), SETTLE);
}

async function get(path) {
  const response = await call("GET", path);
  if (!response.ok) throw new Error(response.status);
  return response.json();
}

async function count() {
  const { unread } = await get("/api/v1/notifications/unread").catch(() => ({ unread: 0 }));
  document.getElementById("bell-dot").hidden = !unread;
}

async function list() {
  const items = document.getElementById("bell-items");
  const sheet = items.closest(".sheet");
  try {
    const page = await get(`/api/v1/notifications?limit=${SHOWN}`);
    items.replaceChildren(...(page.items.length ? page.items.map(entry) : [none(sheet.dataset.empty)]));
  } catch {
    items.replaceChildren(none(sheet.dataset.away));
  }
  count();
}

function entry(record) {
  const item = document.createElement("li");
  item.classList.toggle("unread", !record.is_read);
  const link = item.appendChild(document.createElement("a"));
  link.href = `/dashboard/messages/${record.conversation_id}/`;
  link.append(`${record.sender_name}: ${record.subject}`);
  link.appendChild(document.createElement("p")).append(record.preview);
  link.dir = "auto";
  return item;
}

function none(words) {
  const item = document.createElement("li");
  item.className = "none";
  item.append(words);
  return item;
}
