#!/usr/bin/env bash
# Runs the tests on a coverage build, and prints which statements of Python and lines of Cython did
# not run: tools/coverage.sh ENVIRONMENT [ARGUMENT of pytest]...
# coverage.py counts Python, gcov counts Cython. Fails below 95 % of either.
set -u
environment=$1/bin
shift
counted=build/release-coverage

# Tests drop root privileges, so any user needs write access to the counts.
rm -rf build/coverage
mkdir -p -m 1777 build/coverage
find "$counted" -name '*.gcno' | while read -r notes; do
    install -m 666 /dev/null "${notes%.gcno}.gcda"
done

status=0
"$environment/coverage" run -m pytest "$@" || status=1
echo '==> statements of Python' >&2
"$environment/coverage" combine --quiet
"$environment/coverage" report || status=1
echo '==> lines of Cython' >&2
"$environment/python" -m tools.gcov "$counted" 95 || status=1
exit $status
