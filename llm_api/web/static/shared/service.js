// Asking the service, with the key that all its tabs share and no disk keeps.

// Another mount of the service on this host has another key and another history.
export const scope = new URL(".", location.href).pathname;

const KEY = `llm_api.key:${scope}`;
const tabs = new BroadcastChannel(KEY);

export const key = () => sessionStorage.getItem(KEY);
export const keyHeaders = () => (key() ? { Authorization: `Bearer ${key()}` } : {});

// null: forget it
export function setKey(value) {
  take(value);
  tabs.postMessage({ key: value });
}

function take(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  dispatchEvent(new Event("llm-api-key"));
}

tabs.onmessage = ({ data }) => {
  if (data.key === undefined) key() && tabs.postMessage({ key: key() });
  else if (data.key !== key()) take(data.key);
};
if (!key()) tabs.postMessage({});

export async function ask(path, options = {}) {
  const used = key();
  const answer = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  if (answer.status === 401) refused((await problemOf(answer.clone())).message, used);
  return answer;
}

// The service wants a key, or another one; unless another tab has given it meanwhile.
export function refused(message, used = key()) {
  if (used === key()) dispatchEvent(new CustomEvent("llm-api-refused", { detail: message }));
}

export function askJSON(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

// The texts of an answer, as they come.
export async function* pieces(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

export async function problemOf(answer) {
  const status = answer.status;
  const retry_after = Number(answer.headers.get("Retry-After")) || null;
  try {
    const { error, request_id, fields } = await answer.json();
    // Ollama's are a text
    return { ...(typeof error === "string" ? { message: error } : error), status, request_id, fields, retry_after };
  } catch {
    // a proxy's own page
    return { message: `The answer is no JSON (HTTP ${status}).`, code: `http_${status}`, status, retry_after };
  }
}

// What fetch throws says nothing that helps.
export const NO_CONNECTION = { code: "no_connection", message: "No answer: the service can’t be reached, or the connection broke." };
