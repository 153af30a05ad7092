"""Capture: the requests of this host's block devices, as trace records, by perf events.

Perf events on the kernel's block tracepoints change nothing on the host: other captures and
blktrace go on beside this one, and nothing is left when the process ends, however it ends. See
``perf.pyx`` for the rings; this file chooses the tracepoints, their filters and the devices, and
follows CPUs and devices that come and go.

Disks whose driver has a request queue are captured by their requests: issue, completion, requeue.
Devices without one (LVM and other device-mapper targets, md, NVMe multipath heads, zram) have no
requests of their own: they are captured by their bios, from the queue to the completion.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import select
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

from blkiomon.errors import SourceError
from blkiomon.sources.devices import HiddenPaths, kernel_name
from blkiomon.sources.perf import MAX_SETS_OF_FILTERS, PerfRings

Report = Callable[[str], None]

RING_BYTES = 1 << 22
"""Memory of a CPU's ring: about 26,000 requests."""

RINGS_BYTES = 1 << 28
"""Limit of the memory of all rings together."""

LEAST_RING_BYTES = 1 << 15
"""The smallest ring that is tried: without CAP_IPC_LOCK, the kernel allows little memory."""

ALL = "all"
"""In place of a name: all disks."""

POLL_S = 0.1
"""Time between two reads of all rings. The kernel reports only a ring that is a quarter full."""

REFRESH_S = 2.0
"""Time between two checks for CPUs and devices that came or went."""

MOST_FILTER = 4095
"""Longest filter that the kernel accepts, in characters."""

NO_DEVICE = "dev == 0"
"""A filter that no event passes."""

SEPARATOR = " || "

# Event and category of the record that a sample becomes. The queue event of a bio counts as issue.
_ISSUE, _COMPLETE, _REQUEUE, _QUEUE = (7, 1 << 6), (8, 1 << 7), (6, 1 << 5), (1, 1 << 4)
_REQUEST_EVENTS = {
    "block_rq_issue": _ISSUE,
    "block_rq_complete": _COMPLETE,
    "block_rq_requeue": _REQUEUE,
}
_BIO_EVENTS = {"block_bio_queue": _ISSUE, "block_bio_complete": _COMPLETE}
_QUEUE_EVENTS = ("block_io_start", "block_getrq")
"""Either says when a request was queued; Linux before 6.4 lacks the first one."""


@dataclass(frozen=True, slots=True)
class CapturedDevice:
    """A block device of this host.

    Attributes:
        name: the kernel's, as sysfs writes it.
        number: of the disk, major << 20 | minor.
        has_requests: its driver has a request queue.
        sectors: of a partition: its first sector, and the one after its last; else None.
        paths: numbers of its hidden paths, if it is the head of NVMe multipath. The kernel queues
            bios for the head and completes them for the path that it chose.
        is_zoned: it has zones, as SMR disks have.
    """

    name: str
    number: int
    has_requests: bool
    sectors: tuple[int, int] | None = None
    paths: tuple[int, ...] = ()
    is_zoned: bool = False

    def terms(self, event: dict[str, Any], others: Sequence[CapturedDevice] = ()) -> list[str]:
        """The terms of a tracepoint's filter that pass the samples of this device.

        Args:
            event: the tracepoint, as ``event_format`` describes it.
            others: devices of the same disk, whose samples other terms already pass.
        """
        if event["is_bio"] == self.has_requests:
            return []
        terms = []
        if all(other.sectors not in (None, self.sectors) for other in others):
            parts = [f"dev == {self.number}"]
            if self.sectors is not None:
                parts += [f"sector >= {self.sectors[0]}", f"sector < {self.sectors[1]}"]
            taken = [other.sectors for other in others if other.sectors is not None]
            parts += [f"(sector < {first} || sector >= {end})" for first, end in taken]
            terms.append(parts[0] if len(parts) == 1 else f"({' && '.join(parts)})")
        if event["action"] == _COMPLETE[0]:
            known = {path for other in others for path in other.paths}
            terms += [f"dev == {path}" for path in self.paths if path not in known]
        return terms


@dataclass(frozen=True, slots=True)
class Addition:
    """Devices that are captured from one time on, by filters of their own.

    Attributes:
        devices: in any order.
        sets: their sets of filters for ``PerfRings``, by number: a filter for each event.
    """

    devices: tuple[CapturedDevice, ...]
    sets: dict[int, list[bytes]]


