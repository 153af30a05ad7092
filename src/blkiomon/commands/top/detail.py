"""The latencies of one device or group: a heat map over time, and its slow requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from blkiomon.commands.table import op_label, size_cell, time_cell
from blkiomon.commands.top.paint import BOLD, RED, UNDERLINE, YELLOW, Line, joined
from blkiomon.commands.top.past import time_of
from blkiomon.commands.top.rows import severity
from blkiomon.commands.top.watch import RunState
from blkiomon.console import how_many, printable
from blkiomon.engine.constants import OPS
from blkiomon.formats.units import error_text, three_digits, time_text
from blkiomon.interval.groups import NS_PER_S

SHADES = " ░▒▓█"
"""Share of a slice's requests in a cell: none, below 1 %, below 10 %, below a half, more."""

AXIS_WIDTH = 8

LEAST_ROWS = 4

SLOW_SHOWN = 10


def detail_lines(state: RunState, devices: Sequence[int], width: int, room: int) -> Iterator[Line]:
    """At most ``room`` lines about some devices together."""
    slow = _latest_of_each(state.slow[np.isin(state.slow["request"]["device"], devices)])
    order = np.argsort(-slow["request"]["d2c_ns"].astype(np.int64), kind="stable")
    n_slow = min(SLOW_SHOWN, len(slow), max(0, room // 2 - 2))
    yield from _heat_map(state, devices, width, room - n_slow - 2)
    if not len(slow):
        why = "no slow request: none above --slow (default: p99 of all devices, last minute)"
        yield [(why, "")]
        return
    least = time_text(int(slow["request"]["d2c_ns"].min()))
    kept = how_many(len(slow), "slow request", "slow requests", ",")
    yield [(f"slowest of the latest {kept}, from {least} on", UNDERLINE)]
    for at in order[:n_slow].tolist():
        yield _slow_line(state, slow[at])


def _latest_of_each(slow: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Slow requests once each: one that was found in flight is found again when it completes."""
    request = slow["request"]
    same = [request[name] for name in ("device", "first_issued_ns", "sector")]
    order = np.lexsort(same)  # stable: the latest comes last
    is_last = np.ones(len(slow), bool)
    is_last[:-1] = np.any([of[order][1:] != of[order][:-1] for of in same], axis=0)
    found: npt.NDArray[np.void] = slow[np.sort(order[is_last])]
    return found


def _heat_map(state: RunState, devices: Sequence[int], width: int, room: int) -> Iterator[Line]:
    heat = state.past.heat(devices)
    columns = max(1, width - AXIS_WIDTH - 1)
    if len(heat) > columns:
        heat = np.add.reduceat(heat, np.arange(columns) * len(heat) // columns, axis=0)
    used = np.flatnonzero(heat.any(axis=0))
    n_rows = room - 2
    if not len(used) or n_rows < LEAST_ROWS:
        yield [("nothing completed" if not len(used) else "a heat map needs more lines", "")]
        return
    first, step = int(used[0]), -(-(int(used[-1]) - int(used[0]) + 1) // n_rows)
    n_rows = -(-(int(used[-1]) - first + 1) // step)
    shares = "░ <1 %, ▒ <10 %, ▓ <50 %, █ more"
    yield [(f"latency by time; share of requests: {shares}", "")]
    totals = heat.sum(axis=1)
    # A slice is as wide as the screen allows, so that few of them fill it, too.
    repeat = max(1, columns // len(heat))
    for row in reversed(range(n_rows)):
        begin = first + row * step
        counts = heat[:, begin : begin + step].sum(axis=1)
        share = np.divide(counts, totals, out=np.zeros(len(heat)), where=totals > 0)
        cells = np.where(share > 0, 1 + (share >= 0.01) + (share >= 0.1) + (share >= 0.5), 0)
        begin_ns = round(time_of(begin))
        style = ("", YELLOW, RED)[severity(begin_ns)]
        shades = "".join(SHADES[cell] * repeat for cell in cells.tolist())
        yield [(f"{time_cell(begin_ns):>{AXIS_WIDTH - 1}} ", ""), (shades, style)]
    seconds = f"{three_digits(state.seen_ns / NS_PER_S)} s"
    marks = f"0 s{seconds:>{max(4, repeat * len(heat) - 3)}}"
    yield [(" " * AXIS_WIDTH + marks, "")]


def _slow_line(state: RunState, found: np.void) -> Line:
    """A slow request: how long, when, what and by whom."""
    request = found["request"]
    name = state.process_names.get(int(request["pid"]), "")
    who = f"{printable(name)} ({request['pid']})" if name else f"pid {request['pid']}"
    facts = [
        f"{time_cell(int(request['d2c_ns'])):>8}",
        f"{op_label(OPS[int(request['op'])]):<7}",
        f"{size_cell(int(request['bytes'])):>6}",
        f"at sector {request['sector']}",
        who,
    ]
    if found["is_pending"]:
        facts.append("still in flight")
    if request["error"]:
        facts.append(f"error {error_text(int(request['error']))}")
    if found["requeues"]:
        facts.append(how_many(int(found["requeues"]), "requeue", "requeues"))
    return [(" ".join(facts), joined(BOLD, RED) if found["is_pending"] else "")]
