"""The C code that applies groups of the log: encodings, each kind of record, damage on the way, groups it refuses."""

from __future__ import annotations

import errno
import hashlib
import pickle
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from logs import new_log
from twin import (
    AHEAD,
    DELETE,
    NOTICE,
    PUT,
    REGION,
    SECOND,
    STAGED,
    START,
    Native,
    Twin,
    group,
    logged,
    record,
    stub,
    twin,
)

from ntmem._core.apply import Applier, ApplyFailed, crc32, digest
from ntmem._core.logrecords import KIND_PUT
from ntmem.records import Change, Policy
from ntmem.tiers.layout import (
    DELETED,
    FENCED,
    decode_namespace,
    decode_record,
    encode_labels,
    expiry_key,
    history_key,
    namespace_key,
    record_key,
)

BAD_GROUP, DAMAGED, BAD_STAGED = -31100, -31101, -31102
MAP_FULL = -30792
DESK = ("desk",)
SPACE = encode_labels(DESK)
KEPT = Policy(history=True)


@pytest.fixture
def both() -> Iterator[Twin]:
    with twin() as both:
        yield both


def put(key: bytes = b"k", value: bytes = b"v", namespace: tuple[str, ...] = DESK, **more: int | None) -> Change:
    return Change("put", namespace, key, value, **more)  # type: ignore[arg-type]


def delete(key: bytes = b"k", namespace: tuple[str, ...] = DESK) -> Change:
    return Change("delete", namespace, key)


def spoil(both: Twin, database: str, key: bytes) -> None:
    """Turn the last bit of a row, in both stores."""

    def turn(txn, databases):
        data = bytes(txn.get(key, db=databases[database]))
        txn.put(key, data[:-1] + bytes([data[-1] ^ 1]), db=databases[database])

    both.flush()
    both.store.write(lambda txn: turn(txn, both.store.databases))
    both.native.change(turn)


def refused(native: Native, code: int, *groups: bytes, position: int = 1) -> None:
    """See that groups are refused with this code and leave nothing behind."""
    before = native.rows()
    with pytest.raises(ApplyFailed) as caught:
        native.applier.apply(b"".join(groups), position=position)
    assert caught.value.code == code
    assert native.rows() == before


def applied(native: Native, *groups: bytes, clock: int | None = None) -> None:
    native.applier.apply(b"".join(groups), position=sum(map(len, groups)), clock=clock)


def stored(native: Native, key: bytes = b"k", namespace: tuple[str, ...] = DESK):
    rows = native.rows()
    where = record_key(decode_namespace(rows["namespaces"][namespace_key(namespace)]).id, key)
    data = rows["records"].get(where)
    return None if data is None else decode_record(where, memoryview(data))


# ---- encodings ----


def test_checksum_and_digest_are_those_of_the_standard_library():
    generator = random.Random(1)
    for size in [*range(601), 4095, 4096, 65_537, 1 << 20]:
        data = generator.randbytes(size)
        assert crc32(data) == zlib.crc32(data)
        assert crc32(data, 77) == zlib.crc32(data, 77)
        assert digest(data) == hashlib.blake2b(data, digest_size=16).digest()


@given(st.binary(), st.binary())
def test_a_checksum_goes_on_where_another_ended(first, second):
    assert crc32(second, crc32(first)) == zlib.crc32(first + second)


@pytest.mark.parametrize("size", [1, 478, 479, 480, 494, 495, 496, 511, 65_536])
@pytest.mark.parametrize("policy", [Policy(), KEPT])
def test_keys_of_every_length(both, size, policy):
    both.elsewhere(lambda engine: engine.retain(DESK, policy))
    both.commit(put(b"k" * size, ttl_ns=SECOND), put(b"k" * size, b"2", ttl_ns=2 * SECOND))
    both.commit(put(b"k" * size, b"3"))
    both.flush()
    both.commit(put(b"k" * size, b"4", ttl_ns=SECOND))
    both.wait(2 * SECOND)
    both.commit(put())  # sweeps
    both.flush()
    assert len(both.rows()["records"]) == 1
    both.commit(put(b"k" * size, b"5"), delete(b"k" * size))
    both.flush()


