// The page of one run: charts and tables of the selected time, device and operations.

const DEVICES_SHOWN = 40;
const SLOW_SHOWN = 20;
const $ = (id) => document.getElementById(id);

class Report {
  constructor(run) {
    this.run = run;
    this.part = { from: 0, to: run.n_slices, device: -1, ops: new Set(run.ops_used) };
    this.cursor = -1;
    this.marked = null; // first and last slice of a stretch being selected
    this.has_all_devices = false;
    this.build();
    this.draw();
    addEventListener("resize", () => this.draw());
    addEventListener("beforeprint", () => this.draw());
    addEventListener("afterprint", () => this.draw());
    for (const query of ["(prefers-color-scheme: dark)", "print"])
      matchMedia(query).addEventListener("change", () => this.draw());
  }

  get has_latency() {
    return this.run.d2c_count.length > 0;
  }

  // --- elements -----------------------------------------------------------------------------------

  build() {
    const { run } = this;
    this.plots = {};
    const left = element("div");
    const right = element("div");
    const figure = (name, title, caption, where = left) => {
      const canvas = element("canvas", { role: "img", "aria-label": title });
      const made = element("figure", { id: `figure-${name}` }, canvas);
      made.prepend(element("figcaption", {}, element("b", {}, title), caption ? ` – ${caption}` : ""));
      where.append(made);
      this.plots[name] = canvas;
      return canvas;
    };
    const over_time = [];
    if (this.has_latency)
      over_time.push(figure("heat", "Latency of every request", "lines: p50 (bold) and p99"));
    over_time.push(figure("iops", "Requests a second", "completed"));
    over_time.push(figure("bandwidth", "Bandwidth", ""));
    if (this.any("in_flight") || run.most.some(Boolean))
      over_time.push(figure("flight", "In flight", "mean of each operation; grey: the most at once"));
    if (this.any("queued"))
      over_time.push(figure("queue", "Queue against device", "p99 in the queue (dashed) and in the device (solid)"));
    if (this.any("errors") || this.any("requeues") || run.lost.some(Boolean) || run.unmatched.some(Boolean))
      over_time.push(figure("trouble", "Errors, requeues, losses", ""));
    if (run.devices.length > 1) {
      this.list = element("ul", { class: "devices" });
      const caption = element("figcaption", {}, element("b", {}, "Devices, worst first"), " – p99 of each slice, of fewer than 100 requests the slowest");
      this.more = element("button", { onclick: () => this.change(() => (this.has_all_devices = !this.has_all_devices)) });
      left.append(element("figure", { id: "figure-devices" }, caption, this.list, this.more));
    }
    if (run.sample_us?.length) {
      over_time.push(figure("access", "Where", ""));
      over_time.push(figure("sequential", "Sequential requests", "share that begin where the one before, to the same device, of the same operation, ended"));
    }
    if (this.has_latency) {
      figure("percentiles", "Percentiles", "on the scale of the heat map; dashed: whole run", right);
      this.table = element("table", { class: "one" });
      right.append(element("div", { class: "wide" }, this.table));
    }
    this.tip = element("p", { id: "tip", "aria-live": "polite" });
    right.append(this.tip);
    if (this.any("bytes")) figure("sizes", "Request sizes", "share of each operation's requests", right);
    for (const canvas of over_time) this.#listen(canvas);
    const first = over_time[0];
    first.tabIndex = 0;
    first.setAttribute("aria-describedby", "tip");
    first.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.reset();
    });
    this.over_time = over_time;
    $("charts").replaceChildren(this.#controls(), element("div", { class: "grid" }, left, right));
  }

  any(column) {
    return this.run[column].some(Boolean);
  }

  #controls() {
    const { run } = this;
    this.chips = run.ops_used.map((op) =>
      element("button", { "aria-pressed": "true", onclick: () => this.toggle(op) }, swatch(run.ops[op]), opText(run.ops[op])),
    );
    this.range = element("b", { id: "range", "aria-live": "polite" });
    this.whole = element("button", { id: "whole", onclick: () => this.reset() }, "whole run");
    this.chooser = element(
      "select",
      { "aria-label": "device", onchange: () => this.select({ device: +this.chooser.value }) },
      element("option", { value: -1 }, `all ${run.devices.length} devices`),
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

  #listen(canvas) {
    const slice = (event) => {
      const x = event.clientX - canvas.getBoundingClientRect().left;
      return this.#slice_at((x - this.left) / (canvas.clientWidth - 8 - this.left));
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

  change(how) {
    how();
    this.draw();
  }

  toggle(op) {
    const ops = new Set(this.part.ops);
    if (!ops.delete(op)) ops.add(op);
    this.select({ ops });
  }

  reset() {
    this.select({ from: 0, to: this.run.n_slices, device: -1, ops: new Set(this.run.ops_used) });
  }

  /** The figures of a part, or of what is selected; for tests, and for the console. */
  figures(part = this.part) {
    const merged = this.run.merge(part);
    const found = { requests: merged.requests, bytes: merged.bytes, errors: merged.errors };
    Object.assign(found, { requeues: merged.requeues, min: merged.min, max: merged.max, mean: merged.mean });
    for (const percent in PERCENTILES) found[`p${percent}`] = merged.percentile(percent);
    return found;
  }

  // --- drawing ------------------------------------------------------------------------------------

  draw() {
    const { run, part } = this;
    const { from, to, device, ops } = part;
    this.left = document.body.clientWidth < 640 ? 58 : 112;
    this.edges = [run.edges_s[from], run.edges_s[to]];
    this.by_op = [...ops].sort((a, b) => a - b).map((op) => [op, run.merge({ ...part, ops: new Set([op]) })]);
    this.whole_by_op = this.by_op.map(([op]) => [op, run.merge({ from: 0, to: run.n_slices, device, ops: new Set([op]) })]);
    this.latencies = latencyRange(this.whole_by_op.map(([, histogram]) => histogram));
    this.all = run.merge(part);
    const is_whole = from === 0 && to === run.n_slices;
    const step = this.#time_step();
    this.range.textContent =
      `${is_whole ? "Whole run" : "Selected"}: ${clockText(this.edges[0], step)} to ${clockText(this.edges[1], step)}`;
    this.whole.hidden = is_whole && device < 0 && ops.size === run.ops_used.length;
    this.chips.forEach((chip, i) => chip.setAttribute("aria-pressed", ops.has(run.ops_used[i])));
    this.chooser.value = device;
    for (const name of ["heat", "iops", "bandwidth", "flight", "queue", "trouble", "access", "sequential", "percentiles", "sizes"])
      if (this.plots[name]) this[`draw_${name}`](this.plots[name]);
    this.#ops_table();
    this.#device_list();
    this.#summary();
    this.#slow();
    this.#processes();
    this.#overlay();
  }

  #time_step() {
    return Math.max(1e-9, (this.edges[1] - this.edges[0]) / 1000);
  }

  #plot(canvas, height, labelled = false, top = 4) {
    const plot = new Plot(canvas, height, { left: this.left, top, bottom: labelled ? 18 : 4 });
    plot.across(...this.edges);
    return plot;
  }

  draw_heat(canvas) {
    const { run, part } = this;
    const plot = this.#plot(canvas, 314, true, 18);
    plot.logarithmic(...this.latencies);
    plot.time_axis(true);
    plot.latency_axis();
    const { from, to } = part;
    // Cells of at least three pixels: neighbouring slices and bins share one.
    const step = Math.max(1, Math.ceil((3 * (to - from)) / (plot.right - plot.left)));
    const rows = Math.ceil((plot.bottom - plot.top) / 3);
    const row_of = Int16Array.from(MIDDLE, (value) => Math.floor((plot.bottom - plot.y(Math.max(1, value))) / 3));
    const columns = Math.ceil((to - from) / step);
    const counts = new Float64Array(rows * columns);
    run.each(part, (cell, slice) => {
      const column = Math.floor((slice - from) / step) * rows;
      for (let i = run.d2c_starts[cell]; i < run.d2c_starts[cell + 1]; i++)
        counts[column + Math.min(rows - 1, Math.max(0, row_of[run.d2c_bin[i]]))] += run.d2c_count[i];
    });
    const most = counts.reduce((a, b) => Math.max(a, b), 2);
    const shade = ramp();
    counts.forEach((count, at) => {
      if (!count) return;
      const first = from + Math.floor(at / rows) * step;
      const x = plot.x(run.edges_s[first]);
      const end = plot.x(run.edges_s[Math.min(to, first + step)]);
      plot.rect(x, plot.bottom - (at % rows) * 3 - 3, Math.max(2, end - x + 0.3), 3.2, shade(Math.log(count) / Math.log(most)));
    });
    const lines = run.over_time(part, step);
    for (const [name, width] of [["p50", 1.8], ["p99", 1.1]]) {
      const points = lines.map((p) => [run.edges_s[p.from], run.edges_s[p.to], p[name]]);
      plot.staircase(points, colour("paper"), width + 2);
      plot.staircase(points, colour("hot"), width);
    }
    plot.text("1", plot.right - 128, 11, "right");
    for (let i = 0; i < 80; i++) plot.rect(plot.right - 122 + i, 3, 1.3, 9, shade(i / 79));
    plot.text(short(most), plot.right - 38, 11);
    canvas.setAttribute("aria-label", `Latency of every request: ${countText(this.all.requests)} requests, p50 ${timeText(this.all.percentile(50))}, p99 ${timeText(this.all.percentile(99))}, slowest ${timeText(this.all.n ? this.all.max : null)}. Arrow keys move a cursor.`);
  }

  /** Steps of a sum a second by slice, for each operation. */
  #rates(canvas, column, format, { name, unit = 1, grey = null, labelled = false }) {
    const { run, part } = this;
    const { from, to } = part;
    const plot = this.#plot(canvas, labelled ? 104 : 90, labelled);
    const sums = run.sums(part, column);
    const has = (i) => (grey || unit !== 1 ? !run.is_gap[i] : run.has_rate[i]) || (to - from < 4 && !run.is_gap[i]);
    const value = (sum, i) => sum[i] / unit / (run.edges_s[i + 1] - run.edges_s[i]);
    let top = 0;
    for (const op of part.ops) for (let i = from; i < to; i++) if (has(i)) top = Math.max(top, value(sums[op], i));
    if (grey) for (let i = from; i < to; i++) top = Math.max(top, grey[i]);
    plot.linear(top * 1.06);
    plot.time_axis(labelled);
    plot.value_axis(format);
    const points = (of) => {
      const found = [];
      for (let i = from; i < to; i++) found.push([run.edges_s[i], run.edges_s[i + 1], has(i) ? of(i) : null]);
      return found;
    };
    if (grey) plot.staircase(points((i) => grey[i]), plot.soft, 0.8);
    for (const op of part.ops) plot.staircase(points((i) => value(sums[op], i)), colour(run.ops[op]));
    canvas.setAttribute("aria-label", `${name}: at most ${format(top)}`);
  }

  draw_iops(canvas) {
    this.#rates(canvas, this.run.requests, short, { name: "Requests a second" });
  }

  draw_bandwidth(canvas) {
    const format = (value) => (value ? `${bytesText(value).replace(/\.0+ /, " ")}/s` : "0");
    this.#rates(canvas, this.run.bytes, format, { name: "Bandwidth" });
  }

  draw_flight(canvas) {
    const is_all = this.part.device < 0 && this.part.ops.size === this.run.ops_used.length;
    const grey = is_all && this.run.most.some(Boolean) ? this.run.most : null;
    this.#rates(canvas, this.run.in_flight, short, { name: "Requests in flight", unit: 1e9, grey, labelled: true });
  }

  draw_queue(canvas) {
    const { run, part } = this;
    const plot = this.#plot(canvas, 150, true);
    const queued = run.merge(part, new Histogram(), "q2d");
    plot.logarithmic(...latencyRange([this.all, queued]));
    plot.time_axis(true);
    plot.latency_axis();
    const step = Math.max(1, Math.ceil((3 * (part.to - part.from)) / (plot.right - plot.left)));
    for (const [name, stroke, dash] of [["d2c", "ink", []], ["q2d", "hot", [5, 3]]]) {
      const points = run.over_time(part, step, name).map((p) => [run.edges_s[p.from], run.edges_s[p.to], p.p99]);
      plot.staircase(points, colour(stroke), 1.4, dash);
    }
    canvas.setAttribute("aria-label", `p99 in the queue ${timeText(queued.percentile(99))}, in the device ${timeText(this.all.percentile(99))}`);
  }

  draw_trouble(canvas) {
    const { run, part } = this;
    const { from, to } = part;
    const plot = this.#plot(canvas, 104, true);
    const summed = (column) => {
      const total = new Float64Array(run.n_slices);
      for (const sums of Object.values(run.sums(part, column))) sums.forEach((value, i) => (total[i] += value));
      return total;
    };
    const kinds = [
      ["errors", summed(run.errors), "hot"],
      ["requeues", summed(run.requeues), "zone"],
      ["lost events", run.lost, "ink"],
      ["unmatched", run.unmatched, "other"],
    ].filter(([, values]) => values.some(Boolean));
    const top = Math.max(...kinds.flatMap(([, values]) => [...values.slice(from, to)]), 1);
    plot.linear(top * 1.06);
    plot.time_axis(true);
    plot.value_axis(short);
    let x = plot.left + 4;
    const totals = kinds.map(([name, values, stroke], place) => {
      for (let i = from; i < to; i++)
        if (values[i]) {
          const at = plot.x((run.edges_s[i] + run.edges_s[i + 1]) / 2) + place * 2;
          plot.line(at, plot.bottom, at, plot.y(values[i]), colour(stroke), 2);
        }
      const total = values.slice(from, to).reduce((a, b) => a + b, 0);
      const label = `${name}: ${countText(total)}`;
      plot.text(label, x, plot.top + 9, "left", colour(stroke));
      x += plot.context.measureText(label).width + 16;
      return label;
    });
    canvas.setAttribute("aria-label", totals.join(", "));
  }

  draw_access(canvas) {
    const { run, part } = this;
    const plot = this.#plot(canvas, 170, true);
    const counts = new Float64Array(run.devices.length);
    for (const device of run.sample_device) counts[device]++;
    // Offsets are of one device: of all, that with the most requests in the sample.
    const device = part.device >= 0 ? part.device : counts.indexOf(Math.max(...counts));
    let least = Infinity;
    let most = 0;
    const shown = [];
    run.sample_device.forEach((of, i) => {
      if (of !== device || !part.ops.has(run.sample_op[i])) return;
      const at = run.sample_us[i] / 1e6;
      least = Math.min(least, run.sample_sector[i] * 512);
      most = Math.max(most, run.sample_sector[i] * 512);
      if (at >= this.edges[0] && at <= this.edges[1]) shown.push(i);
    });
    if (!(most > least)) least = 0;
    const span = most - least || 4096;
    plot.linear(1.04);
    plot.time_axis(true);
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(plot.y(share)) + 0.5;
      plot.line(plot.left, y, plot.right, y, plot.rule);
      plot.text(bytesText(least + share * span), plot.left - 5, Math.max(plot.top + 7, y + 4), "right");
    }
    const size = shown.length > 5000 ? 1.3 : 2;
    const colours = run.ops.map((op) => colour(op));
    for (const i of shown)
      plot.rect(plot.x(run.sample_us[i] / 1e6), plot.y((run.sample_sector[i] * 512 - least) / span) - size / 2, size, size, colours[run.sample_op[i]]);
    const [sampled, total] = run.sampled;
    const sample = sampled < total ? `a random sample of ${countText(shown.length)} requests` : "every request";
    this.#caption("access", `Where on ${run.devices[device]}`, `offset at which each request begins; ${sample}`);
    canvas.setAttribute("aria-label", `Offsets of ${countText(shown.length)} requests on ${run.devices[device]}, from ${bytesText(least)} to ${bytesText(most)}`);
  }

  #caption(name, title, caption) {
    $(`figure-${name}`).firstChild.replaceChildren(element("b", {}, title), ` – ${caption}`);
  }

  draw_sequential(canvas) {
    const { run, part } = this;
    const plot = this.#plot(canvas, 90, true);
    plot.linear(103);
    plot.time_axis(true);
    plot.value_axis((value) => `${value} %`);
    const n = run.sequential_of.length / run.ops.length;
    const texts = [];
    for (const op of part.ops) {
      const of_op = run.sequential.filter(([device, of]) => of === op && (part.device < 0 || device === part.device));
      const [requests, sequential] = of_op.reduce(([a, b], [, , c, d]) => [a + c, b + d], [0, 0]);
      if (!requests || run.ops[op] === "flush") continue;
      texts.push(`${opText(run.ops[op])} ${digits((100 * sequential) / requests)} %`);
      if (part.device >= 0 && run.devices.length > 1) continue; // over time it is known of all devices
      const points = [];
      for (let i = 0; i < n; i += 4) {
        let [of, is] = [0, 0];
        for (let j = i; j < Math.min(n, i + 4); j++) {
          of += run.sequential_of[op * n + j];
          is += run.sequential_n[op * n + j];
        }
        const start = i * run.sequential_slice_s;
        const end = Math.min((i + 4) * run.sequential_slice_s, run.edges_s[run.n_slices]);
        if (end <= this.edges[0] || start >= this.edges[1]) continue;
        points.push([Math.max(start, this.edges[0]), Math.min(end, this.edges[1]), of >= LEAST_FOR_CURVE ? (100 * is) / of : null]);
      }
      plot.staircase(points, colour(run.ops[op]));
    }
    this.#caption("sequential", "Sequential requests", `of the whole run: ${texts.join(", ") || NONE}`);
    canvas.setAttribute("aria-label", `Sequential requests: ${texts.join(", ")}`);
  }

  draw_percentiles(canvas) {
    const { run, part } = this;
    const plot = new Plot(canvas, 314, { top: 18, bottom: 18 });
    plot.logarithmic(...this.latencies);
    percentileAxis(plot);
    if (part.from > 0 || part.to < run.n_slices)
      for (const [op, histogram] of this.whole_by_op)
        percentileCurve(plot, histogram, colour(run.ops[op]), { width: 1, dash: [4, 3] });
    for (const [op, histogram] of this.by_op) percentileCurve(plot, histogram, colour(run.ops[op]));
  }

  draw_sizes(canvas) {
    const { run, part } = this;
    const plot = new Plot(canvas, 130, { bottom: 30 });
    const by_op = [];
    for (const op of part.ops) {
      const counts = new Float64Array(66);
      run.each({ ...part, ops: new Set([op]) }, (cell) => {
        for (let i = run.sizes_starts[cell]; i < run.sizes_starts[cell + 1]; i++) counts[run.sizes_bin[i]] += run.sizes_count[i];
      });
      const total = counts.reduce((a, b) => a + b, 0);
      if (total && counts[0] < total) by_op.push([op, counts, total]);
    }
    const used = by_op.flatMap(([, counts]) => [...counts.keys()].filter((i) => counts[i]));
    if (!used.length) return;
    const [low, high] = [Math.min(...used), Math.max(...used)];
    plot.across(low, high + 1);
    plot.linear(104);
    plot.value_axis((value) => `${value} %`);
    const width = ((plot.x(1) - plot.x(0)) * 0.84) / by_op.length;
    by_op.forEach(([op, counts, total], place) => {
      for (let i = low; i <= high; i++)
        if (counts[i]) {
          const y = plot.y((100 * counts[i]) / total);
          plot.rect(plot.x(i) + (plot.x(1) - plot.x(0)) * 0.08 + place * width, y, width * 0.92, plot.bottom - y, colour(run.ops[op]));
        }
    });
    const every = Math.ceil(((high - low + 1) * 46) / (plot.right - plot.left));
    for (let i = low; i <= high; i += every)
      plot.text(i ? sizeText(i - 1) : "0", (plot.x(i) + plot.x(i + 1)) / 2, plot.bottom + 13, "center");
    plot.text("bytes of a request: this, up to double", (plot.left + plot.right) / 2, plot.bottom + 26, "center");
  }

  // --- cursor and selected stretch ----------------------------------------------------------------

  #overlay() {
    for (const figure of document.querySelectorAll(".cursor, .marked")) figure.remove();
    const { run, cursor } = this;
    const width = this.over_time[0].clientWidth - 8 - this.left;
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
    const texts = [...this.part.ops].flatMap((op) => {
      const merged = run.merge({ ...this.part, from, to, ops: new Set([op]) }, run.scratch);
      if (!merged.requests) return [];
      const p50 = merged.n >= LEAST_FOR_CURVE ? `, p50 ${timeText(merged.percentile(50))}` : "";
      return [`${opText(run.ops[op])}: ${countText(merged.requests)} ${merged.requests === 1 ? "request" : "requests"}${p50}, slowest ${timeText(merged.max)}`];
    });
    const step = this.#time_step();
    const when = this.marked ? `${clockText(run.edges_s[from], step)} to ${clockText(run.edges_s[to], step)}` : clockText(run.edges_s[from], step);
    this.tip.textContent = `${when}${absolute(run, from)}: ${run.is_gap[from] && to === from + 1 ? "nothing was recorded" : texts.join("; ") || "nothing completed"}`;
  }

  // --- tables -------------------------------------------------------------------------------------

  #ops_table() {
    if (!this.table) return;
    const width_s = this.run.width_s(this.part.from, this.part.to);
    const line = (first, merged) => [
      first,
      countText(merged.requests),
      rateText(width_s ? merged.requests / width_s : null),
      digits(merged.bytes / (width_s || 1) / 1e6),
      ...[50, 99, 99.9].map((percent) => percentileCell(merged, percent, "")),
      timeText(merged.n ? merged.max : null),
    ];
    const heads = ["", "requests", "IOPS", "MB/s", "p50", "p99", "p99.9", "max"];
    const rows = this.by_op.map(([op, merged]) => row("", line([swatch(this.run.ops[op]), opText(this.run.ops[op])], merged)));
    this.table.replaceChildren(
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows, row("total", line("all", this.all))),
    );
  }

  /** Devices by how slow they are in the selection. */
  #ranked() {
    const { run, part } = this;
    const found = run.devices.map((_, device) => run.device_figures(part, device));
    return found.filter(({ n, device }) => n || run.hung[device][0]).sort((a, b) => b.score - a.score);
  }

  #device_list() {
    const { run, part } = this;
    this.ranking = this.#ranked();
    if (!this.list) return;
    const shown = this.has_all_devices ? this.ranking : this.ranking.slice(0, DEVICES_SHOWN);
    const strips = shown.map(({ device }) => run.device_strip(part, device));
    let [low, high] = [Infinity, 2];
    for (const strip of strips)
      for (let i = part.from; i < part.to; i++)
        if (strip[i]) [low, high] = [Math.min(low, strip[i]), Math.max(high, strip[i])];
    const shade = ramp();
    const lines = shown.map(({ device, p99, n }) => {
      const is_chosen = part.device === device;
      const label = `${run.devices[device]}: p99 ${timeText(p99)} of ${countText(n)} requests`;
      const choose = () => this.select({ device: is_chosen ? -1 : device });
      const button = element(
        "button",
        { "aria-pressed": is_chosen, "aria-label": label, title: label, onclick: choose },
        element("span", {}, run.devices[device]),
      );
      if (this.left > 100) button.append(element("span", {}, timeText(p99)));
      button.style.width = `${this.left}px`;
      return element("li", {}, button, element("canvas", { "aria-hidden": "true" }));
    });
    const focused = [...this.list.children].findIndex((line) => line.contains(document.activeElement));
    const focused_name = focused < 0 ? null : document.activeElement.firstChild.textContent;
    this.list.replaceChildren(...lines);
    lines.forEach((line, place) => {
      const plot = new Plot(line.lastChild, 17, { left: 0, top: 0, bottom: 0 });
      plot.across(...this.edges);
      for (let i = part.from; i < part.to; i++)
        if (strips[place][i]) {
          const x = plot.x(run.edges_s[i]);
          const share = high > low ? Math.log(strips[place][i] / low) / Math.log(high / low) : 0;
          plot.rect(x, 1, Math.max(1, plot.x(run.edges_s[i + 1]) - x + 0.3), 15, shade(share));
        }
    });
    if (focused_name !== null)
      lines.find((line) => line.textContent.startsWith(focused_name))?.firstChild.focus();
    const n_more = this.ranking.length - DEVICES_SHOWN;
    this.more.hidden = n_more <= 0;
    this.more.textContent = this.has_all_devices ? `the worst ${DEVICES_SHOWN}` : `${countText(n_more)} more devices`;
  }

  #summary() {
    const { run, part } = this;
    const width_s = run.width_s(part.from, part.to);
    const heads = [...$("summary").querySelectorAll("th")].map((head) => head.textContent);
    const has_requeues = heads.includes("Requeued");
    const is_stats = !this.has_latency;
    const line = (kind, device, op, merged) =>
      row(kind, [
        device,
        op,
        countText(merged.requests),
        bytesText(merged.bytes),
        rateText(width_s ? merged.requests / width_s : null),
        digits(merged.bytes / (width_s || 1) / 1e6),
        timeText(merged.mean),
        ...[50, 90, 99, 99.9].map((percent) => percentileCell(merged, percent)),
        timeText(merged.requests ? merged.max : null),
        is_stats ? NONE : countText(merged.errors),
        ...(has_requeues ? [countText(merged.requeues)] : []),
      ]);
    const rows = [line("total", "all", "all", this.all)];
    const devices = this.ranking.filter(({ device }) => part.device < 0 || device === part.device);
    const shown = this.has_all_devices ? devices : devices.slice(0, DEVICES_SHOWN);
    for (const { device } of shown) {
      const of_device = { ...part, device };
      if (run.devices.length > 1)
        rows.push(line("all", run.devices[device], "all", run.merge(of_device, run.scratch)));
      for (const op of [...part.ops].sort((a, b) => a - b)) {
        const merged = run.merge({ ...of_device, ops: new Set([op]) }, run.scratch);
        if (merged.requests) rows.push(line("", run.devices[device], [swatch(run.ops[op]), opText(run.ops[op])], merged));
      }
    }
    $("summary").tBodies[0].replaceChildren(...rows);
    const more = devices.length - shown.length;
    $("left-out")?.remove();
    $("of").textContent = `${this.range.textContent}${more ? `; ${countText(more)} faster devices are not listed` : ""}`;
  }

  #slow() {
    const { run, part } = this;
    if (!run.slow || !$("slow")) return;
    const [start, end] = this.edges.map((s) => s * 1e9);
    const found = run.slow.filter(
      ([issued, device, op, , , d2c]) =>
        issued <= end && issued + d2c >= start && part.ops.has(op) && (part.device < 0 || part.device === device),
    );
    const rows = found.slice(0, SLOW_SHOWN).map(([issued, device, op, offset, bytes, d2c, process]) =>
      row("", [
        `${(issued / 1e9).toFixed(6)} s`,
        run.devices[device] ?? NONE,
        [swatch(run.ops[op]), opText(run.ops[op])],
        timeText(d2c),
        bytesText(bytes),
        offset.toLocaleString("en"),
        process,
      ]),
    );
    if (!rows.length) {
      const text = `none of the ${run.slow.length} slowest of the run`;
      rows.push(element("tr", {}, element("td", { colspan: 7 }, text)));
    }
    $("slow").tBodies[0].replaceChildren(...rows);
  }

  #processes() {
    const { run, part } = this;
    if (!$("processes")) return;
    const sums = run.processes.map((name) => [name, 0, 0]);
    run.process_slice.forEach((slice, i) => {
      if (slice < part.from || slice >= part.to) return;
      sums[run.process[i]][1] += run.process_requests[i];
      sums[run.process[i]][2] += run.process_bytes[i];
    });
    const found = sums.filter(([, requests]) => requests).sort((a, b) => b[2] - a[2]);
    $("processes").tBodies[0].replaceChildren(
      ...found.map(([name, requests, bytes]) => row("", [name, countText(requests), bytesText(bytes)])),
    );
  }
}

function sizeText(power) {
  const unit = Math.min(3, Math.floor(power / 10));
  return `${2 ** (power - 10 * unit)} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}

/** The time of day at which a slice begins, if it is known. */
function absolute(run, slice) {
  if (!run.start) return "";
  const ms = Date.parse(`${run.start.slice(0, 23)}Z`) + run.edges_s[slice] * 1000;
  return ` (${new Date(ms).toISOString().slice(0, 23).replace("T", " ")} UTC)`;
}

/** The page, for tests and the console: `await blkiomon`. */
globalThis.blkiomon = Run.of(JSON.parse($("data").textContent)).then(
  (run) => new Report(run),
  (error) => {
    $("charts").replaceChildren(element("p", { class: "note" }, `This browser cannot show the charts: ${error.message}`));
    throw error;
  },
);
