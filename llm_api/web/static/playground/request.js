// From the form and the turns to what is sent. A turn: {asked, pictures, results, answers}; `results` answer the calls of
// the turn before it, and then nothing is asked.

import { isChat, parameters, system } from "./form.js";

// the path and the body that ask `model` for an answer to `turn`, after the turns `before` it
export function request(model, turn, before) {
  return isChat() ? conversation(model, turn, before) : prompt(model, turn);
}

function prompt(model, { asked, pictures }) {
  const images = pictures.map((url) => url.slice(url.indexOf(",") + 1));
  const said = { prompt: asked, ...(system() && { system: system() }), ...(images.length && { images }) };
  return ["generate", { ...said, ...(model && { model }), ...parameters() }];
}

function conversation(model, turn, before) {
  const first = system() ? [{ role: "system", content: system() }] : [];
  const said = before.filter(isWhole).flatMap((each) => [...askedOf(each), answeredOf(each.answers[0])]);
  return ["v1/chat/completions", { model: model || "default", messages: [...first, ...said, ...askedOf(turn)], ...parameters() }];
}

// An answer that broke off is not what the model said.
export const isWhole = ({ answers }) => answers[0]?.state === "done";

function askedOf({ asked, pictures, results }) {
  if (results) return results.map(({ id, content }) => ({ role: "tool", tool_call_id: id, content }));
  const shown = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  if (shown.length) return [{ role: "user", content: [{ type: "text", text: asked }, ...shown] }];
  return asked.trim() ? [{ role: "user", content: asked }] : [];
}

function answeredOf({ text, reasoning, thoughts, calls }) {
  const made = (calls ?? []).map(({ id, name, arguments: given }) => ({ id, type: "function", function: { name, arguments: given } }));
  return {
    role: "assistant",
    content: text || null,
    ...(reasoning && { reasoning_content: reasoning }),
    ...(thoughts?.length && { thinking_blocks: thoughts }),
    ...(made.length && { tool_calls: made }),
  };
}

export const streamed = (path, body) =>
  path === "generate" ? { ...body, stream: true, details: true } : { ...body, stream: true, stream_options: { include_usage: true } };
