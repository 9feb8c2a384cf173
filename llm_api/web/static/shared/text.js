// A stranger's text, as it comes. What is off the screen is not laid out, so a megabyte in one line freezes nothing.

import { make } from "./elements.js";

const BLOCK = 4096; // characters

export function longText(words, ...classes) {
  const text = new Text();
  text.add(words);
  text.end();
  text.element.classList.add(...classes);
  return text.element;
}

export class Text {
  text = "";
  #waiting = "";
  #last = null;

  constructor() {
    this.element = make("div", { class: "said" });
    this.#begin();
  }

  add(piece) {
    this.text += piece;
    if (!this.#waiting) requestAnimationFrame(() => this.#write());
    this.#waiting += piece;
  }

  end() {
    this.#write();
  }

  #begin() {
    this.#last = document.createTextNode("");
    this.element.append(make("div", {}, this.#last));
  }

  #write() {
    let rest = this.#waiting;
    this.#waiting = "";
    while (this.#last.length + rest.length > BLOCK) {
      const line = rest.lastIndexOf("\n", BLOCK);
      if (line < 0 && this.#last.length + rest.length < 4 * BLOCK) break;
      // a block ends at a newline, which its end stands for; only a very long line is cut, between two characters
      let end = line < 0 ? Math.max(0, 4 * BLOCK - this.#last.length) : line;
      if (line < 0 && /[\ud800-\udbff]/.test(rest[end - 1] ?? "")) end -= 1;
      this.#last.appendData(rest.slice(0, end));
      rest = rest.slice(line < 0 ? end : end + 1);
      this.#begin();
    }
    this.#last.appendData(rest);
  }
}
