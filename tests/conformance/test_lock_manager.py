"""What every :class:`~ntmem.coordination.protocols.LockManager` has to do, whatever it is made of."""

from __future__ import annotations

import asyncio
import copy
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hostile import HANG
from polling import auntil, until

from ntmem import CoordinationError, Fence, LockToken
from ntmem.coordination import Grant, LockManager

MS = 1_000_000
LONG = 60_000 * MS
SHORT = 20 * MS
ROUNDS = 20


def granted(locks: LockManager, resource: str = "BTCUSDT", ttl: int = LONG, timeout: float | None = HANG) -> Grant:
    """Return a lease that has to be granted."""
    grant = locks.grant(resource, ttl, timeout)
    assert grant is not None
    return grant


def token_of(grant: Grant, resource: str = "BTCUSDT") -> LockToken:
    return LockToken(Fence(resource, grant.number))


def waiting(locks: LockManager, resource: str = "BTCUSDT") -> int:
    """Return how many wait."""
    return next((info.waiting for info in locks.list() if info.resource == resource), 0)


class Waiter(threading.Thread):
    """Waits for a lease in a thread, and has it in `grant`."""

    def __init__(self, locks: LockManager, timeout: float | None = HANG, then: Callable[[Grant], None] | None = None):
        super().__init__(daemon=True)
        self.grant: Grant | None = None
        self._locks = locks
        self._timeout = timeout
        self._then = then
        self.start()

    def run(self) -> None:
        self.grant = self._locks.grant("BTCUSDT", LONG, self._timeout)
        if self._then is not None and self.grant is not None:
            self._then(self.grant)

    def result(self) -> Grant | None:
        self.join(HANG)
        assert not self.is_alive()
        return self.grant


# ---- one at a time ----


def test_one_at_a_time(backend: Any) -> None:
    locks = backend.locks
    first = granted(locks)
    assert first.is_current
    assert locks.grant("BTCUSDT", LONG, 0.0) is None
    assert locks.grant("BTCUSDT", LONG, 0.01) is None
    other = granted(locks, "ETHUSDT", timeout=0.0)
    assert first.release()
    second = granted(locks, timeout=0.0)
    assert not first.is_current
    assert second.is_current
    assert other.is_current
    assert first.number < other.number < second.number


def test_numbers_rise_whoever_is_granted_what(backend: Any) -> None:
    connections = [backend.here, backend.connect("another"), backend.connect("a third")]
    numbers = []
    for number in range(300):
        grant = granted(connections[number % 3].locks, f"name {number % 7}", ttl=1 if number % 5 == 0 else LONG)
        numbers.append(grant.number)
        grant.release()
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


def test_numbers_rise_over_a_restart(backend: Any) -> None:
    before = [granted(backend.locks, name).number for name in "abc"]
    backend.restart()
    after = granted(backend.locks, "b", timeout=0.0)  # what was granted ended with who had it
    assert after.number > max(before)


def test_threads_exclude_each_other(backend: Any) -> None:
    inside, most, numbers = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(100):
            grant = granted(backend.locks)
            inside += 1
            most = max(most, inside)
            numbers.append(grant.number)
            inside -= 1
            assert grant.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    assert most == 1
    assert len(numbers) == 400
    assert numbers == sorted(set(numbers))


def test_processes_exclude_each_other(backend: Any, tmp_path: Any) -> None:
    tally = tmp_path / "tally"
    tally.write_text("0")
    code = """
say("ready"); hear()
for _ in range(50):
    grant = locks.grant("BTCUSDT", 60 * 10**9, None)
    with open(sys.argv[1]) as file: number = int(file.read())
    with open(sys.argv[1], "w") as file: file.write(str(number + 1))
    assert grant.release()
"""
    others = [backend.elsewhere(code, tally) for _ in range(3)]
    for other in others:
        assert other.line() == "ready"
    for other in others:
        other.tell()
    for other in others:
        other.end()
    assert tally.read_text() == "150"


# ---- tokens ----


def forms(token: LockToken) -> list[Any]:
    """Return everything by which a lease may be named."""
    return [
        token,
        token.fence,
        str(token),
        "".join(list(token)),
        pickle.loads(pickle.dumps(token)),
        copy.deepcopy(token),
        pickle.loads(pickle.dumps(token.fence)),
    ]


