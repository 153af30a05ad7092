"use strict";
// The data of a page: cells of requests by slice of time, device and operation (cells.py), which
// are merged into the figures of any selection.

const BINS = 3776;

/** The middle of each bin of the log-linear histogram, in ns: "Percentiles" in docs/how.md. */
const MIDDLE = Float64Array.from({ length: BINS }, (_, bin) => {
  const shift = Math.max(0, (bin >> 6) - 1);
  return (bin - 64 * shift) * 2 ** shift + (shift && 2 ** (shift - 1) - 1);
});

/** Percentiles as fractions, so that ranks are exact. */
const PERCENTILES = { 50: [1, 2], 90: [9, 10], 99: [99, 100], 99.9: [999, 1000] };

/** Requests that the curve of a distribution needs. */
const LEAST_FOR_CURVE = 20;

/** Whether one of n requests is above a percentile: 99.9 takes 1,000. */
const isSupported = (n, percent) => Math.round(n * (100 - percent) * 1e6) >= 1e8;

/** Merged cells: counts by bin, and exact sums and extremes. */
class Histogram {
  constructor() {
    this.counts = new Float64Array(BINS);
    this.low = 0;
    this.high = BINS - 1;
    this.clear();
  }

  clear() {
    this.counts.fill(0, this.low, this.high + 1);
    Object.assign(this, { low: BINS, high: -1, n: 0, min: Infinity, max: 0, sum: 0 });
    Object.assign(this, { requests: 0, bytes: 0, errors: 0, requeues: 0, in_flight: 0 });
  }

  /** The value of rank ceil(percent / 100 * n), as the library computes it; null without any. */
  percentile(percent) {
    if (!this.n) return null;
    const [numerator, denominator] = PERCENTILES[percent];
    const rank = Math.ceil((this.n * numerator) / denominator);
    if (rank <= 1) return this.min;
    if (rank >= this.n) return this.max;
    let upto = 0;
    let bin = this.low - 1;
    while (upto < rank) upto += this.counts[++bin];
    return Math.min(this.max, Math.max(this.min, MIDDLE[bin]));
  }

  get mean() {
    return this.requests ? this.sum / this.requests : null;
  }
}

/** Unpack arrays: each is stored as its lowest bytes, then the next ones. */
async function unpack({ layout, data }) {
  const packed = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const kinds = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array, 8: Float64Array };
  const arrays = {};
  let at = 0;
  for (const [name, length, width] of layout) {
    const whole = new Uint8Array(length * width);
    for (let place = 0; place < width; place++)
      for (let i = 0; i < length; i++) whole[i * width + place] = bytes[at++];
    arrays[name] = new kinds[width](whole.buffer);
  }
  return arrays;
}

/** One run: its cells, and the figures of any part of them. */
class Run {
  static async of(head) {
    return new Run(head, await unpack(head));
  }

  constructor(head, arrays) {
    Object.assign(this, head, arrays);
    delete this.data;
    this.n_cells = this.slice.length;
    this.n_slices = this.edges_s.length - 1;
    for (const name of ["d2c", "q2d", "sizes"]) this.#undo_differences(name);
    this.first_of_slice = this.#firsts(this.slice, this.n_slices);
    this.by_device = this.devices.map(() => []);
    for (let cell = 0; cell < this.n_cells; cell++) this.by_device[this.device[cell]].push(cell);
    const usual = this.known_s.filter(Boolean).sort();
    // A rate of a much shorter slice, such as the last one, would say little.
    const least = 0.5 * usual[usual.length >> 1];
    this.has_rate = Array.from(this.known_s, (width) => width > 0 && width >= least);
    this.scratch = new Histogram();
  }

