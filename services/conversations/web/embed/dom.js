const ORIGIN = new URL(import.meta.url).origin;

const bases = new Map(); // the origins of attributes, which are read for each message of a frame

/** Return the origin of Customer Chats for an element, whose attribute may lack the scheme or end with a slash. */
export function baseOf(host) {
  const base = host.getAttribute("base")?.trim();
  if (!base) return ORIGIN;
  if (!bases.has(base)) bases.set(base, originOf(base, host.localName));
  return bases.get(base);
}

function originOf(base, name) {
  try {
    return new URL(/^https?:/i.test(base) ? base : `https://${base.replace(/^\/\//, "")}`).origin;
  } catch {
    console.error(`<${name}>: base="${base}" is not the URL of a site. Write its origin, such as base="https://chats.store.example".`);
    return ORIGIN;
  }
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
