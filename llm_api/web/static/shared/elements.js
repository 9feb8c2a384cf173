// Elements. A model's answer is a stranger's text: it becomes text nodes, never markup.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Replace what is in an element. The focus stays with the link or button that had it: one with the same data.
export function refill(element, ...children) {
  const focused = element.contains(document.activeElement) ? JSON.stringify(document.activeElement.dataset) : null;
  element.replaceChildren(...children);
  if (focused) [...element.querySelectorAll("a, button")].find(({ dataset }) => JSON.stringify(dataset) === focused)?.focus();
}

export const button = (words, onclick, more = {}) => make("button", { type: "button", class: "quiet", onclick, ...more }, words);

export function showDialog(title, ...content) {
  const dialog = make("dialog", { "aria-label": title, onclose: () => dialog.remove() },
    make("header", {}, make("h2", {}, title),
      make("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close ", make("kbd", {}, "Esc"))),
    make("div", {}, ...content));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// A button that copies what `text()` returns.
export function copyButton(words, text, more = {}) {
  return button(words, ({ currentTarget }) => copy(text(), currentTarget), more);
}

export async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    const before = pressed.textContent;
    pressed.textContent = "Copied";
    setTimeout(() => { pressed.textContent = before; }, 1500);
  } catch {
    // only pages from https or this machine may write to the clipboard
    const area = make("textarea", { readonly: true, "aria-label": "To copy" });
    area.value = text;
    showDialog("Press Ctrl+C to copy", area);
    area.select();
  }
}

export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
