"""What the log has beyond a snapshot of the disk: all versions of a key, or the newest of every key.

Both are for readers that merge the log with LMDB; a single newest record is :meth:`Log.get`.

Invariants
----------
1. What is returned was read whole: a copy that was overwritten meanwhile is thrown away (I5).
2. No lock is taken, and nobody waited for.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport Record, key_fill, record_make

from ntmem._core.logrecords import LogDamaged, LookAgain

failpoints_join(failpoints_table())


def versions(Log log not None, bytes namespace not None, bytes key not None, *, uint64_t snapshot):
    """Return the records of a key behind `snapshot`, newest first.

    Parameters
    ----------
    snapshot : int
        ``flushed`` as a disk snapshot has it that was begun before this call.

    Raises
    ------
    LookAgain
        The log went on so far meanwhile that log and snapshot have a gap between them.
    LogDamaged
        The index leads to bytes that are no record.

    Notes
    -----
    **Complexity**: O(records of the key there, other keys in its slot). The GIL is kept.
    """
    cdef whole_key_t wanted
    cdef log_record_t header
    cdef uint64_t position = 0
    cdef uint64_t limit, link
    cdef log_find_outcome outcome
    cdef Record record
    cdef list found = []
    log.check_process()
    key_fill(&wanted, namespace, key)
    limit = log_limit(&log.log)
    link = log_chain(&log.log, &wanted)
    while True:
        outcome = log_find_from(&log.log, &wanted, link, limit, &position, &header)
        if outcome == LOG_DAMAGED:
            raise LogDamaged(f"{log.region.path}: the index leads {key!r} to bytes that are no record")
        if outcome == LOG_ABSENT or position < snapshot:
            break
        record = log.copy_record(namespace, key, position, &header)
        if record is None:
            break
        found.append(record)
        link = log_chain_behind(position, &header)
    if log_bound(&log.log) > snapshot:
        raise LookAgain(f"the snapshot has everything before {snapshot}, the log only from {log_bound(&log.log)}")
    return found


cdef Record record_read(const unsigned char *at, const log_record_t *header, bytes namespace):
    """A record of a private copy whose soundness was checked."""
    cdef const char *names = <const char *>at + sizeof(log_record_t)
    cdef const char *rest = names + header.namespace_size + header.key_size
    cdef Record record = record_make(
        header, namespace, PyBytes_FromStringAndSize(names + header.namespace_size, header.key_size)
    )
    record.writer = PyBytes_FromStringAndSize(rest, header.writer_size)
    record.value = PyBytes_FromStringAndSize(rest + header.writer_size, header.value_size)
    return record


cdef bint begins_with(const unsigned char *data, size_t size, bytes stem) noexcept:
    return size >= <size_t>PyBytes_GET_SIZE(stem) and memcmp(data, PyBytes_AS_STRING(stem), PyBytes_GET_SIZE(stem)) == 0


cdef bint is_before(const unsigned char *data, size_t size, bytes other) noexcept:
    cdef size_t least = PyBytes_GET_SIZE(other)
    cdef int order = memcmp(data, PyBytes_AS_STRING(other), min(size, least))
    return order < 0 or (order == 0 and size < least)


cdef int collect_group(const unsigned char *group, bytes stem, bytes prefix, bytes start, dict found) except -1:
    cdef const unsigned char *at = group + sizeof(log_group_t)
    cdef const unsigned char *names
    cdef const unsigned char *key
    cdef log_record_t header
    cdef bytes namespace
    cdef uint32_t _
    for _ in range((<const log_group_t *>group).records):
        memcpy(&header, at, sizeof(header))
        names = at + sizeof(log_record_t)
        key = names + header.namespace_size
        if (
            header.kind != LOG_KIND_NOTICE
            and begins_with(names, header.namespace_size, stem)
            and begins_with(key, header.key_size, prefix)
            and not is_before(key, header.key_size, start)
        ):
            namespace = PyBytes_FromStringAndSize(<const char *>names, header.namespace_size)
            record = record_read(at, &header, namespace)
            found.setdefault(namespace, {})[record.key] = record
        at += record_bytes(&header)
    return 0


def collect(Log log not None, bytes stem not None, bytes prefix not None=b"", bytes start not None=b""):
    """Return the newest unflushed record of every key in the namespaces that begin with `stem`.

    Only of keys that begin with `prefix`, from `start` on. What is not in it is on disk when the call returns: a disk
    snapshot begun afterwards has that, or newer.

    Returns
    -------
    dict of bytes to dict of bytes to Record
        By namespace and key; deletions are in it.

    Notes
    -----
    **Complexity**: O(unflushed bytes). The GIL is released while bytes are copied and checked.
    """
    cdef uint64_t position, committed, group_bytes = 0
    cdef log_group_outcome outcome
    cdef uint64_t room = 1 << 16
    cdef unsigned char *buffer
    cdef dict found = {}
    log.check_process()
    position = word_acquire(&log.log.control.flushed.word)
    committed = word_acquire(&log.log.control.committed.word)
    buffer = <unsigned char *>malloc(room)
    try:
        while position < committed:
            if buffer == NULL:
                raise MemoryError(f"no memory for {room} bytes of the log")
            with nogil:
                outcome = log_group_copy(&log.log, position, buffer, room, &group_bytes)
            if outcome == GROUP_TOO_LARGE:
                free(buffer)
                room = group_bytes
                buffer = <unsigned char *>malloc(room)
                continue
            if outcome == GROUP_OVERWRITTEN:  # and so on disk; what is not stands further on
                position = word_acquire(&log.log.control.flushed.word)
                continue
            if outcome != GROUP_COPIED:
                raise LogDamaged(f"{log.region.path}: no sound group begins at {position}")
            collect_group(buffer, stem, prefix, start, found)
            position += group_bytes
    finally:
        free(buffer)
    return found
