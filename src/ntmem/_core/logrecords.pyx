"""What goes into the log and comes out of it as Python objects, and the errors on the way.

Layout
------
A :class:`Batch` is an array of C drafts that point into the Python objects it holds; the log's C code sees only the
drafts. A :class:`Record` is a copy and points nowhere.

Invariants
----------
1. While a batch lives, every byte its drafts point to stays where it is.
2. Names longer than the format can say are refused here, before any size is narrowed.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

KIND_PUT = 1
KIND_DELETE = 2
KIND_NOTICE = 3


class LogDamaged(ValueError):
    """The log holds what no writer wrote; nothing is written to it any more."""


class Conflict(Exception):
    """A condition does not hold: record number `index` is of a key whose version is `version` (0: it has none)."""

    def __init__(self, index, version):
        super().__init__(f"the key of record {index} has version {version}")
        self.index = index
        self.version = version

    def __reduce__(self):
        return type(self), (self.index, self.version)


class LookAgain(Exception):
    """The disk snapshot is older than what the log still has: begin another and call again."""


class WriterStalled(TimeoutError):
    """The mutex was not to be had in time; `pid` is the process that holds it, 0 if that is not known."""

    def __init__(self, pid, seconds):
        super().__init__(
            f"process {pid or 'unknown'} has kept the log locked for {seconds:g} s: it is stopped or starved; "
            "continue or end it, the log goes on by itself"
        )
        self.pid = pid
        self.seconds = seconds

    def __reduce__(self):
        return type(self), (self.pid, self.seconds)


class LogFull(TimeoutError):
    """No room in time: the flusher is too far behind."""


class Trouble(OSError):
    """The flusher cannot go on: `kind` 1, the data file is at its limit; 2, the disk is full; 3, a sync failed."""

    def __init__(self, kind, code):
        super().__init__(f"the flusher cannot go on: trouble {kind}, code {code}")
        self.kind = kind
        self.code = code

    def __reduce__(self):
        return type(self), (self.kind, self.code)


class NewRules(Exception):
    """The policies of namespaces have changed: look at them again."""


class StaleLease(Exception):
    """The lease under which something was to be written is not current."""


class LogShut(Exception):
    """This process has shut the log, to go away."""


class Overwritten(LookupError):
    """The log does not go back that far any more."""


class ValueTooLarge(ValueError):
    """A record or a group is too large for this log, however empty; large values take the direct path."""


# ---- records ---------------------------------------------------------------------------------------------------


@cython.final
@cython.freelist(64)
cdef class Record:
    """One committed record, copied out of the ring."""

    def __init__(self):
        raise TypeError("records come from a Log")

    def __repr__(self):
        return f"<Record {self.namespace!r} {self.key!r} version={self.version} kind={self.kind}>"


cdef class Claim:
    """What says that a change is made under a lease: where the lease stands, and its number."""

    def __init__(self):
        raise TypeError("claims come from a LeaseTable")

    @property
    def is_current(self):
        """Whether the lease is neither over nor given back; the log asks again."""
        if self.word == NULL:
            raise TypeError("claims come from a LeaseTable")
        return fence_is_current(self.word, self.number, boot_ns())


@cython.final
@cython.freelist(16)
cdef class Batch:
    """Records on their way in: C drafts, and the Python objects whose bytes they point to."""

    def __cinit__(self, tuple records not None):
        cdef size_t count = len(records)
        memset(&self.append, 0, sizeof(log_append_t))
        self.held = records
        self.append.count = count
        self.append.frees = True
        self.append.drafts = &self.single
        if count == 0 or count >= 1 << 31:
            raise ValueError(f"a group has at least one record and fewer than 2**31, was {count}")
        if count > 1:
            self.append.drafts = <log_draft_t *>calloc(count, sizeof(log_draft_t))
            if self.append.drafts == NULL:
                raise MemoryError(f"no memory for {count} records")
        memset(self.append.drafts, 0, count * sizeof(log_draft_t))
        for i in range(count):
            self.fill(&self.append.drafts[i], records[i])

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.buffer_count):
            PyBuffer_Release(&self.buffers[i])
        free(self.buffers)
        if self.append.drafts != &self.single:
            free(self.append.drafts)

    cdef int fill(self, log_draft_t *draft, tuple record) except -1:
        cdef bytes namespace, key, writer
        cdef object value
        cdef log_record_t *header = &draft.record
        if len(record) == 12:
            namespace, key, writer, value = record[2:6]
            if record[9] is not None:
                draft.conditional = CONDITION_NEWEST if record[11] else CONDITION_SERVED
                draft.if_version = record[9]
                draft.stored_version = record[10]
        elif len(record) == 9:
            namespace, key, writer, value = record[2], record[3], record[4], record[5]
        else:
            raise ValueError(f"a record has 9 fields, or 12 with a condition, had {len(record)}")
        if namespace is None or key is None or writer is None:
            raise TypeError("namespace, key and writer must be bytes, one was None")
        if PyBytes_GET_SIZE(namespace) > NAME_LIMIT or PyBytes_GET_SIZE(writer) > NAME_LIMIT:
            raise ValueError(f"namespace and writer have at most {NAME_LIMIT} bytes, one had more")
        if PyBytes_GET_SIZE(key) > KEY_LIMIT:
            raise ValueError(f"a key has at most {KEY_LIMIT} bytes, had {len(key)}")
        header.kind, header.flags = record[0], record[1]
        self.append.frees = self.append.frees and header.kind != LOG_KIND_PUT
        header.ts_event, header.ts_known, header.expires_at = record[6], record[7], record[8]
        header.namespace_size = PyBytes_GET_SIZE(namespace)
        header.key_size = PyBytes_GET_SIZE(key)
        header.writer_size = PyBytes_GET_SIZE(writer)
        draft.writer = <const unsigned char *>PyBytes_AS_STRING(writer)
        key_fill(&draft.key, namespace, key)
        header.hash = draft.key.hash
        if type(value) is bytes:
            draft.value = <const unsigned char *>PyBytes_AS_STRING(<bytes>value)
            return self.fill_size(draft, PyBytes_GET_SIZE(<bytes>value))
        return self.fill_from_buffer(draft, value)

    cdef int fill_from_buffer(self, log_draft_t *draft, object value) except -1:
        cdef Py_buffer *buffer
        if self.buffers == NULL:
            self.buffers = <Py_buffer *>malloc(self.append.count * sizeof(Py_buffer))
            if self.buffers == NULL:
                raise MemoryError(f"no memory for {self.append.count} buffers")
        buffer = &self.buffers[self.buffer_count]
        PyObject_GetBuffer(value, buffer, PyBUF_SIMPLE)
        self.buffer_count += 1
        draft.value = <const unsigned char *>buffer.buf
        return self.fill_size(draft, buffer.len)

    cdef int fill_size(self, log_draft_t *draft, Py_ssize_t size) except -1:
        if size >= 1 << 31:
            raise ValueTooLarge(f"a value of {size} bytes is over 2 GiB")
        draft.record.value_size = size
        return 0
