"""What the command line asks for, as one value."""

from __future__ import annotations

from typing import NamedTuple

from blkiomon.commands.options import Selection
from blkiomon.commands.privileges import User
from blkiomon.outputs.catalog import OutputSettings

ALL_REQUESTS = Selection()
NO_AGE_LIMIT_S = 18_446_744_073.0
"""The greatest age that the engine can have: 2^64 ns, 584 years."""

NO_OUTPUTS = OutputSettings({})


class Config(NamedTuple):
    """One run of the monitor.

    Attributes:
        interval_s: length of an interval.
        files: paths of the trace, as the user gave them; none, or ``-`` alone, is standard input.
        trace: devices to capture instead; "all" alone: all disks and volumes.
        queue: also capture when requests are queued.
        clock: what ends an interval: "trace", "wall", or "auto": "trace" for files, "wall" for
            pipes, unless ``recorded`` finds that the trace in a pipe was recorded.
        selection: which requests count.
        outputs: where the statistics go.
        slow_ns, slow_percent: the threshold of ``--slow``, in ns or as a percentile; one is None.
        slow_limit: most slow requests in a second.
        user: the user to become before anything is read.
        most_intervals: end after this many; None: at the end of the trace.
        screen: draw on the terminal.
        speed: of the screen for a recorded trace, relative to the recording; 0: as fast as it can
            be read.
        final: also deliver the last, partial interval.
        max_pending, max_age_s, max_devices, resync: as for ``Monitor``.
        by: what figures are added up by, one of ``interval.views.BY``.
        topology: file with the topology of the traced host; None: the one beside the trace, or that
            of this host.
        is_original: only the original's options are given; be silent where the original is.
    """

    interval_s: float
    files: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    queue: bool = False
    clock: str = "auto"
    selection: Selection = ALL_REQUESTS
    outputs: OutputSettings = NO_OUTPUTS
    slow_ns: int | None = None
    slow_percent: float | None = None
    slow_limit: int = 100
    user: User | None = None
    most_intervals: int | None = None
    screen: bool = False
    speed: float = 1.0
    final: bool = True
    max_pending: int = 1_000_000
    max_age_s: float = 600.0
    max_devices: int = 65_536
    resync: bool = False
    by: str = "device"
    topology: str | None = None
    is_original: bool = False

    @property
    def reads_standard_input(self) -> bool:
        """Whether the input is standard input, unless devices are captured."""
        return self.files in ((), ("-",))

    @property
    def input_name(self) -> str:
        """What messages call the input."""
        if self.trace:
            return "the live trace"
        return "standard input" if self.reads_standard_input else self.files[0]

    @property
    def keeps_slow(self) -> bool:
        """Whether slow requests are kept, for an output or for the screen."""
        return self.screen or self.outputs.need("slow requests")

    @property
    def asks_for_topology(self) -> bool:
        """Whether an option names a topology, or a view that needs one."""
        return self.by != "device" or self.topology is not None

    @property
    def is_drop_in(self) -> bool:
        """Whether the original has all outputs of this run."""
        return not self.is_watched and self.outputs.are_original

    @property
    def is_watched(self) -> bool:
        """Whether a person watches, on the screen of ``top`` or the lines of ``stat``."""
        return self.screen or not self.outputs.destinations
