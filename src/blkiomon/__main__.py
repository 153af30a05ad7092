"""``python -m blkiomon``."""

import _signal  # type: ignore[import-not-found]  # signal itself is slow to import

# As in bin/blkiomon: no traceback for Ctrl-C during imports.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import sys

from blkiomon.commands.cli import main

if __name__ == "__main__":  # workers of archive import this file as well
    sys.exit(main())
