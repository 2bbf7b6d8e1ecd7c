"""Files of graphs that are damaged, swapped, or no files: what is searched then is right, and nothing waits or dies.

``NTMEM_GRAPH_FILES`` says how many are tried, in a process of its own. ``test_graph_damage.py`` damages the bytes of a
graph; here it is about files and their names, found by who opens a store.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from graphs import collection_of, early, files, grow, leftovers, spans
from hostile import ram_directory

import ntmem
from ntmem._core.hnsw import build
from ntmem.tiers.segments import version_of

COUNT = int(os.environ.get("NTMEM_GRAPH_FILES", "32"))
DIMENSION, FIRST, SECOND, LAST = 8, 4224, 256, 40
BEST = 10
HANG = 60  # seconds for one


class Scene(NamedTuple):
    """A store with graphs, closed, and what there is in it."""

    store: Path
    there: dict[str, Any]
    """Vectors that are served."""
    queries: Any
    nearest: list[set[str]]
    graphs: dict[str, bytes]
    """Files of the collection `n`, of the first slots and of what comes behind."""
    others: list[bytes]
    """Of other collections, and older ones."""
    alike: bytes
    """Of another collection with the same shape: nobody can tell."""
    odd: tuple[str, bytes]
    """Of the first slots, right but for that these end in the middle of a word."""

    @property
    def folder(self) -> Path:
        return self.store / "vectors"

    @property
    def names(self) -> list[str]:
        return sorted(self.graphs)


def rows(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def filled(v: Any, name: str, count: int, seed: int, **how: Any) -> None:
    v.create(name, DIMENSION, metric="l2", dtype="float32", **how)
    v.add_many(name, [str(n) for n in range(count)], rows(count, seed))


def graph_files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store / "vectors").glob("*.graph")}


def scene(place: Path) -> Scene:
    """Make a store with two graphs of a collection, some vectors behind them, and some that are served no more."""
    store = place / "s"
    with early(), ntmem.open(store, graph_share=0) as memory:
        v = memory.vectors
        filled(v, "n", FIRST - 64, 1)
        v.compact("n")
        older = graph_files(store)
        v.add_many("n", [str(n) for n in range(FIRST - 64, FIRST)], rows(64, 2))
        v.compact("n")
        v.add_many("n", [f"x{n}" for n in range(SECOND)], rows(SECOND, 3))
        grow(v)
        mine = graph_files(store)
        assert files(store) == [(0, FIRST), (FIRST, FIRST + SECOND)]
        odd = odd_graph(v)
        v.add_many("n", [str(n) for n in range(LAST)], rows(LAST, 4))
        for n in range(100, 120):
            v.delete("n", str(n))
        for name, count, m in (("alike", FIRST, 16), ("m", FIRST, 8), ("less", 640, 16)):
            filled(v, name, count, 9, m=m)
            v.compact(name)
        others = {name: data for name, data in graph_files(store).items() if name not in mine}
        there = {hit.id: v.get("n", hit.id).vector for hit in v.search("n", rows(1, 1)[0], 10**6)}
    queries = rows(8, 5)
    distances = ((np.stack(list(there.values()))[None] - queries[:, None]) ** 2).sum(axis=2)
    ids = np.array(list(there))
    alike, *rest = (others[name] for name in sorted(others))
    for name in others:
        (store / "vectors" / name).unlink()
    nearest = [set(ids[order[:BEST]]) for order in np.argsort(distances, axis=1)]
    return Scene(store, there, queries, nearest, mine, [*older.values(), *rest], alike, odd)


def odd_graph(v: Any) -> tuple[str, bytes]:
    collection, count = collection_of(v), FIRST + 100
    version = version_of(v._engine, collection.row.number, count - 1)
    data = build(*collection.tail().arrays(0, count), metric="l2")
    return f"{collection.row.number:08x}-{0:012x}-{count:012x}-{version:016x}.graph", data


# -- what is done to them; each returns whether that has to be told


def damage() -> Any:
    """Return the module beside this one, which is on the path of the process that damages."""
    import test_graph_damage

    return test_graph_damage


def changed(scene: Scene, chance: Any, path: Path) -> bool:
    """Some bytes."""
    data = damage().damaged(chance, path.read_bytes())
    told = data != scene.graphs[path.name]
    path.write_bytes(data)
    return told


def made_fit(scene: Scene, chance: Any, path: Path) -> bool:
    """Some bytes, with checksums that are right: it may count as whole."""
    path.write_bytes(damage().mended(damage().damaged(chance, path.read_bytes())))
    return False


def cut(scene: Scene, chance: Any, path: Path) -> bool:
    os.truncate(path, int(chance.choice([0, 1, 191, 192, 4096, path.stat().st_size - 1])))
    return True


def longer(scene: Scene, chance: Any, path: Path) -> bool:
    os.truncate(path, path.stat().st_size + int(chance.choice([1, 4, 4096, 1 << 40])))
    return True


def zeroed(scene: Scene, chance: Any, path: Path) -> bool:
    size = path.stat().st_size
    at = int(chance.integers(size - 4096))
    path.write_bytes(path.read_bytes()[:at] + bytes(4096) + path.read_bytes()[at + 4096 :])
    return path.read_bytes() != scene.graphs[path.name]


def swapped(scene: Scene, chance: Any, path: Path) -> bool:
    """The graph of other slots, of another collection, or of an older one."""
    mine = [data for name, data in scene.graphs.items() if name != path.name]
    choice = [*scene.others, *mine]
    path.write_bytes(choice[chance.integers(len(choice))])
    return True


def exchanged(scene: Scene, chance: Any, path: Path) -> bool:
    """The graph of another collection, of the same shape."""
    (scene.folder / scene.names[0]).write_bytes(scene.alike)
    return False


def renamed(scene: Scene, chance: Any, path: Path) -> bool:
    """A name that says something else."""
    path.rename(path.with_name(other_name(chance, path.name)))
    return False


def other_name(chance: Any, name: str) -> str:
    stem = name.removesuffix(".graph").split("-")
    names = [
        "-".join([stem[0], stem[1], stem[2], f"{int(stem[3], 16) ^ 1:016x}"]),
        "-".join([stem[0], f"{64:012x}", *stem[2:]]),
        "-".join([stem[0], stem[2], stem[1], stem[3]]),
        "-".join([stem[0], stem[2], stem[2], stem[3]]),
        "-".join([stem[0], stem[1], f"{int(stem[2], 16) + 1:012x}", stem[3]]),
        "-".join([stem[0], stem[1], f"{1 << 40:012x}", stem[3]]),
        "-".join([stem[0], stem[1], stem[3]]),
        "-".join([*stem, "0"]),
        "-".join([stem[0], "", "", stem[3]]),
        "-".join([stem[0], "x", "0x10", stem[3]]),
        f"{stem[0]}-",
        f"{stem[0]}-\udcff-ü-\n",
    ]
    return names[chance.integers(len(names))] + ".graph"


def beside(scene: Scene, chance: Any, path: Path) -> bool:
    """More files, whose names overlap, say too much, or nothing."""
    for _ in range(chance.integers(1, 20)):
        data = [*scene.graphs.values(), *scene.others, b""][chance.integers(len(scene.graphs) + 1)]
        path.with_name(other_name(chance, scene.names[chance.integers(2)])).write_bytes(data)
    return False


def as_directory(scene: Scene, chance: Any, path: Path) -> bool:
    path.unlink()
    path.mkdir()
    if chance.random() < 0.5:
        (path / "file").touch()
    return True


def as_fifo(scene: Scene, chance: Any, path: Path) -> bool:
    path.unlink()
    os.mkfifo(path)
    return True


def as_link(scene: Scene, chance: Any, path: Path) -> bool:
    """To nothing, to itself, to a device, to the store's directory, or to the other graph."""
    path.unlink()
    others = [name for name in scene.names if name != path.name]
    targets = ["nothing", path.name, "/dev/zero", "/dev/full", "..", *others]
    target = targets[chance.integers(len(targets))]
    path.symlink_to(target)
    return target != "nothing"


