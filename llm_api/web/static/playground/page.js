// The playground: a prompt or a conversation, asked of one model or two.

import { Answer } from "./answer.js";
import { copy, make } from "../shared/elements.js";
import { startHeader } from "../shared/header.js";
import { NO_CONNECTION, ask, askJSON, key, problemOf } from "../shared/service.js";
import * as snippets from "../shared/snippets.js";
import { when } from "../shared/words.js";
import * as history from "./history.js";
import { chatted, generated } from "./stream.js";

const EXAMPLES = ["What is the capital of France?", "Write a haiku about rain.", "Explain what a hash table is."];
const SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, country: { type: "string" } },
  required: ["city", "country"],
};
const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];

const $ = (id) => document.getElementById(id);
const form = $("form");
const field = form.elements;
let configured = ""; // the backend that answers unless a model of another one is chosen
let messages = []; // of the conversation
let results = []; // of its answers
let conversation = crypto.getRandomValues(new Uint32Array(2)).join("-");
let running = null;

// --- what is asked

const isChat = () => field.mode.value === "chat";

function parameters() {
  const given = Object.fromEntries(NUMBERS.filter((name) => field[name].value !== "").map((name) => [name, Number(field[name].value)]));
  const stop = field.stop_words.value.split("\n").filter((word) => word !== "");
  if (stop.length) given.stop = stop;
  const format = responseFormat();
  if (format) given.response_format = format;
  if (!field.fallback.checked) given.fallback = false;
  return given;
}

function responseFormat() {
  if (field.format.value === "text") return null;
  if (field.format.value === "json_object") return { type: "json_object" };
  return { type: "json_schema", json_schema: { name: "answer", schema: JSON.parse(field.schema.value) } };
}

// the path and the body that asks `model`
function request(model) {
  const system = field.system.value.trim() ? field.system.value : null;
  const prompt = field.prompt.value;
  if (!isChat()) return ["generate", { prompt, ...(system && { system }), ...(model && { model }), ...parameters() }];
  const said = [...(system ? [{ role: "system", content: system }] : []), ...messages];
  return ["v1/chat/completions", {
    model: model || "default",
    messages: prompt.trim() ? [...said, { role: "user", content: prompt }] : said,
    ...parameters(),
  }];
}

const streamed = (path, body) =>
  path === "generate" ? { ...body, stream: true, details: true } : { ...body, stream: true, stream_options: { include_usage: true } };

// --- what is wrong with it, before it is sent

function problems() {
  const wrong = [];
  const check = (input, words) => {
    input.setAttribute("aria-invalid", String(Boolean(words)));
    if (words) wrong.push([input, words]);
  };
  check(field.prompt, field.prompt.value.trim() ? "" : "Write a prompt.");
  for (const name of NUMBERS) {
    const label = document.querySelector(`label[for="${name}"]`).textContent;
    check(field[name], field[name].validity.valid ? "" : `${label}: ${field[name].validationMessage}`);
  }
  let schema = "";
  try {
    responseFormat();
  } catch (error) {
    schema = `The JSON schema is not JSON: ${error.message}`;
  }
  check(field.schema, schema);
  return wrong;
}

function isRight() {
  const wrong = problems();
  $("form-problem").replaceChildren(...(wrong.length
    ? [make("div", { class: "notice bad" }, ...wrong.map(([, words]) => make("p", {}, words)))] : []));
  wrong[0]?.[0].focus();
  return !wrong.length;
}

// --- asking

async function send() {
  if (running || !isRight()) return;
  running = new AbortController();
  setRunning(true);
  const chat = isChat();
  const asked = field.prompt.value;
  const values = formValues();
  const models = [field.model.value, ...(chat || field.compare.value === "none" ? [] : [field.compare.value])];
  const requests = models.map(request);
  const answers = models.map((model) => new Answer(model || "default"));
  show(chat ? [said(asked), ...answers.map(({ element }) => element)] : answers.map(({ element }) => element), chat);
  $("status").textContent = "Sent.";
  await Promise.all(answers.map((answer, n) => run(answer, ...requests[n], models[n], running.signal)));
  running = null;
  setRunning(false);
  if (chat) took(asked, answers[0]);
  const id = chat ? conversation : crypto.getRandomValues(new Uint32Array(2)).join("-");
  if (!chat || messages.length) {
    history.keep({ id, at: Date.now() / 1000, values, messages: chat ? messages : null, answers: chat ? results : answers.map(({ result }) => result) });
  }
  listHistory();
  $("status").textContent = answers.map(({ result }) =>
    `${result.state}${result.fallback_reason ? `, by fallback, ${result.fallback_reason}` : ""}.`).join(" ");
}

async function run(answer, path, body, model, signal) {
  try {
    const said = await askJSON(path, streamed(path, body), signal);
    if (!said.ok) {
      answer.fail(await problemOf(said));
      return;
    }
    answer.from({
      backend: said.headers.get("X-LLM-Backend"),
      model: said.headers.get("X-LLM-Model"),
      fallback_reason: said.headers.get("X-LLM-Fallback"),
      request_id: said.headers.get("X-Request-ID"),
    }, model.includes("/") ? model.split("/")[0] : configured);
    for await (const { text, end, error } of path === "generate" ? generated(said) : chatted(said)) {
      if (text) answer.add(text);
      if (end) answer.end(end);
      if (error) answer.fail(error);
    }
  } catch {
    if (signal.aborted) answer.stop();
    else answer.fail(NO_CONNECTION);
  }
}

