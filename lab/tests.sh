#!/bin/bash
# Runs tests of tests/lab in the machine: tests.sh NAME PYTHON [ARGUMENT]...
# Leaves in /out: NAME.txt, a line for each comparison; NAME.log, what pytest prints; NAME.dmesg.
cd "$(dirname "$(readlink -f "$0")")/.." || exit
export LAB_TABLE=/out/$1.txt PYTHONDONTWRITEBYTECODE=1
# Plugins of other tests take a minute to import in an emulated machine.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export OPENBLAS_NUM_THREADS=1  # a process with threads should not fork
name=$1 python=$2
shift 2
# Emulated tests take longer than the limit after which pytest prints where each thread is.
"$python" -m pytest -p no:cacheprovider -o faulthandler_timeout=0 --tb=short --durations=5 \
    "tests/lab/test_${name}_kernels.py" "$@" > "/out/$name.log" 2>&1
status=$?
dmesg > "/out/$name.dmesg"
exit $status
