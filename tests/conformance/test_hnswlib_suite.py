"""What hnswlib's own Python tests claim (0.8.0, ``tests/python``), of a collection that has a graph.

They are not in its source distribution, so they cannot be fetched by a hash and run. These are our own, one for each of
theirs, which it names; they make the same claims of the same calls (``hnswlib_shim``), with fewer vectors and rounds
where theirs would take minutes. Each sees that graphs answered: fewer than 64 slots were scanned beside them.

Parts that do not apply:

- ``BFIndex`` and its files (filter, recall, replace): what is exact is computed by numpy.
- Capacity (replace, resize): a collection has none; ``resize_index`` has no effect, and the place of a deleted vector
  needs not be used again.
- ``num_threads`` of queries: a call has one thread. Additions are by as many threads as they say.
- The layout in memory (pickle): what is pickled is the store.
- Vectors of unit length (getdata): those of the cosine come back as they were given.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hnswlib_shim as hnswlib
import numpy as np
import pytest

from ntmem.tiers import graphs

DIMENSION = 16


@pytest.fixture(autouse=True)
def graph_searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many slots the queries of each call scan beside graphs; all calls are to be such ones."""
    scanned: list[int] = []
    plan = graphs.Graphs.plan

    def counted(self: Any, tail: Any, k: int, count: int, *args: Any) -> graphs.Plan:
        made = plan(self, tail, k, count, *args)
        scanned.append(count - sum(graph.count for _, graph in made.graphs))
        return made

    monkeypatch.setattr(graphs.Graphs, "plan", counted)
    monkeypatch.setattr(graphs, "is_sooner", lambda *_: True)  # a scan of so few would be sooner done
    try:
        yield scanned
    finally:
        hnswlib.close_all()
    assert scanned, "no graph was asked"
    assert max(scanned) < graphs.SLOTS


def index_of(space: str = "l2", dim: int = DIMENSION, *, ef: int = 10, threads: int = 4, **how: Any) -> Any:
    index = hnswlib.Index(space, dim)
    index.init_index(**{"max_elements": 10_000, "ef_construction": 100, "M": 16} | how)
    index.set_ef(ef)
    index.set_num_threads(threads)
    return index


def uniform(count: int, dimension: int = DIMENSION, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, dimension), np.float32)


