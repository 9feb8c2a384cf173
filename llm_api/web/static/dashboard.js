// The dashboard: the log's numbers, refreshed every few seconds, and each request's record behind a click.

import { Chart } from "./charts.js";
import { REASONS, ask, count, decimal, keyHeaders, make, milliseconds, problemOf, share, showDialog, showProblem, startHeader, when } from "./common.js";
import { Text } from "./text.js";

const SECONDS = 5;
const $ = (id) => document.getElementById(id);
const filter = $("filter");
const backends = new Set();
let paused = false;
let timer = null;
let asking = null;
let shown = null; // the last answer
let drawn = ""; // the rows of requests that stand on the page

const charts = [
  new Chart("Requests", [
    { title: "answered", colour: "--accent", bar: true, of: (s) => s.requests - s.errors - s.aborted },
    { title: "aborted", colour: "--line-strong", bar: true, of: (s) => s.aborted },
    { title: "errors", colour: "--bad", bar: true, of: (s) => s.errors },
    { title: "fallbacks", colour: "--warn-line", dash: [6, 4], sparse: true, of: (s) => s.fallbacks },
  ], count),
  new Chart("Latency", [
    { title: "p50", colour: "--accent", of: (s) => s.p50_ms },
    { title: "p95", colour: "--warn", dash: [6, 4], of: (s) => s.p95_ms },
    { title: "p99", colour: "--bad", dash: [2, 3], of: (s) => s.p99_ms },
  ], milliseconds),
  new Chart("Time to first chunk", [
    { title: "p50", colour: "--accent", of: (s) => s.first_chunk_p50_ms },
    { title: "p95", colour: "--warn", dash: [6, 4], of: (s) => s.first_chunk_p95_ms },
  ], milliseconds),
  new Chart("Tokens per second", [{ title: "tokens/s", colour: "--accent", of: (s) => s.tokens_per_second }],
    (number) => decimal(number)),
];

// --- asking

function query() {
  const wanted = [...new FormData(filter)].filter(([name, value]) => value !== "" && !(name === "minutes" && value === "60"));
  return new URLSearchParams(wanted).toString();
}

async function load() {
  clearTimeout(timer);
  asking?.abort();
  const mine = asking = new AbortController();
  document.body.setAttribute("aria-busy", "true");
  try {
    const [answer, live] = await Promise.all([ask(`dashboard/data?${query()}`, { signal: mine.signal }), liveNumbers(mine.signal)]);
    if (answer.status === 401) {
      $("updated").textContent = "Waiting for a key.";
      return; // the key bar asks for one, and then this is called again
    }
    if (!answer.ok) throw await problemOf(answer);
    show(await answer.json(), live);
  } catch (error) {
    if (mine.signal.aborted) return;
    $("updated").textContent = shown ? `As of ${when(shown.until)}` : "Nothing read yet.";
    $("notices").replaceChildren(showProblem(error instanceof Error ? { code: "no_connection", message: error.message } : error));
  } finally {
    if (asking === mine) document.body.setAttribute("aria-busy", "false");
  }
  if (!paused) timer = setTimeout(loadWhenSeen, SECONDS * 1000);
}

function loadWhenSeen() {
  if (document.hidden) document.addEventListener("visibilitychange", loadWhenSeen, { once: true });
  else load();
}

