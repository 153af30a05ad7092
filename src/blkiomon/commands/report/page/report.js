// The page of one run: charts and tables of the selected time, device and operations.

const SLOW_SHOWN = 20;

/** Strips below the heat map at first: other charts follow. */
const STRIPS_SHOWN = 12;

class Report extends Charts {
  get has_latency() {
    return this.run.d2c_count.length > 0;
  }

  build() {
    const { run } = this;
    time_axis.begin_s = run.begin_s;
    this.most_strips = STRIPS_SHOWN;
    if (this.has_latency) this.figure_over_time("heat", "Latency of every request", "lines: p50 (bold) and p99");
    this.figure_of_devices("worst first", "p99 of each slice, of fewer than 100 requests the slowest");
    this.figure_over_time("iops", "Requests a second", "completed");
    this.figure_over_time("bandwidth", "Bandwidth", "");
    if (this.any("in_flight") || run.most.some(Boolean))
      this.figure_over_time("flight", "In flight", ["mean of each operation; grey: the most at once", run.loss_note].filter(Boolean).join("; "));
    if (this.any("queued"))
      this.figure_over_time("queue", "Queue against device", "p99 in the queue (dashed) and in the device (solid)");
    if (this.any("errors") || this.any("requeues") || run.lost.some(Boolean) || run.unmatched.some(Boolean))
      this.figure_over_time("trouble", "Errors, requeues, losses", "");
    if (run.sample_us?.length) {
      this.figure_over_time("access", "Where", "");
      this.figure_over_time("sequential", "Sequential requests", "share that begin where the one before, to the same device, of the same operation, ended");
    }
    if (this.has_latency) {
      this.figure("percentiles", "Percentiles", "on the scale of the heat map; dashed: whole run");
      this.table_of_figures();
    }
    this.right_side.append(this.tip);
    if (this.any("bytes")) this.figure("sizes", "Request sizes", "share of each operation's requests");
  }

  any(column) {
    return this.run[column].some(Boolean);
  }

  /** The figures of a part, or of what is selected; for tests, and for the console. */
  figures(part = this.part) {
    return figuresOf(this.run, part);
  }

  // --- drawing ------------------------------------------------------------------------------------

  merge() {
    const { run, part } = this;
    this.by_op = [...part.ops].sort((a, b) => a - b).map((op) => [op, run.merge({ ...part, ops: new Set([op]) })]);
    this.whole_by_op = this.by_op.map(([op]) => [op, run.merge({ ...part, from: 0, to: run.n_slices, ops: new Set([op]) })]);
    this.latencies = latencyRange(this.whole_by_op.map(([, histogram]) => histogram));
    this.all = run.merge(part);
  }

  tables() {
    this.#ops_table();
    this.ranking = this.#ranked();
    this.list_devices(this.ranking);
    this.#summary();
    this.#slow();
    this.#processes();
  }

  draw_heat(canvas) {
    const heat = this.heat(canvas, this.run, 314);
    this.paint_heat(heat, heat.most);
    canvas.setAttribute("aria-label", `Latency of every request: ${countText(this.all.requests)} requests, p50 ${timeText(this.all.percentile(50))}, p99 ${timeText(this.all.percentile(99))}, slowest ${timeText(this.all.n ? this.all.max : null)}. Arrow keys move a cursor.`);
  }

