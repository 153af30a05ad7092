"""``python -m blkiomon``."""

import _signal  # type: ignore[import-not-found]  # the module behind signal, which takes a while to import

# As bin/blkiomon: no traceback for a Ctrl-C while this is imported.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import sys

from blkiomon.commands.cli import main

if __name__ == "__main__":  # a worker of archive imports this file, too
    sys.exit(main())
