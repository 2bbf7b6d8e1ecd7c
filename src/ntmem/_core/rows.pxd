"""Rows into a log, for native parts."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ntmem._core.keyhash cimport whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport log_append_t, log_draft_t
from ntmem._core.meters cimport meters_t


cdef class RowLog:
    cdef Log log
    cdef bytes space
    cdef bytes writer
    cdef uint64_t seed
    cdef uint64_t max_lag
    cdef bint writes
    cdef meters_t meters

    cdef void aim(self, uint32_t series, uint64_t number, unsigned char *key, whole_key_t *wanted) noexcept
    cdef void begin(
        self, uint32_t series, uint64_t number, unsigned char *key, log_draft_t *draft, log_append_t *append,
        int64_t now
    ) noexcept
    cdef bint commit(self, log_draft_t *draft, log_append_t *append) noexcept
    cpdef uint64_t put(self, uint32_t series, uint64_t number, bytes value, uint64_t position, uint64_t epoch)
