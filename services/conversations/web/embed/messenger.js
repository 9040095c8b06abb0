// <chats-messenger>: a button that opens a customer's conversations in a panel. docs/embedding.md has its attributes.

import { baseOf, element } from "./dom.js";
import { SignedOut } from "./chats.js";
import { MESSENGER_STYLE } from "./style.js";
import { textsFor } from "./texts.js";
import { sourceOf } from "./unread.js";

const LONGEST_LOAD = 20_000; // ms until a link stands for a frame that does not answer
const HELLO_AFTER_LOAD = 2_000; // ms: a browser fires `load` for a refused frame, too, which says nothing
const TOKEN_AGE = 60_000; // ms that a token for a session may be old
const SVG = "http://www.w3.org/2000/svg";
const BUBBLE = "M4 5.5h16a1.5 1.5 0 0 1 1.5 1.5v8.5a1.5 1.5 0 0 1-1.5 1.5h-8l-4.5 4v-4H4A1.5 1.5 0 0 1 2.5 15.5V7A1.5 1.5 0 0 1 4 5.5Z";
const CROSS = "M6 6l12 12M18 6L6 18";

class ChatsMessenger extends HTMLElement {
  static observedAttributes = ["token-url", "token", "base", "no-badge", "label", "href"];

  #source = null;
  #getToken = null;
  #connected = null;
  #frame = null;
  #isReady = false; // the frame has said hello
  #hasSpoken = false; // the frame has said anything, so it was not refused
  #asked = null; // what the frame shall open, until it does: {orderId, subject}
  #sent = null; // the same, once it was sent with a token
  #hadSession = false; // the frame has had one, so a second one needs a new token: the customer may have signed out
  #timer = 0;
  #unread = undefined;
  #texts = {};
  #badge = null;
  #unfollow = null;
  #button = element("button", { type: "button", part: "button", "aria-haspopup": "dialog", "aria-expanded": "false" });
  #region = element("section"); // a landmark, because it is outside of the store's own
  #name = element("span", { class: "unseen" });
  #link = element("a", { part: "button" });
  #panel = element("dialog", { part: "panel", tabindex: "-1" });
  #close = element("button", { type: "button", part: "close" });
  #note = element("div", { part: "note", role: "status" });

