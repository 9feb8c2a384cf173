// One chart over time with its table, drawn by uPlot (static/vendor/uplot).

import { make, when } from "./common.js";

/* global uPlot */

const HEIGHT = 190;
const DAY = 86_400;
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// `series`: {title, colour (a variable of style.css), of(stretch), dash, bar, sparse}; bars stand on each
// other's heads, a sparse line has no zeros.
export class Chart {
  #plot = null;
  #data = null;
  #span = [0, 1];
  #box = make("div", { class: "plot" });
  #table = make("table");

  constructor(title, series, format) {
    this.title = title;
    this.series = series;
    this.format = format;
    const rows = make("details", {}, make("summary", {}, "As a table"),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, this.#table));
    this.element = make("section", { class: "card chart" }, make("h2", {}, title), this.#box, rows);
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#box);
    dark.addEventListener("change", () => this.#draw());
  }

  update(stretches, since, until) {
    this.#span = [since, until];
    this.#data = stretches;
    const values = this.#values();
    if (this.#plot) {
      this.#plot.setData([stretches.map(({ timestamp }) => timestamp), ...values]);
    } else {
      this.#draw();
    }
    this.#fillTable();
  }

  #size() {
    return { width: this.#box.clientWidth, height: HEIGHT };
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
    const many = this.#span[1] - this.#span[0] > DAY;
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const options = {
      ...this.#size(),
      padding: [10, 10, 0, 0],
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { range: () => this.#span }, y: { range: (_, __, most) => [0, (most || 1) * 1.08] } },
      axes: [
        { ...axis, size: 30, values: (_, times) => times.map((time) => (many ? dayOf(time) : when(time, false).slice(0, 5))) },
        { ...axis, size: 62, values: (_, numbers) => numbers.map((number) => this.format(number).replace(/\.0+(?= |$)/, "")) },
      ],
      legend: { markers: { fill: (plot, n) => plot.series[n].fill?.() ?? plot.series[n].stroke?.(), width: 0 } },
      series: [
        { label: "From", value: (_, time) => (time == null ? "–" : when(time)) },
        ...this.#order().map((one) => this.#series(one)),
      ],
    };
    this.#plot = new uPlot(options, [this.#data.map(({ timestamp }) => timestamp), ...this.#values()], this.#box);
  }

  #series({ title, colour: name, of, dash, bar, sparse }) {
    const stroke = colour(name);
    const value = (_, __, ___, at) => (at == null ? "–" : this.format(this.#data[at].unknown ? null : of(this.#data[at])));
    if (bar) return { label: title, value, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.8, 60], align: 1 }) };
    return { label: title, value, stroke, dash, width: 2, spanGaps: !sparse, points: { show: true, size: 4, fill: stroke } };
  }

  #fillTable() {
    const head = make("tr", {}, make("th", { scope: "col" }, "From"),
      ...this.series.map(({ title }) => make("th", { scope: "col", class: "number" }, title)));
    const rows = this.#data.map((stretch) => make("tr", {}, make("th", { scope: "row" }, when(stretch.timestamp)),
      ...this.series.map(({ of }) => make("td", { class: "number" }, this.format(stretch.unknown ? null : of(stretch))))));
    this.#table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }
}

const dayOf = (seconds) => new Date(seconds * 1000).toLocaleDateString("sv-SE").slice(5);
