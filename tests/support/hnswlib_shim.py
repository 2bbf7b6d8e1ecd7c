"""hnswlib's ``Index`` over ``memory.vectors``: the calls of its Python module, answered by a collection with a graph.

A label is the id in decimal. Each index is one collection of float32 in a store of its own, whose graph is made anew
before a query if anything changed since, so at most 63 slots are not in it. What has no meaning here - a capacity,
a seed - is taken and told again.
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import ntmem
from ntmem.namespace import labels_of

_NAMESPACE = "index"
_START = 1_700_000_000_000_000_000
_OPEN: list[Index] = []


def close_all() -> None:
    """Close all indexes, and remove their stores."""
    while _OPEN:
        _OPEN.pop().close()


class Index:
    """An index of vectors with whole numbers as labels; ``space`` is l2, ip or cosine."""

    def __init__(self, space: str, dim: int) -> None:
        if space not in ("l2", "ip", "cosine"):
            raise RuntimeError("Space name must be one of l2, ip, or cosine.")
        self.space, self.dim = space, dim
        self.ef, self.num_threads = 10, 1
        self.M = self.ef_construction = self.max_elements = 0
        self.memory: ntmem.MemorySystem | None = None
        self._folder: Path | None = None
        self._clock = ntmem.SimulatedClock(_START)
        self._next = 0
        self._deleted: dict[int, int] = {}  # since when
        self._is_compact = False
        _OPEN.append(self)

    def __getstate__(self) -> dict[str, Any]:
        state = {"space": self.space, "dim": self.dim, "ef": self.ef, "num_threads": self.num_threads, "store": None}
        if self.memory is not None:
            with tempfile.TemporaryDirectory() as folder:
                self.save_index(f"{folder}/index")
                data = io.BytesIO()
                with tarfile.open(fileobj=data, mode="w") as archive:
                    archive.add(f"{folder}/index", "index")
            state["store"] = data.getvalue()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["space"], state["dim"])  # type: ignore[misc]
        self.ef, self.num_threads = state["ef"], state["num_threads"]
        if state["store"] is not None:
            with tempfile.TemporaryDirectory() as folder:
                with tarfile.open(fileobj=io.BytesIO(state["store"])) as archive:
                    archive.extractall(folder, filter="data")
                self.load_index(f"{folder}/index")

    # -- making, keeping, removing

    def init_index(
        self,
        max_elements: int,
        M: int = 16,
        ef_construction: int = 200,
        random_seed: int = 100,
        allow_replace_deleted: bool = False,
    ) -> None:
        """Make it, with nothing in it."""
        if self.memory is not None:
            raise RuntimeError("The index is already initiated.")
        self.M, self.ef_construction, self.max_elements = M, ef_construction, max_elements
        self._open()
        self.vectors.create(
            _NAMESPACE, self.dim, metric=self.space, dtype="float32", m=M, ef_construction=ef_construction
        )

    def save_index(self, path: str) -> None:
        """Copy the store, which is closed for it, into the directory `path`."""
        assert self.memory is not None
        assert self._folder is not None
        self.memory.close()
        Path(path).mkdir(parents=True)
        shutil.copytree(self._folder / "store", Path(path, "store"))
        facts = {"M": self.M, "ef_construction": self.ef_construction, "max_elements": self.max_elements}
        facts |= {"next": self._next, "now": self._clock.now(), "is_compact": self._is_compact}
        Path(path, "facts.json").write_text(json.dumps(facts | {"deleted": list(self._deleted.items())}))
        self._open()

    def load_index(self, path: str, max_elements: int = 0, allow_replace_deleted: bool = False) -> None:
        """Open a copy of what was saved."""
        self._remove()
        facts = json.loads(Path(path, "facts.json").read_text())
        self.M, self.ef_construction = facts["M"], facts["ef_construction"]
        self.max_elements = max(max_elements, facts["max_elements"])
        self._next, self._is_compact = facts["next"], facts["is_compact"]
        self._deleted = dict(map(tuple, facts["deleted"]))
        self._clock.set(facts["now"])
        self._open(Path(path, "store"))

    def close(self) -> None:
        """Remove the store."""
        self._remove()

    def _open(self, of: Path | None = None) -> None:
        if self._folder is None:
            shm = Path("/dev/shm")
            self._folder = Path(tempfile.mkdtemp(prefix="test-", dir=shm if shm.is_dir() else None))
        if of is not None:
            shutil.copytree(of, self._folder / "store")
        self.memory = ntmem.open(self._folder / "store", clock=self._clock)

    def _remove(self) -> None:
        if self.memory is not None:
            self.memory.close()
        if self._folder is not None:
            shutil.rmtree(self._folder)
        self.memory = self._folder = None

    @property
    def vectors(self) -> Any:
        """The collections of the store."""
        if self.memory is None:
            raise RuntimeError("The index is not initiated.")
        return self.memory.vectors

    # -- what is in it

    def add_items(self, data: Any, ids: Any = None, num_threads: int = -1, replace_deleted: bool = False) -> None:
        """Add vectors, by several threads at once where that is wanted."""
        rows = np.atleast_2d(np.asarray(data, np.float32))
        if rows.shape[1] != self.dim:
            raise RuntimeError("Wrong dimensionality of the vectors")
        labels = range(self._next, self._next + len(rows)) if ids is None else np.ravel(ids).tolist()
        if len(labels) != len(rows):
            raise RuntimeError(f"The labels are {len(labels)}, the vectors {len(rows)}")
        threads = self.num_threads if num_threads <= 0 else num_threads
        parts = np.array_split(np.arange(len(rows)), threads if len(rows) > 4 * threads else 1)
        self._step()
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(lambda part: self._add([labels[row] for row in part], rows[part]), parts))
        self._next += len(rows)
        for label in list(self._deleted)[: len(rows) if replace_deleted else 0]:
            del self._deleted[label]  # so that it cannot be restored; its place is not needed

    def _add(self, labels: list[int], rows: Any) -> None:
        metadata = [{"label": label} for label in labels]
        assert self.vectors.add_many(_NAMESPACE, [str(label) for label in labels], rows, metadata) == len(labels)

    def mark_deleted(self, label: int) -> None:
        """Delete a vector."""
        now = self._step()
        if not self.vectors.delete(_NAMESPACE, str(label)):
            raise RuntimeError("The requested to delete element is already deleted")
        self._deleted[int(label)] = now

    def unmark_deleted(self, label: int) -> None:
        """Add a vector again that was deleted, from the past."""
        if int(label) not in self._deleted:
            raise RuntimeError("The requested to undelete element is not deleted")
        found = self.vectors.get(_NAMESPACE, str(label), as_of=self._deleted.pop(int(label)) - 1)
        self._step()
        self.vectors.add(_NAMESPACE, found.id, found.vector, found.metadata)

    def resize_index(self, new_size: int) -> None:
        """Take note of a capacity."""
        self.max_elements = new_size

    def get_max_elements(self) -> int:
        """Return what was noted of a capacity."""
        return self.max_elements

    def get_current_count(self) -> int:
        """Return how many there are, those counted that are marked as deleted."""
        count: int = self.vectors.count(_NAMESPACE)
        return count + len(self._deleted)

    element_count = property(get_current_count)

    def get_items(self, ids: Any = None, return_type: str = "numpy") -> Any:
        """Return the vectors of labels."""
        if return_type not in ("numpy", "list"):
            raise ValueError('return_type should be "numpy" or "list"')
        if np.ndim(ids) == 0 and ids is not None:
            raise ValueError("get_items accepts a list of indices and returns a list of vectors")
        labels: Iterable[int] = [] if ids is None else np.ravel(ids).tolist()
        found = [self.vectors.get(_NAMESPACE, str(label)) for label in labels]
        if None in found:
            raise RuntimeError("Label not found")
        return np.array([it.vector for it in found]) if return_type == "numpy" else [it.vector.tolist() for it in found]

    def get_ids_list(self) -> list[int]:
        """Return the labels, in the order in which they were added."""
        with tempfile.TemporaryDirectory() as folder:
            self.vectors.export(_NAMESPACE, f"{folder}/all.jsonl")
            with open(f"{folder}/all.jsonl", encoding="utf-8") as file:
                return [int(json.loads(line)["id"]) for line in file]

    def _step(self) -> int:
        """Let the clock go on, and return the time."""
        self._is_compact = False
        now = self._clock.now() + 1
        self._clock.set(now)
        return now

    # -- searching

    def set_ef(self, ef: int) -> None:
        """Say how hard to look."""
        self.ef = ef

    def set_num_threads(self, num_threads: int) -> None:
        """Say how many threads add vectors."""
        self.num_threads = num_threads

    def knn_query(
        self, data: Any, k: int = 1, num_threads: int = -1, filter: Callable[[int], bool] | None = None
    ) -> tuple[Any, Any]:
        """Return labels and distances of what is nearest to each vector."""
        if not self._is_compact:
            self.vectors.compact(_NAMESPACE)
            self._is_compact = True
        queries = np.atleast_2d(np.asarray(data, np.float32))
        where = None
        if filter is not None:
            where = {"label": {"$in": [label for label in self.get_ids_list() if filter(label)]}}
        ids, scores = self.vectors.search_arrays(_NAMESPACE, queries, k, ef=max(self.ef, k), where=where)
        if np.isnan(scores).any():
            raise RuntimeError("Cannot return the results in a contiguous 2D array. Probably ef or M is too small")
        labels = np.array([[int(each) for each in row] for row in ids], np.uint64)
        return labels, -scores if self.space == "l2" else 1 - scores

    def slots(self) -> tuple[int, int]:
        """Return how many slots are in graphs, and how many there are."""
        collection = self.vectors._of(labels_of(_NAMESPACE))
        tail = collection.tail()
        return sum(part.end - part.first for part in collection.graphs.parts(tail)), tail.count
