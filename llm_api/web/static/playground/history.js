// What was asked before, in this browser's own storage.

import { scope } from "../shared/service.js";

const NAME = `llm_api.history:${scope}`;
const MOST = 50;
const MOST_CHARS = 20_000; // of one answer; a browser keeps some five million in all

export function all() {
  try {
    const kept = JSON.parse(localStorage.getItem(NAME) ?? "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

// `item.id` names one prompt or one conversation; a longer one takes the place of its beginning.
export function keep(item) {
  const cut = { ...item, answers: item.answers.map((answer) => ({ ...answer, text: answer.text.slice(0, MOST_CHARS) })) };
  let items = [cut, ...all().filter(({ id }) => id !== item.id)].slice(0, MOST);
  while (items.length) {
    try {
      localStorage.setItem(NAME, JSON.stringify(items));
      return;
    } catch {
      items = items.slice(0, Math.floor(items.length / 2)); // no room: the older ones go
    }
  }
}

export function forget() {
  localStorage.removeItem(NAME);
}
