// Announcements for screen readers. The page provides the texts.

const announcer = document.getElementById("announcer");

export function announce(name, values) {
  if (announcer) announcer.textContent = fill(announcer.dataset[name], values);
}

/** Replace each `{name}` in a text by its value. */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
