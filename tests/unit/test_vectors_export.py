"""Vectors of a collection as a file: every bit of them, as of when, whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hostile import Start
from vectors import LAST, SECOND, START, Plain

import ntmem
from ntmem import LATEST, SerializationError, VectorError
from ntmem.tiers import exporting

HOW: dict[str, dict[str, Any]] = {"shared": {"engine": "shared"}, "lmdb": {"engine": "lmdb"}, "private": {}}
SUFFIXES = (".jsonl", ".parquet")


@pytest.fixture(params=HOW)
def memory(request: pytest.FixtureRequest, clock: ntmem.SimulatedClock, ram: Path) -> Iterator[ntmem.MemorySystem]:
    where = None if request.param == "private" else ram / "s"
    with ntmem.open(where, clock=clock, **HOW[request.param]) as memory:
        yield memory


@pytest.fixture
def v(memory: ntmem.MemorySystem) -> Any:
    return memory.vectors


@pytest.fixture(params=SUFFIXES)
def suffix(request: pytest.FixtureRequest) -> str:
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return request.param


@pytest.fixture
def private() -> Iterator[Any]:
    with ntmem.open(clock=ntmem.SimulatedClock(START)) as memory:
        yield memory.vectors


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, as its readers see them."""
    if path.suffix == ".parquet":
        rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        return [row | {"metadata": json.loads(row["metadata"])} for row in rows]
    with open(path, encoding="utf-8") as file:
        return [json.loads(line, parse_constant=pytest.fail) for line in file]


def check(path: Path, plain: Plain, as_of: int = LAST) -> None:
    """See that a file has just these vectors, in the order in which they were added."""
    rows = read(path)
    wanted = plain.served(as_of)
    assert [row["id"] for row in rows] == [it.id for it in wanted]
    for row, it in zip(rows, wanted, strict=True):
        assert list(row) == ["id", "vector", "metadata", "ts_event", "ts_known"]
        assert np.array(row["vector"], np.float32).tobytes() == it.vector.tobytes()
        assert repr(row["metadata"]) == repr(it.metadata)
        assert (row["ts_event"], row["ts_known"]) == (it.ts_event, it.ts_known)


def any_floats(count: int, dimension: int) -> np.ndarray:
    """Return float32 of all magnitudes: most numbers are of rare ones, -0.0 and subnormals are among them."""
    chance = np.random.default_rng(count)
    numbers = chance.integers(0, 1 << 32, count * dimension, np.uint32).view(np.float32)
    numbers[~np.isfinite(numbers)] = -0.0
    edges = np.array([1, 0x007F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0x8000_0000, 0x3DCC_CCCD], np.uint32)
    numbers[: len(edges)] = edges.view(np.float32)
    return numbers.reshape(count, dimension)


# -- what is in the file


def test_every_bit_comes_back(v: Any, suffix: str, tmp_path: Path) -> None:
    rows, plain = any_floats(700, 33), Plain()
    for number, row in enumerate(rows):
        plain.add(f"{number}", row, {"n": number}, START - number, START)
    v.add_many(
        "n",
        [it.id for it in plain.rows],
        rows,
        [it.metadata for it in plain.rows],
        ts_event=[it.ts_event for it in plain.rows],
    )
    path = tmp_path / f"n{suffix}"
    assert v.export("n", path) == 700
    check(path, plain)
    assert os.listdir(tmp_path) == [f"n{suffix}"]


def test_it_is_added_again_from_its_lines(private: Any, tmp_path: Path) -> None:
    rows = any_floats(300, 7)
    private.create("n", 7, dtype="float32")
    metadata = [{"n": 2**63 + number} for number in range(300)]
    private.add_many("n", [f"é{number}" for number in range(300)], rows, metadata)
    assert private.export("n", tmp_path / "n.jsonl") == 300
    found = read(tmp_path / "n.jsonl")
    private.create("m", 7, dtype="float32")
    given = {name: [row[name] for row in found] for name in ("ts_event", "ts_known")}
    columns = ([row[name] for row in found] for name in ("id", "vector", "metadata"))
    assert private.add_many("m", *columns, **given) == 300
    assert private.export("m", tmp_path / "m.jsonl") == 300
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "n.jsonl").read_bytes()


def test_ids_and_metadata_of_all_kinds(v: Any, suffix: str, tmp_path: Path) -> None:
    plain = Plain()
    deep: Any = 0.5
    for number in range(20):
        deep = [deep] if number % 2 else {"": deep, "é": None}
    kinds: list[Any] = [None, True, 0, -(2**63), 2**53 + 1, 2**64 - 1, -0.0, 1.0, 1e300, 5e-324]
    kinds += ["", 'a"\n\\\0', "é ✓ 😀", [], {}, [None, [1, "x"], {"$in": 2, "a.b": []}], deep]
    ids = ["é", "a\nb", '"', "\\", "\0", "\u2028\x85\x1e", "😀" * 128, " ", "x", "None"]
    for number, kind in enumerate(kinds):
        plain.add(f"{number}", [1, number], {"kind": kind, "😀": number})
    for name in ids:
        plain.add(name, [1, 2])
    for it in plain.rows:
        v.add("n", it.id, it.vector, it.metadata)
    assert v.export("n", tmp_path / f"n{suffix}") == len(kinds) + len(ids)
    check(tmp_path / f"n{suffix}", plain)