@pytest.mark.parametrize("size", [2, 112, 113, 498, 499, 500, 501, 511, 512, 16_384])
@pytest.mark.parametrize("policy", [Policy(), KEPT])
def test_namespaces_of_every_length(both, size, policy):
    labels = []
    while size:
        part = min(size, 256) - (size - 256 == 1)  # a label has at least a byte
        labels.append("n" * (part - 1))
        size -= part
    namespace = tuple(labels)
    if policy.history:
        both.elsewhere(lambda engine: engine.retain(namespace, policy))
    both.commit(put(namespace=namespace, ttl_ns=SECOND))
    both.commit(put(value=b"2", namespace=namespace, ttl_ns=SECOND))
    both.flush()
    both.wait(SECOND)
    both.commit(put(b"other"))
    both.flush()
    both.commit(put(b"other", namespace=(*namespace[:-1], "m")))
    both.flush()


@pytest.mark.parametrize("size", [0, 1, 1_900, 2_100, 4_096, 1 << 20])
@pytest.mark.parametrize("stage", [False, True])
def test_values_of_every_length_replace_each_other(both, size, stage):
    for value in (b"v" * size, b"w" * size, b"short", b"x" * size, b""):
        both.commit(put(value=value), stage=stage)
        both.flush()


# ---- what a group may hold ----


def test_the_log_s_own_bytes_are_understood(both):
    with new_log() as log:
        log.append(
            [(KIND_PUT, 0, SPACE, b"k", b"me", b"1", 5, 6, 0), (KIND_PUT, AHEAD, SPACE, b"k2", b"me", b"2", 7, 8, 9)],
            now=START,
        )
        data = Path(log.region.path).read_bytes()
    begin = data.index(struct.pack("<I", 0x50524721))
    size = struct.unpack_from("<I", data, begin + 40)[0]
    applied(both.native, data[begin : begin + size])
    first, second = stored(both.native, b"k"), stored(both.native, b"k2")
    assert (first.flags, first.version, first.ts_event, first.ts_known, first.expires_at) == (0, 1 << 44 | 1, 5, 6, 0)
    assert (second.flags, second.version, second.expires_at) == (AHEAD, 1 << 44 | 2, 9)
    assert (first.writer, first.value, second.value) == (b"me", b"1", b"2")
    head = struct.unpack("<QQQq", both.native.rows()["meta"][b"head"][4:])
    assert head == (1, 2, 2, START)
    both.native.make(both.rows() | {"meta": both.rows()["meta"]})


def test_flags_that_are_not_for_the_disk_do_not_get_there(both):
    applied(both.native, group([record(PUT, 1, SPACE, b"k", flags=0xFF & ~STAGED)]))
    assert stored(both.native).flags == AHEAD | FENCED
    both.native.make(both.rows())


def test_a_notice_changes_nothing_but_the_version(both):
    before = both.native.rows()
    applied(both.native, group([record(NOTICE, 1, b"", b""), record(NOTICE, 2, SPACE, b"k", b"what")]))
    after = both.native.rows()
    assert {name for name in after if after[name] != before[name]} == {"meta"}
    assert struct.unpack("<QQQq", after["meta"][b"head"][4:]) == (0, 2, 1, START)
    both.native.make(both.rows())


def test_a_namespace_that_is_not_there_has_nothing_to_delete(both):
    applied(both.native, group([record(DELETE, 1, SPACE, b"k")]))
    assert both.native.rows()["namespaces"] == {}
    both.native.make(both.rows())


def test_what_the_sweep_took_first_is_buried_all_the_same(both):
    both.elsewhere(lambda engine: engine.retain(DESK, KEPT))
    made = [
        group([record(PUT, 1, SPACE, b"k", expires_at=START + 5)]),
        group([record(PUT, 2, SPACE, b"other")], now=START + 5),
        group([record(DELETE, 3, SPACE, b"k", ts_known=START + 4)], now=START + 4),
    ]
    applied(both.native, *made)
    rows = both.native.rows()
    past = [decode_record(key, memoryview(data)) for key, data in sorted(rows["history"].items())]
    assert [(version.version, version.flags) for version in past] == [(1, 0), (3, DELETED)]
    assert rows["expiry"] == {}
    assert struct.unpack("<QQQq", rows["meta"][b"head"][4:])[3] == START + 5
    both.native.make(both.rows())


def test_a_sweep_takes_16_at_a_time(both):
    both.commit(*[put(b"k%d" % i, ttl_ns=SECOND) for i in range(40)])
    both.wait(SECOND)
    for left in (24, 8, 0):
        both.commit(put(b"other"))
        both.flush()
        assert len(both.native.rows()["expiry"]) == left


