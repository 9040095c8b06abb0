// Replaces a part of the page.

/** Replace an element by a newer one, and keep its selection and focus. */
export function replace(element, fresh) {
  const checked = [...element.querySelectorAll(":checked[id]")].map((box) => box.id);
  const focused = element.contains(document.activeElement) && document.activeElement.id;
  element.replaceWith(fresh);
  for (const id of checked) {
    const box = document.getElementById(id);
    if (box) box.checked = true;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}
