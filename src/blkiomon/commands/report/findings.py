"""Findings in words: what stands out in a run. A few sentences, each with its figures.

A finding needs enough requests. If these are too few, there is no finding.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from blkiomon.commands.report.selection import OTHERS, reduce_to
from blkiomon.commands.san.checks import maps_of, of_run, without_moved
from blkiomon.commands.san.wording import clock, zone
from blkiomon.commands.table import count_cell, is_supported, plural
from blkiomon.console import how_many, printable
from blkiomon.engine import layout
from blkiomon.formats.units import bytes_text, device_text, time_text
from blkiomon.interval.departures import departure
from blkiomon.interval.distribution import N_BINS, bin_bounds
from blkiomon.interval.findings import Finding
from blkiomon.interval.groups import NS_PER_S, Group
from blkiomon.interval.moments import U64_MAX
from blkiomon.interval.value import Interval, merge
from blkiomon.sources.topology import Topology

MOST = 3

HUNG_NS = NS_PER_S
"""A request in flight at the end hangs if it is older, and older than any that completed."""

STALL_NS = NS_PER_S // 10
STALL_FACTOR = 10
"""A device stalls if it completes nothing for so long, and for so many times its p50."""

STALLS = "hung", "stalled"
"""Kinds of findings after which requests seem slow."""

SLOW_FACTOR = 4
"""A device is slow if its p99 is this many times that of the others."""

CHANGE_FACTOR = 2
CHANGE_REQUESTS = 1000
CHANGE_PART = 10
"""An operation got slower if its p99 after some moment is CHANGE_FACTOR times that before. Each
side has CHANGE_REQUESTS requests at least, and 1/CHANGE_PART of the run."""

LOAD_FACTOR = 1.5
"""A finding mentions the load if requests were also this many times as many, or as large."""

MOST_DISCARDING = 4
"""Devices whose reads and writes are compared with and without discards: those with the most."""

MOST_GROUPS = 32
"""Operations of devices that are searched for changes: those with the most time in flight."""

DISCARD = layout.OPS.index("discard")

N_BLOCKS = 64
"""Moments at which an operation may have got slower."""

SAME_BLOCKS = 2
"""What begins within this many blocks of time begins at the same moment."""

CONTRAST = 4
LEAST_INSIDE = 0.9
LEAST_EVIDENCE = 15
"""A device was slow for a stretch of time if LEAST_INSIDE of the slow requests are in it, and they
are CONTRAST times as frequent as in the rest. The log-likelihood ratio is LEAST_EVIDENCE at least:
chance alone hardly gives it to any of 131,000 stretches."""

FINE_S = 10
"""Times of day have milliseconds if a run is shorter."""

PART_REQUESTS = 20
MOST_PARTS = 32
"""It was slow again and again, rather than throughout, if some part of the stretch has few of the
slow requests. There are MOST_PARTS at most, with PART_REQUESTS slow requests each on average."""

COARSE_BITS = 2
"""The search for changes uses bins four times as wide; what it finds is then computed exactly."""

NameOf = Callable[[int], str | None]


class Change(NamedTuple):
    """An operation of a device that got slower.

    Attributes:
        key: the device and the index of the operation.
        ratio: of the p99 after the change to that before, roughly.
        block: of ``N_BLOCKS``, the first one after the change.
    """

    key: tuple[int, int]
    ratio: float
    block: int


def findings(
    slices: Sequence[Interval],
    whole: Interval,
    name_of: NameOf,
    topology: Topology | None = None,
    gaps: Sequence[tuple[int, int]] = (),
) -> list[Finding]:
    """At most ``MOST`` findings about a run, or several, the most urgent first.

    Those that describe the same problem are one, which has the figures of the two most urgent ones
    of different kinds.

    Args:
        slices: the run in the order of time.
        whole: the slices, merged.
        name_of: returns the name of a device, or None.
        topology: of the traced host, if it is known: paths are compared with their siblings.
        gaps: begin and end of the times between runs, when nothing was recorded. A request that
            was in flight then did not hang, and a run is not compared with the one before.
    """

    def named(device: int) -> str:
        if device == OTHERS:
            return "another device"
        return printable(name_of(device) or device_text(device))

    runs = _between(slices, gaps)
    maps = maps_of(topology)
    hung = hung_devices(whole, gaps, topology)
    checks: list[tuple[bool, Iterable[Finding]]] = [  # whether it finds one problem at most
        (True, _explain_hung(hung, whole, named, maps)),
        (True, _stalled(runs, whole, named, {device for _, _, device in hung}, maps)),
        (False, _dated(of_run(whole, topology), slices, whole) if topology else ()),
        (True, _dated(_slow_devices(whole, named), slices, whole)),
        (True, () if gaps else _slower_beside_discards(slices, whole, named)),
        (True, _got_slower(runs, map(merge, runs) if gaps else [whole], whole, named)),
    ]
    found: list[list[Finding]] = []  # of each problem, the most urgent first
    for is_one, check in checks:
        for one in check:
            problem = next((of for of in found if _is_same(of[0], one, whole, maps)), None)
            if problem is not None:
                problem.append(one)
                continue
            found.append([one])
            if is_one or len(found) >= MOST:
                break
    return [_as_one(problem) for problem in found[:MOST]]


def _is_same(one: Finding, lesser: Finding, whole: Interval, maps: Mapping[int, int]) -> bool:
    """Whether two findings are of one problem: of a device, its map or its path, at the same time.

    A slow array is never the same problem: a finding of its slow path says more.
    """
    if one.span_ns is None or lesser.span_ns is None or one.kind == "slow_array":
        return False
    devices, of_lesser = ({*of.devices, *map(maps.get, of.devices)} for of in (one, lesser))
    if of_lesser.isdisjoint(one.devices) and devices.isdisjoint(lesser.devices):
        return False
    begin_ns, end_ns = one.span_ns
    margin_ns = (whole.end_ns - whole.start_ns) * SAME_BLOCKS // N_BLOCKS
    until_ns = end_ns if one.kind == "stalled" else begin_ns
    return begin_ns - margin_ns <= lesser.span_ns[0] <= until_ns + margin_ns


def _as_one(problem: Sequence[Finding]) -> Finding:
    first, *lesser = problem
    more = next((one for one in lesser if _kind(one) != _kind(first)), None)
    if more is None:
        return first
    when = more.when if first.kind in STALLS else ""
    return first._replace(figures=f"{first.figures}; {more.what}{when}: {more.figures}")


def _kind(finding: Finding) -> str:
    """Such as "slow", of both a slow path and a slow device."""
    return finding.kind.partition("_")[0]


Runs = Sequence[Sequence[Interval]]


def _between(slices: Sequence[Interval], gaps: Sequence[tuple[int, int]]) -> Runs:
    """The slices of each run, without those that a gap is part of."""
    runs: list[list[Interval]] = [[] for _ in range(len(gaps) + 1)]
    for item in slices:
        if not any(begin < item.end_ns and item.start_ns < end for begin, end in gaps):
            runs[sum(end <= item.start_ns for _, end in gaps)].append(item)
    # Where a gap begins and ends is not always known: notes may be older than the first request.
    for run in runs[:-1]:
        while run and not run[-1].counts.records:
            run.pop()
    for run in runs[1:]:
        while run and not run[0].counts.records:
            del run[0]
    return list(filter(None, runs))


def hung_devices(
    whole: Interval, gaps: Sequence[tuple[int, int]] = (), topology: Topology | None = None
) -> list[tuple[int, int, int]]:
    """Age of the oldest request, number in flight, and device, where requests never completed.

    Args:
        gaps: between runs. Of a device with older requests than the last run, it is not known how
            many are of that run: it is left out.
        topology: of the traced host, if it is known: see ``without_moved``.
    """
    most_ns = whole.end_ns - gaps[-1][1] if gaps else None
    found = [
        (group.in_flight.oldest_ns, group.in_flight.end, group.device)
        for group in whole.groups()
        if group.op is None and group.device is not None and group.in_flight is not None
        if group.in_flight.oldest_ns > max(HUNG_NS, group.d2c_ns.max or 0)
        if most_ns is None or group.in_flight.oldest_ns <= most_ns
    ]
    return without_moved(found, whole, topology)


def _explain_hung(
    hung: Sequence[tuple[int, int, int]],
    whole: Interval,
    named: Callable[[int], str],
    maps: Mapping[int, int],
) -> Iterator[Finding]:
    """What hung; a request whose completion was lost looks the same."""
    devices = {device for *_, device in hung}
    paths = {device for device in devices if maps.get(device) in devices}
    if hung:
        oldest_ns, in_flight, device = max(item for item in hung if item[2] not in paths)
        requests = how_many(in_flight, "request was", "requests were", ",")
        lost = whole.counts.lost
        may_be_lost = lost >= in_flight
        but = ""
        if may_be_lost:
            events = how_many(lost, "event was", "events were", ",")
            but = f"; but {events} lost, perhaps {'a completion' if lost == 1 else 'completions'}"
        names = ", ".join(named(path) for path in sorted(paths) if maps[path] == device)
        yield Finding(
            "hung",
            named(device),
            f"{named(device)} {'may have hung' if may_be_lost else 'hung'}",
            f"at the end {requests} in flight, the oldest for {time_text(oldest_ns)}"
            f"{f', on path {names}' if names else ''}"
            f"{_others(len(devices - paths) - 1, 'hung')}{but}",
            devices=(device,),
            span_ns=(whole.end_ns - oldest_ns, whole.end_ns),
        )


def _stalled(
    runs: Runs,
    whole: Interval,
    named: Callable[[int], str],
    hung: set[int],
    maps: Mapping[int, int],
) -> Iterator[Finding]:
    """A device with requests in flight all the time that completed none of them."""
    p50s_ns = {
        g.device: g.d2c_ns.percentile(50) or 0
        for g in whole.groups()
        if g.op is None and g.device is not None
    }
    stretches: dict[int, list[tuple[int, int]]] = {}  # device -> start and end of each
    for device, start_ns, end_ns in chain.from_iterable(map(_idle_stretches, runs)):
        limit_ns = max(STALL_NS, STALL_FACTOR * p50s_ns.get(device, 0))
        if device not in hung and end_ns - start_ns >= limit_ns:
            stretches.setdefault(device, []).append((start_ns, end_ns))

    stalls: dict[int, list[tuple[int, int]]] = {}  # device -> length and start of each
    waits: dict[tuple[int, int], list[str]] = {}  # stall of a map -> its paths, with lengths
    for device, of_device in stretches.items():
        for start_ns, end_ns in of_device:
            length_ns = end_ns - start_ns
            of_map = [
                begin_ns
                for begin_ns, until_ns in stretches.get(maps.get(device, -1), ())
                if begin_ns < end_ns and start_ns < until_ns
            ]
            for begin_ns in of_map:
                path = f"its path {named(device)} for {time_text(length_ns)}"
                waits.setdefault((maps[device], begin_ns), []).append(path)
            if not of_map:
                stalls.setdefault(device, []).append((length_ns, start_ns))
    if stalls:
        device, of_device = max(stalls.items(), key=lambda item: max(item[1]))
        length_ns, start_ns = max(of_device)
        end_ns = start_ns + length_ns
        more = ", until the end" if end_ns >= runs[-1][-1].end_ns else ""
        if len(of_device) > 1:
            in_all = time_text(sum(length_ns for length_ns, _ in of_device))
            more += f", and {how_many(len(of_device), 'time', 'times')} for {in_all} in all"
        paths = "".join(f"; {path}" for path in waits.get((device, start_ns), ()))
        yield Finding(
            "stalled",
            named(device),
            f"{named(device)} stalled",
            f"with requests in flight, nothing completed for at least {time_text(length_ns)}{more}"
            f"{paths}{_others(len(stalls) - 1, 'stalled')}",
            devices=(device,),
            when=_at(whole, start_ns),
            span_ns=(start_ns, end_ns),
        )


def _idle_stretches(slices: Sequence[Interval]) -> Iterator[tuple[int, int, int]]:
    """Device, start and end of each time in which it completed nothing, although it was busy.

    While it is busy, the kernel may requeue the requests: then the device still waits, until one
    completes. A device is not busy if all completions that it waits for may have been lost.
    """
    since: dict[int, int] = {}
    requeued: set[int] = set()
    end_ns = 0
    lost = sum(item.counts.lost for item in slices)  # a loss may be known long after its time
    for item in slices:
        loads = item.snapshot.loads
        duration_ns = item.end_ns - item.start_ns
        is_busy = (loads["op"] == layout.ALL_OPS) & (loads["in_flight"] > lost)
        is_busy &= (loads["busy_ns"] >= duration_ns * 0.999) & (loads["busy_ns"] != U64_MAX)
        waiting = set(loads["device"][is_busy].tolist()) if duration_ns else set()
        retries = item.snapshot.retry_rows
        requeued |= set(retries["device"][retries["requeues"] > 0].tolist())
        requeued -= set(item.rows["device"].tolist())
        waiting |= requeued & since.keys()
        if waiting:
            waiting -= set(item.rows["device"].tolist())
        is_gap = item.start_ns > end_ns
        for device in [device for device in since if is_gap or device not in waiting]:
            yield device, since.pop(device), end_ns
        for device in waiting:
            since.setdefault(device, item.start_ns)
        end_ns = item.end_ns
    yield from ((device, start_ns, end_ns) for device, start_ns in since.items())


def _slow_devices(whole: Interval, named: Callable[[int], str]) -> Iterator[Finding]:
    """For each operation, the device that is much slower than the others; the worst first."""
    by_op: dict[str, list[tuple[int, int, Group]]] = {}
    for group in whole.groups():
        if group.op is None or group.device is None or group.device == OTHERS:
            continue
        p99_ns = group.d2c_ns.percentile(99)
        if p99_ns is not None and is_supported(group.requests, 99):
            by_op.setdefault(group.op, []).append((p99_ns, group.device, group))
    found: list[tuple[float, Finding]] = []
    for op, devices in by_op.items():
        if len(devices) < 2:
            continue
        devices.sort(key=lambda device: device[:2])
        p99_ns, device, group = devices.pop()
        usual_ns, usual_device, usual = devices[len(devices) // 2]
        of_others = f"the median of {len(devices)} others"
        if len(devices) == 1:
            of_others = named(usual_device)
        if p99_ns >= SLOW_FACTOR * usual_ns:
            figures = (
                f"p99 of {plural(op)} {time_text(p99_ns)}, {time_text(usual_ns)} on {of_others}"
                f"{_because(usual, group)}"
            )
            evidence = {"op": op, "d2c_ns": p99_ns, "others_d2c_ns": usual_ns}
            name = named(device)
            one = Finding("slow_device", name, f"{name} is slow", figures, evidence, (device,))
            found.append((p99_ns / max(usual_ns, 1), one))
    yield from (one for _, one in sorted(found, key=lambda item: -item[0]))


def _dated(
    found: Iterable[Finding], slices: Sequence[Interval], whole: Interval
) -> Iterator[Finding]:
    """Yield the findings. A slow path, port, array or device gets the time when it was slow."""
    for one in found:
        if one.kind.startswith("slow_"):
            usual_ns = one.evidence.get("siblings_d2c_ns") or one.evidence.get("others_d2c_ns", 0)
            limit_ns = math.sqrt(one.evidence["d2c_ns"] * max(usual_ns, 1))
            span_ns = _slow_span(slices, one.devices, one.evidence["op"], limit_ns)
            one = one._replace(when=_when(whole, span_ns), span_ns=span_ns)
        yield one


def _slow_span(
    slices: Sequence[Interval], devices: Sequence[int], op: str, limit_ns: float
) -> tuple[int, int] | None:
    """When requests took longer than the limit; None if it is not clear.

    Of all stretches, the one with the highest likelihood that slow requests are more frequent in it
    than in the rest: Kulldorff's scan statistic. Without a clear one, the whole run.
    """
    counts = np.zeros((2, len(slices)))  # all requests, and slow ones
    for at, item in enumerate(slices):
        rows, bins = item.rows, item.snapshot.d2c_bins
        is_wanted = np.isin(rows["device"], devices) & (rows["op"] == layout.OPS.index(op))
        bins = bins[is_wanted[bins["row"]]]
        is_slow = bin_bounds(bins["bin"])[0] >= limit_ns
        counts[:, at] = bins["count"].sum(), bins["count"][is_slow].sum()
    if not counts[1].any():
        return None
    used = np.flatnonzero(counts[0])
    n, slow = np.hstack([np.zeros((2, 1)), counts[:, used].cumsum(axis=1)])
    begins, ends = np.triu_indices(len(n), 1)
    n_in, slow_in = n[ends] - n[begins], slow[ends] - slow[begins]
    n_out, slow_out = n[-1] - n_in, slow[-1] - slow_in
    is_most = slow_in >= LEAST_INSIDE * slow[-1]
    clear = np.flatnonzero(is_most & (slow_in * n_out > CONTRAST * slow_out * n_in))
    ratios = _log_likelihood(slow_in[clear], n_in[clear])
    ratios += _log_likelihood(slow_out[clear], n_out[clear]) - _log_likelihood(slow[-1], n[-1])
    begin, end = 0, len(slices)
    if ratios.max(initial=0) >= LEAST_EVIDENCE:
        best = clear[ratios.argmax()]
        begin, end = int(used[begins[best]]), int(used[ends[best] - 1]) + 1
    of_stretch = counts[:, begin:end]
    n_parts = int(np.clip(of_stretch[1].sum() / PART_REQUESTS, 1, MOST_PARTS))
    parts = np.array([p.sum(axis=1) for p in np.array_split(of_stretch, n_parts, axis=1)])
    share = of_stretch[1].sum() / of_stretch[0].sum()
    if (CONTRAST * parts[:, 1] < share * parts[:, 0]).any():
        return None
    return slices[begin].start_ns, slices[end - 1].end_ns


def _log_likelihood(
    part: npt.NDArray[np.float64], n: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The binomial log-likelihood of ``part`` of n, if its share is the probability."""
    share = part / np.maximum(n, 1)
    logs = np.log(np.maximum([share, 1 - share], 1e-300))
    likelihood: npt.NDArray[np.float64] = part * logs[0] + (n - part) * logs[1]
    return likelihood


