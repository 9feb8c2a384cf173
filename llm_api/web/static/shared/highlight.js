// The colours of a program's words: Prism finds the words, fetched when the first program comes.

import { make } from "./elements.js";

const MOST_CHARS = 50_000;
const ALIASES = { py: "python", js: "javascript", ts: "typescript", sh: "bash", shell: "bash", zsh: "bash", console: "bash", yml: "yaml", "c++": "cpp", html: "markup", xml: "markup", golang: "go", rs: "rust" };

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    highlight(target);
  }
}, { rootMargin: "50%" });

// Colour what is in `element`, once it is about to be seen.
export function colourPrograms(element) {
  for (const code of element.querySelectorAll("[data-lang]")) seen.observe(code);
}

async function highlight(code) {
  const name = code.dataset.lang.split(/\s/)[0].toLowerCase();
  if (!name || code.textContent.length > MOST_CHARS) return;
  const { default: prism } = await import("../vendor/prism/prism.js");
  const language = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (!Object.hasOwn(prism.languages, language) || typeof prism.languages[language] !== "object") return;
  code.replaceChildren(...nodesOf(prism.tokenize(code.textContent, prism.languages[language])));
}

function nodesOf(content) {
  if (typeof content === "string") return [content];
  if (Array.isArray(content)) return content.flatMap(nodesOf);
  return [make("span", { class: `word-${content.type}` }, ...nodesOf(content.content))];
}