def test_a_clock_is_noted_and_never_goes_back(both):
    both.commit(put())
    both.flush()
    both.wait(7)
    both.commit(put())
    both.flush()
    before = both.native.rows("meta")["meta"][b"clock"]
    assert struct.unpack_from("<Bq", before, 4) == (1, START + 7)
    both.native.applier.apply(b"", position=both.position, clock=START)
    assert both.native.rows("meta")["meta"][b"clock"] == before


def test_an_older_version_does_not_set_the_head_back(both):
    applied(both.native, group([record(NOTICE, 9, b"", b"")]))
    applied(both.native, group([record(NOTICE, 4, b"", b"")], now=START - 1))
    assert struct.unpack("<QQQq", both.native.rows()["meta"][b"head"][4:]) == (0, 9, 1, START)
    both.native.make(both.rows())


# ---- what is remembered from one transaction to the next ----


def test_a_policy_that_was_changed_in_between_counts(both):
    for policy in (Policy(), KEPT, Policy(history=True, max_bytes=1), Policy(), KEPT):
        both.elsewhere(lambda engine, policy=policy: engine.retain(DESK, policy))
        for value in (b"1", b"2"):
            both.commit(put(value=value), put(value=value + b"'"))
            both.flush()


def test_an_expiry_that_was_added_in_between_is_seen(both):
    both.commit(put(b"other"))
    both.flush()  # nothing expires
    both.elsewhere(lambda engine: engine.commit([put(ttl_ns=SECOND)]))
    both.wait(SECOND)
    both.commit(put(b"other"))
    both.flush()
    assert len(both.rows()["records"]) == 1


def test_nothing_is_remembered_of_what_was_aborted(both):
    refused(both.native, BAD_GROUP, group([record(PUT, 1, SPACE, b"k")]), group([record(9, 2, SPACE, b"k")]))
    both.commit(put(b"z", namespace=("first",)))
    both.commit(put())
    both.flush()  # were the namespace remembered, it would have the number of the other


def test_a_second_applier_and_the_first_in_turns(both):
    other = Applier(both.native.env, both.native.databases, REGION)
    appliers = [both.native.applier, other]
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(history=True, max_bytes=300)))
    for turn in range(12):
        both.native.applier = appliers[turn % 2]
        both.commit(put(value=b"v" * turn, ttl_ns=SECOND))
        both.commit(put(b"k%d" % turn))
        both.wait(SECOND // 2)
        both.flush()


# ---- what history drops ----


def test_a_deletion_is_as_old_as_itself(both):
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(True, max_age_ns=50 * SECOND)))
    both.commit(put())
    both.wait(SECOND)
    both.commit(delete())
    both.wait(99 * SECOND)
    both.commit(put())
    both.wait(SECOND)
    both.commit(put())
    both.flush()
    assert [struct.unpack(">Q", key[-8:])[0] for key in both.native.rows()["history"]] == [3]


def test_what_is_known_of_the_past_never_grows_backwards(both):
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(True, max_bytes=180)))
    for key, wait in ((b"a", 1), (b"b", 1), (b"b", 8), (b"a", 1), (b"b", 0)):
        both.commit(put(key))
        both.wait(wait * SECOND)
    both.flush()
    rows = both.native.rows()
    assert [struct.unpack(">Q", key[-8:])[0] for key in rows["history"]] == [3]  # 1 was superseded after 2
    assert decode_namespace(rows["namespaces"][SPACE]).history_since == START + 10 * SECOND


def test_what_expired_and_was_swept_is_dropped_as_superseded_now(both):
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(True, max_bytes=180)))
    both.commit(put(b"a", ttl_ns=SECOND))
    for wait in (5, 1, 1, 1):
        both.wait(wait * SECOND)
        both.commit(put(b"b"))
    both.flush()
    assert decode_namespace(both.native.rows()["namespaces"][SPACE]).history_since == START + 7 * SECOND


def test_what_is_served_until_its_successor_is_known_is_not_dropped(both):
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(True, max_bytes=1)))
    both.commit(put())
    both.commit(put(ts_known=START + 10 * SECOND))
    both.flush()
    assert len(both.native.rows()["history"]) == 1


# ---- damage ----


