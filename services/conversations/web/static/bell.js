// The bell: the reader's newest notifications, from the notifications service. The page works without that service.

import { alertAbout, alertsAreOn, noteSeen, startAlerts } from "./alerts.js";
import { fill } from "./announce.js";
import { call, person, role } from "./api.js";
import { releaseOf } from "./refresh.js";
import { writeMoment } from "./times.js";

const MAX_NOTIFICATIONS = 100;
const MAX_CONVERSATIONS = 10;
const FOR_READER = ["MENTION", "ASSIGNED"];
const DELAYS = [1_000, 4_000, 15_000]; // ms until a message has its notification, also if that service is behind
const bell = document.getElementById("bell");
let timer = null;
let isSoon = false; // the first reload after an event is due
let isLater = false; // and there was another event since
let listing = 0; // the number of the newest request
let counting = 0;

export function startBell() {
  if (!bell) return;
  bell.hidden = false;
  bell.addEventListener("toggle", () => bell.open && list());
  document.getElementById("bell-read-all").addEventListener("click", async () => {
    await call("POST", "/api/v1/notifications/read-all").catch(() => null);
    list();
  });
  startAlerts(newestUnread);
  count();
  if (!document.getElementById("unread").hidden) refreshBell(); // a notification may still be on its way
}

/** Reload the bell in a moment, after an event, and again later. Further events do not put that moment off. */
export function refreshBell() {
  if (!bell) return;
  isLater = isSoon;
  if (isSoon) return;
  isSoon = true;
  clearTimeout(timer);
  reloadAfter(DELAYS);
}

function reloadAfter([delay, ...others]) {
  timer = setTimeout(() => {
    isSoon = false;
    if (isLater) refreshBell();
    else if (others.length) reloadAfter(others);
    bell.open ? list() : count();
    lookForNews();
  }, delay);
}

/** Return whether an event may have changed the reader's notifications. */
export function concernsBell(type, data) {
  if (role !== "admin") return type === "message.posted" || type === "conversation.read";
  if (type === "message.posted") return data.message?.sender.role === "customer";
  return isForReader(type, data) || ["conversation.created", "conversation.read", "conversation.deleted", "note.deleted"].includes(type);
}

/** Return whether an event says that something was done for the admin who reads. */
export function isForReader(type, data) {
  if (type === "notification.created") return data.recipient_id === person;
  if (type === "note.posted") return data.mentions?.includes(person) ?? false;
  return type === "conversation.updated" && data.conversation.assignee?.id === person;
}

async function lookForNews() {
  const newest = alertsAreOn() && (await newestUnread());
  if (newest) alertAbout(newest, titleOf(newest));
}

async function newestUnread() {
  const page = await get("/api/v1/notifications?unread=true&limit=1").catch(() => null);
  return page?.items[0];
}

async function get(path) {
  const response = await call("GET", path);
  if (!response.ok) throw new Error(response.status);
  return response.json();
}

async function count() {
  const request = ++counting;
  const answer = await get("/api/v1/notifications/unread").catch(() => null); // then it stays as it is
  if (answer && request === counting) document.getElementById("bell-dot").hidden = !answer.unread;
}

async function list() {
  const request = ++listing;
  const items = document.getElementById("bell-items");
  const { empty, away, several } = items.closest(".sheet").dataset;
  const page = await get(`/api/v1/notifications?limit=${MAX_NOTIFICATIONS}`).catch(() => null);
  await releaseOf("#bell-items :active");
  if (request !== listing) return; // a newer list is shown or on its way
  noteSeen(page?.items[0]);
  const entries = group(page?.items ?? []).slice(0, MAX_CONVERSATIONS).map((notifications) => entry(notifications, several));
  const fresh = items.cloneNode(false);
  fresh.append(...(entries.length ? entries : [hint(page ? empty : away)]));
  if (!items.isEqualNode(fresh)) items.replaceChildren(...fresh.children); // else a link in it would lose the focus
  count();
}

/** Group notifications by conversation, the newest first. */
function group(notifications) {
  const groups = new Map();
  for (const notification of notifications) {
    const { conversation_id: id } = notification;
    groups.set(id, [...(groups.get(id) ?? []), notification]);
  }
  return [...groups.values()];
}

/** Show a conversation with its newest notification, and the number of unread ones if there are several. */
function entry(notifications, several) {
  // What a colleague did for the reader goes first.
  const newest = notifications.find(({ type, is_read: isRead }) => FOR_READER.includes(type) && !isRead) ?? notifications[0];
  const unread = notifications.filter((notification) => !notification.is_read).length;
  const item = document.createElement("li");
  item.classList.toggle("unread", unread > 0);
  const link = item.appendChild(document.createElement("a"));
  link.href = `${bell.dataset.root}${newest.conversation_id}/`;
  const title = link.appendChild(document.createElement("span"));
  title.dir = "auto";
  title.append(titleOf(newest));
  const time = link.appendChild(document.createElement("time"));
  time.dateTime = newest.created_at;
  time.append(writeMoment(newest.created_at));
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

/** Return what a notification says, by its type. */
function titleOf({ type, sender_name: name, subject }) {
  const { mention, assigned } = bell.dataset;
  const text = { MENTION: mention, ASSIGNED: assigned }[type];
  return text ? fill(text, { name, subject }) : `${name}: ${subject}`;
}

function hint(text) {
  const item = document.createElement("li");
  item.className = "none";
  item.append(text);
  return item;
}
