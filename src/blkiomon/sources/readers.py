"""Read one file in chunks, decompressing gzip, xz and Zstandard.

Files are read, not mapped. If a mapped file is truncated, or its disk fails, SIGBUS kills the
process. Mapping is not faster either: page faults take longer than copying.
"""

from __future__ import annotations

import importlib
import os
import select
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from blkiomon.errors import DamagedError, SourceError
from blkiomon.sources import file_kinds

PACKED_BYTES = 1 << 14
"""How much of a compressed file is read at a time."""

UNPACKED_BYTES = 1 << 16
"""How much is decompressed at a time. This much data before a damaged part may be lost."""

MOST_MEMORY_BYTES = 1 << 28
"""Limit of memory for xz; `xz -9` needs a quarter. zstd itself limits its window to 128 MiB."""

MAGIC_BYTES = 6
"""Length of the longest magic number, that of xz."""


class Unpacker(Protocol):
    """One stream of compressed data; the interface of lzma.LZMADecompressor."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes | memoryview: ...


class _Gzip:
    """Keeps the data that zlib's decompressor has not consumed; lzma's does so itself."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _Zstandard:
    """Feeds the zstandard package little data at a time, as it cannot limit its output.

    Four bytes may expand to a block of 128 KiB. So PIECE_BYTES expand to 32 MiB at most.
    """

    PIECE_BYTES = 1 << 10

    def __init__(self, module: Any) -> None:
        self._stream = module.ZstdDecompressor().decompressobj()
        self._packed = b""
        self._ready = memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof) and not self._ready

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data) + self._packed

    def decompress(self, data: bytes, max_length: int) -> memoryview:
        self._packed += data
        while not self._ready and self._packed and not self._stream.eof:
            piece = self._packed[: self.PIECE_BYTES]
            self._packed = self._packed[self.PIECE_BYTES :]
            self._ready = memoryview(self._stream.decompress(piece))
        out = self._ready[:max_length]
        self._ready = self._ready[max_length:]
        return out


class Packing(NamedTuple):
    """A compression format."""

    name: str
    matches: Callable[[bytes], bool]  # whether a stream that begins with these bytes has it
    unpacker: Callable[[], Unpacker]
    errors: tuple[type[Exception], ...]


def _zstd_packing(file: str) -> Packing:
    """Zstandard, by the standard library (Python 3.14 and later) or by the zstandard package.

    Raises:
        SourceError: neither is installed.
    """
    try:
        module = zstd_module()
    except ImportError as error:
        raise SourceError(
            f"{file} is compressed with zstd: pip install 'blkiomon[zstd]'"
        ) from error
    is_standard = module.__name__ == "compression.zstd"
    unpacker = module.ZstdDecompressor if is_standard else lambda: _Zstandard(module)
    return Packing("zstd", _is_zstd, unpacker, (module.ZstdError,))


def zstd_module() -> Any:
    """The module that packs and unpacks Zstandard. Raises ImportError if none is installed."""
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("zstandard")


def _is_zstd(head: bytes) -> bool:
    """Whether a frame comes first, or a skippable frame, which parallel compressors write."""
    return head[:4] == b"\x28\xb5\x2f\xfd" or (
        head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50
    )


_GZIP = Packing("gzip", lambda head: head[:2] == b"\x1f\x8b", _Gzip, (zlib.error,))


def _is_xz(head: bytes) -> bool:
    return head[:6] == b"\xfd7zXZ\0"


def _xz_packing(file: str) -> Packing:
    """Raises SourceError: this Python has no lzma."""
    try:
        import lzma
    except ImportError as error:
        raise SourceError(
            f"{file} is compressed with xz, which this Python was built without: unpack it first"
        ) from error

    def unpacker() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY_BYTES)

    return Packing("xz", _is_xz, unpacker, (lzma.LZMAError,))


def is_packed(head: bytes) -> bool:
    """Whether a file that begins with these bytes is compressed."""
    return _GZIP.matches(head) or _is_xz(head) or _is_zstd(head)


