// What all pages share: selecting a part of the time, a device and operations; common charts.

const DEVICES_SHOWN = 40;
const RIGHT = 8;
const $ = (id) => document.getElementById(id);
const data = () => JSON.parse($("data").textContent);

/** Charts of runs with the same slices, devices and operations; `draw_…` draws the figure `…`. */
class Charts {
  constructor(runs) {
    this.runs = runs;
    this.run = runs[0];
    this.shaded = this.run.shaded ?? []; // number of a finding, its begin and end in s
    this.ops_used = this.run.ops.map((_, op) => op).filter((op) => runs.some((run) => run.op.includes(op)));
    this.part = this.#everything();
    this.cursor = -1;
    this.marked = null; // first and last slice of a stretch being selected
    this.has_all_devices = false;
    this.most_strips = DEVICES_SHOWN;
    this.plots = {};
    this.left_side = element("div");
    this.right_side = element("div");
    this.over_time = [];
    this.tip = element("p", { id: "tip", "aria-live": "polite" });
  }

  /** Build all elements, and draw. */
  open() {
    this.build();
    $("charts").className = "";
    $("charts").replaceChildren(this.#controls(), element("div", { class: "grid" }, this.left_side, this.right_side));
    const first = this.over_time[0];
    first.tabIndex = 0;
    first.setAttribute("aria-describedby", "tip");
    first.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.reset();
    });
    if (this.shaded.length) this.#explain_shades();
    this.draw();
    for (const event of ["resize", "beforeprint", "afterprint"]) addEventListener(event, () => this.draw());
    for (const query of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(query).addEventListener("change", () => this.draw());
    return this;
  }

