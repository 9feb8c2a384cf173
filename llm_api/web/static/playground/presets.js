// System prompts that this browser keeps, by name.

import { button, make, showDialog } from "../shared/elements.js";
import { scope } from "../shared/service.js";

const KEPT = `llm_api.presets:${scope}`;

const read = () => JSON.parse(localStorage.getItem(KEPT) ?? "{}");
const write = (presets) => localStorage.setItem(KEPT, JSON.stringify(presets));

// `field` is the text field that they are for.
export function openPresets(field) {
  const rows = make("ul", { class: "presets" });
  const name = make("input", { required: true, maxlength: "80", "aria-label": "Name of the new preset", placeholder: "Name" });
  const problem = make("p", { role: "alert", class: "small" });
  const keep = (event) => {
    event.preventDefault();
    if (!field.value.trim()) return problem.replaceChildren("The field “System” is empty: there is nothing to keep.");
    change((presets) => ({ ...presets, [name.value.trim()]: field.value }));
    name.value = "";
  };
  const dialog = showDialog("System presets", rows,
    make("form", { class: "row", onsubmit: keep }, name, make("button", { class: "primary" }, "Keep what stands in “System”")), problem,
    make("p", { class: "small muted" }, "Kept in this browser only."));

  const change = (changed) => {
    try {
      write(changed(read()));
      problem.replaceChildren();
    } catch {
      problem.replaceChildren("This browser has no room for it.");
    }
    show();
    name.focus();
  };
  const use = (text) => {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    dialog.close();
    field.focus();
  };
  const show = () => {
    const all = Object.entries(read());
    rows.replaceChildren(...(all.length ? all.map(([old, text]) => rowOf(old, text, { change, use })) : [make("li", { class: "muted" }, "None yet.")]));
  };
  show();
}

// A preset's name is a field: it is renamed there.
function rowOf(old, text, { change, use }) {
  const renamed = (name) => (presets) => Object.fromEntries(Object.entries(presets)
    .filter(([other]) => other === old || other !== name).map(([other, words]) => [other === old ? name : other, words]));
  const onchange = () => change(renamed(name.value.trim() || old));
  const name = make("input", { value: old, maxlength: "80", "aria-label": `Name of the preset ${old}`, onchange });
  const ask = ({ currentTarget }) => {
    const drop = button("Delete it for good", () => change(({ [old]: _, ...others }) => others), { class: "chip" });
    currentTarget.replaceWith(drop);
    drop.focus();
  };
  return make("li", {},
    make("div", { class: "row" }, name, button("Use", () => use(text), { "aria-label": `Use ${old}` }),
      button("Delete", ask, { "aria-label": `Delete ${old}` })),
    make("p", { class: "small muted excerpt" }, make("bdi", {}, text)));
}
