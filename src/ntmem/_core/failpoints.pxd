"""The one table of failpoints of a process, for the native modules that have some."""

from libc.stdint cimport uint64_t


cdef extern from "failpoint.h" nogil:
    ctypedef struct failpoints_t:
        pass

    void failpoints_join(failpoints_t *table) noexcept


cdef failpoints_t *failpoints_table() noexcept
