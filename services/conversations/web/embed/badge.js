// <chats-badge>: the number of unread conversations, for a store's header. docs/embedding.md has its attributes.

import { baseOf, element, set } from "./dom.js";
import { sourceOf } from "./unread.js";

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { position: relative; }
  a { color: inherit; text-decoration: inherit; }
  [part="count"] {
    display: inline-block; box-sizing: border-box;
    min-inline-size: 1.7em; margin-inline-start: .3em; padding-inline: .45em;
    border: 1px solid transparent; border-radius: 1em; text-align: center; white-space: nowrap;
    background: var(--chats-badge-background, #b3261e); color: var(--chats-badge-color, #fff);
    font: var(--chats-badge-font, 700 .75em/1.5 system-ui, sans-serif); font-variant-numeric: tabular-nums;
  }
  [part="count"][hidden] { display: none; }
  #words, #news { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); }
`);

class ChatsBadge extends HTMLElement {
  static observedAttributes = ["href", "label", "token-url", "base"];

  source = null; // from the messenger, whose button has a badge
  #link = element("a", { part: "link" });
  #count = element("span", { part: "count", "aria-hidden": "true" });
  #words = element("span", { id: "words" }); // the link's name; a live region cannot name it
  #news = element("span", { id: "news", role: "status" });
  #unread = null;
  #unfollow = null;

  constructor() {
    super();
    this.#link.append(element("slot"), this.#count);
    this.attachShadow({ mode: "open" }).append(this.#link, this.#words, this.#news);
    this.shadowRoot.adoptedStyleSheets = [STYLE];
    this.#draw();
  }

  connectedCallback() {
    const source = this.source ?? sourceOf(baseOf(this), this.getAttribute("token-url"));
    this.#unfollow = source.follow((unread) => {
      this.#unread = unread;
      this.#draw();
    });
  }

  disconnectedCallback() {
    this.#unfollow?.();
    this.#unfollow = this.#unread = null;
  }

  attributeChangedCallback(name) {
    if (this.#unfollow && (name === "token-url" || name === "base")) {
      this.disconnectedCallback(); // perhaps the next user's
      this.connectedCallback();
    }
    this.#draw();
  }

  #draw() {
    const href = this.getAttribute("href");
    const shown = this.#unread && (this.#unread.more ? `${this.#unread.unread - 1}+` : `${this.#unread.unread}`);
    const label = this.getAttribute("label") ?? (href === null ? "{count} unread" : "Messages, {count} unread");
    this.#count.hidden = !this.#unread?.unread;
    this.#count.textContent = shown;
    const words = shown === null ? "" : label.replaceAll("{count}", shown);
    if (this.#words.textContent && this.#words.textContent !== words) this.#news.textContent = words; // changes only
    this.#words.textContent = words;
    set(this.#link, "href", href);
    set(this.#link, "aria-labelledby", href !== null && words ? "words" : null);
  }
}

if (!customElements.get("chats-badge")) customElements.define("chats-badge", ChatsBadge);