def distances(space: str, items: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return the distance of each query from each item, in float64."""
    x, y = items.astype(np.float64), queries.astype(np.float64)
    if space == "l2":
        return ((x[np.newaxis] - y[:, np.newaxis]) ** 2).sum(2)
    if space == "cosine":
        x, y = x / np.linalg.norm(x, axis=1, keepdims=True), y / np.linalg.norm(y, axis=1, keepdims=True)
    return 1 - y @ x.T


def share_found(labels: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(labels, wanted, strict=True)]))


def check_own(index: Any, data: np.ndarray, labels: Any = None) -> None:
    """See that each vector is the nearest to itself, but for one in two thousand."""
    found, far = index.knn_query(data, k=1)
    right = found[:, 0] == (np.arange(len(data)) if labels is None else labels)
    assert right.mean() > 0.9995
    assert np.abs(far[right]).max() < 1e-5


def test_each_is_nearest_to_itself(tmp_path: Path) -> None:
    """bindings_test: by half of them, saved, loaded, and with the other half added."""
    data = uniform(10_000)
    index = index_of()
    index.add_items(data[:5000])
    check_own(index, data[:5000])
    index.save_index(str(tmp_path / "half"))
    index.close()
    index = hnswlib.Index("l2", DIMENSION)
    index.load_index(str(tmp_path / "half"))
    assert index.slots() == (4992, 5000)  # the graph was saved, too
    check_own(index, data[:5000])
    index.add_items(data[5000:])
    check_own(index, data)


def test_a_filter(graph_searches: list[int]) -> None:
    """bindings_test_filter: half of the vectors are let pass, and no other is found."""
    data = uniform(10_000, seed=1)
    index = index_of()
    index.add_items(data)
    check_own(index, data)
    labels, _ = index.knn_query(data, k=1, num_threads=1, filter=lambda label: label % 2 == 0)
    assert (labels % 2 == 0).all()
    assert abs((labels[:, 0] == np.arange(len(data))).mean() - 0.5) < 0.0005
    wanted = 2 * distances("l2", data[::2], data[1:1000:2]).argmin(1)
    assert (labels[1:1000:2, 0] == wanted).mean() > 0.9  # ef is 10
    assert len(graph_searches) == 2


@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
def test_getting_items(space: str) -> None:
    """bindings_test_getdata: none before they are added, then every bit; a single label is refused."""
    data, labels = uniform(3000, seed=2), np.arange(3000)
    index = index_of(space)
    with pytest.raises(RuntimeError):
        index.get_items(labels)
    index.add_items(data, labels)
    with pytest.raises(ValueError, match="a list of indices"):
        index.get_items(labels[0])
    found = index.get_items(labels)
    assert isinstance(found, np.ndarray)
    assert (found == data).all()
    listed = index.get_items(labels, return_type="list")
    assert (type(listed), type(listed[0])) == (list, list)
    assert (np.array(listed, np.float32) == data).all()
    labels, _ = index.knn_query(data[:50], k=1)  # of items that came by the graph, too
    assert index.get_items(labels).shape == (50, DIMENSION)


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_and_deletions(tmp_path: Path, seed: int) -> None:
    """bindings_test_labels: half is saved, loaded, added to; deleted, saved and loaded; restored."""
    half = 2500
    data = uniform(2 * half, seed=seed)
    index = index_of(ef=100)
    index.add_items(data[:half])
    check_own(index, data[:half])
    index.save_index(str(tmp_path / "half"))
    index.close()
    index = hnswlib.Index("l2", DIMENSION)
    index.load_index(str(tmp_path / "half"))
    index.set_ef(100)
    index.add_items(data[half:])
    check_own(index, data)
    labels, _ = index.knn_query(data, k=1)
    assert np.abs(index.get_items(labels) - data).mean() < 1e-4
    assert sorted(index.get_ids_list()) == list(range(2 * half))

    deleted = {int(label) for label in index.knn_query(data[:half], k=1)[0].ravel()}
    for label in deleted:
        index.mark_deleted(label)
    with pytest.raises(RuntimeError, match="already deleted"):
        index.mark_deleted(min(deleted))
    for again in (False, True):
        labels, _ = index.knn_query(data[half:], k=1)
        assert np.abs(index.get_items(labels) - data[half:]).mean() < 1e-3
        assert not deleted & {int(label) for label in index.knn_query(data[:half], k=1)[0].ravel()}
        assert not deleted & set(index.get_ids_list())
        if not again:
            index.save_index(str(tmp_path / "deleted"))
            index.close()
            index = hnswlib.Index("l2", DIMENSION)
            index.load_index(str(tmp_path / "deleted"))
            index.set_ef(100)
    for label in deleted:
        index.unmark_deleted(label)
    check_own(index, data)
    with pytest.raises(RuntimeError, match="not deleted"):
        index.unmark_deleted(min(deleted))


def test_what_an_index_says_of_itself() -> None:
    """bindings_test_metadata."""
    index = index_of(max_elements=2000)
    index.add_items(uniform(2000))
    assert (index.get_max_elements(), index.get_current_count()) == (2000, 2000)
    assert (index.space, index.dim, index.M, index.ef_construction) == ("l2", DIMENSION, 16, 100)
    assert (index.max_elements, index.element_count) == (2000, 2000)
    info = index.vectors.info("index")
    assert (info.dimension, info.metric, info.dtype, info.count) == (DIMENSION, "l2", "float32", 2000)
    index.knn_query(uniform(1))


@pytest.mark.parametrize(("space", "dimension"), [("ip", 16), ("l2", 53), ("cosine", 32)])
def test_pickling(space: str, dimension: int) -> None:
    """bindings_test_pickle: before it is initiated, empty, and full; all find the same as brute force."""
    data, queries, k = uniform(1000, dimension), uniform(100, dimension, seed=1), 25
    how = {"max_elements": 1000, "ef_construction": 200, "M": 32}
    index = hnswlib.Index(space, dimension)
    index.num_threads = 4
    early = pickle.loads(pickle.dumps(index))
    for each in (index, early):
        each.init_index(**how)
        each.ef = 400
    empty = pickle.loads(pickle.dumps(index))
    for each in (index, early, empty):
        each.add_items(data, np.arange(1000))
    unasked = pickle.loads(pickle.dumps(index))
    asked = index.knn_query(queries, k)
    full = pickle.loads(pickle.dumps(index))
    exact = distances(space, data, queries)
    order = np.argsort(exact, 1)[:, :k]
    nearest = np.take_along_axis(exact, order, 1)
    for each in (index, early, empty, unasked, full):
        labels, far = each.knn_query(queries, k)
        assert sum(len({*a.tolist()} - {*b.tolist()}) > 5 for a, b in zip(labels, order, strict=True)) <= 5
        assert (((far - nearest) ** 2) > 1e-3).sum() <= 50
        assert (((far - asked[1]) ** 2) > 1e-3).sum() <= 50
        assert (each.get_items(range(1000)) == data).all()
        assert (each.ef, each.num_threads, each.M, each.ef_construction) == (400, 4, 32, 200)
    assert full.slots() == (960, 1000)


@pytest.mark.parametrize("count", [10_000, *([100_000] if "NTMEM_GRAPH_ADDS" in os.environ else [])])
def test_recall(count: int) -> None:
    """bindings_test_recall: more than 95 of 100, for ten of uniform numbers in 32 dimensions."""
    data, queries = uniform(count, 32), uniform(20, 32, seed=1)
    index = index_of(dim=32, ef=200, ef_construction=200)
    index.add_items(data)
    labels, far = index.knn_query(queries, 10)
    exact = np.stack([distances("l2", data, query[np.newaxis])[0] for query in queries])
    assert share_found(labels, np.argsort(exact, 1)[:, :10]) > 0.95
    assert np.allclose(far, np.take_along_axis(exact, labels.astype(int), 1), atol=1e-4)


def test_replacing_deleted_ones(tmp_path: Path) -> None:
    """bindings_test_replace, testRandomSelf: others are added for those deleted; saved, loaded and pickled between."""
    count = 1500
    batches = [uniform(count, seed=seed) for seed in range(4)]
    labels = np.arange(4 * count).reshape(4, count)
    index = index_of(ef=100, ef_construction=200, allow_replace_deleted=True)
    index.add_items(batches[0], labels[0])
    index.add_items(batches[1], labels[1])
    deleted = {int(label) for label in index.knn_query(batches[1], k=1)[0].ravel()}
    for label in deleted:
        index.mark_deleted(label)
    found, _ = index.knn_query(batches[0], k=1)
    assert np.abs(index.get_items(found) - batches[0]).mean() < 1e-3
    assert not deleted & {int(label) for label in index.knn_query(batches[1], k=1)[0].ravel()}

    index.add_items(batches[2], labels[2], replace_deleted=True)
    left = sorted({*labels[:2].ravel().tolist()} - deleted)
    assert (index.get_items(left) == np.concatenate(batches)[left]).all()
    assert (index.get_items(labels[2]) == batches[2]).all()
    for label in labels[2]:
        index.mark_deleted(label)
    index.save_index(str(tmp_path / "index"))
    index.close()
    index = hnswlib.Index("l2", DIMENSION)
    index.set_ef(100)
    index.load_index(str(tmp_path / "index"), max_elements=2 * count, allow_replace_deleted=True)
    index.add_items(batches[3], labels[3], replace_deleted=True)
    assert (index.knn_query(batches[3], k=1)[0][:, 0] == labels[3]).mean() > 0.98
    for label in labels[3]:
        index.mark_deleted(label)
    pickled = pickle.loads(pickle.dumps(index))
    index.close()
    pickled.add_items(batches[2], labels[2], replace_deleted=True)
    assert (pickled.knn_query(batches[2], k=1)[0][:, 0] == labels[2]).mean() > 0.98


def test_recall_after_replacing() -> None:
    """bindings_test_replace, test_recall_degradation: about the same as of an index that never had what was deleted."""
    count, k = 3000, 100
    batches, queries = [uniform(count, seed=seed) for seed in range(3)], uniform(300, seed=3)
    labels = np.arange(3 * count).reshape(3, count)
    how = {"ef": 100, "threads": 50, "ef_construction": 200}
    plain, replaced = index_of(**how), index_of(**how, allow_replace_deleted=True)
    for batch in (0, 2):
        plain.add_items(batches[batch], labels[batch])
    for batch in (0, 1):
        replaced.add_items(batches[batch], labels[batch])
    for label in labels[1]:
        replaced.mark_deleted(label)
    replaced.add_items(batches[2], labels[2], replace_deleted=True)
    exact = distances("l2", np.concatenate((batches[0], batches[2])), queries)
    wanted = np.concatenate((labels[0], labels[2]))[np.argsort(exact, 1)[:, :k]]
    recalls = [share_found(index.knn_query(queries, k)[0], wanted) for index in (plain, replaced)]
    assert recalls[0] > 0.98
    assert abs(recalls[0] - recalls[1]) < 0.02


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_growing(seed: int) -> None:
    """bindings_test_resize: filled, made larger, filled again, by 1 to 7 threads."""
    half = 2500
    data = uniform(2 * half, seed=seed)
    index = index_of(max_elements=half, ef=20, threads=seed or 1)
    index.add_items(data[:half])
    check_own(index, data[:half])
    assert np.abs(index.get_items(range(half)) - data[:half]).max() < 1e-4
    index.resize_index(2 * half)
    index.add_items(data[half:])
    check_own(index, data)
    assert np.abs(index.get_items(range(2 * half)) - data).max() < 1e-4
    assert sorted(index.get_ids_list()) == list(range(2 * half))


@pytest.mark.parametrize(
    ("space", "expected"),
    [("l2", [0, 1, 2, 2, 2]), ("ip", [-2, -1, 0, 0, 0]), ("cosine", [0, 0.1835, 0.4226, 0.4226, 0.4226])],
)
def test_distances(space: str, expected: list[float]) -> None:
    """bindings_test_spaces: those of five vectors with zeros left and right of them; here with 59 that are farther."""
    some = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1]])
    far = np.random.default_rng(0).random((59, 3))
    far = 0.1 * far if space == "ip" else -1 - far  # of a product the long ones would be neighbours of each other only
    for right, left in [(1, 1), (1, 6), (4, 26), (13, 31), (31, 11), (64, 16), (127, 1), (127, 31)]:
        data = np.pad(np.concatenate((some, far)), ((0, 0), (left, right)))
        index = index_of(space, data.shape[1], max_elements=64)
        index.add_items(data)
        labels, found = index.knn_query(data[4:5], k=5)
        assert labels[0, :2].tolist() == [4, 3]
        assert sorted(labels[0]) == [0, 1, 2, 3, 4]
        assert np.abs(found[0] - expected).max() < 1e-3
        index.close()


def test_many_threads_add_for_those_deleted() -> None:
    """bindings_test_stress_mt_replace: as many threads as they have, again and again."""
    count = 1000
    batches = [uniform(count, seed=seed) for seed in range(3)]
    labels = np.arange(3 * count).reshape(3, count)
    for _ in range(3):
        index = index_of(ef=100, threads=50, ef_construction=200, allow_replace_deleted=True)
        for batch in (0, 1):
            index.add_items(batches[batch], labels[batch])
        deleted = {int(label) for label in index.knn_query(batches[1], k=1)[0].ravel()}
        shuffled = list(deleted)
        random.shuffle(shuffled)
        for label in shuffled:
            index.mark_deleted(label)
        found, _ = index.knn_query(batches[0], k=1)
        assert np.abs(index.get_items(found) - batches[0]).mean() < 1e-3
        assert not deleted & {int(label) for label in index.knn_query(batches[1], k=1)[0].ravel()}
        index.add_items(batches[2], labels[2], replace_deleted=True)
        assert index.vectors.count("index") == 3 * count - len(deleted)
        check_own(index, batches[2], labels[2])
        index.close()
