"""Vectors of a collection in memory that processes share: one appends at a time, all search without a lock.

Layout
------
A region file of its own (``region.pyx``): control page (mutex and counters) | sections, whose memory is taken as they
fill. ``vectors.h`` has them. A slot is a change: a vector with its id, metadata and times, or a deletion.

Invariants
----------
1. A change is in the log before it is seen here, and the numbers of records in the store are those of slots: what is
   missing here is what follows in the store (I2).
2. A slot is whole before it is counted. Who searches takes the count first; a slot that comes in the place of another
   does so for all who count it, and for nobody else (I1, I7).
3. Memory is taken before anything is written to the log, so what is in the log finds room (I6).
4. The mutex is never waited for with the GIL, and between a record in the log and its slot no Python runs.
5. Whatever stands in the file, nothing outside of it is read.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.errno cimport errno as c_errno
from libc.math cimport INFINITY, NAN, fabsf
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.unistd cimport getpid

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.kernels cimport kernels_named
from ntmem._core.region cimport Region
from ntmem._core.rows cimport RowLog

import os

import msgspec
import numpy as np

from ntmem._core.region import RegionDamaged


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef extern from "sync.h" nogil:
    enum mutex_outcome:
        MUTEX_TAKEN
        MUTEX_OWNER_DIED
        MUTEX_BUSY
        MUTEX_BROKEN
    int mutex_create(shared_mutex_t *shared) noexcept
    int mutex_is_sound(const shared_mutex_t *shared) noexcept
    mutex_outcome mutex_take(shared_mutex_t *shared, uint64_t wait_ns, uint32_t pid) noexcept
    void mutex_mend(shared_mutex_t *shared) noexcept
    void mutex_release(shared_mutex_t *shared) noexcept
    uint32_t mutex_holder(const shared_mutex_t *shared) noexcept
    uint64_t word_acquire(const uint64_t *word) noexcept
    void word_release(uint64_t *word, uint64_t value) noexcept

cdef extern from "vectors.h" nogil:
    void FAILPOINT_vectors_locked "FAILPOINT(vectors_locked); (void)" (int) noexcept
    void FAILPOINT_vectors_kept "FAILPOINT(vectors_kept); (void)" (int) noexcept

    enum:
        VECTORS_FIELDS
        VECTORS_NAME
        VECTORS_MISSING
        VECTORS_INT
        VECTORS_FLOAT
        VECTORS_VALUE
        VECTORS_I8
        VECTORS_F16
        VECTORS_F32
        VECTORS_COSINE
        VECTORS_IP
        VECTORS_KNOWN
        VECTORS_EVENT
        VECTORS_ARENA
        VECTORS_KINDS
        VECTORS_WORDS
        VECTORS_VALUES

    ctypedef struct vectors_text_t:
        uint64_t at
        uint32_t metadata_size, id_size
    ctypedef struct vectors_value_t:
        uint64_t at
        uint32_t size, field
    bint vectors_is_sound(const vectors_t *vectors) noexcept
    uint64_t vectors_count(const vectors_t *vectors) noexcept
    uint64_t vectors_value_count(const vectors_t *vectors) noexcept
    uint32_t vectors_stride(int type, uint32_t dimension) noexcept
    uint64_t vectors_section_size(int section, uint64_t capacity, uint32_t stride) noexcept
    int vectors_text(const vectors_t *vectors, uint64_t slot, vectors_text_t *text) noexcept
    uint64_t vectors_find_value(const vectors_t *vectors, uint32_t field, const char *data, uint32_t size) noexcept
    uint64_t vectors_find(const vectors_t *vectors, const char *id, uint32_t size) noexcept
    uint64_t vectors_served_of(const vectors_t *vectors, const char *id, uint32_t size, int64_t limit) noexcept
    uint64_t vectors_field(const vectors_t *vectors, const char *name, size_t size) noexcept
    int64_t vectors_field_made(vectors_t *vectors, const char *name, size_t size) noexcept
    int64_t vectors_value_made(vectors_t *vectors, uint32_t field, const char *data, uint32_t size) noexcept
    int vectors_in_arena(const vectors_t *vectors, uint64_t at, uint64_t size) noexcept
    int vectors_reserve(vectors_t *vectors, uint64_t slots, uint64_t bytes, uint64_t values) noexcept
    int vectors_stage(
        vectors_t *vectors, const char *id, uint32_t id_size, const char *metadata, uint32_t metadata_size,
        int64_t event, int64_t known, int is_deletion
    ) noexcept
    void vectors_stage_field(vectors_t *vectors, uint64_t field, int kind, uint64_t word) noexcept
    void vectors_stage_row(vectors_t *vectors, const float *numbers, float *scratch) noexcept
    void vectors_publish(vectors_t *vectors, uint64_t position, uint64_t epoch) noexcept
    void vectors_repair(vectors_t *vectors) noexcept
    uint64_t vectors_served(const vectors_t *vectors, uint64_t count, int64_t limit, uint64_t *bits) noexcept
    void vectors_all(uint64_t count, uint64_t *bits) noexcept
    void vectors_collapse(const vectors_t *vectors, uint64_t count) noexcept
    int vectors_all_served(const vectors_t *vectors, int64_t limit) noexcept

cdef extern from "segment.h" nogil:
    ctypedef struct segment_t:
        uint64_t collection, version
    int segment_begin(const vectors_t *vectors, segment_t *segment, uint64_t least) noexcept
    int segment_store(int fd, const vectors_t *vectors, segment_t *segment) noexcept
    int segment_fits(const vectors_t *vectors, const segment_t *segment) noexcept
    int segment_load(int fd, vectors_t *vectors, const segment_t *segment, uint64_t slots) noexcept
    void segment_note(vectors_t *vectors, const segment_t *segment) noexcept

failpoints_join(failpoints_table())

TYPES = {"int8": VECTORS_I8, "float16": VECTORS_F16, "float32": VECTORS_F32}
METRICS = {"cosine": VECTORS_COSINE, "l2": VECTORS_L2, "ip": VECTORS_IP}
FIELDS, NAME_BYTES = VECTORS_FIELDS, VECTORS_NAME

cdef enum:
    SLICE_NS = 50_000_000
    MOST_SLOTS = 1 << 30
    RECORD_FORMAT = 1
    RECORD_DELETION = 1

cdef packed struct record_t:            # how a record begins: the id, float32 numbers and metadata are behind it
    uint8_t format, flags
    uint16_t id_size
    uint32_t dimension
    int64_t ts_event, ts_known

cdef object encode = msgspec.msgpack.Encoder().encode
cdef object decode = msgspec.msgpack.Decoder().decode


class WriterBusy(TimeoutError):
    """Another writer of the collection holds its lock; `pid` is the process, 0 if that is not known."""

    def __init__(self, pid):
        super().__init__(f"process {pid or 'unknown'} has been writing to the collection all the time")
        self.pid = pid


class Over(Exception):
    """The collection was dropped, or this memory was given up for another."""


def sections(dimension, dtype, capacity):
    """Return the sections of a region for up to `capacity` changes, a power of two."""
    stride = vectors_stride(TYPES[dtype], dimension)
    return [(kind, vectors_section_size(kind, capacity, stride), 2) for kind in range(1, VECTORS_SECTIONS)]


def slot_bytes(dimension, dtype):
    """Return the bytes that a vector takes, without its id, its metadata and their columns."""
    return vectors_stride(TYPES[dtype], dimension) + 36


def sizes(const float[:, ::1] vectors not None):
    """Return the least and the most of the largest numbers of vectors; the most is NaN if some number is."""
    cdef size_t row, i, dimension = vectors.shape[1]
    cdef float least = INFINITY, most = 0, largest, size
    cdef bint wrong = False
    cdef const float *at
    with nogil:
        for row in range(<size_t>vectors.shape[0]):
            largest = 0
            at = &vectors[row, 0]
            for i in range(dimension):
                size = fabsf(at[i])
                wrong |= size != size
                largest = size if size > largest else largest
            least = min(least, largest)
            most = max(most, largest)
    return least, NAN if wrong else most


HEADER_BYTES = sizeof(segment_t)


def is_alive(uint32_t pid):
    """Whether there is a process of this number, and not only what is left of one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as facts:
            return facts.read().rpartition(b")")[2].split()[0] not in b"ZX"
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


