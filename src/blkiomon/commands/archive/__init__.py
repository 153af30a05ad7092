"""``blkiomon archive``: the traces of many hosts, on this machine's cores or a Dask cluster.

What needs a library is imported when it is needed: Dask only with a scheduler.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from blkiomon.console import (
    EXIT_INPUT,
    EXIT_OK,
    EXIT_OUTPUT,
    EXIT_USAGE,
    complain,
    how_many,
    misused,
    printed,
)

if TYPE_CHECKING:
    import distributed

    from blkiomon.commands.archive.options import Tls
    from blkiomon.commands.archive.summary import Summary

USAGE = """\
Usage: blkiomon archive [-I SECONDS] [--host PATTERN] [--workers N] -o DATASET SOURCE...
       blkiomon archive --scheduler ADDRESS [OPTION]... -o DATASET SOURCE...
"""

HELP = f"""\
{USAGE}
Reads the traces of many hosts, as many at a time as there are cores, or workers of a Dask cluster.
Writes intervals as Parquet, partitioned by host and day, and prints a summary with percentiles of
every host, device and operation, and of all hosts together.

  -o, --output=DATASET     a directory, or a URL such as s3://bucket/archive
  -I, --interval=SECONDS   length of an interval (default 60)
      --host=PATTERN       how a path tells the host: '*/traces/{{host}}/*' (default: the folder
                           that holds the trace); * is anything, {{host}} is in one part of a path
      --workers=N          processes of this machine that read traces (default: one for each core;
                           0: no other than this one); they open no port
      --scheduler=ADDRESS  the workers of a running Dask scheduler instead, as tls://10.0.0.1:8786
      --tls-ca-file=FILE   the authority that the scheduler's certificate is of (PEM)
      --tls-cert=FILE      the certificate that the scheduler is shown (PEM)
      --tls-key=FILE       its key (PEM)
      --json               the summary as JSON
      --resync             after garbage go on at the next record, count what is skipped
      --max-pending=N      pending records kept at most (default 1000000): a worker's memory
      --max-age=SECONDS    age of a pending record at most (default 600)
      --follow-symlinks    as root, follow symbolic links that another user may have made
      --help               print this text

A SOURCE is a trace as `blkiomon` takes it, compressed or not; a directory, of which all files of
blktrace count, however deep; a glob, in quotes; or any of these as a URL, as s3://bucket/*/*.bin.

Intervals stand in DATASET/host=HOST/day=YYYY-MM-DD by the UTC day in which they begin, and in
day=unknown where a trace does not tell the time of day. The columns are those of --parquet, and
`interval`, of which from_bytes makes intervals that can be merged.

Call it again after an interruption, or when there are more traces: what is done, and has not
changed since, is not read again. A damaged trace is named, what came before the damage counts, and
the others go on.

Whoever can reach a Dask scheduler can run programs on its workers and on whoever uses it. Protect
it with TLS, and do not use it as root.

Examples:
  blkiomon archive -o archive traces/
        traces/web1/sda.blktrace.* and so on are those of host web1
  blkiomon archive -o s3://b/archive --host '*/{{host}}.bin.gz' --scheduler tls://10.0.0.1:8786 \\
                   --tls-ca-file ca.pem --tls-cert me.pem --tls-key me.key \\
                   's3://b/traces/2026-11-*/*.bin.gz'

Needs pip install 'blkiomon[archive]', and with --scheduler 'blkiomon[dask]', also on the workers,
which must see the same paths.
Exit status: 0; 2 after a usage error; 3 if a trace could not be read to its end, or the scheduler
does not answer; 4 if the dataset or the summary could not be written.
"""


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon archive`` with what stands behind these words; returns the exit status."""
    from blkiomon.commands.cli import UsageError, only, read_options

    try:
        pairs, names = read_options(argv, "o:I:", [*_VALUES, *_FLAGS])
    except UsageError as error:
        return misused(str(error), USAGE)
    given = {_SHORT.get(name, name[2:]): value for name, value in pairs}
    if "help" in given:
        return printed([HELP])
    try:
        only(pairs, "-o", "--output")
        options = _options(given)
        workers = _workers(given)
        tls = _tls(given)
    except UsageError as error:
        return misused(str(error), USAGE)
    if not given.get("output") or "\0" in given["output"]:
        return misused("the dataset's name is missing: -o DATASET", USAGE)
    if not names or not all(names) or any("\0" in name for name in names):
        return misused("which traces? They are named by their paths", USAGE)
    try:
        from blkiomon.commands.archive.options import ArchiveError
        from blkiomon.commands.archive.run import run
        from blkiomon.commands.archive.traces import host_pattern
    except ImportError as error:
        complain(_needs(error))
        return EXIT_USAGE
    try:
        host_pattern(given.get("host"))
    except ValueError as error:
        return misused(f"--host: {error}", USAGE)
    scheduler = given.get("scheduler")
    if scheduler is not None:
        logging.disable(logging.CRITICAL)  # Dask's: what went wrong is told in a line
        if os.geteuid() == 0:
            complain(_warning(scheduler, given.get("tls-ca-file")))
    try:
        summary = run(
            names,
            options,
            dataset=given["output"],
            host=given.get("host"),
            scheduler=scheduler,
            tls=tls,
            **workers,
            follow_symlinks="follow-symlinks" in given,
        )
    except ImportError as error:
        complain(_needs(error))
        return EXIT_USAGE
    except ArchiveError as error:
        complain(str(error))
        return EXIT_INPUT
    finally:
        logging.disable(logging.NOTSET)
    return _show(summary, as_json="json" in given)


