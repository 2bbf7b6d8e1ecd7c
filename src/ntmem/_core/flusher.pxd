"""The flusher's C leaves and its class, for who opens and closes stores."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ntmem._core.log cimport Log
from ntmem._core.logformat cimport log_t
from ntmem._core.mdb cimport Environment, MDB_dbi, MDB_env, mdb_calls_t
from ntmem._core.meters cimport meters_t


cdef extern from "flusher.h" nogil:
    enum flush_fault:
        FLUSH_GROUP_DAMAGED
        FLUSH_BEHIND
        FLUSH_AHEAD
        FLUSH_WORDS
        FLUSH_STRANGER

    enum flush_outcome:
        FLUSH_DONE
        FLUSH_BUSY
        FLUSH_FAILED

    ctypedef struct apply_dbis_t:
        MDB_dbi meta, namespaces, records, history, expiry, staged

    ctypedef struct apply_t:
        pass

    enum apply_error:
        APPLY_BAD_GROUP
        APPLY_DAMAGED
        APPLY_BAD_STAGED

    ctypedef struct flush_counts_t:
        uint64_t passes, groups, bytes, sync_ns, longest_ns, failures
        int64_t last_code

    ctypedef struct flush_t:
        const log_t *log
        MDB_env *env
        const mdb_calls_t *calls
        const char *directory
        uint64_t limit, page
        unsigned char *region_id
        apply_t apply
        unsigned char *buffer
        flush_counts_t counts
        meters_t meters

    ctypedef struct flusher_t:
        flush_t flush
        uint64_t interval
        uint32_t started, joining, leads

    void apply_create(apply_t *apply, const mdb_calls_t *calls, const apply_dbis_t *dbis) noexcept
    void apply_destroy(apply_t *apply) noexcept
    void flush_forget(const log_t *log) noexcept
    flush_outcome flush_once(flush_t *flush, uint64_t wait_ns) noexcept
    int flusher_start(flusher_t *flusher) noexcept
    void flusher_ask_to_stop(flusher_t *flusher) noexcept
    bint flusher_join(flusher_t *flusher, uint64_t wait_ns) noexcept


cdef class Flusher:
    cdef readonly Log log
    cdef readonly Environment environment
    cdef flusher_t *flusher         # in memory of its own: it may have to outlive this object
    cdef bytes directory
    cdef tuple databases

    cdef int stop_in(self, uint64_t wait_ns) except -1