def test_as_of_before_and_after(v: Any, clock: ntmem.SimulatedClock, suffix: str, tmp_path: Path) -> None:
    plain, path = Plain(), tmp_path / f"n{suffix}"
    for step in range(6):
        known = START + step * SECOND
        for name in ("a", "b", "c"):
            if (step + ord(name)) % 3 == 0 and step:
                if v.delete("n", name, ts_known=known):
                    plain.delete(name, known)
            else:
                plain.add(name, [step + 1, ord(name)], {"step": step}, known, known)
                v.add("n", name, [step + 1, ord(name)], {"step": step}, ts_event=known, ts_known=known)
        clock.set(known)
    for step in range(-1, 7):
        for off in (-1, 0, 1):
            at = START + step * SECOND + off
            assert v.export("n", path, as_of=at) == v.count("n", as_of=at)
            check(path, plain, at)
    for as_of, at in ((None, START + 5 * SECOND), (LATEST, LAST), (datetime(2100, 1, 1, tzinfo=UTC), LAST)):
        assert v.export("n", path, as_of=as_of) == len(plain.served(at))
        check(path, plain, at)


def test_what_is_known_only_later(v: Any, suffix: str, tmp_path: Path) -> None:
    v.add("n", "a", [1, 0])
    v.add("n", "a", [0, 1], ts_known=START + SECOND)
    expected = [(START - 1, []), (None, [[1, 0]]), (START + SECOND, [[0, 1]]), (LATEST, [[0, 1]])]
    for as_of, vectors in expected:
        assert v.export("n", tmp_path / f"n{suffix}", as_of=as_of) == len(vectors)
        assert [row["vector"] for row in read(tmp_path / f"n{suffix}")] == vectors


@pytest.mark.parametrize("what", ["made", "emptied"])
def test_of_an_empty_collection(v: Any, suffix: str, tmp_path: Path, what: str) -> None:
    v.create("n", 5)
    if what == "emptied":
        v.add("n", "a", [1, 2, 3, 4, 5])
        v.delete("n", "a")
    assert v.export("n", tmp_path / f"n{suffix}") == 0
    assert read(tmp_path / f"n{suffix}") == []


@pytest.mark.parametrize("count", [1, 63, 64, 65, 255, 256, 257, 1000])
def test_however_many(private: Any, suffix: str, tmp_path: Path, count: int) -> None:
    plain = Plain()
    for number in range(count):
        plain.add(f"{number}", [number + 1])
    private.add_many("n", [it.id for it in plain.rows], np.arange(1, count + 1)[:, np.newaxis])
    for _ in range(2):
        assert private.export("n", tmp_path / f"n{suffix}") == len(plain.served())
        check(tmp_path / f"n{suffix}", plain)
        for number in range(0, count, 3):  # and few of many
            private.delete("n", f"{number}")
            plain.delete(f"{number}")