  #undo_differences(name) {
    const lengths = this[`${name}_n`];
    const bins = (this[`${name}_bin`] = Uint16Array.from(this[`${name}_bin`]));
    const starts = new Uint32Array(lengths.length + 1);
    for (let cell = 0; cell < lengths.length; cell++) {
      const end = starts[cell] + lengths[cell];
      starts[cell + 1] = end;
      for (let i = starts[cell] + 1; i < end; i++) bins[i] += bins[i - 1];
    }
    this[`${name}_starts`] = starts;
  }

  #firsts(sorted, n) {
    const firsts = new Uint32Array(n + 1);
    for (const value of sorted) firsts[value + 1]++;
    for (let i = 0; i < n; i++) firsts[i + 1] += firsts[i];
    return firsts;
  }

  width_s(from, to) {
    let width = 0;
    for (let i = from; i < to; i++) width += this.known_s[i];
    return width;
  }

  /** Call a function with each cell of a part: slices [from, to), a device or -1 for the total, operations. */
  each({ from, to, device, ops }, visit) {
    if (device >= 0) {
      for (const cell of this.by_device[device]) {
        const slice = this.slice[cell];
        if (slice >= from && slice < to && ops.has(this.op[cell])) visit(cell, slice);
      }
      return;
    }
    for (let cell = this.first_of_slice[from]; cell < this.first_of_slice[to]; cell++)
      if (ops.has(this.op[cell]) && this.is_in_total[this.device[cell]]) visit(cell, this.slice[cell]);
  }

  /** Add a cell to a histogram; queue times instead of D2C if asked. */
  add(into, cell, name = "d2c") {
    const bins = this[`${name}_bin`];
    const counts = this[`${name}_count`];
    const starts = this[`${name}_starts`];
    const end = starts[cell + 1];
    let { n, low, high } = into;
    for (let i = starts[cell]; i < end; i++) {
      const bin = bins[i];
      into.counts[bin] += counts[i];
      n += counts[i];
      if (bin < low) low = bin;
      if (bin > high) high = bin;
    }
    Object.assign(into, { n, low, high });
    if (this[name === "d2c" ? "requests" : "queued"][cell]) {
      into.min = Math.min(into.min, this[`${name}_min`][cell]);
      into.max = Math.max(into.max, this[`${name}_max`][cell]);
    }
    into.sum += this.d2c_sum[cell];
    for (const column of ["requests", "bytes", "errors", "requeues", "in_flight"])
      into[column] += this[column][cell];
  }

  /** The merged figures of a part. */
  merge(part, into = new Histogram(), name = "d2c") {
    into.clear();
    this.each(part, (cell) => this.add(into, cell, name));
    return into;
  }

  /** Sums of a column by slice. */
  sums(part, column) {
    const sums = new Float64Array(this.n_slices);
    this.each(part, (cell, slice) => (sums[slice] += this[column][cell]));
    return sums;
  }

  /** Sums of a column by slice, per second of recorded time. */
  a_second(part, column) {
    return this.sums(part, column).map((sum, slice) => sum / (this.known_s[slice] || 1));
  }

  /** p50 and p99 over time, one of each for `step` slices; null if requests are too few. */
  over_time(part, step, name = "d2c") {
    const found = [];
    for (let from = part.from; from < part.to; from += step) {
      const to = Math.min(part.to, from + step);
      const merged = this.merge({ ...part, from, to }, this.scratch, name);
      const n = merged.n;
      found.push({
        from, to,
        p50: n >= LEAST_FOR_CURVE ? merged.percentile(50) : null,
        p99: isSupported(n, 99) ? merged.percentile(99) : null,
      });
    }
    return found;
  }

  /** The p99 of each slice of a device; 0 where it completed nothing. */
  device_strip(part, device) {
    const values = new Float64Array(this.n_slices);
    const merged = this.scratch;
    let latest = -1;
    const flush = () => {
      if (latest >= 0) values[latest] = merged.percentile(99) ?? 0;
    };
    merged.clear();
    this.each({ ...part, device }, (cell, slice) => {
      if (slice !== latest) {
        flush();
        merged.clear();
        latest = slice;
      }
      this.add(merged, cell);
    });
    flush();
    return values;
  }
}
