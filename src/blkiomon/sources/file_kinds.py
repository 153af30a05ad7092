"""Recognise a file by its first bytes; if it is not a trace, suggest what to do."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from blkiomon.engine.constants import D2C_BUCKETS, SIZE_BUCKETS
from blkiomon.errors import TraceError

HEAD_BYTES = 1 << 12
"""How many bytes of a file decide its kind."""


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        matches: whether a file that begins with these bytes is of this kind.
        what: what the file is; follows its name in a message.
        use: what the user can do with it; ``{name}`` is replaced by the file's name.
    """

    matches: Callable[[bytes], bool]
    what: str
    use: str


class WrongKindError(TraceError):
    """A file is of a known kind, other than a trace."""

    def __init__(self, file: str, what: str, use: str) -> None:
        super().__init__(0, what, "a block trace", file)
        self.use = use

    def __str__(self) -> str:
        return f"{self.file} {self.found}: {self.use}"

    def __reduce__(self) -> tuple[type[WrongKindError], tuple[str, str, str]]:  # type: ignore[override]
        assert self.file is not None
        return type(self), (self.file, self.found, self.use)


def _kind_of(head: bytes) -> Kind | None:
    return next((kind for kind in _KINDS if kind.matches(head)), None)


def _error(kind: Kind, name: str) -> WrongKindError:
    path = "FILE" if name in ("standard input", "-") else name
    return WrongKindError(name, kind.what, kind.use.format(name=path))


def described(head: bytes, name: str) -> str | None:
    """A message about a file that is not what was expected; None if its kind is unknown."""
    kind = _kind_of(head)
    return kind and str(_error(kind, name))


def begins_like_trace(head: bytes) -> bool:
    """Whether a file is a trace, by its first bytes."""
    return _TRACE.matches(head)


def begins_like_topology(head: bytes) -> bool:
    """Whether a file is the topology of a trace, by its first bytes."""
    return _TOPOLOGY.matches(head)


def check_trace(head: bytes, name: str) -> None:
    """Check a file before its bytes are decoded as records.

    Raises:
        WrongKindError: the file is of a known kind, other than a trace.
    """
    kind = _kind_of(head)
    if kind is not None and kind is not _TRACE:
        raise _error(kind, name)


def _matches(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.S)
    return lambda head: compiled.match(head) is not None


def _is_stats(head: bytes) -> bool:
    """Whether a struct written with -b comes first: its two histograms have equal totals."""
    if len(head) < _STATS.size:
        return False
    time_s, *counts = _STATS.unpack_from(head)
    is_plausible_time = time_s < 1 << 36  # seconds since 1970
    return bool(is_plausible_time and 0 < sum(counts[:SIZE_BUCKETS]) == sum(counts[SIZE_BUCKETS:]))


_STATS = struct.Struct(f">Q{SIZE_BUCKETS}I{D2C_BUCKETS}I")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the head ends inside a character
            return False
        text = head[: error.start].decode()
    return len(text) > 3 and all(c.isprintable() or c in "\t\n\r\f" for c in text)


_TRACE = Kind(
    _matches(rb"[\x07\x08]tae|eat[\x07\x08]|CPU:\d*( |\Z)"),
    "is a block trace",
    "use `blkiomon {name}`",
)
_TOPOLOGY = Kind(
    _matches(rb'\s*\{\s*"format":\s*"blkiomon-topology"'),
    "holds a topology",
    "use it with a trace, as in `blkiomon --topology {name} TRACE`",
)
_UNPACK = "unpack it first, as in `{} {{name}} | blkiomon ... -`"
_ONLY_TRACES = "blkiomon reads traces of blktrace only"
_KINDS = (
    _TRACE,
    _TOPOLOGY,
    Kind(_matches(rb'\s*\{"schema":'), "holds intervals in JSON", "use `blkiomon report {name}`"),
    Kind(_is_stats, "holds statistics written with -b", "use `blkiomon decode {name}`"),
    Kind(
        _matches(rb"\s*\d+,\d+\s+\d+\s+\d+\s+\d+\.\d+\s+\d+\s+[A-Z]+\s"),
        "is text printed by blkparse",
        "use the trace that blkparse read, or a file written with `blkparse -d FILE`",
    ),
    Kind(
        _matches(rb"\s*time: [^\n]*\ndevice: \d+,\d+\n"),
        "is text written with -h",
        "run with --json instead: `blkiomon report` reads that",
    ),
    Kind(
        _matches(b"start_ns,end_ns,"),
        "holds intervals in CSV",
        "open it in a spreadsheet; `blkiomon report` reads what --json writes",
    ),
    Kind(
        _matches(b"PAR1"),
        "holds Parquet",
        "open it in pandas, polars or DuckDB; `blkiomon report` reads what --json writes",
    ),
    Kind(_matches(b"bkiv"), "holds an encoded interval", "use `from_bytes` of the Python library"),
    Kind(
        lambda head: head[257:262] == b"ustar",
        "is a tar archive",
        "unpack it first, as in `tar -xf {name}`",
    ),
    Kind(_matches(rb"PK\x03\x04"), "is a zip archive", "unpack it first, as in `unzip {name}`"),
    Kind(_matches(rb"\x1f\x8b"), "is compressed with gzip", _UNPACK.format("gzip -dc")),
    Kind(_matches(rb"\xfd7zXZ\x00"), "is compressed with xz", _UNPACK.format("xz -dc")),
    Kind(_matches(rb"\x28\xb5\x2f\xfd"), "is compressed with zstd", _UNPACK.format("zstd -dc")),
    Kind(_matches(b"BZh"), "is compressed with bzip2", _UNPACK.format("bzip2 -dc")),
    Kind(_matches(rb"\x04\x22\x4d\x18"), "is compressed with lz4", _UNPACK.format("lz4 -dc")),
    Kind(
        _matches(
            rb"\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x4d\x3c\xb2\xa1|\xa1\xb2\x3c\x4d|\x0a\x0d\x0d\x0a"
        ),
        "holds network packets (pcap)",
        _ONLY_TRACES,
    ),
    Kind(
        _matches(rb"PERFILE2|\x17\x08\x44tracing"),
        "is a recording of perf or trace-cmd",
        _ONLY_TRACES,
    ),
    Kind(_matches(rb"\x7fELF"), "is a program (ELF)", _ONLY_TRACES),
    Kind(_matches(rb"\x89PNG|%PDF-"), "is a picture or a PDF", _ONLY_TRACES),
    Kind(_matches(rb"(?i)\s*<(!doctype|html|svg|\?xml)"), "is a web page", "open it in a browser"),
    Kind(_is_text, "is text", _ONLY_TRACES),
)
"""The known kinds; the first that matches counts."""
