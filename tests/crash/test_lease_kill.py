"""Processes that die or stop at every step of a lease, and of a write under one: the next holder has all or nothing."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from holders import until
from hostile import children
from leases import LONG, OPEN, check_sound, new_leases, take
from logs import Nursery, build_with_failpoints, put, unflushed

from ntmem._core.leases import LeasesFull
from ntmem._core.log import WriterStalled
from ntmem._core.logrecords import StaleLease

pytestmark = pytest.mark.crash

GRANT = ["lease_locked", "lease_revoked", "lease_filled", "lease_granted"]
GIVE = ["lease_locked", "lease_freed"]
RENEW = ["lease_locked", "lease_renewed"]
WAIT = ["lease_locked", "lease_queued", "lease_left"]
BEFORE = ["fence_checked", "locked", "checked", "reserved", "half_written", "written"]  # nothing of it is left
BETWEEN = ["sealed", "linked", "numbered"]  # finished by who repairs
MARKED = ["fence_marked", *BEFORE, *BETWEEN, "committed"]  # who is granted the lock waits for it
NAME = b"BTCUSDT"

WRITE = "log.append([put(b'a', b'half a'), put(b'b', b'half b')], timeout=60, fence=lease)"
OLD, NEW = (b"old a", b"old b"), (b"half a", b"half b")


@pytest.fixture(scope="module")
def tree(root, tmp_path_factory):
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        pytest.skip("there is no compiler to build the failpoints with")
    return build_with_failpoints(root, tmp_path_factory.mktemp("failpoints"))


@pytest.fixture(scope="module")
def nursery(tree):
    """Processes with failpoints; this one has none, and opens the same leases."""
    with children() as start:
        yield Nursery(start, tree)


@pytest.fixture(scope="module")
def another(tree):
    """One for those who run beside the test."""
    with children() as start:
        yield Nursery(start, tree)


@pytest.fixture
def leases():
    with new_leases() as leases:
        leases.log.append([put(b"a", b"old a"), put(b"b", b"old b")])
        yield leases


@pytest.fixture
def kept(leases):
    """A lease of another name, which nothing happens to."""
    lease = take(leases, b"kept")
    yield lease
    assert lease.is_current
    leases.log.append([put(b"kept", b"k")], fence=lease)


def code(leases, *lines):
    return "\n".join([OPEN.format(path=str(leases.log.region.path)), *lines])


def acquire(ttl=LONG, timeout=60, name=NAME):
    return f"lease = leases.acquire({name!r}, b'child', {ttl}, {timeout})"


def begin(nursery, script):
    """Let it run beside the test; its fate is the next line, behind what it says."""
    nursery.child.tell(json.dumps({"code": script}))


def fate(nursery):
    return json.loads(nursery.child.line())


def state(log):
    return tuple(log.get(b"ns", key).value for key in (b"a", b"b"))


def number_of(leases, name=NAME):
    """The number of the lease that is granted, 0: none is."""
    return next((row[2] for row in leases.list(name)), 0)


def end(leases, name=NAME):
    """Let the lease be over by now, whoever has it."""
    assert leases.renew(name, number_of(leases, name), 0)


def try_once(leases):
    """Return the lease if it is granted, and otherwise the process that is stopped, if that is why."""
    try:
        return leases.acquire(NAME, b"test", LONG, 0.01), None
    except WriterStalled as error:
        return None, error.pid


def waiting(leases, name=NAME):
    return next((row[7] for row in leases.list(name)), 0)


def free_lease(nursery, leases):
    lease = take(leases, NAME)
    assert lease.release()
    return lease


def dead_holder(nursery, leases):
    assert nursery.run(code(leases, acquire(), "os.kill(os.getpid(), signal.SIGKILL)"))[0] == "killed"
    assert number_of(leases)


def expired_holder(nursery, leases):
    lease = take(leases, NAME)
    end(leases)
    return lease


BEFORES = {
    "new": lambda nursery, leases: None,
    "free": free_lease,
    "expired": expired_holder,
    "dead": dead_holder,
}


# ---- who acquires, holds, waits ----


@pytest.mark.parametrize("before", BEFORES)
@pytest.mark.parametrize("point", [*GRANT, "lease_named"])
def test_who_is_killed_while_it_is_granted(nursery, leases, kept, point, before):
    for again in range(3):
        old = BEFORES[before](nursery, leases)
        first = leases.next_number
        ended, _ = nursery.run(code(leases, f"arm({point!r}, 'kill')", acquire(), "os._exit(7)"))
        if point == "lease_named" and ended == 7:
            assert before != "new" or again
            return
        assert ended == "killed"
        wasted = point in ("lease_revoked", "lease_filled", "lease_granted")
        assert number_of(leases) in (0, first - 1, first)
        assert old is None or not old.is_current
        lease = take(leases, NAME)
        assert lease.number == first + wasted
        assert lease.is_current
        assert leases.acquire(NAME, b"test", LONG, 0.0) is None
        assert leases.claim(NAME, first + wasted - 1) is None
        check_sound(leases)
        leases.log.append([put(b"c", b"v")], fence=lease)
        assert lease.release()
        assert leases.counts["held"] == 1


@pytest.mark.parametrize("end_by", ["continued", "killed"])
@pytest.mark.parametrize("before", BEFORES)
@pytest.mark.parametrize("point", [*GRANT, "lease_named"])
def test_who_is_stopped_while_it_is_granted(nursery, leases, kept, point, before, end_by):
    """It has the mutex: nobody is granted or gives back meanwhile, and everybody writes under what he has."""
    BEFORES[before](nursery, leases)
    first = leases.next_number
    script = code(leases, f"arm({point!r}, 'stop')", acquire(), "assert lease.is_current", WRITE)
    ended, pid = nursery.run(script)
    if point == "lease_named" and ended == "done":
        return
    assert ended == "stopped"
    for name in (NAME, b"another"):
        with pytest.raises(WriterStalled) as caught:
            leases.acquire(name, b"test", LONG, 0.01)
        assert caught.value.pid == pid
    leases.log.append([put(b"kept", b"v")], fence=kept)
    assert kept.is_current
    if end_by == "continued":
        assert nursery.resume(pid) == ("done", pid)
        assert state(leases.log) == NEW
    else:
        assert nursery.kill(pid) == ("killed", pid)
        assert state(leases.log) == OLD
    lease = take(leases, NAME)
    assert lease.number >= first + (end_by == "continued")
    check_sound(leases)
    assert lease.release()


@pytest.mark.parametrize("end_by", ["kill", "stop"])
@pytest.mark.parametrize("point", GIVE)
def test_who_dies_or_stops_giving_back(nursery, another, leases, kept, point, end_by):
    """Somebody waits: he gets it, though nobody calls him any more."""
    for again in range(2):
        held = take(leases, NAME)
        begin(another, code(leases, "say('waits')", acquire(), "say(lease.number)", "lease.release()"))
        assert another.child.line() == "waits"
        until(lambda: waiting(leases) == 1)
        number = held.number
        # It gives back by number what this process holds, as anybody can who knows the token.
        script = code(leases, f"arm({point!r}, {end_by!r})", f"leases.release({NAME!r}, {number})")
        ended, pid = nursery.run(script)
        assert ended == ("killed" if end_by == "kill" else "stopped")
        if end_by == "stop":
            assert held.is_current == (point == "lease_locked")
            assert (nursery.resume if again else nursery.kill)(pid)[0] == ("done" if again else "killed")
        if held.is_current:  # the giver died before it did
            assert point == "lease_locked"
            assert held.release()
        assert int(another.child.line()) == number + 1
        assert fate(another)[0] == "done"
        check_sound(leases)
        assert leases.counts["held"] == 1


@pytest.mark.parametrize("end_by", ["kill", "stop"])
@pytest.mark.parametrize("point", RENEW)
def test_who_dies_or_stops_renewing(nursery, leases, kept, point, end_by):
    script = code(leases, acquire(), f"arm({point!r}, {end_by!r})", f"os._exit(7 + lease.renew({2 * LONG}))")
    ended, pid = nursery.run(script)
    if end_by == "stop":
        assert ended == "stopped"
        with pytest.raises(WriterStalled):
            leases.acquire(NAME, b"test", LONG, 0.01)
        assert nursery.resume(pid)[0] == 8
    else:
        assert ended == "killed"
    lease = take(leases, NAME)  # it is dead by now
    assert lease.number == 3
    check_sound(leases)


@pytest.mark.parametrize("end_by", ["kill", "stop"])
@pytest.mark.parametrize("point", WAIT)
def test_who_dies_or_stops_waiting(nursery, leases, kept, point, end_by):
    """Its place is passed over; those behind it keep their order."""
    held = take(leases, NAME)
    nth = 2 if point == "lease_locked" else 1  # looking a second time
    lines = ["place = leases.queue(b'BTCUSDT', b'child')", "place.look(10**9)", "place.leave()"]
    if point == "lease_left":
        lines.insert(2, f"arm({point!r}, {end_by!r})")
    else:
        lines.insert(1, f"arm({point!r}, {end_by!r}, {nth})")
    ended, pid = nursery.run(code(leases, *lines))
    if end_by == "stop":
        assert ended == "stopped"
        with pytest.raises(WriterStalled):
            leases.acquire(NAME, b"test", LONG, 0.01)
        assert nursery.kill(pid)[0] == "killed"
    else:
        assert ended == "killed"
    places = [leases.queue(NAME, b"%d" % number) for number in range(3)]
    assert [place.look(LONG) for place in places] == [None] * 3
    assert waiting(leases) in (3, 4)  # the dead's is among them for a second
    assert held.release()
    for place in places:
        found = []
        until(lambda place=place, found=found: found.append(place.look(LONG)) or found[-1])
        assert found[-1].release()
    assert waiting(leases) <= 1
    check_sound(leases)


def test_places_of_the_dead_are_used_again(nursery, leases):
    take(leases, NAME)
    lines = ["places = [leases.queue(b'%d' % (n % 50), b'child') for n in range(1024)]"]
    lines += ["held = [leases.acquire(b'%d' % n, b'child', 10**12) for n in range(50)]"]
    lines += ["for place in places: place.look(10**9)", "os.kill(os.getpid(), signal.SIGKILL)"]
    assert nursery.run(code(leases, *lines))[0] == "killed"
    places = [leases.queue(NAME, b"test") for _ in range(1024)]
    for place in places:  # once the dead have been silent for a second
        until(lambda place=place: place.look(LONG) or waiting(leases) > places.index(place))
    assert sum(row[7] for row in leases.list()) == waiting(leases) == 1024
    for place in places:
        place.leave()
    check_sound(leases)


@pytest.mark.parametrize("end_by", ["kill", "stop"])
@pytest.mark.parametrize("point", ["lease_left", *GRANT])
def test_who_dies_or_stops_when_its_turn_has_come(another, leases, kept, point, end_by):
    for _ in range(3):
        held = take(leases, NAME)
        lines = ["place = leases.queue(b'BTCUSDT', b'child')", "place.look(10**9)", "say('waits')", "hear()"]
        lines += [f"arm({point!r}, {end_by!r})", f"lease = place.look({LONG})", "assert lease is not None"]
        begin(another, code(leases, *lines))
        assert another.child.line() == "waits"
        first = leases.next_number
        held.release()
        behind = leases.queue(NAME, b"test")
        begun = behind.look(LONG)
        if begun is not None:  # it had not looked for 20 ms
            begun.release()
            first += 1
        another.child.tell()
        ended, pid = fate(another)
        if end_by == "stop":
            assert ended == "stopped"
            another.kill(pid)
        else:
            assert ended == "killed"
        found = []
        until(lambda behind=behind, found=found: found.append(behind.look(LONG)) or found[-1])
        assert found[-1].number == first + (point not in ("lease_locked",))
        assert found[-1].release()
        check_sound(leases)
    behind.leave()


@pytest.mark.parametrize("point", ["lease_locked", "lease_queued", "lease_revoked"])
def test_a_repairer_dies_or_stops(nursery, leases, kept, point):
    held = take(leases, NAME)
    places = [leases.queue(NAME, b"%d" % number) for number in range(3)]
    assert [place.look(LONG) for place in places] == [None] * 3
    name = NAME if point == "lease_queued" else b"another"
    for _ in range(3):
        assert nursery.run(code(leases, f"arm({point!r}, 'kill')", acquire(name=name)))[0] == "killed"
        for _ in range(3):
            script = code(leases, "arm('lease_repaired', 'kill')", acquire(name=b"third"))
            assert nursery.run(script)[0] == "killed"
    ended, pid = nursery.run(code(leases, "arm('lease_repaired', 'stop')", acquire(name=b"third")))
    assert ended == "stopped"
    with pytest.raises(WriterStalled):
        leases.acquire(b"third", b"test", LONG, 0.01)
    assert nursery.resume(pid)[0] == "done"
    assert 3 <= waiting(leases) <= 3 + 3 * (point == "lease_queued")
    assert number_of(leases) == held.number
    check_sound(leases)
    held.release()
    for place in places:
        found = []
        until(lambda place=place, found=found: found.append(place.look(LONG)) or found[-1])
        assert found[-1].release()
    check_sound(leases)


# ---- who writes ----


@pytest.mark.parametrize("point", [*MARKED, "announced"])
def test_a_writer_killed_has_written_all_before_the_next_holder_or_nothing(nursery, another, leases, kept, point):
    for again in range(3):
        first = leases.next_number
        before = state(leases.log)
        script = code(leases, acquire(), f"arm({point!r}, 'kill')", WRITE)
        begin(another, code(leases, "say('hears')", "hear()", acquire(timeout=60), "say(lease.number)"))
        assert another.child.line() == "hears"  # else its line would be the nursery's
        assert nursery.run(script)[0] == "killed"
        if again:  # the next holder is another process
            another.child.tell()
            assert int(another.child.line()) == first + 1
            assert fate(another)[0] == "done"
        lease = take(leases, NAME)
        seen, committed = state(leases.log), leases.log.committed
        done = point not in BEFORE and point != "fence_marked"
        assert seen == (NEW if done else before)
        assert sum(len(group) == 2 and group[0].value == b"half a" for group in unflushed(leases.log)) == done
        leases.log.append([put(b"c", b"v")], timeout=0)
        assert leases.log.read_groups(committed)[0][0][0].key == b"c"
        assert state(leases.log) == seen
        leases.log.append([put(b"a", b"old a"), put(b"b", b"old b")], fence=lease)
        leases.log.advance_flushed(leases.log.committed)
        assert lease.release()
        if not again:
            another.child.tell()
            assert int(another.child.line()) == lease.number + 1
            assert fate(another)[0] == "done"
        check_sound(leases)


@pytest.mark.parametrize("fated", ["continued", "killed"])
@pytest.mark.parametrize("ended_by", ["time", "release"])
@pytest.mark.parametrize("point", MARKED)
def test_who_is_stopped_in_a_write_is_waited_for(nursery, another, leases, kept, point, ended_by, fated):
    """The lease ends while its write is under way: no other is granted before the write is there, or never to be."""
    stopped, pid = nursery.run(code(leases, acquire(), f"arm({point!r}, 'stop')", "try:", f"    {WRITE}", END))
    assert stopped == "stopped"
    number = number_of(leases)
    if ended_by == "release":
        assert leases.release(NAME, number)
    else:
        end(leases)
    begin(
        another,
        code(
            leases,
            "say('waits')",
            acquire(timeout=60),
            "found = [log.get(b'ns', key).value.decode() for key in (b'a', b'b')]",
            "log.append([put(b'a', b'old a'), put(b'b', b'next')], timeout=60, fence=lease)",
            "say(json.dumps([lease.number, *found]))",
        ),
    )
    assert another.child.line() == "waits"
    for _ in range(3):
        found, stalled = try_once(leases)
        assert found is None
        assert stalled in (pid, None)  # the other one has it at the moment, and waits for the write
    assert state(leases.log) == (NEW if point == "committed" else OLD)
    with pytest.raises(WriterStalled):
        leases.log.append([put(b"c", b"v")], timeout=0.01)
    if fated == "continued":
        assert nursery.resume(pid)[0] == (5 if point == "fence_marked" else 6)  # refused; accepted
        done = point != "fence_marked"
    else:
        assert nursery.kill(pid)[0] == "killed"
        done = point not in BEFORE and point != "fence_marked"
    granted, *found = json.loads(another.child.line())
    assert granted > number
    assert tuple(value.encode() for value in found) == (NEW if done else OLD)
    assert fate(another)[0] == "done"
    assert state(leases.log) == (b"old a", b"next")
    assert sum(len(group) == 2 and group[0].value == b"half a" for group in unflushed(leases.log)) == done
    check_sound(leases)


END = """    os._exit(6)
except StaleLease:
    os._exit(5)
