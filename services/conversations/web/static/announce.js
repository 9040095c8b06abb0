// What is said to those who listen to a page instead of looking at it. The words are the page's own.

const announcer = document.getElementById("announcer");

export function announce(words, values) {
  if (announcer) announcer.textContent = fill(announcer.dataset[words], values);
}

export function fill(words, values) {
  return words.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}