def find_device(name: str, root: Path = Path("/")) -> CapturedDevice:
    """Find a device by its name, or the path of its device file or of a link to it.

    Args:
        name: such as ``sda``, ``mpatha``, ``/dev/mapper/data`` or ``/dev/disk/by-id/...``.
        root: where ``sys`` is.

    Raises:
        SourceError: this host has no such block device.
    """
    if "/" in name:
        try:
            status = Path(name).stat()
        except OSError as error:
            raise SourceError(f"cannot capture {name}: {error.strerror}") from error
        if not stat.S_ISBLK(status.st_mode):
            raise SourceError(f"cannot capture {name}: not a block device")
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        link = root / "sys/dev/block" / number
    else:
        devices = root / "sys/class/block"
        link = devices / kernel_name(name, devices)
    try:
        is_there = name not in (".", "..") and link.exists()
    except (OSError, ValueError):  # a name that no file can have
        is_there = False
    if not is_there:
        raise SourceError(f"cannot capture {name}: this host has no such block device")
    path = link.resolve()
    is_partition = (path / "partition").exists()
    try:
        disk = _device(path.parent if is_partition else path, HiddenPaths(root))
    except OSError as error:
        raise SourceError(f"cannot capture {name}: {error.strerror}") from error
    if not is_partition:
        return disk
    first = _number_in(path / "start")
    end = first + _number_in(path / "size")
    return replace(disk, name=path.name, sectors=(first, end))


def all_disks(root: Path = Path("/")) -> list[CapturedDevice]:
    """The host's disks and the devices made of them, without partitions, loop devices and RAM."""
    disks = []
    hidden = HiddenPaths(root)
    for path in sorted((root / "sys/block").glob("*")):
        is_made_of_others = any((path / kind).exists() for kind in ("dm", "md"))
        is_hardware = (path / "device").exists()
        is_hidden = _number_in(path / "hidden")  # a path of NVMe multipath: its head is captured
        if (is_hardware or is_made_of_others) and _number_in(path / "size") and not is_hidden:
            with contextlib.suppress(OSError):  # it went a moment ago
                disks.append(_device(path, hidden))
    return disks


def _device(path: Path, hidden: HiddenPaths) -> CapturedDevice:
    """The disk of a directory in sysfs. Raises OSError."""
    number = hidden.numbers.get(path.name)
    if number is None:
        major, _, minor = (path / "dev").read_text().partition(":")
        number = int(major) << 20 | int(minor)
    has_requests = (path / "mq").exists()
    paths = () if has_requests else hidden.of_head.get(path.name, ())
    try:
        is_zoned = (path / "queue/zoned").read_text().strip() != "none"
    except OSError:  # Linux before 4.10, or it went a moment ago
        is_zoned = False
    return CapturedDevice(path.name, number, has_requests, paths=paths, is_zoned=is_zoned)


def _number_in(path: Path) -> int:
    """The number in a file of sysfs; 0 if it cannot be read."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def numbers_of(names: Sequence[str]) -> list[int]:
    """Numbers of the devices of these names, see ``Capture``. Raises SourceError."""
    found = all_disks() if ALL in names else []
    found += [find_device(name) for name in names if name != ALL]
    return list(dict.fromkeys(device.number for device in found))


def filters_of(terms: Iterable[str]) -> list[str]:
    """Join terms to filters, as few as the kernel's limit of their length allows."""
    filters = [""]
    for term in dict.fromkeys(terms):
        if len(filters[-1]) + len(SEPARATOR + term) > MOST_FILTER:
            filters.append("")
        filters[-1] += SEPARATOR * bool(filters[-1]) + term
    return [text or NO_DEVICE for text in filters]


