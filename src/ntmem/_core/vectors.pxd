"""The memory of a collection, for native parts that search in it."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ntmem._core.kernels cimport kernels_t
from ntmem._core.region cimport Region


cdef extern from "vectors.h" nogil:
    enum:
        VECTORS_SECTIONS
        VECTORS_L2
        VECTORS_ROWS
        VECTORS_STEPS
        VECTORS_SQUARES

    ctypedef struct shared_mutex_t:
        pass

    ctypedef struct vectors_control_t:
        shared_mutex_t mutex
        uint32_t freezer, builder
        uint64_t frozen, graphs
        uint64_t count
        uint64_t field_count, value_count
        uint64_t position, epoch, is_over

    ctypedef struct vectors_t:
        vectors_control_t *control
        char **sections
        uint64_t *sizes
        uint64_t *offsets
        int fd
        uint32_t pid
        uint64_t capacity
        uint32_t dimension, stride
        int type, metric

    void vectors_query(
        const vectors_t *vectors, const float *numbers, float *scratch, void *query, float *step, float *square
    ) noexcept


@cython.final
cdef class Found:
    cdef readonly str id
    cdef readonly bytes metadata
    cdef readonly int64_t ts_event
    cdef readonly int64_t ts_known


@cython.final
cdef class VectorTail:
    cdef readonly Region region
    cdef vectors_t vectors
    cdef const kernels_t *kernels
    cdef unsigned long long holder      # thread of this process that has it locked, 0: none
    cdef float[::1] scratch
    cdef object dtype

    cpdef unlock(self)
    cdef int check_held(self) except -1
    cpdef stage(self, str id, vector, int64_t event, int64_t known, bytes metadata)
    cdef int stage_fields(self, bytes metadata) except -1
    cdef int stage_field(self, str field, value) except -1
    cdef uint64_t seen(self, uint64_t count) except? 0
    cpdef Found found(self, uint64_t slot)
    cdef object checked(self, uint64_t count, bits)
