"""Slow requests (--slow): one line each, as text or as JSON Lines."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

from blkiomon.console import how_many, printable
from blkiomon.engine.constants import OPS
from blkiomon.formats.rendering import Format, FormatOptions, NameOf
from blkiomon.formats.units import device_text, error_text, time_text, utc
from blkiomon.interval.groups import NS_PER_S
from blkiomon.interval.slow import SlowBatch


def output_format(options: FormatOptions) -> Format:
    """``--slow``: JSON Lines if the file is named ``….json`` or ``….jsonl``, else text."""
    line = _json if options.path.endswith((".json", ".jsonl")) else _text

    def render(batch: SlowBatch) -> Iterator[bytes]:
        for event in _events(batch, options.name_of):
            yield line(event).encode()

    return Format((SlowBatch,), render)


def _events(batch: SlowBatch, name_of: NameOf) -> Iterator[dict[str, Any]]:
    """The fields of each line; ``docs/schema.md`` explains them."""
    names = batch.requests.dtype["request"].names or ()
    for values, until_ns, requeues, is_pending in batch.requests.tolist():
        request = dict(zip(names, values, strict=True))
        device, pid, q2d_ns = request["device"], request["pid"], request["q2d_ns"]
        yield _head("in_flight" if is_pending else "completed", batch, until_ns) | {
            "device": device_text(device),
            "name": name_of(device),
            "op": OPS[request["op"]],
            "sector": request["sector"],
            "size_bytes": request["bytes"],
            "d2c_ns": request["d2c_ns"],
            "f2c_ns": until_ns - request["first_issued_ns"],
            "q2d_ns": None if math.isnan(q2d_ns) else int(q2d_ns),
            "pid": pid,
            "process": batch.process_names.get(pid),
            "cpu": request["cpu"],
            "error": request["error"],
            "requeues": requeues,
        }
    if batch.left_out:
        yield _head("left_out", batch, batch.until_ns) | {"requests": batch.left_out}


def _head(event: str, batch: SlowBatch, until_ns: int) -> dict[str, Any]:
    time_ns = until_ns + batch.zero_ns
    return {"event": event, "time": utc(time_ns) if batch.anchored else None, "time_ns": time_ns}


def _json(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"


def _text(event: dict[str, Any]) -> str:
    """A line for people; names are escaped."""
    when = _when(event)
    if event["event"] == "left_out":
        return f"{when}  … {event['requests']:,} more (--slow-limit)\n"
    name, process, requeues = event["name"], event["process"], event["requeues"]
    device = event["device"] + (f" ({printable(name)})" if name else "")
    duration = time_text(event["f2c_ns"])
    facts = [f"D2C {time_text(event['d2c_ns'])}"]
    if event["event"] == "in_flight":
        facts = [f"still in flight after {duration}"]
    elif event["f2c_ns"] != event["d2c_ns"]:
        facts.append(f"{duration} from the first issue")
    if event["q2d_ns"] is not None:
        facts.append(f"Q2D {time_text(event['q2d_ns'])}")
    facts.append(f"pid {event['pid']}" + (f" ({printable(process)})" if process else ""))
    if event["error"]:
        facts.append(f"error {error_text(event['error'])}")
    if requeues:
        facts.append(how_many(requeues, "requeue", "requeues"))
    where = f"{event['size_bytes']} B at sector {event['sector']}"
    return f"{when}  {device:<12} {event['op']:<7} {where:<30} {', '.join(facts)}\n"


def _when(event: dict[str, Any]) -> str:
    """Local time, or seconds since the first record, to the microsecond."""
    seconds, ns = divmod(event["time_ns"], NS_PER_S)
    if event["time"] is None:
        return f"{seconds}.{ns // 1000:06d} s"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{ns // 1000:06d}"