def of_nothing(scene: Scene, chance: Any, path: Path) -> bool:
    """A whole graph of no slots, where graphs end, under the name of its record."""
    path = path.with_name(scene.names[1])
    empty = bytearray(scene.graphs[path.name][:192])
    struct.pack_into("<II", empty, 28, 0, 0)
    struct.pack_into("<I", empty, 52, 0)
    empty[64:192] = bytes(128)
    _, _, end, version = path.name.split("-")
    (path.with_name(f"{path.name.split('-')[0]}-{end}-{end}-{version}")).write_bytes(damage().mended(bytes(empty)))
    return False


def odd(scene: Scene, chance: Any, path: Path) -> bool:
    """A graph that ends where no word of a bitmap does."""
    name, data = scene.odd
    path.with_name(name).write_bytes(data)
    return False


def in_the_way(scene: Scene, chance: Any, path: Path) -> bool:
    """Directories of such names, beside the right ones: who makes a graph would remove them."""
    for _ in range(3):
        path.with_name(other_name(chance, path.name)).mkdir(exist_ok=True)
    return False


def untouched(scene: Scene, chance: Any, path: Path) -> bool:
    return False


KINDS: list[Callable[[Scene, Any, Path], bool]] = [
    untouched,
    changed,
    made_fit,
    cut,
    longer,
    zeroed,
    swapped,
    exchanged,
    renamed,
    beside,
    as_directory,
    as_fifo,
    as_link,
    of_nothing,
    odd,
    in_the_way,
]


