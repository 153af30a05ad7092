"""The checks: which path, port or array is slow, stalls, fails or takes no requests.

``CHECKS`` is their table. Each yields findings with their evidence, and nothing where requests are
too few to be sure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any

import numpy as np

from blkiomon.commands.san.facts import (
    PASSTHROUGH,
    STALL_NS,
    Facts,
    Figures,
    FiguresTable,
    Floats,
    Lun,
    Numbers,
    Siblings,
    SlowPath,
    luns_of,
)
from blkiomon.commands.san.wording import described, identity, leading
from blkiomon.commands.table import plural
from blkiomon.console import how_many, printable
from blkiomon.engine.constants import ALL_OPS, OPS
from blkiomon.formats.units import rate_text, time_text
from blkiomon.interval.departures import departure, share_limits
from blkiomon.interval.distribution import Distribution
from blkiomon.interval.findings import Finding
from blkiomon.interval.value import Interval
from blkiomon.interval.views import initiator_of
from blkiomon.sources.topology import Device, Topology, Transport

SLOW_ARRAY_FACTOR = 4
"""Arrays may differ by nature: one is slow only if it is so many times slower."""

FEW_FACTOR = 4
"""A path takes few requests if its siblings take so many times as many."""

LEAST_OF_SIBLINGS = 100
"""Requests that a sibling took on average, where a path took none or few."""

LEAST_FAILED = 3
"""Errors or requeues of a path that are more than chance."""

LATE_FACTOR = 4
"""While others complete, a request stalls if it is in flight this many times as long as those."""


def findings(facts: Facts) -> list[Finding]:
    """What stands out, the most urgent first; each device once."""
    found: list[Finding] = []
    known: set[str] = set()
    for check in CHECKS:
        of_check = [finding for finding in check(facts) if finding.name not in known]
        known.update(name for f in of_check for name in (f.name, *f.evidence.get("paths", ())))
        found += of_check
    return found


def of_run(whole: Interval, topology: Topology) -> list[Finding]:
    """What stands out in a whole run."""
    table = FiguresTable(whole)
    luns = luns_of(topology)
    facts = Facts(luns, [table], Siblings(luns, set(table.devices)), is_whole=True)
    return findings(facts)


def maps_of(topology: Topology | None) -> dict[int, int]:
    """The number of each path's map, by that of the path."""
    devices = topology.devices if topology is not None else ()
    numbers = {device.name: device.number for device in devices}
    return {
        device.number: above
        for device in devices
        if device.number is not None and device.map is not None
        if (above := numbers.get(device.map)) is not None
    }


def without_moved(
    hung: list[tuple[int, int, int]], whole: Interval, topology: Topology | None
) -> list[tuple[int, int, int]]:
    """What hung, without paths whose map did not hang: multipath moved their requests.

    Args:
        hung: age of the oldest request, number in flight, and device.
        whole: the run.
        topology: of the traced host, if it is known.
    """
    maps = maps_of(topology)
    flowing = set(whole.rows["device"].tolist()) - {device for *_, device in hung}
    return [item for item in hung if maps.get(item[2]) not in flowing]


# --- stalls ---------------------------------------------------------------------------------------


