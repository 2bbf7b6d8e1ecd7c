"""``import ntmem`` brings in its two small dependencies, and nothing that it may not need."""

import json
import subprocess
import sys

PROBE = """
import json, sys, time
start = time.perf_counter()
import lmdb, msgspec
middle = time.perf_counter()
dependencies = set(sys.modules)
import ntmem
end = time.perf_counter()
print(json.dumps({
    "own": sorted(set(sys.modules) - dependencies),
    "all": sorted(sys.modules),
    "dependencies_ms": 1e3 * (middle - start),
    "own_ms": 1e3 * (end - middle),
}))
"""


# The interpreter's and Cython's own, which sys.stdlib_module_names does not list.
PLATFORM = ("_cython_", "_sysconfigdata", "cython_runtime")


def test_import_is_lean():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    seen = json.loads(result.stdout)
    print(
        f"import ntmem: {len(seen['own'])} modules and {seen['own_ms']:.1f} ms "
        f"beyond lmdb and msgspec ({seen['dependencies_ms']:.1f} ms)"
    )
    tops = {name.partition(".")[0] for name in seen["own"]} - sys.stdlib_module_names
    foreign = {top for top in tops if not top.startswith(PLATFORM)}
    assert foreign == {"ntmem"}, "import these where they are used"
    assert not {"numpy", "click", "rich"} & set(seen["all"])
