"""Reading LMDB natively, declared for Cython; cold.h has what it means."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ntmem._core.mdb cimport MDB_cursor, MDB_dbi, MDB_txn, MDB_val, mdb_calls_t


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

    ctypedef struct row_record_t:
        uint8_t flags
        uint64_t version
        int64_t ts_event, ts_known, expires_at
        const unsigned char *writer
        uint32_t writer_size
        const unsigned char *value
        size_t value_size

    MDB_cursor *cold_open(const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi records) noexcept
    void cold_close(const mdb_calls_t *calls, MDB_cursor *cursor) noexcept
    cold_outcome cold_move(
        const mdb_calls_t *calls, MDB_cursor *cursor, const MDB_val *stem, const void *start, size_t size, MDB_val *key,
        row_record_t *record
    ) noexcept
