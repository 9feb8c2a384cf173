// The API's description, by operation: words, what is sent, what is answered, and a place to try it.

import { make } from "../shared/elements.js";
import { startHeader } from "../shared/header.js";
import { showProblem } from "../shared/problem.js";
import { NO_CONNECTION, ask, problemOf } from "../shared/service.js";
import { setComponents, tree } from "./schema.js";
import { tryOut } from "./try.js";

const LAST = "State";
const $ = (id) => document.getElementById(id);

async function load() {
  try {
    const answer = await ask("openapi.json");
    if (answer.ok) show(await answer.json());
    else $("operations").replaceChildren(showProblem(await problemOf(answer)));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    $("operations").replaceChildren(showProblem(NO_CONNECTION));
  }
  $("operations").setAttribute("aria-busy", "false");
}

function show({ info, paths, components }) {
  setComponents(components.schemas);
  $("version").textContent = `version ${info.version}`;
  $("about").replaceChildren(...words(info.description));
  const groups = new Map([...Map.groupBy(operationsOf(paths), ({ tags: [tag] }) => tag)].sort(([one], [other]) => (one === LAST) - (other === LAST)));
  $("groups").replaceChildren(...[...groups.keys()].map((tag) => make("a", { class: "button", href: `#${tag}` }, tag)));
  $("operations").replaceChildren(...[...groups].map(([tag, operations]) =>
    make("section", { "aria-labelledby": tag }, make("h2", { id: tag, tabindex: "-1" }, tag),
      make("div", { class: "card" }, ...operations.map(operationView)))));
  openNamed();
}

const operationsOf = (paths) => Object.entries(paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), ...operation })));

// Text with `code` in it.
const words = (text) => text.split("`").map((part, n) => (n % 2 ? make("code", {}, part) : part));
const paragraphs = (text) => text.split("\n\n").filter(Boolean).map((part) => make("p", {}, ...words(part)));

function operationView(operation) {
  const { operationId, method, path, summary } = operation;
  const inside = make("div", { class: "inside" });
  const ontoggle = () => {
    if (!view.open || inside.childElementCount) return;
    inside.append(make("div", { class: "about" }, ...about(operation)), tryOut(operation));
  };
  const view = make("details", { class: "operation", id: operationId, ontoggle },
    make("summary", {}, make("span", { class: `method ${method.toLowerCase()}` }, method), make("code", {}, path), make("span", { class: "muted" }, ...words(summary))),
    inside);
  return view;
}

function about({ description, requestBody, responses }) {
  const { 200: answered, ...errors } = responses;
  const sent = requestBody?.content["application/json"].schema;
  return [
    ...paragraphs(description),
    sent ? make("section", {}, make("h3", {}, "What is sent"), tree(sent)) : null,
    make("section", {}, make("h3", {}, "What is answered"), ...Object.entries(answered.content).map(formOf)),
    folded("Headers", facts(Object.entries(answered.headers).map(([name, header]) => [name, header.description]))),
    Object.keys(errors).length ? folded("Errors", facts(Object.entries(errors).map(([status, error]) => [status, error.description]))) : null,
  ].filter(Boolean);
}

function formOf([type, { schema }]) {
  return make("div", {}, make("p", { class: "small" }, make("code", {}, type), schema.description ? `: ${schema.description}` : ""), tree(schema));
}

const folded = (title, content) => make("details", {}, make("summary", {}, title), content);
const facts = (rows) => make("dl", { class: "facts" }, ...rows.map(([name, said]) =>
  make("div", {}, make("dt", {}, make("code", {}, name)), make("dd", {}, ...words(said)))));

// An operation has an address.
function openNamed() {
  const named = location.hash && document.getElementById(location.hash.slice(1));
  if (!named || named.id === "description") return;
  if (named.tagName === "DETAILS") named.open = true;
  named.scrollIntoView();
}

$("operations").addEventListener("click", ({ target }) => {
  const operation = target.closest(".operation > summary")?.parentElement;
  if (operation) history.replaceState(null, "", operation.open ? location.pathname : `#${operation.id}`);
});
addEventListener("hashchange", openNamed);
addEventListener("llm-api-key", () => $("operations").querySelector(".operation") ?? load());
startHeader();
load();