class Capture:
    """A running capture; a source of trace records for the engine.

    Args:
        names: of devices, see ``find_device``; ``ALL``: all disks, later ones too.
        report: prints one line for the user.
        queue: also capture when requests are queued.
        ring_bytes: memory for the samples of one CPU.
        root: where ``sys`` and ``proc`` are.

    Attributes:
        fd: readable when a ring is a quarter full; call ``pieces`` every ``POLL_S`` anyway.
        begun_ns: monotonic time of its start.

    Raises:
        SourceError: it cannot be started.
    """

    name = "the capture"

    def __init__(
        self,
        names: Sequence[str],
        report: Report,
        *,
        queue: bool = False,
        ring_bytes: int = RING_BYTES,
        root: Path = Path("/"),
    ) -> None:
        self._has_all = ALL in names
        self._names = tuple(name for name in names if name != ALL)
        self._report = report
        self._root = root
        self._missing: set[str] = set()
        self._devices = self._find_devices(is_first=True)
        tracefs = find_tracefs(root)
        self._events = self._formats(tracefs, queue)
        self._additions: list[Addition] = []
        self._additions.append(self._addition(self._devices))
        self._failed: set[CapturedDevice] = set()  # could not be added, and are tried again
        self._epoll = select.epoll()
        self._has_stopped = False
        self._cpu_fds: dict[int, int] = {}  # -1: it cannot be captured
        self._is_blind = False  # changes of CPUs and devices cannot be read
        _allow_all_descriptors()
        try:
            self._rings = self._open_rings(ring_bytes)
        except BaseException:
            self._epoll.close()
            raise
        self._describe_devices()
        self._refreshed_s = time.monotonic()
        self.begun_ns = time.monotonic_ns()
        self._rings.enable()

    @property
    def fd(self) -> int:
        return self._epoll.fileno()

    @property
    def device_numbers(self) -> list[int]:
        """The devices that were there at the start."""
        return [device.number for device in self._devices]

    @property
    def lost_events(self) -> int:
        """Events that the kernel counted and that ``pieces`` never yielded."""
        return self._rings.lost_events

    def pieces(self) -> Iterator[memoryview]:
        """Yield the trace records that are ready, piece by piece, each valid until the next.

        It yields at least one piece, which may be empty. What is captured meanwhile is left for the
        next call, so that this one ends however slowly the pieces are taken.
        """
        now_ns = time.monotonic_ns()
        while True:
            yield self._rings.read(None if self._has_stopped else now_ns)
            if not self._rings.has_more:
                break
        for fd, events in self._epoll.poll(0):
            if events & select.EPOLLHUP:  # its CPU went offline: it would wake the caller at once
                self._epoll.unregister(fd)
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= REFRESH_S and not self._has_stopped:
            self._refreshed_s = now_s
            self._refresh()

    def repeat_notes(self) -> None:
        """Begin the next piece with the notify records: the time of day and all process names."""
        self._rings.repeat_notes()

    def stop(self) -> None:
        """End the capture; ``pieces`` yields the records that were captured before."""
        self._rings.enable(False)
        self._has_stopped = True

    def close(self) -> None:
        self._epoll.close()
        self._rings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- devices --------------------------------------------------------------------------------

    def _find_devices(self, *, is_first: bool = False) -> tuple[CapturedDevice, ...]:
        """The wanted devices that exist. The first time, a missing one raises SourceError."""
        disks = all_disks(self._root) if self._has_all else []
        numbers = {disk.number for disk in disks}
        found = {disk.name: disk for disk in disks}
        for name in self._names:
            try:
                device = find_device(name, self._root)
            except SourceError:
                if is_first:
                    raise
                if name not in self._missing:
                    self._report(f"{name} has gone; it is captured again when it comes back")
                self._missing.add(name)
                continue
            if name in self._missing:
                self._missing.remove(name)
                self._report(f"{name} is back")
            if device.number not in numbers:  # else it is one of all disks, or a partition of one
                found[device.name] = device
        return tuple(found.values())

    @property
    def _captured(self) -> list[CapturedDevice]:
        """The devices whose samples pass the filters, including those that are gone."""
        return [device for addition in self._additions for device in addition.devices]

    def _addition(self, devices: Sequence[CapturedDevice]) -> Addition:
        """Devices to be captured, by filters that pass no sample that passes already."""
        of_disk: dict[int, list[CapturedDevice]] = {}
        for device in self._captured:
            of_disk.setdefault(device.number, []).append(device)
        terms: list[list[str]] = [[] for _ in self._events]
        for device in sorted(devices, key=lambda device: device.sectors is not None):
            others = of_disk.setdefault(device.number, [])
            for event, of_event in zip(self._events, terms):
                of_event += device.terms(event, others)
            others.append(device)
        if self._additions and not any(terms):
            return Addition(tuple(devices), {})
        used = {number for addition in self._additions for number in addition.sets}
        free = (number for number in range(MAX_SETS_OF_FILTERS) if number not in used)
        texts = list(zip_longest(*map(filters_of, terms), fillvalue=NO_DEVICE))
        sets = dict(zip(free, ([text.encode() for text in of_set] for of_set in texts)))
        if len(sets) < len(texts):
            raise OSError(errno.EMFILE, "too many sets of filters")
        return Addition(tuple(devices), sets)

    def _describe_devices(self) -> None:
        """Tell the rings what they have to know of the captured devices."""
        self._rings.set_heads(
            {path: device.number for device in self._captured for path in device.paths}
        )
        self._rings.set_zoned({device.number for device in self._captured if device.is_zoned})

    # --- tracepoints ----------------------------------------------------------------------------

    def _formats(self, tracefs: Path, queue: bool) -> list[dict[str, Any]]:
        """The descriptions, for ``PerfRings``, of the tracepoints that the devices need."""
        wants_requests = self._has_all or any(d.has_requests for d in self._devices)
        wants_bios = self._has_all or not all(d.has_requests for d in self._devices)
        events: list[tuple[str, tuple[int, int], bool]] = []
        if wants_requests:
            events += [(name, kind, False) for name, kind in _REQUEST_EVENTS.items()]
            if queue:
                there = [e for e in _QUEUE_EVENTS if (tracefs / "events/block" / e).exists()]
                events += [(name, _QUEUE, False) for name in there[:1]]
        if wants_bios:
            events += [(name, kind, True) for name, kind in _BIO_EVENTS.items()]
        return [
            event_format(
                read_format(tracefs, name), action=action, category=category, is_bio=is_bio
            )
            for name, (action, category), is_bio in events
        ]

    # --- CPUs -----------------------------------------------------------------------------------

    def _open_rings(self, ring_bytes: int) -> PerfRings:
        """Open the rings of all CPUs, as large as the kernel allows."""
        cpus = _cpus(self._root, "online")
        while ring_bytes > LEAST_RING_BYTES and ring_bytes * len(cpus) > RINGS_BYTES:
            ring_bytes //= 2
        n_possible = len(_cpus(self._root, "possible"))
        while True:
            rings = PerfRings(self._events, ring_bytes, n_possible)
            try:
                for cpu in cpus:
                    self._open_cpu(rings, cpu)
            except OSError as error:
                rings.close()
                self._cpu_fds.clear()
                is_memory = "mmap" in str(error) and error.errno in (errno.EPERM, errno.ENOMEM)
                if is_memory and ring_bytes > LEAST_RING_BYTES:
                    ring_bytes //= 2
                    continue
                raise SourceError(self._why(error)) from error
            return rings

    def _open_cpu(self, rings: PerfRings, cpu: int) -> bool:
        """Open the events of a CPU. False: it went offline a moment ago. Raises OSError."""
        try:
            sets = {number: filters for a in self._additions for number, filters in a.sets.items()}
            fd = rings.open(cpu, sets)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            raise
        self._cpu_fds[cpu] = fd
        self._epoll.register(fd, select.EPOLLIN)
        return True

    def _refresh(self) -> None:
        """Follow CPUs and devices that came or went since the last call."""
        try:
            self._follow_cpus()
            self._follow_devices()
        except OSError as error:
            if not self._is_blind:
                self._report(f"CPUs and devices that come are not captured: {error.strerror}")
            self._is_blind = True

    def _follow_cpus(self) -> None:
        online = _cpus(self._root, "online")
        # A CPU may have been offline for a moment, as all but one are while the host is suspended.
        stopped = self._rings.stopped_cpus()
        for cpu in sorted(self._cpu_fds.keys() - online | self._cpu_fds.keys() & set(stopped)):
            del self._cpu_fds[cpu]  # closing its ring takes it out of epoll
            self._rings.close_cpu(cpu)
        for cpu in sorted(online - self._cpu_fds.keys()):
            try:
                if not self._open_cpu(self._rings, cpu):
                    continue
            except OSError as error:
                self._cpu_fds[cpu] = -1
                self._report(f"CPU {cpu} came online and is not captured: {error.strerror}")
                continue
            self._report(
                f"CPU {cpu} came online: its events of the last {REFRESH_S:g} s were not captured"
            )
            self._rings.enable()

    def _follow_devices(self) -> None:
        wanted = self._find_devices()
        numbers = {device.number for device in wanted}
        for addition in self._additions[1:]:  # the first one has the rings
            if numbers.isdisjoint(device.number for device in addition.devices):
                for number in addition.sets:
                    self._rings.remove(number)
                self._additions.remove(addition)
        # The kernel may give a number to another device, which is not wanted.
        self._rings.ignore({device.number for device in self._captured} - numbers)
        captured = set(self._captured)
        if added := [device for device in wanted if device not in captured]:
            self._add(added)

    def _add(self, devices: Sequence[CapturedDevice]) -> None:
        """Capture more devices; reports if that fails."""
        begun: list[int] = []
        try:
            addition = self._addition(devices)
            for number, filters in addition.sets.items():
                self._rings.add(number, filters)
                begun.append(number)
        except OSError as error:
            for number in begun:
                self._rings.remove(number)
            if new := [device.name for device in devices if device not in self._failed]:
                self._report(f"{', '.join(new)} cannot be captured: {error.strerror}")
            self._failed.update(devices)
            return
        self._additions.append(addition)
        self._describe_devices()

    # --- errors ---------------------------------------------------------------------------------

    def _why(self, error: OSError) -> str:
        """Why the kernel refuses perf events, and what to do."""
        if error.errno in (errno.EACCES, errno.EPERM):
            level = _number_in(self._root / "proc/sys/kernel/perf_event_paranoid")
            hint = ": above 2, Debian and Ubuntu want CAP_SYS_ADMIN" * (level > 2)
            why = f"needs root, or {CAPABILITIES} (kernel.perf_event_paranoid is {level}{hint})"
        elif error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            why = "the kernel has no perf events (CONFIG_PERF_EVENTS)"
        else:
            why = str(error.strerror)
        return _refusal(why, self._root)