def _stalled(facts: Facts) -> Iterator[Finding]:
    """Stalled LUNs; of other LUNs the stalled paths; without these, LUNs with a stalled request."""
    stalled = facts.latest.stalled
    if facts.is_whole or not stalled:
        return
    for lun in facts.luns:
        if stalled.isdisjoint(d.number for d in (*lun.paths, lun.map) if d is not None):
            continue
        waiting = [(path, of) for path in lun.paths if (of := _waits(facts, path)) is not None]
        of_map = None if lun.map is None else _waits(facts, lun.map)
        if of_map is not None:
            names = [path.name for path, _ in waiting] or facts.waited.get(lun.name, ())
            # A path may have given its request back: then it is in flight on the map alone.
            where = "; ".join(f"path {leading(path)} has {_in_flight(g)}" for path, g in waiting)
            if not waiting:
                last = [leading(path) for path in lun.paths if path.name in names]
                where = f"last seen on path {', '.join(last)}" if last else "no path has any"
            text = f"{lun.name} is stalled: nothing completes, {_in_flight(of_map)}; {where}"
            yield Finding("stalled", lun.name, text, evidence=_stall(of_map, lun, names))
        if of_map is not None or _flows(facts, lun.map):
            continue
        for path, of in waiting:
            text = f"{described(path, lun)}, is stalled: nothing completes, {_in_flight(of)}"
            yield Finding("stalled_path", path.name, text, evidence=_stall(of, lun, [path.name]))
        if not waiting and lun.map is not None and (late := _late(facts, lun.map)) is not None:
            names = names_of(lun.paths, stalled) or facts.waited.get(lun.name, ())
            seen = ", ".join(leading(path) for path in lun.paths if path.name in names)
            text = (
                f"a request of {lun.name} is stalled, in flight for {time_text(late.oldest_ns)}, "
                f"while others complete" + (f"; last seen on path {seen}" if seen else "")
            )
            yield Finding("stalled_requests", lun.name, text, evidence=_stall(late, lun, names))


def names_of(paths: Iterable[Device], stalled: Set[int]) -> list[str]:
    """The paths with an old request."""
    return [path.name for path in paths if path.number in stalled]


def _flows(facts: Facts, above: Device | None) -> bool:
    """Whether a map was traced and has no old request. Then an old request of its path has left it:
    native NVMe multipath takes requests away from a path without a trace record.
    """
    if above is None or above.number not in facts.traced:
        return False
    figures = [facts.latest.get(above, op) for op in (ALL_OPS, *facts.latest.ops)]
    return not any(of is not None and (of.oldest_ns or 0) >= STALL_NS for of in figures)


def _waits(facts: Facts, device: Device) -> Figures | None:
    """The figures of a device that completes nothing, though requests have long been in flight."""
    found = _with_old_request(facts, device)
    return None if found is None or found[1] else found[0]


def _late(facts: Facts, device: Device) -> Figures | None:
    """The figures of a device that completes requests, and has one far older than any of these."""
    found = _with_old_request(facts, device)
    if found is None or (found[0].oldest_ns or 0) < LATE_FACTOR * found[1]:
        return None
    return found[0]


def _with_old_request(facts: Facts, device: Device) -> tuple[Figures, int] | None:
    """The figures of a device with an old request, and the highest latency of those that completed.

    The latency is 0 if none completed. None if the completions of all requests that are in flight
    may have been lost.
    """
    of_device = facts.latest.get(device, ALL_OPS)
    if of_device is None:
        return None
    ops = [facts.latest.get(device, op) for op in facts.latest.ops if op != PASSTHROUGH]
    data = [of for of in ops if of is not None]
    if of_device.in_flight is None:  # with --op it is known of operations alone
        of_device = max(data, key=lambda of: of.oldest_ns or 0, default=of_device)
    in_flight, oldest_ns = of_device.in_flight or 0, of_device.oldest_ns or 0
    if oldest_ns < STALL_NS or in_flight <= facts.lost_since(facts.latest.end_ns - oldest_ns):
        return None
    return of_device, max((of.percentiles[-1] for of in data if of.requests), default=0)


def _in_flight(figures: Figures) -> str:
    requests = how_many(figures.in_flight or 0, "request", "requests", ",")
    return f"{requests} in flight for up to {time_text(figures.oldest_ns)}"


def _stall(figures: Figures, lun: Lun, paths: Sequence[str]) -> dict[str, Any]:
    return {
        "lun": lun.name,
        "in_flight": figures.in_flight,
        "oldest_ns": figures.oldest_ns,
        "paths": list(paths),
    }


# --- latency --------------------------------------------------------------------------------------