@pytest.mark.parametrize("policy", [Policy(), KEPT])
@pytest.mark.parametrize("change", [put(value=b"new"), put(value=b"old"), put(ttl_ns=SECOND), delete()])
@pytest.mark.parametrize("ttl", [None, SECOND])
def test_a_damaged_record_is_replaced_unseen(both, policy, change, ttl):
    both.elsewhere(lambda engine: engine.retain(DESK, policy))
    both.commit(put(value=b"old", ttl_ns=ttl))
    spoil(both, "records", record_key(1, b"k"))
    both.commit(change)
    both.flush()


@pytest.mark.parametrize("policy", [Policy(), KEPT])
def test_a_damaged_record_that_expired_is_left_and_stops_nobody(both, policy):
    both.elsewhere(lambda engine: engine.retain(DESK, policy))
    both.commit(put(ttl_ns=SECOND))
    spoil(both, "records", record_key(1, b"k"))
    both.commit(put(b"also", ttl_ns=SECOND))
    both.flush()
    damaged = both.native.rows()["records"][record_key(1, b"k")]
    both.engine.set_time(START + SECOND)
    assert both.engine.commit([put(b"third")])[0].version
    applied(both.native, group([record(PUT, 9, SPACE, b"third")], now=START + SECOND))
    rows = both.native.rows()
    assert rows["expiry"] == {}
    assert rows["records"].keys() == {record_key(1, b"k"), record_key(1, b"third")}
    assert rows["records"][record_key(1, b"k")] == damaged
    both.native.make(both.rows())


@pytest.mark.parametrize("damaged", [1, 2, 3, 4])
@pytest.mark.parametrize("policy", [Policy(True, max_age_ns=SECOND), Policy(True, max_bytes=300)])
def test_damaged_versions_are_stepped_over(both, damaged, policy):
    both.elsewhere(lambda engine: engine.retain(DESK, KEPT))
    for i in range(5):
        both.commit(put(value=b"%d" % i))
        both.wait(SECOND)
    where = history_key(1, b"k", damaged)
    spoil(both, "history", where)

    def set_policy(txn, databases):  # as `retain` would, were the versions sound
        data = txn.get(SPACE, db=databases["namespaces"])
        body = bytearray(data[4:])
        struct.pack_into("<qq", body, 10, policy.max_age_ns or 0, policy.max_bytes or 0)
        txn.put(SPACE, zlib.crc32(body).to_bytes(4, "little") + bytes(body), db=databases["namespaces"])

    both.native.change(set_policy)
    now = START + 100 * SECOND
    applied(both.native, group([record(PUT, 9, SPACE, b"k", ts_known=now)], now=now))
    rows = both.native.rows()
    row = decode_namespace(rows["namespaces"][SPACE])
    sound = [version for version in range(1, 6) if version != damaged]
    count = 4 - 1 if policy.max_age_ns else 2  # all that others followed, or 2 of 5 rows of 86 bytes: 7/8 of 300
    left = sorted(struct.unpack(">Q", key[-8:])[0] for key in rows["history"])
    assert left == sorted({*sound[count:], damaged})
    assert row.history_since == START + (sound[count] - 1) * SECOND  # when what follows the last dropped was known
    assert row.history_bytes == sum(len(key) + len(data) for key, data in rows["history"].items())
    both.native.make(both.rows())


def test_a_damaged_current_record_keeps_its_past_from_being_dropped(both):
    both.elsewhere(lambda engine: engine.retain(DESK, Policy(True, max_bytes=250)))
    both.commit(put(b"a", b"1"), put(b"a", b"2"))
    spoil(both, "records", record_key(1, b"a"))
    applied(both.native, *[group([record(PUT, 9 + i, SPACE, b"b")]) for i in range(9)])
    assert history_key(1, b"a", 1) in both.native.rows()["history"]
    both.native.make(both.rows())


@pytest.mark.parametrize(
    ("database", "key"), [("meta", b"head"), ("meta", b"clock"), ("meta", b"log"), ("namespaces", SPACE)]
)
def test_without_these_rows_nothing_is_applied(both, database, key):
    both.commit(put())
    both.flush()
    before = both.native.rows()
    for data in (before[database][key][:-1], before[database][key][:3], b"x" * 60):
        both.native.make({database: before[database] | {key: data}})
        both.native.applier = Applier(both.native.env, both.native.databases, REGION)
        refused(both.native, DAMAGED, group([record(PUT, 9, SPACE, b"k")]))
    both.native.make(before)


