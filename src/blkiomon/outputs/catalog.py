"""The table of outputs: one row for each. A new output is one module and one row of ``OUTPUTS``.

``--help``, the shell completions, the checks of the command line and the ``keep_...`` options of
the engine all follow from the table. Importing it must stay cheap: a row names its function, which
is imported when the output is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal, NamedTuple

ORIGINAL = "Output (several at once; FILE may be - for standard output; default: -h -)"
PERCENTILES = "Output with percentiles, per operation, requests in flight and lost events"
QUEUE = "Output to a SysV message queue, which must exist (all three together)"


Place = Literal["file", "replaced file", "address", "queue"]
"""What the argument of an output names: a file, pipe or ``-`` for standard output, which outputs
may share; a file that is replaced after each interval; a host and a port; a SysV message queue."""

Need = Literal["details", "driver data", "slow requests"]
"""What an output needs besides intervals: unmatched records, records of low-level drivers, or slow
requests."""


class Output(NamedTuple):
    """A row of the table.

    Attributes:
        spec: the option as ``--help`` shows it: ``-h, --human-readable=FILE``.
        help, group: its line and its section in ``--help``.
        opener: path of the function that makes the output. Where the place is a file, it is a
            ``Callable[[FormatOptions], Format]``. Otherwise it makes a ``Sink`` from the
            destination; see ``destinations.open_outputs`` for its arguments.
        place: what the argument names.
        needs: what the engine has to keep for it.
        accepts_directory: the argument may also name a directory, which gets a file per interval.
        is_by_device: it shows figures of devices alone, and no views of ``--by``.
    """

    spec: str
    help: str
    group: str
    opener: str
    place: Place = "file"
    needs: Need | None = None
    accepts_directory: bool = False
    is_by_device: bool = False

    @property
    def name(self) -> str:
        """The long option, and the key in ``OutputSettings.destinations``."""
        return self.spec.partition("=")[0].rpartition("--")[2]

    @property
    def is_original(self) -> bool:
        """Whether the original has this output. A run with no others pairs as the original does."""
        return self.group != PERCENTILES

    def load_opener(self) -> Callable[..., Any]:
        """Import the function that makes this output."""
        module, _, function = self.opener.rpartition(".")
        found: Callable[..., Any] = getattr(import_module(f"blkiomon.{module}"), function)
        return found


OUTPUTS = (
    Output(
        "-h, --human-readable=FILE",
        "statistics as text",
        ORIGINAL,
        "formats.human_text.output_format",
        is_by_device=True,
    ),
    Output(
        "-b, --binary=FILE",
        "statistics as binary structs of blkiomon 0.3",
        ORIGINAL,
        "formats.stats_file.output_format",
        is_by_device=True,
    ),
    Output(
        "-d, --dump-lldd=FILE",
        "records of low-level drivers, unchanged",
        ORIGINAL,
        "formats.driver_data.output_format",
        needs="driver data",
    ),
    Output(
        "-D, --debug=FILE",
        "unmatched records, and totals",
        ORIGINAL,
        "formats.debug.output_format",
        needs="details",
    ),
    Output(
        "--json=FILE",
        "JSON Lines, one line per interval",
        PERCENTILES,
        "formats.json_lines.output_format",
    ),
    Output(
        "--csv=FILE",
        "one row per interval, device and operation",
        PERCENTILES,
        "formats.csv.output_format",
    ),
    Output(
        "--parquet=FILE|DIR/",
        "the same rows; pip install 'blkiomon[arrow]'",
        PERCENTILES,
        "formats.parquet.output_format",
        accepts_directory=True,
    ),
    Output(
        "--slow=MS[:FILE]",
        "requests that take over MS ms or hang; see below",
        PERCENTILES,
        "formats.slow.output_format",
        needs="slow requests",
    ),
    Output(
        "--openmetrics=[HOST:]PORT",
        "serve metrics; pip install 'blkiomon[metrics]'",
        PERCENTILES,
        "outputs.metrics.HttpSink",
        "address",
        is_by_device=True,
    ),
    Output(
        "--textfile=FILE",
        "metrics in FILE; pip install 'blkiomon[metrics]'",
        PERCENTILES,
        "outputs.metrics.TextfileSink",
        "replaced file",
        is_by_device=True,
    ),
    Output(
        "-Q, --msg-queue=PATH",
        "path that names the queue, as for ftok(3)",
        QUEUE,
        "outputs.message_queue.MessageQueueSink",
        "queue",
        is_by_device=True,
    ),
)


class OutputSettings(NamedTuple):
    """The outputs of a run, and what they share.

    Attributes:
        destinations: by the output's name: a path, ``-`` for standard output; for an address, host
            (empty for loopback) and port; for a queue, path, project id and type of the messages.
        stat_version: layout of the original's statistics, "0.3" or "0.2".
        names: print this host's names of devices; None: only of a live trace.
        overwrite: outputs also replace files that begin like a trace.
        follow_symlinks: as root, follow symbolic links that another user may have made.
        verbose: report what an output waits for.
    """

    destinations: Mapping[str, Any]
    stat_version: str = "0.3"
    names: bool | None = None
    overwrite: bool = False
    follow_symlinks: bool = False
    verbose: bool = False

    @property
    def rows(self) -> list[Output]:
        """The rows of the table that have a destination, in the order of the table."""
        return [output for output in OUTPUTS if output.name in self.destinations]

    @property
    def are_original(self) -> bool:
        """Whether the original has all of these outputs."""
        return all(output.is_original for output in self.rows)

    def need(self, what: Need) -> bool:
        """Whether any of these outputs needs this from the engine."""
        return any(output.needs == what for output in self.rows)
