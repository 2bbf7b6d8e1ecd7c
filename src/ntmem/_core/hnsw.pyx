"""Graphs of neighbours (HNSW) made by hnswlib, of rows that stand elsewhere.

Layout
------
``graph_build.h`` has the distances and the way from hnswlib into a file, ``hnsw_build.h`` and ``.cpp``, the only C++,
hnswlib. Vectors are never copied. :mod:`ntmem._core.graph` searches what is made here.

Invariants
----------
1. Node i is row i, whatever the threads did. With one thread the graph depends on the rows and the seed only, and of
   int8 it is the same on every machine.
2. Each node of a row that is not left out can be reached from the first one by links of the lowest level. Rows that
   are equal to an earlier one hang behind it, and hnswlib does not see them.
3. While the GIL is released only C memory is touched, and the buffers are held.
"""

import numpy as np

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ntmem._core.graph cimport GRAPH_MOST_M, GRAPH_MOST_NODES, Graph, graph_job_t
from ntmem._core.kernels cimport kernels_named

from ntmem._core.graph import METRICS
from ntmem._core.kernels import KINDS, MOST_DIMENSIONS, check_scan


cdef extern from "graph_build.h" nogil:
    ctypedef struct hnsw_built_t:
        pass

    ctypedef struct graph_header_t:
        uint64_t bytes

    ctypedef struct graph_space_t:
        float query_step

    ctypedef struct graph_made_t:
        hnsw_built_t *built
        graph_header_t header

    enum:
        HNSW_DONE
        HNSW_STOPPED
        HNSW_NO_MEMORY

    ctypedef float hnsw_distance_t(const void *, const void *, const void *) noexcept
    hnsw_distance_t space_query_distance

    int graph_make(const graph_job_t *job, graph_space_t *space, graph_made_t *made, char *message) noexcept
    void graph_write(const graph_made_t *made, void *file) noexcept
    void graph_made_free(graph_made_t *made) noexcept
    uint64_t graph_make_bytes(size_t count, size_t m) noexcept
    size_t hnsw_mended(const hnsw_built_t *built) noexcept
    size_t hnsw_search(
        hnsw_built_t *built, hnsw_distance_t *distance, const void *query, size_t k, size_t ef, const uint64_t *allowed,
        uint32_t *nodes, float *distances
    ) noexcept

MOST_ROWS = GRAPH_MOST_NODES
MOST_M = GRAPH_MOST_M
MOST_EF = 1 << 20


cdef int made_of(const graph_job_t *job, graph_space_t *space, graph_made_t *made) except -1:
    cdef int outcome
    cdef char message[200]
    message[0] = 0
    with nogil:
        outcome = graph_make(job, space, made, message)
    if outcome == HNSW_NO_MEMORY:
        raise MemoryError(f"no memory for a graph of {job.rows.count} rows")
    if outcome != HNSW_DONE and outcome != HNSW_STOPPED:
        raise RuntimeError(f"hnswlib: {message.decode()}")
    return outcome


cdef bytes written(const graph_made_t *made):
    cdef bytes file = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>made.header.bytes)
    cdef char *to = PyBytes_AS_STRING(file)
    with nogil:
        graph_write(made, to)
    return file


cdef bytes graph_of(const graph_job_t *job):
    cdef graph_space_t space
    cdef graph_made_t made
    if made_of(job, &space, &made) == HNSW_STOPPED:
        return None
    try:
        return written(&made)
    finally:
        graph_made_free(&made)