_TLS = ("tls-ca-file", "tls-cert", "tls-key")
_VALUES = (
    *("output=", "interval=", "host=", "workers=", "scheduler="),
    *("max-pending=", "max-age=", *(f"{name}=" for name in _TLS)),
)
MOST_WORKERS = 1024
_FLAGS = ("json", "resync", "follow-symlinks", "help")
_SHORT = {"-o": "output", "-I": "interval"}


def _options(given: dict[str, str]) -> Any:
    """Raises UsageError; ImportError never: what is wrong is told before what is missing."""
    from blkiomon.commands.archive.options import Options
    from blkiomon.commands.cli import seconds, whole

    return Options(
        interval_s=seconds(given, "interval", least=0.001, default=60.0),
        max_pending=whole(given, "max-pending", 1, 1 << 32, default=1_000_000),
        max_age_s=seconds(given, "max-age", least=0.0, default=600.0),
        resync="resync" in given,
    )


def _workers(given: dict[str, str]) -> dict[str, Any]:
    """How the work is shared. Raises UsageError."""
    from blkiomon.commands.cli import UsageError, whole

    if "workers" in given and "scheduler" in given:
        raise UsageError("--workers are of this machine, and --scheduler has its own")
    return {
        "workers": whole(given, "workers", 0, MOST_WORKERS) if "workers" in given else None,
    }


def _tls(given: dict[str, str]) -> Tls | None:
    """The files that are named, all of which can be read. Raises UsageError."""
    from blkiomon.commands.cli import UsageError

    there = [name for name in _TLS if name in given]
    if there and "scheduler" not in given:
        raise UsageError(f"--{there[0]} is for the connection to a --scheduler, which is missing")
    if there and len(there) < len(_TLS):
        raise UsageError("TLS takes all three of --tls-ca-file, --tls-cert and --tls-key")
    for name in there:
        try:
            open(given[name], "rb").close()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"--{name}: cannot read {given[name]!r}: {why}") from None
    ca_file, cert, key = map(given.get, _TLS)
    return (ca_file, cert, key) if ca_file and cert and key else None


def _warning(scheduler: str, ca_file: str | None) -> str:
    """What root should know."""
    if ca_file is None:
        who = f"whoever can reach the scheduler at {scheduler}"
    else:
        who = f"whoever has a certificate that {ca_file} vouches for"
    return f"as root: {who} can run programs as root here"


def _needs(error: ImportError) -> str:
    extra = "archive" if error.name in ("fsspec", "pyarrow") else "dask"
    return f"archive needs {error.name}: pip install 'blkiomon[{extra}]'"


def _show(summary: Summary, *, as_json: bool) -> int:
    for note in summary.notes:
        complain(note)
    for failure in summary.failures:
        got = "nothing was got of it"
        if failure.records:
            records = how_many(failure.records, "record", "records")
            intervals = how_many(failure.intervals, "interval", "intervals")
            got = f"{records} and {intervals} were got of it"
        named = "" if failure.trace in failure.error else f"{failure.trace}: "
        complain(f"{named}{failure.error}; {got}")
    if as_json:
        text = json.dumps(summary.to_dict(), allow_nan=False) + "\n"
    else:
        text = "".join(summary.text())
    status = printed([text])
    if any(failure.is_of_dataset for failure in summary.failures):
        return EXIT_OUTPUT
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
) -> Summary:
    """The traces of many hosts as one summary.

    Args:
        sources: paths, globs or URLs of fsspec, or one of them: files, sets of per-CPU files by
            their base name or a member, directories of which all sets count.
        interval: length of an interval in seconds, by the records' own time; None: all is one.
        workers: processes of this machine that read traces, 0 for no other than this one; by
            default one for each core.
        scheduler: the address of a Dask scheduler, or a client of one (with TLS, say), whose
            workers read them instead.
        dataset: a directory or URL that the intervals are written to; see ``blkiomon archive``.
            What it has of the same traces, read with the same options, is not read again.
        host: the pattern by which the path of a trace tells its host, as "*/traces/{host}/*"; by
            default the folder that holds it.
        resync, max_pending, max_age_s: see ``Monitor``.
        show_progress: on standard error.

    A trace that cannot be read, or not to its end, is one of the summary's ``failures``.

    Raises:
        ImportError: the extra "archive" is not installed, or "dask" where a scheduler is named.
        ValueError: an option is out of range.
        ArchiveError: the scheduler does not answer, or has no workers.
    """
    try:
        from blkiomon.commands.archive.run import run
    except ImportError as error:
        raise ImportError(_needs(error), name=error.name) from error
    from blkiomon.commands.archive.options import Options

    options = Options(
        interval_s=interval, max_pending=max_pending, max_age_s=max_age_s, resync=resync
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
