"""Graphs of neighbours for native parts: checked and searched where they stand."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ntmem._core.kernels cimport kernels_t, scan_rows_t, scanned_t


cdef extern from "graph.h" nogil:
    ctypedef struct graph_t:
        uint32_t m, levels, kind, metric, dimension, ef_construction, linked, twins
        uint32_t *counts
        uint64_t bytes

    enum:
        GRAPH_COSINE
        GRAPH_L2
        GRAPH_IP
        GRAPH_MOST_M
        GRAPH_MOST_NODES

    ctypedef struct graph_job_t:
        scan_rows_t rows
        const kernels_t *kernels
        size_t dimension
        int metric
        size_t m, ef_construction, seed
        int threads
        double share
        int background, plain
        const uint64_t *wanted
        const graph_t *base
        const volatile int *stop

    const char *graph_check(const void *file, size_t size, graph_t *graph) noexcept
    size_t graph_scratch(const graph_t *graph) noexcept
    size_t graph_search(
        const graph_t *graph, const scan_rows_t *rows, const kernels_t *kernels, const void *query, float query_step,
        size_t dimension, size_t ef, void *scratch, scanned_t *found
    ) noexcept
    size_t graph_reach(const graph_t *graph, void *scratch) noexcept
    uint32_t graph_link(const uint8_t *list, size_t number) noexcept
    const uint8_t *graph_list(const graph_t *graph, uint32_t level, uint32_t own) noexcept


@cython.final
cdef class Graph:
    cdef graph_t graph
    cdef const uint8_t[::1] held
    cdef void *scratch

    cdef tuple best(
        self, const kernels_t *kernels, const scan_rows_t *what, const void *query, float query_step, size_t k,
        size_t most
    )
    cdef int check_search(self, rows, steps, squares, allowed) except -1
    cdef void *scratch_taken(self) except NULL
    cdef void scratch_given(self, void *scratch) noexcept
