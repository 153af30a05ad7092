#!/bin/bash
# Runs the tests of captures, tests/lab, in the machine: capture.sh PYTHON [ARGUMENT]...
# Leaves in /out: capture.txt, a line for each comparison; capture.log, what pytest prints.
cd "$(dirname "$(readlink -f "$0")")/.." || exit
python=$1
shift
export PYTHONDONTWRITEBYTECODE=1
"$python" -m pytest -p no:cacheprovider --tb=short --durations=5 tests/lab "$@" > /out/capture.log 2>&1
status=$?
dmesg > /out/capture.dmesg
exit $status
