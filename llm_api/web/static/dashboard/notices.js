// What stands above the numbers: what is missing in them, and what is wrong just now.

import { make } from "../shared/elements.js";
import { keyHeaders } from "../shared/service.js";
import { count, when } from "../shared/words.js";

export function notices({ complete_since, prompts_hidden, only_own, stats }, { open, lost }, hasFilter) {
  const found = [];
  const add = (kind, title, words) => found.push(make("div", { class: `notice ${kind}` }, title ? make("strong", {}, title) : null, words));
  if (!stats.total.requests && hasFilter) add("", "", "No requests in this time that fit the filter.");
  if (complete_since) add("warn", "Not all of it", `The numbers are complete since ${when(complete_since)}; what is before is still being counted, or could not be read in time. flask llm logs stats reads all of it.`);
  if (open.length) add("warn", "Left alone for now", `Failed several times in a row: ${open.join(", ")}.`);
  if (lost) add("bad", "Lines were lost", `${count(lost)} lines could not be written to the log since the start.`);
  if (only_own) add("", "", "Only your own requests are shown.");
  if (prompts_hidden) add("", "", "Prompts and answers are hidden (LOG_PROMPTS=false).");
  return found;
}

// What the log does not know, from the workers' metrics; a proxy may keep those to itself.
export async function liveNumbers(signal) {
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
