// What went wrong, in words.

import { make } from "./elements.js";
import { timeOf } from "./words.js";

export function showProblem({ code, message, fields, retry_after, request_id }) {
  const wrong = Object.entries(fields ?? {}).map(([name, words]) => `${name}: ${[words].flat().map(asText).join(" ")}`);
  // the message of a single field is that field's
  const said = wrong.length ? wrong : [message ?? ""];
  return make("div", { class: "notice bad" },
    make("strong", {}, code ?? "error"),
    ...said.map((words) => make("p", {}, make("bdi", {}, words))),
    retry_after ? make("p", {}, `Try again in ${retry_after} s, at ${timeOf(Date.now() / 1000 + retry_after)}.`) : null,
    request_id ? make("p", { class: "small muted request-id" }, "Request ", make("bdi", { class: "mono" }, request_id)) : null);
}

const asText = (word) => (typeof word === "string" ? word : JSON.stringify(word));
