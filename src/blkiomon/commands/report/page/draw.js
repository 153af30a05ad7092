// Drawing: text with units, elements, and plots on canvases.

const NONE = "–";

/** Three significant digits, or all digits before the point. */
const digits = (value) =>
  value >= 99.95
    ? Math.round(value).toLocaleString("en")
    : value.toFixed(value >= 9.995 ? 1 : 2);
const scaled = (value, units) => {
  let at = 0;
  while (value >= 999.5 && at < units.length - 1) {
    value /= 1000;
    at++;
  }
  return `${at ? digits(value) : Math.round(value)} ${units[at]}`;
};
const timeText = (ns) => (ns === null ? NONE : scaled(ns, ["ns", "µs", "ms", "s"]));
const bytesText = (bytes) => scaled(bytes, ["B", "kB", "MB", "GB", "TB", "PB"]);
const bandwidthText = (value) => (value ? `${bytesText(value).replace(/\.0+ /, " ")}/s` : "0");
const countText = (n) => Math.round(n).toLocaleString("en");
const rateText = (rate) => (rate === null ? NONE : digits(rate));
const short = (value) =>
  value >= 1e6 ? `${+(value / 1e6).toPrecision(3)} M` : value >= 1e3 ? `${+(value / 1e3).toPrecision(3)} k` : `${+value.toPrecision(3)}`;
const opText = (op) => op.replaceAll("_", " ");

/** When the time on all axes begins, in seconds since the first record of the trace. */
const time_axis = { begin_s: 0 };

/** A time on an axis, since the first record; `step` is the least difference to show. */
function clockText(since_begin_s, step) {
  const s = time_axis.begin_s + since_begin_s;
  const decimals = Math.max(0, Math.min(9, -Math.floor(Math.log10(step) + 1e-9)));
  if (s < 120) return `${s.toFixed(decimals)} s`;
  const rest = (s % 60).toFixed(decimals).padStart(decimals ? decimals + 3 : 2, "0");
  const minutes = Math.floor(s / 60);
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

/** An element; children are elements or text, never markup. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const swatch = (name) => {
  const made = element("span", { class: "key" });
  made.style.background = `var(--${name})`;
  return made;
};

/** A percentile as a cell's content; grey, with the count, if that is too small for it. */
function percentileCell(histogram, percent, count = ` of ${countText(histogram.n)}`) {
  const text = timeText(histogram.percentile(percent));
  if (!histogram.n || isSupported(histogram.n, percent)) return text;
  const title = `the greatest of ${countText(histogram.n)} requests: too few for this percentile`;
  return element("span", { class: "few", title }, text + count);
}

const row = (kind, cells) =>
  element("tr", { class: kind }, ...cells.map((cell) => element("td", {}, ...[cell].flat())));

const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const RAMPS = {
  light: [[214, 228, 241], [150, 190, 222], [66, 133, 190], [20, 74, 140], [8, 24, 66]],
  dark: [[38, 52, 70], [40, 92, 140], [66, 150, 190], [150, 214, 190], [252, 244, 180]],
};

/** A function from a share, 0 to 1, to a colour; brightness alone distinguishes them. */
function ramp() {
  const steps = colour("paper") === "#15181b" ? RAMPS.dark : RAMPS.light;
  const table = Array.from({ length: 64 }, (_, i) => {
    const at = Math.min(3.999, (i / 63) * 4);
    const low = steps[Math.floor(at)];
    const high = steps[Math.floor(at) + 1];
    const mixed = low.map((value, c) => Math.round(value + (high[c] - value) * (at % 1)));
    return `rgb(${mixed})`;
  });
  return (share) => table[Math.max(0, Math.min(63, Math.round(share * 63)))];
}

/** Round values between low and high, about n of them. */
function ticks(low, high, n) {
  const raw = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  return steps(low, high, step);
}

function steps(low, high, step) {
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12); i++) found.push(i * step);
  return found;
}

const TIME_STEPS = [10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 604800];

function timeTicks(low, high, n) {
  const raw = (high - low) / n;
  if (raw <= 5) return ticks(low, high, n);
  return steps(low, high, TIME_STEPS.find((step) => step >= raw) ?? 2.592e6);
}

/** A canvas with two axes: x is set by `across`, y by `linear` or `logarithmic`. */
class Plot {
  constructor(canvas, height, { left = 58, right = 8, top = 4, bottom = 4 } = {}) {
    const width = canvas.clientWidth || 300;
    const density = matchMedia("print").matches ? 3 : devicePixelRatio || 1;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    canvas.style.height = `${height}px`;
    this.context = canvas.getContext("2d");
    this.context.scale(density, density);
    this.context.font = '11px system-ui, "DejaVu Sans", sans-serif';
    Object.assign(this, { left, top, right: width - right, bottom: height - bottom, height });
    Object.assign(this, { soft: colour("soft"), rule: colour("rule"), ink: colour("ink") });
  }

  across(low, high) {
    const scale = (this.right - this.left) / (high - low || 1);
    this.x = (value) => this.left + (value - low) * scale;
    this.x_range = [low, high];
  }

  linear(high) {
    const scale = (this.bottom - this.top) / (high || 1);
    this.y = (value) => this.bottom - value * scale;
    this.y_high = high || 1;
  }

  logarithmic(low, high) {
    const scale = (this.bottom - this.top) / Math.log2(high / low);
    this.y = (value) => this.bottom - Math.log2(value / low) * scale;
    this.y_log = [low, high];
  }

