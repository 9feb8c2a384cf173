// The header: how the service is, and the key.

import { button, make } from "./elements.js";
import { key, setKey } from "./service.js";

const WELL_SECONDS = 30;
const UNWELL_SECONDS = 2;

let bar = null;

function showKeyBar(message = "") {
  bar?.remove();
  const field = make("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", required: true });
  const words = make("p", { role: "alert" });
  const save = (event) => {
    event.preventDefault();
    const given = field.value.trim();
    if (/^[\x21-\x7e]+$/.test(given)) setKey(given);
    else words.textContent = "A key is printable ASCII without blanks.";
  };
  bar = make("section", { class: "key-bar", "aria-label": "Access" },
    make("form", { onsubmit: save },
      make("label", { for: "key" }, "API key"), field,
      make("button", { class: "primary" }, "Use key"),
      button("Forget it", () => setKey(null)),
      words));
  document.querySelector(".top").after(bar);
  // after it is in the page: that is when a screen reader says it
  words.textContent = message ? `The service says: ${message}` : "Kept until the last tab of this service is closed, and sent to it only.";
  field.focus();
}

async function health() {
  try {
    return await (await fetch("health")).json();
  } catch {
    return { status: "no answer", reason: "the service does not answer" };
  }
}

// `onHealth(said)` is called with each of /health's answers. Returns what looks at once.
export function startHeader(onHealth = () => {}) {
  const shown = make("span", { class: "health", role: "status" }, "…");
  document.getElementById("right").append(shown, button("API key", () => showKeyBar()));
  let timer = null;
  const look = async () => {
    clearTimeout(timer);
    const said = await health();
    const reason = said.reason ?? "";
    const words = /: loading /.test(` ${reason}`) ? "loading" : String(said.status);
    if (shown.textContent !== words) shown.textContent = words;
    shown.dataset.status = said.status;
    shown.title = reason;
    onHealth(said);
    timer = setTimeout(lookWhenSeen, (said.status === "healthy" ? WELL_SECONDS : UNWELL_SECONDS) * 1000);
  };
  const lookWhenSeen = () => {
    if (document.hidden) document.addEventListener("visibilitychange", lookWhenSeen, { once: true });
    else look();
  };
  addEventListener("llm-api-refused", ({ detail }) => showKeyBar(detail));
  addEventListener("llm-api-key", () => {
    bar?.remove();
    bar = null;
  });
  look();
  return look;
}
