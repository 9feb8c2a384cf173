// The tables: by backend, by model, by reason, and single requests.

import { make, refill } from "../shared/elements.js";
import { REASONS, brief, count, decimal, milliseconds, share, when } from "../shared/words.js";
import { filterLink } from "./filter.js";

const GROUP = [
  ["Requests", (g) => count(g.requests)], ["Errors", (g) => count(g.errors)], ["Aborted", (g) => count(g.aborted)],
  ["Fallbacks", (g) => count(g.fallbacks)],
  ["p50 / p95 / p99", (g) => three(g.p50_ms, g.p95_ms, g.p99_ms)],
  ["First chunk p50 / p95", (g) => three(g.first_chunk_p50_ms, g.first_chunk_p95_ms)],
  ["Tokens in → out", (g) => `${brief(g.input_tokens)} → ${brief(g.output_tokens)}`],
  ["Tokens/s", (g) => decimal(g.tokens_per_second)],
];
const three = (...numbers) => (numbers.every((number) => number == null) ? "–" : numbers.map(milliseconds).join(" / "));

function fill(table, headings, rows) {
  const head = headings.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
  const none = make("tr", {}, make("td", { colspan: headings.length, class: "muted" }, "None."));
  refill(table, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...(rows.length ? rows : [none])));
}

// `groups`: {title: numbers}; `pick(title)` returns the filter that a click on it sets, null where it is none.
export function showGroups(table, name, groups, pick) {
  fill(table, [[name], ...GROUP.map(([heading]) => [heading, "number"])], Object.entries(groups).map(([title, group]) =>
    make("tr", {}, make("th", { scope: "row" }, pick(title) ? filterLink(title, pick(title)) : title), ...GROUP.map(([, of]) => make("td", { class: "number" }, of(group))))));
}

export function showReasons(table, reasons, all) {
  showCounts(table, ["Reason", "Fallbacks"], reasons, all, (reason) => [make("code", {}, filterLink(reason, { reason })), REASONS[reason] ?? ""]);
}

export function showErrors(table, codes, all) {
  showCounts(table, ["Code", "Errors"], codes, all, (code) => [make("code", {}, filterLink(code, { error: code })), REASONS[code] ?? ""]);
}

function showCounts(table, [name, what], counts, all, wordsOf) {
  fill(table, [[name], ["What happened"], [what, "number"], ["Of all requests", "number"]],
    Object.entries(counts).map(([key, number]) => {
      const [first, second] = wordsOf(key);
      return make("tr", {}, make("th", { scope: "row" }, first), make("td", {}, second),
        make("td", { class: "number" }, count(number)), make("td", { class: "number" }, share(number, all)));
    }));
}

const REQUEST = [["Time"], ["Status"], ["Answered by"], ["Duration", "number"], ["First chunk", "number"], ["Tokens", "number"], ["Caller"], ["Prompt"]];

// `open(id)` shows the record.
export function showRequests(table, rows, open) {
  const hasCallers = rows.some(({ caller }) => caller);
  fill(table, REQUEST.filter(([name]) => hasCallers || name !== "Caller"), rows.map((row) => requestRow(row, open, hasCallers)));
}

function requestRow(row, open, hasCallers) {
  const onclick = (event) => {
    if (event.target.closest("[data-filter]")) return;
    event.stopPropagation();
    open(row.request_id);
  };
  const opener = make("button", { type: "button", class: "quiet", "data-request": row.request_id, title: row.request_id, onclick },
    when(row.timestamp), make("span", { class: "unseen" }, `, show request ${row.request_id}`));
  const tokens = row.input_tokens == null && row.output_tokens == null ? "–" : `${count(row.input_tokens)} → ${count(row.output_tokens)}`;
  return make("tr", { onclick },
    make("td", {}, opener),
    make("td", {}, make("span", { class: `mark ${row.status}` }, `${row.status} ${row.http_status ?? ""}`),
      row.error ? make("code", { class: "small" }, " ", filterLink(row.error, { error: row.error })) : null),
    make("td", {}, make("bdi", {}, row.backend ? `${row.backend}/${row.model}` : "–"),
      row.fallback_reason ? make("span", { class: "fallback small" }, `fallback from ${row.requested_backend}: ${row.fallback_reason}`) : null),
    make("td", { class: "number" }, milliseconds(row.duration_ms)),
    make("td", { class: "number" }, milliseconds(row.time_to_first_chunk_ms)),
    make("td", { class: "number" }, tokens),
    hasCallers ? make("td", {}, row.caller ? filterLink(row.caller, { caller: row.caller }) : "–") : null,
    make("td", { class: "prompt" }, make("bdi", {}, row.excerpt ?? "–")));
}
