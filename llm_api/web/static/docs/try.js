// Sending what is described: the answer stands there as it comes, streams too, with its headers, and the same as curl.

import { button, copyButton, make } from "../shared/elements.js";
import { showProblem } from "../shared/problem.js";
import { NO_CONNECTION, ask, key, pieces } from "../shared/service.js";
import { curl } from "../shared/snippets.js";
import { Text } from "../shared/text.js";
import { indented, milliseconds } from "../shared/words.js";

const WAITING = "waiting";
const BROKEN = { code: "no_connection", message: "The connection broke before the end of the answer." };

export function tryOut({ method, path, parameters = [], requestBody }) {
  const sent = requestBody && bodyField(requestBody.content["application/json"].examples);
  const places = parameters.map(({ name, example }) => placeField(name, example));
  const address = () => places.reduce((all, { name, field }) => all.replace(`{${name}}`, encodeURIComponent(field.value)), path.slice(1));
  const shell = make("code", {});
  const answer = make("div", { class: "answered", role: "region", "aria-label": "Answer", tabindex: "0", hidden: true });
  let running = null;

  const showCurl = () => { shell.textContent = curl(address(), sent?.field.value, Boolean(key())); };
  const send = async (event) => {
    event?.preventDefault();
    running?.abort();
    const mine = running = new AbortController();
    stop.disabled = false;
    await exchange(answer, address(), { method, signal: mine.signal, ...(sent && { body: sent.field.value, headers: { "Content-Type": "application/json" } }) });
    if (running === mine) stop.disabled = true;
  };
  const stop = button("Stop", () => running?.abort(), { disabled: true });
  const onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event);
    if (event.key === "Escape") running?.abort();
  };
  addEventListener("llm-api-key", showCurl);
  showCurl();
  return make("form", { class: "try", onsubmit: send, oninput: showCurl, onkeydown, novalidate: true },
    make("h3", {}, "Try it"), ...places.map(({ view }) => view), sent?.view,
    make("div", { class: "row" }, make("button", { class: "primary" }, "Send ", make("kbd", {}, "Ctrl ↵")), stop),
    answer,
    make("div", { class: "curl" },
      make("div", { class: "row spread small muted" }, make("span", {}, "curl"), copyButton("Copy", () => shell.textContent)),
      make("pre", { tabindex: "0", role: "region", "aria-label": "As curl" }, shell)));
}

function placeField(name, example) {
  const field = make("input", { value: example ?? "", spellcheck: "false" });
  return { name, field, view: make("label", {}, name, field) };
}

function bodyField(examples) {
  const all = Object.entries(examples);
  const field = make("textarea", { class: "mono", spellcheck: "false" });
  const fill = (title) => {
    field.value = JSON.stringify(examples[title].value, null, 2);
    field.rows = Math.min(field.value.split("\n").length + 1, 18);
  };
  const select = make("select", { onchange: () => fill(select.value) }, ...all.map(([title]) => make("option", {}, title)));
  fill(all[0][0]);
  const choice = all.length > 1 ? make("label", {}, "Example", select) : null;
  return { field, view: make("div", { class: "body" }, choice, make("label", {}, "Body", field)) };
}

// Show in `box` what `path` answers, as it comes.
async function exchange(box, path, options) {
  const began = performance.now();
  const state = make("span", { class: "muted", role: "status" }, WAITING);
  const text = new Text();
  const headers = make("dl", { class: "facts" });
  box.hidden = false;
  box.replaceChildren(make("p", { class: "row" }, state), make("details", { hidden: true }, make("summary", {}, "Headers"), headers), text.element);
  text.element.classList.add("mono");
  try {
    const answer = await ask(path, options);
    headers.append(...[...answer.headers].map(([name, value]) => make("div", {}, make("dt", {}, make("code", {}, name)), make("dd", {}, value))));
    headers.parentElement.hidden = false;
    const status = make("strong", { class: answer.ok ? "good" : "bad" }, `${answer.status}`);
    state.before(status);
    state.textContent = `first byte after ${milliseconds(performance.now() - began)}`;
    const isJSON = /^application\/json/.test(answer.headers.get("Content-Type"));
    if (isJSON) text.add(indented(await answer.text()));
    else for await (const piece of pieces(answer)) text.add(piece);
    state.textContent += `, all after ${milliseconds(performance.now() - began)}`;
  } catch (error) {
    const isLost = error instanceof TypeError || error instanceof DOMException;
    if (!isLost && !options.signal.aborted) throw error;
    const end = options.signal.aborted ? "stopped" : "broken off";
    state.textContent = state.textContent === WAITING ? end : `${state.textContent}, ${end}`;
    if (!options.signal.aborted) box.append(showProblem(text.text ? BROKEN : NO_CONNECTION));
  }
  text.end();
}
