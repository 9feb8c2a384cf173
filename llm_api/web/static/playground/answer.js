// One answer on the page: its text as it comes, who gave it, how fast, and what went wrong.

import { copy, make } from "../shared/elements.js";
import { showProblem } from "../shared/problem.js";
import { Text } from "../shared/text.js";
import { REASONS, count, decimal, milliseconds } from "../shared/words.js";

const FACTS = ["First chunk", "Total", "Tokens in", "Tokens out", "Tokens/s", "Finish"];

export class Answer {
  #said = new Text();
  #state = make("span", { class: "state" }, "waiting");
  #who;
  #notices = make("div", { class: "notices" });
  #facts = Object.fromEntries(FACTS.map((name) => [name, make("dd", {}, "–")]));
  #id = make("bdi", { class: "mono" }, "–");
  #started = performance.now();

  constructor(asked) {
    this.asked = asked;
    this.result = { asked, text: "", state: "waiting", firstChunk: null };
    this.#who = make("h2", {}, make("bdi", {}, asked));
    const button = make("button", { type: "button", class: "quiet", onclick: () => copy(this.text, button) }, "Copy text");
    this.element = make("article", { class: "card answer", "aria-busy": "true" },
      make("header", { class: "row spread" }, this.#who, make("div", { class: "row" }, this.#state, button)),
      this.#notices, this.#said.element,
      make("dl", { class: "facts" }, ...FACTS.map((name) => make("div", {}, make("dt", {}, name), this.#facts[name]))),
      make("p", { class: "request-id small muted" }, "Request ", this.#id));
  }

  get text() {
    return this.#said.text;
  }

  // `who` has backend, model, fallback_reason, request_id; `wanted` is the backend that was to answer
  from(who, wanted) {
    Object.assign(this.result, who, { wanted });
    this.#who.replaceChildren(make("bdi", {}, who.model || "unknown model"), make("bdi", { class: "muted" }, who.backend ?? ""));
    this.#id.textContent = who.request_id ?? "–";
    if (!who.fallback_reason) return;
    this.element.dataset.fallback = who.fallback_reason;
    this.#notices.append(make("div", { class: "notice warn" },
      make("strong", {}, "Fallback: ", make("code", {}, who.fallback_reason)),
      make("bdi", {}, wanted || "The configured backend"), " could not answer",
      REASONS[who.fallback_reason] ? ` (${REASONS[who.fallback_reason]})` : "", ". This is from ",
      make("bdi", {}, who.backend ?? "another one"), "."));
  }

  add(piece) {
    if (this.result.firstChunk === null) {
      this.result.firstChunk = performance.now() - this.#started;
      this.#facts["First chunk"].textContent = milliseconds(this.result.firstChunk);
      this.#to("streaming");
    }
    this.#said.add(piece);
  }

  end({ usage, finish_reason } = {}) {
    Object.assign(this.result, { usage, finish_reason });
    this.#over("done");
  }

  stop() {
    this.#over("stopped");
  }

  fail(problem) {
    this.result.problem = problem;
    this.#notices.append(showProblem({ ...problem, request_id: null }));
    if (problem.request_id) this.#id.textContent = problem.request_id;
    this.#over("failed");
  }

  #to(state) {
    this.#state.textContent = state;
    this.element.dataset.state = this.result.state = state;
  }

  #over(state) {
    this.#to(state);
    if (this.result.total === undefined) this.result.total = performance.now() - this.#started;
    this.result.text = this.text;
    const { total, usage, finish_reason } = this.result;
    this.#facts.Total.textContent = milliseconds(total);
    this.#facts["Tokens in"].textContent = count(usage?.input_tokens);
    this.#facts["Tokens out"].textContent = count(usage?.output_tokens);
    this.#facts["Tokens/s"].textContent = decimal(usage?.output_tokens ? (1000 * usage.output_tokens) / total : null);
    this.#facts.Finish.textContent = finish_reason ?? "–";
    this.element.setAttribute("aria-busy", "false");
  }

  static of(kept) {
    const answer = new Answer(String(kept.asked));
    answer.result = { ...kept };
    if (kept.backend) answer.from(kept, kept.wanted);
    answer.#said.add(String(kept.text));
    answer.#facts["First chunk"].textContent = milliseconds(kept.firstChunk);
    if (kept.problem) answer.#notices.append(showProblem(kept.problem));
    answer.#over(kept.state);
    return answer;
  }
}
