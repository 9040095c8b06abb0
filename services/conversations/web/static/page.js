// The entry point of the pages' scripts. Every page works without them.

import { announce, fill } from "./announce.js";
import { person, role } from "./api.js";
import { startAttaching } from "./attachments.js";
import { concernsBell, isForReader, refreshBell, startBell } from "./bell.js";
import { onThread, startThread, thread } from "./current-thread.js";
import { startHeader } from "./conversation-actions.js";
import { startBulk } from "./bulk.js";
import { startCanned } from "./canned.js";
import { LIST_INTERVAL, close, hasInbox, noteEvent, noteMissed, opensBeside, refreshInbox, startDesk, startPeeking } from "./desk.js";
import { startDeskForms, startNotes } from "./desk-forms.js";
import { startEmailRetry } from "./email-retry.js";
import { startDrafts, startForms } from "./forms.js";
import { reportUnread, startFrame } from "./frame.js";
import { startKeys } from "./keys.js";
import { startPeopleSearch } from "./people-search.js";
import { noteAnswer, notePresence, startPresence } from "./presence.js";
import { onRefresh, refresh } from "./refresh.js";
import { noteViewer } from "./row-presence.js";
import { startSelection } from "./selection.js";
import { flush, startSending } from "./sending.js";
import { follow } from "./stream.js";
import { concerns, refreshThread, startReading } from "./thread.js";
import { showToast } from "./toast.js";
import { startZone } from "./zone.js";

const OWN_SIDE = role === "admin" ? "admin" : "user";

reloadForNextUser();
startFrame();
onRefresh(reportUnread);
startMenus();
startForms();
for (const start of [startDrafts, startAttaching, startReading, startSending, startEmailRetry, startHeld, startPresence, startCanned, startNotes, startPeeking, startHeader]) {
  onThread(start);
}
startThread();
if (!document.querySelector("[data-thread]")) startAttaching(document.body);
startBell();
startDesk();
startKeys();
startSelection();
startPeopleSearch();
startHeld();
startDeskForms();
startBulk();
startZone();
follow({ event: handle, missed: refreshPage, connection });

/** Reload when another user signs in in this browser, so that no other user's data stays on the screen. */
function reloadForNextUser() {
  const tabs = new BroadcastChannel("chats-person");
  const user = `${role} ${person}`;
  tabs.onmessage = ({ data }) => data === user || location.reload();
  tabs.postMessage(user);
}

/** Close an open menu on Escape, or on a click or focus outside it. */
function startMenus() {
  const closeOthers = (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  };
  document.addEventListener("pointerdown", closeOthers);
  document.addEventListener("focusin", closeOthers);
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

function handle(type, data) {
  if (type === "unread") return showUnread(data);
  if (type === "presence") {
    noteViewer(data);
    return notePresence(data);
  }
  if (concernsBell(type, data)) refreshBell();
  if (type === "notification.created") return;
  noteEvent(data);
  if (type !== "email.updated") refreshList(); // which shows nothing of emails
  const isOwnRead = type === "conversation.read" && data.by === OWN_SIDE; // which a thread does not show
  if (!concerns(data) || isOwnRead) return;
  if (type === "conversation.deleted") return opensBeside() ? closeDeleted() : location.reload();
  if (type === "message.posted") noteAnswer(data.message);
  refreshThread();
  if (isForReader(type, data)) thread.dispatchEvent(new Event("chats:awaited"));
}

function closeDeleted() {
  showToast("deleted", { subject: thread.querySelector("h1").textContent });
  close();
}

function refreshPage() {
  takeCountFromPages();
  refreshBell();
  refreshList();
  noteMissed();
  refreshThread();
}

function refreshList() {
  refreshInbox(LIST_INTERVAL);
  if (!hasInbox() && !thread) refresh(LIST_INTERVAL);
}

/** Take the unread count from refreshed pages, until the stream brings one. */
function takeCountFromPages() {
  document.getElementById("unread").dataset.live = "";
}

/** Show the unread count in the page and in the tab's title. */
function showUnread({ unread, more }) {
  const badge = document.getElementById("unread");
  delete badge.dataset.live; // a page that was fetched before has an older count
  const count = more ? "999+" : String(unread);
  const before = badge.firstElementChild.textContent;
  badge.hidden = !unread;
  badge.firstElementChild.textContent = count;
  badge.lastElementChild.textContent = fill(document.getElementById("announcer").dataset.unread, { count });
  reportUnread();
  document.title = document.title.replace(/^\([0-9]+\+?\) /, "");
  if (unread) document.title = `(${count}) ${document.title}`;
  if (unread > Number.parseInt(before, 10) && !thread) announce("unread", { count });
}

function connection(state) {
  const notice = document.getElementById("connection");
  if (state === "over") return location.reload(); // the server redirects to the sign-in page
  notice.hidden = state !== "lost";
  if (state !== "lost") return flush();
  notice.textContent = notice.dataset.lost;
  takeCountFromPages();
}

/** Load what explains held emails when the page first shows one: those of a thread, or in the inbox. */
function startHeld(thread, closed) {
  let begun = false;
  const begin = async () => {
    if (begun || !document.querySelector(thread ? "#held [data-held]" : "[data-unmatched] [data-held]")) return;
    begun = true;
    const { startHeldEmails, startUnmatched } = await import("./held-emails.js");
    thread ? startHeldEmails(thread, closed) : startUnmatched();
  };
  onRefresh(begin, closed);
  begin();
}
