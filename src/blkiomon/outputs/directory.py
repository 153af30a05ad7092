"""A directory that gets one file per interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blkiomon.formats.rendering import Format
from blkiomon.interval.value import Interval
from blkiomon.outputs.opening import write_whole
from blkiomon.outputs.sink import Item, Report, Sink, Undelivered


class DirectorySink(Sink):
    """Writes each interval into a file of its own, ``interval-END.SUFFIX`` with its end in ns.

    Args:
        path: of the directory.
        suffix: of the files, without the dot.
        form: the format; no other sink uses this object.
        report, options: as for ``Sink``.
    """

    def __init__(
        self, path: str, suffix: str, form: Format, report: Report, **options: Any
    ) -> None:
        super().__init__(path, report, **options)
        self._directory = Path(path)
        self._suffix = suffix
        self._format = form

    def _deliver(self, item: Item) -> None:
        assert isinstance(item, Interval)
        with self._rendering():
            pieces = [self._format.head, *self._format.render(item)]
            if self._format.finish:
                pieces += self._format.finish()
            data = b"".join(pieces)
        path = self._directory / f"interval-{item.end_ns:020}.{self._suffix}"
        try:
            write_whole(path, lambda file: file.write(data), self._policy)
        except OSError as error:
            if not self.failed:
                self._complain(error, "this interval is dropped; the next one is tried")
            raise Undelivered from error
        self._progressed()