@pytest.mark.parametrize("resource", ["BTCUSDT", "a#1", "#", "orders of agent 1/é", "x" * 255])
def test_a_token_names_one_lease_in_every_form(backend: Any, resource: str) -> None:
    locks = backend.locks
    for form in forms(token_of(granted(locks, resource), resource)):
        token = form if isinstance(form, Fence) else LockToken(Fence(*form.rsplit("#", 1)))
        assert locks.is_current(form)
        assert locks.renew(form, 30)
        assert locks.release(form), token
        assert not locks.is_current(form)
        assert not locks.release(form)
        grant = granted(locks, resource, timeout=0.0)
        for stale in (form, str(form) if isinstance(form, str) else form):  # the old ones end nothing
            assert not locks.release(stale)
            assert not locks.renew(stale, 30)
        assert grant.is_current
        assert grant.release()
        break
    for number in range(len(forms(LockToken(Fence("x", 1))))):
        grant = granted(locks, resource, timeout=0.0)
        form = forms(token_of(grant, resource))[number]
        assert locks.is_current(form)
        assert locks.renew(form, 30)
        assert locks.release(form)
        assert not grant.is_current


def test_a_token_is_text(backend: Any) -> None:
    grant = granted(backend.locks)
    token = token_of(grant)
    assert token == f"BTCUSDT#{grant.number}"
    assert token.fence == Fence("BTCUSDT", grant.number)
    again = pickle.loads(pickle.dumps(token))
    assert (type(again), again, again.fence) == (LockToken, token, token.fence)


def test_stale_tokens_end_nothing(backend: Any) -> None:
    locks = backend.locks
    old = token_of(granted(locks))
    assert locks.release(old)
    grant = granted(locks)
    wrong = [Fence("BTCUSDT", number) for number in (0, -1, grant.number + 1, 2**63 - 1, 2**63, 2**64, 2**100)]
    for stale in (old, *wrong, Fence("ETHUSDT", grant.number), f"nobody's#{grant.number}"):
        assert not locks.is_current(stale)
        assert not locks.release(stale)
        assert not locks.renew(stale, 1e-9)
    assert grant.is_current
    assert grant.release()
    assert not grant.release()


def test_a_token_works_in_another_process(backend: Any) -> None:
    locks = backend.locks
    child = backend.elsewhere(
        "while token := hear(): say(locks.is_current(token), locks.renew(token, 30), locks.release(token))"
    )
    grant = granted(locks)
    child.tell(str(token_of(grant)))
    assert child.line() == "True True True"
    assert not grant.is_current
    assert not grant.release()
    child.tell(str(token_of(grant)))
    assert child.line() == "False False False"


# ---- time ----


def test_a_lease_ends_by_itself(backend: Any) -> None:
    locks = backend.locks
    old = granted(locks, ttl=SHORT)
    assert granted(locks).number > old.number  # after a wait
    assert not old.is_current
    assert old.remaining() == 0.0
    assert not old.renew(LONG)
    assert not old.release()
    assert locks.is_locked("BTCUSDT")


def test_what_is_over_is_over_though_nobody_took_it(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks, ttl=SHORT)
    token = token_of(grant)
    until(lambda: not grant.is_current)
    assert not locks.is_locked("BTCUSDT")
    assert not locks.is_current(token)
    assert not grant.renew(LONG)
    assert not locks.renew(token, 30)
    assert grant.remaining() == 0.0
    assert not locks.release(token)
    assert granted(locks, timeout=0.0).number > grant.number


def test_renewal_counts_from_now(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks, ttl=LONG)
    assert 0 < grant.remaining() <= LONG / 1e9
    assert grant.renew(10 * LONG)
    assert LONG / 1e9 < grant.remaining() <= 10 * LONG / 1e9
    assert locks.renew(token_of(grant), 30)
    assert grant.remaining() <= 30
    assert locks.is_current(token_of(grant))
    assert grant.renew(1)  # it may be shortened, too
    until(lambda: not grant.is_current)
    assert not grant.renew(LONG)


def test_a_renewed_lease_outlives_its_first_time(backend: Any) -> None:
    locks = backend.locks
    ttl = 300 * MS
    grant = granted(locks, ttl=ttl)
    end = time.monotonic() + 2.5 * ttl / 1e9
    renewed = True
    while renewed and time.monotonic() < end:
        started = time.monotonic()
        renewed = grant.renew(ttl)
        time.sleep(0.01)
        if time.monotonic() - started > ttl / 2e9:
            pytest.skip("this process was not run for too long to renew in time")
    assert renewed
    assert grant.is_current