@cython.final
cdef class Rows:
    """Rows to make graphs of, with all that is checked about them; they are held and not copied.

    Parameters
    ----------
    rows : int8, float16 or float32, shape (n, d)
        int8 from -127 to 127. Each row has its numbers one beside the other; rows may be further apart.
    steps : float32, shape (n,), or None
        By which rows are multiplied to be the vectors. None: they are the vectors.
    squares : float32, shape (n,), or None
        Squared lengths of the vectors, for the metric l2.
    metric : str
        ``"cosine"`` and ``"ip"`` rank by products, ``"l2"`` by distances.
    kernels : str, optional
        As of :class:`ntmem._core.kernels.Kernels`.
    """

    cdef graph_job_t job
    cdef tuple held

    def __init__(
        self, rows not None, const float[::1] steps, const float[::1] squares, *, str metric="cosine", str kernels=None
    ):
        cdef const uint8_t[:, :] row_bytes
        check_rows(rows, steps, squares, metric)
        self.job.kernels = kernels_named(kernels)
        self.job.rows.count, self.job.dimension = rows.shape
        self.job.rows.kind, self.job.metric = KINDS[rows.dtype], METRICS[metric]
        self.job.rows.stride = rows.strides[0]
        if len(rows):
            row_bytes = rows.view(np.uint8)
            self.job.rows.rows = &row_bytes[0, 0]
            if steps is not None:
                self.job.rows.steps = &steps[0]
            if squares is not None and metric == "l2":
                self.job.rows.squares = &squares[0]
        self.held = rows, steps, squares

    cdef graph_job_t job_of(self, object m, object ef_construction, object threads, object seed, const int[::1] stop):
        cdef graph_job_t job = self.job
        check_job(m, ef_construction, threads, stop)
        job.m, job.ef_construction = m, ef_construction
        job.threads, job.seed, job.share = threads, seed, 1
        job.plain, job.background = 0, 0
        job.wanted = NULL
        job.base = NULL
        job.stop = NULL
        if stop is not None:
            job.stop = &stop[0]
        return job


