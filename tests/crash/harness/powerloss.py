"""A loss of power: the data file as it was at some instant, without the region. It must be a beginning of the log.

The file is copied while no commit can be under way: in a write transaction of the store's own, or while a flusher is
stopped just before its commit (`flush_noted`) or just behind it (`flush_synced`). From those two a third is made: all
pages of the commit on disk, but not yet the page that makes it valid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from episodes import WORKERS
from judge import SEQUENCE, Judge, durable_floor
from nursery import Family
from worker import open_store

import ntmem
from ntmem.tiers.region import region_path
from ntmem.tiers.tables import Tables

_META = 2 * 4096


class _Enough(Exception):
    pass


def power_lost(family: Family, copies: int, counts: Counter[str]) -> dict[str, Any]:
    """Copy the data file again and again while four workers work, one of which is killed now and then."""
    snapshots = family.place / "snapshots"
    snapshots.mkdir()
    if family.chance.random() < 0.5:
        _copy_in_transactions(family, snapshots, copies)
    else:
        _copy_when_stopped(family, snapshots, copies)
    family.kill_all()
    paths = sorted(snapshots.glob("*.mdb"))
    counts["copies"] += len(paths)
    found = family.call(lambda: _judge_all(family, paths), most=180) or {"faults": [], "acknowledged": 0}
    family.faults += found["faults"]
    return found


def _copy(family: Family, snapshots: Path, number: int) -> Path:
    """The name says when the copying began: what was durable by then must be there."""
    path = snapshots / f"{number:03} {time.monotonic_ns()}.mdb"
    shutil.copyfile(family.store / "data.mdb", path)
    return path


def _copy_in_transactions(family: Family, snapshots: Path, copies: int) -> None:
    chance = family.chance

    def copy_all() -> None:
        with open_store(family.setting, "copier") as memory:
            store = memory._engine().store
            for number in range(copies):
                time.sleep(0.004 + chance.random() * 0.02)

                def act(_: object, number: int = number) -> None:
                    _copy(family, snapshots, number)
                    raise _Enough

                with contextlib.suppress(_Enough):
                    store.write(act)

    for _ in range(WORKERS):
        family.start()
    copier = family.fork(copy_all)
    family.others.add(copier)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        pid, status = os.waitpid(copier, os.WNOHANG)
        if pid:
            family.others.discard(copier)
            if status:
                family.collect_errors(f"the copier ended with status {status}")
            return
        if chance.random() < 0.05 and family.workers:
            family.kill(chance.choice(list(family.workers)))
        family.poll()
        while len(family.workers) < WORKERS:
            family.start()
        time.sleep(0.002)


def _copy_when_stopped(family: Family, snapshots: Path, copies: int) -> None:
    chance, number, until = family.chance, 0, time.monotonic() + 20
    before: dict[int, Path] = {}  # of a flusher that was stopped before its commit
    while number < copies and time.monotonic() < until and not family.faults:
        while len(family.workers) < WORKERS:
            nth = chance.randrange(1, 6)
            family.start([("flush_noted", "stop", nth), ("flush_synced", "stop", nth)])
        event = family.poll()
        if event is None:
            time.sleep(0.0003)
            continue
        pid, status = event
        if not os.WIFSTOPPED(status):
            continue
        path = _copy(family, snapshots, number)
        number += 1
        if pid not in before:
            before[pid] = path
        else:
            half = snapshots / f"{number:03} {before[pid].name.split()[1]}"
            shutil.copyfile(path, half)
            with open(half, "r+b") as file:
                file.write(before[pid].read_bytes()[:_META])
            number += 1
        if chance.random() < 0.2:
            family.kill(pid)
        else:
            family.resume(pid)


def _judge_all(family: Family, paths: list[Path]) -> dict[str, Any]:
    faults: list[str] = []
    acknowledged = 0
    for path in paths:
        judge = Judge(family.files)
        floor = durable_floor(judge.journals, int(path.stem.split()[1]))
        for memory, cut in _opened(path):
            if cut < floor:
                judge.fault(f"{path.name} ends at {cut}, and {floor} was said to be on disk")
            judge.judge_store(memory, cut)
        acknowledged = judge.acknowledged
        faults += [f"{path.name}: {fault}" for fault in judge.faults]
    if paths:
        faults += _reopened_in_place(family, paths[-1])
    return {"faults": faults, "acknowledged": acknowledged}


def _opened(path: Path) -> Iterator[tuple[Any, int]]:
    place = path.with_suffix("")
    place.mkdir()
    path.rename(place / "data.mdb")
    with ntmem.open(place, engine="lmdb") as memory:
        store = memory._engine().store
        yield memory, store.read(lambda txn: Tables(store, txn).head().position) & SEQUENCE
    (place / "data.mdb").rename(path)
    shutil.rmtree(place)


def _reopened_in_place(family: Family, path: Path) -> list[str]:
    """The same inode has older content, and shared memory is empty: no version may be given a second time."""
    with open(path, "rb") as source, open(family.store / "data.mdb", "r+b") as target:
        shutil.copyfileobj(source, target)
        target.truncate()
    os.unlink(region_path(str(family.store)))
    newest = max((o.result for o in Judge(family.files).all() if o.result and o.kind_is_versioned), default=0)
    with open_store(family.setting, "after the loss") as memory:
        version = memory.put("new", "key", b"")
    return [] if version > newest else [f"version {version} after a loss of power, {newest} had been given"]
