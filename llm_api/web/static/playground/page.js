// The playground: a prompt or a conversation, asked of one model or two.

import { button, copy, download } from "../shared/elements.js";
import { startHeader } from "../shared/header.js";
import { ask, key, problemOf, scope } from "../shared/service.js";
import * as snippets from "../shared/snippets.js";
import { startFollowing } from "./follow.js";
import { field, fit, form, giveExampleOfTools, isChat, isRight, setModels, setValues, system, values } from "./form.js";
import { askToForget, listPast, markdownOf, plainTurns } from "./kept/past.js";
import { pictures, setPictures, startPictures } from "./pictures.js";
import { openPresets } from "./presets.js";
import { request } from "./request.js";
import { turnsOf, valuesOf } from "./kept/recorded.js";
import { Talk } from "./talk.js";
import * as threads from "./kept/threads.js";

const EXAMPLES = ["What is the capital of France?", "Write a haiku about rain.", "Explain what a hash table is, with a table and some code."];
const DRAFT = `llm_api.draft:${scope}`;
const $ = (id) => document.getElementById(id);
let health = {};
let edited = null; // the turn that the prompt is to replace

const talk = new Talk({
  configured: () => health.backend ?? "",
  reason: () => (health.status === "healthy" ? "" : health.reason ?? ""),
  change,
  edit(turn) {
    setEdited(turn);
    field.prompt.value = turn.asked;
    setPictures(turn.pictures);
    fit();
    field.prompt.focus();
  },
});

// --- asking

async function send() {
  if (talk.isRunning || !isRight()) return;
  const turn = newTurn();
  const instead = edited;
  setEdited(null);
  setPictures([]);
  const asked = talk.ask(turn, instead);
  if (isChat()) field.prompt.value = "";
  fit();
  keepDraft();
  $("status").textContent = "Sent.";
  const answers = await asked;
  // A turn that came to nothing is there to be sent again.
  if (isChat() && answers[0].result.state === "failed" && !answers[0].result.text && !field.prompt.value) field.prompt.value = turn.asked;
  look();
  $("status").textContent = answers.map(({ result }) =>
    `${result.state}${result.fallback_reason ? `, by fallback, ${result.fallback_reason}` : ""}.`).join(" ");
}

const newTurn = () => ({ asked: field.prompt.value, pictures: pictures(), results: null, answers: [] });

function setEdited(turn) {
  edited = turn;
  $("editing").hidden = !turn;
}

// Something was asked, answered or taken away.
async function change() {
  $("send").disabled = talk.isRunning;
  $("stop").disabled = !talk.isRunning;
  $("export").hidden = !talk.turns.length;
  if (talk.turns.length) {
    const { id } = talk;
    const thread = { id, at: Date.now() / 1000, values: values(), turns: plainTurns(talk.turns) };
    const kept = await threads.keep(structuredClone(thread)).catch(() => null);
    $("not-kept").hidden = kept !== null;
    if (kept && talk.id === id) talk.id = kept;
  }
  keepDraft();
  listPast(restore);
}

// --- what a reload must not lose

function keepDraft() {
  try {
    sessionStorage.setItem(DRAFT, JSON.stringify({ values: values(), id: talk.turns.length ? talk.id : null }));
  } catch { /* no room: it was a draft */ }
}

async function restoreDraft() {
  const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
  if (!draft) return;
  setValues(draft.values);
  const thread = draft.id && await threads.read(draft.id).catch(() => null);
  if (thread) talk.show(thread.turns, thread.id);
  $("export").hidden = !talk.turns.length;
}

function restore(thread) {
  if (talk.isRunning) return;
  setValues({ ...thread.values, prompt: thread.values.mode === "chat" ? "" : thread.turns[0].asked });
  talk.show(thread.turns, thread.id);
  $("export").hidden = false;
  keepDraft();
  field.prompt.focus();
}

function begin() {
  if (talk.isRunning) return;
  setEdited(null);
  talk.show([]);
  $("export").hidden = true;
  keepDraft();
  field.prompt.focus();
}

// A request of the log, to be asked again: ?record=ID
async function openRecord(id) {
  history.replaceState(null, "", location.pathname);
  const answer = await ask(`dashboard/record/${encodeURIComponent(id)}`);
  const { records: [record] = [] } = answer.ok ? await answer.json() : {};
  if (!record) return;
  setValues(valuesOf(record));
  talk.show(turnsOf(record));
  keepDraft();
}

// --- models, and how the service is

async function listModels() {
  const note = $("models-note");
  const answer = await ask("v1/models").catch(() => null);
  note.hidden = Boolean(answer?.ok);
  if (answer?.ok) setModels((await answer.json()).data.map(({ id }) => id));
  else note.textContent = `The models can’t be listed: ${answer ? (await problemOf(answer)).message : "no answer."}`;
}

const look = startHeader((said) => {
  health = { ...health, ...said, reason: said.reason };
  $("health-note").hidden = said.status === "healthy";
  $("health-note").textContent = said.status === "healthy" ? "" : `${said.status}: ${said.reason ?? "no reason is known"}`;
});

// --- hands

form.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
form.addEventListener("input", () => {
  fit();
  keepDraft();
});
form.addEventListener("change", () => {
  fit();
  keepDraft();
});
$("stop").addEventListener("click", () => talk.stop());
$("new").addEventListener("click", begin);
$("no-edit").addEventListener("click", () => setEdited(null));
$("attach").addEventListener("click", () => $("file").click());
$("presets").addEventListener("click", () => openPresets(field.system));
$("example-tools").addEventListener("click", () => {
  giveExampleOfTools();
  keepDraft();
});
$("forget").addEventListener("click", () => askToForget(() => listPast(restore)));
$("export-markdown").addEventListener("click", () => download("conversation.md", new Blob([markdownOf(talk.turns, system())], { type: "text/markdown" })));
$("export-json").addEventListener("click", () => {
  const said = { system: system(), turns: plainTurns(talk.turns) };
  download("conversation.json", new Blob([`${JSON.stringify(said, null, 2)}\n`], { type: "application/json" }));
});
for (const pressed of document.querySelectorAll("[data-copy]")) {
  pressed.addEventListener("click", () => {
    if (!isRight()) return;
    const [path, body] = request(field.model.value, newTurn(), talk.turns);
    copy(snippets[pressed.dataset.copy](path, body, Boolean(key())), pressed);
  });
}
addEventListener("keydown", (event) => {
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    send();
  }
  if (event.key === "Escape") talk.stop();
});
addEventListener("llm-api-key", listModels);
threads.onChange(() => listPast(restore));

$("examples").append(...EXAMPLES.map((text) => button(text, () => {
  field.prompt.value = text;
  fit();
  field.prompt.focus();
}, { class: "" })));
const isWide = !matchMedia("(max-width: 60rem)").matches;
$("side").open = isWide;
if (isWide) field.prompt.focus();
startPictures($("file"));
startFollowing(document.querySelector(".talk"), $("history"));
fit();
listModels();
listPast(restore);
const record = new URLSearchParams(location.search).get("record");
if (record) openRecord(record);
else restoreDraft();