@pytest.mark.parametrize("missing", [b"head", b"clock"])
def test_a_store_has_a_head_and_a_clock(both, missing):
    rows = both.native.rows()
    both.native.make({"meta": {name: data for name, data in rows["meta"].items() if name != missing}})
    refused(both.native, DAMAGED, group([record(PUT, 9, SPACE, b"k")]))
    both.native.make(rows)


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"x", SPACE), (b"\0" * 16, SPACE), (expiry_key(5, record_key(1, b"k")), b""), (b"\0" * 17, b"n" * 501)],
)
def test_an_entry_of_the_expiry_index_that_can_be_none_is_taken_out(both, key, value):
    both.native.change(lambda txn, databases: txn.put(key, value or b"", db=databases["expiry"]))
    applied(both.native, group([record(PUT, 1, SPACE, b"k")]))
    assert both.native.rows()["expiry"] == {}
    both.native.make(both.rows())


@pytest.mark.parametrize("at", [5, START + 1, 2**63 - 1])
def test_an_entry_of_the_expiry_index_may_be_of_another_version(both, at):
    both.commit(put(), put(b"t", ttl_ns=1))
    both.flush()
    extra = expiry_key(at, record_key(1, b"k"))
    both.native.change(lambda txn, databases: txn.put(extra, SPACE, db=databases["expiry"]))
    both.store.write(lambda txn: txn.put(extra, SPACE, db=both.store.databases["expiry"]))
    both.wait(1)
    both.commit(put(b"other"))
    both.flush()
    assert len(both.rows()["records"]) == 2


# ---- groups that no writer made ----


def patched(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    """Write into a group's record and seal it again."""
    changed = bytearray(data)
    struct.pack_into(layout, changed, 64 + offset, *values)
    count = struct.unpack_from("<I", data, 44)[0]
    now = struct.unpack_from("<q", data, 32)[0]
    first = struct.unpack_from("<Q", data, 16)[0]
    sealed = group([bytes(changed[64:])], now=now, first_version=first)
    head = bytearray(sealed[:64])
    struct.pack_into("<I", head, 44, count)
    return reseal(bytes(head) + sealed[64:])


def reseal(data: bytes) -> bytes:
    from ntmem._core.log import crc32c

    return data[:4] + crc32c(data[8:]).to_bytes(4, "little") + data[8:]


GOOD = group([record(PUT, 5, SPACE, b"k", b"value")])


@pytest.mark.parametrize(
    "bad",
    [
        GOOD[:-16],
        GOOD + GOOD[:32],
        GOOD[:63],
        b"\0" * 64,
        b"x" + GOOD[1:],
        reseal(b"x" + GOOD[1:]),
        GOOD[:-1] + b"x",
        reseal(GOOD[:44] + b"\0" + GOOD[45:]),  # no records
        reseal(GOOD[:44] + b"\2" + GOOD[45:]),  # more than there are
        patched(GOOD, 0, "<I", 0),
        patched(GOOD, 0, "<I", 2**32 - 1),
        patched(GOOD, 4, "<I", 2**32 - 1),
        patched(GOOD, 4, "<I", 100),
        patched(GOOD, 8, "<H", 0),
        patched(GOOD, 8, "<H", 2**16 - 1),
        patched(GOOD, 10, "<H", 2**16 - 1),
        patched(GOOD, 12, "<B", 0),
        patched(GOOD, 12, "<B", 4),
        patched(GOOD, 12, "<B", 255),
        patched(GOOD, 13, "<B", STAGED),
        patched(GOOD, 12, "<BB", DELETE, STAGED),
        patched(GOOD, 16, "<Q", 6),
        patched(GOOD, 40, "<q", -1),
        group([record(PUT, 5, b"\3desk", b"k")]),  # a label too short, too long, empty
        group([record(PUT, 5, b"\5des", b"k")]),
        group([record(PUT, 5, b"\4desk\0", b"k")]),
        group([record(PUT, 5, SPACE, b"k"), record(PUT, 7, SPACE, b"k")]),
    ],
)
def test_a_group_that_no_writer_made_is_refused_whole(both, bad):
    both.commit(put(b"there"))
    both.flush()
    refused(both.native, BAD_GROUP, bad)
    refused(both.native, BAD_GROUP, group([record(PUT, 4, SPACE, b"first")]), bad)


def test_every_prefix_and_every_flipped_byte_is_refused(both):
    good = group([record(PUT, 5, SPACE, b"key", b"value"), record(DELETE, 6, SPACE, b"key")])
    for size in range(1, len(good)):
        with pytest.raises(ApplyFailed):
            both.native.applier.apply(good[:size], position=0)
    for at in range(4, len(good)):
        with pytest.raises(ApplyFailed):
            both.native.applier.apply(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :], position=0)


