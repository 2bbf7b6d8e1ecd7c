#!/bin/sh
# What `make coverage` runs: tests, with counters; then the three totals. Fails below 95 % of Python or 90 % of Cython.
# usage: _build/coverage.sh VENV PYTEST-ARGUMENTS
set -eu
venv=$1
shift
bin=$venv/bin
export NTMEM_COVERAGE_ROOT="$PWD" COVERAGE_FILE="$venv/lines/data" GCOV_PREFIX="$venv/objects"
NTMEM_COVERAGE_C=$(dirname "$(find "$GCOV_PREFIX$PWD" -name hot.c)")
export NTMEM_COVERAGE_C

rm -rf "$venv/lines"
mkdir "$venv/lines"
find "$GCOV_PREFIX" -name "*.gcda" -delete
failed=0
"$bin/coverage" run -m pytest "$@" || echo "tests failed: under a trace that decides nothing" >&2

"$bin/python" _build/coverage_whole.py "$venv"/lines/data*
"$bin/coverage" combine -q
for kind in "*.py 95" "*.pyx,*.pxd 90"; do
    echo "--- ${kind% *}"
    "$bin/coverage" report --include="${kind% *}" --fail-under="${kind#* }" || failed=$?
done
echo "--- *.h"
"$bin/python" _build/coverage_c.py "$GCOV_PREFIX" || failed=$?
exit "$failed"
