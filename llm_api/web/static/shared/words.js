// Numbers, times and reasons, in words for people.

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
  unsupported: "it can’t do what the request needs",
};

const whole = new Intl.NumberFormat("en");
export const count = (number) => (number == null ? "–" : whole.format(number));
const millions = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
// where there is little room
export const brief = (number) => (number >= 1_000_000 ? millions.format(number) : count(number));
const fraction = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
export const decimal = (number) => (number == null ? "–" : fraction.format(number));
export const share = (part, all) => (all ? `${((100 * part) / all).toFixed(1)} %` : "–");

export function milliseconds(number) {
  if (number == null) return "–";
  if (number === 0) return "0 ms";
  if (number < 10) return `${number.toFixed(1)} ms`;
  return number < 1000 ? `${Math.round(number)} ms` : `${(number / 1000).toFixed(number < 10_000 ? 2 : 1)} s`;
}

// JSON for readers; what is none stays as it is
export function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

export const dayOf = (seconds) => new Date(seconds * 1000).toLocaleDateString("sv-SE");
export const timeOf = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
const isToday = (seconds) => dayOf(seconds) === dayOf(Date.now() / 1000);
export const when = (seconds) => (isToday(seconds) ? timeOf(seconds) : `${dayOf(seconds)} ${timeOf(seconds)}`);

// with the day and the zone, whatever day it is
export function exactly(seconds) {
  const zone = new Intl.DateTimeFormat("en-GB", { timeZoneName: "longOffset" }).formatToParts(seconds * 1000);
  const fraction = String(Math.floor((seconds % 1) * 1000)).padStart(3, "0");
  return `${dayOf(seconds)} ${timeOf(seconds)}.${fraction} ${zone.find(({ type }) => type === "timeZoneName").value}`;
}