# ---- staged values ----


def test_a_staged_value_takes_the_place_of_its_stub(both):
    both.elsewhere(lambda engine: engine.retain(DESK, KEPT))
    for value in (b"", b"small", b"v" * 100_000, b"v" * 100_000, b"w" * 90_000):
        both.commit(put(b"k" * 500, value, ttl_ns=SECOND), put(b"k2", value), stage=True)
        both.commit(put(b"k2", value))
        both.flush()


@pytest.mark.parametrize(
    "made",
    [
        stub(8, b"the value"),
        stub(7, b"the valuf"),
        stub(7, b"the value "),
        stub(7, b""),
        struct.pack(">Q", 7) + struct.pack("<QI", 2**64 - 1, 0),
    ],
)
def test_a_staged_value_is_the_one_that_was_promised_or_none_is(both, made):
    both.native.change(lambda txn, databases: txn.put(struct.pack(">Q", 7), b"the value", db=databases["staged"]))
    refused(both.native, BAD_STAGED, group([record(PUT, 1, SPACE, b"k", made, flags=STAGED)]))
    applied(both.native, group([record(PUT, 1, SPACE, b"k", stub(7, b"the value"), flags=STAGED)]))
    assert stored(both.native).value == b"the value"
    assert both.native.rows()["staged"] == {}
    both.native.make(both.rows())


@pytest.mark.parametrize("size", [0, 19, 21])
def test_a_stub_has_20_bytes(both, size):
    refused(both.native, BAD_GROUP, group([record(PUT, 1, SPACE, b"k", b"x" * size, flags=STAGED)]))


def test_without_a_place_for_staged_values_there_are_none(both):
    databases = {name: database for name, database in both.native.databases.items() if name != "staged"}
    both.native.applier = Applier(both.native.env, databases, REGION)
    refused(both.native, BAD_STAGED, group([record(PUT, 1, SPACE, b"k", stub(1, b""), flags=STAGED)]))


# ---- room, life ----


def test_a_full_map_is_an_error_and_the_same_groups_go_into_a_larger_one(both, ram):
    (ram / "small").mkdir()
    small = Native(ram / "small", map_size=1 << 20)
    small.make(both.rows())
    small.change(lambda txn, databases: txn.put(b"ballast", b"b" * 500_000, db=databases["staged"]))
    for i in range(8):
        both.commit(*[put(b"%d-%d" % (i, j), b"v" * 900, namespace=("n", str(i)), ttl_ns=SECOND) for j in range(100)])
    refused(small, MAP_FULL, *both.pending)
    assert small.env.info()["map_size"] == 1 << 20
    applied(small, *both.pending[:3])  # what fits, through the same applier
    before = small.rows()
    small.close()
    larger = Native(ram / "small", map_size=1 << 24)
    assert larger.rows() == before
    applied(larger, *both.pending[3:])
    found = larger.rows()
    assert {name: found[name] for name in ("namespaces", "records", "expiry")} == {
        name: rows for name, rows in both.rows().items() if name in ("namespaces", "records", "expiry")
    }
    larger.close()


def test_the_position_and_the_region_are_noted(both):
    both.native.applier.apply(b"", position=2**63)
    assert both.native.rows("meta")["meta"][b"log"] == logged(2**63)
    both.native.make(both.rows())
    with pytest.raises(ValueError, match="region_id must have 16 bytes, had 3"):
        Applier(both.native.env, both.native.databases, b"abc")


def test_a_closed_applier_says_so(both):
    both.native.applier.close()
    both.native.applier.close()
    with pytest.raises(ValueError, match="closed"):
        both.native.applier.apply(b"", position=0)
    both.native.applier = Applier(both.native.env, both.native.databases, REGION)


def test_its_error_travels():
    error = pickle.loads(pickle.dumps(ApplyFailed(errno.ENOSPC)))
    assert error.code == errno.ENOSPC
    assert str(errno.ENOSPC) in str(error)
