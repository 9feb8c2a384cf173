// Swagger UI over the API's own description, with the key that all pages share.

import { startHeader } from "../shared/header.js";
import { keyHeaders, refused } from "../shared/service.js";

/* global SwaggerUIBundle */

function start() {
  SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    // without null, Swagger UI sends the document to a server of its makers
    validatorUrl: null,
    requestInterceptor: (request) => Object.assign(request, { headers: { ...keyHeaders(), ...request.headers } }),
    responseInterceptor: (answer) => {
      if (answer.status === 401) refused(JSON.parse(answer.text).error.message);
      return answer;
    },
  });
}

// What Swagger UI leaves without a name; and its links inside of buttons, which say nothing that the buttons don't.
const NAMES = { "#servers": "Server", ".examples-select-element": "Example", "textarea.body-param__text": "Request body" };

function repair() {
  for (const [selector, name] of Object.entries(NAMES)) {
    for (const element of document.querySelectorAll(`${selector}:not([aria-label])`)) element.setAttribute("aria-label", name);
  }
  // what is scrolled with the keys needs the focus
  for (const example of document.querySelectorAll("#swagger-ui pre.example:not([tabindex])")) example.tabIndex = 0;
  for (const link of document.querySelectorAll("#swagger-ui button a[href]")) link.removeAttribute("href");
}

new MutationObserver(repair).observe(document.getElementById("swagger-ui"), { childList: true, subtree: true });

const dark = matchMedia("(prefers-color-scheme: dark)");
const fit = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", fit);
fit();
addEventListener("llm-api-key", start);
// Swagger UI takes the address's fragment for itself
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("description").focus();
});
startHeader();
start();