def _slower_beside_discards(
    slices: Sequence[Interval], whole: Interval, named: Callable[[int], str]
) -> Iterator[Finding]:
    """The reads or writes that took longest, compared with the others, while discards ran."""
    discards = [
        (group.requests, group.device)
        for group in whole.groups()
        if group.op == "discard" and group.requests and group.device not in (None, OTHERS)
    ]
    blocks = _blocks(slices, whole)
    found: list[tuple[float, Finding]] = []
    for _, device in heapq.nlargest(MOST_DISCARDING, discards):
        assert device is not None
        has_discards = np.zeros(N_BLOCKS, bool)
        for block, item in zip(blocks.tolist(), slices):
            of_device = item.rows["op"][item.rows["device"] == device]
            has_discards[block] |= DISCARD in of_device
        sides: list[list[Interval]] = [[], []]
        for is_beside, item in zip(has_discards[blocks].tolist(), slices):
            sides[is_beside].append(reduce_to(item, device))
        if not all(sides):
            continue
        without, beside = map(merge, sides)
        is_once = np.count_nonzero(np.diff(has_discards[blocks].astype(int), prepend=0) > 0) == 1
        for op in ("read", "write"):
            usual, slow = _group(without, device, op), _group(beside, device, op)
            if usual is None or slow is None:
                continue
            departs = departure(slow.d2c_ns, usual.d2c_ns, CHANGE_FACTOR)
            if departs is not None:
                one = Finding(
                    "slower_beside_discards",
                    named(device),
                    f"{plural(op)} of {named(device)} were slower while discards ran",
                    f"p{departs.percent} {time_text(departs.value)}, {time_text(departs.usual)} "
                    f"without them{_because(usual, slow)}",
                    devices=(device,),
                    span_ns=(beside.start_ns, beside.end_ns) if is_once else None,
                )
                found.append((departs.value / max(departs.usual, 1), one))
    yield from (one for _, one in sorted(found, key=lambda item: -item[0]))