"""


def test_the_slot_of_a_write_that_is_under_way_is_given_to_no_other_name(nursery, leases):
    """Who is granted that name in another slot would look for another mark."""
    script = code(leases, acquire(), "arm('written', 'stop')", WRITE)
    stopped, pid = nursery.run(script)
    assert stopped == "stopped"
    for how in ("expired", "free"):
        if how == "expired":
            end(leases)
        granted = 0
        with pytest.raises(LeasesFull):
            while leases.acquire(b"%s %d" % (how.encode(), granted), b"test", LONG, 0.0):
                granted += 1
        assert granted == 2047
        leases.release_all()
        with pytest.raises(WriterStalled):
            leases.acquire(NAME, b"test", LONG, 0.01)
    assert nursery.resume(pid)[0] == "done"
    take(leases, NAME)
    assert state(leases.log) == NEW


@pytest.mark.parametrize("point", ["repair_begun", "repair_linked", "repair_numbered", "repair_committed", "repaired"])
def test_who_repairs_the_log_is_waited_for(nursery, leases, point):
    """Its writer died in a write under a lease; what it began is finished before another is granted that."""
    assert nursery.run(code(leases, acquire(), "arm('linked', 'kill')", WRITE))[0] == "killed"
    stopped, pid = nursery.run(code(leases, f"arm({point!r}, 'stop')", "log.append([put(b'c', b'v')], timeout=60)"))
    assert stopped == "stopped"
    lease, stalled = try_once(leases)
    assert stalled == (None if point == "repaired" else pid)
    if lease is not None:
        assert state(leases.log) == NEW
    assert nursery.resume(pid)[0] == "done"
    if lease is None:
        lease = take(leases, NAME)
    assert state(leases.log) == NEW
    leases.log.append([put(b"a", b"old a")], fence=lease)
    check_sound(leases)


@pytest.mark.parametrize("fated", ["continued", "killed"])
def test_who_dies_or_stops_while_it_waits_for_a_write(nursery, leases, kept, fated):
    stale = ["try:", f"    {WRITE}", END]
    stopped, writer = nursery.run(code(leases, acquire(), "arm('written', 'stop')", *stale))
    assert stopped == "stopped"
    end(leases)
    dead = code(leases, "arm('lease_barred', 'kill')", acquire())
    for number in range(2):
        assert nursery.run(dead)[0] == "killed"
        with pytest.raises(WriterStalled) as caught:  # the same is waited for
            leases.acquire(NAME, b"test", LONG, 0.0 if number else 0.01)
        assert caught.value.pid == writer
    stopped, barred = nursery.run(code(leases, "arm('lease_barred', 'stop')", acquire(), *stale))
    assert stopped == "stopped"
    assert leases.acquire(NAME, b"test", LONG, 0.0) is None  # it has it
    end(leases)
    with pytest.raises(WriterStalled):
        leases.acquire(NAME, b"test", LONG, 0.01)
    assert state(leases.log) == OLD
    if fated == "continued":
        assert nursery.resume(writer)[0] == 6
    else:
        assert nursery.kill(writer)[0] == "killed"
    lease = take(leases, NAME)
    assert state(leases.log) == (NEW if fated == "continued" else OLD)
    assert nursery.resume(barred)[0] == 5  # late, and refused
    assert state(leases.log) == (NEW if fated == "continued" else OLD)
    assert lease.release()
    check_sound(leases)


def test_another_lock_is_not_waited_for(nursery, leases):
    """A write that is stopped under one lock holds up no other lock, only writers."""
    ended, pid = nursery.run(code(leases, acquire(), "arm('written', 'stop')", WRITE))
    assert ended == "stopped"
    for number in range(100):
        lease = leases.acquire(b"%d" % number, b"test", LONG, 0.0)
        assert lease is not None
        assert lease.release()
    assert nursery.resume(pid)[0] == "done"


def test_what_is_over_is_refused_in_every_state(nursery, leases):
    """Ended, given back, taken over, of a dead process, invented: no bytes in the log."""
    lease = take(leases, NAME)
    claim = leases.claim(NAME, lease.number)
    leases.log.append([put(b"a", b"v")], fence=claim)
    dead_number = 10**9
    committed = leases.log.committed
    end(leases)
    stale = [claim, lease]
    later = take(leases, NAME)
    later.release()
    stale.append(later)
    ended, _ = nursery.run(code(leases, acquire(), "os.kill(os.getpid(), signal.SIGKILL)"))
    assert ended == "killed"
    stale.append(leases.claim(NAME, number_of(leases)))
    current = take(leases, NAME)
    assert leases.claim(NAME, dead_number) is None
    for each in stale:
        assert not each.is_current
        with pytest.raises(StaleLease):
            leases.log.append([put(b"a", b"bad")], fence=each)
        leases.log.lock(1)
        try:
            with pytest.raises(StaleLease):
                leases.log.admit(each)
            with pytest.raises(StaleLease):
                leases.log.append([put(b"a", b"bad")], fence=each, locked=True)
        finally:
            leases.log.unlock()
    assert leases.log.committed == committed
    leases.log.append([put(b"a", b"good")], fence=current)


# ---- at random ----

BUSY = """
import random
chance = random.Random({seed})
names = [b"x", b"y", b"z"]
arm({point!r}, "kill", {nth})
while True:
    name = chance.choice(names)
    try:
        lease = leases.acquire(name, b"child", 10**10, chance.choice([0.0, 0.0005, 10]))
        if lease is None: continue
        value = b"%d" % lease.number
        log.append([put(name + b"0", value), put(name + b"1", value)], timeout=0.05, fence=lease)
        if chance.random() < 0.3: lease.renew(10**10)
        found = [log.get(b"ns", name + b"%d" % n).value for n in range(2)]
        assert found == [value, value] or not lease.is_current, "somebody else wrote"
        if chance.random() < 0.1: lease.renew(0)
        elif chance.random() < 0.9: lease.release()
        else:
            place = leases.queue(chance.choice(names), b"child")
            taken = place.look(10**10); place.leave(); lease.release()
            if taken: taken.release()
    except (LogFull, StaleLease, WriterStalled): os._exit(3)
"""


def test_random_deaths_leave_leases_that_work(nursery, another):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    points = sorted({*GRANT, *GIVE, *RENEW, *WAIT, *MARKED, "announced", "lease_named", "lease_repaired"})
    killed = newest = 0
    with new_leases(1 << 14) as leases:
        for number in range(80):
            leases.log.append([put(b"first", b"")], timeout=60)
            leases.log.advance_flushed(leases.log.committed)
            for each in (nursery, another):  # two at once
                point = chance.choice(points)
                begin(each, code(leases, BUSY.format(seed=seed + number, point=point, nth=number % 9 + 1)))
            ended = [fate(each)[0] for each in (nursery, another)]
            assert {*ended} <= {"killed", 3}
            killed += ended.count("killed")
            for name in (b"x", b"y", b"z"):
                lease = take(leases, name)
                assert lease.number > newest
                newest = lease.number
                found = [leases.log.get(b"ns", name + b"%d" % n) for n in range(2)]
                assert (found[0] and found[0].value) == (found[1] and found[1].value), "half"
                leases.log.advance_flushed(leases.log.committed)
                leases.log.append([put(name + b"0", b""), put(name + b"1", b"")], fence=lease)
                assert lease.release()
            check_sound(leases)
    assert killed > 40
