"""The table of leases against a dictionary: random calls of several owners; who is granted what, in which order."""

from __future__ import annotations

import gc
import time
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from logs import put

from ntmem._core.leases import Lease, LeasesFull, LeaseTable, NumbersUsedUp, Place
from ntmem._core.log import Log
from ntmem._core.logrecords import StaleLease, WriterStalled
from ntmem._core.region import Region

LONG = 3_600 * 10**9
PATIENCE = 20_000_000  # ns after which who does not look is passed over
SLOTS, PLACES = 2048, 1024

names = st.sampled_from([b"a", b"a", b"a", "é".encode(), b"x" * 255, b"\0"])
owners = st.sampled_from([b"", b"me", b"you", b"o" * 127])
ttls = st.sampled_from([LONG, LONG, LONG, 0])  # 0: it is over at once


def now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Held(NamedTuple):
    number: int
    owner: bytes
    is_over: bool
    lease: Lease


class Waiter:
    """Who waits; when it looked last, between these two instants. What it is granted depends on that alone."""

    def __init__(self, name: bytes, owner: bytes, place: Place) -> None:
        self.name, self.owner, self.place = name, owner, place
        self.is_in_row = False
        self.looked = (0, 0)

    def is_waited_for(self, begun: int, ended: int) -> bool | None:
        """Whether it is at any time between; None: nobody can tell."""
        if ended < self.looked[0] + PATIENCE:
            return True
        return False if begun >= self.looked[1] + PATIENCE else None


