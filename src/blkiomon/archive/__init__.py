"""``blkiomon archive``: the traces of many hosts, on Dask.

Dask is imported when it is needed, and not before.
"""

from __future__ import annotations

import getopt
import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from blkiomon.console import EXIT_FAILURE, complain, misused, printed

if TYPE_CHECKING:
    import distributed

    from blkiomon.archive.summary import Summary

USAGE = """\
Usage: blkiomon archive [-I SECONDS] [--host PATTERN] [--scheduler ADDRESS] -o DATASET SOURCE...
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
      --scheduler=ADDRESS  a running Dask scheduler, as tcp://10.0.0.1:8786; without one, a
                           cluster on this machine's cores for as long as it takes
      --shards=N           share a trace that is larger than an Nth of all among N workers, of
                           which each reads all of it (default 1)
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
`interval`, of which Interval.from_bytes makes intervals that can be merged.

Call it again after an interruption, or when there are more traces: what is done, and has not
changed since, is not read again. A damaged trace is named, what came before the damage counts, and
the others go on.

Examples:
  blkiomon archive -o archive traces/
        traces/web1/sda.blktrace.* and so on are those of host web1
  blkiomon archive -o s3://b/archive --host '*/{{host}}.bin.gz' --scheduler tcp://10.0.0.1:8786 \\
                   's3://b/traces/2026-11-*/*.bin.gz'

Needs pip install 'blkiomon[dask]', also on the workers, which must see the same paths.
Exit status: 0; 1 if there was a trace that could not be read to its end.
"""


def main(argv: Sequence[str]) -> int:
    """Run ``blkiomon archive`` with what stands behind these words; returns the exit status."""
    from blkiomon.cli import UsageError, only, whole

    try:
        pairs, names = getopt.gnu_getopt(list(argv), "o:I:", [*_VALUES, *_FLAGS])
    except getopt.GetoptError as error:
        return misused(error.msg, USAGE)
    given = {_SHORT.get(name, name[2:]): value for name, value in pairs}
    if "help" in given:
        return printed([HELP])
    try:
        only(pairs, "-o", "--output")
        options = _options(given)
        shards = whole(given, "shards", 1, MOST_SHARDS, default=1)
    except UsageError as error:
        return misused(str(error), USAGE)
    if not given.get("output") or "\0" in given["output"]:
        return misused("the dataset's name is missing: -o DATASET", USAGE)
    if not names or not all(names) or any("\0" in name for name in names):
        return misused("which traces? They are named by their paths", USAGE)
    try:
        from blkiomon.archive.run import ArchiveError, run
        from blkiomon.archive.traces import host_pattern
    except ImportError as error:
        complain(_needs(error))
        return EXIT_FAILURE
    try:
        host_pattern(given.get("host"))
    except ValueError as error:
        return misused(f"--host: {error}", USAGE)
    logging.disable(logging.CRITICAL)  # Dask's: what went wrong is told in a line
    try:
        summary = run(
            names,
            options,
            dataset=given["output"],
            host=given.get("host"),
            scheduler=given.get("scheduler"),
            shards=shards,
            follow_symlinks="follow-symlinks" in given,
        )
    except ArchiveError as error:
        complain(str(error))
        return EXIT_FAILURE
    finally:
        logging.disable(logging.NOTSET)
    return _show(summary, as_json="json" in given)


_VALUES = (
    *("output=", "interval=", "host=", "scheduler=", "shards="),
    *("max-pending=", "max-age="),
)
MOST_SHARDS = 1024  # the engine's limit
_FLAGS = ("json", "resync", "follow-symlinks", "help")
_SHORT = {"-o": "output", "-I": "interval"}


def _options(given: dict[str, str]) -> Any:
    """Raises UsageError; ImportError never: what is wrong is told before what is missing."""
    from blkiomon.archive.options import Options
    from blkiomon.cli import seconds, whole

    return Options(
        interval_s=seconds(given, "interval", least=0.001, default=60.0),
        max_pending=whole(given, "max-pending", 1, 1 << 32, default=1_000_000),
        max_age_s=seconds(given, "max-age", least=0.0, default=600.0),
        resync="resync" in given,
    )


def _needs(error: ImportError) -> str:
    return f"archive needs {error.name}: pip install 'blkiomon[dask]'"


def _show(summary: Summary, *, as_json: bool) -> int:
    for note in summary.notes:
        complain(note)
    for failure in summary.failures:
        got = "nothing was got of it"
        if failure.records:
            got = f"{failure.records} records and {failure.intervals} intervals were got of it"
        named = "" if failure.trace in failure.error else f"{failure.trace}: "
        complain(f"{named}{failure.error}; {got}")
    if as_json:
        status = printed([json.dumps(summary.to_dict(), allow_nan=False) + "\n"])
    else:
        status = printed(["".join(summary.text())])
    return EXIT_FAILURE if summary.failures else status


def summarize(
    sources: str | Iterable[str],
    *,
    interval: float | None = 60.0,
    scheduler: str | distributed.Client | None = None,
    shards: int = 1,
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
        scheduler: the address of a Dask scheduler, or a client of one; without, a cluster on this
            machine's cores for as long as it takes.
        shards: a trace that is larger than so great a part of all is shared among so many workers:
            each reads and pairs all of it, and accounts its shard of the keys.
        dataset: a directory or URL that the intervals are written to; see ``blkiomon archive``.
            What it has of the same traces, read with the same options, is not read again.
        host: the pattern by which the path of a trace tells its host, as "*/traces/{host}/*"; by
            default the folder that holds it.
        resync, max_pending, max_age_s: see ``Monitor``.
        show_progress: on standard error.

    A trace that cannot be read, or not to its end, is one of the summary's ``failures``.

    Raises:
        ImportError: the extra "dask" is not installed.
        ValueError: an option is out of range.
        ArchiveError: there is no scheduler.
    """
    try:
        from blkiomon.archive.run import run
    except ImportError as error:
        raise ImportError(_needs(error), name=error.name) from error
    from blkiomon.archive.options import Options

    options = Options(
        interval_s=interval, max_pending=max_pending, max_age_s=max_age_s, resync=resync
    )
    return run(
        [sources] if isinstance(sources, str) else [str(source) for source in sources],
        options,
        dataset=dataset,
        host=host,
        scheduler=scheduler,
        shards=shards,
        show_progress=show_progress,
    )
