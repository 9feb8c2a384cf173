// One answer on the page: its text as it comes, who gave it, how fast, and what went wrong.

import { button, copyButton, make } from "../shared/elements.js";
import { Markdown } from "../shared/markdown.js";
import { showProblem } from "../shared/problem.js";
import { Text, longText } from "../shared/text.js";
import { REASONS, count, decimal, indented, milliseconds } from "../shared/words.js";

const FACTS = ["First chunk", "Total", "Tokens in", "Tokens out", "Tokens/s", "Finish"];
const LEFT = { code: "left", message: "The page was left before all of the answer came." };

// `result` is what is kept of it: {asked, raw, text, reasoning, thoughts, calls, state, …}. `hands(answer)` returns more
// buttons, `reason()` why an answer may have to be waited for.
export class Answer {
  #said;
  #thoughts = new Text();
  #calls = make("div", { class: "calls" });
  #state = make("span", { class: "state" }, "waiting");
  #who;
  #notices = make("div", { class: "notices" });
  #facts = Object.fromEntries(FACTS.map((name) => [name, make("dd", {}, "–")]));
  #id = make("bdi", { class: "mono" }, "–");
  #started = performance.now();
  #timer = null;

  constructor(asked, { raw = false, hands = () => [], reason = () => "" } = {}) {
    this.result = { asked, raw, text: "", reasoning: "", thoughts: [], calls: [], state: "waiting", firstChunk: null };
    this.reason = reason;
    this.#said = raw ? new Text() : new Markdown();
    this.#who = make("h2", {}, make("bdi", {}, asked));
    this.thinking = make("details", { class: "thoughts", hidden: true }, make("summary", {}, "Reasoning"), this.#thoughts.element);
    this.element = make("article", { class: "card answer", "aria-busy": "true", "data-state": "waiting" },
      make("header", { class: "row spread" }, this.#who, this.#state),
      this.#notices, this.thinking, this.#said.element, this.#calls,
      make("dl", { class: "facts" }, ...FACTS.map((name) => make("div", {}, make("dt", {}, name), this.#facts[name]))),
      make("footer", { class: "row spread small muted" },
        make("span", { class: "request-id" }, "Request ", this.#id),
        make("span", { class: "row" }, ...hands(this), raw ? null : this.#rawSwitch(), copyButton("Copy text", () => this.result.text))));
  }

  #rawSwitch() {
    const shown = button("Raw", () => {
      const isRaw = shown.getAttribute("aria-pressed") !== "true";
      shown.setAttribute("aria-pressed", String(isRaw));
      this.element.querySelector(".as-it-came")?.remove();
      if (isRaw) this.#said.element.after(longText(this.result.text, "as-it-came"));
      this.#said.element.hidden = isRaw;
    }, { "aria-pressed": "false" });
    return shown;
  }

  begin() {
    const tell = () => {
      const seconds = Math.floor((performance.now() - this.#started) / 1000);
      const reason = this.reason();
      if (this.result.state === "waiting") this.#state.textContent = `waiting ${seconds} s${reason ? `, ${reason}` : ""}`;
    };
    this.#timer = setInterval(tell, 1000);
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

  add({ text, reasoning, thoughts, calls }) {
    if (!text && !reasoning && !calls) return;
    this.#first();
    if (text) this.#say(text);
    if (reasoning) this.#think(reasoning);
    if (thoughts) this.result.thoughts.push(...thoughts);
    for (const call of calls ?? []) this.#call(call);
  }

  #first() {
    if (this.result.firstChunk !== null) return;
    this.result.firstChunk = performance.now() - this.#started;
    this.#facts["First chunk"].textContent = milliseconds(this.result.firstChunk);
    this.#to("streaming");
  }

  #say(text) {
    this.result.text += text;
    this.#said.add(text);
  }

  #think(text) {
    this.result.reasoning += text;
    this.thinking.hidden = false;
    this.#thoughts.add(text);
  }

  #call({ index, id, name, arguments: given }) {
    const call = this.result.calls[index] ??= { id, name, arguments: "" };
    call.arguments += given ?? "";
    this.#calls.replaceChildren(...this.result.calls.map(callView));
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
    clearInterval(this.#timer);
    this.#to(state);
    this.result.total ??= performance.now() - this.#started;
    this.#said.end();
    const { total, usage, finish_reason } = this.result;
    this.#facts.Total.textContent = milliseconds(total);
    this.#facts["Tokens in"].textContent = count(usage?.input_tokens);
    this.#facts["Tokens out"].textContent = count(usage?.output_tokens);
    this.#facts["Tokens/s"].textContent = decimal(usage?.output_tokens ? (1000 * usage.output_tokens) / total : null);
    this.#facts.Finish.textContent = finish_reason ?? "–";
    this.element.setAttribute("aria-busy", "false");
  }

  static of(kept, options) {
    const answer = new Answer(String(kept.asked), { ...options, raw: kept.raw });
    if (kept.backend) answer.from(kept, kept.wanted);
    answer.#say(String(kept.text ?? ""));
    if (kept.reasoning) answer.#think(kept.reasoning);
    for (const [index, call] of (kept.calls ?? []).entries()) answer.#call({ index, ...call });
    answer.result = kept;
    answer.#facts["First chunk"].textContent = milliseconds(kept.firstChunk);
    const isOver = ["done", "stopped", "failed"].includes(kept.state);
    if (!isOver) answer.fail(LEFT);
    else if (kept.problem) answer.fail(kept.problem);
    else answer.#over(kept.state);
    return answer;
  }
}

function callView({ name, arguments: given }) {
  return make("div", { class: "call" }, make("strong", {}, "Calls ", make("code", {}, name)), longText(indented(given || "{}"), "mono"));
}
