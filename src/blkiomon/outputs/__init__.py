"""Outputs: one file for each format, one for each kind of destination, and what they share.

``sink`` holds the queue and the thread, ``files`` and ``msgqueue`` the destinations; ``human``,
``binary``, ``debug``, ``driver``, ``jsonl``, ``csv`` and ``parquet`` turn what travels into bytes,
``openmetrics`` adds it up.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blkiomon.commands.config import Config
from blkiomon.console import how_many
from blkiomon.errors import MissingLibrary
from blkiomon.formats import csv, debug, driver_data, json_lines, stats_file, text
from blkiomon.formats.debug import Final
from blkiomon.formats.driver_data import DriverData
from blkiomon.formats.parquet import ParquetFormat
from blkiomon.interval.value import Interval
from blkiomon.outputs.files import FileSink, Format
from blkiomon.outputs.message_queue import MessageQueueSink
from blkiomon.outputs.opening import Identity, Policy, check_output
from blkiomon.outputs.parquet_directory import ParquetDirectorySink
from blkiomon.outputs.sink import Item, Report, Sink
from blkiomon.sources.devices import DeviceNames, nameless

__all__ = ["DriverData", "Final", "Item", "OutputError", "Outputs", "Report", "open_outputs"]

CLOSE_S = 5.0
"""At the end of a live trace, outputs that take nothing for so long are given up."""


class OutputError(Exception):
    """An output cannot be opened; the text says which and why."""


class Outputs:
    """All destinations of a run.

    Args:
        sinks: the destinations.
        report: tells the user one line.
        names: of devices, where these have names.
    """

    def __init__(
        self, sinks: Sequence[Sink], report: Report, names: DeviceNames | None = None
    ) -> None:
        self.sinks = tuple(sinks)
        self._report = report
        self._names = names
        for sink in self.sinks:
            sink.start()

    @property
    def failed(self) -> bool:
        """Whether any of them failed, or did not get everything."""
        return any(
            sink.failed or sink.dropped_intervals or sink.dropped_records for sink in self.sinks
        )

    @property
    def readers_left(self) -> bool:
        """Whether whoever read standard output wants no more."""
        return any(sink.reader_left for sink in self.sinks)

    @property
    def are_of_use(self) -> bool:
        """Whether any of them still takes anything."""
        return any(not sink.has_ended for sink in self.sinks)

    def put(self, item: Item) -> None:
        """Hand an item to whoever wants it; waits only where outputs are lossless."""
        for sink in self.sinks:
            sink.put(item)

    def reopen(self) -> None:
        """Files that have been moved away get nothing more; new ones take their place."""
        for sink in self.sinks:
            sink.reopen()

    def take_as_recorded(self, *, keep_names: bool) -> None:
        """Wait for outputs from now on: what was taken for live was recorded.

        Args:
            keep_names: of devices, although they may be of another host.
        """
        if self._names is not None and not keep_names:
            self._names.is_of_this_host = False
        for sink in self.sinks:
            sink.take_as_recorded()

    def stop_waiting(self) -> None:
        """Be lossless no longer; safe in a signal handler."""
        for sink in self.sinks:
            sink.stop_waiting()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Deliver what is queued, and report what could not be; see ``Sink.close``."""
        for sink in self.sinks:
            sink.begin_close()
        for sink in self.sinks:
            sink.close(timeout_s)
            if sink.dropped_intervals or sink.dropped_records:
                self._report(
                    f"{sink.name} did not take everything: "
                    f"{how_many(sink.dropped_intervals, 'interval', 'intervals')} and "
                    f"{how_many(sink.dropped_records, 'record', 'records')} are missing there"
                )