  line(x1, y1, x2, y2, stroke, width = 1) {
    const { context } = this;
    Object.assign(context, { strokeStyle: stroke, lineWidth: width });
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x2, y2);
    context.stroke();
  }

  text(text, x, y, align = "left", fill = this.soft) {
    Object.assign(this.context, { textAlign: align, fillStyle: fill });
    this.context.fillText(text, x, y);
  }

  time_axis(labelled) {
    const [low, high] = this.x_range;
    const marks = timeTicks(low, high, Math.max(2, (this.right - this.left) / 110));
    const step = marks.length > 1 ? marks[1] - marks[0] : high - low;
    for (const mark of marks) {
      const x = Math.round(this.x(mark)) + 0.5;
      this.line(x, this.top, x, this.bottom, this.rule);
      if (labelled)
        this.text(clockText(mark, step), Math.min(x, this.right - 14), this.bottom + 14, "center");
    }
  }

  /** A rule from left to right, and its label. */
  level(value, label) {
    const y = Math.round(this.y(value)) + 0.5;
    this.line(this.left, y, this.right, y, this.rule);
    this.text(label, this.left - 5, Math.max(this.top + 7, y + 4), "right");
  }

  value_axis(format) {
    for (const mark of ticks(0, this.y_high, 3)) this.level(mark, format(mark));
  }

  latency_axis() {
    const [low, high] = this.y_log;
    const factors = high / low < 300 ? [1, 2, 5] : [1];
    for (let power = 0; power < 20; power++)
      for (const factor of factors) {
        const mark = factor * 10 ** power;
        if (mark >= low && mark <= high) this.level(mark, timeText(mark).replace(/\.0+ /, " "));
      }
  }

  /** Horizontal steps from edge to edge; null interrupts them. */
  staircase(points, stroke, width = 1.4, dash = []) {
    const { context } = this;
    Object.assign(context, { strokeStyle: stroke, lineWidth: width, lineJoin: "bevel" });
    context.setLineDash(dash);
    context.beginPath();
    let is_up = true;
    for (const [start, end, value] of points) {
      if (value === null) {
        is_up = true;
        continue;
      }
      const y = this.y(value);
      if (is_up) context.moveTo(this.x(start), y);
      else context.lineTo(this.x(start), y);
      context.lineTo(this.x(end), y);
      is_up = false;
    }
    context.stroke();
    context.setLineDash([]);
  }

  rect(x, y, width, height, fill) {
    this.context.fillStyle = fill;
    this.context.fillRect(x, y, width, height);
  }

  /** Tint stretches of time, each with its number: [number, start, end]. */
  shade(stretches) {
    const hot = colour("hot");
    for (const [number, start, end] of stretches) {
      const [low, high] = [start, end].map((s) => Math.max(this.left, Math.min(this.right, this.x(s))));
      if (high <= low) continue;
      this.context.globalAlpha = 0.09;
      this.rect(low, this.top, Math.max(1, high - low), this.bottom - this.top, hot);
      this.context.globalAlpha = 1;
      if (this.bottom - this.top > 20) this.text(number, low + 3, this.top + 10, "left", hot);
    }
  }
}

/** Lowest and highest latency for an axis that shows these histograms. */
function latencyRange(histograms) {
  const some = histograms.filter((h) => h.n);
  const low = Math.max(1, Math.min(...some.map((h) => h.min)));
  const high = Math.max(2, ...some.map((h) => h.max));
  return some.length ? [low / 1.3, high * 1.3] : [1e3, 1e9];
}

/** The positions of percentiles on an axis on which p90, p99, p99.9 are equally far apart. */
const TAIL = 5;
const tailPlace = (share) => Math.min(TAIL, -Math.log10(1 - share));

function percentileAxis(plot) {
  plot.across(0, TAIL);
  for (const [share, name] of [[0.5, "p50"], [0.9, "p90"], [0.99, "p99"], [0.999, "p99.9"], [0.9999, "p99.99"]]) {
    const x = Math.round(plot.x(tailPlace(share))) + 0.5;
    plot.line(x, plot.top, x, plot.bottom, plot.rule);
    plot.text(name, x, plot.bottom + 14, "center");
  }
  plot.latency_axis();
}

/** The percentiles of a histogram as steps up to what its count supports; dots of few requests. */
function percentileCurve(plot, histogram, stroke, { width = 1.7, dash = [] } = {}) {
  const points = [];
  let upto = 0;
  for (let bin = histogram.low; bin <= histogram.high; bin++) {
    const count = histogram.counts[bin];
    if (!count) continue;
    const value = Math.min(histogram.max, Math.max(histogram.min, MIDDLE[bin]));
    const start = tailPlace(upto / histogram.n);
    upto += count;
    // The greatest of n requests ends half a request before the axis' infinity.
    const end = tailPlace(Math.min(upto / histogram.n, 1 - 0.5 / histogram.n));
    points.push([start, end, value]);
  }
  if (histogram.n >= LEAST_FOR_CURVE) plot.staircase(points, stroke, width, dash);
  else for (const [start, end, value] of points) plot.rect(plot.x((start + end) / 2) - 2, plot.y(value) - 2, 4, 4, stroke);
  if (!histogram.n) return;
  plot.context.fillStyle = stroke;
  plot.context.beginPath();
  plot.context.arc(plot.x(tailPlace(1 - 0.5 / histogram.n)), plot.y(histogram.max), 2.6, 0, 7);
  plot.context.fill();
}
