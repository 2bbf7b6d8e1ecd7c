"""Many keys of one namespace at once: from the hot table, the log and LMDB, all as of one moment, without the GIL; and
keys in order from LMDB alone.

Invariants
----------
1. The moment is where the log ended (`limit`) after the snapshot was begun. What the hot table has counts only if it
   was seen by then and nothing newer is in the log (I1).
2. LMDB is asked for what the log knows nothing of since the snapshot, of which it is to have all (I4). What it says is
   promoted as of the snapshot, not as of the limit: the log may have been passed by in between.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp

from ntmem._core.cold cimport (
    COLD_ABSENT, COLD_FOUND, cold_close, cold_find, cold_found_t, cold_move, cold_open, cold_outcome, cold_space,
    row_record_t,
)
from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.hot cimport (
    HOT_HIT, USAGE_ABSENT, USAGE_DISK, USAGE_HOT, USAGE_LOG, HotTable, bytes_copy, coarse_ns, hot_find, hot_found_t,
    hot_is_current, hot_is_unchanged, hot_newest, hot_t, hot_touch, usage_add,
)
from ntmem._core.keyhash cimport KEYHASH_SEED, keyhash_bytes, whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.mdb cimport MDB_cursor, MDB_dbi, MDB_txn, MDB_val, Database, Transaction, mdb_calls_t

from ntmem._core.logrecords import LookAgain

cdef object new_tuple = tuple.__new__

failpoints_join(failpoints_table())


cdef enum:
    FEW = 32                # keys that are not worth giving the GIL away
    NOT_PLAIN = 0xff & ~16      # any flag of a record but that it was written under a lease

cdef enum answer_t:
    OPEN                    # LMDB is to be asked
    HERE_HOT
    HERE_LOG
    HERE_DISK
    NOWHERE
    UNSURE                  # Python has to look


cdef struct wish_t:
    whole_key_t key
    answer_t answer
    size_t offset, size     # of the value, in the buffer
    int64_t expires_at


cdef struct wishes_t:
    wish_t *all
    size_t count
    size_t still_open
    unsigned char *buffer
    size_t used, room
    int64_t now


cdef unsigned char *room_for(wishes_t *wishes, size_t size) noexcept nogil:
    cdef size_t room = max(wishes.room, <size_t>4096)
    cdef unsigned char *grown
    while room - wishes.used < size:
        room *= 2
    if room != wishes.room:
        grown = <unsigned char *>realloc(wishes.buffer, room)
        if grown == NULL:
            return NULL
        wishes.buffer = grown
        wishes.room = room
    return wishes.buffer + wishes.used


cdef void take(wishes_t *wishes, wish_t *wish, size_t size, int64_t expires_at, answer_t where) noexcept nogil:
    wish.answer = where if expires_at == 0 or expires_at > wishes.now else NOWHERE
    wish.offset = wishes.used
    wish.size = size
    wish.expires_at = expires_at
    wishes.used += size


cdef void ask_memory(const log_t *log, const hot_t *hot, wishes_t *wishes, wish_t *wish, uint64_t limit) noexcept nogil:
    cdef hot_found_t found
    cdef log_record_t header
    cdef uint64_t position = 0
    cdef uint64_t newest
    cdef unsigned char *to
    if hot != NULL:
        newest = hot_newest(hot, wish.key.hash)
        if (hot_find(hot, &wish.key, &found) == HOT_HIT and found.record.seen <= limit
                and hot_is_current(hot, &found.record, newest)
                and (found.record.leaves_at == 0 or found.record.leaves_at > coarse_ns())):
            to = room_for(wishes, found.record.value_size)
            if to != NULL:
                bytes_copy(to, found.value, found.record.value_size)
                if hot_is_unchanged(&found):
                    hot_touch(&found)
                    take(wishes, wish, found.record.value_size, found.record.expires_at, HERE_HOT)
                    return
    wish.answer = UNSURE
    outcome = log_find(log, &wish.key, limit, &position, &header)
    if outcome == LOG_ABSENT:
        wish.answer = OPEN
        wishes.still_open += 1
    elif outcome == LOG_FOUND and header.kind == LOG_KIND_DELETE:
        wish.answer = NOWHERE
    elif outcome == LOG_FOUND and not header.flags & NOT_PLAIN:
        to = room_for(wishes, header.value_size)
        if to == NULL:
            return
        log_copy(
            log, position + sizeof(log_record_t) + header.namespace_size + header.key_size + header.writer_size, to,
            header.value_size,
        )
        if not log_is_behind(log, position):
            take(wishes, wish, header.value_size, header.expires_at, HERE_LOG)


cdef void ask_disk(
    const mdb_calls_t *calls, MDB_txn *txn, MDB_dbi namespaces, MDB_dbi records, wishes_t *wishes
) noexcept nogil:
    cdef cold_found_t found
    cdef uint64_t space = 0
    cdef unsigned char *to
    cdef size_t i
    cdef wish_t *wish = wishes.all
    cdef cold_outcome outcome, known
    known = cold_space(calls, txn, namespaces, wish.key.space, wish.key.space_size, &space)
    for i in range(wishes.count):
        wish = wishes.all + i
        if wish.answer != OPEN:
            continue
        outcome = known
        if outcome == COLD_FOUND:
            outcome = cold_find(calls, txn, records, space, wish.key.key, wish.key.key_size, &found)
        wish.answer = NOWHERE if outcome == COLD_ABSENT else UNSURE
        if outcome == COLD_FOUND:
            to = room_for(wishes, found.value_size)
            if to != NULL:
                bytes_copy(to, found.value, found.value_size)
                take(wishes, wish, found.value_size, found.expires_at, HERE_DISK)


def gather(Log log not None, HotTable hot, tables, dict databases not None, bytes space not None, list keys not None):
    """Return the values of the keys that exist, by name, all as of one moment; None where Python has to look.

    Parameters
    ----------
    log, hot : Log, HotTable or None
    tables : LiveTables
        The rows of a snapshot that was begun before this call; `txn` is its transaction, `snapshot` up to where it has
        the log.
    databases : dict
        Of LMDB, by name.
    space : bytes
        The namespace; it keeps no history.
    keys : list of (str, bytes)
        Names, and the same encoded.

    Raises
    ------
    LookAgain
        The log went on so far meanwhile that log and snapshot have a gap between them.

    Notes
    -----
    **Complexity**: O(keys + bytes), O(log n) for each that is only on disk. The GIL is given away unless keys are few.
    """
    cdef wishes_t wishes
    cdef wish_t *wish
    cdef Transaction txn = tables.txn
    cdef MDB_dbi namespaces = (<Database?>databases["namespaces"]).number
    cdef MDB_dbi records = (<Database?>databases["records"]).number
    cdef const hot_t *table = NULL if hot is None else &hot.hot
    cdef uint64_t limit, seed, snapshot = 0
    cdef size_t i
    cdef bytes key
    cdef dict found = {}
    cdef list counts = [0] * 6
    log.check_process()
    if not keys:
        return found
    wishes.count = len(keys)
    wishes.all = <wish_t *>calloc(wishes.count, sizeof(wish_t))
    wishes.buffer = NULL
    wishes.used = wishes.room = wishes.still_open = 0
    if wishes.all == NULL:
        raise MemoryError(f"no memory for {len(keys)} keys")
    try:
        seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(space), PyBytes_GET_SIZE(space), KEYHASH_SEED)
        for i in range(wishes.count):
            key = keys[i][1]
            wish = wishes.all + i
            wish.key.space = <const unsigned char *>PyBytes_AS_STRING(space)
            wish.key.space_size = PyBytes_GET_SIZE(space)
            wish.key.key = <const unsigned char *>PyBytes_AS_STRING(key)
            wish.key.key_size = PyBytes_GET_SIZE(key)
            wish.key.hash = keyhash_bytes(wish.key.key, wish.key.key_size, seed)
        wishes.now = log_now(&log.log)
        limit = log_limit(&log.log)
        if wishes.count <= FEW:
            for i in range(wishes.count):
                ask_memory(&log.log, table, &wishes, wishes.all + i, limit)
        else:
            with nogil:
                for i in range(wishes.count):
                    ask_memory(&log.log, table, &wishes, wishes.all + i, limit)
        if wishes.still_open:
            snapshot = tables.snapshot
            if log_bound(&log.log) > snapshot:
                raise LookAgain(f"the snapshot has everything before {snapshot}, the log only from {log.begin}")
            txn.check_alive()
            if wishes.still_open <= FEW:
                ask_disk(txn.env.calls, txn.txn, namespaces, records, &wishes)
            else:
                with nogil:
                    ask_disk(txn.env.calls, txn.txn, namespaces, records, &wishes)
        tables.check_epoch()
        for i in range(wishes.count):
            wish = wishes.all + i
            if wish.answer == UNSURE:
                return None
            counts[<int>wish.answer] += 1
            if wish.answer == NOWHERE:
                continue
            found[keys[i][0]] = PyBytes_FromStringAndSize(<const char *>wishes.buffer + wish.offset, wish.size)
            if wish.answer != HERE_HOT and hot is not None:
                hot.keep(
                    &wish.key, wishes.buffer + wish.offset, wish.size, limit if wish.answer == HERE_LOG else snapshot,
                    wish.expires_at
                )
        if hot is not None:
            usage_add(hot.usage, USAGE_HOT, counts[<int>HERE_HOT])
            usage_add(hot.usage, USAGE_LOG, counts[<int>HERE_LOG])
            usage_add(hot.usage, USAGE_DISK, counts[<int>HERE_DISK])
            usage_add(hot.usage, USAGE_ABSENT, counts[<int>NOWHERE])
        return found
    finally:
        free(wishes.all)
        free(wishes.buffer)


def page(
    Transaction txn not None, Database records not None, bytes stem not None, bytes begin not None, bytes resume,
    size_t most, size_t most_bytes, type make not None
):
    """Return records of a snapshot in the order of their database keys; None where Python has to look.

    That is where one is damaged, expires, is not known yet or does not have its whole key there.

    Parameters
    ----------
    stem, begin : bytes
        Those whose database keys begin with `stem`, from `begin` on.
    resume : bytes, or None
        The database key `begin` itself is left out if it is this one.
    most, most_bytes : int
        No more records once there are so many, or their values have so many bytes.
    make : type
        Of tuples, of which each record is one: flags, version, ts_event, ts_known, expires_at, writer, key (empty: the
        database key has it) and value.

    Returns
    -------
    list of (bytes, tuple)
        Keys and records.
    bytes or None
        The last database key, to resume behind; None: there is no more.

    Notes
    -----
    **Complexity**: O(log n + records). The GIL is kept.
    """
    cdef const mdb_calls_t *calls = txn.env.calls
    cdef MDB_cursor *cursor
    cdef MDB_val prefix = MDB_val(PyBytes_GET_SIZE(stem), PyBytes_AS_STRING(stem))
    cdef MDB_val key
    cdef row_record_t record
    cdef cold_outcome outcome
    cdef size_t size = 0, known = 0
    cdef const unsigned char *last = NULL
    cdef bytes writer = b""
    cdef list found = []
    txn.check_alive()
    cursor = cold_open(calls, txn.txn, records.number)
    if cursor == NULL:
        raise MemoryError("no memory to read the store in order")
    try:
        outcome = cold_move(
            calls, cursor, &prefix, PyBytes_AS_STRING(begin), PyBytes_GET_SIZE(begin), &key, &record
        )
        while outcome == COLD_FOUND:
            if <size_t>len(found) >= most or size > most_bytes:
                return found, PyBytes_FromStringAndSize(<const char *>last, known)
            last, known = <const unsigned char *>key.mv_data, key.mv_size
            if resume is None or known != <size_t>PyBytes_GET_SIZE(resume) or memcmp(
                last, PyBytes_AS_STRING(resume), known
            ) != 0:
                if record.writer_size != <size_t>PyBytes_GET_SIZE(writer) or memcmp(
                    record.writer, PyBytes_AS_STRING(writer), record.writer_size
                ) != 0:
                    writer = PyBytes_FromStringAndSize(<const char *>record.writer, record.writer_size)
                value = PyBytes_FromStringAndSize(<const char *>record.value, record.value_size)
                facts = record.flags, record.version, record.ts_event, record.ts_known, record.expires_at
                stored = new_tuple(make, (*facts, writer, b"", value))
                found.append((PyBytes_FromStringAndSize(<const char *>last + 8, known - 8), stored))
                size += record.value_size
            outcome = cold_move(calls, cursor, &prefix, NULL, 0, &key, &record)
    finally:
        cold_close(calls, cursor)
    return (found, None) if outcome == COLD_ABSENT else None
