// Markdown as it comes: marked's lexer finds what is meant, and elements are made of it here, with text nodes only. A
// block that is over stays; only the last one is made again when more of it comes.

import { Marked } from "../vendor/marked/marked.js";
import { copyButton, make } from "./elements.js";
import { colourPrograms } from "./highlight.js";

const MOST_CHARS = 8192; // of a block that is made again with each piece; a longer one is cut at a line
const MOST_TOGETHER = 8 * MOST_CHARS; // where a line means something else without those before it
const PART = 2048; // characters that are laid out together
const FRAME = 50; // milliseconds of work before the page has its turn
const PAUSE = 3; // times what the last writing took, so that the page is idle most of the time
const DEEPEST = 40;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n`]*)\n/;
const LINKS = ["http:", "https:", "mailto:"];

// Formulas are left as they were written: their stars and underscores are no emphasis.
const MATH = /^(?:\$\$[^]{1,2000}?\$\$|\\\[[^]{1,2000}?\\\]|\\\([^]{1,2000}?\\\)|\$(?![\s$])[^$\n]{0,200}[^\s$\\]\$(?!\d))/;
const math = {
  name: "math",
  level: "inline",
  start: (text) => text.match(/\$|\\[[(]/)?.index,
  tokenizer(text) {
    const found = MATH.exec(text);
    if (found) return { type: "math", raw: found[0], text: found[0] };
  },
};
const marked = new Marked({ gfm: true, breaks: true, extensions: [math] });

export class Markdown {
  text = "";
  element = make("div", { class: "said markdown", dir: "auto" });
  #rest = ""; // what is not written for good
  #begun = new DocumentFragment(); // parts that are not on the page yet
  #part = null; // the element that blocks are put into
  #room = 0; // characters that may still be put there
  #most = MOST_CHARS; // that is looked at
  #last = null; // the element of the block that #rest begins with
  #code = null; // {code, end} of a program that has not ended
  #half = false; // whether what came last may be half of an end of a line
  #due = false;
  #pause = 0;
  #over = false;

  add(piece) {
    const isHalf = this.#half && piece.startsWith("\n");
    this.#half = piece.endsWith("\r");
    this.text += piece;
    this.#rest += (isHalf ? piece.slice(1) : piece).replace(/\r\n?/g, "\n"); // as the lexer has it
    this.#schedule();
  }

  // No more will come.
  end() {
    this.#over = true;
    this.#schedule();
  }

  #schedule() {
    if (this.#due) return;
    this.#due = true;
    setTimeout(() => requestAnimationFrame(() => this.#write()), this.#pause);
  }

  #write() {
    const began = performance.now();
    let took = 0;
    let more = true;
    while (more && took < FRAME) {
      more = this.#step();
      took = performance.now() - began;
    }
    this.#due = false;
    this.#pause = more ? 0 : PAUSE * took;
    if (more) this.#schedule();
  }

  // Write what is over for good; returns whether there is more that can be.
  #step() {
    if (!this.#rest) return false;
    if (this.#code) return this.#writeCode();
    const text = this.#lookedAt();
    const isAll = text.length === this.#rest.length;
    const tokens = lexed(text);
    const last = isAll && this.#over ? tokens.length : tokens.findLastIndex(({ type }) => type !== "space");
    const opening = FENCE.exec(tokens[last]?.raw ?? "");
    const isTooLong = !isAll && last <= 0 && !opening;
    if (isTooLong && isOne(tokens[0]) && this.#most < MOST_TOGETHER) return this.#lookFurther();
    const over = isTooLong ? beginningOf(tokens) : tokens.slice(0, Math.max(last, 0));
    this.#last?.remove();
    for (const token of over) {
      const block = this.#put(elementOf(token, BLOCKS));
      if (block) colourPrograms(block);
      this.#take(token.raw.length);
    }
    this.#last = null;
    if (opening) this.#openCode(...opening);
    else if (isAll && over.length < tokens.length) this.#last = this.#put(elementOf(tokens[over.length], BLOCKS)); // it may go on
    this.element.append(this.#begun);
    return Boolean(opening) || !isAll;
  }

  // What is looked at in one go: lines, where they are not too long.
  #lookedAt() {
    if (this.#rest.length <= this.#most) return this.#rest;
    const line = this.#rest.lastIndexOf("\n", this.#most);
    return this.#rest.slice(0, line > 0 ? line + 1 : this.#most);
  }

  #lookFurther() {
    this.#most = MOST_TOGETHER;
    return true;
  }

  #put(block) {
    if (!block) return null;
    if (this.#room <= 0) this.#beginPart();
    this.#part.append(block);
    return block;
  }

  #beginPart() {
    this.#part = make("div", { class: "part" });
    this.#room = PART;
    this.#begun.append(this.#part);
  }

  #take(count) {
    this.#rest = this.#rest.slice(count);
    this.#room -= count;
    this.#most = MOST_CHARS;
  }

  #openCode(opening, fence, lang) {
    const box = this.#put(codeBox("", lang.trim()));
    this.#code = { box, code: box.querySelector("code"), end: new RegExp(`^ {0,3}${fence[0]}{${fence.length},}[ \\t]*(?:\\n|$)`, "m") };
    this.#take(opening.length);
  }

  #writeCode() {
    const { box, code, end } = this.#code;
    const closing = end.exec(this.#rest);
    // its last line may be the beginning of what closes it
    const upTo = closing?.index ?? (this.#over ? this.#rest.length : this.#rest.lastIndexOf("\n") + 1);
    code.append(make("span", { class: "chunk" }, this.#rest.slice(0, upTo)));
    this.#take(upTo + (closing?.[0].length ?? 0));
    if (!closing && !this.#over) return false;
    colourPrograms(box);
    this.#code = null;
    return true;
  }
}

// Whether its lines mean something else where they are cut from it.
const isOne = ({ type, items }) => (items ? items.length === 1 : ["table", "blockquote"].includes(type));

// What of a long block is over: of a list all but its last item.
function beginningOf([first, ...more]) {
  if (!(first.items?.length > 1)) return [first, ...more];
  const items = first.items.slice(0, -1);
  return [{ ...first, items, raw: items.map(({ raw }) => raw).join("") }];
}

function lexed(text) {
  try {
    return marked.lexer(text);
  } catch {
    return [{ type: "paragraph", raw: text, tokens: [{ type: "text", text }] }]; // nested too deeply
  }
}

// --- blocks

const inside = (tokens, kinds) => (tokens ?? []).map((token) => elementOf(token, kinds)).filter((one) => one !== null);
const inline = (tokens) => inside(tokens, INLINES);

let depth = 0;

// What is not known, or too deep, is shown as it was written.
function elementOf(token, kinds) {
  const maker = Object.hasOwn(kinds, token.type) && depth < DEEPEST ? kinds[token.type] : null;
  if (!maker) return document.createTextNode(token.raw);
  depth += 1;
  try {
    return maker(token);
  } finally {
    depth -= 1;
  }
}

const BLOCKS = {
  space: () => null,
  def: () => null,
  hr: () => make("hr"),
  heading: ({ depth, tokens }) => make("h3", { class: `depth-${depth}`, dir: "auto" }, ...inline(tokens)),
  paragraph: ({ tokens }) => make("p", { dir: "auto" }, ...inline(tokens)),
  text: ({ tokens, text }) => make("span", {}, ...(tokens ? inline(tokens) : [text])),
  html: ({ raw }) => make("p", { dir: "auto", class: "as-written" }, raw),
  blockquote: ({ tokens }) => make("blockquote", { dir: "auto" }, ...inside(tokens, BLOCKS)),
  code: ({ text, lang }) => codeBox(text, lang),
  list: ({ ordered, start, items }) => make(ordered ? "ol" : "ul", { dir: "auto", start: ordered && start !== 1 ? start : null },
    ...items.map(itemOf)),
  table: tableOf,
};

function itemOf({ task, checked, tokens }) {
  const mark = task ? `${checked ? "☑" : "☐"} ` : "";
  return make("li", { dir: "auto", class: task ? "task" : null }, mark, ...inside(tokens.filter(({ type }) => type !== "checkbox"), BLOCKS));
}

function codeBox(text, lang) {
  const code = make("code", { "data-lang": lang }, text);
  return make("div", { class: "code" },
    make("div", { class: "row spread small muted" }, make("span", {}, lang || "text"), copyButton("Copy code", () => code.textContent)),
    make("pre", { tabindex: "0", dir: "ltr" }, code));
}

function tableOf({ header, rows }) {
  // an empty heading heads nothing
  const cell = (tag) => ({ tokens, align, text }) => make(text ? tag : "td", { dir: "auto", class: align ? `to-${align}` : null }, ...inline(tokens));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, make("table", {},
    make("thead", {}, make("tr", {}, ...header.map(cell("th")))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell("td")))))));
}

// --- inside of blocks

const INLINES = {
  text: ({ tokens, text }) => (tokens ? make("span", {}, ...inline(tokens)) : document.createTextNode(decoded(text))),
  escape: ({ text }) => document.createTextNode(text),
  strong: ({ tokens }) => make("strong", {}, ...inline(tokens)),
  em: ({ tokens }) => make("em", {}, ...inline(tokens)),
  del: ({ tokens }) => make("del", {}, ...inline(tokens)),
  codespan: ({ text }) => make("code", {}, text),
  br: () => make("br"),
  html: ({ raw }) => (/^<br *\/?>$/i.test(raw) ? make("br") : document.createTextNode(raw)), // a cell has no other way to a new line
  math: ({ text }) => make("span", { class: "math", dir: "ltr" }, text),
  link: ({ href, tokens, raw }) => linkTo(href, inline(tokens), raw),
  // fetched, it would tell another host of the answer
  image: ({ href, text, raw }) => linkTo(href, [`picture: ${text || href}`], raw),
};

function linkTo(href, content, raw) {
  const isSafe = URL.canParse(href) && LINKS.includes(new URL(href).protocol);
  if (!isSafe) return document.createTextNode(raw);
  return make("a", { href, target: "_blank", rel: "noopener noreferrer nofollow", title: href }, ...content);
}

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };

function decoded(text) {
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w{1,8}));/gi, (all, decimal, hex, name) => {
    if (name) return ENTITIES[name] ?? all;
    const code = decimal ? Number(decimal) : parseInt(hex, 16);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : all;
  });
}