class LeaseMachine(RuleBasedStateMachine):
    """`held` is the newest lease of each name that was not given back; `rows` who waits for it, in order."""

    @initialize(first=st.sampled_from([1, 7, 2**40]), room=st.sampled_from([5, 100, 10_000]))
    def start(self, first: int, room: int) -> None:
        sections = [*Log.sections(1 << 16, 64), *LeaseTable.sections()]
        self.log = Log.create(Region.create(None, identity=b"", generation=1, sections=sections))
        self.table = LeaseTable.create(self.log, first, first + room - 1)
        self.next, self.limit = first, first + room - 1
        self.held: dict[bytes, Held] = {}
        self.rows: dict[bytes, list[Waiter]] = {}
        self.grants = 0
        self.old: list[tuple[bytes, int, Lease]] = []

    # -- the model

    def holds(self, name: bytes) -> bool:
        return name in self.held and not self.held[name].is_over

    def in_front(self, name: bytes, waiter: Waiter | None, begun: int, ended: int) -> bool | None:
        """Whether somebody has waited longer, and looks."""
        row = self.rows.get(name, [])
        before = row[: row.index(waiter)] if waiter is not None and waiter in row else row
        answers = [each.is_waited_for(begun, ended) for each in before]
        return True if True in answers else None if None in answers else False

    def took(self, name: bytes, owner: bytes, ttl: int, lease: Lease) -> None:
        assert lease.number == self.next <= self.limit
        assert lease.name == name
        assert lease.is_current is (ttl > 0)
        assert (lease.remaining() > 3_000) is (ttl > 0)
        self.next += 1
        self.grants += 1
        if name in self.held:
            self.old.append((name, self.held[name].number, self.held[name].lease))
        self.held[name] = Held(lease.number, owner, ttl == 0, lease)

    def decide(self, name: bytes, waiter: Waiter | None, begun: int, granted: bool) -> None:
        """Fail unless it may have been granted, or refused."""
        if self.holds(name):
            assert not granted, "two holders"
            return
        behind = self.in_front(name, waiter, begun, now())
        assert behind is None or granted is not behind, "out of order" if granted else "nobody was in front"

    # -- granting

    @rule(name=names, owner=owners, ttl=ttls)
    def acquire(self, name: bytes, owner: bytes, ttl: int) -> None:
        begun = now()
        try:
            lease = self.table.acquire(name, owner, ttl, 0.0)
        except NumbersUsedUp:
            assert self.next > self.limit
            assert not self.holds(name)
            return
        self.decide(name, None, begun, lease is not None)
        if lease is not None:
            assert self.next <= self.limit
            self.took(name, owner, ttl, lease)

    @rule(name=names, owner=owners, look=st.booleans())
    def queue(self, name: bytes, owner: bytes, look: bool) -> None:
        waiter = Waiter(name, owner, self.table.queue(name, owner))
        self.rows.setdefault(name, [])
        self.waiters.append(waiter)
        if look:
            self.look_at(waiter, LONG)

    @property
    def waiters(self) -> list[Waiter]:
        self.__dict__.setdefault("_waiters", [])
        return self.__dict__["_waiters"]  # type: ignore[no-any-return]

    @rule(which=st.integers(0, 30), ttl=ttls)
    def look(self, which: int, ttl: int) -> None:
        if self.waiters:
            self.look_at(self.waiters[which % len(self.waiters)], ttl)

    @rule(name=names, ttl=ttls)
    def look_all(self, name: bytes, ttl: int) -> None:
        """All who wait for a name look, the last one first: the first one is granted."""
        for waiter in reversed(list(self.rows.get(name, []))):
            self.look_at(waiter, ttl)

    def look_at(self, waiter: Waiter, ttl: int) -> None:
        begun = now()
        row = self.rows[waiter.name]
        try:
            lease = waiter.place.look(ttl)
        except NumbersUsedUp:
            assert self.next > self.limit
            waiter.looked = (begun, now())
            return
        self.decide(waiter.name, waiter, begun, lease is not None)
        if lease is None:
            waiter.looked = (begun, now())
            if waiter not in row:
                row.append(waiter)
            return
        if waiter in row:
            row.remove(waiter)
        self.waiters.remove(waiter)
        self.took(waiter.name, waiter.owner, ttl, lease)

    @rule(name=names, count=st.integers(2, 4), last_first=st.booleans())
    def hand_over(self, name: bytes, count: int, last_first: bool) -> None:
        """Some take places while it is held; it is given back, and they look."""
        for _ in range(count):
            self.queue(name, b"", True)
        self.release(name, False)
        row = self.rows[name]
        for waiter in [*row][:: -1 if last_first else 1]:
            self.look_at(waiter, LONG)

    @rule(which=st.integers(0, 30))
    def leave(self, which: int) -> None:
        if self.waiters:
            waiter = self.waiters.pop(which % len(self.waiters))
            for _ in range(2):
                waiter.place.leave()
            if waiter in self.rows[waiter.name]:
                self.rows[waiter.name].remove(waiter)

    @rule(more=st.integers(0, 50), below=st.booleans())
    def reserve(self, more: int, below: bool) -> None:
        self.table.reserve(max(self.limit - more, 0) if below else self.limit + more)
        self.limit += 0 if below else more
        assert self.table.limit == self.limit

    # -- holding

    @rule(name=names, by_number=st.booleans())
    def release(self, name: bytes, by_number: bool) -> None:
        if name in self.held:
            held = self.held.pop(name)
            released = self.table.release(name, held.number) if by_number else held.lease.release()
            assert released is not held.is_over
            self.old.append((name, held.number, held.lease))

    @rule(name=names, ttl=ttls, by_number=st.booleans())
    def renew(self, name: bytes, ttl: int, by_number: bool) -> None:
        if name in self.held:
            held = self.held[name]
            renewed = self.table.renew(name, held.number, ttl) if by_number else held.lease.renew(ttl)
            assert renewed is not held.is_over
            self.held[name] = held._replace(is_over=held.is_over or ttl == 0)

    @rule(name=names, which=st.integers(0, 100))
    def use_what_is_over(self, name: bytes, which: int) -> None:
        """Of leases that were given back or taken, of other names, of numbers that were never granted."""
        current = self.held[name].number if name in self.held else 0
        for number in (0, self.next, self.next + which, 2**63, *(old[1] for old in self.old[-5:])):
            if number != current:
                assert not self.table.release(name, number)
                assert not self.table.renew(name, number, LONG)
                assert self.table.claim(name, number) is None
        if self.old:
            _, _, lease = self.old[which % len(self.old)]
            assert not lease.is_current
            assert lease.remaining() == 0.0
            assert not lease.renew(LONG)
            assert not lease.release()
            with pytest.raises(StaleLease):
                self.log.append([put(b"k", b"bad")], fence=lease)

    @rule(name=names, locked=st.booleans())
    def write(self, name: bytes, locked: bool) -> None:
        if name not in self.held:
            return
        held = self.held[name]
        claim = self.table.claim(name, held.number)
        assert claim is not None
        assert claim.is_current is not held.is_over
        self.log.advance_flushed(self.log.committed)
        before = self.log.committed
        if locked:
            self.log.lock(1)
        try:
            self.log.append([put(name[:50], b"v")], fence=claim, locked=locked)
            assert not held.is_over, "accepted, though it is over"
        except StaleLease:
            assert held.is_over
            assert self.log.committed == before
        finally:
            self.log.unlock()

    @rule()
    def release_all(self) -> None:
        self.table.release_all()
        self.old += [(name, held.number, held.lease) for name, held in self.held.items()]
        self.held.clear()

    @rule(count=st.sampled_from([10, 500]), keep=st.booleans())
    def use_other_names(self, count: int, keep: bool) -> None:
        self.table.reserve(self.limit + count)
        self.limit = max(self.limit, self.limit + count)
        for _ in range(count):
            if self.next > self.limit:
                return
            name = b"other %d" % self.next
            lease = self.table.acquire(name, b"", LONG, 0.0)
            assert lease is not None
            self.took(name, b"", LONG, lease)
            if not keep or len(self.held) > 50:
                assert self.held.pop(name).lease.release()

    # -- what is true all the time

    @invariant()
    def says_what_is(self) -> None:
        if not hasattr(self, "table"):
            return
        rows = {row[0]: row for row in self.table.list()}
        waited = {name: len(row) for name, row in self.rows.items() if row}
        assert rows.keys() == self.held.keys() | waited.keys()
        for name, (_, owner, number, _, alive, left, _, waiting, *_) in rows.items():
            held = self.held.get(name)
            assert waiting == waited.get(name, 0)
            assert number == (0 if held is None else held.number)
            if held is not None:
                assert owner == held.owner
                assert alive
                assert (left > 0) is not held.is_over
                assert held.lease.is_current is not held.is_over
        counts = self.table.counts
        assert (counts["held"], counts["grants"]) == (len(self.held), self.grants)
        assert self.table.next_number == self.next

    def teardown(self) -> None:
        for name in list(self.held) if hasattr(self, "held") else []:
            self.release(name, False)