def _slow_path(facts: Facts) -> Iterator[Finding]:
    for slow in facts.slow_paths:
        path, departs = slow.path, slow.departure
        iops = facts.iops(path)
        usual_iops = sum(facts.iops(p) for p in slow.siblings) / len(slow.siblings)
        on, average = f"on {slow.siblings[0].name}", ""
        if len(slow.siblings) > 1:
            on, average = f"on its {len(slow.siblings)} siblings", " on average"
        figures = (
            f"p{departs.percent} of {plural(slow.op)} "
            f"{time_text(departs.value)}, {time_text(departs.usual)} {on}; "
            f"{rate_text(iops)} IOPS, {rate_text(usual_iops)} there{average}"
        )
        yield Finding(
            "slow_path",
            path.name,
            f"{described(path, slow.lun)}, is slow",
            figures,
            {
                **identity(path, slow.lun),
                **_departure(slow),
                "iops": iops,
                "siblings_iops": usual_iops,
            },
            _numbers([path]),
        )


def _departure(slow: SlowPath) -> dict[str, Any]:
    return {
        "op": slow.op,
        "percent": slow.departure.percent,
        "d2c_ns": slow.departure.value,
        "siblings_d2c_ns": slow.departure.usual,
    }


def _numbers(devices: Iterable[Device]) -> tuple[int, ...]:
    return tuple(device.number for device in devices if device.number is not None)


def _slow_port(facts: Facts) -> Iterator[Finding]:
    """A port that all slow paths of several LUNs have in common."""
    slow = facts.slow_paths
    if len({of.lun.name for of in slow}) < 2:
        return
    for kind, what, port_of in (
        ("slow_port", "target port", lambda via: via.target_port),
        ("slow_hba", "host port", initiator_of),
    ):
        ports = {port_of(of.path.transport or Transport()) for of in slow}
        elsewhere = {port_of(p.transport or Transport()) for of in slow for p in of.siblings}
        port = ports.pop()
        if ports or port is None or port in elsewhere:
            continue
        on_port = [
            (lun, path)
            for lun, alike in facts.siblings.sets
            for path in alike
            if port_of(path.transport or Transport()) == port and facts.taken(path)
        ]
        worst = slow[0]
        luns = how_many(len({of.lun.name for of in slow}), "LUN", "LUNs")
        figures = (
            f"{len(slow)} of the "
            f"{len(on_port)} paths in use there, of {luns}; worst is {worst.path.name}, "
            f"p{worst.departure.percent} of {plural(worst.op)} {time_text(worst.departure.value)}, "
            f"{time_text(worst.departure.usual)} on its siblings"
        )
        evidence = {
            "luns": sorted({of.lun.name for of in slow}),
            "paths": [of.path.name for of in slow],
            "paths_in_use": len(on_port),
            **_departure(worst),
        }
        of_port = f"{what} {printable(port)} is common to all slow paths"
        devices = _numbers(of.path for of in slow)
        yield Finding(kind, printable(port), of_port, figures, evidence, devices)


def _slow_array(facts: Facts) -> Iterator[Finding]:
    """An array that is slower than all others together."""
    if len(facts.siblings.arrays) < 2:
        return
    devices = set(facts.latest.devices)
    arrays = {
        name: paths
        for name, paths in facts.siblings.arrays.items()
        if any(path.number in devices for path in paths)
    }
    if len(arrays) < 2:
        return
    for op in facts.latest.ops:
        of_array = {name: facts.d2c(paths, op) for name, paths in arrays.items()}
        for name, d2c in of_array.items():
            others = Distribution().merge(*(o for n, o in of_array.items() if n != name))
            if (departs := departure(d2c, others, SLOW_ARRAY_FACTOR)) is not None:
                luns = {lun.name for lun in facts.luns if lun.paths[0].array == name}
                figures = (
                    f"p{departs.percent} of {plural(OPS[op])} "
                    f"{time_text(departs.value)}, {time_text(departs.usual)} on the other "
                    f"{how_many(len(arrays) - 1, 'array', 'arrays')}; it has "
                    f"{how_many(len(luns), 'LUN', 'LUNs')}"
                )
                evidence = {
                    "op": OPS[op],
                    "percent": departs.percent,
                    "d2c_ns": departs.value,
                    "others_d2c_ns": departs.usual,
                    "luns": sorted(luns),
                }
                what = f"array {printable(name)} is slow"
                numbers = _numbers(arrays[name])
                yield Finding("slow_array", printable(name), what, figures, evidence, numbers)
                break


