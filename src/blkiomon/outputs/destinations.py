"""Opens the outputs of a run, and hands each item to those that take it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blkiomon.console import how_many
from blkiomon.errors import MissingLibrary, OutputError
from blkiomon.formats.rendering import Format, FormatOptions, InfoOf, NameOf, no_info
from blkiomon.outputs.catalog import Output, OutputSettings
from blkiomon.outputs.directory import DirectorySink
from blkiomon.outputs.files import FileSink
from blkiomon.outputs.opening import Identity, Policy, check_output
from blkiomon.outputs.sink import CLOSE_S, Item, Report, Sink
from blkiomon.sources.devices import DeviceNames, nameless

if TYPE_CHECKING:
    from blkiomon.interval.views import View

ExtraOpener = Callable[..., Sink]
"""Called with ``name_of`` and ``report``; by keyword with ``view``, ``lossless``, ``verbose``."""


class Outputs:
    """All sinks of a run.

    Args:
        sinks: started by the constructor.
        report: prints one line for the user.
        names: of devices; None if they are not printed.
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
        """Whether any sink failed or dropped something."""
        return any(
            sink.failed or sink.dropped_intervals or sink.dropped_records for sink in self.sinks
        )

    @property
    def is_reader_gone(self) -> bool:
        """Whether the reader of standard output has closed it, as head(1) does."""
        return any(sink.is_reader_gone for sink in self.sinks)

    @property
    def are_of_use(self) -> bool:
        """Whether any sink still accepts items."""
        return any(not sink.has_ended for sink in self.sinks)

    def put(self, item: Item) -> None:
        """Queue an item at each sink that takes it; waits only if outputs are lossless."""
        for sink in self.sinks:
            sink.put(item)

    def reopen(self) -> None:
        """Close files that have been moved away or deleted, and create new ones."""
        for sink in self.sinks:
            sink.reopen()

    def take_as_recorded(self, *, keep_names: bool) -> None:
        """Be lossless from now on: the trace turned out to have been recorded.

        Args:
            keep_names: print names of devices, although the trace may be of another host.
        """
        if self._names is not None and not keep_names:
            self._names.is_of_this_host = False
        for sink in self.sinks:
            sink.take_as_recorded()

    def stop_waiting(self) -> None:
        """Stop being lossless; safe in a signal handler."""
        for sink in self.sinks:
            sink.stop_waiting()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Deliver what is queued, and report what was dropped; see ``Sink.close``."""
        for sink in self.sinks:
            sink.begin_close()
        for sink in self.sinks:
            sink.close(timeout_s)
            dropped = {"interval": sink.dropped_intervals, "record": sink.dropped_records}
            if lacks := [how_many(n, what, f"{what}s") for what, n in dropped.items() if n]:
                self._report(f"{sink.name} did not take everything: it lacks {' and '.join(lacks)}")


def _info_of(names: DeviceNames | None, view: View | None) -> InfoOf:
    """The labels of devices: from the view's topology, or that of this host."""

    @cache  # Only metrics ask: other runs do not load what reads sysfs.
    def found() -> InfoOf:
        from blkiomon.formats.device_info import HostInfo, labels_of

        if view is not None:
            return lambda numbers: labels_of(view.topology, numbers)
        return no_info if names is None else HostInfo(names)

    return lambda numbers: found()(numbers)


def open_outputs(
    settings: OutputSettings,
    report: Report,
    *,
    lossless: bool = False,
    inputs: frozenset[Identity] = frozenset(),
    open_extra: ExtraOpener | None = None,
    view: View | None = None,
    is_of_this_host: bool = False,
    expected: Sequence[tuple[int, str]] = (),
) -> Outputs:
    """Open and start all outputs of a run.

    Args:
        settings: which outputs, and what they share.
        report: prints one line for the user, after the program's name. Called by any thread.
        lossless: wait for slow outputs instead of dropping. For input that can wait.
        inputs: the files that this run reads; no output may write to them.
        open_extra: opens one more sink, which is not in the table.
        view: made the intervals, and names what their groups are of; None: they are of devices.
        is_of_this_host: this host names devices that came after the topology was read.
        expected: devices and operations whose metrics exist from the start.

    Raises:
        OutputError: an output cannot be opened, or must not be written to, or two outputs have the
            same file. In the last two cases, none has been opened.
    """
    names = DeviceNames() if settings.names and (view is None or is_of_this_host) else None
    of_device = names or nameless
    name_of: NameOf = of_device
    if view is not None:
        of_group = view.name_of

        def name_of(number: int) -> str | None:
            return of_group(number) or of_device(number)

    format_options = FormatOptions(
        name_of,
        settings.stat_version,
        info_of=_info_of(names, view),
        expected=expected,
    )
    sink_options: dict[str, Any] = {"lossless": lossless, "verbose": settings.verbose}
    policy = Policy(follow=settings.follow_symlinks, overwrite=settings.overwrite, inputs=inputs)
    by_path: dict[str, list[Format]] = {}
    directories: list[tuple[str, str, Format]] = []
    others: list[tuple[Output, Any]] = []
    replaced: list[str] = []
    for output in settings.rows:
        target = settings.destinations[output.name]
        if output.place != "file":
            others.append((output, target))
            if output.place == "replaced file":
                replaced.append(target)
            continue
        try:
            form: Format = output.load_opener()(format_options._replace(path=target))
        except MissingLibrary as error:
            raise OutputError(str(error)) from error
        if output.accepts_directory and _is_directory(target):
            directories.append((target, output.name, form))
            replaced.append(f"{target}/.")
        else:
            by_path.setdefault(target, []).append(form)
            if len(by_path[target]) > 1 and any(form.finish for form in by_path[target]):
                raise OutputError(f"{target}: --{output.name} cannot share it with another output")

    policies = {
        path: policy._replace(is_dump=any(form.is_dump for form in formats))
        for path, formats in by_path.items()
    }
    _check(policies, dict.fromkeys(replaced, policy))

    sinks: list[Sink] = []
    name = ""
    try:
        for name, formats in by_path.items():
            sinks.append(FileSink(name, formats, report, policy=policies[name], **sink_options))
        for name, suffix, form in directories:
            sinks.append(DirectorySink(name, suffix, form, report, policy=policy, **sink_options))
        for output, target in others:
            name = target if isinstance(target, str) else target[0]
            opened = output.load_opener()(
                target, format_options, report, policy=policy, **sink_options
            )
            sinks.append(opened)
    except MissingLibrary as error:
        raise OutputError(str(error)) from error
    except OSError as error:
        raise OutputError(f"could not write to {name}: {error.strerror}") from error
    if open_extra is not None:
        sinks.append(open_extra(name_of, report, view=view, **sink_options))
    return Outputs(sinks, report, names)


def _check(written: dict[str, Policy], replaced: dict[str, Policy]) -> None:
    """Check that outputs may write to all of these files, and that no two of them are the same.

    Raises:
        OutputError: an output must not write there, or two files are the same.
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
    except OSError:  # opening it will report the error
        return False
