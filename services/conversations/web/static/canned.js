// Inserts canned replies: from their menu, or by typing "/" in an empty reply.

import { call, role } from "./api.js";
import { apiPath } from "./thread.js";
import { showToast } from "./toast.js";

export function startCanned(thread, closed) {
  const menu = thread.querySelector("#canned");
  const field = thread.querySelector("#reply_body");
  if (role !== "admin" || !menu || !field) return;
  const search = menu.querySelector("#canned-search");
  const links = [...menu.querySelectorAll("[data-canned]")];
  const shown = () => links.filter((link) => !link.parentElement.hidden);
  search.hidden = false;
  const filter = () => {
    const words = search.value.replace(/^\//, "").toLocaleLowerCase().split(/\s+/);
    for (const link of links) {
      link.parentElement.hidden = !words.every((word) => link.dataset.words.toLocaleLowerCase().includes(word));
    }
  };
  const openMenu = () => {
    menu.open = true;
    search.value = "";
    filter();
    search.focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "/" || field.value || event.ctrlKey || event.metaKey || event.altKey || !links.length) return;
    event.preventDefault();
    openMenu();
  });
  search.addEventListener("input", filter);
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target === search) {
      event.preventDefault();
      shown()[0]?.click();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const stops = [search, ...shown()];
      stops[stops.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
    }
  });
  menu.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-canned]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const response = await call("GET", `${apiPath(thread)}/canned-replies/${link.dataset.canned}`).catch(() => null);
    if (closed.aborted) return;
    if (!response?.ok) return location.assign(link.href);
    const { body, empty } = await response.json();
    menu.open = false;
    field.setRangeText(body, field.selectionStart, field.selectionEnd, "end");
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
    if (empty.length) showToast("empty", { names: empty.join(", ") });
  });
}