def check_rows(rows, steps, squares, metric):
    """Raise what is wrong with what a graph is to be made of."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, was {metric!r}")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype not in KINDS:
        raise TypeError("rows are an array of int8, float16 or float32, of two dimensions")
    if not 0 < rows.shape[1] <= MOST_DIMENSIONS or (len(rows) and rows.strides[1] != rows.itemsize):
        raise ValueError(f"rows have 1 to {MOST_DIMENSIONS} numbers one beside the other, these have {rows.shape[1]}")
    if len(rows) and rows.strides[0] < rows.shape[1] * rows.itemsize:
        raise ValueError("rows must not overlap")
    if len(rows) > MOST_ROWS:
        raise ValueError(f"a graph is of {MOST_ROWS} rows at most, there were {len(rows)}")
    if any(each is not None and len(each) != len(rows) for each in (steps, squares)):
        raise ValueError(f"steps and squares must be as many as the {len(rows)} rows")
    if metric == "l2" and squares is None:
        raise ValueError("the metric l2 wants the squared lengths of the vectors")


def check_job(m, ef_construction, threads, stop):
    """Raise what is wrong with the way a graph is to be made."""
    if not 2 <= m <= MOST_M or not 1 <= ef_construction <= MOST_EF:
        raise ValueError(
            f"m must be from 2 to {MOST_M} and ef_construction from 1 to {MOST_EF}, were {m} and {ef_construction}"
        )
    if not 1 <= threads <= 256:
        raise ValueError(f"threads must be from 1 to 256, was {threads}")
    if stop is not None and len(stop) != 1:
        raise ValueError(f"stop is one number, had {len(stop)}")


def check_part(rows, m, metric, wanted, base):
    """Raise what does not fit the rows of what is left out and of what is extended."""
    if wanted is not None and len(wanted) < (len(rows) + 63) // 64:
        raise ValueError(f"wanted must have {(len(rows) + 63) // 64} words for {len(rows)} rows, had {len(wanted)}")
    if base is None:
        return
    if base.count > len(rows):
        raise ValueError(f"a graph of {base.count} rows cannot be extended to {len(rows)}")
    theirs = {"m": base.m, "dtype": base.dtype, "metric": base.metric, "dimension": base.dimension}
    ours = {"m": m, "dtype": rows.dtype, "metric": metric, "dimension": rows.shape[1]}
    differ = [f"{name} {theirs[name]}, not {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if differ:
        raise ValueError(f"only a graph of the same can be extended, this one has {' and '.join(differ)}")


def build(
    rows not None, const float[::1] steps, const float[::1] squares=None, *, str metric="cosine", size_t m=16,
    size_t ef_construction=200, int threads=1, size_t seed=100, const int[::1] stop=None, str kernels=None,
    const uint64_t[::1] wanted=None, Graph base=None, double share=1.0, bint background=False
):
    """Return the graph of the rows as bytes, or None if it was stopped.

    Parameters
    ----------
    rows, steps, squares, metric, kernels
        As of :class:`Rows`.
    m : int
        Neighbours of a node, and twice as many at level 0.
    ef_construction : int
        How many candidates for neighbours are looked at: more make a better graph, and take longer.
    threads : int
        Native ones. Only a graph made by one is the same each time.
    seed : int
        Of the levels.
    stop : int32, shape (1,), optional
        Whoever sets it to another number than 0 ends this within some milliseconds.
    wanted : uint64, shape ((n + 63) // 64,), optional
        A bit for each row, 0 of rows that are left out: they are nodes that nothing leads to.
    base : Graph, optional
        Of the first of these rows: its links are taken over, and only the rows behind it are inserted, as if all had
        been at once. What it has linked stays so, and what it left out, whatever `wanted` says. One that was made
        without a look at equal rows, and has such, is made anew.
    share : float
        Up to 1: about which share of the time each thread works. Else it sleeps.
    background : bool
        All is done by threads of the lowest priority while the calling one waits. Only Linux has such; elsewhere
        their priority is the usual one.

    Notes
    -----
    **Thread safety**: the GIL is released; nobody may write to the rows or to `wanted` meanwhile. **Complexity**:
    O(n log n) for n rows that are inserted. :func:`build_bytes` tells the memory.
    """
    cdef Rows what = Rows(rows, steps, squares, metric=metric, kernels=kernels)
    cdef graph_job_t job = what.job_of(m, ef_construction, threads, seed, stop)
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, was {share}")
    check_part(rows, m, metric, wanted, base)
    job.share, job.background = share, background
    if wanted is not None and len(rows):
        job.wanted = &wanted[0]
    if base is not None:
        job.base = &base.graph
    return graph_of(&job)


def build_bytes(size_t rows, size_t m=16):
    """Return about how many bytes of memory :func:`build` takes at most for so many rows, besides these and `base`.

    That is with one or two threads, of which each further one takes two bytes a row, and with the graph that is
    returned.
    """
    if rows > MOST_ROWS or not 2 <= m <= MOST_M:
        raise ValueError(f"rows must be up to {MOST_ROWS} and m from 2 to {MOST_M}, were {rows} and {m}")
    return graph_make_bytes(rows, m)


@cython.final
cdef class Built:
    """A graph as hnswlib has it, for tests: what becomes of it, and what hnswlib itself finds in it.

    Parameters are those of :func:`build`; `plain` leaves all to hnswlib, without threads, and mends nothing.
    """

    cdef graph_space_t space
    cdef graph_made_t made
    cdef graph_job_t job
    cdef Rows rows

    def __init__(
        self, rows not None, const float[::1] steps, const float[::1] squares=None, *, str metric="cosine", size_t m=16,
        size_t ef_construction=200, int threads=1, size_t seed=100, bint plain=False, str kernels=None
    ):
        graph_made_free(&self.made)
        self.rows = Rows(rows, steps, squares, metric=metric, kernels=kernels)
        self.job = self.rows.job_of(m, ef_construction, threads, seed, None)
        if plain:
            self.job.plain, self.job.threads = 1, 1
        made_of(&self.job, &self.space, &self.made)

    def __dealloc__(self):
        graph_made_free(&self.made)

    @property
    def graph(self):
        """As of :func:`build`."""
        return written(&self.made)

    @property
    def mended(self):
        """How many nodes got a link because none led to them."""
        return 0 if self.made.built == NULL else hnsw_mended(self.made.built)

    def search(self, query not None, float query_step, size_t k, *, size_t ef=100, const uint64_t[::1] allowed=None):
        """Return what hnswlib's own search finds: rows, and values as of :meth:`ntmem._core.graph.Graph.search`."""
        rows, values = np.empty(k, np.uint32), np.empty(k, np.float32)
        cdef uint32_t[::1] to_rows = rows
        cdef float[::1] to_values = values
        cdef const uint8_t[::1] query_bytes = query.view(np.uint8)
        cdef const uint64_t *bits = NULL
        cdef size_t count = 0
        if allowed is not None:
            bits = &allowed[0]
        check_scan(self.rows.held[0], query, k, 0)
        self.space.query_step = query_step
        if self.made.built != NULL:
            count = hnsw_search(
                self.made.built, space_query_distance, &query_bytes[0], k, ef, bits, &to_rows[0], &to_values[0]
            )
        return rows[:count], -values[:count]