class Reader:
    """The bytes of a file, decompressed.

    Args:
        path: None for standard input.

    Attributes:
        name: for messages.
        total_bytes: size of the file on disk; None if unknown.
        done_bytes: how many of these have been read.

    Raises:
        OSError: the file cannot be opened.
        SourceError: the library that decompresses it is not installed.
    """

    total_bytes: int | None = None
    done_bytes = 0
    _fd = -1
    _owns_fd = False
    _is_detected = False  # whether _packing is known
    _head = b""  # bytes that were read to detect the packing
    _packing: Packing | None = None  # None: not compressed
    _unpacker: Unpacker | None = None
    _packed = b""
    _failure: SourceError | None = None

    def __init__(self, path: Path | None) -> None:
        self.name = "standard input" if path is None else str(path)
        self._owns_fd = path is not None
        # Opening a FIFO must not wait for its writer: _await_first does.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        self._fd = 0 if path is None else os.open(path, flags)
        try:
            status = os.fstat(self._fd)
            # A pipe is first read by readinto: reading may wait.
            if stat.S_ISREG(status.st_mode):
                position = 0 if self._owns_fd else os.lseek(self._fd, 0, os.SEEK_CUR)
                self.total_bytes = max(0, status.st_size - position)
                self._detect_packing()
        except BaseException:
            self.close()
            raise

    def _read(self, n_bytes: int) -> bytes:
        return os.read(self._fd, n_bytes)

    def _read_into(self, buffer: memoryview) -> int:
        return os.readv(self._fd, [buffer])

    def close(self) -> None:
        if self._owns_fd and self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def readinto(self, buffer: memoryview) -> int:
        """Write the next bytes to the beginning of a buffer; return how many, 0 at the end.

        Raises:
            SourceError: the file cannot be read or decompressed. Later calls raise it again.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if not self._is_detected:
                self._await_first()
                self._detect_packing()
            if self._packing is not None:
                return self._unpack(self._packing, buffer)
            if self._head:
                n = min(len(self._head), len(buffer))
                buffer[:n] = self._head[:n]
                self._head = self._head[n:]
                return n
            n = self._read_into(buffer)
            self.done_bytes += n
            return n
        except SourceError as error:
            self._failure = error
            raise
        except OSError as error:
            self._failure = SourceError(f"cannot read {self.name}: {error.strerror or error}")
            raise self._failure from error

    def _await_first(self) -> None:
        """Wait for a FIFO's writer. Unlike a blocking open(), poll() lets Python handle signals."""
        if self._fd >= 0:
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll()
            os.set_blocking(self._fd, True)

    def _detect_packing(self) -> None:
        while len(self._head) < MAGIC_BYTES and (more := self._read(file_kinds.HEAD_BYTES)):
            self._head += more
        self.done_bytes += len(self._head)
        if _GZIP.matches(self._head):
            self._packing = _GZIP
        elif _is_xz(self._head):
            self._packing = _xz_packing(self.name)
        elif _is_zstd(self._head):
            self._packing = _zstd_packing(self.name)
        if self._packing is not None:
            self._packed, self._head = self._head, b""
        self._is_detected = True

    def _read_packed(self) -> bytes:
        data = self._read(PACKED_BYTES)
        self.done_bytes += len(data)
        return data

    def _unpack(self, packing: Packing, buffer: memoryview) -> int:
        most = min(len(buffer), UNPACKED_BYTES)
        while self._unpacker is not None or self._begin_stream(packing):
            assert self._unpacker is not None
            try:
                data = self._unpacker.decompress(self._packed, most)
            except packing.errors as error:
                if "memory" in str(error).lower():  # no library has an error class for it
                    raise SourceError(
                        f"{self.name}: {packing.name} needs more memory than blkiomon allows: "
                        "unpack it first"
                    ) from error
                raise DamagedError(
                    f"{self.name}: before byte offset {self.done_bytes}: "
                    f"damaged {packing.name} data: {error}"
                ) from error
            self._packed = b""
            if self._unpacker.eof:
                self._packed = self._unpacker.unused_data
                self._unpacker = None
            elif not data:
                self._packed = self._read_packed()
                if not self._packed:
                    raise DamagedError(
                        f"{self.name}: at byte offset {self.done_bytes}: found the end of the "
                        f"file, expected more {packing.name} data"
                    )
            if data:
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _begin_stream(self, packing: Packing) -> bool:
        """Begin the next of the concatenated streams; return False at the end of the file."""
        # xz and tapes pad with zeros.
        while len(packed := self._packed.lstrip(b"\0")) < MAGIC_BYTES and (
            more := self._read_packed()
        ):
            self._packed = packed + more
        self._packed = packed
        if not self._packed:
            return False
        if not packing.matches(self._packed):
            raise DamagedError(
                f"{self.name}: at byte offset {self.done_bytes - len(self._packed)}: "
                f"found {self._packed[:4].hex(' ')}, expected the end of the file or more "
                f"{packing.name} data"
            )
        self._unpacker = packing.unpacker()
        return True


class ContinuedReader(Reader):
    """An open file, decompressed, whose first bytes the caller has read; the caller closes it.

    Args:
        fd: a descriptor; it is made blocking.
        begun: the bytes that were read, at least MAGIC_BYTES.
        name: for messages.
    """

    def __init__(self, fd: int, begun: bytes, name: str) -> None:
        self.name = name
        self._fd = fd
        self._head = begun


def begins_like_trace(reader: Reader) -> bool:
    """Whether a file is a trace, by its first bytes, decompressed; these are read.

    Raises:
        SourceError: it cannot be read, or the library that decompresses it is not installed.
    """
    head = bytearray(file_kinds.HEAD_BYTES)
    try:
        n = reader.readinto(memoryview(head))
    except DamagedError:
        return False
    return file_kinds.begins_like_trace(bytes(head[:n]))


class Readable(Protocol):
    """The methods of a file object that ``OpenedReader`` calls."""

    def read(self, n_bytes: int, /) -> bytes: ...
    def close(self) -> None: ...


class OpenedReader(Reader):
    """The bytes of a file object, decompressed.

    Args:
        file: open for reading; ``close`` closes it.
        name: for messages.
        total_bytes: size of the file; None if unknown.
    """

    def __init__(self, file: Readable, name: str, total_bytes: int | None = None) -> None:
        self.name = name
        self._file = file
        self.total_bytes = total_bytes

    def _read(self, n_bytes: int) -> bytes:
        try:
            return self._file.read(n_bytes)
        except OSError:
            raise
        except Exception as error:  # of whatever library reads the file
            raise OSError(f"{type(error).__name__} {error}".rstrip()) from error

    def _read_into(self, buffer: memoryview) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