def test_the_types_of_columns(private: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(exporting, "_GROUP_BYTES", 1 << 16)
    private.add_many("n", [str(number) for number in range(3000)], np.ones((3000, 6)), ts_event=2**63 - 1)
    assert private.export("n", tmp_path / "n.parquet") == 3000
    file = parquet.ParquetFile(tmp_path / "n.parquet")
    vector, whole = arrow.list_(arrow.float32(), 6), arrow.int64()
    assert file.schema_arrow.types == [arrow.string(), vector, arrow.string(), whole, whole]
    groups = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert sum(groups) == 3000
    assert max(groups) * (24 + 2) < 1 << 16
    assert len(groups) < 100
    assert {row["ts_event"] for row in read(tmp_path / "n.parquet")} == {2**63 - 1}


@pytest.mark.parametrize("reader", ["pandas", "polars"])
def test_as_readers_of_tables_see_it(private: Any, tmp_path: Path, reader: str) -> None:
    pytest.importorskip("pyarrow")
    library = pytest.importorskip(reader)
    private.add("n", "a", [0.1, 2], {"spread": 2.5})
    private.add("n", "b", [3, 4], {"symbol": "é"})
    private.export("n", tmp_path / "n.parquet")
    table = library.read_parquet(tmp_path / "n.parquet")
    assert [list(row) for row in table["vector"].to_list()] == [[np.float32(0.1), 2], [3, 4]]
    assert [json.loads(row) for row in table["metadata"].to_list()] == [{"spread": 2.5}, {"symbol": "é"}]
    assert table["ts_known"].to_list() == [START, START]


# -- what others do meanwhile


def test_a_store_that_is_only_read(ram: Path, suffix: str) -> None:
    for kind in ("shared", "lmdb"):
        plain = Plain()
        plain.add("a", [1, 2], {"x": 1}, 0, 0)
        with ntmem.open(ram / kind, engine=kind) as memory:
            memory.vectors.add("n", "a", [1, 2], {"x": 1}, ts_event=0, ts_known=0)
            with ntmem.open(ram / kind, engine=kind, read_only=True) as reader:
                assert reader.vectors.export("n", ram / f"n{suffix}") == 1
        check(ram / f"n{suffix}", plain)
        with ntmem.open(ram / kind, engine=kind, read_only=True) as reader:
            assert reader.vectors.export("n", ram / f"n{suffix}") == 1
        check(ram / f"n{suffix}", plain)


def when_first_read(v: Any, monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """Have something done when the first vectors of an export were read."""
    engine, left = v._engine, [do]
    fetch = engine.fetch

    def fetch_and_do(*args: Any) -> Any:
        found = fetch(*args)
        if len(found) > 1 and left:  # who looks for what others wrote asks for one
            left.pop()()
        return found

    monkeypatch.setattr(engine, "fetch", fetch_and_do)


def test_changes_meanwhile_are_not_in_it(v: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, names = Plain(), [f"{number}" for number in range(1000)]
    for name in names:
        plain.add(name, [1, int(name)])
    v.add_many("n", names, [it.vector for it in plain.rows])

    def change() -> None:
        v.add_many("n", names[::2], np.ones((500, 2)), ts_known=0)
        v.add("n", "new", [1, 1], ts_known=0)
        for name in names[1::100]:
            v.delete("n", name, ts_known=0)

    when_first_read(v, monkeypatch, change)
    assert v.export("n", tmp_path / f"n{suffix}") == 1000
    check(tmp_path / f"n{suffix}", plain)


@pytest.mark.parametrize("again", [False, True])
def test_a_collection_that_is_dropped_meanwhile(
    v: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    v.add_many("n", [f"{number}" for number in range(1000)], np.ones((1000, 2)))

    def drop() -> None:
        v.drop("n")
        if again:
            v.add_many("n", [f"{number}" for number in range(2000)], np.ones((2000, 2)))

    when_first_read(v, monkeypatch, drop)
    with pytest.raises(VectorError, match="dropped while it was exported; nothing was written"):
        v.export("n", tmp_path / f"n{suffix}")
    assert os.listdir(tmp_path) == []


def test_many_at_once_into_one_file(private: Any, suffix: str, tmp_path: Path) -> None:
    private.add_many("n", [f"{number}" for number in range(2000)], np.ones((2000, 8)))
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(private.export("n", tmp_path / f"n{suffix}"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [2000] * 4
    assert os.listdir(tmp_path) == [f"n{suffix}"]
    assert len(read(tmp_path / f"n{suffix}")) == 2000


# -- what is refused, and what is left then


@pytest.mark.parametrize("name", ["n.json", "n", "n.JSONL", ".jsonl", "n.parquet.gz", "jsonl", "", "n.jsonl/", "n.csv"])
def test_names_that_say_no_format(private: Any, tmp_path: Path, name: str) -> None:
    private.add("n", "a", [1, 0])
    with pytest.raises(ValueError, match=r"must end in \.jsonl or \.parquet, was"):
        private.export("n", f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == []


def test_arguments_that_are_refused(private: Any, tmp_path: Path) -> None:
    private.add("n", "a", [1, 0])
    with pytest.raises(TypeError):
        private.export("n", 7)
    with pytest.raises(TypeError):
        private.export("n", tmp_path / "n.jsonl", as_of="noon")
    with pytest.raises(ntmem.InvalidNamespace):
        private.export("", tmp_path / "n.jsonl")
    for name in ("m", ("m", "x")):
        with pytest.raises(VectorError, match="there is no collection 'm"):
            private.export(name, tmp_path / "n.jsonl")
    private.drop("n")
    with pytest.raises(VectorError, match="there is no collection 'n' to export"):
        private.export("n", tmp_path / "n.jsonl")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({"x": b"raw"}, "bytes at x"),
        ({"a": {"b": [1, {"c": b""}]}}, r"bytes at a\.b\[1\]\.c"),
        ({"ok": 1, "pnl": float("nan")}, "nan at pnl"),
        ({"x": [1.0, float("-inf")]}, r"-inf at x\[1\]"),
        ({"x": datetime(2026, 1, 1, tzinfo=UTC)}, "datetime at x"),
        ({"x": msgspec.msgpack.Ext(5, b"x")}, "Ext at x"),
        ({"x": {1: 2}}, "a name of type int in x"),
        ({"x": [{None: 2}]}, r"a name of type NoneType in x\[0\]"),
    ],
)
def test_metadata_that_json_has_not(private: Any, suffix: str, tmp_path: Path, metadata: Any, found: str) -> None:
    private.add_many("n", [f"{number}" for number in range(600)], np.ones((600, 2)))
    path = tmp_path / f"n{suffix}"
    assert private.export("n", path) == 600
    before = path.read_bytes()
    private.add("n", "odd one", [1, 2], metadata, ts_known=START + 1)
    assert private.export("n", path) == 600  # it is not known yet
    with pytest.raises(SerializationError, match=f"metadata of 'odd one' have {found}, which JSON has not"):
        private.export("n", path, as_of=LATEST)
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == before


def test_a_directory_that_is_not_there(private: Any, suffix: str, tmp_path: Path) -> None:
    private.add("n", "a", [1, 0])
    with pytest.raises(FileNotFoundError):
        private.export("n", tmp_path / "gone" / f"n{suffix}")
    (tmp_path / f"n{suffix}").mkdir()
    with pytest.raises(IsADirectoryError):
        private.export("n", tmp_path / f"n{suffix}")
    assert os.listdir(tmp_path) == [f"n{suffix}"]


def test_a_file_of_that_name_is_replaced(
    private: Any, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private.add("n", "a", [1, 0])
    monkeypatch.chdir(tmp_path)
    path = Path(f"n{suffix}")
    path.write_text("x" * 10_000)
    path.chmod(0o400)
    with open(path) as before:
        assert private.export("n", str(path)) == 1
        assert before.read() == "x" * 10_000  # whoever reads it goes on reading what it was
    assert [row["id"] for row in read(path)] == ["a"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


REFUSED = """
import errno, resource
import numpy as np
suffix, folder = sys.argv[1], sys.argv[2]
if suffix == ".parquet":
    import pyarrow.parquet
memory = ntmem.open()
memory.vectors.add_many("n", [str(n) for n in range(5000)], np.random.default_rng(0).normal(size=(5000, 64)))
path = os.path.join(folder, "n" + suffix)
def attempt():
    try:
        return memory.vectors.export("n", path)
    except OSError as error:
        return errno.errorcode[error.errno]
if sys.argv[3] == "large":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    say(attempt(), os.listdir(folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
else:
    os.chmod(folder, 0o555)
    become_nobody()
    say(attempt(), os.listdir(folder))
    path = os.path.join(sys.argv[4], "n" + suffix)
    folder = sys.argv[4]
say(attempt(), [name for name in os.listdir(folder) if name.startswith("n")])
"""


@pytest.mark.parametrize("what", ["large", "forbidden"])
def test_a_disk_that_takes_no_more(ram: Path, start: Start, suffix: str, what: str) -> None:
    folder, other = ram / "exports", ram / "other"
    folder.mkdir()
    other.mkdir()
    other.chmod(0o777)
    child = start(REFUSED, suffix, folder, what, other)
    assert child.line() == {"large": "EFBIG []", "forbidden": "EACCES []"}[what]
    assert child.line() == f"5000 ['n{suffix}']"
    child.end()
    assert child.complaint() == ""


def test_without_pyarrow(private: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name.partition(".")[0] == "pyarrow":
                raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    private.add("n", "a", [1, 0])
    with pytest.raises(ModuleNotFoundError, match=r"needs pyarrow: pip install 'ntmem\[arrow\]'"):
        private.export("n", tmp_path / "n.parquet")
    assert os.listdir(tmp_path) == []
    assert private.export("n", tmp_path / "n.jsonl") == 1


def test_a_closed_store(tmp_path: Path) -> None:
    memory = ntmem.open()
    v = memory.vectors
    v.add("n", "a", [1, 0])
    memory.close()
    with pytest.raises(ntmem.StoreClosed):
        v.export("n", tmp_path / "n.jsonl")
    assert os.listdir(tmp_path) == []


def test_memory_does_not_grow_with_the_collection(private: Any, tmp_path: Path, suffix: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(exporting, "_GROUP_BYTES", 1 << 20)
    count, dimension = 20_000, 128  # 10 MB, 60 as Python's numbers
    private.create("n", dimension)
    rows = np.random.default_rng(0).normal(size=(count, dimension)).astype(np.float32)
    private.add_many("n", [f"{number}" for number in range(count)], rows, [{"n": number} for number in range(count)])
    private.get("n", "0")
    private.export("n", tmp_path / f"first{suffix}")  # what is imported
    tracemalloc.start()
    try:
        assert private.export("n", tmp_path / f"n{suffix}") == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 << 20