  constructor() {
    super();
    this.#button.append(icon(BUBBLE), this.#name);
    this.#link.append(icon(BUBBLE));
    this.#close.append(icon(CROSS));
    this.#panel.append(this.#close, this.#note);
    this.attachShadow({ mode: "open" }).append(this.#region);
    this.#region.append(this.#button, this.#link, this.#panel);
    this.shadowRoot.adoptedStyleSheets = [MESSENGER_STYLE];
    this.#button.addEventListener("click", () => this.#toggle());
    this.#close.addEventListener("click", () => this.close());
    this.#panel.addEventListener("close", () => this.#closed());
    this.shadowRoot.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.defaultPrevented && this.#panel.open) this.close();
    });
  }

  /** The store's function that returns a token, or a promise of one; nothing when nobody is signed in. */
  get getToken() {
    return this.#getToken;
  }

  set getToken(given) {
    this.#getToken = given;
    this.#restart();
  }

  connectedCallback() {
    if (Object.hasOwn(this, "getToken")) {
      // It was set before this script ran.
      const given = this.getToken;
      delete this.getToken;
      this.#getToken = given;
    }
    this.#connected = new AbortController();
    const { signal } = this.#connected;
    addEventListener("message", (event) => this.#hear(event), { signal });
    addEventListener("pagehide", () => (this.#isReady = false), { signal }); // the frame reloads when the page is restored
    document.addEventListener("click", (event) => this.#openFor(event), { signal });
    this.#restart();
  }

  disconnectedCallback() {
    this.#connected.abort();
    this.#stop();
    this.#panel.close();
    this.#connected = null;
  }

  attributeChangedCallback(name) {
    if (name === "label" || name === "href") this.#draw();
    else this.#restart();
  }

  /** Open the panel; about an order or with a subject, it shows a new message. */
  open({ orderId, subject } = {}) {
    const asked = orderId || subject ? { orderId, subject } : null;
    if (this.#isLink) return location.assign(this.#address(asked));
    if (!this.#panel.open) {
      // On a phone the panel fills the screen, and the page behind it is out of reach.
      matchMedia("(width < 480px), (height < 400px)").matches ? this.#panel.showModal() : this.#panel.show();
      this.#panel.focus();
      this.#button.setAttribute("aria-expanded", "true");
      this.dispatchEvent(new CustomEvent("chats-open", { bubbles: true }));
    }
    this.#asked = asked ?? this.#asked;
    if (this.#isReady) {
      this.#tellShown();
      if (asked) this.#tell({ chats: "open", ...asked });
      this.#frame.focus();
    } else if (!this.#frame) {
      this.#load();
    }
  }

  /** Close the panel; what was typed in it is kept. */
  close() {
    this.#panel.close(); // which also takes the focus back
  }

  #toggle() {
    if (this.#panel.open) return this.close();
    const orderId = this.getAttribute("order-id");
    // A customer with unread replies wants to read them.
    this.open(orderId && !this.#unread?.unread ? { orderId } : {});
  }

  #closed() {
    this.#button.setAttribute("aria-expanded", "false");
    if (this.#isReady) this.#tell({ chats: "closed" });
    this.dispatchEvent(new CustomEvent("chats-close", { bubbles: true }));
  }

  /** Open for an element of the store with `data-chats-open`; without a token its own link works. */
  #openFor(event) {
    const opener = event.composedPath()[0].closest?.("[data-chats-open]");
    if (!opener || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    if (this !== document.querySelector("chats-messenger") || (this.#isLink && opener.matches("a[href]"))) return;
    event.preventDefault();
    this.open({ orderId: opener.dataset.chatsOpen, subject: opener.dataset.chatsSubject });
  }

  get #base() {
    return baseOf(this);
  }

  get #isLink() {
    return !this.#source || this.#unread === null;
  }

  /** Return where the messages are without the panel. There, who is not signed in is led to the store's sign-in. */
  #address(asked) {
    const fields = Object.entries({ order_id: asked?.orderId, subject: asked?.subject }).filter(([, value]) => value);
    const place = fields.length ? `new/?${new URLSearchParams(fields)}` : "";
    return this.getAttribute("href") ?? `${this.#base}/dashboard/messages/${place}`;
  }

  #restart() {
    if (!this.#connected) return;
    this.#stop();
    const token = this.getAttribute("token");
    const tokens = this.#getToken ?? this.getAttribute("token-url") ?? (token && (() => token));
    this.#source = tokens ? sourceOf(this.#base, tokens) : null;
    if (this.#source && !this.hasAttribute("no-badge")) {
      this.#badge = element("chats-badge");
      this.#badge.source = this.#source;
      this.#button.append(this.#badge);
      this.#unfollow = this.#source.follow((unread) => this.#count(unread));
    }
    this.#draw();
  }

  #stop() {
    this.#unfollow?.();
    this.#source?.starve();
    this.#badge?.remove();
    this.#frame?.remove();
    clearTimeout(this.#timer);
    this.#unfollow = this.#badge = this.#frame = this.#source = null;
    this.#isReady = this.#hadSession = false;
    this.#unread = undefined;
  }

  #count(unread) {
    const before = this.#unread;
    this.#unread = unread;
    if ((before === null) !== (unread === null)) this.#draw();
    if (unread && unread.unread !== before?.unread) this.dispatchEvent(new CustomEvent("chats-unread", { bubbles: true, detail: { ...unread } }));
  }

  #draw() {
    this.#texts = textsFor(this);
    const label = this.getAttribute("label") ?? this.#texts.label;
    this.#button.hidden = this.#isLink;
    this.#link.hidden = !this.#isLink;
    this.#link.href = this.#address();
    this.#region.ariaLabel = this.#link.ariaLabel = this.#panel.ariaLabel = label;
    this.#name.textContent = label;
    this.#close.ariaLabel = this.#texts.close;
    this.#badge?.setAttribute("label", this.#texts.unread);
  }

  #load() {
    this.#say(this.#texts.loading);
    this.#frame = element("iframe", { part: "frame", title: this.#panel.ariaLabel, src: `${this.#base}/messenger/start/` });
    this.#frame.hidden = true;
    this.#hasSpoken = false;
    this.#frame.addEventListener("load", () => this.#hasSpoken || this.#expectHello(HELLO_AFTER_LOAD));
    this.#expectHello(LONGEST_LOAD);
    this.#panel.append(this.#frame);
  }

  #expectHello(delay) {
    clearTimeout(this.#timer);
    if (!this.#isReady) this.#timer = setTimeout(() => this.#fail(`no answer; is ${location.origin} in CHATS_STORE_ORIGINS?`), delay);
  }

  /** Show a link instead of the frame; opening the panel again tries again. */
  #fail(reason, text = this.#texts.away, words = this.#texts.open) {
    if (reason) console.warn(`<chats-messenger> shows a link instead of ${this.#base}: ${reason} See docs/embedding.md#messenger.`);
    clearTimeout(this.#timer);
    this.#isReady = false;
    this.#source?.starve();
    const link = element("a", { href: this.#address(this.#asked ?? this.#sent), target: "_top" });
    link.append(words);
    this.#say(text, link);
    this.#frame?.remove();
    this.#frame = this.#asked = null;
  }

  #say(...content) {
    this.#note.hidden = !content.length;
    this.#note.replaceChildren(...content);
  }

  #tellShown() {
    const style = getComputedStyle(this);
    const [accent, onAccent] = ["--chats-accent", "--chats-on-accent"].map((name) => style.getPropertyValue(name).trim());
    // Not every browser takes over the color scheme of a frame's element.
    this.#tell({ chats: this.#panel.open ? "shown" : "closed", look: { scheme: style.colorScheme, accent, onAccent } });
  }

  #tell(message) {
    this.#frame.contentWindow.postMessage(message, this.#base);
  }

  /** Answer the frame. Nobody else is heard. */
  #hear({ data, origin, source }) {
    if (!this.#frame || source !== this.#frame.contentWindow || origin !== this.#base) return;
    const { chats } = data ?? {};
    this.#hasSpoken = true;
    if (chats === "hello") this.#welcome();
    else if (chats === "start") this.#start();
    else if (chats === "expired") this.#begin(0);
    else if (chats === "refused") this.#fail(`the token was refused (${data.reason}).`);
    else if (chats === "blocked") this.#fail("the browser kept no cookie for the frame.");
    else if (chats === "close") this.close();
    else if (chats === "opening") this.#asked = null;
    else if (chats === "unread") {
      const unread = { unread: Number(data.unread), more: data.more === true };
      this.#source.feed(unread);
      this.#count(unread); // also without a badge
    }
  }

  #welcome() {
    clearTimeout(this.#timer);
    this.#isReady = this.#hadSession = true;
    this.#say();
    this.#frame.hidden = false;
    this.#tellShown();
    // Asked for after the token was sent, or of a page of the frame that was just being left.
    if (this.#asked) this.#tell({ chats: "open", ...this.#asked });
    this.#asked = null;
    if (this.shadowRoot.activeElement === this.#panel) this.#frame.focus();
  }

  #start() {
    this.#sent = this.#asked;
    this.#asked = null;
    this.#begin(this.#hadSession ? 0 : TOKEN_AGE);
  }

  /** Give the frame a token for its session. */
  async #begin(maxAge) {
    const frame = this.#frame;
    this.#isReady = false;
    this.#expectHello(LONGEST_LOAD);
    try {
      const token = await this.#source.chats.token(undefined, maxAge);
      if (frame !== this.#frame) return;
      this.#tell({ chats: "token", token, isFresh: !maxAge, ...this.#sent });
    } catch (error) {
      if (frame !== this.#frame) return;
      if (error instanceof SignedOut) this.#fail("", this.#texts.signIn, this.#texts.enter);
      else this.#fail(`no token (${error.message}).`);
    }
  }
}

function icon(path) {
  const drawing = element("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, SVG);
  drawing.append(element("path", { d: path }, SVG));
  return drawing;
}

if (!customElements.get("chats-messenger")) customElements.define("chats-messenger", ChatsMessenger);
