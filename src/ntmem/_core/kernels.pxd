"""Kernels and the exact scan, for native parts."""

from libc.stdint cimport int8_t, int32_t, uint16_t, uint32_t, uint64_t


cdef extern from "scan.h" nogil:
    ctypedef struct kernels_t:
        const char *name
        int32_t (*dot_i8)(const int8_t *a, const int8_t *b, size_t n) noexcept nogil
        float (*dot_f16)(const uint16_t *a, const uint16_t *b, size_t n) noexcept nogil
        float (*dot_f32)(const float *a, const float *b, size_t n) noexcept nogil
        float (*squared_f16)(const uint16_t *a, const uint16_t *b, size_t n) noexcept nogil
        float (*squared_f32)(const float *a, const float *b, size_t n) noexcept nogil

    enum:
        KERNELS_I8
        KERNELS_F16
        KERNELS_F32

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

    const kernels_t *kernels_at(size_t place) noexcept
    size_t scan_best(
        const kernels_t *kernels, const scan_rows_t *rows, const void *query, float query_step, size_t dimension,
        scanned_t *heap, size_t k, size_t count
    ) noexcept
    size_t scanned_add(scanned_t *heap, size_t count, size_t k, scanned_t candidate) noexcept
    void scanned_sort(scanned_t *heap, size_t count) noexcept


# The set of this name, by default of NTMEM_KERNELS, or the best. ValueError: it does not run here.
cdef const kernels_t *kernels_named(str name) except NULL