  /** Say which times are shaded: below the first title, and to screen readers. */
  #explain_shades() {
    const step = this.run.edges_s[this.run.n_slices] / 1000;
    const texts = this.shaded.map(([number, ...s]) => `finding ${number}, ${s.map((at) => clockText(at, step)).join(" to ")}`);
    const made = element("span", { id: "shaded" }, `shaded: ${texts.join("; ")}`);
    this.over_time[0].parentElement.firstChild.append("; ", made);
    for (const canvas of this.over_time) canvas.setAttribute("aria-describedby", "shaded");
    this.over_time[0].setAttribute("aria-describedby", "tip shaded");
  }

  #everything() {
    return { from: 0, to: this.run.n_slices, device: -1, ops: new Set(this.ops_used) };
  }

  // --- elements -----------------------------------------------------------------------------------

  /** Add a figure, on the right by default. */
  figure(name, title, caption, where = this.right_side) {
    const canvas = element("canvas", { role: "img", "aria-label": title });
    const made = element("figure", { id: `figure-${name}` }, canvas);
    made.prepend(element("figcaption", {}, element("b", {}, title), caption ? ` – ${caption}` : ""));
    where.append(made);
    this.plots[name] = canvas;
    return canvas;
  }

  /** Add a figure on the left, whose x axis is time. */
  figure_over_time(name, title, caption) {
    const canvas = this.figure(name, title, caption, this.left_side);
    this.over_time.push(canvas);
    this.#listen(canvas);
  }

  /** Add the list of devices, if there are several. */
  figure_of_devices(order, caption) {
    const { devices, word } = this.run;
    if (devices.length < 2) return;
    const title = `${word[0].toUpperCase()}${word.slice(1)}s, ${order}`;
    this.list = element("ul", { class: "devices" });
    const toggle = () => {
      this.has_all_devices = !this.has_all_devices;
      this.draw();
    };
    this.more = element("button", { onclick: toggle });
    const heading = element("figcaption", {}, element("b", {}, title), ` – ${caption}`);
    this.left_side.append(element("figure", { id: "figure-devices" }, heading, this.list, this.more));
  }

  /** Add a table on the right, whose rows `tables` makes. */
  table_of_figures() {
    const heads = ["", "requests", "IOPS", "MB/s", "p50", "p99", "p99.9", "max"];
    const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col" }, text)));
    this.table = element("table", { class: "one" }, element("thead", {}, head), element("tbody"));
    this.right_side.append(element("div", { class: "wide" }, this.table));
  }

  caption(name, title, caption) {
    $(`figure-${name}`).firstChild.replaceChildren(element("b", {}, title), ` – ${caption}`);
  }

  #controls() {
    const { run } = this;
    this.chips = this.ops_used.map((op) =>
      element("button", { "aria-pressed": "true", onclick: () => this.toggle(op) }, ...this.op_name(op)),
    );
    this.range = element("b", { id: "range", "aria-live": "polite" });
    this.whole = element("button", { id: "whole", onclick: () => this.reset() }, "whole run");
    this.chooser = element(
      "select",
      { "aria-label": run.word, onchange: () => this.select({ device: +this.chooser.value }) },
      element("option", { value: -1 }, `all ${run.devices.length} ${run.word}s`),
      ...run.devices.map((name, device) => element("option", { value: device }, name)),
    );
    const one = element("b", {}, run.devices[0]);
    const hint = "drag or Shift + arrows: select time · Enter: zoom · Esc: whole run";
    return element(
      "div",
      { class: "controls" },
      ...this.chips,
      run.devices.length > 1 ? this.chooser : one,
      this.range,
      this.whole,
      element("span", { class: "soft hint" }, hint),
    );
  }

  op_name(op) {
    return [swatch(this.run.ops[op]), opText(this.run.ops[op])];
  }

  #listen(canvas) {
    const slice = (event) => {
      const x = event.clientX - canvas.getBoundingClientRect().left;
      return this.#slice_at((x - this.left) / (canvas.clientWidth - RIGHT - this.left));
    };
    let first = -1;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      first = slice(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      this.cursor = slice(event);
      if (first >= 0) this.marked = [Math.min(first, this.cursor), Math.max(first, this.cursor)];
      this.#overlay();
    });
    canvas.addEventListener("pointerup", () => {
      const marked = this.marked;
      first = -1;
      if (marked && marked[1] > marked[0]) this.#zoom();
      else this.marked = null;
    });
    canvas.addEventListener("pointercancel", () => {
      first = -1;
      this.marked = null;
      this.#overlay();
    });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("pointerleave", () => {
      if (first >= 0) return;
      this.cursor = -1;
      this.#overlay();
    });
  }

  #slice_at(share) {
    const { edges_s } = this.run;
    const { from, to } = this.part;
    const at = edges_s[from] + share * (edges_s[to] - edges_s[from]);
    let slice = from;
    while (slice < to - 1 && edges_s[slice + 1] <= at) slice++;
    return slice;
  }

  #key(event) {
    const { from, to } = this.part;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Enter" && this.marked) this.#zoom();
    else if (step) {
      const before = this.cursor < 0 ? from : this.cursor;
      this.cursor = Math.min(to - 1, Math.max(from, this.cursor < 0 && step > 0 && step < 9 ? from : before + step));
      if (event.shiftKey) {
        this.anchor ??= before;
        this.marked = [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
      } else {
        this.anchor = null;
        this.marked = null;
      }
      this.#overlay();
    } else return;
    event.preventDefault();
  }

  // --- the selection ------------------------------------------------------------------------------

  #zoom() {
    const [first, last] = this.marked;
    this.select({ from: first, to: last + 1 });
  }

  /** Change what is selected: slices [from, to), device or -1, ops; the rest stays. */
  select(changes) {
    Object.assign(this.part, changes);
    this.cursor = -1;
    this.marked = null;
    this.anchor = null;
    this.draw();
  }

  toggle(op) {
    const ops = new Set(this.part.ops);
    if (!ops.delete(op)) ops.add(op);
    this.select({ ops });
  }

  reset() {
    this.select(this.#everything());
  }

  // --- drawing ------------------------------------------------------------------------------------

  draw() {
    const { run, part } = this;
    const { from, to, device, ops } = part;
    this.left = document.body.clientWidth < 640 ? 58 : 112;
    this.edges = [run.edges_s[from], run.edges_s[to]];
    const is_whole = from === 0 && to === run.n_slices;
    const step = this.time_step();
    this.range.textContent =
      `${is_whole ? "Whole run" : "Selected"}: ${clockText(this.edges[0], step)} to ${clockText(this.edges[1], step)}`;
    this.whole.hidden = is_whole && device < 0 && ops.size === this.ops_used.length;
    this.chips.forEach((chip, i) => chip.setAttribute("aria-pressed", ops.has(this.ops_used[i])));
    this.chooser.value = device;
    this.merge();
    for (const [name, canvas] of Object.entries(this.plots)) this[`draw_${name}`](canvas);
    this.tables();
    this.#overlay();
  }

  time_step() {
    return Math.max(1e-9, (this.edges[1] - this.edges[0]) / 1000);
  }

  plot(canvas, height, labelled = false, top = 4) {
    const plot = new Plot(canvas, height, { left: this.left, right: RIGHT, top, bottom: labelled ? 18 : 4 });
    plot.across(...this.edges);
    plot.shade(this.shaded);
    return plot;
  }

  /** How many slices a column of at least three pixels takes. */
  slices_a_column(plot) {
    return Math.max(1, Math.ceil((3 * (this.part.to - this.part.from)) / (plot.right - plot.left)));
  }

  /** A plot for a heat map of a run, with counts in rows of three pixels; see `paint_heat`. */
  heat(canvas, run, height) {
    const { part } = this;
    const plot = this.plot(canvas, height, true, 18);
    plot.logarithmic(...this.latencies);
    plot.time_axis(true);
    plot.latency_axis();
    const step = this.slices_a_column(plot);
    const rows = Math.ceil((plot.bottom - plot.top) / 3);
    const row_of = Int16Array.from(MIDDLE, (value) => Math.floor((plot.bottom - plot.y(Math.max(1, value))) / 3));
    const counts = new Float64Array(rows * Math.ceil((part.to - part.from) / step));
    run.each(part, (cell, slice) => {
      const column = Math.floor((slice - part.from) / step) * rows;
      for (let i = run.d2c_starts[cell]; i < run.d2c_starts[cell + 1]; i++)
        counts[column + Math.min(rows - 1, Math.max(0, row_of[run.d2c_bin[i]]))] += run.d2c_count[i];
    });
    return { run, plot, step, rows, counts, most: counts.reduce((a, b) => Math.max(a, b), 2) };
  }

  /** Paint a heat map whose darkest cell has `most` requests, with lines of p50 and p99. */
  paint_heat({ run, plot, step, rows, counts }, most) {
    const { from, to } = this.part;
    const shade = ramp();
    counts.forEach((count, at) => {
      if (!count) return;
      const first = from + Math.floor(at / rows) * step;
      const x = plot.x(run.edges_s[first]);
      const end = plot.x(run.edges_s[Math.min(to, first + step)]);
      plot.rect(x, plot.bottom - (at % rows) * 3 - 3, Math.max(2, end - x + 0.3), 3.2, shade(Math.log(count) / Math.log(most)));
    });
    const lines = run.over_time(this.part, step);
    for (const [name, width] of [["p50", 1.8], ["p99", 1.1]]) {
      const points = lines.map((p) => [run.edges_s[p.from], run.edges_s[p.to], p[name]]);
      plot.staircase(points, colour("paper"), width + 2);
      plot.staircase(points, colour("hot"), width);
    }
    plot.text("1", plot.right - 128, 11, "right");
    for (let i = 0; i < 80; i++) plot.rect(plot.right - 122 + i, 3, 1.3, 9, shade(i / 79));
    plot.text(short(most), plot.right - 38, 11);
  }

  /** Steps over time: lines are [values by slice, has value by slice, stroke, width, dash]. */
  staircases(canvas, lines, format, name, labelled = false) {
    const { run, part } = this;
    const { from, to } = part;
    const plot = this.plot(canvas, labelled ? 104 : 90, labelled);
    let top = 0;
    for (const [values, has] of lines) for (let i = from; i < to; i++) if (has[i]) top = Math.max(top, values[i]);
    plot.linear(top * 1.06);
    plot.time_axis(labelled);
    plot.value_axis(format);
    for (const [values, has, ...style] of lines) {
      const points = [];
      for (let i = from; i < to; i++) points.push([run.edges_s[i], run.edges_s[i + 1], has[i] ? values[i] : null]);
      plot.staircase(points, ...style);
    }
    canvas.setAttribute("aria-label", `${name}: ${top ? `at most ${format(top)}` : NONE}`);
  }

  /** Shades of several rows of values by slice, on one logarithmic scale; 0 is blank. */
  strips(canvas, rows, [low, high], shade) {
    const { run, part } = this;
    const plot = new Plot(canvas, 17, { left: 0, right: RIGHT, top: 0, bottom: 0 });
    plot.across(...this.edges);
    plot.shade(this.shaded);
    const height = 16 / rows.length;
    rows.forEach((values, place) => {
      for (let i = part.from; i < part.to; i++)
        if (values[i]) {
          const x = plot.x(run.edges_s[i]);
          const share = high > low ? Math.log(values[i] / low) / Math.log(high / low) : 0;
          plot.rect(x, 1 + place * height, Math.max(1, plot.x(run.edges_s[i + 1]) - x + 0.3), height - 1, shade(share));
        }
    });
  }

  /** The list of devices: each with a label, a text beside the name, and rows of values by slice. */
  list_devices(listed) {
    if (!this.list) return;
    const { run, part } = this;
    const shown = this.has_all_devices ? listed : listed.slice(0, this.most_strips);
    let scale = [Infinity, 2];
    const strips = shown.map(({ device }) => this.runs.map((of) => of.device_strip(part, device)));
    for (const strip of strips.flat())
      for (let i = part.from; i < part.to; i++)
        if (strip[i]) scale = [Math.min(scale[0], strip[i]), Math.max(scale[1], strip[i])];
    const lines = shown.map(({ device, label, text }) => {
      const is_chosen = part.device === device;
      const choose = () => this.select({ device: is_chosen ? -1 : device });
      const button = element(
        "button",
        { "aria-pressed": is_chosen, "aria-label": label, title: label, onclick: choose },
        element("span", {}, run.devices[device]),
      );
      if (this.left > 100) button.append(element("span", {}, text));
      button.style.width = `${this.left}px`;
      return element("li", {}, button, element("canvas", { "aria-hidden": "true" }));
    });
    const focused = [...this.list.children].findIndex((line) => line.contains(document.activeElement));
    const focused_name = focused < 0 ? null : document.activeElement.firstChild.textContent;
    this.list.replaceChildren(...lines);
    const shade = ramp();
    lines.forEach((line, place) => this.strips(line.lastChild, strips[place], scale, shade));
    if (focused_name !== null)
      lines.find((line) => line.textContent.startsWith(focused_name))?.firstChild.focus();
    const n_more = listed.length - this.most_strips;
    this.more.hidden = n_more <= 0;
    this.more.textContent = this.has_all_devices ? `only the first ${this.most_strips}` : `${countText(n_more)} more ${run.word}s`;
  }

  #overlay() {
    for (const figure of document.querySelectorAll(".cursor, .marked")) figure.remove();
    const { run, cursor } = this;
    const width = this.over_time[0].clientWidth - RIGHT - this.left;
    const x = (s) => this.left + ((s - this.edges[0]) / (this.edges[1] - this.edges[0])) * width;
    const show = (kind, first, last) => {
      for (const canvas of this.over_time) {
        const made = element("div", { class: kind });
        const start = x(run.edges_s[first]);
        made.style.left = `${start}px`;
        made.style.width = `${Math.max(1, x(run.edges_s[last + 1]) - start)}px`;
        made.style.height = canvas.style.height;
        canvas.after(made);
      }
    };
    if (cursor >= 0) show("cursor", cursor, cursor);
    if (this.marked) show("marked", ...this.marked);
    if (cursor < 0) {
      this.tip.textContent = "";
      return;
    }
    const [from, to] = this.marked ? [this.marked[0], this.marked[1] + 1] : [cursor, cursor + 1];
    const step = this.time_step();
    const when = this.marked ? `${clockText(run.edges_s[from], step)} to ${clockText(run.edges_s[to], step)}` : clockText(run.edges_s[from], step);
    this.tip.textContent = `${when}${this.cursor_text({ ...this.part, from, to })}`;
  }
}

