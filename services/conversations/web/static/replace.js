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

/** Replace an item of a list by a newer one, and keep its open menus and its focus. */
export function replaceItem(element, fresh) {
  const controls = (item) => [...item.querySelectorAll("a, button, summary")];
  const menus = (item) => [...item.querySelectorAll("details")];
  const focused = controls(element).indexOf(document.activeElement);
  const opened = menus(element).map((menu) => menu.open);
  const hasFocus = document.activeElement === element;
  element.replaceWith(fresh);
  menus(fresh).forEach((menu, index) => {
    menu.open = opened[index] ?? false;
  });
  if (hasFocus) fresh.tabIndex = -1;
  const target = hasFocus ? fresh : controls(fresh)[focused];
  target?.focus({ preventScroll: true });
}

/** Return the value of a field that nobody has changed. */
function valueOf(field) {
  if (field.tagName !== "SELECT") return field.defaultValue;
  const chosen = [...field.options].find((option) => option.defaultSelected) ?? field.options[0];
  return chosen?.value ?? "";
}
