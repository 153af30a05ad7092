"""Rules of ``--fail-if``: conditions that a comparison must not fulfil.

A rule is ``[DEVICE/]OPERATION.FIGURE > VALUE`` (or ``<``, ``>=``, ``<=``). A value in per cent is a
change of B against A; such a rule does not hold if the verdict is "no difference shown". With "too
little to tell" the figures alone decide. Any other value is a limit for B alone. A rule holds if
B has no such requests; a rule about a change, also if A has none.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blkiomon.commands.options import UsageError
from blkiomon.commands.report.changes import NO_DIFFERENCE, DeviceChanges, value_text
from blkiomon.engine.constants import OPS
from blkiomon.formats.units import device_text

_RULE = re.compile(
    r"(?:(?P<device>.+)/)?(?P<op>\w+)\.(?P<metric>[a-z]+|p\d{1,2}(?:\.\d{1,3})?)\s*"
    r"(?P<sign>[<>]=?)\s*(?P<value>[+-]?\d{1,15}(?:\.\d{1,9})?)\s*(?P<unit>%|[A-Za-zµ/]*)"
)

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TIMES = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
_RATES = {"B/s": 1.0, "kB/s": 1e3, "MB/s": 1e6, "GB/s": 1e9}
_RATES |= {"KiB/s": 2.0**10, "MiB/s": 2.0**20, "GiB/s": 2.0**30}
_COUNTS = {"": 1.0, "/s": 1.0}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        text: as it was given.
        device: as text; None: the rule names no device.
        op: operation; None: all operations.
        sign: one of ``_COMPARE``.
        limit: in ns, bytes a second, requests a second or errors.
        is_change: the limit is a change instead, as a fraction.
    """

    text: str
    device: str | None
    op: str | None
    metric: str
    sign: str
    limit: float
    is_change: bool


def parse(text: str) -> Rule:
    """Parse a rule. Raises UsageError: it is malformed."""
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--fail-if takes a rule such as 'read.p99 > +10%', not {text!r}")
    op, metric, unit = found["op"], found["metric"], found["unit"]
    if op != "all" and op not in OPS:
        raise UsageError(
            f"--fail-if: {text!r}: unknown operation '{op}'; use all, {', '.join(OPS)}"
        )
    if metric[1:2].isdigit():
        if not 0 < float(metric[1:]) <= 100:
            raise UsageError(f"--fail-if: {text!r}: a percentile is more than 0")
        metric = f"p{float(metric[1:]):g}"
    elif metric not in ("iops", "bandwidth", "mean", "max", "errors"):
        raise UsageError(
            f"--fail-if: {text!r}: unknown figure '{metric}'; use iops, bandwidth, mean, max, "
            "errors, or a percentile such as p99"
        )
    units = {"iops": _COUNTS, "bandwidth": _RATES, "errors": {"": 1.0}}.get(metric, _TIMES)
    value = float(found["value"])
    is_change = unit == "%" and metric != "errors"
    if not is_change and unit not in units:
        known = ", ".join(known or "no unit" for known in units)
        known += " or %" * (metric != "errors")
        raise UsageError(f"--fail-if: {text!r}: a limit of {metric} has {known}")
    limit = value / 100 if is_change else value * units[unit]
    of = None if op == "all" else op
    return Rule(text, found["device"], of, metric, found["sign"], limit, is_change)


def holds(rule: Rule, rows: Sequence[DeviceChanges]) -> str | None:
    """A message about a rule that holds, or cannot be checked; None: it does not hold."""
    row = _row_of(rule, rows)
    what = f"{rule.op} requests" if rule.op else "requests"
    where = f" of {rule.device}" if rule.device else ""
    if row is None:
        return f"{rule.text}: no row has {what}{where}"
    a, b = row.requests
    if not b or (rule.is_change and not a):
        return f"{rule.text}: {'A' if b else 'B'} has no {what}{where}"
    if rule.metric == "errors":
        is_bad = _COMPARE[rule.sign](row.errors[1], rule.limit)
        return f"{rule.text}: {row.errors[1]}" if is_bad else None
    change = row.metric(rule.metric)
    value = change.change if rule.is_change else change.b
    if value is None:
        return f"{rule.text}: {'not both sides have' if rule.is_change else 'B lacks'} that figure"
    if not _COMPARE[rule.sign](value, rule.limit):
        return None
    values = f"{value_text(rule.metric, change.a)} to {value_text(rule.metric, change.b)}"
    if not rule.is_change:
        return f"{rule.text}: {value_text(rule.metric, change.b)}"
    if change.verdict == NO_DIFFERENCE:
        return None
    return f"{rule.text}: {100 * value:+.1f} %, {values}"


def _row_of(rule: Rule, rows: Sequence[DeviceChanges]) -> DeviceChanges | None:
    fitting = [row for row in rows if rule.op in (row.op, *_only(rows, row))]
    if rule.device is not None:
        fitting = [row for row in fitting if rule.device in _names(row)]
    together = [row for row in fitting if row.numbers == (None, None)]
    return next(iter(together or fitting), None)


def _only(rows: Sequence[DeviceChanges], row: DeviceChanges) -> tuple[None, ...]:
    """None, which means all operations, if the row is of the only operation of its device."""
    return (None,) if sum(other.numbers == row.numbers for other in rows) == 1 else ()


def _names(row: DeviceChanges) -> list[str]:
    numbers = [device_text(number) for number in row.numbers if number is not None]
    return [row.device, *row.device.split(" -> "), *numbers]
