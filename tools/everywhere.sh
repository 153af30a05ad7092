#!/usr/bin/env bash
# Tests the wheel below dist/ with every CPython that is installed:
# tools/everywhere.sh "PYTHON..." [ARGUMENT of pytest]...
# A free-threaded CPython cannot load the wheel, and builds the sdist.
set -e
pythons=$1
shift
for python in $pythons; do
    if ! "$python" -c '' 2>/dev/null; then
        echo "==> $python: not installed" >&2
        continue
    fi
    echo "==> $python" >&2
    rm -rf build/everywhere
    "$python" -m venv build/everywhere
    build/everywhere/bin/pip install --quiet hypothesis pytest
    build/everywhere/bin/pip install --quiet dist/*.whl ||
        build/everywhere/bin/pip install --quiet dist/*.tar.gz
    (cd tests && ../build/everywhere/bin/pytest "$@")
done
