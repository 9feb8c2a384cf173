// What was asked before, as a list; and the way out of it: files.

import { button, make, showDialog } from "../../shared/elements.js";
import { when } from "../../shared/words.js";
import * as threads from "./threads.js";

const $ = (id) => document.getElementById(id);

// `open(thread)` shows one.
export async function listPast(open) {
  const items = await threads.all().catch(() => null);
  $("forget").hidden = !items?.length;
  $("history-note").textContent = noteOf(items);
  $("history").replaceChildren(...(items ?? []).map((item) => make("li", {},
    make("button", { type: "button", class: "quiet", onclick: async () => open(await threads.read(item.id)) },
      make("bdi", { class: "excerpt" }, titleOf(item)),
      make("span", { class: "small muted" }, `${when(item.at)} · ${item.turns.length > 1 ? `${item.turns.length} turns` : item.turns[0].answers[0]?.backend ?? "failed"}`)))));
}

function noteOf(items) {
  if (!items) return "This browser keeps nothing for this page.";
  return items.length ? "Kept in this browser only." : "Kept in this browser only. Nothing yet.";
}

const titleOf = ({ turns }) => String(turns[0].asked ?? "").slice(0, 120) || "(no words)";

// Ask first: what is gone is gone.
export function askToForget(done) {
  const dialog = showDialog("Clear the history?",
    make("p", {}, "All prompts and answers that this browser keeps for this page are deleted. The service’s log keeps its own."),
    make("div", { class: "row" }, button("Clear it", async () => {
      await threads.forget();
      dialog.close();
      done();
    }, { class: "primary" }), button("Keep it", () => dialog.close())));
}

// --- files

export function markdownOf(turns, system) {
  const parts = turns.flatMap(({ asked, results, answers }) => [
    results ? `## Results\n\n${results.map(({ name, content }) => `\`${name}\`: ${content}`).join("\n\n")}` : `## You\n\n${asked}`,
    ...answers.map(({ model, backend, text, calls }) => [`## ${model ?? "?"} (${backend ?? "?"})`, text,
      ...(calls ?? []).map((call) => `\`\`\`json\n${call.name} ${call.arguments}\n\`\`\``)].filter(Boolean).join("\n\n")),
  ]);
  return `${[...(system ? [`## System\n\n${system}`] : []), ...parts].join("\n\n")}\n`;
}

export const plainTurns = (turns) => turns.map(({ element, ...turn }) => turn);
