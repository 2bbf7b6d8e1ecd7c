"""The linearizability checker finds what is wrong, and only that; the fast search agrees with the obvious one."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from history import TORN, Progress, Recorder, number_of, read_file, read_history, value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from linear import Conflict, Operation, Undecided, check, check_versions, reference

import ntmem


def op(kind, begin, end, value=None, result=None, if_version=None, key="k", process="p"):
    return Operation(process, kind, key, begin, end, value, if_version, result)


def put(begin, end, value, version=None, if_version=None, **more):
    return op("put", begin, end, value, version, if_version, **more)


def get(begin, end, result, **more):
    return op("get", begin, end, None, result, **more)


def record(begin, end, value, version):
    return op("get_record", begin, end, None, (value, version))


def add(begin, end, value, result=None):
    return op("add", begin, end, value, result)


def delete(begin, end, result=None):
    return op("delete", begin, end, None, result)


FINE = {
    "nothing": [],
    "a read that is concurrent with a write sees either": [put(0, 9, "x", 1), get(1, 2, None), get(3, 4, "x")],
    "what ends when another begins is concurrent": [put(0, 5, "x", 1), get(5, 6, None)],
    "a pending write that was seen": [put(0, None, "x"), get(1, 2, None), get(3, 4, "x"), get(5, 6, "x")],
    "a pending write that was never seen": [put(0, None, "x"), put(1, 2, "y", 1), get(3, 4, "y")],
    "a pending write that was seen late": [
        put(0, None, "x"),
        put(1, 2, "y", 1),
        get(3, 4, "y"),
        delete(5, 6, True),
        get(7, 8, None),
        get(9, 10, "x"),
    ],
    "a pending write that a delete found": [put(0, None, "x"), delete(1, 2, True), get(3, 4, None)],
    "two pending writes that two deletes found": [
        put(0, None, "x"),
        put(0, None, "y"),
        delete(1, 2, True),
        delete(3, 4, True),
    ],
    "a pending delete, then an add": [put(0, 1, "x", 1), delete(2, None), add(3, 4, "y", True), record(5, 6, "y", 7)],
    "a pending delete that was seen": [put(0, 1, "x", 1), delete(2, None), get(3, 4, "x"), get(5, 6, None)],
    "a pending update of the version that is still there": [
        put(0, 1, "x", 1),
        put(2, None, "y", if_version=1),
        delete(3, None),
        get(4, 5, "y"),
    ],
    "a pending read": [put(0, 1, "x", 1), get(2, None, None), get(3, 4, "x")],
    "a conflict tells the version of a pending write": [
        put(0, None, "x"),
        put(1, 2, "y", Conflict(4), 3),
        record(3, 4, "x", 4),
        put(5, 6, "z", 9, 4),
    ],
    "a write of what must not exist": [
        put(0, 1, "x", 1, 0),
        put(2, 3, "y", Conflict(1), 0),
        delete(4, 5, True),
        put(6, 7, "y", 3, 0),
    ],
    "a conflict with a deleted key": [put(0, 1, "x", 1), delete(2, 3, True), put(4, 5, "y", Conflict(0), 1)],
    "one value written twice": [
        put(0, 1, "x", 1),
        put(2, 3, "y", 2),
        put(4, 9, "x", 3),
        get(5, 6, "y"),
        get(7, 8, "x"),
    ],
    "add finds a key": [add(0, 1, "x", True), add(2, 3, "y", False), get(4, 5, "x"), delete(6, 7, True)],
    "delete finds none": [delete(0, 1, False), put(2, 9, "x", 1), delete(3, 4, False), delete(5, 6, True)],
}

WRONG = {
    "stale read": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), get(4, 5, "x")],
        "stale read",
    ),
    "stale read of a version": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), record(4, 5, "x", 1)],
        "stale read",
    ),
    "stale read during a later write": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), put(4, 9, "z", 3), get(5, 6, "x")],
        "stale read",
    ),
    "two reads disagree on the order of two writes": (
        [put(0, 20, "x", 1), put(0, 20, "y", 2), get(3, 4, "y"), get(5, 6, "x")],
        "stale read",
    ),
    "lost update": (
        [put(0, 1, "x", 1), put(2, 5, "y", 2, 1), put(3, 6, "z", 3, 1), get(7, 8, "z")],
        "lost update",
    ),
    "both created it": (
        [put(0, 5, "y", 2, 0), put(1, 6, "z", 3, 0)],
        "found no key",
    ),
    "update of a version that was replaced": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), put(4, 5, "z", 3, 1)],
        "was not the key's version",
    ),
    "acknowledged and lost": (
        [put(0, 1, "x", 1), put(2, None, "y"), get(3, 4, None)],
        "lost write",
    ),
    "acknowledged, lost, and the value before is back": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), put(4, None, "z"), record(5, 6, "x", 1)],
        "stale read",
    ),
    "acknowledged add lost": (
        [add(0, 1, "x", True), add(2, 3, "y", True)],
        "lost write",
    ),
    "value from nowhere": (
        [put(0, 1, "x", 1), get(2, 3, "y")],
        "value from nowhere",
    ),
    "value of a refused write": (
        [put(0, 1, "x", 1), put(2, 3, "y", Conflict(1), 7), get(4, 5, "y")],
        "value from nowhere",
    ),
    "value of a later write": (
        [get(0, 1, "x"), put(2, 3, "x", 1)],
        "before",
    ),
    "value with the version of another": (
        [put(0, 1, "x", 1), record(2, 3, "x", 2)],
        "saw a version",
    ),
    "a delete that does not stick": (
        [put(0, 1, "x", 1), delete(2, 3, True), get(4, 5, "x")],
        "stale read",
    ),
    "a delete that does not stick, found by add": (
        [put(0, 1, "x", 1), delete(2, 3, True), add(4, 5, "y", False)],
        "did not stick",
    ),
    "one key deleted twice": (
        [put(0, 1, "x", 1), delete(2, 5, True), delete(3, 6, True)],
        "did not stick",
    ),
    "delete misses": (
        [put(0, 1, "x", 1), delete(2, 3, False)],
        "lost write",
    ),
    "version given twice": (
        [put(0, 5, "x", 1), put(0, 5, "y", 1)],
        "given twice",
    ),
    "version given twice, on two keys": (
        [put(0, 5, "x", 1), put(0, 5, "y", 1, key="l")],
        "given twice",
    ),
    "version against real time": (
        [put(0, 1, "x", 2), put(2, 3, "y", 1)],
        "real time",
    ),
    "version against real time, across keys": (
        [put(0, 1, "x", 2), put(2, 3, "y", 1, key="l")],
        "real time",
    ),
    "version against what was seen, across keys": (
        [add(0, 1, "x", True), record(2, 3, "x", 8), put(4, 5, "y", 7, key="l")],
        "real time",
    ),
    "version of two keys": (
        [put(0, 9, "x", 1, key="l"), put(0, None, "y"), record(1, 2, "y", 1)],
        "two keys",
    ),
    "a version that changes": (
        [add(0, 1, "x", True), record(2, 3, "x", 4), record(5, 6, "x", 5)],
        "not the key's value",
    ),
    "a pending write that was seen, then gone": (
        [put(0, 1, "x", 1), put(2, None, "y"), get(3, 4, "y"), get(5, 6, "x")],
        "stale read",
    ),
    "a pending write that was seen, then nothing": (
        [put(2, None, "y"), get(3, 4, "y"), get(5, 6, None)],
        "nothing deleted it",
    ),
    "a pending write that took effect twice": (
        [put(0, None, "x"), get(1, 2, "x"), put(3, 4, "y", 5), get(6, 7, "x")],
        "stale read",
    ),
    "a conflict with a version of the past": (
        [put(0, 1, "x", 1), put(2, 3, "y", 2), put(4, 5, "z", Conflict(1), 7)],
        "found a version",
    ),
    "a conflict with what was asked for": (
        [put(0, 1, "x", 1), put(2, 3, "y", Conflict(1), 1)],
        "the version it asked for",
    ),
}


@pytest.mark.parametrize("history", FINE.values(), ids=FINE)
def test_a_linearizable_history_passes(history: list[Operation]) -> None:
    why = check(history)
    assert why is None, why
    assert reference(history)


@pytest.mark.parametrize(("history", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found_and_named(history: list[Operation], words: str) -> None:
    why = check(history)
    assert why is not None
    assert words in str(why)
    assert why.culprit in why.window
    assert not slow_check(history)


def test_the_explanation_is_the_smallest_window() -> None:
    before = [put(10 * n, 10 * n + 5, n, n + 1) for n in range(1, 500)]
    read = [get(10 * n + 6, 10 * n + 7, n) for n in range(1, 500)]
    pending = [put(3, None, "pending"), delete(4, None)]
    first, second, stale = put(6000, 6001, "x", 600), put(6002, 6003, "y", 601), get(6004, 6005, "x", process="q")
    why = check([*before, *read, *pending, first, second, get(6003, 6010, "y"), stale])
    assert why is not None
    assert why.window == [second, stale]
    assert str(why).splitlines() == [
        "not linearizable: stale read: get('k') -> 'x' saw the value of put('k', 'x') -> 600, "
        "but before it began put('k', 'y') -> 601 had returned",
        "        0.000       0.001 us  p: put('k', 'y') -> 601",
        ">       0.002       0.003 us  q: get('k') -> 'x'",
    ]


def test_a_window_keeps_what_may_have_happened_before_it() -> None:
    """The write that ran all the while explains the first read, so that read is part of the contradiction."""
    slow, first, second = put(0, 100, "x", 9), get(10, 11, "x"), get(20, 21, None)
    why = check([slow, first, second])
    assert why is not None
    assert first in why.window
    assert second is why.culprit


def test_too_many_possibilities_are_an_error_and_not_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    import linear

    monkeypatch.setattr(linear._Search, "MOST", 10)
    adds = [put(0, None, f"x{n}", if_version=0) for n in range(9)] + [get(90, 91, f"x{n}") for n in range(9)]
    deletes = [delete(n, n + 1, True) for n in range(1, 9)]
    with pytest.raises(Undecided, match="more than 10 possibilities"):
        check([*adds, *deletes])


# -- against the obvious search


def slow_check(history: list[Operation]) -> bool:
    """What :func:`check` decides, from the definitions."""
    writes = [(it, it.result) for it in history if it.kind == "put" and isinstance(it.result, int)]
    known = writes + [(it, it.result[1]) for it in history if it.kind == "get_record" and it.result]
    known += [(it, it.result.found) for it in history if isinstance(it.result, Conflict) and it.result.found]
    once = len({version for _, version in writes}) == len(writes)
    one_key = all(a.key == b.key for a, va in known for b, vb in known if va == vb)
    ordered = all(va < vb for a, va in known for b, vb in writes if a.end < b.begin)
    return (
        once and one_key and ordered and all(reference(it for it in history if it.key == key) for key in keys(history))
    )


def keys(history: Iterable[Operation]) -> set[object]:
    return {it.key for it in history}


class Register:
    """Keys that are linearizable since each operation takes effect at one moment."""

    def __init__(self) -> None:
        self.keys: dict[object, tuple[object, int]] = {}
        self.version = 0

    def apply(self, it: Operation) -> object:
        value, version = self.keys.get(it.key, (None, 0))
        if it.kind == "get":
            return value
        if it.kind == "get_record":
            return (value, version) if version else None
        if it.kind == "put" and it.if_version not in (None, version):
            return Conflict(version)
        if it.kind == "add" and version:
            return False
        if it.kind == "delete":
            self.version += bool(version)
            return self.keys.pop(it.key, None) is not None
        self.version += 1
        self.keys[it.key] = (it.value, self.version)
        return self.version if it.kind == "put" else True


def simulate(chance: random.Random, *, count: int, processes: int, n_keys: int, n_values: int, kills: float):
    """Let processes work on a register, interrupted at any step and killed at some."""
    register = Register()
    history: list[Operation] = []
    running: dict[int, tuple[Operation, bool, object]] = {}
    names = list(range(processes))
    for now in range(1, 1 << 60):
        if len(history) + len(running) >= count and not running:
            return history
        who = chance.randrange(processes)
        if who not in running:
            if len(history) + len(running) < count:
                kind = chance.choice(["get", "get", "get_record", "put", "put_if", "add", "delete"])
                known = [register.version - chance.randrange(4), *(version for _, version in register.keys.values())]
                if_version = max(0, chance.choice(known)) if kind == "put_if" else None
                writes = kind in ("put", "put_if", "add")
                value = (chance.randrange(n_values) if n_values else now) if writes else None
                kind = "put" if writes and kind != "add" else kind
                it = Operation(names[who], kind, chance.randrange(n_keys), now, None, value, if_version)
                running[who] = (it, False, None)
            continue
        it, effective, result = running[who]
        if chance.random() < kills:
            history.append(it)
            names[who] += processes
            del running[who]
        elif not effective:
            running[who] = (it, True, register.apply(it))
        else:
            history.append(it._replace(end=now, result=result))
            del running[who]
    raise AssertionError


def mutate(chance: random.Random, history: list[Operation]) -> list[Operation]:
    """Change one thing of a history; what comes out may be linearizable or not."""
    history = list(history)
    n = chance.randrange(len(history))
    it = history[n]
    some = chance.choice(history)
    how = chance.randrange(6)
    if how == 0:
        del history[n]
    elif how == 1:
        history[n] = it._replace(end=None, result=None)
    elif it.end is None:
        pass
    elif how == 2:  # the whole interval elsewhere
        shift = chance.randrange(-20, 20)
        history[n] = it._replace(begin=it.begin + shift, end=it.end + shift)
    elif how == 3:
        history[n] = it._replace(end=max(it.begin, it.end + chance.randrange(-8, 8)))
    elif it.kind == some.kind and some.end is not None:
        history[n] = it._replace(result=some.result)
    elif it.kind in ("add", "delete"):
        history[n] = it._replace(result=not it.result)
    elif it.kind == "put":
        near = (it.result.found if isinstance(it.result, Conflict) else it.result) + chance.randrange(-2, 3)
        history[n] = it._replace(result=Conflict(max(0, near)) if isinstance(it.result, Conflict) else max(1, near))
    elif it.kind == "get":
        history[n] = it._replace(result=some.value)
    elif it.result is not None:
        value, version = it.result
        history[n] = it._replace(result=chance.choice([None, (some.value or value, version), (value, version + 1)]))
    return history


CHANCE = st.integers(0, 2**64 - 1).map(random.Random)
SHAPE = st.fixed_dictionaries(
    {
        "count": st.integers(1, 16),
        "processes": st.integers(1, 5),
        "n_keys": st.integers(1, 2),
        "n_values": st.sampled_from([0, 0, 1, 3]),  # 0: every value is written once
        "kills": st.sampled_from([0.0, 0.05, 0.3]),
    }
)


@settings(max_examples=300)
@given(chance=CHANCE, shape=SHAPE)
def test_what_a_register_does_passes(chance: random.Random, shape: dict[str, int]) -> None:
    history = simulate(chance, **shape)
    why = check(history)
    assert why is None, why
    assert slow_check(history)


@settings(max_examples=600)
@given(chance=CHANCE, shape=SHAPE, mutations=st.integers(1, 3))
def test_the_fast_search_decides_like_the_reference(
    chance: random.Random, shape: dict[str, int], mutations: int
) -> None:
    history = simulate(chance, **shape)
    for _ in range(mutations):
        if history:
            history = mutate(chance, history)
    expected = slow_check(history)
    assert (check(history) is None) == expected


@settings(max_examples=200)
@given(chance=CHANCE, n_values=st.sampled_from([0, 3]))
def test_a_window_is_a_contradiction_whatever_was_before(chance: random.Random, n_values: int) -> None:
    history = simulate(chance, count=14, processes=2, n_keys=1, n_values=n_values, kills=0.0)
    history = [it for it in mutate(chance, history) if it.end is not None]
    why = check(history)
    if why is None or check_versions(history) is not None:
        return
    start = min(it.begin for it in why.window)
    last = why.culprit.end
    whole = len(why.window) == sum(it.begin <= last for it in history)
    if whole or any(it.begin < start <= it.end or it.begin <= last < it.end for it in history):
        return  # it began with nothing; or a write may have come before, or had not returned yet
    values = {it.value for it in history} | {it.value for it in why.window} | {-1}
    versions = {it.result for it in history if it.kind == "put" and isinstance(it.result, int)}
    before = [[], *([put(start - 9, start - 8, value, version, key=0)] for value in values for version in versions)]
    assert not any(reference([*first, *why.window]) for first in before)


def test_many_operations_on_few_keys_with_kills() -> None:
    """As large as recorded ones, so that a search whose possibilities grow with the history is noticed."""
    history = simulate(random.Random(7), count=10_000, processes=5, n_keys=3, n_values=0, kills=0.01)
    assert sum(it.end is None for it in history) > 100
    why = check(history)
    assert why is None, why
    late = [n for n, it in enumerate(history) if it.kind == "get" and it.result and it.end][-1]
    old = next(it for it in history if it.kind == "get" and it.key == history[late].key and it.result)
    history[late] = history[late]._replace(result=old.result)
    why = check(history)
    assert why is not None
    assert "stale read" in why.reason
    assert history[late] is why.culprit
    assert len(why.window) < 20


# -- the recorder


def test_a_recording_is_what_was_done(tmp_path: Path) -> None:
    (files := tmp_path / "files").mkdir()
    with ntmem.open(tmp_path / "store") as memory:
        recorder = Recorder(memory, files / "me", 100)
        assert recorder.get(1) == 0
        version = recorder.put(1, 77)
        assert recorder.get(1) == 77
        assert recorder.get_record(1) == (77, version)
        assert recorder.put(1, 78, version + 1) == 0
        assert recorder.put(2, 79, 0) > version
        assert not recorder.add(1, 80)
        assert recorder.delete(1)
        assert recorder.get_record(1) == (0, 0)
        assert recorder.left == 91
        memory.put("linear", "k2", b"what nobody writes")
        assert recorder.get(2) == TORN
    history = read_history(files)
    assert [(it.kind, it.key, it.value, it.if_version, it.result) for it in history] == [
        ("get", "k1", None, None, None),
        ("put", "k1", 77, None, version),
        ("get", "k1", None, None, 77),
        ("get_record", "k1", None, None, (77, version)),
        ("put", "k1", 78, version + 1, Conflict(version)),
        ("put", "k2", 79, 0, history[5].result),
        ("add", "k1", 80, None, False),
        ("delete", "k1", None, None, True),
        ("get_record", "k1", None, None, None),
        ("get", "k2", None, None, TORN),
    ]
    assert {it.process for it in history} == {"me"}
    times = [time for it in history for time in (it.begin, it.end)]
    assert times == sorted(times)
    assert check(history[:-1]) is None
    assert "value from nowhere" in str(check(history))


def test_an_operation_that_never_returned_is_pending(tmp_path: Path) -> None:
    class Dead(Exception):
        pass

    class Dying:
        def put(self, *args: object, **more: object) -> int:
            raise Dead

    assert not Progress(tmp_path / "it", 10).has_begun(0)
    recorder = Recorder(Dying(), tmp_path / "it", 10)
    progress = Progress(tmp_path / "it", 10)
    assert progress.has_begun(0)
    assert not progress.has_begun(1)
    with pytest.raises(Dead):
        recorder.put(3, 5, if_version=8)
    assert progress.has_begun(1)
    assert not progress.has_begun(2)
    [it] = read_file(tmp_path / "it")
    assert it == ("it", "put", "k3", it.begin, None, 5, 8, None)


def test_a_recorder_that_died_early_left_an_empty_history(tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(bytes(70))
    assert read_file(tmp_path / "it") == []


@given(st.integers(1, 2**63 - 1))
def test_a_value_stands_for_its_number(number: int) -> None:
    value = value_of(number)
    assert number_of(value) == number
    assert number_of(value[:-1]) == TORN
    assert number_of(value + value[:8]) == TORN
    assert number_of(value[:-1] + bytes([value[-1] ^ 1])) == TORN
