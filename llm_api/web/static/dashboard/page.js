// The dashboard: the log's numbers, refreshed every few seconds, and each request's record behind a click.

import { download, make } from "../shared/elements.js";
import { startHeader } from "../shared/header.js";
import { showProblem } from "../shared/problem.js";
import { NO_CONNECTION, ask, key, problemOf } from "../shared/service.js";
import { curl } from "../shared/snippets.js";
import { brief, count, decimal, milliseconds, share, when } from "../shared/words.js";
import { Chart } from "./chart.js";
import * as filter from "./filter.js";
import { liveNumbers, notices } from "./notices.js";
import { openRecord } from "./record.js";
import { showErrors, showGroups, showReasons, showRequests } from "./tables.js";

const SECONDS = 5;
const $ = (id) => document.getElementById(id);
let paused = false;
let timer = null;
let asking = null;
let shown = null; // the last answer
let drawn = ""; // the rows of requests that stand on the page
let older = []; // rows from before the latest
let goesOn = null; // where still older ones begin
let record = new URLSearchParams(location.search).get("record"); // the one that is open

const charts = [
  new Chart("Requests", [
    { title: "answered", colour: "--accent", bar: true, of: (s) => s.requests - s.errors - s.aborted },
    { title: "aborted", colour: "--line-strong", bar: true, of: (s) => s.aborted },
    { title: "errors", colour: "--bad", bar: true, of: (s) => s.errors },
    { title: "fallbacks", colour: "--warn", dash: [6, 4], sparse: true, of: (s) => s.fallbacks },
  ], count, { isWhole: true }),
  new Chart("Latency", [
    { title: "p50", colour: "--accent", of: (s) => s.p50_ms },
    { title: "p95", colour: "--warn", dash: [6, 4], of: (s) => s.p95_ms },
    { title: "p99", colour: "--bad", dash: [2, 3], of: (s) => s.p99_ms },
  ], milliseconds),
  new Chart("Latency p50 by backend", [], milliseconds, { byBackend: "p50_ms" }),
  new Chart("Time to first chunk", [
    { title: "p50", colour: "--accent", of: (s) => s.first_chunk_p50_ms },
    { title: "p95", colour: "--warn", dash: [6, 4], of: (s) => s.first_chunk_p95_ms },
  ], milliseconds),
  new Chart("First chunk p50 by backend", [], milliseconds, { byBackend: "first_chunk_p50_ms" }),
  new Chart("Tokens", [
    { title: "input", colour: "--accent", bar: true, of: (s) => s.input_tokens - s.cached_tokens },
    { title: "cached input", colour: "--line-strong", bar: true, of: (s) => s.cached_tokens },
    { title: "output", colour: "--good", bar: true, of: (s) => s.output_tokens - s.reasoning_tokens },
    { title: "reasoning", colour: "--warn", bar: true, of: (s) => s.reasoning_tokens },
  ], count, { isWhole: true }),
  new Chart("Tokens per second", [{ title: "tokens/s", colour: "--accent", of: (s) => s.tokens_per_second }], decimal),
];

// --- asking

async function load() {
  clearTimeout(timer);
  asking?.abort();
  const mine = asking = new AbortController();
  document.body.setAttribute("aria-busy", "true");
  const wait = await loaded(mine.signal);
  if (asking !== mine || wait === null) return;
  document.body.setAttribute("aria-busy", "false");
  if (!paused) timer = setTimeout(loadWhenSeen, wait * 1000);
}

// Returns after how many seconds to ask again; null: when something happens.
async function loaded(signal) {
  let found;
  try {
    found = await Promise.all([numbers(signal), liveNumbers(signal)]);
  } catch {
    return signal.aborted ? null : refused(NO_CONNECTION);
  }
  const [{ data, problem }, live] = found;
  if (problem) return refused(problem);
  show(data, live);
  return SECONDS;
}

async function numbers(signal) {
  const answer = await ask(`dashboard/data?${filter.query()}`, { signal });
  return answer.ok ? { data: await answer.json() } : { problem: await problemOf(answer) };
}

function refused(problem) {
  $("updated").textContent = shown ? `As of ${when(shown.until)}` : "Nothing read yet.";
  if (problem.status === 401) {
    $("updated").textContent = "Waiting for a key.";
    $("numbers").hidden = !shown;
    return null; // the key bar asks for one, and then this is called again
  }
  if (problem.status === 503 && problem.retry_after) {
    $("updated").textContent += " The log is being read for others; asking again.";
    return problem.retry_after;
  }
  $("notices").replaceChildren(showProblem(problem));
  return SECONDS;
}

function loadWhenSeen() {
  if (document.hidden) document.addEventListener("visibilitychange", loadWhenSeen, { once: true });
  else load();
}

// --- showing

