"""blkiomon: a monitor of block device I/O that reads the kernel's block-trace records."""

from blkiomon._version import __version__
from blkiomon.errors import TraceError

__all__ = ["TraceError", "__version__"]
