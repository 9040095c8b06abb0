const ORIGIN = new URL(import.meta.url).origin;

/** Return the origin of Customer Chats for an element, whose attribute may end with a slash. */
export function baseOf(host) {
  return new URL(host.getAttribute("base") ?? ORIGIN).origin;
}

/** Return a new element. Styles are set by sheets, never by attributes, which a strict policy forbids. */
export function element(name, attributes = {}, namespace = "http://www.w3.org/1999/xhtml") {
  const created = document.createElementNS(namespace, name);
  for (const [attribute, value] of Object.entries(attributes)) created.setAttribute(attribute, value);
  return created;
}

export function set(target, attribute, value) {
  if (value === null) target.removeAttribute(attribute);
  else target.setAttribute(attribute, value);
}
