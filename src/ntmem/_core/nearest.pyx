"""What is nearest to a query in the memory of a collection: along graphs, by looking at all, or both.

Layout
------
Slots are cut into ranges: those that a graph leads through, and those that are scanned. Each gives its best, and these
stand in one heap. :mod:`ntmem._core.vectors` has the slots, :mod:`ntmem._core.graph` graphs, ``scan.h`` the scan.

Invariants
----------
1. Slots from the count on are not looked at, nor what has no bit.
2. While the GIL is released only C memory is touched, and what it belongs to is held.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.math cimport INFINITY
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from ntmem._core.graph cimport Graph, graph_search, graph_t
from ntmem._core.kernels cimport scan_best, scan_rows_t, scanned_add, scanned_sort, scanned_t
from ntmem._core.vectors cimport (
    VECTORS_L2, VECTORS_ROWS, VECTORS_SQUARES, VECTORS_STEPS, Found, VectorTail, vectors_query, vectors_t
)

import msgspec
import numpy as np

cdef extern from *:
    """
    _Static_assert(
        (int)GRAPH_COSINE == (int)VECTORS_COSINE && (int)GRAPH_L2 == (int)VECTORS_L2 && (int)GRAPH_IP == VECTORS_IP,
        "metrics have one number"
    );
    """

cdef object decode = msgspec.msgpack.Decoder().decode
cdef object new_tuple = tuple.__new__

cdef enum:
    SLOTS = 64      # of a word of a bitmap

ctypedef struct range_t:
    scan_rows_t rows
    const graph_t *graph        # NULL: they are scanned
    size_t number               # of the graph
    void *scratch               # to walk in it


@cython.final
cdef class Search:
    """Queries of a collection, and what was found.

    Parameters
    ----------
    tail : VectorTail
    k : int
        Slots for each query.
    count : int
        Only the first slots are looked at; so many that there are.
    bits : uint64, or None
        A bit for each of these slots: others are left out.
    graphs : sequence of (int, Graph)
        Each with its first slot, in order; all of their slots are among these. What they do not have is scanned.
    ef : int
        Of each graph.

    Raises
    ------
    ValueError
        These do not fit each other.
    """

    cdef VectorTail tail
    cdef size_t k, ef, queries
    cdef object bits                # held
    cdef list graphs
    cdef range_t *ranges
    cdef size_t range_count
    cdef scanned_t *best            # k for each query
    cdef size_t *found              # how many of these are there
    cdef scanned_t *walked          # by a graph

    def __init__(self, VectorTail tail not None, size_t k, uint64_t count, bits, graphs, size_t ef):
        cdef Graph graph
        cdef range_t *to
        cdef size_t number
        cdef uint64_t at = 0, first, end
        cdef const uint64_t[::1] words
        cdef const uint64_t *allowed = NULL
        self.tail, self.k, self.ef = tail, k, min(max(ef, k), count)
        tail.seen(count)
        if bits is not None and count:
            words = self.bits = tail.checked(count, bits)
            allowed = &words[0]
        self.graphs = [each for _, each in graphs]
        self.ranges = <range_t *>calloc(2 * len(self.graphs) + 1, sizeof(range_t))
        if self.ranges == NULL:
            raise MemoryError("no memory to search")
        for number, (first, graph) in enumerate(graphs):
            end = first + graph.graph.counts[0]
            if not at <= first < end <= count or (allowed != NULL and (first % SLOTS or end % SLOTS)):
                raise ValueError(f"a graph of slots {first} to {end} does not fit behind {at} of {count}")
            require_fitting(tail, graph)
            self.add(at, first, allowed)
            to = self.add(first, end, allowed)
            to.graph, to.number = &graph.graph, number
            at = end
        self.add(at, count, allowed)

    def __dealloc__(self):
        free(self.ranges)
        free(self.best)
        free(self.found)
        free(self.walked)

    cdef range_t *add(self, uint64_t first, uint64_t end, const uint64_t *allowed) noexcept:
        cdef range_t *to = &self.ranges[self.range_count]
        cdef const vectors_t *vectors = &self.tail.vectors
        if first >= end:
            return to
        to.rows.rows = vectors.sections[VECTORS_ROWS] + first * vectors.stride
        to.rows.stride, to.rows.count, to.rows.kind = vectors.stride, end - first, vectors.type
        to.rows.base = first
        to.rows.steps = <const float *>vectors.sections[VECTORS_STEPS] + first
        if vectors.metric == VECTORS_L2:
            to.rows.squares = <const float *>vectors.sections[VECTORS_SQUARES] + first
        if allowed != NULL:
            to.rows.allowed = allowed + first // SLOTS
        self.range_count += 1
        return to

    cdef int run(self, const float[:, ::1] queries) except -1:
        """Look for the nearest of each query."""
        cdef size_t i, n = queries.shape[0]
        cdef const vectors_t *vectors = &self.tail.vectors
        cdef void *query = NULL
        cdef float *scratch = NULL
        if self.range_count and <uint32_t>queries.shape[1] != vectors.dimension:
            raise ValueError(f"queries have {vectors.dimension} dimensions here, had {queries.shape[1]}")
        try:
            self.queries = n
            self.best = <scanned_t *>malloc((n * self.k + 1) * sizeof(scanned_t))
            self.found = <size_t *>calloc(n + 1, sizeof(size_t))
            self.walked = <scanned_t *>malloc((self.ef + 1) * sizeof(scanned_t))
            query = malloc(vectors.dimension * sizeof(float))
            scratch = <float *>malloc(vectors.dimension * sizeof(float))
            if self.best == NULL or self.found == NULL or self.walked == NULL or query == NULL or scratch == NULL:
                raise MemoryError(f"no memory for {n} queries of {self.k} results")
            self.hold_scratch(True)
            with nogil:
                for i in range(n if self.k else 0):
                    self.find(i, &queries[i, 0], query, scratch)
        finally:
            self.hold_scratch(False)
            free(query)
            free(scratch)
        return 0

    cdef int hold_scratch(self, bint held) except -1:
        """Take what walks in graphs need, or give it back."""
        cdef Graph graph
        cdef range_t *where
        cdef size_t i
        for i in range(self.range_count):
            where = &self.ranges[i]
            if where.graph == NULL or (where.scratch != NULL) == held:
                continue
            graph = self.graphs[where.number]
            if held:
                where.scratch = graph.scratch_taken()
            else:
                graph.scratch_given(where.scratch)
                where.scratch = NULL
        return 0

    cdef void find(self, size_t number, const float *numbers, void *query, float *scratch) noexcept nogil:
        """Look for the nearest of one query."""
        cdef const vectors_t *vectors = &self.tail.vectors
        cdef scanned_t *best = self.best + number * self.k
        cdef float step = 0, square = 0
        cdef size_t count = 0, i, j, walked
        cdef range_t *where
        vectors_query(vectors, numbers, scratch, query, &step, &square)
        for i in range(self.range_count):
            where = &self.ranges[i]
            if where.graph == NULL:
                count = scan_best(
                    self.tail.kernels, &where.rows, query, step, vectors.dimension, best, self.k, count
                )
                continue
            walked = graph_search(
                where.graph, &where.rows, self.tail.kernels, query, step, vectors.dimension,
                min(self.ef, where.rows.count), where.scratch, self.walked
            )
            for j in range(min(walked, self.k)):
                count = scanned_add(best, count, self.k, self.walked[j])
        scanned_sort(best, count)
        if vectors.metric == VECTORS_L2:
            for j in range(count):
                best[j].value -= square
        self.found[number] = count


cdef int require_fitting(VectorTail tail, Graph graph) except -1:
    if (
        graph.graph.dimension != tail.vectors.dimension
        or <int>graph.graph.kind != tail.vectors.type
        or <int>graph.graph.metric != tail.vectors.metric
    ):
        raise ValueError(f"a graph of {graph.dimension} numbers as {graph.dtype} by {graph.metric} is of other slots")
    return 0


def search(
    VectorTail tail not None, const float[:, ::1] queries not None, size_t k, uint64_t count, bits=None, *,
    graphs=(), size_t ef=0
):
    """Return the slots of the first `count` that are best for each query.

    Parameters
    ----------
    queries : float32, shape (n, d)
        Finite; no zeroes where the metric is the cosine.
    k, count, bits, graphs, ef
        As of :class:`Search`.

    Returns
    -------
    slots : uint32, scores : float32, shape (n, k)
        The best first, of equal scores the lower slot; what is missing has score NaN.

    Notes
    -----
    **Thread safety**: the GIL is released. **Complexity**: O(n count d), of graphs O(n ef log count d).
    """
    cdef size_t i, j
    k = min(k, count)
    cdef Search done = Search(tail, k, count, bits, graphs, ef)
    done.run(queries)
    numbers, values = np.zeros((done.queries, k), np.uint32), np.full((done.queries, k), np.nan, np.float32)
    cdef uint32_t[:, ::1] slots = numbers
    cdef float[:, ::1] scores = values
    for i in range(done.queries):
        for j in range(done.found[i]):
            slots[i, j] = done.best[i * k + j].row
            scores[i, j] = done.best[i * k + j].value
    return numbers, values


def hits(
    VectorTail tail not None, type make not None, const float[:, ::1] queries not None, size_t k, uint64_t count,
    bits=None, *, float least=-INFINITY, graphs=(), size_t ef=0
):
    """Return what :func:`search` finds, for each query a list: id, score, metadata, ts_event and ts_known.

    Parameters
    ----------
    make : type
        Of tuples, of which each is one.
    least : float
        What scores less is left out.
    """
    cdef size_t i, j
    cdef scanned_t one
    cdef Found at
    cdef list answers = [], answer
    k = min(k, count)
    cdef Search done = Search(tail, k, count, bits, graphs, ef)
    done.run(queries)
    for i in range(done.queries):
        answer = []
        for j in range(done.found[i]):
            one = done.best[i * k + j]
            if not one.value >= least:
                break
            at = tail.found(one.row)
            fields = decode(at.metadata) if PyBytes_GET_SIZE(at.metadata) else {}
            answer.append(new_tuple(make, (at.id, one.value, fields, at.ts_event, at.ts_known)))
        answers.append(answer)
    return answers


def ids(VectorTail tail not None, const uint32_t[:, ::1] slots not None, const float[:, ::1] scores not None):
    """Return the id of each slot, None where the score is NaN: what :func:`search` returned."""
    cdef Py_ssize_t i, j
    found = np.empty((slots.shape[0], slots.shape[1]), np.object_)
    cdef object[:, ::1] names = found
    for i in range(min(slots.shape[0], scores.shape[0])):
        for j in range(min(slots.shape[1], scores.shape[1])):
            if scores[i, j] == scores[i, j]:
                names[i, j] = tail.found(slots[i, j]).id
    return found
