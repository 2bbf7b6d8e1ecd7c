#!/bin/sh
# What `make processors` runs: the code that is chosen by the processor, on each path. usage: processors.sh PYTHON
#
# First with each set of kernels that runs here, by name; then, if qemu is there, under an x86-64 processor without AVX2
# (files that were written with it must be read, to the byte); then sets of other processors, by emulation.
set -eu
python=$1
pytest="$python -m pytest -q -p no:cacheprovider"
vectors="tests/unit/test_kernels.py tests/unit/test_columns.py tests/unit/vectors tests/unit/test_vector_tail.py"

for set in $($python -c "from ntmem._core import kernels; print(*kernels.available())"); do
    echo "== $set"
    NTMEM_KERNELS=$set $pytest $vectors
done
if [ "$(uname -m)" = x86_64 ] && command -v qemu-x86_64-static >/dev/null; then
    echo "== no AVX2 (qemu: Nehalem)"
    old="qemu-x86_64-static -cpu Nehalem $python" # the least that numpy runs on
    [ "$($old -c "from ntmem._core import kernels; print(*kernels.available())")" = scalar ]
    $old -m pytest -q -p no:cacheprovider -o faulthandler_timeout=0 tests/format/test_delta_format.py
fi
echo "== elsewhere"
$pytest tests/unit/test_kernels_elsewhere.py
