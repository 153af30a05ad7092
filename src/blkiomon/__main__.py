"""``python -m blkiomon``."""

import sys

from blkiomon.cli import main

sys.exit(main())
