"""Puts and gets of plain values: straight to the log, and from the hot table, the log or LMDB, without Python.

:class:`DirectCalls` is the part of the facade that is called millions of times a second. Whatever is not plain (a
condition, a time to live, a namespace with history, a log that is full or locked, damage) it leaves to the methods
`_put` and `_get` of its subclass.

Layout
------
``spaces``: by the namespace argument as users write it, what is known of that namespace as of one epoch; the last one
asked for at hand.

Invariants
----------
1. A put is appended only under the epoch as of which its namespace is known to keep no history; the log checks that.
2. Between the last look at `is_shut` and the commit the GIL is kept and no Python runs, so a closing thread comes
   before or behind (I2). The same holds from the look at LMDB's environment to the end of its use.
3. What is promoted was looked for after `seen` was taken: first the end of the log, then its index, then LMDB with a
   snapshot of its own (I4).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_Check, PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from ntmem._core.cold cimport COLD_ABSENT, COLD_FOUND, cold_find, cold_found_t, cold_outcome, cold_space
from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.hot cimport (
    USAGE_ABSENT, USAGE_DISK, USAGE_GETS, USAGE_HOT, USAGE_LEFT, USAGE_LOG, USAGE_PUT, USAGE_PUTS,
    USAGE_SAMPLE, HotTable, hot_copy, hot_found_t, hot_index, hot_newest, hot_see, usage_add, usage_clock, usage_t,
    usage_time,
)
from ntmem._core.keyhash cimport KEYHASH_SEED, keyhash_bytes, keys_equal, whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport Claim
from ntmem._core.mdb cimport MDB_dbi, MDB_txn, Environment


cdef extern from "Python.h":
    ctypedef struct PyASCIIObject:
        Py_hash_t hash

    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    const unsigned char *PyUnicode_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    KEY_LIMIT = 65536
    LARGE = 1 << 16             # bytes of a group that are worth giving the GIL away
    MOST_SPACES = 65536
    NOT_PLAIN = 0xff & ~16      # any flag of a record but that it was written under a lease
    RECENT = 1 << 18            # bytes at the end of the log: they may be replaced before it pays to promote them
    FRESH = 8                   # but one value in so many from there is, and taken to hand,
    NEAR = 32                   # and one in so many from the hot table
    HANDS = 4096                # a power of two,
    HAND_LIMIT = 1024           # bytes of a value

failpoints_join(failpoints_table())

cdef object UNDECIDED = object()  # what is returned where the engine has to look


@cython.final
@cython.no_gc
cdef class Space:
    """What is known of a namespace: its bytes in the log, the hash of them, and its rules."""

    cdef bytes name
    cdef uint64_t seed
    cdef uint64_t epoch
    cdef uint64_t id            # in LMDB; 0: it was not there
    cdef bint plain             # it keeps no history
    cdef bint ours              # this writer may put,
    cdef bint guarded           # and is to look what it replaces


@cython.final
@cython.no_gc
cdef class Lent:
    """What is known of a lease under which is written: the claim on it, its resource, how the writer signs."""

    cdef object fence
    cdef Claim claim
    cdef bytes resource
    cdef bytes writer


cdef struct hand_t:
    # A value that this process has in its hand, as the object that it gave out before.
    Py_hash_t hash
    PyObject *key               # str, ASCII
    PyObject *space
    PyObject *value
    const uint64_t *newest      # the log's word on keys with such a hash
    uint64_t seen               # as of hot_record_t


cdef usage_t uncounted  # where the region has no hot table; not in an object, which Python aligns to 16 bytes only


@cython.final
cdef class Direct:
    """The short way into a log and out of it, for one writer.

    Parameters
    ----------
    log : Log
    hot : HotTable or None
        What was read lately, beside that log.
    env : Environment
        Where the log is flushed to.
    databases : dict
        Its databases, by name.
    writer : bytes
        Kept with every record.
    look : callable
        Given a namespace as users write it, returns its bytes in the log, whether it keeps history, whether this writer
        may put into it, whether it has to look what it replaces (some of it was written under leases), and the epoch as
        of which that is so; raises what is to be raised of a namespace that is none.
    admit : callable
        Given a fence, returns the claim on its lease, its resource, and how the writer signs what it writes under it;
        raises what is to be raised of one that is over.
    writes : bool
        Whether puts are this object's at all.
    max_lag : float
        Seconds that the oldest change may not be on disk; then the engine waits for it.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: O(1 + bytes), O(log n) for what is
    only on disk. The GIL is kept.
    """

    cdef Log log
    cdef HotTable hot
    cdef Environment env
    cdef MDB_dbi namespaces
    cdef MDB_dbi records
    cdef bytes writer
    cdef object look
    cdef object admit
    cdef Lent lent                  # the one that was written under last
    cdef dict spaces
    cdef object last_name           # what `last` was asked for as
    cdef Space last
    cdef uint64_t max_lag
    cdef bint writes
    cdef usage_t *usage
    cdef uint32_t calls             # counts down to the next one that is timed
    cdef uint32_t given             # values that came from the hot table or the log
    cdef uint64_t settled           # what was written up to there is no news
    cdef hand_t[HANDS] hands        # by Python's hash of the key

    def __init__(
        self, Log log not None, HotTable hot, Environment env not None, dict databases not None, bytes writer not None,
        look, admit, *, bint writes, double max_lag
    ):
        self.log = log
        self.hot = hot
        self.env = env
        self.namespaces = env.number_of(databases["namespaces"])
        self.records = env.number_of(databases["records"])
        self.writer = writer
        self.look = look
        self.admit = admit
        self.writes = writes
        self.max_lag = <uint64_t>(max_lag * 1e9) if 0 < max_lag < 1e9 else 0
        self.spaces = {}
        self.last_name = UNDECIDED  # no namespace
        self.usage = &uncounted if hot is None else hot.usage
        self.calls = USAGE_SAMPLE

    def __dealloc__(self):
        cdef int i
        for i in range(HANDS):
            Py_XDECREF(self.hands[i].key)
            Py_XDECREF(self.hands[i].space)
            Py_XDECREF(self.hands[i].value)

    cdef inline object in_hand(self, object namespace, object key):
        """The value that this process has at hand, or None."""
        cdef Py_hash_t hash_of
        cdef hand_t *hand
        cdef object held
        if namespace is not self.last_name or not PyUnicode_CheckExact(key):
            return None
        hash_of = (<PyASCIIObject *>key).hash  # Python's own: it is there already, or dear to have for the next time
        if hash_of == -1:
            hash_of = hash(key)
        hand = &self.hands[hash_of & (HANDS - 1)]
        if hand.hash != hash_of or hand.space != <PyObject *>self.last:
            return None
        if hand.key != <PyObject *>key:
            held = <object>hand.key
            if (not PyUnicode_IS_COMPACT_ASCII(key) or PyUnicode_GET_LENGTH(key) != PyUnicode_GET_LENGTH(held)
                    or not keys_equal(PyUnicode_DATA(key), PyUnicode_DATA(held), PyUnicode_GET_LENGTH(key))):
                return None
        if (word_acquire(hand.newest) > hand.seen or hand.seen < word_acquire(&self.log.log.control.floor.word)
                or self.last.epoch != word_acquire(&self.log.log.control.epoch.word)):
            return None
        return <object>hand.value

    cdef void take_in_hand(
        self, object key, Space space, bytes value, const whole_key_t *wanted, uint64_t seen
    ) noexcept:
        cdef Py_hash_t hash_of
        cdef hand_t *hand
        cdef hand_t before
        if (self.hot is None or PyBytes_GET_SIZE(value) > HAND_LIMIT or not PyUnicode_CheckExact(key)
                or not PyUnicode_IS_COMPACT_ASCII(key)):
            return
        hash_of = hash(key)
        hand = &self.hands[hash_of & (HANDS - 1)]
        before = hand[0]
        Py_INCREF(key)
        Py_INCREF(space)
        Py_INCREF(value)
        hand.hash = hash_of
        hand.key = <PyObject *>key
        hand.space = <PyObject *>space
        hand.value = <PyObject *>value
        hand.newest = hot_index(&self.hot.hot, wanted.hash)
        hand.seen = seen
        Py_XDECREF(before.key)
        Py_XDECREF(before.space)
        Py_XDECREF(before.value)

    cdef inline Space aim(self, object namespace, object key, whole_key_t *wanted):
        """What is known of the namespace, and the whole key in `wanted`; None: the engine says what is wrong."""
        if (namespace is self.last_name and PyUnicode_CheckExact(key) and PyUnicode_IS_COMPACT_ASCII(key)
                and self.last.epoch == word_acquire(&self.log.log.control.epoch.word)):
            if self.key_of(self.last, PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key), wanted):
                return self.last
            return None
        return self.aim_slowly(namespace, key, wanted)

    cdef Space aim_slowly(self, object namespace, object key, whole_key_t *wanted):
        cdef Space space
        cdef Py_ssize_t size = 0
        cdef const char *text
        if not PyUnicode_Check(key):
            return None
        try:
            space = self.space_of(namespace)
            text = PyUnicode_AsUTF8AndSize(key, &size)
        except (TypeError, ValueError):
            return None
        return space if self.key_of(space, <const unsigned char *>text, size, wanted) else None

    cdef inline bint key_of(self, Space space, const unsigned char *key, Py_ssize_t size, whole_key_t *wanted) noexcept:
        wanted.key = key
        wanted.key_size = size
        wanted.space = <const unsigned char *>PyBytes_AS_STRING(space.name)
        wanted.space_size = PyBytes_GET_SIZE(space.name)
        wanted.hash = keyhash_bytes(wanted.key, size, space.seed)
        return 0 < size <= KEY_LIMIT

    cdef Space space_of(self, object namespace):
        cdef Space space
        cdef PyObject *known = PyDict_GetItemWithError(self.spaces, namespace)  # 3.13 prints what the other one hides
        if known != NULL:
            space = <Space>known
            if space.epoch == word_acquire(&self.log.log.control.epoch.word):
                self.last_name, self.last = namespace, space
                return space
        name, history, ours, guarded, epoch = self.look(namespace)
        space = Space.__new__(Space)
        space.name = name
        space.plain = not history
        space.ours = ours
        space.guarded = guarded
        space.epoch = epoch
        space.seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(space.name), len(name), KEYHASH_SEED)
        if len(self.spaces) >= MOST_SPACES:
            self.spaces.clear()
        self.spaces[namespace] = space
        return space

    cdef inline void draft(
        self, log_draft_t *draft, const whole_key_t *key, const unsigned char *value, size_t size, int64_t now
    ) noexcept:
        draft.key = key[0]
        draft.writer = <const unsigned char *>PyBytes_AS_STRING(self.writer)
        draft.value = value
        draft.record.key_size = key.key_size
        draft.record.value_size = size
        draft.record.namespace_size = key.space_size
        draft.record.writer_size = PyBytes_GET_SIZE(self.writer)
        draft.record.kind = LOG_KIND_PUT
        draft.record.ts_event = draft.record.ts_known = now
        draft.record.hash = key.hash

    cdef uint64_t append(
        self, Space space, const whole_key_t *key, const unsigned char *value, size_t size, Lent lent
    ) noexcept:
        """The version of the change; 0: the engine has to do it."""
        cdef log_append_t append
        cdef log_draft_t draft
        cdef int64_t now = log_now(&self.log.log)
        memset(&draft, 0, sizeof(draft))
        memset(&append, 0, sizeof(append))
        self.draft(&draft, key, value, size, now)
        draft.offset = sizeof(log_group_t)
        append.drafts = &draft
        append.count = 1
        if space.guarded:
            draft.conditional = CONDITION_GUARDED
        if lent is not None:
            append.fence, append.fence_number, append.fencing = lent.claim.word, lent.claim.number, lent.claim.mark
            append.resource = <const unsigned char *>PyBytes_AS_STRING(lent.resource)
            append.resource_size = PyBytes_GET_SIZE(lent.resource)
            draft.record.flags = LOG_FENCED
            draft.writer = <const unsigned char *>PyBytes_AS_STRING(lent.writer)
            draft.record.writer_size = PyBytes_GET_SIZE(lent.writer)
        append.bytes = sizeof(log_group_t) + record_bytes(&draft.record)
        append.epoch = space.epoch
        append.now = now
        append.max_lag = self.max_lag
        if append.bytes > log_group_limit(&self.log.log):
            return 0
        if self.log.is_shut:  # looked at again, as finding out about a namespace runs Python
            return 0
        return append.first_version if log_append(&self.log.log, &append, 0) == APPEND_DONE else 0

    def put_fenced(self, namespace, key, value, fence):
        """Append a value under the lease of a fence; return its version, or 0 where the engine has to do it."""
        cdef Lent lent = self.lent
        if lent is None or lent.fence != fence:
            lent = Lent.__new__(Lent)  # one of its own for each call: other threads write under other leases
            lent.fence = fence
            lent.claim, lent.resource, lent.writer = self.admit(fence)
            self.lent = lent
        return self.put(namespace, key, value, lent)

    cdef uint64_t put(self, object namespace, object key, object value, Lent lent) except? 0:
        """Append a value that is known now; return its version, or 0 where the engine has to do it."""
        cdef whole_key_t wanted
        cdef Space space
        cdef uint64_t version
        cdef uint64_t begun = 0
        if not self.writes or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return 0
        if not PyBytes_CheckExact(value) or <uint64_t>PyBytes_GET_SIZE(value) > log_value_limit(&self.log.log):
            return 0
        space = self.aim(namespace, key, &wanted)
        if space is None or not space.plain or not space.ours or (lent is not None and not space.guarded):
            return 0
        self.calls -= 1
        if self.calls == 0:
            self.calls = USAGE_SAMPLE
            begun = usage_clock()
        version = self.append(
            space, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), lent
        )
        if version != 0:
            usage_add(self.usage, USAGE_PUT, 1)
            if begun != 0:
                usage_time(self.usage, USAGE_PUTS, usage_clock() - begun)
        return version

    def put_many(self, namespace, dict mapping not None):
        """Append values that are known now as one group; return the version of the last, or 0 where the engine has to.

        The GIL is given away while much is copied.
        """
        cdef whole_key_t wanted
        cdef log_append_t append
        cdef log_draft_t *drafts
        cdef size_t *heads
        cdef size_t count = len(mapping), head_count = 2, i = 0
        cdef uint64_t bytes_of = sizeof(log_group_t)
        cdef log_append_outcome outcome = APPEND_BUSY
        cdef int64_t now
        cdef Space space, first = None
        cdef list held = list(mapping.items())
        if not self.writes or count == 0 or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return 0
        while head_count < 2 * count:
            head_count *= 2
        drafts = <log_draft_t *>calloc(count, sizeof(log_draft_t))
        heads = <size_t *>calloc(head_count, sizeof(size_t))
        try:
            if drafts == NULL or heads == NULL:
                return 0
            now = log_now(&self.log.log)
            for key, value in held:
                if not PyBytes_CheckExact(value) or <uint64_t>PyBytes_GET_SIZE(value) > log_value_limit(&self.log.log):
                    return 0
                space = self.aim(namespace, key, &wanted)
                if (space is None or not space.plain or not space.ours or space.guarded
                        or (first is not None and first is not space)):
                    return 0
                first = space  # whose bytes the drafts point to
                self.draft(
                    &drafts[i], &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), now
                )
                bytes_of += record_bytes(&drafts[i].record)
                i += 1
            memset(&append, 0, sizeof(append))
            append.drafts = drafts
            append.count = count
            append.epoch = space.epoch
            append.now = now
            append.max_lag = self.max_lag
            if bytes_of > log_group_limit(&self.log.log) or self.log.is_shut:
                return 0
            append_place(&self.log.log, &append, heads, head_count)
            if bytes_of < LARGE:
                outcome = log_append(&self.log.log, &append, 0)
            else:
                outcome = self.log.append_without_gil(&append, 0)
        finally:
            free(drafts)
            free(heads)
        if outcome != APPEND_DONE:
            return 0
        usage_add(self.usage, USAGE_PUT, count)
        return append.first_version + count - 1

    def time_puts(self, str namespace not None, list keys not None, bytes value not None):
        """Put `value` under each of the keys and return the nanoseconds that each native put took; for benchmarks.

        One that the engine would have to do is counted and not done. The clock's own 20 ns are included.
        """
        cdef whole_key_t wanted
        cdef Space space
        cdef list taken = []
        cdef uint64_t begun, ended
        for key in keys:
            space = self.aim(namespace, key, &wanted)
            if space is not None:
                begun = usage_clock()
                self.append(
                    space, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), None
                )
                ended = usage_clock()
                taken.append(ended - begun)
        return taken

    def time_gets(self, namespace, list keys not None):
        """Get each of the keys and return the nanoseconds that each native get took; for benchmarks.

        The clock's own 20 ns are included.
        """
        cdef list taken = []
        cdef uint64_t begun, ended
        for key in keys:
            begun = usage_clock()
            self.get(namespace, key)
            ended = usage_clock()
            taken.append(ended - begun)
        return taken

    cdef object get(self, object namespace, object key):
        """Return the value of a key, None if it has none, or UNDECIDED."""
        cdef uint64_t begun = 0
        if (self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]
                or (not self.writes and word_acquire(&self.log.log.control.gone.word) != 0)):
            return UNDECIDED  # a reader does not keep the region alive: there may be another one by now
        self.calls -= 1
        if self.calls == 0:
            self.calls = USAGE_SAMPLE
            begun = usage_clock()  # from the hot table, which is to learn what is in use
        else:
            value = self.in_hand(namespace, key)
            if value is not None:
                usage_add(self.usage, USAGE_HOT, 1)
                return value
        value = self.find(namespace, key)
        if value is UNDECIDED:
            usage_add(self.usage, USAGE_LEFT, 1)
        elif begun != 0:
            usage_time(self.usage, USAGE_GETS, usage_clock() - begun)
        return value

    cdef inline object find(self, object namespace, object key):
        cdef whole_key_t wanted
        cdef hot_found_t found
        cdef object value
        cdef bint stale = False
        cdef Space space = self.aim(namespace, key, &wanted)
        if space is None:
            return UNDECIDED
        if self.hot is not None and hot_newest(&self.hot.hot, wanted.hash) <= self.settled:
            value = hot_copy(&self.hot.hot, &self.log.log, &wanted, &found, &stale)
            if value is not None:
                usage_add(self.usage, USAGE_HOT, 1)
                if value is False:
                    return None
                self.given += 1
                if self.given % NEAR == 0 and found.record.expires_at == 0:
                    self.take_in_hand(key, space, value, &wanted, found.record.seen)
                return value
        return self.find_behind(key, space, &wanted)

    cdef object find_behind(self, object key, Space space, const whole_key_t *wanted):
        """The same of what was written lately, or the hot table does not serve."""
        cdef bint stale = False
        cdef uint64_t seen = log_limit(&self.log.log)  # before anything is looked for
        cdef uint64_t position = 0
        cdef log_record_t header
        cdef hot_found_t found
        cdef object value
        cdef log_find_outcome outcome = log_find(&self.log.log, wanted, seen, &position, &header)
        if outcome == LOG_DAMAGED:
            return UNDECIDED
        self.settled = seen - RECENT if seen > RECENT else 0
        if outcome == LOG_FOUND:
            if header.flags & NOT_PLAIN:
                return UNDECIDED
            if header.kind == LOG_KIND_DELETE or (
                    header.expires_at != 0 and header.expires_at <= log_now(&self.log.log)):
                if log_is_behind(&self.log.log, position):
                    return UNDECIDED
                usage_add(self.usage, USAGE_ABSENT, 1)
                return None
            value = PyBytes_FromStringAndSize(NULL, header.value_size)
            log_copy(
                &self.log.log,
                position + sizeof(log_record_t) + header.namespace_size + header.key_size + header.writer_size,
                PyBytes_AS_STRING(value),
                header.value_size,
            )
            if log_is_behind(&self.log.log, position):
                return UNDECIDED
            usage_add(self.usage, USAGE_LOG, 1)
            self.given += 1
            if self.given % FRESH == 0 and header.expires_at == 0:
                self.take_in_hand(key, space, value, wanted, seen)
            if self.given % FRESH == 0 or seen - position > RECENT:
                self.promote(space, wanted, value, seen, header.expires_at)
            return value
        if self.hot is not None:
            value = hot_copy(&self.hot.hot, &self.log.log, wanted, &found, &stale)
            if stale and not log_is_behind(&self.log.log, found.record.seen):
                hot_see(&self.hot.hot, wanted, found.record.seen, seen)  # the log has all since, nothing of this key
                value = hot_copy(&self.hot.hot, &self.log.log, wanted, &found, &stale)
            if value is not None:
                usage_add(self.usage, USAGE_HOT, 1)
                return None if value is False else value
        return self.find_on_disk(space, wanted, seen)

    cdef object find_on_disk(self, Space space, const whole_key_t *wanted, uint64_t seen):
        cdef cold_found_t found
        cdef cold_outcome outcome = COLD_FOUND
        cdef object value = None
        cdef MDB_txn *txn
        if not space.plain or self.env.forks_at_opening != self.env.forks[0]:
            return UNDECIDED
        txn = self.env.take_reader()
        if txn == NULL:
            return UNDECIDED
        if space.id == 0:
            outcome = cold_space(
                self.env.calls, txn, self.namespaces, <const unsigned char *>PyBytes_AS_STRING(space.name),
                PyBytes_GET_SIZE(space.name), &space.id
            )
        if outcome == COLD_FOUND:
            outcome = cold_find(self.env.calls, txn, self.records, space.id, wanted.key, wanted.key_size, &found)
        if outcome == COLD_FOUND and (found.expires_at == 0 or found.expires_at > log_now(&self.log.log)):
            try:
                value = PyBytes_FromStringAndSize(<const char *>found.value, found.value_size)
            finally:
                self.env.give_reader(txn)
            usage_add(self.usage, USAGE_DISK, 1)
            self.promote(space, wanted, value, seen, found.expires_at)
            return value
        self.env.give_reader(txn)
        if outcome != COLD_FOUND and outcome != COLD_ABSENT:
            return UNDECIDED
        usage_add(self.usage, USAGE_ABSENT, 1)
        return None

    cdef inline void promote(
        self, Space space, const whole_key_t *wanted, bytes value, uint64_t seen, int64_t expires_at
    ) noexcept:
        if self.hot is not None and space.plain:
            self.hot.keep(
                wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), seen, expires_at
            )


cdef class DirectCalls:
    """The calls of a store that are made most; the rest of them is in the subclass."""

    cdef Direct direct  # a call has a reference of its own: another thread may close the store in the middle of it

    def _use(self, Direct direct):
        """Go straight to the log from now on, or (None) leave everything to the subclass."""
        self.direct = direct

    def _put_fenced(self, namespace, key, value, fence):
        """Do :meth:`Direct.put_fenced` if it can be done."""
        cdef Direct direct = self.direct
        return 0 if direct is None else direct.put_fenced(namespace, key, value, fence)

    def _put_plain(self, namespace, mapping):
        """Do :meth:`Direct.put_many` if it can be done."""
        cdef Direct direct = self.direct
        return 0 if direct is None or type(mapping) is not dict else direct.put_many(namespace, mapping)

    @cython.binding(False)
    def put(
        self, namespace, key, value, *, ttl=None, if_version=None, fence=None, ts_event=None, ts_known=None,
        durable=None
    ):
        """Set the value of a key and return its version.

        Parameters
        ----------
        namespace : str or tuple of str
            A string is split at ``/``.
        key : str
            Not empty, at most 64 KiB of UTF-8.
        value : bytes-like
            For plain objects see :meth:`namespace`.
        ttl : float or timedelta, optional
            Seconds after which it is no longer served, by the store's clock.
        if_version : int, optional
            Write only if the key has this version; 0: only if it does not exist.
        fence : Lock, LockToken or Fence, optional
            Write only while this lease is current. The record keeps it: until the key is deleted or expires it is
            changed only under that lease or a later one of the same resource.
        ts_event, ts_known : instant, optional
            When it happened and when it became known; by default now. Only in a namespace with history may
            `ts_known` lie in the future, and there it may not fall from one version of a key to the next: behind a
            version loaded ahead nothing is written (``ValueError``) until the clock is there.
        durable : bool, optional
            Whether to return only when the change is on disk; None: as the store's `durability` says.

        Raises
        ------
        VersionConflict
            The key has another version than `if_version`.
        StaleFence
            `fence` is not current; or the key was written under a lease that it does not follow.
        NotOwner
            The namespace belongs to another agent.
        MapFull, DiskFull, StorageError
            The store cannot take it; nothing was kept.
        """
        cdef uint64_t version
        cdef Direct direct = self.direct
        if (direct is not None and ttl is None and if_version is None and fence is None and ts_event is None
                and ts_known is None and durable is None):
            version = direct.put(namespace, key, value, None)
            if version != 0:
                return version
        return self._put(namespace, key, value, ttl, if_version, fence, ts_event, ts_known, durable)

    @cython.binding(False)
    def get(self, namespace, key, default=None):
        """Return the value of a key, `default` if it does not exist or is expired.

        Examples
        --------
        >>> import ntmem
        >>> with ntmem.open() as memory:
        ...     version = memory.put("desk", "target", b"3")
        ...     memory.get("desk", "target")
        b'3'
        """
        cdef object value = UNDECIDED
        cdef Direct direct = self.direct
        if direct is not None:
            value = direct.get(namespace, key)
        if value is UNDECIDED:
            return self._get(namespace, key, default)
        return default if value is None else value
