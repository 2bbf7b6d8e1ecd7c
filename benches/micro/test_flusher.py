"""What waiting for the disk costs, and what flushing beside them costs those who do not wait. On a real disk."""

from types import SimpleNamespace

import pytest

from ntmem._core.flusher import Flusher
from ntmem._core.log import Log
from ntmem._core.logrecords import KIND_PUT
from ntmem._core.mdb import Environment
from ntmem._core.region import Region
from ntmem.tiers.layout import encode_labels
from ntmem.tiers.tables import SIMULATED, ClockRow, Head, LogRow, Tables

VALUE = b"v" * 64
IN_FLIGHT = 128
COUNT = 1000
SPACE = encode_labels(("desk",))
RECORDS = [(KIND_PUT, 0, SPACE, b"key-%d" % number, b"agent", VALUE, 1, 1, 0) for number in range(COUNT)]


def new_log():
    return Log.create(Region.create(None, identity=b"", generation=1, sections=Log.sections(1 << 26, 1 << 19)))


@pytest.fixture
def flusher(tmp_path):
    env = Environment(tmp_path, map_size=1 << 30)
    names = ("meta", "namespaces", "records", "history", "expiry")
    dbs = {name: env.open_db(name.encode()) for name in names}
    region_id = bytes(16)
    with env.begin(write=True) as txn:
        rows = Tables(SimpleNamespace(databases=dbs, boot=b"", clock=None), txn)
        rows.put_head(Head(0, 0, 1, 0))
        rows.put_clock(ClockRow(SIMULATED, 0, b""))
        rows.put_log_row(LogRow(region_id, 0))
    flusher = Flusher(new_log(), env, dbs, region_id, interval=0.05, limit=1 << 30)
    flusher.start()
    yield flusher
    flusher.drain(60)
    flusher.stop()
    env.close()


def wait_for_disk(log):
    log.want_flushed(log.committed)
    assert log.wait_sequence(log.next_sequence - 1, 60)


def test_durable_one_by_one_to_many_in_flight(ratio_to, flusher):
    log = flusher.log

    def one_by_one():
        for record in RECORDS[:IN_FLIGHT]:
            log.append([record])
            wait_for_disk(log)

    def in_flight():
        for record in RECORDS[:IN_FLIGHT]:
            log.append([record])
        wait_for_disk(log)

    ratio_to(one_by_one, in_flight, rounds=10, repeats=1)
    assert log.flushed == log.committed


def test_append_beside_a_flusher_to_append_alone(ratio_to, flusher):
    alone = new_log()

    def append_to(log):
        for record in RECORDS:
            log.append([record])

    def beside():
        append_to(flusher.log)

    def by_itself():
        append_to(alone)
        alone.advance_flushed(alone.committed)

    ratio_to(beside, by_itself)
    assert flusher.log.next_sequence > COUNT
