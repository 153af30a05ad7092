"""What the command line asks for, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from blkiomon.commands.privileges import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run of the monitor. Paths are as the user gave them; ``-`` is standard output.

    ``files``: the trace; none, or ``-`` alone, is standard input.
    ``trace``: devices to trace instead; ``capture``: with "blktrace", "tracefs" or "auto".
    ``clock``: "trace", "wall" or "auto", which is the first for files and the second for pipes.
    ``from_ns``, ``to_ns``: ns since 1970 if ``is_absolute``, else since the first record.
    ``devices``: major << 20 | minor of those that count, all if there are none.
    ``openmetrics``: host, empty for loopback, and port to serve metrics on.
    ``user``: whom to become before anything is read.
    ``follow_symlinks``: as root, also follow links that another user may have made.
    ``overwrite``: outputs also replace files that begin like a trace.
    ``names``: show what this host calls the devices; None: unless the trace may be of another one.
    ``screen``: show what happens on the terminal; ``speed``: where that is a recorded trace, so
    many times as fast as it was recorded; 0: as fast as it can be read.
    ``is_original``: only options of the original are given: what it keeps silent about, so do we.
    """

    interval_s: float
    files: tuple[str, ...] = ()
    trace: tuple[str, ...] = ()
    capture: str = "auto"
    clock: str = "auto"
    from_ns: int | None = None
    to_ns: int | None = None
    is_absolute: bool = False
    devices: tuple[int, ...] = ()
    threads: int = 1
    human: str | None = None
    binary: str | None = None
    driver: str | None = None
    debug: str | None = None
    json: str | None = None
    csv: str | None = None
    parquet: str | None = None
    openmetrics: tuple[str, int] | None = None
    textfile: str | None = None
    follow_symlinks: bool = False
    overwrite: bool = False
    user: User | None = None
    names: bool | None = None
    screen: bool = False
    speed: float = 1.0
    queue_path: str | None = None
    queue_id: int | None = None
    queue_message_type: int | None = None
    stat_version: str = "0.3"
    final: bool = True
    max_pending: int = 1_000_000
    max_age_s: float = 600.0
    max_devices: int = 65_536
    resync: bool = False
    verbose: bool = False
    is_original: bool = False

    @property
    def is_drop_in(self) -> bool:
        """Whether nothing is asked for but what the original can tell."""
        return not self.screen and all(
            output is None
            for output in (self.json, self.csv, self.parquet, self.openmetrics, self.textfile)
        )
