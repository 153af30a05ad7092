// The page of a comparison: both sides on the same axes, and the figures of the selected part.

const SIDES = ["A", "B"];

/** B against A, such as "+4.2 %". */
function changeText(a, b) {
  if (!a || b === null) return NONE;
  const size = Math.abs((b / a - 1) * 100).toFixed(1);
  return `${b < a && +size ? "-" : "+"}${size} %`;
}

/** A percentile that the count supports; else null. */
const supported = (histogram, percent) => (histogram.n && isSupported(histogram.n, percent) ? histogram.percentile(percent) : null);

class Comparison extends Charts {
  build() {
    for (const side of SIDES) this.figure_over_time(`heat_${side}`, `Latency on ${side}`, "lines: p50 (bold) and p99; both maps have one scale");
    this.figure_over_time("iops", "Requests a second", "solid: A, dashed: B");
    this.figure_over_time("bandwidth", "Bandwidth", "solid: A, dashed: B");
    this.figure_of_devices("those that changed first", "upper: p99 of A, lower: of B; the figure is B against A");
    this.figure("percentiles", "Percentiles", "on the scale of the heat maps; solid: A, dashed: B");
    this.table_of_figures();
    this.right_side.append(this.tip);
    for (const button of document.querySelectorAll("button.pick"))
      button.addEventListener("click", () => this.#pick(button));
  }

  /** Select the device and operation of a row of the tables, or of no row. */
  #pick({ dataset }) {
    const device = dataset.device ? this.run.devices.indexOf(dataset.device) : -1;
    this.select({ device, ops: dataset.op ? new Set([+dataset.op]) : new Set(this.ops_used) });
    $("charts").scrollIntoView();
  }

  op_name(op) {
    return [opText(this.run.ops[op])];
  }

  /** The figures of a part of each side, or of what is selected; for tests, and for the console. */
  figures(part = this.part) {
    return this.runs.map((run) => figuresOf(run, part));
  }

  merge() {
    const whole = { ...this.part, from: 0, to: this.run.n_slices };
    this.all = this.runs.map((run) => run.merge(this.part));
    this.latencies = latencyRange(this.runs.map((run) => run.merge(whole)));
    this.heats = SIDES.map((side, i) => this.heat(this.plots[`heat_${side}`], this.runs[i], 180));
  }

  // --- drawing ------------------------------------------------------------------------------------

  #draw_heat(i) {
    const all = this.all[i];
    this.paint_heat(this.heats[i], Math.max(...this.heats.map((heat) => heat.most)));
    const [p50, p99] = [50, 99].map((percent) => timeText(all.percentile(percent)));
    const text = `Latency on ${SIDES[i]}: ${countText(all.requests)} requests, p50 ${p50}, p99 ${p99}, slowest ${timeText(all.n ? all.max : null)}.`;
    this.plots[`heat_${SIDES[i]}`].setAttribute("aria-label", i ? text : `${text} Arrow keys move a cursor.`);
  }

  draw_heat_A() {
    this.#draw_heat(0);
  }

  draw_heat_B() {
    this.#draw_heat(1);
  }

  #rates(canvas, column, format, name, labelled) {
    const { part } = this;
    const lines = this.runs.map((run, i) => [run.a_second(part, column), run.has_rate, colour(SIDES[i]), 1.4, i ? [5, 3] : []]);
    this.staircases(canvas, lines, format, name, labelled);
  }

  draw_iops(canvas) {
    this.#rates(canvas, "requests", short, "Requests a second", false);
  }

  draw_bandwidth(canvas) {
    this.#rates(canvas, "bytes", bandwidthText, "Bandwidth", true);
  }

  draw_percentiles(canvas) {
    const plot = new Plot(canvas, 360, { top: 18, bottom: 18 });
    plot.logarithmic(...this.latencies);
    percentileAxis(plot);
    this.all.forEach((histogram, i) => percentileCurve(plot, histogram, colour(SIDES[i]), { dash: i ? [5, 3] : [] }));
    canvas.setAttribute("aria-label", this.all.map((of, i) => `${SIDES[i]}: p50 ${timeText(of.percentile(50))}, p99 ${timeText(of.percentile(99))}`).join("; "));
  }

  /** The figures of the slices at the cursor. */
  cursor_text(part) {
    const texts = this.runs.map((run, i) => {
      const nothing = run.width_s(part.from, part.to) ? "nothing completed" : "nothing was recorded";
      return `${SIDES[i]} ${partText(run, part) ?? nothing}`;
    });
    return `: ${texts.join("; ")}`;
  }

  // --- tables -------------------------------------------------------------------------------------

  tables() {
    this.#figures_table();
    const { run, part } = this;
    const listed = run.devices.map((name, device) => {
      const merged = this.runs.map((of) => of.merge({ ...part, device }, of.scratch));
      const text = changeText(...merged.map((of) => supported(of, 99)));
      const sides = merged.map((of, i) => `${SIDES[i]} p99 ${timeText(of.percentile(99))} of ${countText(of.requests)} requests`);
      return { device, text, label: `${name}: ${text}; ${sides.join(", ")}`, n: merged[0].requests + merged[1].requests };
    });
    this.list_devices(listed.filter(({ n }) => n));
  }

  /** Figures of both sides and their change, of each operation and of all; certainty is not known. */
  #figures_table() {
    const { part } = this;
    const ops = [...part.ops].sort((a, b) => a - b).map((op) => [opText(this.run.ops[op]), new Set([op])]);
    if (ops.length > 1) ops.push(["all", part.ops]);
    const rows = ops.flatMap(([name, of_ops]) => {
      const merged = this.runs.map((run) => run.merge({ ...part, ops: of_ops }));
      if (!merged.some((of) => of.requests)) return [];
      const widths = this.runs.map((run) => run.width_s(part.from, part.to));
      const rates = ["requests", "bytes"].map((column) => merged.map((of, i) => (widths[i] ? of[column] / widths[i] : null)));
      const lines = merged.map((of, i) =>
        row(i ? "" : "first", [
          [swatch(SIDES[i]), `${name} ${SIDES[i]}`],
          countText(of.requests),
          rateText(rates[0][i]),
          rates[1][i] === null ? NONE : digits(rates[1][i] / 1e6),
          ...[50, 99, 99.9].map((percent) => percentileCell(of, percent, "")),
          timeText(of.n ? of.max : null),
        ]),
      );
      const changes = [...rates.map(([a, b]) => changeText(a, b)), ...[50, 99, 99.9].map((percent) => changeText(...merged.map((of) => supported(of, percent))))];
      return [...lines, row("change", ["change", "", ...changes, ""])];
    });
    this.table.tBodies[0].replaceChildren(...rows);
  }
}

start(Comparison, data());
