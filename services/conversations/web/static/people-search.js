// Suggestions of customers for the text in a field.

import { call } from "./api.js";

const DELAY = 150; // ms after the last key
let timer = null;

export function startPeopleSearch() {
  document.addEventListener("input", ({ target }) => {
    if (!target.matches("input[data-people]")) return;
    clearTimeout(timer);
    const q = target.value.trim();
    if (q) timer = setTimeout(() => suggest(target, q), DELAY);
  });
}

async function suggest(input, q) {
  const response = await call("GET", `/api/v1/admin/users?limit=10&q=${encodeURIComponent(q)}`).catch(() => null);
  if (!response?.ok || input.value.trim() !== q) return;
  const { items } = await response.json();
  input.list.replaceChildren(...items.map(({ id, name, email }) => new Option([name, email].filter(Boolean).join(" · "), id)));
}