# --- errors and load ------------------------------------------------------------------------------


def _failing(facts: Facts) -> Iterator[Finding]:
    """Paths whose share of errors or requeues is higher than that of their siblings."""

    def is_suspect(paths: Numbers, of_set: object) -> Any:
        counts = (facts.sums(name, paths) for name in ("errors", "requeues"))
        return np.maximum(*counts) >= LEAST_FAILED

    for lun, alike in facts.siblings.suspects(is_suspect):
        counted = {
            p.name: [sum(of) for of in zip(*((f.errors, f.requeues, f.requests) for f in figures))]
            for p in alike
            if (figures := facts.figures(p))
        }
        for path in alike if len(counted) > 1 else ():
            if max(counted.get(path.name, [0])[:2]) < LEAST_FAILED:
                continue
            of_others = [of for name, of in counted.items() if name != path.name]
            others = [sum(column) for column in zip(*of_others)]
            for at, what in enumerate(("errors", "requeues")):
                part, usual = counted[path.name][at], others[at]
                whole = max(counted[path.name][2], part)
                of_siblings = max(others[2], usual)
                low, _ = share_limits(part, whole)
                _, high = share_limits(usual, of_siblings)
                if part >= LEAST_FAILED and low > high:
                    text = (
                        f"{described(path, lun)}, fails: {part:,} {what} of {whole:,} requests, "
                        f"{usual:,} of {of_siblings:,} on its siblings"
                    )
                    evidence = {
                        **identity(path, lun),
                        what: part,
                        "requests": whole,
                        f"siblings_{what}": usual,
                        "siblings_requests": of_siblings,
                    }
                    yield Finding("failing_path", path.name, text, evidence=evidence)
                    break


def _idle(facts: Facts) -> Iterator[Finding]:
    """Paths that take no or few requests, while their siblings take many."""

    def is_suspect(paths: Numbers, of_set: Callable[[np.ufunc, Floats], Floats]) -> Any:
        taken = facts.sums("requests", paths) - facts.sums("requests", paths, PASSTHROUGH)
        others = (of_set(np.add, taken) - taken) / (of_set(np.add, np.ones(len(paths))) - 1)
        is_few = (1 + FEW_FACTOR) * taken < taken + others + 1  # the test below rounds others
        return is_few & (others >= LEAST_OF_SIBLINGS)

    for lun, alike in facts.siblings.suspects(is_suspect):
        taken = {path.name: facts.taken(path) for path in alike}
        for path in alike:
            siblings = [p.name for p in alike if p is not path]
            mean = sum(taken[name] for name in siblings) / len(siblings)
            _, most = share_limits(taken[path.name], round(taken[path.name] + mean))
            if mean < LEAST_OF_SIBLINGS or most >= 1 / (1 + FEW_FACTOR):
                continue
            own = taken[path.name]
            others = siblings[0] if len(siblings) == 1 else f"each of its {len(siblings)} siblings"
            state = "" if path.state in (None, "running", "live") else f", and is {path.state}"
            taken_text = (
                f"only {how_many(own, 'request', 'requests', ',')}" if own else "no requests"
            )
            text = (
                f"{described(path, lun)}, takes {taken_text}, while {others} takes "
                f"{round(mean):,}{state}"
            )
            evidence = {
                **identity(path, lun),
                "requests": own,
                "siblings_requests": round(mean),
                "state": path.state,
            }
            kind = "few_requests" if own else "idle_path"
            yield Finding(kind, path.name, text, evidence=evidence)


CHECKS: Sequence[Callable[[Facts], Iterator[Finding]]] = (
    _stalled,
    _slow_array,
    _slow_port,
    _slow_path,
    _failing,
    _idle,
)
"""In the order of urgency. A device that one check has named is not named by a later one."""
