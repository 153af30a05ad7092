"""Read the intervals of files that ``--json`` wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

from blkiomon.errors import IntervalError, SourceError
from blkiomon.formats.json_codec import from_dict
from blkiomon.formats.validation import MOST_REQUESTS
from blkiomon.interval.devices import number_of
from blkiomon.interval.value import Interval
from blkiomon.sources.readers import Reader

MOST_LINE_BYTES = 3 << 23
"""Limit of a line: JSON takes up to 26 times as much memory once it is parsed."""

BUFFER_BYTES = 1 << 18


class JsonIntervals:
    """Reads intervals that can be merged: all of one clock, with a number of requests that fits.

    Attributes:
        notes: about files that end inside a line.
        device_names: by number; empty for a number that several devices have.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.device_names: dict[int, str] = {}
        self._clock: tuple[str, bool] | None = None
        self._n_requests = 0

    def read(self, reader: Reader) -> Iterator[Interval]:
        """The intervals of a file; an incomplete last line is left out, with a note.

        Raises:
            SourceError: a line is not an interval, or the file cannot be read.
        """
        file = io.BufferedReader(_RawFile(reader), BUFFER_BYTES)
        number = 0
        while line := file.readline(MOST_LINE_BYTES + 1):
            number += 1
            if len(line) > MOST_LINE_BYTES:
                limit = f"{MOST_LINE_BYTES >> 20} MiB"
                raise SourceError(f"{reader.name}: line {number} is longer than {limit}")
            if not line.strip():
                continue
            try:
                fields = json.loads(line, parse_constant=_refuse)
                interval = from_dict(fields)
                self._check(interval)
                self._add_names(fields["devices"])
            except json.JSONDecodeError as error:
                if not line.endswith(b"\n"):
                    self.notes.append(f"{reader.name}: line {number} is cut short and left out")
                    return
                why = f"not JSON: {error.msg} at column {error.colno}"
            except RecursionError:
                why = "not JSON: it is nested too deeply"
            except IntervalError as error:
                why = str(error)
            except ValueError as error:  # not UTF-8, or a number of thousands of digits
                why = f"not JSON: {error}"
            else:
                yield interval
                continue
            raise SourceError(f"{reader.name}: line {number}: {why}")

    def _add_names(self, devices: list[dict[str, Any]]) -> None:
        for device in devices:
            name = device.get("name")
            if isinstance(name, str):
                number = number_of(device["device"])
                if self.device_names.setdefault(number, name) != name:
                    self.device_names[number] = ""

    def _check(self, interval: Interval) -> None:
        """Raises IntervalError: it cannot be merged with those before."""
        clock = interval.clock, interval.anchored
        self._clock = self._clock or clock
        if clock != self._clock:
            now, before = (
                f"{name} {'with' if anchored else 'without'} the time of day"
                for name, anchored in (clock, self._clock)
            )
            raise IntervalError(f"its clock is {now}, and before {before}: they cannot be merged")
        # Of the rows, not of the groups, which the interval would cache.
        self._n_requests += int(interval.rows["requests"].sum())
        if self._n_requests > MOST_REQUESTS:
            raise IntervalError(f"there are more than {MOST_REQUESTS} requests in all")


class _RawFile(io.RawIOBase):
    """A ``Reader`` as a file object."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._reader.readinto(memoryview(buffer))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