def test_the_table_grants_what_a_dictionary_says() -> None:
    run_state_machine_as_test(LeaseMachine, settings=settings(max_examples=40, stateful_step_count=50))


# -- its limits


@pytest.fixture
def table() -> LeaseTable:
    sections = [*Log.sections(1 << 16, 64), *LeaseTable.sections()]
    log = Log.create(Region.create(None, identity=b"", generation=1, sections=sections))
    return LeaseTable.create(log, 1, 1 << 40)


def test_no_number_above_the_limit() -> None:
    """Neither for who acquires nor for who waits, nor is one lost when there are none."""
    sections = [*Log.sections(1 << 16, 64), *LeaseTable.sections()]
    log = Log.create(Region.create(None, identity=b"", generation=1, sections=sections))
    table = LeaseTable.create(log, 5, 7)
    lease = table.acquire(b"a", b"", LONG, 0.0)
    place = table.queue(b"a", b"")
    assert place.look(LONG) is None
    for number in (6, 7):
        lease.release()
        lease = place.look(LONG)
        assert lease.number == number
        place = table.queue(b"a", b"")
        assert place.look(LONG) is None
    lease.release()
    for _ in range(2):
        with pytest.raises(NumbersUsedUp):
            place.look(LONG)
        with pytest.raises(NumbersUsedUp):
            table.acquire(b"b", b"", LONG, 0.0)
    table.reserve(6)
    with pytest.raises(NumbersUsedUp):
        place.look(LONG)
    table.reserve(8)
    assert place.look(LONG).number == 8
    assert (table.next_number, table.limit) == (9, 8)


