// What is shown of the log: the form's fields, and what was clicked, which stands below it. All of it is in the address.

import { button, make } from "../shared/elements.js";
import { when } from "../shared/words.js";

const form = document.getElementById("filter");
const picked = new Map(); // by what a click filters and the form has no field for
const backends = new Set();
const USUAL = { minutes: "60" };

let changed = () => {};

const entries = () => [...new FormData(form), ...picked].filter(([name, value]) => value !== "" && USUAL[name] !== value);
export const query = () => new URLSearchParams(entries()).toString();
export const hasFilter = () => entries().some(([name]) => name !== "minutes");

export function set(wanted) {
  for (const [name, value] of Object.entries(wanted)) {
    const field = form.elements[name];
    if (name === "backend") listBackends([value]);
    if (field) field.value = value;
    else if (value === "") picked.delete(name);
    else picked.set(name, String(value));
  }
  showPicked();
  changed();
}

export function listBackends(names) {
  const before = backends.size;
  for (const name of names) if (name) backends.add(name);
  if (backends.size === before) return;
  const select = form.elements.backend;
  const chosen = select.value;
  select.replaceChildren(new Option("all", ""), ...[...backends].sort().map((name) => new Option(name, name)));
  select.value = chosen;
}

const shownAs = (name, value) => (name === "since" || name === "until" ? when(Number(value)) : value);

function showPicked() {
  document.getElementById("picked").replaceChildren(...[...picked].map(([name, value]) =>
    button(make("span", {}, `${name}: `, make("bdi", {}, shownAs(name, value)), " ✕"), () => set({ [name]: "" }),
      { class: "chip", "aria-label": `Take away ${name} ${shownAs(name, value)}` })));
}

// `onChange()` is called after each change; typing counts when it rests.
export function startFilter(onChange) {
  const given = new URLSearchParams(location.search);
  given.delete("record");
  set(Object.fromEntries(given));
  for (const select of form.querySelectorAll("select")) if (select.selectedIndex < 0) select.value = USUAL[select.name] ?? "";
  changed = onChange;
  let typing = null;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    clearTimeout(typing);
    typing = setTimeout(changed, target.type === "search" ? 400 : 0);
  });
  addEventListener("click", (event) => {
    const link = event.target.closest("[data-filter]");
    if (!link || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    set(JSON.parse(link.dataset.filter));
  });
}

// The address of this page with `wanted` added to the filter, for links that open elsewhere.
export function addressWith(wanted) {
  const all = new URLSearchParams(query());
  for (const [name, value] of Object.entries(wanted)) all.set(name, value);
  return `?${all}`;
}
