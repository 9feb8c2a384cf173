// A request as others send it. A key is named, never written down.

const url = (path) => new URL(path, location.href).href;
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// `body`: JSON, or what is to become it; none where nothing is sent
export function curl(path, body, withKey) {
  const key = withKey ? ' \\\n  -H "Authorization: Bearer $LLM_API_KEY"' : "";
  if (body === undefined) return `curl ${quoted(url(path))}${key}\n`;
  const text = typeof body === "string" ? body : JSON.stringify(body);
  return `curl ${quoted(url(path))} -H 'Content-Type: application/json'${key} \\\n  -d ${quoted(text)}\n`;
}

function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => literal(item, deeper))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, deeper)}`);
  return items.length ? `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${indent}${close}` : open + close;
}

export function python(path, body, withKey) {
  return path.startsWith("v1/") ? pythonOpenAI(body, withKey) : pythonRequests(path, body, withKey);
}

function pythonRequests(path, body, withKey) {
  const headers = withKey ? '    headers={"Authorization": "Bearer " + os.environ["LLM_API_KEY"]},\n' : "";
  return `${withKey ? "import os\n\n" : ""}import requests

answer = requests.post(
    ${JSON.stringify(url(path))},
    json=${literal(body, "    ")},
${headers}    timeout=130,
)
answer.raise_for_status()
print(answer.json()["response"])
`;
}

function pythonOpenAI({ fallback, ...body }, withKey) {
  const key = withKey ? 'os.environ["LLM_API_KEY"]' : '"none"';
  // OpenAI's client takes fields that OpenAI has not in a place of their own
  const more = fallback === undefined ? body : { ...body, extra_body: { fallback } };
  const given = Object.entries(more).map(([name, value]) => `    ${name}=${literal(value, "    ")},\n`).join("");
  return `${withKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(url("v1"))}, api_key=${key})
answer = client.chat.completions.create(
${given})
print(answer.choices[0].message.content)
`;
}

export function postman(path, body, withKey) {
  const header = [{ key: "Content-Type", value: "application/json" }];
  if (withKey) header.push({ key: "Authorization", value: "Bearer {{api_key}}" });
  const { protocol, hostname, port, pathname } = new URL(url(path));
  const address = {
    raw: url(path),
    protocol: protocol.slice(0, -1),
    host: hostname.split("."),
    ...(port ? { port } : {}),
    path: pathname.slice(1).split("/"),
  };
  const raw = { mode: "raw", raw: JSON.stringify(body, null, 2), options: { raw: { language: "json" } } };
  const collection = {
    info: {
      name: "LLM API playground",
      schema: "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
    },
    item: [{ name: path, request: { method: "POST", header, body: raw, url: address } }],
    variable: withKey ? [{ key: "api_key", value: "" }] : [],
  };
  return `${JSON.stringify(collection, null, 2)}\n`;
}