// A turn that came to nothing is taken back, so that it can be sent again.
function took(asked, answer) {
  if (answer.text) {
    results = [...results, answer.result];
    messages = [...messages, { role: "user", content: asked }, { role: "assistant", content: answer.text }];
    if (field.prompt.value === asked) field.prompt.value = "";
  }
}

function setRunning(is) {
  $("send").disabled = is;
  $("stop").disabled = !is;
}

// --- what is shown

function said(text) {
  const words = make("div", { class: "said" }, make("div", {}, text));
  return make("article", { class: "turn", "aria-label": "You" }, words);
}

function show(elements, added = false) {
  $("empty").hidden = true;
  const box = $("answers");
  if (!added) box.replaceChildren($("empty"));
  box.classList.toggle("two", !isChat() && elements.length === 2);
  box.append(...elements);
  elements.at(-1)?.scrollIntoView({ block: "nearest" });
}

function clear() {
  messages = [];
  results = [];
  conversation = crypto.getRandomValues(new Uint32Array(2)).join("-");
  show([]);
  $("empty").hidden = false;
}

function fitMode() {
  $("compare-field").hidden = isChat();
  $("new").hidden = !isChat();
  $("prompt-label").textContent = isChat() ? "Message" : "Prompt";
}

function fitFormat() {
  $("schema-field").hidden = field.format.value !== "json_schema";
  if (!field.schema.value) field.schema.value = JSON.stringify(SCHEMA, null, 2);
}

async function listModels() {
  const note = $("models-note");
  try {
    const answer = await ask("v1/models");
    note.hidden = answer.ok;
    if (!answer.ok) {
      note.textContent = `The models can’t be listed: ${(await problemOf(answer)).message}`;
      return;
    }
    const names = (await answer.json()).data.map(({ id }) => id);
    fill(field.model, ["", "default", ...names]);
    fill(field.compare, ["none", "nothing", ...names]);
  } catch {
    note.hidden = false;
    note.textContent = "The models can’t be listed: no answer.";
  }
}

function fill(select, [value, text, ...names]) {
  const chosen = select.value;
  select.replaceChildren(new Option(text, value), ...names.map((name) => new Option(name, name)));
  select.value = names.includes(chosen) ? chosen : value;
}

// --- history

const formValues = () => Object.fromEntries([...form.elements]
  .filter(({ name, type }) => name && (type !== "radio"))
  .map((input) => [input.name, input.type === "checkbox" ? input.checked : input.value]).concat([["mode", field.mode.value]]));

function listHistory() {
  const items = history.all();
  $("forget").hidden = !items.length;
  $("history-note").textContent = items.length ? "Kept in this browser only." : "Kept in this browser only. Nothing yet.";
  $("history").replaceChildren(...items.map((item) => make("li", {},
    make("button", { type: "button", class: "quiet", onclick: () => restore(item) },
      make("bdi", { class: "excerpt" }, excerptOf(item)),
      make("span", { class: "small muted" }, `${when(item.at)} · ${item.messages ? "conversation" : item.answers[0]?.backend ?? "failed"}`)))));
}

const excerptOf = ({ messages: turns, values }) => String(turns ? turns[0].content : values.prompt).slice(0, 120);

function restore(item) {
  if (running) return;
  for (const [name, value] of Object.entries(item.values)) {
    const input = field[name];
    if (input?.type === "checkbox") input.checked = value;
    else if (input) input.value = value;
  }
  if (field.model.selectedIndex < 0) field.model.value = ""; // a model that is gone
  if (field.compare.selectedIndex < 0) field.compare.value = "none";
  fitMode();
  fitFormat();
  clear();
  if (item.messages) {
    messages = item.messages;
    results = item.answers;
    conversation = item.id;
    field.prompt.value = "";
    show(results.flatMap((kept, n) => [said(messages[2 * n].content), Answer.of(kept).element]));
  } else {
    show(item.answers.map((kept) => Answer.of(kept).element));
  }
  field.prompt.focus();
}

// --- hands

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  if (!running) clear();
  field.prompt.focus();
});
$("forget").addEventListener("click", () => {
  history.forget();
  listHistory();
  field.prompt.focus();
});
for (const radio of field.mode) {
  radio.addEventListener("change", () => {
    fitMode();
    if (!running) clear();
  });
}
field.format.addEventListener("change", fitFormat);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => {
    if (!isRight()) return;
    const [path, body] = request(field.model.value);
    copy(snippets[button.dataset.copy](path, body, Boolean(key())), button);
  });
}
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
  if (event.key === "Escape") running?.abort();
});
addEventListener("llm-api-key", listModels);

$("examples").append(...EXAMPLES.map((text) => make("button", {
  type: "button",
  onclick: () => {
    field.prompt.value = text;
    field.prompt.focus();
  },
}, text)));
if (matchMedia("(max-width: 60rem)").matches) $("parameters").open = false;
startHeader(({ backend }) => { configured = backend ?? configured; });
fitMode();
fitFormat();
listModels();
listHistory();
