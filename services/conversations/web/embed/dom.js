export const ORIGIN = new URL(import.meta.url).origin;

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