// What the log does not know, from the workers' metrics; a proxy may keep those to itself.
async function liveNumbers(signal) {
  try {
    const text = await (await fetch("metrics", { signal, headers: keyHeaders() })).text();
    const sum = (name) => {
      const found = [...text.matchAll(new RegExp(`^${name}(?:{.*})? (\\S+)$`, "gm"))];
      return found.length ? found.reduce((all, [, value]) => all + Number(value), 0) : null;
    };
    const open = [...text.matchAll(/^llm_api_circuit_breaker_open{backend="([^"]*)".*} 1(?:\.0)?$/gm)].map(([, name]) => name);
    return { running: sum("llm_api_requests_in_flight"), lost: sum("llm_api_log_write_failures_total"), open };
  } catch {
    return { running: null, lost: null, open: [] };
  }
}

// --- showing

function show(data, live) {
  shown = data;
  const { stats } = data;
  $("updated").textContent = `As of ${when(data.until)}, ${paused ? "paused" : `every ${SECONDS} s`}`;
  showNotices(data, live);
  showTiles(stats.total, live);
  const begin = stats.over_time[0].timestamp;
  const width = (data.until - begin) / stats.over_time.length;
  const stretches = stats.over_time.map((stretch) => ({ ...stretch, unknown: stretch.timestamp + width <= (data.complete_since ?? 0) }));
  for (const chart of charts) chart.update(stretches, begin, data.until);
  showGroups($("backends"), "Backend", { ...stats.backends, ...(stats.refused.requests ? { "(refused)": stats.refused } : {}), all: stats.total });
  showGroups($("models"), "Model", stats.models);
  showReasons(stats.fallback_reasons, stats.total.requests);
  showRequests();
  listBackends(Object.keys(stats.backends));
}

function showNotices({ complete_since, prompts_hidden, only_own, stats }, { open, lost }) {
  const notices = [];
  const add = (kind, title, words) => notices.push(make("div", { class: `notice ${kind}` }, title ? make("strong", {}, title) : null, words));
  if (!stats.total.requests) add("", "", "No requests in this time that fit the filter.");
  if (complete_since) add("warn", "Not all of it", `The log is larger than what is read here: the numbers are complete since ${when(complete_since)}. flask llm logs stats reads all of it.`);
  if (open.length) add("warn", "Left alone for now", `Failed several times in a row: ${open.join(", ")}.`);
  if (lost) add("bad", "Lines were lost", `${count(lost)} lines could not be written to the log since the start.`);
  if (only_own) add("", "", "Only your own requests are shown.");
  if (prompts_hidden) add("", "", "Prompts and answers are hidden (LOG_PROMPTS=false).");
  $("notices").replaceChildren(...notices);
}

function showTiles(total, live) {
  const tile = (name, value, more = "") => make("div", { class: "card" }, make("dt", {}, name), make("dd", {}, value), make("dd", { class: "more small muted" }, more));
  $("tiles").replaceChildren(
    tile("Requests", count(total.requests), live.running === null ? "" : `${count(live.running)} running`),
    tile("Errors", count(total.errors), `${share(total.errors, total.requests)}, ${count(total.aborted)} aborted`),
    tile("Fallbacks", count(total.fallbacks), share(total.fallbacks, total.requests)),
    tile("Latency p50", milliseconds(total.p50_ms), `p95 ${milliseconds(total.p95_ms)}`),
    tile("First chunk p50", milliseconds(total.first_chunk_p50_ms), `p95 ${milliseconds(total.first_chunk_p95_ms)}`),
    tile("Tokens/s", decimal(total.tokens_per_second), `${count(total.output_tokens)} out, ${count(total.input_tokens)} in`));
}

const GROUP = [
  ["Requests", (g) => count(g.requests)], ["Errors", (g) => count(g.errors)], ["Aborted", (g) => count(g.aborted)],
  ["Fallbacks", (g) => count(g.fallbacks)],
  ["p50", (g) => milliseconds(g.p50_ms)], ["p95", (g) => milliseconds(g.p95_ms)], ["p99", (g) => milliseconds(g.p99_ms)],
  ["First chunk p50", (g) => milliseconds(g.first_chunk_p50_ms)], ["p95", (g) => milliseconds(g.first_chunk_p95_ms)],
  ["Tokens in", (g) => count(g.input_tokens)], ["Tokens out", (g) => count(g.output_tokens)],
  ["Tokens/s", (g) => decimal(g.tokens_per_second)],
];

function fillTable(table, headings, rows) {
  const head = headings.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
  const none = make("tr", {}, make("td", { colspan: headings.length, class: "muted" }, "None."));
  table.replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...(rows.length ? rows : [none])));
}

function showGroups(table, name, groups) {
  fillTable(table, [[name], ...GROUP.map(([heading]) => [heading, "number"])], Object.entries(groups).map(([title, group]) =>
    make("tr", {}, make("th", { scope: "row" }, make("bdi", {}, title)), ...GROUP.map(([, of]) => make("td", { class: "number" }, of(group))))));
}

function showReasons(reasons, all) {
  fillTable($("reasons"), [["Reason"], ["What happened"], ["Fallbacks", "number"], ["Of all requests", "number"]],
    Object.entries(reasons).map(([reason, number]) => make("tr", {}, make("th", { scope: "row" }, make("code", {}, reason)),
      make("td", {}, REASONS[reason] ?? ""), make("td", { class: "number" }, count(number)), make("td", { class: "number" }, share(number, all)))));
}

function listBackends(names) {
  const before = backends.size;
  for (const name of names) backends.add(name);
  if (backends.size === before) return;
  const select = filter.elements.backend;
  const chosen = select.value;
  select.replaceChildren(new Option("all", ""), ...[...backends].sort().map((name) => new Option(name, name)));
  select.value = chosen;
}

