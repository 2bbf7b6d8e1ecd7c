"""The commit log against a dict that keeps the same: what shared, crash-safe memory costs."""

import pytest

from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_PUT
from ntmem._core.region import Region

VALUE = b"v" * 64
COUNT = 1000
NAMES = [f"key-{number}" for number in range(10_000)]


@pytest.fixture
def log():
    region = Region.create(None, identity=b"", generation=1, sections=Log.sections(1 << 24, 1 << 17))
    return Log.create(region)


def test_append_to_dict_store(ratio_to, log):
    record = [(KIND_PUT, 0, b"desk", b"key-500", b"agent", VALUE, 0, 0, 0)]
    store = {}

    def ours():
        for _ in range(COUNT):
            log.append(record)
        log.advance_flushed(log.committed)

    def theirs():
        for _ in range(COUNT):
            store["desk/key-500"] = VALUE

    ratio_to(ours, theirs)
    assert log.get(b"desk", b"key-500").value == VALUE


def test_append_without_the_gil_to_dict_store(ratio_to, log):
    records = [(KIND_PUT, 0, b"desk", b"key-500", b"agent", VALUE, 0, 0, 0)] * COUNT
    store = {}

    def ours():
        log.append_each(records)
        log.advance_flushed(log.committed)

    def theirs():
        for _ in range(COUNT):
            store["desk/key-500"] = VALUE

    ratio_to(ours, theirs)


@pytest.mark.parametrize("keys", [1, 10_000], ids=["hot", "uniform"])
def test_get_to_dict_get(ratio_to, log, keys):
    for name in NAMES:
        log.append([(KIND_PUT, 0, b"desk", name.encode(), b"agent", VALUE, 0, 0, 0)])
    store = {f"desk/{name}": VALUE for name in NAMES}
    texts = [NAMES[number * 7919 % keys] for number in range(COUNT)]
    raw = [name.encode() for name in texts]

    def ours():
        for key in raw:
            found = log.get(b"desk", key)
        return found.value

    def theirs():
        for key in texts:
            found = store.get(f"desk/{key}")
        return found

    assert ratio_to(ours, theirs) == theirs()
