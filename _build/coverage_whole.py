"""Take away what cannot be combined of the counts that processes left: a killed one's file, or one without the plugin.

usage: coverage_whole.py FILE ...

Who is killed while it writes leaves half a file; who is interrupted in the plugin goes on without it, and
coverage.py then combines nothing at all.
"""

import contextlib
import os
import sqlite3
import sys

from coverage.data import CoverageData
from coverage.exceptions import CoverageException

left = 0
for path in sys.argv[1:]:
    data = CoverageData(path)
    is_whole = False
    with contextlib.suppress(CoverageException, sqlite3.Error):
        data.read()
        native = [name for name in data.measured_files() if name.endswith((".pyx", ".pxd"))]
        is_whole = all(data.file_tracer(name) for name in native)
    data.close()
    if not is_whole:
        os.unlink(path)
        left += 1
print(f"{left} of {len(sys.argv) - 1} processes left nothing that can be counted")