/** A part of a run in words, such as "12 requests, p50 1 ms, slowest 3 ms". */
function partText(run, part) {
  const merged = run.merge(part, run.scratch);
  if (!merged.requests) return null;
  const p50 = merged.n >= LEAST_FOR_CURVE ? `, p50 ${timeText(merged.percentile(50))}` : "";
  return `${countText(merged.requests)} ${merged.requests === 1 ? "request" : "requests"}${p50}, slowest ${timeText(merged.max)}`;
}

/** The figures of a part, for tests and for the console. */
function figuresOf(run, part) {
  const merged = run.merge(part);
  const found = { requests: merged.requests, bytes: merged.bytes, errors: merged.errors };
  Object.assign(found, { requeues: merged.requeues, min: merged.min, max: merged.max, mean: merged.mean });
  for (const percent in PERCENTILES) found[`p${percent}`] = merged.percentile(percent);
  return found;
}

/** Start a page of runs by their data: `await blkiomon` is its charts, for tests and the console. */
function start(Kind, runs) {
  globalThis.blkiomon = Promise.all(runs.map(Run.of)).then(
    (unpacked) => new Kind(unpacked).open(),
    (error) => {
      $("charts").replaceChildren(element("p", { class: "note" }, `This browser cannot show the charts: ${error.message}`));
      throw error;
    },
  );
}
