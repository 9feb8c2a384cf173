// What the pages share: the key, asking the service, making elements, writing numbers.
// A model's answer is a stranger's text: it becomes text nodes, never markup.

// Another mount of the service on this host has another key and another history.
export const scope = new URL(".", location.href).pathname;

const KEY = `llm_api.key:${scope}`;
const HEALTH_SECONDS = 30;

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// --- the service

export function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

export async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  if (answer.status === 401) showKeyBar((await problemOf(answer.clone())).message);
  return answer;
}

export function askJSON(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

export async function problemOf(answer) {
  try {
    const { error, request_id, fields } = await answer.json();
    return { ...error, status: answer.status, request_id, fields };
  } catch {
    // a proxy's own page
    return { message: `The answer is no JSON (HTTP ${answer.status}).`, code: `http_${answer.status}` };
  }
}

export function showProblem(problem) {
  const fields = Object.entries(problem.fields ?? {}).map(([name, words]) =>
    make("li", {}, `${name}: ${[words].flat().map((word) => (typeof word === "string" ? word : JSON.stringify(word))).join(" ")}`));
  return make("div", { class: "notice bad" },
    make("strong", {}, problem.code ?? "error"),
    make("bdi", {}, problem.message ?? ""),
    fields.length ? make("ul", {}, ...fields) : null,
    problem.request_id ? make("p", { class: "small muted" }, "Request ", make("bdi", { class: "mono" }, problem.request_id)) : null);
}

// --- the key: for this tab only, and told by the service that one is needed

let bar = null;

export function showKeyBar(message = "") {
  bar?.remove();
  const field = make("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const words = make("p", { role: "alert" });
  const save = (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (!/^[\x21-\x7e]+$/.test(key)) {
      words.textContent = "A key is printable ASCII without blanks.";
      return;
    }
    sessionStorage.setItem(KEY, key);
    closed();
  };
  const forget = () => {
    sessionStorage.removeItem(KEY);
    closed();
  };
  bar = make("section", { class: "key-bar", "aria-label": "Access" },
    make("form", { onsubmit: save },
      make("label", { for: "key" }, "API key"), field,
      make("button", { class: "primary" }, "Use key"),
      make("button", { type: "button", class: "quiet", onclick: forget }, "Forget it"),
      words));
  document.querySelector(".top").after(bar);
  // after it is in the page: that is when a screen reader says it
  words.textContent = message ? `The service says: ${message}` : "Kept for this tab only, and sent to this service only.";
  field.focus();
}

function closed() {
  bar.remove();
  bar = null;
  dispatchEvent(new Event("llm-api-key"));
}

// --- the header

export function startHeader(onHealth = () => {}) {
  const health = make("span", { class: "health", role: "img", "aria-label": "Health: not known yet" }, "…");
  const key = make("button", { type: "button", class: "quiet", onclick: () => showKeyBar() }, "API key");
  document.getElementById("right").append(health, key);
  const look = async () => {
    let said = { status: "no answer", reason: "the service does not answer" };
    try {
      said = await (await fetch("health")).json();
    } catch { /* it stays that */ }
    health.textContent = String(said.status);
    health.dataset.status = said.status;
    health.title = said.reason ?? "";
    health.setAttribute("aria-label", `Health: ${said.status}${said.reason ? `, ${said.reason}` : ""}`);
    onHealth(said);
  };
  look();
  setInterval(() => document.hidden || look(), HEALTH_SECONDS * 1000);
}

// --- words for people

export const REASONS = {
  unreachable: "no connection",
  timeout: "no answer in time",
  rate_limited: "a rate limit, or no quota left",
  overloaded: "the provider is overloaded",
  bad_credentials: "the key is wrong, or may not do this",
  model_not_found: "no such model there",
  server_error: "it failed, or dropped the connection",
  invalid_answer: "not what its API promises",
  not_recorded: "the log has no answer to this request",
  circuit_open: "it failed several times and is left alone for a moment",
  not_configured: "a key or a package is missing",
};

const whole = new Intl.NumberFormat("en");
export const count = (number) => (number == null ? "–" : whole.format(number));
export const decimal = (number, digits = 1) => (number == null ? "–" : number.toFixed(digits));
export const share = (part, all) => (all ? `${((100 * part) / all).toFixed(1)} %` : "–");

export function milliseconds(number) {
  if (number == null) return "–";
  if (number === 0) return "0 ms";
  if (number < 10) return `${number.toFixed(1)} ms`;
  return number < 1000 ? `${Math.round(number)} ms` : `${(number / 1000).toFixed(number < 10_000 ? 2 : 1)} s`;
}

export function when(seconds, day = true) {
  const date = new Date(seconds * 1000);
  const time = date.toLocaleTimeString("en-GB");
  const today = date.toDateString() === new Date().toDateString();
  return day && !today ? `${date.toLocaleDateString("sv-SE")} ${time}` : time;
}

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
  } catch {
    // only pages from https or this machine may write to the clipboard
    const area = make("textarea", { readonly: true, "aria-label": "To copy" });
    area.value = text;
    showDialog("Press Ctrl+C to copy", area);
    area.select();
  }
}

export function showDialog(title, ...content) {
  const close = make("button", { type: "button", class: "quiet" }, "Close ", make("kbd", {}, "Esc"));
  const dialog = make("dialog", { "aria-label": title },
    make("header", {}, make("h2", {}, title), close), make("div", {}, ...content));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