function show(data, live) {
  keepOlder(data.latest);
  shown = data;
  const { stats } = data;
  $("updated").textContent = `As of ${when(data.until)}, ${paused ? "paused" : `every ${SECONDS} s`}`;
  const isNew = !stats.total.requests && !filter.hasFilter();
  $("first-step").hidden = !isNew;
  $("numbers").hidden = isNew;
  $("notices").replaceChildren(...notices(data, live, filter.hasFilter()));
  $("charts").hidden = !stats.total.requests;
  if (isNew) return;
  showTiles(stats.total, live);
  showCharts(data);
  showGroups($("backends"), "Backend", { ...stats.backends, ...(stats.refused.requests ? { "(refused)": stats.refused } : {}), all: stats.total },
    (name) => (name in stats.backends ? { backend: name } : null));
  showGroups($("models"), "Model", stats.models, (name) => ({ model: name.slice(name.indexOf("/") + 1) }));
  showReasons($("reasons"), stats.fallback_reasons, stats.total.requests);
  showErrors($("errors"), stats.error_codes, stats.total.requests);
  showRows();
  filter.listChoices(data.choices);
}

function showCharts({ stats: { over_time: stretches, backends }, until, complete_since }) {
  const begin = stretches[0].timestamp;
  const width = (until - begin) / stretches.length;
  const known = stretches.map((stretch) => ({ ...stretch, unknown: stretch.timestamp + width <= (complete_since ?? 0) }));
  for (const chart of charts) chart.update(known, begin, until, Object.keys(backends));
}

function showTiles(total, live) {
  const tile = (name, value, more = "") => make("div", { class: "card" }, make("dt", {}, name), make("dd", {}, value), make("dd", { class: "more small muted" }, more));
  $("tiles").replaceChildren(
    tile("Requests", count(total.requests), live.running === null ? "" : `${count(live.running)} running`),
    tile("Errors", count(total.errors), `${share(total.errors, total.requests)}, ${count(total.aborted)} aborted`),
    tile("Fallbacks", count(total.fallbacks), share(total.fallbacks, total.requests)),
    tile("Latency p50", milliseconds(total.p50_ms), `p95 ${milliseconds(total.p95_ms)}`),
    tile("First chunk p50", milliseconds(total.first_chunk_p50_ms), `p95 ${milliseconds(total.first_chunk_p95_ms)}`),
    tile("Tokens/s", decimal(total.tokens_per_second), `${brief(total.output_tokens)} out, ${brief(total.input_tokens)} in`));
}

const which = () => document.querySelector('input[name="which"]:checked').value;
const rows = () => (which() === "latest" ? [...shown.latest, ...older] : shown.slowest);

function showRows() {
  $("more").hidden = which() !== "latest" || !(older.length ? goesOn : shown.more);
  const text = JSON.stringify(rows());
  if (text === drawn) return; // do not disturb a reader, or the focus, in the table
  drawn = text;
  showRequests($("requests"), rows(), open);
}

// What newer rows push out of the latest stands above those that are there already.
function keepOlder(latest) {
  const ids = new Set(latest.map((row) => row.at));
  if (older.length) older = [...shown.latest.filter((row) => !ids.has(row.at)), ...older];
}

// The rows before those that are there. They stay until the filter changes.
async function showMore() {
  const wanted = new URLSearchParams(filter.query());
  wanted.set("before", older.length ? goesOn : shown.more);
  const answer = await ask(`dashboard/requests?${wanted}`);
  if (!answer.ok) return refused(await problemOf(answer));
  const { requests, more } = await answer.json();
  older = [...older, ...requests];
  goesOn = more;
  showRows();
}

async function saveAsCSV() {
  const answer = await ask(`dashboard/requests.csv?${filter.query()}`);
  if (answer.ok) download("requests.csv", await answer.blob());
  else refused(await problemOf(answer));
}

function open(id) {
  openRecord(id, shown ? rows().map((row) => row.request_id) : [], (now) => {
    record = now;
    writeAddress();
  });
}

// --- hands

function writeAddress() {
  const wanted = new URLSearchParams(filter.query());
  if (record) wanted.set("record", record);
  history.replaceState(null, "", wanted.size ? `?${wanted}` : location.pathname);
}

filter.startFilter(() => {
  older = [];
  writeAddress();
  load();
});
$("more").addEventListener("click", showMore);
$("csv").addEventListener("click", saveAsCSV);
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) clearTimeout(timer);
  else load();
});
for (const radio of document.querySelectorAll('input[name="which"]')) radio.addEventListener("change", () => shown && showRows());
addEventListener("llm-api-key", load);
$("charts").append(...charts.map(({ element }) => element));
$("first-curl").textContent = curl("generate", { prompt: "Hello" }, Boolean(key()));
startHeader();
load();
if (record) open(record);
