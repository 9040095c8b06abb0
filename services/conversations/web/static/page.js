// What makes a page live. Without it every page works all the same.

import { announce, fill } from "./announce.js";
import { person, role } from "./api.js";
import { ring, startBell } from "./bell.js";
import * as fates from "./fates.js";
import { startForms } from "./forms.js";
import { startInbox } from "./inbox.js";
import { refresh } from "./refresh.js";
import { flush, startSending } from "./sending.js";
import { follow } from "./stream.js";
import { concerns, refreshThread, startThread } from "./thread.js";

const LIST_PACE = 1_500; // ms between looks at a list on which much happens
const thread = document.querySelector("[data-thread]");

leaveToSuccessor();
startMenus();
startForms();
startThread();
startSending();
startBell();
fates.startFates();
startInbox();
follow({ event: handle, missed: look, connection });

/** Whoever signs in at this browser is shown a page: of anybody else's nothing stays on the screen then. */
function leaveToSuccessor() {
  const tabs = new BroadcastChannel("chats-person");
  const whose = `${role} ${person}`;
  tabs.onmessage = ({ data }) => data === whose || location.reload();
  tabs.postMessage(whose);
}

/** Close a menu by Escape, and by a click or the focus elsewhere. */
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
  if (type === "message.posted" || type === "conversation.read") ring();
  if (!thread) refresh(LIST_PACE);
  else if (concerns(data)) {
    if (type === "conversation.deleted") return location.reload();
    refreshThread();
    fates.look();
  }
}

function look() {
  thread ? refreshThread() : refresh(LIST_PACE);
}

/** Show a count in the page and in the tab's title. */
function showUnread({ unread, more }) {
  const badge = document.getElementById("unread");
  const count = more ? "999+" : String(unread);
  const was = badge.firstElementChild.textContent;
  badge.hidden = !unread;
  badge.firstElementChild.textContent = count;
  badge.lastElementChild.textContent = fill(document.getElementById("announcer").dataset.unread, { count });
  document.title = document.title.replace(/^\([0-9]+\+?\) /, "");
  if (unread) document.title = `(${count}) ${document.title}`;
  if (unread > Number.parseInt(was, 10) && !thread) announce("unread", { count });
}

function connection(state) {
  const notice = document.getElementById("connection");
  if (state === "over") return location.reload(); // the server knows the way to sign in
  notice.hidden = state !== "lost";
  if (state === "lost") notice.textContent = notice.dataset.lost;
  else flush();
}
