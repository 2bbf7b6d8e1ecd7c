"""Rows of series: straight into the log, and from there out of it, without Python between.

Layout
------
A row's key is its series and its number, in hexadecimal, so that they sort. Its value: ``row_head_t``, eight bytes for
each field of its layout, then what is of no fixed size. ``ntmem/tiers/series.py`` has the same in Python.

Invariants
----------
1. A row is written on the condition that its number is not taken. What is not in the log is known to be absent because
   it was absent at `position`, and the log has everything since; else Python looks (I1). What was written past the log
   meanwhile has raised the epoch, and maybe nothing else.
2. From the look at `is_shut` to the commit the GIL is kept and no Python runs (I2).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Size
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.keyhash cimport KEYHASH_SEED, keyhash_bytes, whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.meters cimport METER_APPEND, meters_begin, meters_end, meters_of


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum:
    SERIES_DIGITS = 8
    NUMBER_DIGITS = 12
    KEY = SERIES_DIGITS + NUMBER_DIGITS
    FIELDS = 128                # of a row that is written here
    ROOM = 24 + 8 * 128         # bytes of it: row_head_t and the fields

cdef int64_t LARGEST = 9007199254740992  # 2**53: up to there a float is every whole number

cdef struct row_head_t:
    uint16_t layout
    uint16_t flags
    uint32_t extra              # bytes behind the fields
    int64_t ts_event
    int64_t ts_known

failpoints_join(failpoints_table())


cdef inline void hexadecimal(unsigned char *to, uint64_t number, int digits) noexcept:
    cdef const unsigned char *figures = b"0123456789abcdef"
    while digits:
        digits -= 1
        to[digits] = figures[number & 15]
        number >>= 4


@cython.final
@cython.no_gc
cdef class RowLayout:
    """The fields of a row, in order: their names, and for each "f" (float64) or "i" (int64)."""

    cdef readonly tuple names
    cdef readonly bytes kinds
    cdef readonly uint16_t number
    cdef readonly int64_t earliest      # no row of it was known before

    def __init__(self, tuple names not None, bytes kinds not None, uint16_t number, int64_t earliest):
        if len(names) != len(kinds):
            raise ValueError(f"{len(names)} fields, {len(kinds)} kinds")
        self.names, self.kinds, self.number, self.earliest = names, kinds, number, earliest

    cdef bint fill(self, dict fields, unsigned char *to):
        """Write the fields; False: they are of another layout, or Python has to look."""
        cdef const char *kinds = PyBytes_AS_STRING(self.kinds)
        cdef Py_ssize_t i, count = PyBytes_GET_SIZE(self.kinds)
        cdef PyObject *found
        cdef double real
        cdef int64_t whole
        cdef int overflow = 0
        if PyDict_Size(fields) != count or count > FIELDS:
            return False
        for i in range(count):
            found = PyDict_GetItem(fields, self.names[i])
            if found == NULL:
                return False
            if kinds[i] == c"f" and PyFloat_Check(<object>found):
                real = PyFloat_AS_DOUBLE(<object>found)
                memcpy(to + 8 * i, &real, 8)
                continue
            if not PyLong_CheckExact(<object>found):
                return False
            whole = PyLong_AsLongLongAndOverflow(<object>found, &overflow)
            if overflow:
                return False
            if kinds[i] == c"f":
                if not -LARGEST <= whole <= LARGEST:
                    return False
                real = whole
                memcpy(to + 8 * i, &real, 8)
            else:
                memcpy(to + 8 * i, &whole, 8)
        return True


@cython.final
@cython.no_gc
cdef class Tail:
    """The end of a series as a writer of this process knows it."""

    cdef readonly uint32_t series
    cdef readonly uint64_t next         # number of the next row, if nobody else has taken it
    cdef uint64_t position              # of the log, before which there was no such row
    cdef uint64_t epoch                 # as of then: whoever writes past the log raises it
    cdef bint known
    cdef list layouts                   # the one written last, first

    def __init__(self, uint32_t series):
        self.series = series
        self.layouts = []

    def settle(self, uint64_t next, uint64_t position, uint64_t epoch, list layouts not None):
        """Take over what was found: no row `next` before this position of the log, and its epoch then."""
        self.next, self.position, self.epoch, self.layouts, self.known = next, position, epoch, layouts, True


@cython.final
cdef class RowLog:
    """The short way of rows into a log and out of it.

    Parameters
    ----------
    log : Log
    space : bytes
        The namespace of rows, as the log has it.
    writer : bytes
        Kept with every record.
    writes : bool
        Whether it may append at all.
    max_lag : float
        Seconds that the oldest change may not be on disk; then Python waits for it.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread; the GIL is kept. **Complexity**: O(1 + bytes) a row.
    """

    def __init__(self, Log log not None, bytes space not None, bytes writer not None, *, bint writes, double max_lag):
        self.log, self.space, self.writer, self.writes = log, space, writer, writes
        self.seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(space), len(space), KEYHASH_SEED)
        self.max_lag = <uint64_t>(max_lag * 1e9) if 0 < max_lag < 1e9 else 0
        meters_of(log.region, &self.meters)

    cdef void aim(self, uint32_t series, uint64_t number, unsigned char *key, whole_key_t *wanted) noexcept:
        hexadecimal(key, series, SERIES_DIGITS)
        hexadecimal(key + SERIES_DIGITS, number, NUMBER_DIGITS)
        wanted.key, wanted.key_size = key, KEY
        wanted.space = <const unsigned char *>PyBytes_AS_STRING(self.space)
        wanted.space_size = PyBytes_GET_SIZE(self.space)
        wanted.hash = keyhash_bytes(key, KEY, self.seed)

    cpdef uint64_t put(self, uint32_t series, uint64_t number, bytes value, uint64_t position, uint64_t epoch):
        """Put a row that is made already, if this number is not taken; return where the log ends then.

        There was none before this position of the log, as of this epoch. 0: Python has to do it.
        """
        cdef unsigned char[KEY] key
        cdef log_append_t append
        cdef log_draft_t draft
        cdef int64_t now
        if not self.writes or position == 0 or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return 0
        now = log_now(&self.log.log)
        self.begin(series, number, key, &draft, &append, now)
        draft.value = <const unsigned char *>PyBytes_AS_STRING(value)
        draft.record.value_size = PyBytes_GET_SIZE(value)
        append.snapshot, append.epoch = position, epoch
        return append.end if self.commit(&draft, &append) else 0

    cdef void begin(
        self, uint32_t series, uint64_t number, unsigned char *key, log_draft_t *draft, log_append_t *append,
        int64_t now
    ) noexcept:
        """All of a row's record but its value."""
        memset(draft, 0, sizeof(draft[0]))
        memset(append, 0, sizeof(append[0]))
        self.aim(series, number, key, &draft.key)
        draft.writer = <const unsigned char *>PyBytes_AS_STRING(self.writer)
        draft.record.key_size = KEY
        draft.record.namespace_size = draft.key.space_size
        draft.record.writer_size = PyBytes_GET_SIZE(self.writer)
        draft.record.kind = LOG_KIND_PUT
        draft.record.ts_event = draft.record.ts_known = now
        draft.record.hash = draft.key.hash
        draft.offset = sizeof(log_group_t)
        draft.conditional = CONDITION_NEWEST  # and there is none
        append.drafts = draft
        append.count = 1
        append.now = now
        append.max_lag = self.max_lag

    cdef bint commit(self, log_draft_t *draft, log_append_t *append) noexcept:
        append.bytes = sizeof(log_group_t) + record_bytes(&draft.record)
        return (
            append.bytes <= log_group_limit(&self.log.log)
            and draft.record.value_size <= log_value_limit(&self.log.log)
            and log_append(&self.log.log, append, 0) == APPEND_DONE
        )

    def append(self, Tail tail not None, ts_event, ts_known, dict fields not None):
        """Append a row; return its number, or -1 where Python has to do it.

        `ts_known` None: now, by the store's clock.
        """
        cdef unsigned char[ROOM] value
        cdef unsigned char[KEY] key
        cdef row_head_t head
        cdef log_append_t append
        cdef log_draft_t draft
        cdef RowLayout layout
        cdef Py_ssize_t i
        cdef int64_t now
        cdef int overflow = 0
        cdef uint64_t begun
        if (not self.writes or not tail.known or not PyLong_CheckExact(ts_event)
                or not (ts_known is None or PyLong_CheckExact(ts_known))):
            return -1
        for i in range(len(tail.layouts)):
            layout = <RowLayout>tail.layouts[i]
            if layout.fill(fields, value + sizeof(head)):
                if i:
                    tail.layouts[0], tail.layouts[i] = layout, tail.layouts[0]
                break
        else:
            return -1
        head.layout, head.flags, head.extra = layout.number, 0, 0
        head.ts_event = PyLong_AsLongLongAndOverflow(ts_event, &overflow)
        if overflow or head.ts_event < 0 or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return -1
        begun = meters_begin(&self.meters, METER_APPEND)
        now = log_now(&self.log.log)
        head.ts_known = now if ts_known is None else PyLong_AsLongLongAndOverflow(ts_known, &overflow)
        if overflow or head.ts_known < 0 or head.ts_known < layout.earliest:
            return -1
        memcpy(value, &head, sizeof(head))
        self.begin(tail.series, tail.next, key, &draft, &append, now)
        draft.value = value
        draft.record.value_size = sizeof(head) + 8 * PyBytes_GET_SIZE(layout.kinds)
        append.snapshot, append.epoch = tail.position, tail.epoch
        if not self.commit(&draft, &append):
            return -1
        tail.position = append.end
        tail.next += 1
        meters_end(&self.meters, METER_APPEND, begun)
        return tail.next - 1

    def follow(self, uint32_t series, uint64_t first, Py_ssize_t most):
        """Return the values of rows `first`, `first` + 1, ... as far as the log has them, `most` at most.

        And whether the log has nothing of the next one; else the disk knows more, or it is not plain.
        """
        cdef unsigned char[KEY] key
        cdef whole_key_t wanted
        cdef log_record_t header
        cdef uint64_t position = 0
        cdef uint64_t limit
        cdef log_find_outcome outcome
        cdef list found = []
        cdef bint absent = False
        self.log.check_process()
        limit = log_limit(&self.log.log)
        while len(found) < most:
            self.aim(series, first, key, &wanted)
            outcome = log_find(&self.log.log, &wanted, limit, &position, &header)
            if outcome == LOG_DAMAGED:
                raise self.log.damage(f"the index leads {wanted.key[:KEY]!r} to bytes that are no record")
            absent = outcome != LOG_FOUND
            if absent or header.kind != LOG_KIND_PUT or header.flags:
                break
            value = PyBytes_FromStringAndSize(NULL, header.value_size)
            log_copy(
                &self.log.log,
                position + sizeof(log_record_t) + header.namespace_size + header.key_size + header.writer_size,
                PyBytes_AS_STRING(value),
                header.value_size,
            )
            if log_is_behind(&self.log.log, position):
                break
            found.append(value)
            first += 1
        return found, absent

    def reaches(self, uint64_t position, uint64_t epoch):
        """Whether the log has everything that was written from this position on, as of this epoch."""
        self.log.check_process()
        return log_bound(&self.log.log) <= position and word_acquire(&self.log.log.control.epoch.word) == epoch

    def newest(self, bytes space not None, bytes key not None):
        """Return what changes whenever this key is written, and at times without that; None: it is being written."""
        cdef uint64_t seed, word, floor, epoch
        self.log.check_process()
        seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(space), len(space), KEYHASH_SEED)
        seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(key), len(key), seed)
        floor = word_acquire(&self.log.log.control.floor.word)
        epoch = word_acquire(&self.log.log.control.epoch.word)  # of what is written past the log: raised behind it
        word = word_acquire(&self.log.log.slots[seed & (self.log.log.slot_count - 1)])
        if word > log_limit(&self.log.log):  # a slot is linked before its group is committed
            return None
        return word, floor, epoch
