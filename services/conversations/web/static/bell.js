// The bell: a customer's newest NEW_MESSAGE records, from the other service. When that is away, the rest goes on.

import { fill } from "./announce.js";
import { call } from "./api.js";
import { writeMoment } from "./times.js";

const FETCHED = 100; // records
const SHOWN = 10; // conversations
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
    const page = await get(`/api/v1/notifications?limit=${FETCHED}`);
    const entries = group(page.items).slice(0, SHOWN).map((records) => entry(records, sheet.dataset));
    items.replaceChildren(...(entries.length ? entries : [none(sheet.dataset.empty)]));
  } catch {
    items.replaceChildren(none(sheet.dataset.away));
  }
  count();
}

/** Put the records of each conversation together; the order is that of their newest ones. */
function group(records) {
  const groups = new Map();
  for (const record of records) {
    groups.set(record.conversation_id, [...(groups.get(record.conversation_id) ?? []), record]);
  }
  return [...groups.values()];
}

/** Show a conversation by its newest record, with the time, and the number of unread ones when there are several. */
function entry(records, { locale, zone, several }) {
  const [newest] = records;
  const unread = records.filter((record) => !record.is_read).length;
  const item = document.createElement("li");
  item.classList.toggle("unread", unread > 0);
  const link = item.appendChild(document.createElement("a"));
  link.href = `/dashboard/messages/${newest.conversation_id}/`;
  const title = link.appendChild(document.createElement("span"));
  title.dir = "auto";
  title.append(`${newest.sender_name}: ${newest.subject}`);
  const time = link.appendChild(document.createElement("time"));
  time.dateTime = newest.created_at;
  time.append(writeMoment(newest.created_at, locale, zone));
  const preview = link.appendChild(document.createElement("p"));
  preview.dir = "auto";
  preview.append(newest.preview);
  if (unread > 1) {
    const count = link.appendChild(document.createElement("span"));
    count.className = "several";
    count.append(fill(several, { count: unread }));
  }
  return item;
}

function none(words) {
  const item = document.createElement("li");
  item.className = "none";
  item.append(words);
  return item;
}