cdef segment_t segment_of(bytes header):
    cdef segment_t segment
    if <size_t>PyBytes_GET_SIZE(header) != sizeof(segment):
        raise ValueError(f"a segment's header has {sizeof(segment)} bytes, had {len(header)}")
    memcpy(&segment, PyBytes_AS_STRING(header), sizeof(segment))
    return segment


cdef object no_room(int error):
    return OSError(error, os.strerror(error))


@cython.final
cdef class Found:
    """What a slot holds beside its vector."""


@cython.final
cdef class Held:
    """That a thread is the one who writes. Native: no signal comes between the lock and what gives it back."""

    cdef VectorTail tail
    cdef double timeout

    def __enter__(self):
        self.tail.lock(self.timeout)

    def __exit__(self, *exc):
        self.tail.unlock()


@cython.final
cdef class VectorTail:
    """Vectors of one collection in a region.

    Parameters
    ----------
    region : Region
        Of :func:`sections`.
    dimension : int
    dtype : {"int8", "float16", "float32"}
    metric : {"cosine", "l2", "ip"}
    kernels : str, optional
        As of :class:`ntmem._core.kernels.Kernels`.
    is_new : bool
        Whether it was just made, and nobody else has it.

    Raises
    ------
    RegionDamaged
        It is not of these vectors.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread; what changes something is for who has it locked.
    """

    def __init__(self, Region region not None, uint32_t dimension, str dtype not None, str metric not None,
                 str kernels=None, *, bint is_new=False):
        cdef uint64_t size = 0
        cdef int section
        self.region = region
        self.vectors.control = <vectors_control_t *>region.control()
        self.vectors.fd, self.vectors.pid = region.region.fd, getpid()
        self.vectors.dimension, self.vectors.type, self.vectors.metric = dimension, TYPES[dtype], METRICS[metric]
        self.vectors.stride = vectors_stride(self.vectors.type, dimension)
        for section in range(1, VECTORS_SECTIONS):
            self.vectors.sections[section] = region.section(section, &size)
            self.vectors.sizes[section] = size
            self.vectors.offsets[section] = self.vectors.sections[section] - region.region.base
        self.vectors.capacity = self.vectors.sizes[VECTORS_KNOWN] // 8
        for section in range(1, VECTORS_SECTIONS):
            size = vectors_section_size(section, self.vectors.capacity, self.vectors.stride)
            if self.vectors.capacity > MOST_SLOTS or self.vectors.sizes[section] != size:
                raise RegionDamaged(f"{region.path} is not of vectors of {dimension} dimensions as {dtype}")
        if is_new and mutex_create(&self.vectors.control.mutex) != 0:
            raise MemoryError("no memory for a mutex")
        if not mutex_is_sound(&self.vectors.control.mutex):
            raise RegionDamaged(f"{region.path} is refused: its lock is none")
        self.kernels = kernels_named(kernels)
        self.scratch = np.empty(dimension, np.float32)
        self.dtype = np.dtype(dtype)

    # ---- who writes ----

    def lock(self, double timeout):
        """Be the one who writes.

        Raises
        ------
        WriterBusy
            Somebody else was, all the time.
        Over
            There is nothing to be written any more.
        RegionDamaged
            It cannot be written to.
        """
        cdef mutex_outcome outcome = MUTEX_BUSY
        cdef int64_t left = <int64_t>(timeout * 1e9)
        cdef uint64_t span
        self.region.check_process()
        if self.holder == thread_ident():
            raise WriterBusy(self.vectors.pid)  # a signal handler's turn comes when it is over
        while True:
            span = max(0, min(left, SLICE_NS))
            with nogil:
                outcome = mutex_take(&self.vectors.control.mutex, span, self.vectors.pid)
            if outcome != MUTEX_BUSY:
                break
            left -= SLICE_NS
            if left <= 0:
                raise WriterBusy(mutex_holder(&self.vectors.control.mutex))
            PyErr_CheckSignals()
        if outcome == MUTEX_BROKEN:
            raise RegionDamaged(f"the lock of {self.region.path} is broken")
        if outcome == MUTEX_OWNER_DIED:
            vectors_repair(&self.vectors)
            mutex_mend(&self.vectors.control.mutex)
        FAILPOINT_vectors_locked(0)
        self.holder = thread_ident()
        if self.is_over:
            self.unlock()
            raise Over
        if not vectors_is_sound(&self.vectors):
            self.unlock()
            raise RegionDamaged(f"{self.region.path} is damaged: its counts are beyond its memory")

    cpdef unlock(self):
        """Be the one no more; nothing if this thread is not."""
        if self.holder == thread_ident():
            self.holder = 0
            mutex_release(&self.vectors.control.mutex)

    def held(self, double timeout):
        """Return a context in which this thread is the one who writes; entering it is :meth:`lock`."""
        cdef Held held = Held.__new__(Held)
        held.tail, held.timeout = self, timeout
        return held

    cdef int check_held(self) except -1:
        if self.holder != thread_ident():
            raise RuntimeError("lock it first")
        return self.region.check_process()

    @property
    def is_over(self):
        """Whether the collection was dropped, or this memory given up."""
        self.region.check_process()
        return word_acquire(&self.vectors.control.is_over) != 0

    def end(self):
        """Let nobody write here any more."""
        self.check_held()
        word_release(&self.vectors.control.is_over, 1)

    def add(self, RowLog rows not None, uint32_t collection, str id not None, vector, int64_t event, int64_t known,
            bytes metadata not None, bytes value not None, double timeout):
        """Append a change to the log, and to this; return its slot, or -1 where Python has to do it.

        `vector` None: a deletion. `value` is its record.
        """
        cdef uint64_t position, slot
        self.lock(timeout)
        try:
            slot = self.vectors.control.count
            if self.vectors.control.position == 0:
                return -1
            self.stage(id, vector, event, known, metadata)
            position = rows.put(collection, slot, value, self.vectors.control.position, self.vectors.control.epoch)
            if position == 0:
                return -1
            FAILPOINT_vectors_kept(0)
            vectors_publish(&self.vectors, position, self.vectors.control.epoch)
            return slot
        finally:
            self.unlock()

    def reserve(self, uint64_t slots, uint64_t size, names, uint64_t values):
        """Take memory for so many more changes, or raise :class:`OSError`.

        Their ids and metadata have so many bytes, and these so many fields, with these names.
        """
        cdef Py_ssize_t length = 0
        cdef const char *data
        cdef int error
        self.check_held()
        for name in names:
            data = PyUnicode_AsUTF8AndSize(name, &length)
            if vectors_field_made(&self.vectors, data, length) < 0:
                raise no_room(c_errno)
        error = vectors_reserve(&self.vectors, slots, size, values)
        if error != 0:
            raise no_room(error)

    cpdef stage(self, str id, vector, int64_t event, int64_t known, bytes metadata):
        """Make the next slot, as yet unseen. `vector` None: a deletion; else float32, checked.

        Raises
        ------
        OSError
            There is no memory for it.
        """
        cdef Py_ssize_t size = 0
        cdef const char *name = PyUnicode_AsUTF8AndSize(id, &size)
        cdef int error
        cdef const float[::1] numbers
        self.check_held()
        error = vectors_stage(
            &self.vectors, name, size, PyBytes_AS_STRING(metadata), PyBytes_GET_SIZE(metadata), event, known,
            vector is None
        )
        if error != 0:
            raise no_room(error)
        if vector is None:
            return
        numbers = vector
        if <uint32_t>numbers.shape[0] != self.vectors.dimension:
            raise ValueError(f"a vector has {self.vectors.dimension} dimensions here, had {numbers.shape[0]}")
        vectors_stage_row(&self.vectors, &numbers[0], &self.scratch[0])
        self.stage_fields(metadata)

    cdef int stage_fields(self, bytes metadata) except -1:
        if PyBytes_GET_SIZE(metadata):
            fields = decode(metadata)
            for field, value in fields.items():
                self.stage_field(field, value)
        return 0

    cdef int stage_field(self, str field, value) except -1:
        cdef Py_ssize_t size = 0
        cdef const char *name = PyUnicode_AsUTF8AndSize(field, &size)
        cdef int64_t number = vectors_field_made(&self.vectors, name, size), whole
        cdef int overflow = 0
        cdef double real
        cdef uint64_t word = 0
        if number < 0:
            raise no_room(c_errno)
        if number == 0:
            return 0
        if PyLong_CheckExact(value):
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                vectors_stage_field(&self.vectors, number, VECTORS_INT, <uint64_t>whole)
                return 0
        if PyFloat_CheckExact(value):
            real = PyFloat_AS_DOUBLE(value)
            memcpy(&word, &real, sizeof(word))
            vectors_stage_field(&self.vectors, number, VECTORS_FLOAT, word)
            return 0
        data = encode(value)
        whole = vectors_value_made(&self.vectors, number, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if whole < 0:
            raise no_room(c_errno)
        vectors_stage_field(&self.vectors, number, VECTORS_VALUE, whole - 1)
        return 0

    def publish(self, uint64_t position=0, uint64_t epoch=0):
        """Let the staged slot be seen; the next one's record was not there before this position of the log.

        0: that is not known.
        """
        self.check_held()
        vectors_publish(&self.vectors, position, epoch)

    def apply(self, bytes record not None):
        """Make and publish the change that stands in the store so (``tiers/points.py``); return whether it can be.

        False: Python is to say what is wrong with it. Raises as :meth:`stage` does.
        """
        cdef const char *data = PyBytes_AS_STRING(record)
        cdef size_t size = PyBytes_GET_SIZE(record), end
        cdef record_t head
        cdef int error
        self.check_held()
        if size < sizeof(head):
            return False
        memcpy(&head, data, sizeof(head))
        end = sizeof(head) + head.id_size + 4 * <size_t>head.dimension
        if head.format != RECORD_FORMAT or end > size or (head.flags == RECORD_DELETION) != (head.dimension == 0):
            return False
        if head.dimension and head.dimension != self.vectors.dimension:
            return False
        data += sizeof(head)
        try:
            PyUnicode_DecodeUTF8(data, head.id_size, NULL)
        except UnicodeDecodeError:
            return False
        metadata = record[end:]
        error = vectors_stage(
            &self.vectors, data, head.id_size, PyBytes_AS_STRING(metadata), PyBytes_GET_SIZE(metadata),
            head.ts_event, head.ts_known, head.dimension == 0
        )
        if error != 0:
            raise no_room(error)
        if head.dimension:
            memcpy(&self.scratch[0], data + head.id_size, 4 * head.dimension)  # they are aligned there
            vectors_stage_row(&self.vectors, &self.scratch[0], &self.scratch[0])
            self.stage_fields(metadata)
        vectors_publish(&self.vectors, 0, 0)
        return True

    def settle(self, uint64_t position, uint64_t epoch):
        """Take over what was found: no record of the next slot before this position of the log, as of this epoch."""
        self.check_held()
        self.vectors.control.epoch = epoch
        word_release(&self.vectors.control.position, position)

    # ---- segments: what will not change, in files ----

    @property
    def frozen(self):
        """Changes that segments have."""
        self.region.check_process()
        return self.vectors.control.frozen

    def begin_segment(self, uint64_t collection, uint64_t least):
        """Return the header of the next segment, if there are `least` more changes; None: not now.

        Who has one is the only one to write, until :meth:`end_segment`.
        """
        cdef segment_t segment
        self.check_held()
        if self.vectors.control.freezer and is_alive(self.vectors.control.freezer):
            return None
        if not segment_begin(&self.vectors, &segment, least):
            return None
        segment.collection = collection
        self.vectors.control.freezer = self.vectors.pid
        return <bytes>(<char *>&segment)[:sizeof(segment)]

    def write_segment(self, int fd, bytes header not None, uint64_t version):
        """Write a segment and sync it; return its header. `version`: of the store's record of its last change.

        Raises :class:`OSError`. The GIL is released.
        """
        cdef segment_t segment = segment_of(header)
        cdef int error
        self.region.check_process()
        segment.version = version
        with nogil:
            error = segment_store(fd, &self.vectors, &segment)
        if error:
            raise OSError(error, os.strerror(error))
        return <bytes>(<char *>&segment)[:sizeof(segment)]

    def end_segment(self, bytes header):
        """Take note of a segment that is in its place; None: it came to nothing."""
        self.check_held()
        cdef segment_t segment
        if header is not None:
            segment = segment_of(header)
            segment_note(&self.vectors, &segment)
        self.vectors.control.freezer = 0

    def read_segment(self, int fd, bytes header not None, uint64_t slots=0):
        """Take over a segment that goes on where this ends; return whether it does, and is whole.

        `slots`: as many as there may be when all segments are read, or fewer; only room in an index depends on it.
        Raises :class:`OSError`: it cannot be read, or there is no memory for it.
        """
        cdef segment_t segment = segment_of(header)
        cdef int error
        self.check_held()
        if not segment_fits(&self.vectors, &segment):
            return False
        with nogil:
            error = segment_load(fd, &self.vectors, &segment, slots)
        if error > 0:
            raise OSError(error, os.strerror(error))
        if error == 0:
            segment_note(&self.vectors, &segment)
        return error == 0

    # ---- graphs of what will not change: ntmem/tiers/graphs.py ----

    @property
    def graphs(self):
        """How many graphs were made since this memory is there."""
        self.region.check_process()
        return word_acquire(&self.vectors.control.graphs)

    def announce_graphs(self):
        """Let others look for graphs again."""
        self.check_held()
        word_release(&self.vectors.control.graphs, self.vectors.control.graphs + 1)

    def claim_build(self):
        """Be the one who makes graphs, until :meth:`release_build`; return whether nobody else is."""
        self.check_held()
        if self.vectors.control.builder and is_alive(self.vectors.control.builder):
            return False
        self.vectors.control.builder = self.vectors.pid
        return True

    def release_build(self):
        """Make no more graphs."""
        self.check_held()
        self.vectors.control.builder = 0

    def collapse(self):
        """Have large pages for the rows, where the system can: some ms for each page of 2 MiB that is none yet."""
        cdef uint64_t count = self.seen(self.count)
        with nogil:
            vectors_collapse(&self.vectors, count)

    def newest(self, uint64_t first, uint64_t end):
        """Return the latest `ts_known` of slots from `first` to before `end`."""
        cdef int64_t newest = 0
        cdef const int64_t *known = <const int64_t *>self.vectors.sections[VECTORS_KNOWN]
        cdef uint64_t slot
        self.seen(end)
        for slot in range(first, end):
            newest = max(newest, known[slot])
        return newest

    def arrays(self, uint64_t first, uint64_t end):
        """Return rows, steps and squares (None unless the metric is l2) of slots from `first` to before `end`.

        They are where they stand, and valid as long as this object is there.
        """
        cdef uint32_t stride = self.vectors.stride
        if first >= end:
            raise ValueError(f"there are no slots from {first} to {end}")
        self.seen(end)
        rows = np.asarray(<uint8_t[:end - first, :stride]>(
            <uint8_t *>self.vectors.sections[VECTORS_ROWS] + first * stride
        ))
        steps = np.asarray(<float[:end - first]>(<float *>self.vectors.sections[VECTORS_STEPS] + first))
        squares = None  # there is no memory for them
        if self.vectors.metric == VECTORS_L2:
            squares = np.asarray(<float[:end - first]>(<float *>self.vectors.sections[VECTORS_SQUARES] + first))
        return rows.view(self.dtype)[:, :self.vectors.dimension], steps, squares

    # ---- who reads ----

    @property
    def count(self):
        """Changes that are there."""
        self.region.check_process()
        return vectors_count(&self.vectors)

    @property
    def capacity(self):
        """Changes at most."""
        return self.vectors.capacity

    cdef uint64_t seen(self, uint64_t count) except? 0:
        self.region.check_process()
        if count > vectors_count(&self.vectors):
            raise ValueError(f"there are {self.count} changes, not {count}")
        return count

    def find(self, str id not None, int64_t limit):
        """Return the slot that is served of an id at an instant; -1: none is."""
        cdef Py_ssize_t size = 0
        cdef const char *name = PyUnicode_AsUTF8AndSize(id, &size)
        self.seen(0)
        return <int64_t>vectors_served_of(&self.vectors, name, size, limit) - 1

    cpdef Found found(self, uint64_t slot):
        """Return what a slot holds beside its vector."""
        cdef vectors_text_t text
        cdef Found found = Found.__new__(Found)
        cdef const char *arena = self.vectors.sections[VECTORS_ARENA]
        self.seen(slot + 1)
        if not vectors_text(&self.vectors, slot, &text):
            raise RegionDamaged(f"{self.region.path} is damaged: the text of slot {slot} lies outside of it")
        found.id = PyUnicode_DecodeUTF8(arena + text.at, text.id_size, NULL)
        found.metadata = (arena + text.at + text.id_size)[:text.metadata_size]
        found.ts_event = (<int64_t *>self.vectors.sections[VECTORS_EVENT])[slot]
        found.ts_known = (<int64_t *>self.vectors.sections[VECTORS_KNOWN])[slot]
        return found

    cdef object checked(self, uint64_t count, bits):
        found = np.ascontiguousarray(bits, np.uint64)
        if <uint64_t>len(found) != (count + 63) // 64:
            raise ValueError(f"bits of {count} slots are {(count + 63) // 64} words, were {len(found)}")
        return found

    def served(self, uint64_t count, int64_t limit, bits=None):
        """Return a bit for each of the first `count` slots that are served at an instant, of those in `bits`, and how
        many these are."""
        cdef uint64_t[::1] words
        cdef uint64_t left = 0
        self.seen(count)
        kept = np.empty((count + 63) // 64, np.uint64) if bits is None else np.array(self.checked(count, bits))
        if count == 0:
            return kept, 0
        words = kept
        with nogil:
            if bits is None:
                vectors_all(count, &words[0])
            left = vectors_served(&self.vectors, count, limit, &words[0])
        return kept, left

    def wanted(self, uint64_t count, int64_t limit, bits=None):
        """Return what :meth:`served` does, but None for the bits if all of the slots are served and wanted."""
        self.seen(count)
        if bits is None and vectors_all_served(&self.vectors, limit):
            return None, count
        return self.served(count, limit, bits)

    # ---- columns of metadata ----

    def column(self, str name not None):
        """Return kinds and words of a field; None: nothing has it.

        Raises
        ------
        KeyError
            It has no column: there are too many fields, or its name is too long.
        """
        cdef Py_ssize_t size = 0
        cdef const char *data = PyUnicode_AsUTF8AndSize(name, &size)
        cdef uint64_t number, count = self.seen(self.count)
        cdef uint64_t fields = word_acquire(&self.vectors.control.field_count)
        number = vectors_field(&self.vectors, data, size)
        if number == 0:
            if size > VECTORS_NAME or fields >= VECTORS_FIELDS:
                raise KeyError(name)
            return None
        if count == 0:
            return np.empty(0, np.uint8), np.empty(0, np.uint64)
        kinds = <uint8_t[:count]>(
            <uint8_t *>self.vectors.sections[VECTORS_KINDS] + (number - 1) * self.vectors.capacity
        )
        words = <uint64_t[:count]>(
            <uint64_t *>self.vectors.sections[VECTORS_WORDS] + (number - 1) * self.vectors.capacity
        )
        return np.asarray(kinds), np.asarray(words)

    def interned(self, str name not None):
        """Return numbers and MessagePack of the distinct values of a field that are no numbers."""
        cdef Py_ssize_t size = 0
        cdef const char *data = PyUnicode_AsUTF8AndSize(name, &size)
        cdef uint64_t field, number, count
        cdef vectors_value_t value
        cdef list found = []
        self.seen(0)
        field = vectors_field(&self.vectors, data, size)
        count = vectors_value_count(&self.vectors)
        for number in range(count if field else 0):
            memcpy(&value, self.vectors.sections[VECTORS_VALUES] + number * sizeof(value), sizeof(value))
            if value.field == field and vectors_in_arena(&self.vectors, value.at, value.size):
                found.append((number, <bytes>(self.vectors.sections[VECTORS_ARENA] + value.at)[:value.size]))
        return found

    def intern_number(self, str name not None, bytes data not None):
        """Return the number of a distinct value of a field; -1: no slot has it."""
        cdef Py_ssize_t size = 0
        cdef const char *text = PyUnicode_AsUTF8AndSize(name, &size)
        self.seen(0)
        cdef uint64_t field = vectors_field(&self.vectors, text, size)
        if field == 0:
            return -1
        return <int64_t>vectors_find_value(&self.vectors, field, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) - 1

    @property
    def nbytes(self):
        """Bytes of memory that it takes, of all processes together."""
        return os.fstat(self.region.fileno()).st_blocks * 512


cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef inline unsigned long long thread_ident() noexcept:
    return PyThread_get_thread_ident()
