"""A directory that gets one Parquet file of every interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blkiomon.formats.parquet import ParquetFormat
from blkiomon.interval.value import Interval
from blkiomon.outputs.opening import DEFAULT, Policy, write_whole
from blkiomon.outputs.sink import Item, Report, Sink, Undelivered


class ParquetDirectorySink(Sink):
    """A directory that gets a whole file of every interval, named after its end.

    Args:
        path: of the directory.
        form: for this sink alone.
        policy: what outputs may write to.
        report, options: as for ``Sink``.
    """

    def __init__(
        self,
        path: str,
        form: ParquetFormat,
        report: Report,
        *,
        policy: Policy = DEFAULT,
        **options: Any,
    ) -> None:
        super().__init__(path, report, **options)
        self._directory = Path(path)
        self._form = form
        self._policy = policy

    def takes(self, item: Item) -> bool:
        return isinstance(item, Interval)

    def _deliver(self, item: Item) -> None:
        assert isinstance(item, Interval)
        with self._rendering():
            data = b"".join([*self._form.render(item), *self._form.finish()])
        path = self._directory / f"interval-{item.end_ns:020}.parquet"
        try:
            write_whole(path, lambda file: file.write(data), self._policy)
        except OSError as error:
            if not self.failed:
                self._complain(error, "what does not fit is dropped until there is space again")
            raise Undelivered from error
        self._progressed()

    def _release(self) -> None:
        pass