def test_as_many_names_as_slots(table: LeaseTable) -> None:
    """A slot is given to another name when nobody holds or waits for the one it has; numbers are never mixed up."""
    leases = {}
    for n in range(SLOTS):
        leases[n] = table.acquire(b"%d" % n, b"", LONG, 0.0)
    place = table.queue(b"5", b"")
    assert place.look(LONG) is None
    with pytest.raises(LeasesFull):
        table.acquire(b"another", b"", LONG, 0.0)
    with pytest.raises(LeasesFull):
        table.queue(b"another", b"").look(LONG)
    assert table.acquire(b"7", b"", LONG, 0.0) is None  # it has one
    leases[5].release()
    with pytest.raises(LeasesFull):  # waited for
        table.acquire(b"another", b"", LONG, 0.0)
    place.leave()
    another = table.acquire(b"another", b"", LONG, 0.0)
    assert another.number == SLOTS + 1
    with pytest.raises(LeasesFull):
        table.acquire(b"5", b"", LONG, 0.0)
    leases[9].renew(0)  # over
    assert table.acquire(b"5", b"", LONG, 0.0).number == SLOTS + 2
    assert table.claim(b"9", leases[9].number) is None
    assert not leases[9].release()
    assert not leases[5].release()
    assert not leases[5].renew(LONG)
    assert table.counts["held"] == SLOTS
    assert {row[0] for row in table.list()} == {b"%d" % n for n in range(SLOTS) if n != 9} | {b"another"}
    assert all(lease.is_current is (n not in (5, 9)) for n, lease in leases.items())
    for n, lease in leases.items():
        assert lease.release() is (n not in (5, 9))
    assert table.counts["held"] == 2


def test_many_more_names_than_slots(table: LeaseTable) -> None:
    """Each of 20,000 names is locked once, many at the same time; what is held is found, whatever came and went."""
    held: dict[bytes, Lease] = {}
    for n in range(20_000):
        name = b"%d" % n
        lease = table.acquire(name, b"", LONG, 0.0)
        assert lease is not None
        assert lease.number == n + 1
        held[name] = lease
        if len(held) > SLOTS - 48:
            for old in [*held][:: 1 + n % 3]:
                assert table.acquire(old, b"", LONG, 0.0) is None
                assert table.claim(old, held[old].number).is_current
                assert held.pop(old).release()
    assert table.counts["held"] == len(held)


def test_as_many_who_wait_as_places(table: LeaseTable) -> None:
    """They are served in order, and who finds no place gets one later."""
    lease = table.acquire(b"x", b"", LONG, 0.0)
    places = [table.queue(b"x", b"%d" % n) for n in range(PLACES + 3)]
    assert {place.look(LONG) for place in places} == {None}
    assert table.list(b"x")[0][7] == PLACES
    for place in places[1:-3:2]:
        place.leave()
    assert table.list(b"x")[0][7] == PLACES // 2
    assert {place.look(LONG) for place in places[-3:]} == {None}
    waiting = [*places[:-3:2], *places[-3:]]
    assert table.list(b"x")[0][7] == len(waiting)
    looked = dict.fromkeys(waiting, 0)
    in_order = 0
    while waiting:
        some = waiting[:8]
        for place in some:
            looked[place] = now()
            assert place.look(LONG) is None
        lease.release()
        granted = None
        while granted is None:
            for place in reversed(some):  # the last one first
                begun = now()
                lease = place.look(LONG)
                if lease is not None:
                    granted = place
                    break
                looked[place] = begun
        ahead = waiting[: waiting.index(granted)]
        assert all(now() >= looked[place] + PATIENCE for place in ahead), "somebody in front has looked just now"
        in_order += not ahead
        waiting.remove(granted)
    assert in_order > 0
    assert table.list(b"x")[0][7] == 0


def test_no_python_runs_while_a_list_has_the_mutex(table: LeaseTable) -> None:
    """Making what it returns may collect garbage, and whose finalizers give leases back, does not wait for that."""
    held = [table.acquire(b"%d" % n, b"", LONG, 0.0) for n in range(100)]
    given_back: list[bool] = []
    stalled: list[WriterStalled] = []

    def collecting(phase: str, _: object) -> None:
        if stalled:
            return
        try:
            lease = table.acquire(b"x", b"", LONG, 0.0)
            given_back.append(lease is not None and lease.release())
        except WriterStalled as error:
            stalled.append(error)

    kept = [(*range(n, n + 12),) for n in range(5_000)]  # tuples that would be used again without looking for garbage
    thresholds = gc.get_threshold()
    gc.callbacks.append(collecting)
    gc.set_threshold(1)
    try:
        assert len(table.list()) >= len(held)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collecting)
    assert stalled == []
    assert all(given_back)
    assert len(kept) == 5_000