# ---- waiting ----


def test_a_wait_ends_in_time_and_leaves_no_place(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks)
    began = time.monotonic()
    assert locks.grant("BTCUSDT", LONG, 0.05) is None
    assert time.monotonic() - began >= 0.05
    assert waiting(locks) == 0
    began = time.monotonic()
    assert asyncio.run(locks.agrant("BTCUSDT", LONG, 0.05)) is None
    assert time.monotonic() - began >= 0.05
    assert waiting(locks) == 0
    assert grant.is_current


def test_who_waits_is_counted_and_granted(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks)
    waiter = Waiter(locks, timeout=None)
    until(lambda: waiting(locks) == 1)
    assert grant.release()
    later = waiter.result()
    assert later is not None
    assert later.is_current
    assert later.number > grant.number
    [info] = locks.list()
    assert (info.waiting, info.waits) == (0, 1)
    assert 0 < info.waited == info.longest_wait


def test_who_waits_is_granted_what_expires(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks, ttl=SHORT)
    later = Waiter(locks, timeout=None).result()
    assert later is not None
    assert later.is_current
    assert not grant.is_current


@pytest.mark.parametrize("kind", ["threads", "tasks", "both"])
def test_first_come_first_served(backend: Any, kind: str) -> None:
    """A waiter that the machine does not run may be passed over, so of several rounds one has to be in order: by chance
    one of 5,040 would be."""
    asyncio.run(in_order(backend.locks, kind))


async def in_order(locks: LockManager, kind: str) -> None:
    order: list[int] = []
    for _ in range(ROUNDS):
        order.clear()
        grant = granted(locks)
        waiters: list[Any] = []
        for number in range(7):

            def note(grant: Grant, number: int = number) -> None:
                order.append(number)
                grant.release()

            async def task(note: Callable[[Grant], None] = note) -> None:
                grant = await locks.agrant("BTCUSDT", LONG, None)
                assert grant is not None
                note(grant)

            is_thread = kind == "threads" or (kind == "both" and number % 2)
            waiters.append(Waiter(locks, None, note) if is_thread else asyncio.create_task(task()))
            await auntil(lambda number=number: waiting(locks) == number + 1)
        assert order == []
        assert grant.release()
        await auntil(lambda: len(order) == 7)
        for waiter in waiters:
            if isinstance(waiter, Waiter):
                waiter.result()
            else:
                await waiter
        assert sorted(order) == list(range(7))  # nobody is forgotten
        if order == list(range(7)):
            return
    raise AssertionError(f"never in order, at last {order}")


def test_a_task_does_the_same_as_a_thread(backend: Any) -> None:
    locks = backend.locks

    async def main() -> None:
        first = await locks.agrant("BTCUSDT", LONG, 0.0)
        assert first is not None
        assert await locks.agrant("BTCUSDT", LONG, 0.0) is None
        assert await locks.agrant("BTCUSDT", LONG, 0.01) is None
        waits = asyncio.create_task(locks.agrant("BTCUSDT", LONG, None))
        await auntil(lambda: waiting(locks) == 1)
        assert not waits.done()
        assert first.release()
        second = await waits
        assert second is not None
        assert second.is_current
        assert second.number > first.number
        assert second.renew(SHORT)
        third = await locks.agrant("BTCUSDT", LONG, None)
        assert third is not None
        assert not second.is_current

    asyncio.run(main())


def test_many_tasks_are_granted_one_after_the_other(backend: Any) -> None:
    locks = backend.locks
    inside, numbers = 0, []

    async def work() -> None:
        nonlocal inside
        grant = await locks.agrant("BTCUSDT", LONG, HANG)
        assert grant is not None
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        numbers.append(grant.number)
        assert grant.release()

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(60)))

    asyncio.run(main())
    assert len(numbers) == 60
    assert numbers == sorted(set(numbers))