def open_outputs(
    config: Config,
    report: Report,
    *,
    lossless: bool = False,
    inputs: frozenset[Identity] = frozenset(),
) -> Outputs:
    """Open and start all outputs of a configuration.

    Args:
        config: what is asked for.
        report: tells the user one line, without the program's name; called by any thread.
        lossless: wait for outputs instead of dropping, where nothing is lost by waiting.
        inputs: the files that are read, which no output may write to.

    Raises:
        OutputError: one of them cannot be opened, or must not be written to, or two are one file.
            In the last two cases none has been opened.
    """
    names = DeviceNames() if config.names else None
    name_of = names or nameless
    wanted = [
        (config.human, Format((Interval,), text.renderer(config.stat_version), takes_turns=True)),
        (
            config.binary,
            Format((Interval,), stats_file.renderer(config.stat_version), takes_turns=True),
        ),
        (config.driver, Format((DriverData,), driver_data.render, is_dump=True)),
        (config.debug, Format((np.ndarray, Final), debug.render)),
        (config.json, Format((Interval,), json_lines.renderer(name_of))),
        (config.csv, Format((Interval,), csv.renderer(name_of), head=csv.HEAD)),
    ]
    by_path: dict[str, list[Format]] = {}
    for path, form in wanted:
        if path is not None:
            by_path.setdefault(path, []).append(form)
    parquet: ParquetFormat | None = None
    has_parts = config.parquet is not None and _is_directory(config.parquet)
    if config.parquet is not None:
        if config.parquet in by_path:
            raise OutputError(f"Parquet cannot share {config.parquet} with another output")
        try:
            parquet = ParquetFormat(name_of)
        except MissingLibrary as error:
            raise OutputError(str(error)) from error
        if not has_parts:
            by_path[config.parquet] = [Format((Interval,), parquet.render, finish=parquet.finish)]

    policy = Policy(follow=config.follow_symlinks, overwrite=config.overwrite, inputs=inputs)
    policies = {
        path: replace(policy, is_dump=any(form.is_dump for form in formats))
        for path, formats in by_path.items()
    }
    replaced = [config.textfile] if config.textfile is not None else []
    if config.parquet is not None and has_parts:
        replaced.append(f"{config.parquet}/.")
    _check(policies, dict.fromkeys(replaced, policy))

    options: dict[str, Any] = {"lossless": lossless, "verbose": config.verbose}
    sinks: list[Sink] = []
    name = ""
    try:
        for name, formats in by_path.items():
            sinks.append(FileSink(name, formats, report, policy=policies[name], **options))
        if parquet is not None and config.parquet is not None and has_parts:
            sinks.append(
                ParquetDirectorySink(config.parquet, parquet, report, policy=policy, **options)
            )
        if config.queue_path is not None:
            assert config.queue_id is not None and config.queue_message_type is not None
            name = config.queue_path
            sinks.append(
                MessageQueueSink(
                    name,
                    config.queue_id,
                    config.queue_message_type,
                    stats_file.renderer(config.stat_version),
                    report,
                    **options,
                )
            )
    except OSError as error:
        raise OutputError(f"could not write to {name}: {error.strerror}") from error
    if config.textfile is not None or config.openmetrics is not None:
        sinks += _open_metrics(config, name_of, policy, report, options)
    if config.screen:
        sinks.append(_open_screen(config, name_of, report, options))
    return Outputs(sinks, report, names)


def _check(written: dict[str, Policy], replaced: dict[str, Policy]) -> None:
    """Make sure that all files may be written to, and that no two of them are one.

    Raises:
        OutputError: they may not, or they are.
    """
    names: dict[Hashable, str] = {}
    for replaces, policies in ((False, written), (True, replaced)):
        for path, policy in policies.items():
            name = "standard output" if path == "-" and not replaces else path
            try:
                key = check_output(path, policy, replaces=replaces)
            except OSError as error:
                raise OutputError(f"could not write to {name}: {error.strerror}") from error
            if key in names:
                raise OutputError(f"{names[key]} and {name} are one file: give each output its own")
            if key is not None:
                names[key] = name


def _is_directory(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # which opening it will explain
        return False


def _open_metrics(
    config: Config,
    name_of: Callable[[int], str | None],
    policy: Policy,
    report: Report,
    options: dict[str, Any],
) -> list[Sink]:
    from blkiomon.formats.openmetrics import Metrics
    from blkiomon.outputs import metrics  # a web server, which takes a while to import

    sinks: list[Sink] = []
    doing = ""
    try:
        if config.textfile is not None:
            doing = f"write to {config.textfile}"
            sums = Metrics(name_of)
            sinks.append(
                metrics.TextfileSink(config.textfile, sums, report, policy=policy, **options)
            )
        if config.openmetrics is not None:
            doing = f"listen on {metrics.http_name(config.openmetrics)}"
            sums = Metrics(name_of)
            sinks.append(metrics.HttpSink(config.openmetrics, sums, report, **options))
    except MissingLibrary as error:
        raise OutputError(str(error)) from error
    except OSError as error:
        raise OutputError(f"could not {doing}: {error.strerror}") from error
    return sinks


def _open_screen(
    config: Config, name_of: Callable[[int], str | None], report: Report, options: dict[str, Any]
) -> Sink:
    from blkiomon.commands.top import screen  # it needs rich, and nobody else does

    try:
        return screen.open_screen(config, name_of, report, **options)
    except OSError as error:
        raise OutputError(f"cannot use this terminal: {error.strerror}") from error