# -- what has to be right


class Told(logging.Handler):
    """Counts what is said of graphs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def recall(scene: Scene, v: Any) -> float:
    """See that each result is a vector that is served, with its score; return how many of the nearest were found."""
    shares = []
    for query, hits, nearest in zip(scene.queries, v.search_many("n", scene.queries, BEST), scene.nearest, strict=True):
        assert len({hit.id for hit in hits}) == len(hits) <= BEST
        scores = [-float(((scene.there[hit.id].astype(np.float64) - query) ** 2).sum()) for hit in hits]
        assert np.allclose([hit.score for hit in hits], scores, rtol=1e-4, atol=1e-4)
        shares.append(len({hit.id for hit in hits} & nearest) / BEST)
    return float(np.mean(shares))


def restored(scene: Scene) -> None:
    for path in scene.folder.glob("*.graph"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name, data in scene.graphs.items():
        (scene.folder / name).write_bytes(data)


def many(count: int) -> None:
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed, flush=True)
    chance, told, used, worst = np.random.default_rng(seed), Told(), Counter[str](), {}
    logging.getLogger("ntmem").addHandler(told)
    with ram_directory() as place, early():
        here = scene(place)
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            restored(here)
            told.lines.clear()
            must_tell = kind(here, chance, here.folder / here.names[chance.integers(2)])
            faulthandler.dump_traceback_later(HANG, exit=True)
            with ntmem.open(here.store, graph_share=0) as memory:
                v = memory.vectors
                found = recall(here, v)
                used[kind.__name__] += v.info("n").graphs
                worst[kind.__name__] = min(found, worst.get(kind.__name__, 1.0))
                assert found >= 0.9 or kind in (made_fit, exchanged), (number, kind.__name__, found)
                assert told.lines or not must_tell, (number, kind.__name__)
                assert v.graph_bytes >= 0
                if number % 3 == 0:
                    mends(here, memory, kind)
            faulthandler.cancel_dump_traceback_later()
    print(f"{'':14} used of 2 a store, least recall")
    for name, least in worst.items():
        print(f"{name:14} {used[name] / (count / len(KINDS)):.2f} {least:.3f}")


def mends(here: Scene, memory: ntmem.MemorySystem, kind: Any) -> None:
    """Who makes a graph takes away what it replaces, and what is found then is right."""
    v = memory.vectors
    collection = collection_of(v)
    if kind is as_directory:  # nothing can be put in its place if it is to have this name
        return
    v.add_many("n", ["new"] * 512, np.full((512, DIMENSION), 99.0, np.float32))
    made = grow(v)
    v.delete("n", "new")
    assert made == (v.info("n").graphed > 0) or kind is in_the_way
    part = spans(v)[-1]
    assert part[1] > collection.tail().count - 320
    assert recall(here, v) >= 0.9 or kind in (made_fit, exchanged)
    assert leftovers(here.store) == []


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_graph_files
test_graph_files.many(int(sys.argv[3]))
"""


def test_damaged_files(root: Path) -> None:
    """In a process of its own: a crash is one there."""
    command = [sys.executable, "-c", SCRIPT, str(root / "tests/abuse"), str(root / "tests/support"), str(COUNT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120 + COUNT)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