function showRequests() {
  const rows = shown[document.querySelector('input[name="which"]:checked').value];
  const text = JSON.stringify(rows);
  if (text === drawn) return; // do not disturb a reader, or the focus, in the table
  drawn = text;
  const focused = document.activeElement?.dataset.request;
  fillTable($("requests"), [["Time"], ["Status"], ["Answered by"], ["Duration", "number"], ["First chunk", "number"], ["Tokens", "number"], ["Prompt"]],
    rows.map(requestRow));
  if (focused) $("requests").querySelector(`[data-request="${CSS.escape(focused)}"]`)?.focus();
}

function requestRow(row) {
  const open = (event) => {
    event.stopPropagation();
    showRecord(row.request_id);
  };
  const button = make("button", { type: "button", class: "quiet", "data-request": row.request_id, title: row.request_id, onclick: open },
    when(row.timestamp), make("span", { class: "unseen" }, `, show request ${row.request_id}`));
  const tokens = row.input_tokens == null && row.output_tokens == null ? "–" : `${count(row.input_tokens)} → ${count(row.output_tokens)}`;
  return make("tr", { onclick: open },
    make("td", {}, button),
    make("td", {}, make("span", { class: `mark ${row.status}` }, `${row.status} ${row.http_status ?? ""}`),
      row.error ? make("code", { class: "small" }, ` ${row.error}`) : null),
    make("td", {}, make("bdi", {}, row.backend ? `${row.backend}/${row.model}` : "–"),
      row.fallback_reason ? make("span", { class: "fallback small" }, `fallback from ${row.requested_backend}: ${row.fallback_reason}`) : null),
    make("td", { class: "number" }, milliseconds(row.duration_ms)),
    make("td", { class: "number" }, milliseconds(row.time_to_first_chunk_ms)),
    make("td", { class: "number" }, tokens),
    make("td", { class: "prompt" }, make("bdi", {}, row.excerpt ?? "–")));
}

// --- one record

const TEXTS = ["system", "prompt", "messages", "reasoning", "response", "tool_calls"];

async function showRecord(id) {
  const box = make("div", {}, "Reading…");
  showDialog(`Request ${id}`, box);
  try {
    const answer = await ask(`dashboard/record/${encodeURIComponent(id)}`);
    if (!answer.ok) throw await problemOf(answer);
    const { records } = await answer.json();
    box.replaceChildren(...(records.length ? records.map(recordView) : ["The log has it no more, or not in the part that is read."]));
  } catch (error) {
    box.replaceChildren(showProblem(error instanceof Error ? { code: "no_connection", message: error.message } : error));
  }
}

function recordView(record) {
  const facts = Object.entries(record).filter(([name, value]) => !TEXTS.includes(name) && value !== null);
  const texts = TEXTS.filter((name) => typeof record[name] === "string").map((name) => [name, record[name]]);
  const turns = (record.messages ?? []).flatMap((turn) => [[turn?.role, turn?.content], [`${turn?.role} calls`, callsText(turn)]]);
  const said = [...turns, ...texts, ["calls", callsText(record)]].filter(([, text]) => typeof text === "string" && text);
  const raw = longText(JSON.stringify(record, null, 2));
  raw.classList.add("mono");
  return make("article", { class: "record" },
    ...said.map(([name, text]) => make("section", {}, make("h3", {}, String(name)), longText(text))),
    make("dl", {}, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("bdi", {}, factText(name, value)))))),
    make("details", {}, make("summary", {}, "The whole record"), raw));
}

function callsText(said) {
  return (said?.tool_calls ?? []).map(({ name, arguments: given }) => `${name} ${given ?? ""}`).join("\n");
}

function factText(name, value) {
  if (name === "timestamp") return `${when(value)} (${value})`;
  if (name === "attempts") return value.map(({ backend, outcome, duration_ms }) => `${backend}: ${outcome} (${milliseconds(duration_ms)})`).join(", ") || "none";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function longText(words) {
  const text = new Text();
  text.add(words);
  return text.element;
}

// --- hands

let typing = null;
function changed() {
  const wanted = query();
  window.history.replaceState(null, "", wanted ? `?${wanted}` : location.pathname);
  load();
}

for (const [name, value] of new URLSearchParams(location.search)) {
  const input = filter.elements[name];
  if (name === "backend") listBackends([value]);
  if (input) input.value = value;
  if (input && input.selectedIndex < 0) input.selectedIndex = 0;
}
filter.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(changed, 250);
});
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) clearTimeout(timer);
  else load();
});
for (const radio of document.querySelectorAll('input[name="which"]')) radio.addEventListener("change", () => shown && showRequests());
addEventListener("llm-api-key", load);
$("charts").append(...charts.map(({ element }) => element));
startHeader();
load();
