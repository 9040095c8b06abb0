// Inserts canned replies: from their menu, or by typing "/" in an empty reply.

import { call, role } from "./api.js";
import { fill } from "./announce.js";
import { apiPath } from "./thread.js";

export function startCanned(thread, closed) {
  const menu = thread.querySelector("#canned");
  const field = thread.querySelector("#reply_body");
  if (role !== "admin" || !menu || !field) return;
  const search = menu.querySelector("#canned-search");
  const links = [...menu.querySelectorAll("[data-canned]")];
  const shown = () => links.filter((link) => !link.parentElement.hidden);
  const none = menu.querySelector("#canned-none");
  const warning = thread.querySelector("#canned-empty");
  let opener = null; // where the focus returns to
  let asked = 0; // the number of the newest request
  search.hidden = !links.length;
  const filter = () => {
    const words = search.value.replace(/^\//, "").toLocaleLowerCase().split(/\s+/);
    for (const link of links) {
      link.parentElement.hidden = !words.every((word) => link.dataset.words.toLocaleLowerCase().includes(word));
    }
    if (!links.length) return;
    none.hidden = shown().length > 0;
    none.textContent = none.hidden ? "" : none.dataset.none;
  };
  const openMenu = () => {
    opener = field;
    menu.open = true;
    search.value = "";
    filter();
    search.focus();
  };
  menu.addEventListener("toggle", () => {
    if (!menu.open) opener = null;
    else if (document.activeElement === menu.firstElementChild) search.focus();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "/" || field.value || event.ctrlKey || event.metaKey || event.altKey || !links.length) return;
    event.preventDefault();
    openMenu();
  });
  search.addEventListener("input", filter);
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation(); // keys.js would take the focus away
      const back = opener ?? menu.querySelector("summary");
      menu.open = false;
      back.focus();
    } else if (event.key === "Enter" && event.target === search) {
      event.preventDefault();
      shown()[0]?.click();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const stops = [search, ...shown()];
      stops[stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    }
  });
  const warn = (empty) => {
    const names = JSON.parse(warning.dataset.names);
    warning.hidden = !empty.length;
    warning.textContent = empty.length ? fill(warning.dataset.text, { names: empty.map((name) => names[name]).join(", ") }) : "";
  };
  field.addEventListener("input", () => field.value.trim() || warn([])); // also when it was sent
  menu.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-canned]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const request = ++asked;
    const response = await call("GET", `${apiPath(thread)}/canned-replies/${link.dataset.canned}`).catch(() => null);
    if (closed.aborted || request !== asked) return; // it was clicked twice
    if (!response?.ok) return location.assign(link.href);
    const { body, empty } = await response.json();
    menu.open = false;
    field.setRangeText(body, field.selectionStart, field.selectionEnd, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
    if (empty.length) warn(empty);
  });
}
