"""Graphs of neighbours for native parts: checked and searched where they stand."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "graph.h" nogil:
    ctypedef struct kernels_t:
        const char *name

    ctypedef struct scan_rows_t:
        const void *rows
        size_t stride, count
        int kind
        uint32_t base
        const float *steps
        const float *squares
        const uint64_t *allowed

    ctypedef struct scanned_t:
        float value
        uint32_t row

    ctypedef struct graph_t:
        uint32_t m, levels, kind, metric, dimension, ef_construction
        uint32_t *counts
        const uint32_t **lists
        uint64_t bytes

    enum:
        GRAPH_COSINE
        GRAPH_L2
        GRAPH_IP
        GRAPH_MOST_M

    ctypedef struct graph_job_t:
        scan_rows_t rows
        const kernels_t *kernels
        size_t dimension
        int metric
        size_t m, ef_construction, seed
        int threads, plain
        const volatile int *stop

    const kernels_t *kernels_at(size_t place) noexcept
    const char *graph_check(const void *file, size_t size, graph_t *graph) noexcept
    size_t graph_scratch(const graph_t *graph) noexcept
    size_t graph_search(
        const graph_t *graph, const scan_rows_t *rows, const kernels_t *kernels, const void *query, float query_step,
        size_t dimension, size_t ef, void *scratch, scanned_t *found
    ) noexcept
    size_t graph_reach(const graph_t *graph, void *scratch) noexcept


# The set of this name, by default of NTMEM_KERNELS, or the best.
cdef const kernels_t *kernels_named(str name) except NULL