  /** A sum a second, for each operation. */
  #rates(canvas, column, format, name) {
    const { run, part } = this;
    const lines = [...part.ops].map((op) => [run.a_second({ ...part, ops: new Set([op]) }, column), run.has_rate, colour(run.ops[op])]);
    this.staircases(canvas, lines, format, name);
  }

  draw_iops(canvas) {
    this.#rates(canvas, "requests", short, "Requests a second");
  }

  draw_bandwidth(canvas) {
    this.#rates(canvas, "bytes", bandwidthText, "Bandwidth");
  }

  draw_flight(canvas) {
    const { run, part } = this;
    const is_all = part.device < 0 && part.ops.size === this.ops_used.length;
    const lines = is_all && run.most.some(Boolean) ? [[run.most, run.known_s, colour("soft"), 0.8]] : [];
    for (const op of part.ops)
      lines.push([run.a_second({ ...part, ops: new Set([op]) }, "in_flight").map((ns) => ns / 1e9), run.has_rate, colour(run.ops[op])]);
    this.staircases(canvas, lines, short, "Requests in flight", true);
  }

  draw_queue(canvas) {
    const { run, part } = this;
    const plot = this.plot(canvas, 150, true);
    const queued = run.merge(part, new Histogram(), "q2d");
    plot.logarithmic(...latencyRange([this.all, queued]));
    plot.time_axis(true);
    plot.latency_axis();
    const step = this.slices_a_column(plot);
    for (const [name, stroke, dash] of [["d2c", "ink", []], ["q2d", "hot", [5, 3]]]) {
      const points = run.over_time(part, step, name).map((p) => [run.edges_s[p.from], run.edges_s[p.to], p.p99]);
      plot.staircase(points, colour(stroke), 1.4, dash);
    }
    canvas.setAttribute("aria-label", `p99 in the queue ${timeText(queued.percentile(99))}, in the device ${timeText(this.all.percentile(99))}`);
  }

  draw_trouble(canvas) {
    const { run, part } = this;
    const { from, to } = part;
    const plot = this.plot(canvas, 104, true);
    const kinds = [
      ["errors", run.sums(part, "errors"), "hot"],
      ["requeues", run.sums(part, "requeues"), "zone"],
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
    const plot = this.plot(canvas, 170, true);
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
    for (const share of [0, 0.5, 1]) plot.level(share, bytesText(least + share * span));
    const size = shown.length > 5000 ? 1.3 : 2;
    const colours = run.ops.map((op) => colour(op));
    for (const i of shown)
      plot.rect(plot.x(run.sample_us[i] / 1e6), plot.y((run.sample_sector[i] * 512 - least) / span) - size / 2, size, size, colours[run.sample_op[i]]);
    const [sampled, total] = run.sampled;
    const sample = sampled < total ? `a random sample of ${countText(shown.length)} requests` : "every request";
    this.caption("access", `Where on ${run.devices[device]}`, `offset at which each request begins; ${sample}`);
    canvas.setAttribute("aria-label", `Offsets of ${countText(shown.length)} requests on ${run.devices[device]}, from ${bytesText(least)} to ${bytesText(most)}`);
  }

  draw_sequential(canvas) {
    const { run, part } = this;
    const plot = this.plot(canvas, 90, true);
    plot.linear(103);
    plot.time_axis(true);
    plot.value_axis((value) => `${value} %`);
    const n = run.sequential_of.length / run.ops.length;
    const texts = [];
    for (const op of part.ops) {
      const of_op = run.sequential.filter(([device, of]) => of === op && (part.device < 0 ? run.is_in_total[device] : device === part.device));
      const [requests, sequential] = of_op.reduce(([a, b], [, , c, d]) => [a + c, b + d], [0, 0]);
      if (!requests || run.ops[op] === "flush") continue;
      texts.push(`${opText(run.ops[op])} ${digits((100 * sequential) / requests)} %`);
      if (part.device >= 0 && run.devices.length > 1) continue; // over time it is known only of all devices together
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
    this.caption("sequential", "Sequential requests", `of the whole run: ${texts.join(", ") || NONE}`);
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
    plot.text("request size: from this up to twice as much", (plot.left + plot.right) / 2, plot.bottom + 26, "center");
  }

  /** The figures of the slices at the cursor. */
  cursor_text(part) {
    const { run } = this;
    const texts = [...part.ops].flatMap((op) => {
      const text = partText(run, { ...part, ops: new Set([op]) });
      return text ? [`${opText(run.ops[op])}: ${text}`] : [];
    });
    const nothing = run.width_s(part.from, part.to) ? "nothing completed" : "nothing was recorded";
    return `${absolute(run, part.from)}: ${texts.join("; ") || nothing}`;
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
    const rows = this.by_op.map(([op, merged]) => row("", line([swatch(this.run.ops[op]), opText(this.run.ops[op])], merged)));
    this.table.tBodies[0].replaceChildren(...rows, row("total", line("all", this.all)));
  }

  /** Devices by how slow they are in the selection. */
  #ranked() {
    const { run, part } = this;
    const found = run.devices.map((name, device) => {
      const merged = run.merge({ ...part, device }, run.scratch);
      const [left, oldest] = run.in_flight_at_end[device];
      const is_hung = run.hung[device];
      const p99 = timeText(merged.percentile(99));
      const score = is_hung ? Infinity : merged.n >= 100 ? merged.percentile(99) : (merged.mean ?? 0);
      const hung = is_hung ? `; hung: ${countText(left)} in flight at the end, the oldest for ${timeText(oldest)}` : "";
      const about = run.about[device];
      const label = `${name}${about && `, ${about}`}: p99 ${p99} of ${countText(merged.requests)} requests${hung}`;
      return { device, score, n: merged.requests || left, text: is_hung ? "hung" : p99, label };
    });
    return found.filter(({ n }) => n).sort((a, b) => (b.score === a.score ? 0 : b.score - a.score));
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
        is_stats ? NONE : failedCell(merged.errors),
        ...(has_requeues ? [countText(merged.requeues)] : []),
      ]);
    const rows = [line("total", "all", "all", this.all)];
    const devices = this.ranking.filter(({ device }) => part.device < 0 || device === part.device);
    const shown = this.has_all_devices ? devices : devices.slice(0, DEVICES_SHOWN);
    for (const { device } of shown) {
      const of_device = { ...part, device };
      if (run.devices.length > 1)
        rows.push(line("all", this.#with_place(device), "all", run.merge(of_device, run.scratch)));
      for (const op of [...part.ops].sort((a, b) => a - b)) {
        const merged = run.merge({ ...of_device, ops: new Set([op]) }, run.scratch);
        if (merged.requests) rows.push(line("", run.devices[device], [swatch(run.ops[op]), opText(run.ops[op])], merged));
      }
    }
    $("summary").tBodies[0].replaceChildren(...rows);
    const more = devices.length - shown.length;
    $("left-out")?.remove();
    $("of").textContent = `${this.range.textContent}${more ? `; ${countText(more)} faster ${run.word}s are not listed` : ""}`;
  }

  /** The name of a device, and below it where it belongs. */
  #with_place(device) {
    const about = this.run.about[device];
    return [this.run.devices[device], ...(about ? [element("br"), element("span", { class: "soft" }, about)] : [])];
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
        `${(time_axis.begin_s + issued / 1e9).toFixed(6)} s`,
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

/** How many requests failed; red if any did. */
const failedCell = (n) => (n ? element("span", { class: "bad" }, countText(n)) : "0");

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

start(Report, [data()]);
