"""What ``import ntmem`` costs beyond its dependencies, against those dependencies."""

import statistics
import subprocess
import sys

PROBE = """
import time
start = time.perf_counter()
import lmdb, msgspec
middle = time.perf_counter()
import ntmem
print(middle - start, time.perf_counter() - middle)
"""


def test_import_to_dependencies(benchmark):
    def run():
        found = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
        return [float(figure) for figure in found.stdout.split()]

    figures = [run() for _ in range(20)]
    own = statistics.median(own for _, own in figures)
    dependencies = statistics.median(needed for needed, _ in figures)
    benchmark.extra_info |= {"own_ms": 1e3 * own, "dependencies_ms": 1e3 * dependencies}
    benchmark.name += f" = {1e3 * own:.1f} ms beyond {1e3 * dependencies:.1f} ms of dependencies"
    benchmark.pedantic(run, rounds=3)
