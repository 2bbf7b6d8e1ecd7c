"""Reading LMDB natively, declared for Cython; cold.h has what it means."""

from libc.stdint cimport int64_t, uint64_t

from ntmem._core.mdb cimport MDB_dbi, MDB_txn, mdb_calls_t


cdef extern from "cold.h" nogil:
    enum cold_outcome:
        COLD_FOUND
        COLD_ABSENT

    ctypedef struct cold_found_t:
        const unsigned char *value
        size_t value_size
        int64_t expires_at

    cold_outcome cold_space(
        const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi namespaces, const unsigned char *labels, size_t size,
        uint64_t *id
    ) noexcept
    cold_outcome cold_find(
        const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi records, uint64_t id, const unsigned char *key, size_t size,
        cold_found_t *found
    ) noexcept
