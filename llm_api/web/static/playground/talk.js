// The turns on the page, and asking.

import { button, make } from "../shared/elements.js";
import { NO_CONNECTION, askJSON, problemOf } from "../shared/service.js";
import { longText } from "../shared/text.js";
import { Answer } from "./answer.js";
import { follow } from "./follow.js";
import { field, fit, isChat, isRight } from "./form.js";
import { pictureOf } from "./pictures.js";
import { isWhole, request, streamed } from "./request.js";
import { chatted, generated } from "./stream.js";
import { newId } from "./kept/threads.js";

const box = document.getElementById("answers");
const empty = document.getElementById("empty");

// Where turns are taken away or asked again, what was is another thread, which the history still has.
export class Talk {
  turns = [];
  id = newId();
  #running = null;
  #on;

  // `on`: {configured() the backend that answers unless a model says otherwise, reason() why it may take long,
  // change(), edit(turn)}
  constructor(on) {
    this.#on = on;
  }

  get isRunning() {
    return this.#running !== null;
  }

  stop() {
    this.#running?.abort();
  }

  show(turns, id = newId()) {
    this.turns = turns;
    this.id = id;
    box.replaceChildren(empty, ...turns.map((turn) => this.#element(turn, turn.answers.map((kept) => Answer.of(kept, this.#options(turn))))));
    empty.hidden = turns.length > 0;
    follow();
  }

  // Ask `turn` in the place of the turn `instead` and what came after it, or after all.
  async ask(turn, instead = null) {
    const models = [field.model.value, ...(isChat() || turn.results || field.compare.value === "none" ? [] : [field.compare.value])];
    const at = instead ? this.turns.indexOf(instead) : this.turns.length;
    const before = isChat() ? this.turns.slice(0, at) : [];
    if (before.length < this.turns.length) this.#cut(before.length);
    const requests = models.map((model) => request(model, turn, before));
    const answers = models.map((model) => new Answer(model || "default", this.#options(turn)));
    turn.answers = answers.map(({ result }) => result);
    this.turns.push(turn);
    box.append(this.#element(turn, answers));
    empty.hidden = true;
    follow();
    await this.#run(answers, requests, models);
    this.#renew(turn, answers);
    return answers;
  }

  #cut(length) {
    this.turns = this.turns.slice(0, length);
    this.id = newId();
    const shown = [...box.children].filter((child) => child !== empty);
    for (const old of shown.slice(length)) old.remove();
  }

  async #run(answers, requests, models) {
    this.#running = new AbortController();
    this.#on.change();
    const { signal } = this.#running;
    await Promise.all(answers.map((answer, n) => {
      const wanted = models[n].includes("/") ? models[n].split("/")[0] : this.#on.configured();
      return run(answer, ...requests[n], wanted, signal);
    }));
    this.#running = null;
    this.#on.change();
  }

  again(turn) {
    if (this.isRunning || !isRight(false)) return;
    this.ask({ ...turn, answers: [] }, turn);
  }

  drop(turn) {
    if (this.isRunning) return;
    this.show(this.turns.filter((each) => each !== turn));
    this.#on.change();
  }

  // --- elements

  #options(turn) {
    return {
      raw: field.format.value !== "text",
      hands: () => [button("Again", () => this.again(turn), { title: "Ask for another answer" })],
      reason: this.#on.reason,
    };
  }

  #element(turn, answers) {
    const element = make("section", { class: "exchange" }, ...this.#asked(turn),
      make("div", { class: `given${answers.length === 2 ? " two" : ""}` }, ...answers.map((answer) => answer.element)),
      make("div", { class: "after" }));
    turn.element = new WeakRef(element);
    this.#renew(turn, answers);
    return element;
  }

  #asked(turn) {
    const words = turn.results ? turn.results.map(({ name, content }) => `${name}: ${content}`).join("\n\n") : turn.asked;
    return [
      make("article", { class: "turn", "aria-label": turn.results ? "Results of the calls" : "You" }, ...turn.pictures.map(pictureOf), longText(words)),
      make("div", { class: "turn-hands row small" },
        turn.results ? null : button("Edit", () => this.#on.edit(turn)), button("Delete", () => this.drop(turn))),
    ];
  }

  // What can be done once it is over.
  #renew(turn, [{ result }]) {
    const after = turn.element?.deref()?.querySelector(".after");
    if (!after || result.state === "waiting" || result.state === "streaming") return;
    const calls = result.state === "done" ? result.calls ?? [] : [];
    after.replaceChildren(...(calls.length ? [this.#resultsOf(calls)] : []));
    if (isWhole(turn)) return;
    after.replaceChildren(make("p", { class: "small muted untold" }, "Not whole, so the next messages are sent without this turn."));
  }

  #resultsOf(calls) {
    const given = calls.map(({ name }, n) => make("textarea", { rows: "2", class: "mono", "aria-label": `Result of call ${n + 1}, ${name}` }));
    return make("div", { class: "card results" },
      ...calls.map(({ name }, n) => make("label", {}, make("span", { class: "label" }, "Result of ", make("code", {}, name)), given[n])),
      button("Go on", () => {
        const results = calls.map(({ id, name }, n) => ({ id, name, content: given[n].value }));
        if (this.isRunning) return;
        field.mode.value = "chat";
        fit();
        this.ask({ asked: null, pictures: [], results, answers: [] });
      }, { class: "primary" }));
  }
}

async function run(answer, path, body, wanted, signal) {
  answer.begin();
  try {
    const said = await askJSON(path, streamed(path, body), signal);
    if (!said.ok) {
      answer.fail(await problemOf(said));
      return;
    }
    answer.from({
      backend: said.headers.get("X-LLM-Backend"),
      model: said.headers.get("X-LLM-Model"),
      fallback_reason: said.headers.get("X-LLM-Fallback"),
      request_id: said.headers.get("X-Request-ID"),
    }, wanted);
    for await (const { end, error, ...piece } of path === "generate" ? generated(said) : chatted(said)) {
      answer.add(piece);
      if (end) answer.end(end);
      if (error) answer.fail(error);
    }
  } catch (error) {
    if (signal.aborted) answer.stop();
    else if (error instanceof TypeError || error instanceof DOMException) answer.fail(NO_CONNECTION);
    else throw error;
  }
}