def _got_slower(
    runs: Runs, wholes: Iterable[Interval], whole: Interval, named: Callable[[int], str]
) -> Iterator[Finding]:
    """The operations of devices that got slower within a run; the worst first."""
    found = [
        (change, slices, run)
        for slices, run in zip(runs, wholes)
        for change in _changes(slices, run)
    ]
    for change, slices, run in sorted(found, key=lambda item: -item[0].ratio):
        device, op = change.key
        blocks = _blocks(slices, run)
        split = int(np.searchsorted(blocks, change.block))
        before, after = (
            _group(merge(reduce_to(item, device) for item in part), device, layout.OPS[op])
            for part in (slices[:split], slices[split:])
        )
        if before is None or after is None:
            continue
        p99s_ns = before.d2c_ns.percentile(99), after.d2c_ns.percentile(99)
        if p99s_ns[0] is None or p99s_ns[1] is None or p99s_ns[1] < CHANGE_FACTOR * p99s_ns[0]:
            continue
        # With few requests, the best split may lie beside the change: find its moment exactly.
        limit_ns = math.sqrt(max(p99s_ns[0], 1) * p99s_ns[1])
        span_ns = _slow_span(slices, [device], layout.OPS[op], limit_ns)
        if span_ns is None or span_ns[0] == slices[0].start_ns:
            rows = [(item.end_ns, item.rows) for item in slices[split:]]
            ends = [end for end, of in rows if ((of["device"] == device) & (of["op"] == op)).any()]
            span_ns = slices[split].start_ns, ends[-1]
        yield Finding(
            "slower_after",
            named(device),
            f"{plural(layout.OPS[op])} of {named(device)} got slower",
            f"p99 {time_text(p99s_ns[0])} before, {time_text(p99s_ns[1])} after"
            f"{_because(before, after)}",
            devices=(device,),
            when=_at(whole, span_ns[0]),
            span_ns=span_ns,
        )


