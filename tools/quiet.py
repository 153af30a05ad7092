"""Run a command, and print its output only if it fails: some linters have no quiet option."""

import subprocess
import sys

ran = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
if ran.returncode:
    print(ran.stdout, end="")
sys.exit(ran.returncode)