def test_a_cancelled_task_leaves_no_lease_and_no_place(backend: Any) -> None:
    """At every point: before it looked, while it waits, as it is called, when it has been granted and does not know."""
    locks = backend.locks

    async def main() -> None:
        for turns in range(40):
            grant = granted(locks, timeout=0.0)
            task = asyncio.create_task(locks.agrant("BTCUSDT", LONG, None))
            if turns % 4:
                await auntil(lambda: waiting(locks) == 1)
            if turns % 4 >= 2:
                assert grant.release()
            for _ in range(turns // 4):
                await asyncio.sleep(0.001 * (turns % 3))
            task.cancel()
            try:
                theirs = await task
            except asyncio.CancelledError:
                theirs = None
            if theirs is not None:  # it had it before it was cancelled
                assert theirs.release()
            assert waiting(locks) == 0
            grant.release()
            assert not locks.is_locked("BTCUSDT")

    asyncio.run(main())


def test_who_is_cancelled_does_not_keep_the_next_waiting(backend: Any) -> None:
    locks = backend.locks

    async def main() -> None:
        grant = granted(locks)
        first = asyncio.create_task(locks.agrant("BTCUSDT", LONG, None))
        await auntil(lambda: waiting(locks) == 1)
        second = asyncio.create_task(locks.agrant("BTCUSDT", LONG, HANG))
        await auntil(lambda: waiting(locks) == 2)
        grant.release()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        theirs = await second
        assert theirs is not None
        assert theirs.release()

    asyncio.run(main())


# ---- other processes ----

HOLD = """
grant = locks.grant("BTCUSDT", int(sys.argv[1]), None)
say(grant.number)
hear()
"""


def test_the_lease_of_a_killed_process_is_taken(backend: Any) -> None:
    locks = backend.locks
    child = backend.elsewhere(HOLD, LONG)
    number = int(child.line())
    assert locks.is_locked("BTCUSDT")
    assert locks.is_current(Fence("BTCUSDT", number))
    waiter = Waiter(locks, timeout=None)
    until(lambda: waiting(locks) == 1)
    child.kill()
    grant = waiter.result()  # a minute before its time has passed
    assert grant is not None
    assert grant.number > number
    assert not locks.is_current(Fence("BTCUSDT", number))


def test_the_dead_are_told_from_the_living(backend: Any) -> None:
    locks = backend.locks
    child = backend.elsewhere(HOLD, LONG)
    number = int(child.line())
    [info] = locks.list()
    assert (info.is_current, info.is_alive, info.pid, info.owner) == (True, True, child.pid, "elsewhere")
    child.kill()
    assert not locks.is_locked("BTCUSDT")
    for info in locks.list():  # it may still be on the list
        assert (info.is_current, info.is_alive) == (False, False)
    assert granted(locks, timeout=0.0).number > number


def test_the_lease_of_a_stopped_process_is_its_own_until_it_is_over(backend: Any) -> None:
    locks = backend.locks
    child = backend.elsewhere(HOLD + "say(grant.is_current, grant.release())", 500 * MS)
    child.line()
    child.stop()
    grant = granted(locks)
    child.signal(signal.SIGCONT)
    child.tell()
    assert child.line() == "False False"
    assert grant.is_current


def test_a_killed_waiter_keeps_nobody_waiting(backend: Any) -> None:
    locks = backend.locks
    grant = granted(locks)
    children = [backend.elsewhere("say('waits'); locks.grant('BTCUSDT', 10**12, None); say('granted')") for _ in "ab"]
    for number, child in enumerate(children):
        child.line()
        until(lambda number=number: waiting(locks) >= number + 1)
    waiter = Waiter(locks, timeout=None)
    until(lambda: waiting(locks) == 3)
    children[0].kill()
    children[1].stop()
    grant.release()
    assert waiter.result() is not None


def test_who_closes_gives_back(backend: Any) -> None:
    child = backend.elsewhere(HOLD + "memory.close(); say('closed'); hear()", LONG)
    child.line()
    waiter = Waiter(backend.locks, timeout=None)
    until(lambda: waiting(backend.locks) == 1)
    child.tell()
    assert waiter.result() is not None
    assert child.line() == "closed"
    child.tell()
    child.end()


# ---- looking ----


def test_the_list(backend: Any) -> None:
    locks = backend.locks
    assert locks.list() == []
    assert not locks.is_locked("BTCUSDT")
    grants = {name: granted(locks, name) for name in ("b", "a", "é", "ntmem")}
    rows = locks.list()
    assert [info.resource for info in rows] == ["a", "b", "ntmem", "é"]
    for info in rows:
        assert info.fence == Fence(info.resource, grants[info.resource].number)
        assert info.owner == "here"
        assert (info.is_current, info.is_alive, info.waiting, info.grants, info.waits) == (True, True, 0, 1, 0)
        assert 0 < info.remaining <= LONG / 1e9
        assert info.held >= 0
        assert locks.is_locked(info.resource)
    for grant in grants.values():
        grant.release()
    assert locks.list() == []


def test_what_is_free_and_waited_for_is_on_the_list(backend: Any) -> None:
    """As its waiter has been called and not looked yet: here, as the loop in which it waits is held up."""
    locks = backend.locks

    async def main() -> None:
        grant = granted(locks)
        task = asyncio.create_task(locks.agrant("BTCUSDT", LONG, HANG))
        await auntil(lambda: waiting(locks) == 1)
        grant.release()
        [info] = locks.list()
        assert (info.fence, info.is_current, info.remaining, info.waiting) == (None, False, 0.0, 1)
        assert not locks.is_locked("BTCUSDT")
        theirs = await task
        assert theirs is not None
        theirs.release()

    asyncio.run(main())


# ---- what is refused ----

WRONG_NAMES = [
    ("", ValueError, "0 bytes"),
    ("x" * 256, ValueError, "256 bytes"),
    ("é" * 128, ValueError, "256 bytes"),
    ("a\0b", ValueError, "NUL"),
    ("\ud800", ValueError, "UTF-8"),
    (b"BTCUSDT", TypeError, "was bytes"),
    (None, TypeError, "was NoneType"),
    (5, TypeError, "was int"),
    ("ntmem:agent:x", ValueError, "choose another"),
]


@pytest.mark.parametrize(("name", "error", "says"), WRONG_NAMES)
def test_wrong_names(backend: Any, name: Any, error: type[Exception], says: str) -> None:
    locks = backend.locks
    with pytest.raises(error, match=says):
        locks.grant(name, LONG, 0.0)
    with pytest.raises(error, match=says):
        asyncio.run(locks.agrant(name, LONG, 0.0))
    with pytest.raises(error, match=says):
        locks.is_locked(name)
    assert locks.list() == []


@pytest.mark.parametrize(
    ("token", "error", "says"),
    [
        ("BTCUSDT", ValueError, "'BTCUSDT'"),
        ("BTCUSDT#", ValueError, "resource#number"),
        ("#1", ValueError, "resource#number"),
        ("BTCUSDT#-1", ValueError, "resource#number"),
        ("BTCUSDT#1.5", ValueError, "resource#number"),
        ("BTCUSDT#1 ", ValueError, "resource#number"),
        ("BTCUSDT#\u0663", ValueError, "resource#number"),
        (f"BTCUSDT#{2**63}", ValueError, "resource#number"),
        ("x" * 256 + "#1", ValueError, "256 bytes"),
        (b"BTCUSDT#1", TypeError, "was bytes"),
        (1, TypeError, "was int"),
        (("BTCUSDT", 1), TypeError, "was tuple"),
        (Fence("BTCUSDT", "1"), TypeError, "number"),  # type: ignore[arg-type]
        (Fence(b"BTCUSDT", 1), TypeError, "resource"),  # type: ignore[arg-type]
    ],
)
def test_wrong_tokens(backend: Any, token: Any, error: type[Exception], says: str) -> None:
    locks = backend.locks
    with pytest.raises(error, match=says):
        locks.release(token)
    with pytest.raises(error, match=says):
        locks.renew(token, 1.0)
    with pytest.raises(error, match=says):
        locks.is_current(token)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e10])
def test_wrong_times(backend: Any, ttl: float) -> None:
    grant = granted(backend.locks)
    with pytest.raises(ValueError, match="ttl"):
        backend.locks.renew(token_of(grant), ttl)
    with pytest.raises(TypeError, match="ttl must be seconds"):
        backend.locks.renew(token_of(grant), str(ttl))
    assert grant.is_current


def test_too_many_are_refused_and_taken_again_later(backend: Any) -> None:
    locks = backend.locks
    grants = []
    with pytest.raises(CoordinationError, match="give some back"):
        while True:
            grants.append(granted(locks, f"name {len(grants)}", timeout=0.0))
            assert len(grants) < 100_000, "no limit: then this test is not about this backend"
    assert len(grants) >= 1000
    assert len(locks.list()) == len(grants)
    assert grants.pop().release()
    granted(locks, "another", timeout=0.0)
    assert all(grant.is_current for grant in grants)
