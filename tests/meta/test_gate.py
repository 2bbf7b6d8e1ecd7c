"""The gate's program: that its calls can be made, and what it takes for worse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GATE = Path(__file__).parents[2] / "benches" / "gate"


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(GATE))
    import count

    return count


def test_the_calls_can_be_made(ram: Path) -> None:
    subprocess.run([sys.executable, GATE / "calls.py", ram], check=True, timeout=60)


def test_worse_is_over_five_percent(count) -> None:
    before = {"get": 1000.0, "put": 2000.0, "tiny": 10.0, "gone": 5.0}
    now = {"get": 1050.0, "put": 2101.0, "tiny": 12.0, "new": 9.0}
    assert count.worse(now, before) == ["put"]
    assert count.worse(before, before) == count.worse(before, {}) == []


def test_what_callgrind_writes(count) -> None:
    dump = "part: 3\ndesc: Trigger: Client Request: get, new strings\nsummary: 575468\ntotals: 1331366\n"
    assert count._of_dump(dump) == ("get, new strings", 575_468)
    with pytest.raises(SystemExit, match="something else"):
        count._of_dump("part: 3\n")
