// Replaces a part of the page.

/** Replace an element by a newer one, and keep its selection, its focus, and what was typed or chosen in it. */
export function replace(element, fresh) {
  const checked = [...element.querySelectorAll(":checked[id]")].map((box) => box.id);
  const fields = [...element.querySelectorAll("select[id], textarea[id], input[id]:not([type=hidden], [type=checkbox])")];
  const changed = fields.filter((field) => field.value !== valueOf(field)).map(({ id, value }) => [id, value]);
  const focused = element.contains(document.activeElement) && document.activeElement.id;
  element.replaceWith(fresh);
  for (const id of checked) {
    const box = document.getElementById(id);
    if (box) box.checked = true;
  }
  for (const [id, value] of changed) {
    const field = document.getElementById(id);
    if (field) field.value = value;
  }
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/** Return the value of a field that nobody has changed. */
function valueOf(field) {
  if (field.tagName !== "SELECT") return field.defaultValue;
  const chosen = [...field.options].find((option) => option.defaultSelected) ?? field.options[0];
  return chosen?.value ?? "";
}