def _changes(slices: Sequence[Interval], whole: Interval) -> Iterator[Change]:
    """For each operation of a device, when its p99 rose the most, if it rose enough."""
    groups = [g for g in whole.groups() if g.op is not None and g.requests >= 2 * CHANGE_REQUESTS]
    groups.sort(key=lambda group: -group.d2c_ns.sum)
    keys = sorted(
        g.device << 3 | layout.OPS.index(g.op)
        for g in groups[:MOST_GROUPS]
        if g.device is not None and g.op is not None and g.device != OTHERS
    )
    if not keys:
        return
    counts = _count_by_block(slices, whole, np.array(keys))
    cumulated = counts.cumsum(axis=1)
    before, after = cumulated[:, :-1], cumulated[:, -1:] - cumulated[:, :-1]
    p99s = [_p99s(part) for part in (before, after)]
    is_enough = (before.sum(axis=2) >= CHANGE_REQUESTS) & (after.sum(axis=2) >= CHANGE_REQUESTS)
    part = -(-N_BLOCKS // CHANGE_PART)
    is_enough[:, : part - 1] = is_enough[:, len(is_enough[0]) - part + 1 :] = False
    ratios = np.where(is_enough, p99s[1] / np.maximum(p99s[0], 1.0), 0.0)
    for key, of_key in zip(keys, ratios):
        if of_key.max() >= CHANGE_FACTOR:
            # Splits before the change have as high a ratio, as all that is slow comes after them:
            # the last high one is at the change.
            place = int(np.flatnonzero(of_key >= 0.9 * of_key.max())[-1])
            yield Change((key >> 3, key & 7), float(of_key.max()), place + 1)


def _blocks(slices: Sequence[Interval], whole: Interval) -> npt.NDArray[np.int64]:
    """The block of time in which each slice begins; shape (slices,), ascending."""
    starts = np.array([item.start_ns - whole.start_ns for item in slices], np.float64)
    duration_ns = max(whole.end_ns - whole.start_ns, 1)
    blocks = (starts * N_BLOCKS / duration_ns).astype(np.int64)
    return np.maximum.accumulate(np.clip(blocks, 0, N_BLOCKS - 1))


def _count_by_block(
    slices: Sequence[Interval], whole: Interval, keys: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Requests by group, block of time and coarse bin of d2c."""
    counts = np.zeros((len(keys), N_BLOCKS, (N_BINS >> COARSE_BITS) + 1), np.int64)
    for block, item in zip(_blocks(slices, whole).tolist(), slices):
        rows, bins = item.rows, item.snapshot.d2c_bins
        if not len(rows):
            continue
        row_keys = rows["device"].astype(np.int64) << 3 | rows["op"]
        places = np.minimum(np.searchsorted(keys, row_keys), len(keys) - 1)
        is_wanted = keys[places] == row_keys
        bins = bins[is_wanted[bins["row"]]]
        index = places[bins["row"]], bins["bin"] >> COARSE_BITS
        np.add.at(counts[:, block], index, bins["count"].astype(np.int64))
    return counts


def _p99s(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The p99 of each histogram in the last axis, in ns, rounded down to a coarse bin."""
    upto = counts.cumsum(axis=2)
    rank = np.ceil(upto[:, :, -1:] * 0.99)
    places = (upto >= rank).argmax(axis=2) << COARSE_BITS
    low, _ = bin_bounds(np.minimum(places, N_BINS - 1))
    return low.astype(np.float64)


def _group(interval: Interval, device: int, op: str) -> Group | None:
    wanted = device, op
    return next((g for g in interval.groups() if (g.device, g.op) == wanted), None)


def _because(before: Group, after: Group) -> str:
    """What else is different: under more load, and if they are larger, requests take longer.

    Not the number in flight: it is the rate times the latency.
    """
    reasons = []
    if before.iops and after.iops and after.iops >= LOAD_FACTOR * before.iops:
        reasons.append(f"at {count_cell(after.iops)} IOPS instead of {count_cell(before.iops)}")
    sizes = before.size_bytes.mean or 0, after.size_bytes.mean or 0
    if sizes[1] >= LOAD_FACTOR * sizes[0] > 0:
        reasons.append(f"with requests of {bytes_text(sizes[1])} instead of {bytes_text(sizes[0])}")
    return f", {' and '.join(reasons)}" if reasons else ""


def _at(whole: Interval, time_ns: int) -> str:
    """When something began."""
    at = "at " if whole.anchored else ""
    return f" {at}{_clock(whole, time_ns)}{zone(whole)}"


def _clock(whole: Interval, time_ns: int) -> str:
    return clock(time_ns, whole, is_fine=whole.duration_s < FINE_S)


def _when(whole: Interval, span_ns: tuple[int, int] | None) -> str:
    """From when to when something lasted; empty if that is unknown."""
    if span_ns is None:
        return ""
    margin_ns = (whole.end_ns - whole.start_ns) // N_BLOCKS
    is_from_start = span_ns[0] <= whole.start_ns + margin_ns
    is_until_end = span_ns[1] >= whole.end_ns - margin_ns
    begin, end = (_clock(whole, time_ns) for time_ns in span_ns)
    if is_from_start:
        return " all the time" if is_until_end else f" until {end}{zone(whole)}"
    if is_until_end:
        return f" from {begin}{zone(whole)} until the end"
    return f" from {begin} to {end}{zone(whole)}"


def _others(number: int, what: str) -> str:
    more = how_many(number, "more device", "more devices", ",")
    return f"; {more} {what}, too" if number else ""
