"""A graph of neighbours (HNSW) in memory: checked once, then searched where it stands.

Layout
------
``graph.h`` has the file, its check and the search. :mod:`ntmem._core.hnsw` makes such files.

Invariants
----------
1. Node i is row i of the rows that the graph was made of; it has numbers of rows only.
2. A graph that ``graph_check`` let pass is searched without a look outside of it, whatever it says.
3. While the GIL is released only C memory is touched, and the buffers are held.
"""

import numpy as np

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ntmem._core.kernels cimport kernels_named, kernels_t, scan_rows_t, scanned_t

from ntmem._core.kernels import KINDS, check_scan

METRICS = {"cosine": GRAPH_COSINE, "l2": GRAPH_L2, "ip": GRAPH_IP}
KIND_NAMES = {kind: str(dtype) for dtype, kind in KINDS.items()}


class Damaged(ValueError):
    """These bytes are no graph, or one that was damaged."""


@cython.final
cdef class Graph:
    """A graph in memory, held and not copied.

    Parameters
    ----------
    buffer : bytes-like
        What :func:`ntmem._core.hnsw.build` returned, aligned to four bytes. It must stay as it is.

    Raises
    ------
    Damaged
        It is none; says why.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: a look at every link, once.
    """

    def __init__(self, const uint8_t[::1] buffer not None):
        cdef const char *wrong
        cdef size_t size = buffer.shape[0]
        cdef const uint8_t *file = NULL
        if size:
            file = &buffer[0]
        with nogil:
            wrong = graph_check(file, size, &self.graph)
        if wrong != NULL:
            self.graph.counts[0] = 0
            self.graph.levels = self.graph.linked = self.graph.twins = 0
            raise Damaged(f"this graph cannot be used: {wrong.decode()}")
        self.held = buffer

    def __dealloc__(self):
        free(self.scratch)

    @property
    def count(self):
        """Nodes, which is rows."""
        return self.graph.counts[0]

    @property
    def linked(self):
        """Nodes of rows that were not left out; others are never found."""
        return self.graph.linked

    @property
    def twins(self):
        """Of the linked nodes, those whose rows are equal to an earlier one."""
        return self.graph.twins

    @property
    def m(self):
        """Neighbours of a node at each level above the lowest, where it is twice as many."""
        return self.graph.m

    @property
    def levels(self):
        """How many nodes each level has, the lowest first."""
        return tuple(self.graph.counts[level] for level in range(self.graph.levels))

    @property
    def nbytes(self):
        """Of the graph, without the rows."""
        return self.graph.bytes

    @property
    def dimension(self):
        """Of the rows."""
        return self.graph.dimension

    @property
    def dtype(self):
        """Of the rows."""
        return np.dtype(KIND_NAMES[self.graph.kind])

    @property
    def metric(self):
        """As of :class:`ntmem._core.hnsw.Rows`."""
        return next(name for name, number in METRICS.items() if number == <int>self.graph.metric)

    def verify(self):
        """Return how many linked nodes cannot be reached from the first one by links of the lowest level."""
        cdef size_t reached
        cdef void *scratch = self.scratch_taken()
        with nogil:
            reached = graph_reach(&self.graph, scratch)
        self.scratch_given(scratch)
        return max(<size_t>self.graph.linked, reached) - reached

    def neighbours(self, uint32_t node):
        """Return the nodes to which a node has links at the lowest level."""
        if node >= self.graph.counts[0]:
            raise IndexError(f"there are {self.graph.counts[0]} nodes, no {node}")
        cdef const uint8_t *links = graph_list(&self.graph, 0, node)
        found = np.array([graph_link(links, i) for i in range(2 * self.graph.m)], np.uint32)
        return found[found != node]

    def search(
        self, rows not None, const float[::1] steps, query not None, float query_step, size_t k, *, size_t ef=100,
        const float[::1] squares=None, const uint64_t[::1] allowed=None, uint32_t base=0, str kernels=None
    ):
        """Return rows that are good for a query, and their values.

        Parameters
        ----------
        rows, steps, query, query_step, squares, allowed, base
            As of :meth:`ntmem._core.kernels.Kernels.scan`, of the rows that the graph was made of.
        k : int
            1 or more.
        ef : int
            How many good rows are kept on the way, `k` at least: more find better ones, and take longer.
        kernels : str, optional
            As of :class:`ntmem._core.kernels.Kernels`.

        Returns
        -------
        rows : uint32, values : float32
            At most `k`, the best first; of equal values the lower row first.

        Notes
        -----
        Rows that are not allowed are walked through, and the more of them there are, the longer is the way: if few are
        allowed, a scan of them is sooner done. **Thread safety**: the GIL is released. **Complexity**: O(ef log n)
        for most rows.
        """
        cdef scan_rows_t what
        check_scan(rows, query, k, base)
        self.check_search(rows, steps, squares, allowed)
        cdef const uint8_t[:, :] row_bytes = rows.view(np.uint8)
        cdef const uint8_t[::1] query_bytes = query.view(np.uint8)
        if not self.graph.counts[0]:
            return np.empty(0, np.uint32), np.empty(0, np.float32)
        what.rows, what.count, what.stride = &row_bytes[0, 0], self.graph.counts[0], rows.strides[0]
        what.kind, what.base = self.graph.kind, base
        what.steps = NULL
        what.squares = NULL
        what.allowed = NULL
        if steps is not None:
            what.steps = &steps[0]
        if squares is not None:
            what.squares = &squares[0]
        if allowed is not None:
            what.allowed = &allowed[0]
        return self.best(kernels_named(kernels), &what, &query_bytes[0], query_step, k, max(k, ef))

    cdef tuple best(
        self, const kernels_t *kernels, const scan_rows_t *what, const void *query, float query_step, size_t k,
        size_t most
    ):
        cdef size_t ef = min(most, <size_t>self.graph.counts[0]), count, i
        cdef void *scratch = self.scratch_taken()
        cdef scanned_t *found = <scanned_t *>malloc(ef * sizeof(scanned_t))
        if found == NULL:
            self.scratch_given(scratch)
            raise MemoryError(f"no memory for {ef} rows")
        with nogil:
            count = graph_search(
                &self.graph, what, kernels, query, query_step, self.graph.dimension, ef, scratch, found
            )
        self.scratch_given(scratch)
        count = min(count, k)
        rows, values = np.empty(count, np.uint32), np.empty(count, np.float32)
        cdef uint32_t[::1] to_rows = rows
        cdef float[::1] to_values = values
        for i in range(count):
            to_rows[i] = found[i].row
            to_values[i] = found[i].value
        free(found)
        return rows, values

    cdef int check_search(self, rows, steps, squares, allowed) except -1:
        count = self.graph.counts[0]
        if len(rows) < count or rows.shape[1] != self.graph.dimension or KINDS[rows.dtype] != <int>self.graph.kind:
            raise ValueError(
                f"the graph is of {count} rows of {self.graph.dimension} numbers of {self.dtype}, there were "
                f"{len(rows)} of {rows.shape[1]} of {rows.dtype}"
            )
        if (squares is not None) != (self.graph.metric == GRAPH_L2):
            raise ValueError(f"squares are for the metric l2 and only for it, this is {self.metric}")
        if any(each is not None and len(each) < count for each in (steps, squares)):
            raise ValueError(f"steps and squares must be as many as the {count} rows")
        if allowed is not None and len(allowed) < (count + 63) // 64:
            raise ValueError(f"allowed must have {(count + 63) // 64} words for {count} rows, had {len(allowed)}")
        if len(rows) and rows.strides[1] != rows.itemsize:
            raise ValueError("rows have their numbers one beside the other")
        return 0

    cdef void *scratch_taken(self) except NULL:
        """Memory for one walk. One is kept, as fresh pages cost more than a search; more than one is of threads."""
        cdef void *scratch = self.scratch
        self.scratch = NULL
        if scratch == NULL:
            scratch = malloc(graph_scratch(&self.graph) + 1)
        if scratch == NULL:
            raise MemoryError(f"no memory to search {self.graph.counts[0]} nodes")
        return scratch

    cdef void scratch_given(self, void *scratch) noexcept:
        if self.scratch == NULL:
            self.scratch = scratch
        else:
            free(scratch)
