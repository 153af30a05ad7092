"""Files that the sub-commands of reports write: checked before long work, then written whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from blkiomon.commands.naming import refuse_devices
from blkiomon.console import EXIT_OUTPUT
from blkiomon.errors import ReportError
from blkiomon.outputs import opening
from blkiomon.outputs.opening import Policy, write_whole
from blkiomon.sources import input_files


def check_output(
    path: Path, inputs: Sequence[str], *, follow: bool = False, overwrite: bool = False
) -> Policy:
    """Find out before long work whether a file can be there.

    Args:
        path: of the file.
        inputs: names of what is read.
        follow, overwrite: see ``Policy``.

    Returns:
        What it is to be written with.

    Raises:
        ReportError: it cannot be there, or must not be replaced.
        SourceError: one of the inputs cannot be found.
    """
    refuse_devices(inputs)
    policy = Policy(follow=follow, overwrite=overwrite, inputs=input_files(inputs))
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.parent.is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        opening.check_output(str(path), policy, replaces=True)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}", EXIT_OUTPUT) from error
    return policy


def write_output(
    path: Path, write: Callable[[IO[bytes]], object], policy: Policy = opening.DEFAULT
) -> None:
    """Write a file so that it is there as a whole, or not at all.

    Raises:
        ReportError: it cannot be written.
    """
    try:
        write_whole(path, write, policy)
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror or error}", EXIT_OUTPUT) from error
