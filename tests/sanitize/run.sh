#!/bin/sh
# What `make asan` and `make tsan` run: planted faults first, which must be reported, then the tests, of which none must be.
# usage: NTMEM_SANITIZE=... tests/sanitize/run.sh PYTEST [ARGUMENTS]
#
# An instrumented module needs its run-time library first in the process, and libstdc++ before the first C++ throw.
# Python's own allocator would hide small overflows: PYTHONMALLOC. Reports are written past Python and lost unless only
# Python's streams are captured (--capture=sys); those of children, whose streams are pipes, unless they go to files.
# Options: docs/design/sanitizers.md.
set -u
pytest=$1
shift
case $NTMEM_SANITIZE in
    thread) library=libtsan.so faults=race ;;
    *) library=libasan.so faults="overflow shift" ;;
esac
reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT

instrumented() { # planted fault, then what to run
    planted=$1
    shift
    common="exitcode=66:log_path=$reports/report"
    LD_PRELOAD="$(gcc -print-file-name=$library) $(gcc -print-file-name=libstdc++.so.6)" PYTHONMALLOC=malloc \
        ASAN_OPTIONS="$common:detect_leaks=0" UBSAN_OPTIONS="$common:print_stacktrace=1" OPENBLAS_NUM_THREADS=1 \
        TSAN_OPTIONS="$common:detect_deadlocks=0" NTMEM_PLANTED=$planted "$pytest" --capture=sys "$@"
}

fail() {
    cat "$reports"/* 2>/dev/null
    echo "$1" >&2
    exit 1
}

instrumented nothing -q tests/sanitize >"$reports/output" 2>&1 || fail "the code of the controls is not clean by itself"
for fault in $faults; do
    rm -f "$reports"/*
    instrumented "$fault" -q tests/sanitize >"$reports/output" 2>&1
    code=$?
    [ $code -eq 66 ] || fail "a planted fault ($fault) was to end the run with code 66, and ended it with $code"
    # gcc 12's library for undefined behaviour knows no log_path; it ends the process, which the tests of children see
    [ "$fault" = shift ] || ls "$reports"/report.* >/dev/null 2>&1 || fail "a planted fault ($fault) left no report"
    echo "control: a planted $fault is reported"
done
rm -f "$reports"/*

instrumented "" "$@"
code=$?
# A child of fork that starts threads ends under the thread sanitizer, which says so; its test fails by that
grep -sl "after multi-threaded fork is not supported" "$reports"/report.* | xargs -r rm
if ls "$reports"/report.* >/dev/null 2>&1; then
    fail "reports of $(ls "$reports" | wc -l) processes are above"
fi
exit $code
