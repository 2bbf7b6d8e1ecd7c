"""Records on their way into the log and out of it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ntmem._core.keyhash cimport keyhash, whole_key_t
from ntmem._core.logformat cimport (
    CONDITION_NEWEST, CONDITION_SERVED, LOG_KIND_PUT, boot_ns, fence_is_current, fence_word_t, log_append_t,
    log_draft_t, log_group_t, log_record_t, record_bytes,
)


cdef class Record:
    cdef readonly bytes namespace, key, writer, value
    cdef readonly uint64_t version
    cdef readonly int64_t ts_event, ts_known, expires_at
    cdef readonly int kind, flags


cdef class Claim:
    cdef const fence_word_t *word
    cdef readonly uint64_t number
    cdef uint64_t mark
    cdef object table           # in whose memory the word stands


cdef class Batch:
    cdef log_append_t append
    cdef log_draft_t single
    cdef Py_buffer *buffers
    cdef size_t buffer_count
    cdef tuple held

    cdef int fill(self, log_draft_t *draft, tuple record) except -1
    cdef int fill_from_buffer(self, log_draft_t *draft, object value) except -1
    cdef int fill_size(self, log_draft_t *draft, Py_ssize_t size) except -1


cdef enum:
    KEY_LIMIT = 65536
    NAME_LIMIT = 65535


cdef inline int key_fill(whole_key_t *wanted, bytes namespace, bytes key) except -1:
    if PyBytes_GET_SIZE(namespace) > NAME_LIMIT or PyBytes_GET_SIZE(key) > KEY_LIMIT:
        raise ValueError(f"a namespace has up to {NAME_LIMIT} and a key up to {KEY_LIMIT} bytes, one had more")
    wanted.space = <const unsigned char *>PyBytes_AS_STRING(namespace)
    wanted.key = <const unsigned char *>PyBytes_AS_STRING(key)
    wanted.space_size = PyBytes_GET_SIZE(namespace)
    wanted.key_size = PyBytes_GET_SIZE(key)
    wanted.hash = keyhash(wanted.space, wanted.space_size, wanted.key, wanted.key_size)
    return 0


cdef inline Record record_make(const log_record_t *header, bytes namespace, bytes key):
    cdef Record record = Record.__new__(Record)
    record.namespace = namespace
    record.key = key
    record.version = header.version
    record.ts_event = header.ts_event
    record.ts_known = header.ts_known
    record.expires_at = header.expires_at
    record.kind = header.kind
    record.flags = header.flags
    return record


cdef inline list group_records(const unsigned char *group):
    """The records of a private copy whose soundness was checked."""
    cdef uint32_t _
    cdef const log_record_t *header
    cdef const unsigned char *at = group + sizeof(log_group_t)
    cdef const char *bytes_at
    cdef Record record
    cdef list found = []
    for _ in range((<const log_group_t *>group).records):
        header = <const log_record_t *>at
        bytes_at = <const char *>at + sizeof(log_record_t)
        record = record_make(
            header,
            PyBytes_FromStringAndSize(bytes_at, header.namespace_size),
            PyBytes_FromStringAndSize(bytes_at + header.namespace_size, header.key_size),
        )
        bytes_at += <size_t>header.namespace_size + header.key_size
        record.writer = PyBytes_FromStringAndSize(bytes_at, header.writer_size)
        record.value = PyBytes_FromStringAndSize(bytes_at + header.writer_size, header.value_size)
        found.append(record)
        at += record_bytes(header)
    return found
