// A record of the log as the playground's own: the form's values and the turns.

const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];

export function valuesOf({ operation, system, prompt, messages, parameters, request_model: model, requested_backend: backend }) {
  const given = parameters ?? {};
  const numbers = Object.fromEntries(NUMBERS.map((name) => [name, given[name] ?? ""]));
  const isPrompt = operation === "generate" && !messages;
  const first = messages?.find(({ role }) => role === "system");
  return {
    mode: isPrompt ? "prompt" : "chat",
    model: model ? `${backend}/${model.slice(model.startsWith(`${backend}/`) ? backend.length + 1 : 0)}` : "",
    system: system ?? first?.content ?? "",
    prompt: isPrompt ? prompt ?? "" : "",
    stop_words: [given.stop ?? []].flat().join("\n"),
    ...numbers,
  };
}

export function turnsOf(record) {
  const turns = [];
  for (const message of record.messages ?? [{ role: "user", content: record.prompt }]) {
    if (message.role === "user") turns.push(turn({ asked: message.content ?? "" }));
    if (message.role === "assistant") turns.at(-1)?.answers.push(answer({ text: message.content, calls: message.tool_calls, reasoning: message.reasoning }));
    if (message.role === "tool") takeResult(turns, message);
  }
  const last = turns.at(-1);
  if (last && !last.answers.length) last.answers.push(answerOf(record));
  return turns;
}

const turn = (said) => ({ asked: null, pictures: [], results: null, answers: [], ...said });
const answer = (said) => ({ asked: "from the log", reasoning: "", calls: [], state: "done", ...said, text: said.text ?? "" });

function takeResult(turns, { tool_call_id: id, content }) {
  const last = turns.at(-1);
  if (last?.results && !last.answers.length) last.results.push({ id, name: id, content });
  else turns.push(turn({ results: [{ id, name: id, content }] }));
}

function answerOf(record) {
  const { backend, model, fallback_reason, request_id, requested_backend, reasoning, finish_reason } = record;
  return answer({
    text: record.response, calls: record.tool_calls ?? [], reasoning: reasoning ?? "",
    backend, model, fallback_reason, request_id, finish_reason, wanted: requested_backend,
    state: { ok: "done", aborted: "stopped" }[record.status] ?? "failed",
    problem: record.status === "error" ? record.error ?? { code: "error" } : undefined,
    usage: { input_tokens: record.input_tokens, output_tokens: record.output_tokens },
    total: record.duration_ms, firstChunk: record.time_to_first_chunk_ms,
  });
}
