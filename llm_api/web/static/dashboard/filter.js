// What is shown of the log: the form's fields, and a stretch of time that was clicked. All of it is in the address.

import { button, make } from "../shared/elements.js";
import { when } from "../shared/words.js";

const form = document.getElementById("filter");
const field = form.elements;
const FOLDED = ["model", "operation", "error", "reason", "caller"]; // they stand below the form while they filter
const USUAL = { minutes: "60" };
let stretch = {}; // {since, until}, in the place of the last minutes

let changed = () => {};

const entries = () => Object.entries({ ...Object.fromEntries(new FormData(form)), ...stretch })
  .filter(([name, value]) => value !== "" && USUAL[name] !== value);
export const query = () => new URLSearchParams(entries()).toString();
export const hasFilter = () => entries().some(([name]) => name !== "minutes");

export function set({ since, until, ...wanted }) {
  if (since && until) stretch = { since, until };
  for (const [name, value] of Object.entries(wanted)) if (field[name]) choose(field[name], value);
  showChosen();
  changed();
}

// What is not listed, or not yet, can be chosen all the same.
function choose(input, value) {
  if (input.tagName === "SELECT" && input.name !== "minutes" && ![...input.options].some((option) => option.value === value)) input.add(new Option(value, value));
  input.value = value;
}

// `choices`: {name of a field: names to choose from}. Where there is nothing to choose no field is shown.
export function listChoices(choices) {
  for (const [name, names] of Object.entries(choices)) {
    const chosen = field[name].value;
    const all = chosen && !names.includes(chosen) ? [chosen, ...names] : names;
    const told = JSON.stringify(all);
    if (field[name].dataset.told === told) continue; // it may be open
    field[name].dataset.told = told;
    field[name].replaceChildren(new Option("all", ""), ...all.map((each) => new Option(each, each)));
    field[name].value = chosen;
    if (FOLDED.includes(name)) field[name].closest("div").hidden = !all.length;
  }
}

function showChosen() {
  const { since, until } = stretch;
  const time = since ? [chip("time", `${when(since)} – ${when(until)}`, () => { stretch = {}; })] : [];
  document.getElementById("chosen").replaceChildren(...time, ...FOLDED.filter((name) => field[name].value)
    .map((name) => chip(name, field[name].value, () => { field[name].value = ""; })));
}

function chip(name, value, takeAway) {
  const onclick = () => {
    takeAway();
    set({});
  };
  return button(make("span", {}, `${name}: `, make("bdi", {}, value), " ✕"), onclick, { class: "chip", "aria-label": `Take away ${name} ${value}` });
}

// `onChange()` is called after each change; typing counts when it rests.
export function startFilter(onChange) {
  const given = new URLSearchParams(location.search);
  set(Object.fromEntries(given));
  if (field.minutes.selectedIndex < 0) field.minutes.value = USUAL.minutes;
  changed = onChange;
  let typing = null;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    if (target.name === "minutes") stretch = {};
    showChosen();
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

// A link to this page with more to filter by; it works in a new tab too.
export function filterLink(text, filter) {
  const address = new URLSearchParams(query());
  for (const [name, value] of Object.entries(filter)) address.set(name, value);
  return make("a", { href: `?${address}`, "data-filter": JSON.stringify(filter) }, make("bdi", {}, text));
}
