// One request's record: what was said, by whom it was answered, and how it got there.

import { button, copyButton, make, showDialog } from "../shared/elements.js";
import { showProblem } from "../shared/problem.js";
import { NO_CONNECTION, ask, key, problemOf } from "../shared/service.js";
import { curl } from "../shared/snippets.js";
import { longText } from "../shared/text.js";
import { exactly, milliseconds } from "../shared/words.js";

const TEXTS = ["system", "prompt", "reasoning", "response"];
const ELSEWHERE = [...TEXTS, "messages", "inputs", "tool_calls", "attempts"];

// `ids` are those of the table, to go on to; `onShow(id)` is called with the one that is shown, and null at the end.
export function openRecord(id, ids, onShow) {
  const box = make("div", {});
  const dialog = showDialog("Request", box);
  dialog.classList.add("wide");
  dialog.addEventListener("close", () => onShow(null));
  const show = (other) => {
    onShow(other);
    const at = ids.indexOf(other);
    const step = (words, to) => button(words, () => show(to), { disabled: to === undefined });
    const steps = make("div", { class: "row" }, step("← Newer", ids[at - 1]), step("Older →", at < 0 ? undefined : ids[at + 1]));
    box.replaceChildren(steps, make("p", {}, "Reading…"));
    read(other).then((found) => {
      dialog.querySelector("h2").replaceChildren("Request ", make("bdi", { class: "mono" }, other));
      box.replaceChildren(steps, ...found);
      dialog.scrollTop = 0;
    });
  };
  show(id);
}

async function read(id) {
  try {
    const answer = await ask(`dashboard/record/${encodeURIComponent(id)}`);
    if (!answer.ok) return [showProblem(await problemOf(answer))];
    const { records } = await answer.json();
    return records.length ? records.map(recordView) : ["The log has it no more, or not in the part that is read."];
  } catch {
    return [showProblem(NO_CONNECTION)];
  }
}

function recordView(record) {
  const facts = Object.entries(record).filter(([name, value]) => !ELSEWHERE.includes(name) && value !== null);
  return make("article", { class: "record" },
    hands(record), timeline(record),
    ...said(record).map(([name, text]) => make("section", {}, make("h3", {}, name), longText(text))),
    make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", {}, factText(name, value)))))),
    make("details", {}, make("summary", {}, "The whole record"), longText(JSON.stringify(record, null, 2), "mono")));
}

// [who or what, the words] of a record, in the order in which they were said
function said(record) {
  const turns = [...(record.messages ?? []), ...(record.inputs ?? [])];
  const asked = turns.flatMap((turn) => [[turn?.role ?? "input", turn?.content ?? turn?.text], [`${turn?.role} calls`, calls(turn)]]);
  const texts = Object.fromEntries(TEXTS.map((name) => [name, [name, record[name]]]));
  return [texts.system, texts.prompt, ...asked, texts.reasoning, ["calls", calls(record)], texts.response]
    .filter(([, text]) => typeof text === "string" && text);
}

function calls(turn) {
  return (turn?.tool_calls ?? []).map(({ name, arguments: given }) => `${name} ${given ?? ""}`).join("\n");
}

function factText(name, value) {
  if (name === "timestamp") return `${exactly(value)} (${value})`;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// --- the attempts, each as wide as it took

function timeline({ attempts, duration_ms: total }) {
  if (!attempts?.length) return null;
  const took = attempts.map(({ duration_ms: each }) => each ?? 0);
  const whole = Math.max(total ?? 0, took.reduce((all, each) => all + each, 0)) || 1;
  let begin = 0;
  const rows = attempts.map(({ backend, outcome, duration_ms: each }) => {
    const bar = track(begin / whole, (each ?? 0) / whole, outcome === "ok");
    begin += each ?? 0;
    return make("li", {}, make("span", {}, make("bdi", {}, backend), ": ", make("code", {}, outcome), ` (${milliseconds(each)})`), bar);
  });
  return make("section", {}, make("h3", {}, `Attempts, in ${milliseconds(total)}`), make("ol", { class: "timeline" }, ...rows));
}

function track(begin, width, isOk) {
  const bar = make("span", { class: isOk ? "ok" : "error" });
  // the policy forbids style attributes, not the object model
  bar.style.marginInlineStart = `${(100 * begin).toFixed(2)}%`;
  bar.style.width = `${(100 * width).toFixed(2)}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, bar);
}

// --- what to do with it

function hands(record) {
  const id = encodeURIComponent(record.request_id);
  const permalink = new URL(`dashboard?record=${id}`, location.href).href;
  const asked = requestOf(record);
  return make("div", { class: "row" },
    asked ? make("a", { class: "button", href: `./?record=${id}` }, "Open in the playground") : null,
    asked ? copyButton("Copy as curl", () => curl(...asked, Boolean(key()))) : null,
    copyButton("Copy link", () => permalink));
}

// The path and the body that ask the same again; null where the log has not the words.
function requestOf({ prompt, system, messages, parameters, request_model: model }) {
  const more = { ...(model && { model }), ...parameters };
  if (typeof prompt === "string") return ["generate", { prompt, ...(system && { system }), ...more }];
  if (!messages?.every(({ role, content }) => role && content !== undefined)) return null;
  return ["v1/chat/completions", { model: "default", messages: messages.map(messageOf), ...more }];
}

function messageOf({ role, content, tool_call_id, tool_calls }) {
  const calls = tool_calls?.map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return { role, content, ...(tool_call_id && { tool_call_id }), ...(calls?.length && { tool_calls: calls }) };
}
