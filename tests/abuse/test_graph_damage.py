"""Damaged graphs: refused by name, or searched without a crash, whatever is changed.

``NTMEM_GRAPH_DAMAGE`` says how many damaged copies are tried, in a process of its own. Half of them have their
checksums made right again: what these would have caught then reaches the check of the links, which has to refuse all
that would lead a search astray.
"""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from vectorial import rows_of, uniform

from ntmem._core.delta import crc
from ntmem._core.graph import Damaged, Graph
from ntmem._core.hnsw import build

COUNT = int(os.environ.get("NTMEM_GRAPH_DAMAGE", "2000"))
HEADER = 192
BLOCK = 1 << 16
LINK = 3

assert HEADER % LINK == 0


def body_of(data):
    """How many bytes there are between header and checksums, of a file of this size."""
    rest = len(data) - HEADER
    return rest - 4 * -(-rest // (BLOCK + 4))


def mended(data):
    """The same with sizes and checksums that fit."""
    if len(data) < HEADER:
        return data
    copy, body = bytearray(data), body_of(data)
    copy[16:24] = struct.pack("<Q", len(copy))
    for block in range(-(-body // BLOCK)):
        at = HEADER + BLOCK * block
        here = HEADER + body + 4 * block
        copy[here : here + 4] = struct.pack("<I", crc(bytes(copy[at : min(at + BLOCK, HEADER + body)])))
    copy[12:16] = bytes(4)
    copy[12:16] = struct.pack("<I", crc(bytes(copy[:HEADER])))
    return bytes(copy)


def link(number):
    return struct.pack("<I", number)[:LINK]


def damaged(generator, data):
    """A copy with some bytes changed, cut off, doubled or moved; often in the header."""
    copy = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        if not copy:
            break
        at = int(generator.integers(min(len(copy), HEADER) if generator.random() < 0.3 else len(copy)))
        kind = int(generator.integers(20))
        if kind == 0:
            copy[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            copy[at] = int(generator.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            copy[at : at + 4] = generator.bytes(4)
        elif kind == 3:
            del copy[at:]
        elif kind == 4:
            copy[at:at] = copy[at : at + 8]
        elif kind == 5:
            del copy[at : at + int(generator.integers(1, 9))]
        elif kind == 6:
            word = struct.pack("<I", int(generator.choice([0, 1, 2, 99, 399, 400, 401, 2**31, 2**32 - 1])))
            copy[at // 4 * 4 : at // 4 * 4 + 4] = word
        else:  # another neighbour, that there is
            copy[at // LINK * LINK : at // LINK * LINK + LINK] = link(int(generator.integers(400)))
    return bytes(copy)


def samples():
    rows, steps, _ = rows_of(uniform(400, 8, 1), "int8", "cosine")
    wholes = [build(rows[:count], steps[:count], m=m) for count, m in ((400, 4), (400, 16), (17, 2), (0, 4))]
    twins = [build(rows[some], steps[some], m=m) for m, some in ((2, np.arange(400) % 30), (4, np.arange(400) // 2))]
    return [*wholes, *twins, *(build(rows, steps, m=m, wanted=np.full(7, 0x5050505, np.uint64)) for m in (2, 5))]


def some_rows(generator, count, graph):
    """Rows for it, of which many are equal half of the time: in chains they are followed, elsewhere not."""
    rows = generator.integers(-9, 10, (count, graph.dimension)).astype(graph.dtype)
    return rows if generator.random() < 0.5 else rows[: int(generator.integers(1, 9))].repeat(count, axis=0)[:count]


def is_refused(generator, data):
    """Return whether it was; else it was searched, and all was within its limits."""
    try:
        graph = Graph(data)
    except Damaged:
        return True
    count, dimension = graph.count, graph.dimension
    assert count <= 400, "a graph of rows that nobody wrote"
    assert 0 <= graph.verify() <= count
    if dimension > 1000:  # what the rows are is the caller's to know
        return False
    rows = some_rows(generator, count, graph)
    query = generator.integers(-9, 10, dimension).astype(np.int8 if graph.dtype == np.int8 else np.float32)
    squares = np.ones(count, np.float32) if graph.metric == "l2" else None
    for allowed in (None, np.full(-(-count // 64), 0x5555555555555555, np.uint64)):
        found, values = graph.search(rows, None, query, 1.0, 50, squares=squares, allowed=allowed)
        assert (found < count).all()
        assert len(set(found.tolist())) == len(found) == len(values)
        assert (np.diff(values) <= 0).all()
    is_extended(graph, generator)
    return False


def is_extended(graph, generator):
    """Whatever its links are: the builder stays inside, and makes a whole graph of it."""
    count = graph.count + int(generator.integers(0, 9))
    rows = some_rows(generator, count, graph)
    squares = (rows.astype(np.float32) ** 2).sum(axis=1) if graph.metric == "l2" else None
    data = build(rows, None, squares, metric=graph.metric, m=graph.m, base=graph, ef_construction=20)
    larger = Graph(data)
    assert larger.count == count
    assert larger.linked >= graph.linked
    assert larger.verify() == 0


def test_nothing_wrong_gets_through():
    """Checksums see everything."""
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    originals = samples()
    for number in range(COUNT // 2):
        data = damaged(generator, originals[number % len(originals)])
        if data in originals:
            continue
        with pytest.raises(Damaged, match="this graph cannot be used: "):
            Graph(data)


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
import test_graph_damage
test_graph_damage.many(int(sys.argv[3]))
"""


def many(count):
    seed = int.from_bytes(os.urandom(4))
    print("seed", seed, flush=True)
    generator = np.random.default_rng(seed)
    originals = samples()
    assert all(mended(data) == data for data in originals)
    copies = (mended(damaged(generator, originals[number % len(originals)])) for number in range(count))
    refused = sum(is_refused(generator, copy) for copy in copies)
    print(f"refused {refused} of {count}")
    assert count / 5 < refused < count


def test_wrong_links_under_right_checksums(root):
    """In a process of its own: a crash is one there."""
    command = [sys.executable, "-c", SCRIPT, str(root / "tests/abuse"), str(root / "tests/support"), str(COUNT // 2)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 + COUNT / 50)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)


def first_of(data):
    """The node where a search begins, of one that has nodes above, and 400 below with m = 4."""
    (place,) = struct.unpack_from("<I", data, 32)
    at = HEADER + 400 * 24 + LINK * place
    return int.from_bytes(data[at : at + LINK], "little")


@pytest.mark.parametrize(
    ("at", "form", "value", "says"),
    [
        (0, "8s", b"NTMGRAPI", "it is no graph"),
        (8, "I", 1, "a format of another version"),
        (24, "I", 1, "lists have an impossible length"),
        (24, "I", 257, "lists have an impossible length"),
        (28, "I", 33, "too many levels"),
        (28, "I", 1, "levels do not fit the number of them"),
        (28, "I", 0, "levels do not fit the number of them"),
        (32, "I", 400, "first node is none of the highest level"),
        (36, "I", 3, "rows of an unknown type"),
        (40, "I", 3, "rows of an unknown type"),
        (44, "I", 0, "rows of an unknown type"),
        (68, "I", 401, "a level has more nodes than the one below it"),
        (64, "I", (1 << 24) + 1, "more nodes than links can name"),
        (64, "I", 401, "another size than its header says"),
        (52, "I", 401, "more linked nodes than nodes"),
        (52, "I", 399, "another number of linked nodes than it says"),
        (52, "I", 0, "another number of linked nodes than it says"),
        (56, "I", 400, "more twins than linked nodes"),
        (HEADER, "3s", link(400), "a neighbour that is not there"),
        (HEADER + 2, "B", 1, "a neighbour that is not there"),
        (HEADER, "3s", link(0), "a list goes on behind its end"),
        ("list of the first", "24s", None, "another number of linked nodes than it says"),
        (HEADER + 400 * 24, "3s", link(400), "a node that is not there"),
        ("last node", "3s", link(0), "nodes are not in order"),
        ("last list", "3s", link(399), "a neighbour that is not there"),
    ],
)
def test_each_rule_has_its_name(at, form, value, says):
    data, *_ = samples()
    copy = bytearray(data)
    above = struct.unpack_from("<I", data, 68)[0]
    if at == "last node":
        at = HEADER + 400 * 24 + LINK * (above - 1)
    elif at == "last list":
        at = HEADER + 400 * 24 + LINK * above + LINK * 4 * (sum(Graph(data).levels[1:]) - 1)
    elif at == "list of the first":
        at, value = HEADER + 24 * first_of(data), 8 * link(first_of(data))
    struct.pack_into("<" + form, copy, at, value)
    with pytest.raises(Damaged, match=says):
        Graph(mended(copy))


def test_the_first_node_was_not_left_out():
    """Its list is empty, and the number of linked ones says so."""
    data, *_ = samples()
    copy, first = bytearray(data), first_of(data)
    copy[HEADER + 24 * first : HEADER + 24 * first + 24] = 8 * link(first)
    copy[52:56] = struct.pack("<I", 399)
    with pytest.raises(Damaged, match="its first node was left out"):
        Graph(mended(copy))


def test_a_node_that_is_at_two_places():
    """Which the check does not see, with a link from one to the other: the builder makes a graph of it."""
    rows, steps, _ = rows_of(uniform(400, 8, 1), "int8", "cosine")
    copy = bytearray(build(rows, steps, m=3))
    above, top = struct.unpack_from("<II", copy, 68)
    at = HEADER + 400 * 6 * LINK
    nodes = [int.from_bytes(copy[at + LINK * place : at + LINK * place + LINK], "little") for place in range(above)]
    for higher in range(top):  # in the place of the nearest one of level 1, so that they stay in order
        place = min(range(top, above), key=lambda place: abs(nodes[place] - nodes[higher]))
        copy[at + LINK * place : at + LINK * place + LINK] = link(nodes[higher])
        here = at + LINK * (above + 3 * place)
        copy[here : here + LINK] = link(higher)
    base = Graph(mended(copy))
    assert base.verify() == 0
    assert Graph(build(rows, steps, m=3, base=base)).verify() == 0
    assert Graph(build(np.vstack([rows, rows]), np.tile(steps, 2), m=3, base=base)).verify() == 0


@pytest.mark.parametrize("cut", [*range(0, 200, 7), 5000, -1, -4])
def test_short_ones(cut):
    data, *_ = samples()
    with pytest.raises(Damaged, match=r"shorter than a header|another size|it is no graph"):
        Graph(data[:cut])


def test_an_odd_address():
    data, *_ = samples()
    with pytest.raises(Damaged, match="odd address"):
        Graph(memoryview(b"x" + data)[1:])