CAPABILITIES = "CAP_PERFMON and CAP_DAC_READ_SEARCH"
LOCKED_DOWN = (
    "the kernel is locked down (confidentiality), which refuses all tracing; boot it with "
    "lockdown=integrity"
)
PIPE = "instead, pipe blktrace: blktrace -d DEVICE -o - | blkiomon -I 1 -"


def _refusal(why: str, root: Path = Path("/")) -> str:
    """A message that this host cannot be captured, and what to do: lockdown refuses blktrace."""
    return f"cannot capture: {why}" + f"; {PIPE}" * (lockdown(root) is None)


def find_tracefs(root: Path = Path("/")) -> Path:
    """The directory of tracefs.

    Raises:
        SourceError: it is not mounted, or cannot be read.
    """
    for name in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        try:
            if (root / name / "events").is_dir():
                return root / name
        except PermissionError:
            break
    else:
        why = "tracefs is not mounted: mount -t tracefs tracefs /sys/kernel/tracing"
        if lockdown(root) == "confidentiality":  # which hides the files of tracefs
            why = LOCKED_DOWN
        raise SourceError(_refusal(why, root))
    raise SourceError(_refusal(f"reading /{name} needs root, or {CAPABILITIES}", root))


def read_format(tracefs: Path, event: str) -> str:
    """The kernel's description of a tracepoint.

    Raises:
        SourceError: the kernel has no such tracepoint, or it cannot be read.
    """
    try:
        return (tracefs / "events/block" / event / "format").read_text()
    except PermissionError as error:
        why = f"reading {tracefs} needs root, or {CAPABILITIES}"
        raise SourceError(_refusal(why)) from error
    except OSError as error:
        raise SourceError(_refusal(f"the kernel has no tracepoint block:{event}")) from error


