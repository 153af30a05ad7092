"""The files of a dataset, on this machine or at a URL of fsspec.

A file is written under a hidden name, which readers of datasets ignore, and published by renaming.
Object stores cannot rename: there, a file has its name as soon as it is uploaded.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import fsspec
from fsspec.implementations.local import LocalFileSystem

from blkiomon.commands.archive.options import DatasetError
from blkiomon.outputs.opening import make_directories, open_output, whole_file

NEW = ".new"
"""Suffix of a hidden file that is not complete."""


class Files:
    """The files of a dataset; their names are relative to it.

    Args:
        url: a directory, or a URL of fsspec.

    Raises:
        DatasetError: it is in memory, where no other process sees it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.url_to_fs(url)
        self.is_local = isinstance(self._fs, LocalFileSystem)
        protocol = self._fs.protocol
        if "memory" in ([protocol] if isinstance(protocol, str) else protocol):
            raise DatasetError(f"{url} would be lost when blkiomon ends: name a directory")

    def path(self, name: str) -> str:
        """The path of a file in its file system."""
        return f"{self._root}/{name}"

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of all files in a folder, at any depth; hidden ones among them."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            found = self._fs.find(self.path(folder), detail=True)
            start = len(self.path(""))
            return {path[start:]: int(info["size"] or 0) for path, info in found.items()}
        return {}

    def hidden(self, name: str) -> str:
        """The name of a file until it is published."""
        folder, _, last = name.rpartition("/")
        return f"{folder}/.{last}" if self.is_local else name

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write to; it is on the disk, and hidden, when this is left without an error."""
        if not self.is_local:
            with tempfile.NamedTemporaryFile() as beside:
                yield beside.file
                beside.flush()
                path = self.path(name)
                self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._fs.put_file(beside.name, path)
            return
        path = self.path(self.hidden(name))
        folder = Path(path).parent
        make_directories(folder)
        with whole_file(path, f".{uuid4().hex}{NEW}") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        sync_directory(folder)

    def publish(self, name: str) -> None:
        """Rename a file from its hidden name to its own."""
        if self.is_local:
            Path(self.path(self.hidden(name))).rename(self.path(name))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        data: bytes = self._fs.cat_file(self.path(name))
        return data

    def open(self, name: str) -> Any:
        """A file to read from, which is seekable."""
        return self._fs.open(self.path(name), "rb")

    def exists(self, url: str) -> bool:
        """Whether there is a file at any path or URL."""
        fs, path = fsspec.url_to_fs(url)
        return bool(fs.exists(path))

    def appending(self, name: str) -> int:
        """A descriptor of a local file, which is made if it is missing. Raises OSError."""
        path = self.path(name)
        make_directories(Path(path).parent)
        fd = open_output(path, keep=True)
        if fd is None:
            raise OSError(f"{path} is not a file")
        sync_directory(Path(path).parent)
        return fd

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file of an object store."""
        path = self.path(name)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, data)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
