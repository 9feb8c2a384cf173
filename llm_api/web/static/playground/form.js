// The form: what is asked, of whom, and what is wrong with it.

import { make } from "../shared/elements.js";

const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];
const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, country: { type: "string" } },
  required: ["city", "country"],
};
const TOOLS = [{
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city, now.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
}];

export const form = document.getElementById("form");
export const field = form.elements;
const $ = (id) => document.getElementById(id);

export const isChat = () => field.mode.value === "chat";
export const system = () => (field.system.value.trim() ? field.system.value : null);

export function parameters() {
  const given = Object.fromEntries(NUMBERS.filter((name) => field[name].value !== "").map((name) => [name, Number(field[name].value)]));
  const stop = field.stop_words.value.split("\n").filter((word) => word !== "");
  if (stop.length) given.stop = stop;
  const format = responseFormat();
  if (format) given.response_format = format;
  if (!field.fallback.checked) given.fallback = false;
  const tools = field.tools.value.trim() ? JSON.parse(field.tools.value) : [];
  if (tools.length) given.tools = tools;
  return given;
}

function responseFormat() {
  if (field.format.value === "text") return null;
  if (field.format.value === "json_object") return { type: "json_object" };
  return { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(field.schema.value) } };
}

// --- what is wrong with it, before it is sent

function wordsOf(what, read) {
  try {
    read();
    return "";
  } catch (error) {
    return `${what} are not JSON: ${error.message}`;
  }
}

// `needsPrompt`: an answer to calls needs none
function problems(needsPrompt) {
  const wrong = [];
  const check = (input, words) => {
    input.setAttribute("aria-invalid", String(Boolean(words)));
    if (words) wrong.push([input, words]);
  };
  check(field.prompt, !needsPrompt || field.prompt.value.trim() ? "" : "Write a prompt.");
  for (const name of NUMBERS) {
    const label = document.querySelector(`label[for="${name}"]`).textContent;
    check(field[name], field[name].validity.valid ? "" : `${label}: ${field[name].validationMessage}`);
  }
  check(field.schema, wordsOf("The schema’s words", responseFormat));
  check(field.tools, wordsOf("The tools", () => field.tools.value.trim() && JSON.parse(field.tools.value)));
  return wrong;
}

export function isRight(needsPrompt = true) {
  const wrong = problems(needsPrompt);
  $("form-problem").replaceChildren(...(wrong.length
    ? [make("div", { class: "notice bad" }, ...wrong.map(([, words]) => make("p", {}, words)))] : []));
  wrong[0]?.[0].closest("details")?.setAttribute("open", "");
  wrong[0]?.[0].focus();
  return !wrong.length;
}

// --- its values, to be kept and to come back

export const values = () => Object.fromEntries([...field]
  .filter(({ name, type }) => name && type !== "radio" && type !== "file")
  .map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value]).concat([["mode", field.mode.value]]));

export function setValues(kept) {
  for (const [name, value] of Object.entries(kept)) {
    const input = field[name];
    if (input?.type === "checkbox") input.checked = value;
    else if (input?.tagName === "SELECT") choose(input, value);
    else if (input) input.value = value;
  }
  fit();
}

// A model that is not listed, or not yet, is one all the same.
function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.add(new Option(value, value));
  select.value = value;
}

export function setModels(names) {
  fill(field.model, ["", "default", ...names]);
  fill(field.compare, ["none", "nothing", ...names]);
}

function fill(select, [value, text, ...names]) {
  const chosen = select.value;
  select.replaceChildren(new Option(text, value), ...names.map((name) => new Option(name, name)));
  select.value = names.includes(chosen) ? chosen : value;
}

export function fit() {
  $("compare-field").hidden = isChat();
  $("prompt-label").textContent = isChat() ? "Message" : "Prompt";
  $("schema-field").hidden = field.format.value !== "json_schema";
  if (!field.schema.value) field.schema.value = JSON.stringify(SCHEMA, null, 2);
  field.prompt.style.height = "auto";
  field.prompt.style.height = `${Math.min(field.prompt.scrollHeight + 2, innerHeight / 3)}px`;
}

export function giveExampleOfTools() {
  field.tools.value = JSON.stringify(TOOLS, null, 2);
}