_FIELD = re.compile(r"\bfield:[^;]*?(\w+)(?:\[[^]]*\])?;\s*offset:(\d+);\s*size:(\d+);")


def event_format(text: str, *, action: int, category: int, is_bio: bool) -> dict[str, Any]:
    """Where the fields of a tracepoint's samples are, for ``PerfRings``.

    Args:
        text: the tracepoint's ``format`` file.
        action, category: of the records that its samples become.
        is_bio: its samples are of bios.

    Raises:
        SourceError: a field that every kernel has is missing.
    """
    fields = {name: (int(offset), int(size)) for name, offset, size in _FIELD.findall(text)}
    number = re.search(r"^ID: (\d+)", text, re.MULTILINE)
    missing = [name for name in ("dev", "sector", "nr_sector", "rwbs") if name not in fields]
    if missing or number is None or fields.get("common_pid") != (4, 4):
        name = re.search(r"^name: (\w+)", text, re.MULTILINE)
        what = f"lacks {', '.join(missing)}" if missing else "has an unknown format"
        raise SourceError(_refusal(f"the tracepoint {name[1] if name else ''} {what}"))
    at = {name: offset for name, (offset, _) in fields.items()}
    return {
        "id": int(number[1]),
        "action": action,
        "category": category,
        "is_bio": is_bio,
        **{
            name: at.get(name, -1)
            for name in ("dev", "sector", "nr_sector", "bytes", "rwbs", "comm")
        },
        "error": at.get("error", at.get("errors", -1)),
        "rwbs_bytes": fields["rwbs"][1],
    }


def _allow_all_descriptors() -> None:
    """Raise this process's limit of descriptors as far as it may be: each CPU needs several."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _cpus(root: Path, which: str) -> set[int]:
    """The CPUs that are ``online``, or ``possible``: those that may still be added, too."""
    cpus: set[int] = set()
    text = (root / "sys/devices/system/cpu" / which).read_text()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def lockdown(root: Path = Path("/")) -> str | None:
    """How far the kernel is locked down: "integrity" or "confidentiality"; None: it is not."""
    try:
        text = (root / "sys/kernel/security/lockdown").read_text()
    except OSError:
        return None
    mode = text.partition("[")[2].partition("]")[0]
    return mode if mode not in ("", "none") else None
