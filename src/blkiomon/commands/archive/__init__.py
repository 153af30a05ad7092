"""``blkiomon archive``: the traces of many hosts, on this machine's cores or a Dask cluster.

Modules that need an optional library are imported late: Dask only with a scheduler.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from argparse import Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from blkiomon.commands.options import (
    FOLLOW_SYMLINKS,
    HELP,
    MAX_AGE,
    MAX_PENDING,
    RESYNC,
    SELECTION,
    Command,
    Option,
    Selection,
    UsageError,
    no_stream,
    seconds,
    whole,
)
from blkiomon.commands.parsing import parsed
from blkiomon.commands.views import device_numbers
from blkiomon.console import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_USAGE,
    complain,
    how_many,
    printed,
)

if TYPE_CHECKING:
    import distributed

    from blkiomon.commands.archive.options import Tls
    from blkiomon.commands.archive.summary import Summary
    from blkiomon.interval.devices import DeviceId


def _readable(name: str, text: str) -> str:
    """A file that can be read. A Reader."""
    try:
        open(text, "rb").close()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{name}: cannot read {text!r}: {why}") from None
    return text


_TLS = ("tls-ca-file", "tls-cert", "tls-key")
MOST_WORKERS = 1024

COMMAND = Command(
    "archive",
    (
        "blkiomon archive [OPTION]... SOURCE...",
        "blkiomon archive [OPTION]... -o DATASET [--prune] [--compact] [SOURCE]...",
    ),
    """
    Read the traces of many hosts in parallel, on the cores of this machine or on a Dask cluster.
    Print a summary with percentiles of each host, device and operation, and of all hosts together.
    With -o, also write the intervals as Parquet, to be queried with SQL.
    """,
    (
        Option(
            "-o, --output=DATASET",
            "write intervals to a directory, or a URL such as s3://bucket/archive",
            read=no_stream("a directory or a URL, not standard output"),
            is_output=True,
        ),
        Option(
            "-I, --interval=SECONDS",
            "length of an interval (default 60)",
            read=seconds(0.001),
            default=60.0,
        ),
        *SELECTION,
        Option(
            "--host=PATTERN",
            "where a path contains the host, such as '*/traces/{host}/*': * matches anything, "
            "{host} matches within one part of the path (default: the folder of the trace)",
        ),
        Option(
            "--workers=N",
            "processes of this machine that read traces (default: one per core; 0: only this "
            "process); they open no port",
            read=whole(0, MOST_WORKERS),
        ),
        Option(
            "--scheduler=ADDRESS",
            "use the workers of a running Dask scheduler, such as tls://10.0.0.1:8786",
        ),
        Option(
            "--tls-ca-file=FILE", "certificate authority of the scheduler (PEM)", read=_readable
        ),
        Option("--tls-cert=FILE", "certificate of this client (PEM)", read=_readable),
        Option("--tls-key=FILE", "its private key (PEM)", read=_readable),
        Option("--prune", "remove traces from the dataset whose files are gone"),
        Option("--compact", "merge small files of the dataset"),
        Option("--all", "print all hosts, also those that do not fit the terminal"),
        Option("--json", "print the summary as JSON"),
        RESYNC,
        MAX_PENDING,
        MAX_AGE,
        FOLLOW_SYMLINKS,
        HELP,
    ),
    """
    A SOURCE is a trace as `blkiomon` reads it, compressed or not; a directory, for all traces in it
    at any depth; a glob, in quotes; or any of these as a URL, such as s3://bucket/*/*.bin. In a
    directory, single files beside files of blktrace are left out and reported: they may have the
    same records.

    The host with the highest p99 comes first. A terminal gets as many hosts as it has lines for.
    With NAME.topology.json beside a trace NAME of a host, its totals count a request on a multipath
    map and its path, or on a volume and its disk, once.

    DATASET/requests has a row for each interval, device and operation, DATASET/intervals one for
    each interval. Both are partitioned by the UTC day in which an interval begins, day=YYYY-MM-DD,
    or day=unknown if a trace does not contain the time of day.

    Run the command again after an interruption, or when there are more traces: it skips traces that
    are done and unchanged. A damaged trace is reported; its intervals before the damage count, and
    the other traces are read. Only one run at a time can write a dataset.

    All intervals of a dataset have one length, and one selection of devices, operations and
    period: a run with others is refused. --from and --to in seconds count from the first record of
    each trace.

    Anyone who can reach a Dask scheduler can run programs on its workers and on its clients.
    Protect it with TLS, and do not use it as root.

    Needs pip install 'blkiomon[archive]', and with --scheduler 'blkiomon[dask]', also on the
    workers, which must see the same paths.

    Exit status: 0 for success; 2 for a usage error; 3 if a trace could not be read to its end, or
    the scheduler does not answer; 4 if the dataset or the summary could not be written, or another
    run writes the dataset.
    """,
    (
        (
            "blkiomon archive traces/",
            "print a summary; traces/web1/sda.blktrace.* and so on are those of host web1",
        ),
        (
            "blkiomon archive -o s3://b/a --host '*/{host}.bin.gz' 's3://b/*/*.bin.gz'",
            "read compressed traces in a bucket; web1.bin.gz is that of host web1",
        ),
    ),
)


@parsed(COMMAND)
def main(given: Namespace) -> int:
    """Run ``blkiomon archive`` with these options; returns the exit status."""
    tls, selected = _tls(given), Selection.of(given, device_numbers(given.device))
    names, scheduler = given.operands, given.scheduler
    if given.workers is not None and scheduler is not None:
        raise UsageError("--workers and --scheduler exclude each other: a scheduler has its own")
    maintains = given.prune or given.compact
    if maintains and not given.output:
        raise UsageError("--prune and --compact need a dataset: -o DATASET")
    if not (names or maintains) or not all(names) or any("\0" in name for name in names):
        raise UsageError("no trace is named, or a name is empty: name paths, globs or URLs")
    try:
        from blkiomon.commands.archive.options import ArchiveError, DatasetError, TraceOptions
        from blkiomon.commands.archive.run import run
        from blkiomon.commands.archive.traces import host_pattern
    except ImportError as error:
        complain(_needs(error))
        return EXIT_USAGE
    try:
        host_pattern(given.host)
    except ValueError as error:
        raise UsageError(f"--host: {error}") from None
    if scheduler is not None:
        logging.disable(logging.CRITICAL)  # Dask's: one line reports what went wrong
        if os.geteuid() == 0:
            who = f"who can reach the scheduler at {scheduler}"
            if given.tls_ca_file is not None:
                who = f"with a certificate signed by {given.tls_ca_file}"
            complain(f"running as root: anyone {who} can run programs as root here")
    try:
        summary = run(
            names,
            TraceOptions(
                interval_s=given.interval,
                max_pending=given.max_pending,
                max_age_s=given.max_age,
                resync=given.resync,
                **selected.arguments(),
            ),
            dataset=given.output,
            host=given.host,
            scheduler=scheduler,
            tls=tls,
            workers=given.workers,
            follow_symlinks=given.follow_symlinks,
            prune=given.prune,
            compact=given.compact,
        )
    except ImportError as error:
        complain(_needs(error))
        return EXIT_USAGE
    except ArchiveError as error:
        complain(str(error))
        return EXIT_OUTPUT if isinstance(error, DatasetError) else EXIT_INPUT
    finally:
        logging.disable(logging.NOTSET)
    if not names and not given.json:  # it was only maintained
        for note in summary.notes:
            complain(note)
        return EXIT_OK
    return _show(summary, as_json=given.json, shows_all=given.all)


def _tls(given: Namespace) -> Tls | None:
    """The three files for TLS. Raises UsageError."""
    files = [getattr(given, name.replace("-", "_")) for name in _TLS]
    there = [name for name, file in zip(_TLS, files) if file is not None]
    if there and given.scheduler is None:
        raise UsageError(f"--{there[0]} needs a --scheduler to connect to")
    if there and len(there) < len(_TLS):
        raise UsageError("TLS takes all three of --tls-ca-file, --tls-cert and --tls-key")
    ca_file, cert, key = files
    return (ca_file, cert, key) if there else None


def _needs(error: ImportError) -> str:
    if error.name is None:  # fsspec raises it without a name, but its text names the package
        return str(error)
    extra = "archive" if error.name in ("fsspec", "pyarrow") else "dask"
    return f"archive needs {error.name}: pip install 'blkiomon[{extra}]'"


def _show(summary: Summary, *, as_json: bool, shows_all: bool) -> int:
    for note in summary.notes:
        complain(note)
    for failure in summary.failures:
        got = "no record of it was read"
        if failure.records:
            records = how_many(failure.records, "record", "records")
            intervals = how_many(failure.intervals, "interval", "intervals")
            got = f"{records} and {intervals} of it were read"
        named = "" if failure.trace in failure.error else f"{failure.trace}: "
        complain(f"{named}{failure.error}; {got}")
    if as_json:
        text = json.dumps(summary.to_dict(), allow_nan=False) + "\n"
    else:
        fits = os.isatty(1) and not shows_all
        text = "".join(summary.text(shutil.get_terminal_size() if fits else None))
    status = printed([text])
    return status or (EXIT_INPUT if summary.failures else EXIT_OK)


def summarize(
    sources: str | Iterable[str],
    *,
    interval: float | None = 60.0,
    workers: int | None = None,
    scheduler: str | distributed.Client | None = None,
    dataset: str | None = None,
    host: str | None = None,
    resync: bool = False,
    max_pending: int = 1_000_000,
    max_age_s: float = 600.0,
    show_progress: bool = False,
    devices: DeviceId | Iterable[DeviceId] = (),
    ops: str | Iterable[str] = (),
    from_ns: int | None = None,
    to_ns: int | None = None,
    is_absolute: bool = False,
) -> Summary:
    """The traces of many hosts as one summary.

    Args:
        sources: one or several paths, globs or URLs of fsspec. Each names a file; a set of per-CPU
            files, by its base name or a member; or a directory, for all traces in it.
        interval: length of an interval in seconds, by the records' own time; None: each trace is
            one interval.
        workers: processes of this machine that read traces, 0 for no other than this one; by
            default one for each core.
        scheduler: the address of a Dask scheduler, or a client of one (with TLS, say), whose
            workers read them instead.
        dataset: a directory or URL that the intervals are written to; see ``blkiomon archive``.
            What it has of the same traces, read with the same options, is not read again.
        host: pattern that finds the host in the path of a trace, as "*/traces/{host}/*"; by
            default the folder that holds it.
        resync, max_pending, max_age_s: see ``Monitor``.
        show_progress: on standard error.
        devices, ops, from_ns, to_ns, is_absolute: which requests count, see ``Monitor``. All
            intervals of a dataset have one length and one selection.

    A trace that cannot be read, or not to its end, is one of the summary's ``failures``.

    Raises:
        ImportError: the extra "archive" is not installed, or "dask" where a scheduler is named.
        ValueError: an option is out of range.
        TypeError: an option has a wrong type.
        ArchiveError: the scheduler does not answer, or has no workers; or the dataset cannot be
            written, or another run is writing it.
    """
    try:
        from blkiomon.commands.archive.run import run
    except ImportError as error:
        raise ImportError(_needs(error), name=error.name) from error
    from blkiomon.commands.archive.options import TraceOptions
    from blkiomon.interval.monitor import device_set
    from blkiomon.interval.operations import checked

    options = TraceOptions(
        interval_s=interval,
        max_pending=max_pending,
        max_age_s=max_age_s,
        resync=resync,
        devices=tuple(sorted(device_set(devices))),
        ops=checked(ops),
        from_ns=from_ns,
        to_ns=to_ns,
        is_absolute=is_absolute,
    )
    return run(
        [sources] if isinstance(sources, str) else [str(source) for source in sources],
        options,
        dataset=dataset,
        host=host,
        workers=workers,
        scheduler=scheduler,
        show_progress=show_progress,
    )
