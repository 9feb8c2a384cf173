// A JSON schema as a tree that is unfolded where one looks.

import { make } from "../shared/elements.js";

const LIMITS = {
  minimum: (n) => `at least ${n}`,
  exclusiveMinimum: (n) => `more than ${n}`,
  maximum: (n) => `at most ${n}`,
  minLength: (n) => `at least ${n} character${n === 1 ? "" : "s"}`,
  maxLength: (n) => `at most ${n} characters`,
  minItems: (n) => `at least ${n}`,
  maxItems: (n) => `at most ${n}`,
  default: (value) => `else ${JSON.stringify(value)}`,
};
const UNBOUNDED = 2 ** 31 - 1; // a limit that only a machine has
let components = {};

export const setComponents = (schemas) => { components = schemas; };

// The fields of a schema; null where it has none.
export function tree(schema) {
  const rows = fieldsOf(schema);
  return rows.length ? make("ul", { class: "fields" }, ...rows.map((row) => make("li", {}, rowOf(row)))) : null;
}

const resolved = ({ $ref, ...more }) => ($ref ? { ...components[$ref.slice($ref.lastIndexOf("/") + 1)], ...more } : more);

// The objects that a value may be, or that are in it.
function forms(schema) {
  const { properties, items, anyOf, allOf } = resolved(schema);
  if (properties && Object.keys(properties).length) return [resolved(schema)];
  return [...(anyOf ?? []), ...(allOf ?? []), ...(items ? [items] : [])].flatMap(forms);
}

// [name, schema, whether it must be there]
function fieldsOf(schema) {
  const found = forms(schema);
  if (found.length > 1) return found.map((form) => [nameOf(form), form, false]);
  return found.flatMap(({ properties, required = [] }) => Object.entries(properties)
    .map(([name, field]) => [name, field, required.includes(name)])
    .sort(([, , one], [, , other]) => other - one));
}

const nameOf = ({ properties: { type, role } }) => (type?.enum ?? role?.enum ?? ["one of these"]).join(", ");

function rowOf([name, schema, isRequired]) {
  const { description } = resolved(schema);
  const said = [
    make("code", {}, name), make("span", { class: "muted" }, typeOf(schema), ...limitsOf(schema).map((limit) => `, ${limit}`)),
    isRequired ? make("span", { class: "required" }, "required") : null,
    description ? make("span", { class: "words" }, description) : null,
  ];
  if (!fieldsOf(schema).length) return make("div", {}, ...said);
  const ontoggle = ({ target }) => target.childElementCount === 1 && target.append(tree(schema));
  return make("details", { ontoggle }, make("summary", {}, ...said));
}

function limitsOf(schema) {
  const { minimum, ...own } = resolved(schema);
  if (!("exclusiveMinimum" in own)) own.minimum = minimum;
  return Object.entries(LIMITS).filter(([name]) => own[name] !== undefined && !(Math.abs(own[name]) >= UNBOUNDED)).map(([name, text]) => text(own[name]));
}

function typeOf(schema) {
  const { type, anyOf, enum: values, const: value, items } = resolved(schema);
  if (value !== undefined) return JSON.stringify(value);
  if (values) return values.map((each) => JSON.stringify(each)).join(" or ");
  if (anyOf) return [...new Set(anyOf.map(typeOf))].join(" or ");
  return [type ?? "anything"].flat().map((each) => (each === "array" && items ? `array of ${typeOf(items)}` : each)).join(" or ");
}
