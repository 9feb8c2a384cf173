// One chart over time with its table, drawn by uPlot (static/vendor/uplot).

import { make, refill } from "../shared/elements.js";
import { brief, dayOf, timeOf, when } from "../shared/words.js";
import { filterLink, set } from "./filter.js";

/* global uPlot */

const HEIGHT = 190;
const MINUTE = 60;
const DAY = 86_400;
const TIMES = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 28 * DAY]; // between ticks
const COLOURS = ["--accent", "--warn", "--good", "--bad", "--muted"];
const WHOLE = [1, 2, 5].flatMap((digit) => Array.from({ length: 12 }, (_, n) => digit * 10 ** n)).sort((a, b) => a - b);
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// `series`: {title, colour (a variable of style.css), of(stretch), dash, bar, sparse}; bars stand on each
// other's heads, a sparse line has no zeros. `isWhole`: there are no halves of what is counted. A click on a stretch
// shows that time alone, and so does its link in the table. `byBackend`: a number of which each backend has a line, to be
// compared where there are two.
export class Chart {
  #plot = null;
  #data = null;
  #span = [0, 1];
  #pointed = make("span", { class: "small muted" });
  #box = make("div", { class: "plot" });
  #table = make("table");

  constructor(title, series, format, { isWhole = false, byBackend = null } = {}) {
    Object.assign(this, { title, series, format, isWhole, byBackend });
    const rows = make("details", {}, make("summary", {}, "As a table"),
      make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${title}, as a table` }, this.#table));
    this.element = make("section", { class: "card chart" },
      make("div", { class: "row spread" }, make("h2", {}, title), this.#pointed), this.#box, rows);
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#box);
    dark.addEventListener("change", () => this.#draw());
  }

  update(stretches, since, until, backends) {
    if (this.byBackend) this.#compare(backends);
    this.#span = [since, until];
    this.#data = stretches;
    if (this.#plot) this.#plot.setData(this.#columns());
    else this.#draw();
    this.#fillTable();
  }

  #size() {
    return { width: this.#box.clientWidth, height: HEIGHT };
  }

  #columns() {
    return [this.#data.map(({ timestamp }) => timestamp), ...this.#values()];
  }

  #compare(backends) {
    this.element.hidden = backends.length < 2;
    if (String(backends) === String(this.series.map(({ title }) => title))) return;
    this.series = backends.map((title, n) => ({
      title, colour: COLOURS[n % COLOURS.length], dash: n < COLOURS.length ? [] : [6, 4], of: (stretch) => stretch.backends[title]?.[this.byBackend] ?? null,
    }));
    this.#plot?.destroy();
    this.#plot = null;
  }

  // A bar reaches from 0 over those below it; so the last one is drawn first, and lines after all bars.
  #values() {
    const below = this.#data.map(() => 0);
    const heights = new Map(this.series.map(({ of, bar, sparse }, number) => [number, this.#data.map((stretch, n) => {
      const value = stretch.unknown ? null : of(stretch);
      if (!bar || value === null) return sparse ? value || null : value;
      below[n] += value;
      return below[n];
    })]));
    return this.#order().map((one) => heights.get(this.series.indexOf(one)));
  }

  #order() {
    return [...this.series.filter(({ bar }) => bar).reverse(), ...this.series.filter(({ bar }) => !bar)];
  }

  #draw() {
    if (!this.#data) return;
    this.#plot?.destroy();
    const options = {
      ...this.#size(),
      padding: [10, 20, 0, 0],
      cursor: { drag: { x: false, y: false }, points: { size: 6 }, dataIdx: (_, __, ___, time) => this.#at(time) },
      scales: { x: { range: () => this.#span }, y: { range: (_, __, most) => [0, (most || 1) * 1.08] } },
      axes: this.#axes(),
      legend: { markers: { fill: (plot, n) => plot.series[n].fill?.() ?? plot.series[n].stroke?.(), width: 0 } },
      series: [{ label: "From" }, ...this.#order().map((one) => this.#series(one))],
      hooks: { setCursor: [({ cursor }) => { this.#pointed.textContent = this.#stretch(cursor.idxs[1]); }] },
    };
    this.#plot = new uPlot(options, this.#columns(), this.#box);
    this.#plot.over.addEventListener("click", ({ offsetX }) => set(this.#time(this.#at(this.#plot.posToVal(offsetX, "x")))));
  }

  #axes() {
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    return [
      { ...axis, size: 30, incrs: () => TIMES.filter((time) => time >= DAY || !this.#hasDays()), values: (_, times) => times.map((time) => this.#tick(time)) },
      { ...axis, size: 62, ...(this.isWhole ? { incrs: WHOLE } : {}), values: (_, numbers) => numbers.map((number) => this.#short(number)) },
    ];
  }

  #short(number) {
    return (this.isWhole ? brief(number) : this.format(number)).replace(/\.?(?<=\.\d*)0+(?= |$)/, "");
  }

  // Whether only days are told, not hours.
  #hasDays() {
    return this.#span[1] - this.#span[0] > 4 * DAY;
  }

  #tick(time) {
    const clock = timeOf(time).slice(0, 5);
    if (this.#span[1] - this.#span[0] < 1.1 * DAY) return clock; // a day begins with a whole stretch
    return this.#hasDays() || clock === "00:00" ? dayOf(time).slice(5) : clock;
  }

  #ends(n) {
    return [this.#data[n].timestamp, this.#data[n + 1]?.timestamp ?? this.#span[1]];
  }

  // The stretch that a time is in: a bar stands to the right of its begin.
  #at(time) {
    return Math.max(0, this.#data.findLastIndex(({ timestamp }) => timestamp <= time));
  }

  #stretch(n) {
    return n == null ? "" : this.#ends(n).map(when).join(" – ");
  }

  #time(n) {
    const [since, until] = this.#ends(n);
    return { since: Math.floor(since), until: Math.ceil(until / MINUTE) * MINUTE };
  }

  #series({ title, colour: name, of, dash, bar, sparse }) {
    const stroke = colour(name);
    const value = (_, __, ___, at) => (at == null ? "" : this.format(this.#data[at].unknown ? null : of(this.#data[at])));
    if (bar) return { label: title, value, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 60], align: 1 }) };
    // a sparse line runs over bars: a ring parts its points from any colour
    const points = sparse ? { show: true, size: 11, width: 2, stroke: colour("--card"), fill: stroke } : { show: true, size: 4, fill: stroke };
    return { label: title, value, stroke, dash, width: 2, spanGaps: !sparse, points };
  }

  #fillTable() {
    const head = make("tr", {}, make("th", { scope: "col" }, "From"),
      ...this.series.map(({ title }) => make("th", { scope: "col", class: "number" }, title)));
    const rows = this.#data.map((stretch, n) => make("tr", {}, make("th", { scope: "row" }, filterLink(when(stretch.timestamp), this.#time(n))),
      ...this.series.map(({ of }) => make("td", { class: "number" }, this.format(stretch.unknown ? null : of(stretch))))));
    refill(this.#table, make("thead", {}, head), make("tbody", {}, ...rows));
  }
}
