"""Puts and gets of plain values that go straight to the log and come straight from it, without Python in between.

:class:`DirectCalls` is the part of the facade that is called millions of times a second. Whatever is not plain (a
condition, a time to live, a namespace with history, a log that is full or locked, a value that the log has no more) it
leaves to the methods `_put` and `_get` of its subclass.

Layout
------
``spaces``: by the namespace argument as users write it, what is known of that namespace as of one epoch.

Invariants
----------
1. A put is appended only under the epoch as of which its namespace is known to keep no history; the log checks that.
2. Between the last look at `is_shut` and the commit the GIL is kept and no Python runs, so a closing thread comes
   before or behind (I2).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *


cdef extern from "keyhash.h" nogil:
    uint64_t KEYHASH_SEED
    uint64_t keyhash_bytes(const unsigned char *bytes, size_t size, uint64_t seed) noexcept

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "time.h" nogil:
    ctypedef long clockid_t
    struct timespec:
        long tv_sec, tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *time) noexcept


cdef inline uint64_t precise_ns() noexcept nogil:
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return <uint64_t>time.tv_sec * 1_000_000_000 + <uint64_t>time.tv_nsec


cdef enum:
    KEY_LIMIT = 65536
    MOST_SPACES = 65536
    NOT_PLAIN = 0xff            # any flag of a record

failpoints_join(failpoints_table())

cdef object UNDECIDED = object()  # what is returned where the engine has to look


@cython.final
@cython.no_gc
cdef class Space:
    """What is known of a namespace: its bytes in the log, the hash of them, and whether it is plain."""

    cdef bytes name
    cdef uint64_t seed
    cdef uint64_t epoch
    cdef bint plain


@cython.final
cdef class Direct:
    """The short way into a log and out of it, for one writer.

    Parameters
    ----------
    log : Log
    writer : bytes
        Kept with every record.
    look : callable
        Given a namespace as users write it, returns its bytes in the log, whether it keeps history, and the epoch as of
        which that is so; raises what is to be raised of a namespace that is none.
    writes : bool
        Whether puts are this object's at all.
    max_lag : float
        Seconds that the oldest change may not be on disk; then the engine waits for it.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: O(1 + bytes). The GIL is kept.
    """

    cdef Log log
    cdef bytes writer
    cdef object look
    cdef dict spaces
    cdef uint64_t max_lag
    cdef bint writes

    def __init__(self, Log log not None, bytes writer not None, look, *, bint writes, double max_lag):
        self.log = log
        self.writer = writer
        self.look = look
        self.writes = writes
        self.max_lag = <uint64_t>(max_lag * 1e9) if 0 < max_lag < 1e9 else 0
        self.spaces = {}

    cdef Space space_of(self, object namespace):
        cdef Space space
        cdef PyObject *known = PyDict_GetItem(self.spaces, namespace)
        if known != NULL:
            space = <Space>known
            if space.epoch == word_acquire(&self.log.log.control.epoch.word):
                return space
        name, history, epoch = self.look(namespace)
        space = Space.__new__(Space)
        space.name = name
        space.plain = not history
        space.epoch = epoch
        space.seed = keyhash_bytes(<const unsigned char *>PyBytes_AS_STRING(space.name), len(name), KEYHASH_SEED)
        if len(self.spaces) >= MOST_SPACES:
            self.spaces.clear()
        self.spaces[namespace] = space
        return space

    cdef inline bint key_of(self, Space space, str key, log_key_t *wanted) except -1:
        """Whether `key` can be one; else the engine says what is wrong with it."""
        cdef Py_ssize_t size = 0
        wanted.key = <const unsigned char *>PyUnicode_AsUTF8AndSize(key, &size)
        if not 0 < size <= KEY_LIMIT:
            return False
        wanted.space = <const unsigned char *>PyBytes_AS_STRING(space.name)
        wanted.space_size = PyBytes_GET_SIZE(space.name)
        wanted.key_size = size
        wanted.hash = keyhash_bytes(wanted.key, size, space.seed)
        return True

    cdef uint64_t append(self, Space space, const log_key_t *key, const unsigned char *value, size_t size) noexcept:
        """The version of the change; 0: the engine has to do it."""
        cdef log_append_t append
        cdef log_draft_t draft
        cdef int64_t now = log_now(&self.log.log)
        memset(&draft, 0, sizeof(draft))
        memset(&append, 0, sizeof(append))
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
        draft.offset = sizeof(log_group_t)
        append.drafts = &draft
        append.count = 1
        append.bytes = sizeof(log_group_t) + record_bytes(&draft.record)
        append.epoch = space.epoch
        append.now = now
        append.max_lag = self.max_lag
        if append.bytes > log_group_limit(&self.log.log):
            return 0
        if self.log.is_shut:  # looked at again, as finding out about a namespace runs Python
            return 0
        return append.first_version if log_append(&self.log.log, &append, 0) == APPEND_DONE else 0

    cdef uint64_t put(self, object namespace, object key, object value) except? 0:
        """Append a value that is known now; return its version, or 0 where the engine has to do it."""
        cdef log_key_t wanted
        cdef Space space
        if not self.writes or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return 0
        if not PyUnicode_Check(key) or not PyBytes_CheckExact(value) or (
                <uint64_t>PyBytes_GET_SIZE(value) > log_value_limit(&self.log.log)):
            return 0
        try:
            space = self.space_of(namespace)
            if not space.plain or not self.key_of(space, key, &wanted):
                return 0
        except (TypeError, ValueError):
            return 0
        return self.append(space, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))

    def time_puts(self, str namespace not None, list keys not None, bytes value not None):
        """Put `value` under each of the keys and return the nanoseconds that each native put took; for benchmarks.

        One that the engine would have to do is counted and not done. The clock's own 20 ns are included.
        """
        cdef log_key_t wanted
        cdef Space space = self.space_of(namespace)
        cdef list taken = []
        cdef uint64_t begun, ended
        cdef str key
        for key in keys:
            if self.key_of(space, key, &wanted):
                begun = precise_ns()
                self.append(space, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
                ended = precise_ns()
                taken.append(ended - begun)
        return taken

    cdef object get(self, object namespace, object key):
        """Return the value of a key, None if the log knows that it has none, or UNDECIDED."""
        cdef log_key_t wanted
        cdef log_record_t header
        cdef uint64_t position = 0
        cdef Space space
        cdef object value
        if not PyUnicode_Check(key) or self.log.is_shut or self.log.forks_at_mapping != self.log.forks[0]:
            return UNDECIDED
        try:
            space = self.space_of(namespace)
            if not self.key_of(space, key, &wanted):
                return UNDECIDED
        except (TypeError, ValueError):
            return UNDECIDED
        if log_find(&self.log.log, &wanted, log_limit(&self.log.log), &position, &header) != LOG_FOUND:
            return UNDECIDED
        if header.kind == LOG_KIND_DELETE:
            return None
        if header.flags & NOT_PLAIN or header.expires_at != 0:
            return UNDECIDED
        value = PyBytes_FromStringAndSize(NULL, header.value_size)
        log_copy(
            &self.log.log,
            position + sizeof(log_record_t) + header.namespace_size + header.key_size + header.writer_size,
            PyBytes_AS_STRING(value),
            header.value_size,
        )
        return UNDECIDED if log_is_behind(&self.log.log, position) else value


cdef class DirectCalls:
    """The calls of a store that are made most; the rest of them is in the subclass."""

    cdef Direct direct

    def _use(self, Direct direct):
        """Go straight to the log from now on, or (None) leave everything to the subclass."""
        self.direct = direct

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
        fence : Fence, optional
            Write only under this lease. Locks come with a later version: until then no lease is ever current, so
            any fence is refused.
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
            `fence` is not current.
        MapFull, DiskFull, StorageError
            The store cannot take it; nothing was kept.
        """
        cdef uint64_t version
        if (self.direct is not None and ttl is None and if_version is None and fence is None and ts_event is None
                and ts_known is None and durable is None):
            version = self.direct.put(namespace, key, value)
            if version != 0:
                return version
        return self._put(namespace, key, value, ttl, if_version, fence, ts_event, ts_known, durable)

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
        if self.direct is not None:
            value = self.direct.get(namespace, key)
        if value is UNDECIDED:
            return self._get(namespace, key, default)
        return default if value is None else value
