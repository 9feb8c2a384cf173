// Streamed answers, piece by piece: {text}, {reasoning}, {thoughts}, {calls}, then {end}, or {error}. One that ends
// without either was cut.

import { pieces } from "../shared/service.js";

const CUT = { code: "cut", message: "The answer was cut off: the connection ended before it was done." };

async function* lines(answer) {
  let rest = "";
  for await (const piece of pieces(answer)) {
    const found = (rest + piece).split("\n");
    rest = found.pop();
    yield* found;
  }
}

// /generate: NDJSON
export async function* generated(answer) {
  for await (const line of lines(answer)) {
    const { response, refusal, error, done, details, finish_reason } = JSON.parse(line);
    if (response || refusal) yield { text: response || refusal };
    if (details?.reasoning) yield { reasoning: details.reasoning };
    if (details?.tool_calls) yield { calls: details.tool_calls.map((call, index) => ({ index, ...call })) };
    if (error) yield { error };
    else if (done) yield { end: { ...details, finish_reason } };
    if (done) return;
  }
  yield { error: CUT };
}

// /v1/chat/completions: server-sent events. `calls` are pieces of calls, to be joined by their index.
export async function* chatted(answer) {
  const end = {};
  for await (const line of lines(answer)) {
    if (line === "data: [DONE]") {
      yield { end };
      return;
    }
    if (!line.startsWith("data: ")) continue;
    const { choices, usage, error } = JSON.parse(line.slice(6));
    if (error) {
      yield { error };
      return;
    }
    const [choice] = choices;
    if (choice) yield pieceOf(choice.delta);
    if (choice?.finish_reason) end.finish_reason = choice.finish_reason;
    if (usage) end.usage = { input_tokens: usage.prompt_tokens, output_tokens: usage.completion_tokens };
  }
  yield { error: CUT };
}

function pieceOf({ content, refusal, reasoning_content: reasoning, thinking_blocks: thoughts, tool_calls: calls }) {
  return {
    text: content || refusal,
    reasoning,
    thoughts,
    calls: calls?.map(({ index, id, function: { name, arguments: given } }) => ({ index, id, name, arguments: given })),
  };
}
