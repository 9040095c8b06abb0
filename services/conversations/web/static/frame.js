// In the messenger's frame: talks to the store's page around it, which shows the frame in a panel.

const origins = document.querySelector('meta[name="chats-store-origins"]')?.content.split(" ") ?? [];
// In this tab: where the messenger was, for when it is opened again, and its colors, so that the next page has them at once.
const PLACE = "chats-place";
const LOOK = "chats-look";

export const isFramed = origins.length > 0 && parent !== window;

let store = null; // the origin of the store's page, once it has answered
let isClosed = false; // the panel

/** Return whether nobody can see this page. */
export const isHidden = () => document.hidden || isClosed;

/** Say hello, and do what the store's page asks for. */
export function startFrame() {
  if (!isFramed) return;
  const here = new URL(location);
  here.searchParams.delete("begun");
  history.replaceState(null, "", here);
  if (document.querySelector("[data-thread], #conversations")) keep(PLACE, here.pathname);
  showLook();
  listen((data) => {
    if (data.chats === "open") {
      parent.postMessage({ chats: "opening" }, store);
      location.assign(newConversation(data));
    }
    if (data.chats !== "shown" && data.chats !== "closed") return;
    if (data.look) keep(LOOK, JSON.stringify(data.look));
    showLook();
    reportUnread();
    isClosed = data.chats === "closed";
    document.dispatchEvent(new Event("visibilitychange"));
  });
  document.addEventListener("keydown", closeOnEscape, { capture: true });
  document.addEventListener("click", leaveFrame, { capture: true });
  parent.postMessage({ chats: "hello" }, "*"); // tells nothing; only the store's origins may frame this page
}

/** Tell the store's page the number in the badge. */
export function reportUnread() {
  if (!store) return;
  const badge = document.getElementById("unread");
  const text = badge.firstElementChild.textContent;
  const unread = badge.hidden ? 0 : Number.parseInt(text, 10) + text.endsWith("+");
  parent.postMessage({ chats: "unread", unread, more: text.endsWith("+") }, store);
}

/** Call `handle` with each message of the store's page. */
export function listen(handle) {
  addEventListener("message", ({ data, origin, source }) => {
    if (source !== parent || !origins.includes(origin) || typeof data?.chats !== "string") return;
    store = origin;
    handle(data);
  });
}

/** Return the path of a new conversation, about an order or with a subject. */
export function newConversation({ orderId, subject }) {
  const query = new URLSearchParams();
  if (orderId) query.set("order_id", orderId);
  if (subject) query.set("subject", subject);
  return `/messenger/new/?${query}`;
}

/** Return where the messenger was in this tab. */
export const lastPlace = () => kept(PLACE) ?? "/messenger/";

/** Take over the colors of the store's page. */
function showLook() {
  const { scheme, accent, onAccent } = JSON.parse(kept(LOOK) ?? "{}");
  const { style } = document.documentElement;
  if (["light", "dark"].includes(scheme)) style.colorScheme = scheme;
  if (!CSS.supports("color", accent) || !CSS.supports("color", onAccent)) return;
  style.setProperty("--chats-accent", accent);
  style.setProperty("--chats-on-accent", onAccent);
}

function kept(name) {
  try {
    return sessionStorage.getItem(name);
  } catch {
    return null; // the browser keeps nothing for frames
  }
}

function keep(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // see above
  }
}

function closeOnEscape(event) {
  if (event.key !== "Escape" || event.isComposing || document.querySelector("dialog[open], details.menu[open]")) return;
  parent.postMessage({ chats: "close" }, "*");
}

/** Follow links to other pages in the store's tab or a new one, and show pictures here. */
function leaveFrame(event) {
  const link = event.target.closest("a[href]");
  if (!link) return;
  const isOwn = link.origin === location.origin && link.pathname.startsWith("/messenger/");
  if (!isOwn) link.target = origins.includes(link.origin) ? "_top" : "_blank";
  if (!link.matches(".thumbnail")) return;
  event.preventDefault(); // a new tab would have no session
  showPicture(link);
}

function showPicture(link) {
  const dialog = document.createElement("dialog");
  dialog.className = "picture";
  dialog.ariaLabel = link.querySelector("img").alt;
  const close = document.createElement("button");
  const picture = document.createElement("img");
  Object.assign(picture, { src: link.href, alt: dialog.ariaLabel });
  close.append(picture);
  dialog.append(close);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
