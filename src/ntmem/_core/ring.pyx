"""Messages between threads and processes: a ring in shared memory, whose publishers wait for nobody who reads.

Layout
------
Section 7: words (mutex, ``reserved``, ``committed``, futexes of those who wait). Section 8, whose memory is taken by
the first publisher: messages, one behind the other, mapped twice. ``ring.h`` is publishing, ``ring_read.h`` reading;
``docs/design/bus.md`` has the why.

Invariants
----------
1. A message is published by one store of ``committed``, after all its bytes; sequences have no gaps. Whoever dies
   before that store has published nothing, and nothing needs repair.
2. A reader takes no lock and delays nobody (I5); what may have been overwritten while it copied is not returned, but
   counted: received and lagged are what was published.
3. ``reserved`` never falls: bytes a lap before it may be overwritten at any moment, also by who died.
4. The mutex is held while bytes are copied, and never while waiting; a wait is without the GIL, and bounded.
"""

import math
import os
import time

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.list cimport PyList_GET_ITEM
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.unistd cimport getpid

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.meters cimport (
    METER_DELIVER, METER_PUBLISH, meters_begin, meters_count, meters_end, meters_of, meters_record, meters_t,
)
from ntmem._core.region cimport REGION_MIRRORED, REGION_SPARSE, Region
from ntmem._core.ring cimport *

from ntmem._core.logrecords import LogDamaged, WriterStalled

cdef extern from "sync.h" nogil:
    bint bytes_equal(const void *a, const void *b, size_t size) noexcept
    void bytes_copy(void *to, const void *source, size_t size) noexcept

failpoints_join(failpoints_table())


cdef enum:
    SECTION_WORDS = 7
    SECTION_MESSAGES = 8
    SLICE_NS = 50_000_000  # a wake-up lost with a dead process costs this; signals are looked at as often
    LARGE = 65536          # from here on copying is worth releasing the GIL for
    NEAR = 64              # messages that are passed with the GIL, as releasing it costs more
    STRIDE = 1 << 14       # and without it, between two looks at signals
    NAMES = 64             # topics, and senders, that a reader keeps


class RingDamaged(LogDamaged):
    """The ring holds what no publisher wrote."""


class PublisherStalled(WriterStalled):
    """The mutex was not to be had in time; `pid` is the process that holds it, 0 if that is not known."""

    def __init__(self, pid, seconds):
        TimeoutError.__init__(
            self,
            f"process {pid or 'unknown'} has kept the message ring locked for {seconds:g} s: it is stopped or starved; "
            "continue or end it, the ring goes on by itself",
        )
        self.pid = pid
        self.seconds = seconds


# ---- messages ---------------------------------------------------------------------------------------------------


@cython.final
@cython.no_gc
cdef class Name:
    """A topic or a sender as it stands in the ring; one object for all messages of a reader that have it."""

    cdef bytes raw
    cdef str text
    cdef tuple levels

    def __init__(self):
        raise TypeError("names are made by readers")

    cdef str joined(self):
        if self.text is None:
            self.text = "/".join(self.split())
        return self.text

    cdef tuple split(self):
        if self.levels is None:
            self.levels = tuple([level.decode("utf-8", "replace") for level in self.raw.split(b"\0")])
        return self.levels


cdef inline Name name_make(const char *at, size_t size):
    cdef Name name = Name.__new__(Name)
    name.raw = PyBytes_FromStringAndSize(NULL, size)
    bytes_copy(PyBytes_AS_STRING(name.raw), at, size)
    return name


cdef inline Name name_of(list known, uint32_t slot, const char *at, size_t size):
    """The name that stands at `at`: the one that is known in a slot, if it is the same."""
    cdef Name name = <Name>PyList_GET_ITEM(known, slot % NAMES)
    if name is not None and <size_t>PyBytes_GET_SIZE(name.raw) == size and bytes_equal(
            at, PyBytes_AS_STRING(name.raw), size):
        return name
    name = name_make(at, size)
    known[slot % NAMES] = name
    return name


cdef Name name_of_levels(levels):
    cdef bytes raw
    if isinstance(levels, str) or not all([isinstance(level, str) for level in levels]):
        raise TypeError(f"a topic is given as a sequence of str, was {levels!r}")
    raw = b"\0".join([level.encode() for level in levels])
    return name_make(PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Message:
    """One message, immutable.

    Parameters
    ----------
    levels : sequence of str
        The topic.
    payload : bytes
    seq : int
        Its sequence number: one more than that of the message published before it, whatever the topic of that.
    sender : str
    ts : int
        When it was published: ns UTC by the wall clock.
    lagged : int
        How many messages the subscriber missed directly before this one.
    durable : bool
        Whether it is kept in the log.

    Examples
    --------
    >>> message = Message(("px", "BTC/USDT"), b"42", seq=7, sender="me", ts=0)
    >>> message.topic, message.levels, message.payload, message.lagged
    ('px/BTC/USDT', ('px', 'BTC/USDT'), b'42', 0)
    """

    cdef Name topic_name
    cdef Name sender_name
    cdef bytes content
    cdef readonly uint64_t seq
    cdef readonly int64_t ts
    cdef readonly uint64_t lagged
    cdef uint32_t flags

    def __init__(
        self, levels, bytes payload not None, uint64_t seq, str sender not None, int64_t ts, uint64_t lagged=0,
        bint durable=False
    ):
        if self.topic_name is not None:
            raise TypeError("a message cannot be changed")
        self.topic_name = name_of_levels(levels)
        self.sender_name = name_of_levels((sender,))
        self.content = payload
        self.seq = seq
        self.ts = ts
        self.lagged = lagged
        self.flags = durable

    cdef int check(self) except -1:
        if self.topic_name is None or self.sender_name is None:
            raise TypeError("the message was never made")
        return 0

    @property
    def topic(self):
        """Its levels, joined by ``/``."""
        self.check()
        return self.topic_name.joined()

    @property
    def levels(self):
        """The levels of its topic."""
        self.check()
        return self.topic_name.split()

    @property
    def payload(self):
        """Its content."""
        self.check()
        return self.content

    @property
    def sender(self):
        """Who published it."""
        self.check()
        return self.sender_name.joined()

    @property
    def durable(self):
        """Whether it is kept in the log."""
        return self.flags & 1 != 0

    def __reduce__(self):
        return Message, (self.levels, self.payload, self.seq, self.sender, self.ts, self.lagged, self.durable)

    def __eq__(self, other):
        cdef Message a = self
        cdef Message b
        if not isinstance(other, Message):
            return NotImplemented
        b = other
        a.check()
        b.check()
        return (a.seq == b.seq and a.ts == b.ts and a.lagged == b.lagged and a.flags & 1 == b.flags & 1
                and a.topic_name.raw == b.topic_name.raw and a.sender_name.raw == b.sender_name.raw
                and a.content == b.content)

    def __hash__(self):
        self.check()
        return hash((self.seq, self.ts, self.topic_name.raw))

    def __repr__(self):
        self.check()
        lagged = f" lagged={self.lagged}" if self.lagged else ""
        return f"<Message {self.topic!r} seq={self.seq} from {self.sender!r}, {len(self.content)} bytes{lagged}>"


@cython.final
cdef class Pattern:
    """What topics a reader wants.

    Parameters
    ----------
    encoded : bytes
        Levels, with a NUL between two of them; ``*`` is any one level, ``>`` as the last one any one or more.

    Examples
    --------
    >>> Pattern(b"px\\0*").matches(b"px\\0BTC"), Pattern(b"px\\0>").matches(b"px"), Pattern(b"px").exact
    (True, False, True)
    """

    cdef readonly bytes encoded
    cdef ring_pattern_t pattern

    def __cinit__(self, bytes encoded not None):
        cdef int exact
        self.encoded = encoded
        self.pattern.bytes = <const unsigned char *>PyBytes_AS_STRING(encoded)
        self.pattern.size = PyBytes_GET_SIZE(encoded)
        if PyBytes_GET_SIZE(encoded) > RING_TOPIC:
            raise ValueError(f"a pattern has at most {RING_TOPIC} bytes, had {len(encoded)}")
        exact = pattern_is_exact(self.pattern.bytes, self.pattern.size)
        if exact < 0:
            raise ValueError(f"no level of a pattern is empty, and only the last one may be b'>', was {encoded!r}")
        self.pattern.exact = exact
        self.pattern.hash = topic_hash(self.pattern.bytes, self.pattern.size)

    @property
    def exact(self):
        """Whether it is one topic: it has no wildcard."""
        return self.pattern.exact != 0

    def matches(self, bytes topic not None):
        """Whether a topic, its levels joined by NUL, is one of those."""
        return pattern_matches(
            &self.pattern, <const unsigned char *>PyBytes_AS_STRING(topic), PyBytes_GET_SIZE(topic)
        ) != 0

    def __repr__(self):
        return f"Pattern({self.encoded!r})"


# ---- payloads ---------------------------------------------------------------------------------------------------


@cython.final
cdef class Payloads:
    """Bytes-like objects, held while C code reads them."""

    cdef ring_payload_t *payloads
    cdef Py_buffer *views
    cdef size_t count

    def __cinit__(self, list objects):
        cdef size_t size = len(objects) or 1
        self.payloads = <ring_payload_t *>calloc(size, sizeof(ring_payload_t))
        self.views = <Py_buffer *>calloc(size, sizeof(Py_buffer))
        if self.payloads == NULL or self.views == NULL:
            raise MemoryError(f"no memory for {size} payloads")
        for one in objects:
            PyObject_GetBuffer(one, &self.views[self.count], PyBUF_SIMPLE)
            self.payloads[self.count].bytes = <const unsigned char *>self.views[self.count].buf
            self.payloads[self.count].size = self.views[self.count].len
            self.count += 1

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        free(self.payloads)
        free(self.views)


# ---- the ring ---------------------------------------------------------------------------------------------------


@cython.final
cdef class Ring:
    """The messages of a region.

    Parameters
    ----------
    region : Region
        With the sections of :meth:`sections`, made ready by :meth:`create`.

    Raises
    ------
    RegionDamaged, RingDamaged
        The sections are not there, or hold no ring.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region. **Complexity**:
    O(bytes of the message).

    Examples
    --------
    >>> from ntmem._core.region import Region
    >>> region = Region.create(None, identity=b"", generation=1, sections=Ring.sections(1 << 16))
    >>> ring = Ring.create(region, 1)
    >>> reader = RingReader(ring, Pattern(b"px\\0*"))
    >>> ring.publish(b"px\\0BTC", b"42", b"me"), ring.publish(b"fx\\0EUR", b"1.1", b"me")
    (1, 2)
    >>> reader.read(10)
    [<Message 'px/BTC' seq=1 from 'me', 2 bytes>]
    """

    cdef readonly Region region
    cdef ring_t ring
    cdef meters_t meters
    cdef const uint32_t *forks
    cdef uint32_t forks_at_mapping

    def __cinit__(self, Region region not None):
        cdef uint64_t words = 0
        cdef uint64_t size = 0
        self.region = region
        self.ring.control = <ring_control_t *>region.section(SECTION_WORDS, &words)
        self.ring.bytes = <unsigned char *>region.section(SECTION_MESSAGES, &size)
        self.ring.capacity = size
        self.ring.fd = region.region.fd
        self.ring.offset = self.offset_of(SECTION_MESSAGES)
        self.ring.pid = getpid()
        self.forks = region.forks
        self.forks_at_mapping = region.forks_at_mapping
        if words != sizeof(ring_control_t) or not ring_is_sound(&self.ring, size):
            raise self.damage("its words contradict each other")
        self.ring.first = self.ring.control.constants.first
        meters_of(region, &self.meters)

    cdef uint64_t offset_of(self, uint32_t kind) noexcept:
        cdef uint32_t i
        for i in range(self.region.region.header.section_count):
            if self.region.region.header.sections[i].kind == kind:
                return self.region.region.header.sections[i].offset
        return 0

    @staticmethod
    def sections(uint64_t size):
        """Return the sections a region needs for a ring of `size` bytes, a power of two from 64 KiB to 4 GiB."""
        if not ring_size_fits(size):
            raise ValueError(f"bus_bytes must be a power of two from 65536 to 2**32, was {size}")
        return [
            (SECTION_WORDS, sizeof(ring_control_t), 0),
            (SECTION_MESSAGES, size, REGION_MIRRORED | REGION_SPARSE),
        ]

    @staticmethod
    def create(Region region not None, first=None):
        """Make an empty ring in a region that is not published yet.

        `first` is the sequence of the first message. By default it is the wall clock's nanoseconds, so that no ring
        goes on with numbers that one before it has given out: none of them publishes a message a nanosecond.
        """
        cdef uint64_t words = 0
        cdef uint64_t size = 0
        cdef ring_control_t *control = <ring_control_t *>region.section(SECTION_WORDS, &words)
        cdef uint64_t begin = time.time_ns() if first is None else first
        region.section(SECTION_MESSAGES, &size)
        if not 0 < begin < <uint64_t>1 << 63:
            raise ValueError(f"first must be from 1 to 2**63 - 1, was {first}")
        if words != sizeof(ring_control_t) or not ring_size_fits(size) or control.constants.magic != 0:
            raise ValueError("there is no room for messages in this region, or there is a ring already")
        if ring_create(control, size, begin) != 0:
            raise OSError("the system has no robust mutexes")
        return Ring(region)

    cdef inline int check_process(self) except -1:
        if self.forks_at_mapping != self.forks[0]:
            self.region.check_process()
        return 0

    cdef object damage(self, str what):
        cdef ring_control_t *control = self.ring.control
        return RingDamaged(
            f"the message ring in {self.region.path} is damaged: {what} (committed {control.committed.word}, reserved "
            f"{control.reserved.word}, capacity {self.ring.capacity})"
        )

    # ---- publishing ----

    cdef int draft(self, ring_draft_t *draft, bytes topic, bytes sender, uint32_t flags) except -1:
        """Points into both names."""
        cdef Py_ssize_t topic_size = PyBytes_GET_SIZE(topic)
        cdef Py_ssize_t sender_size = PyBytes_GET_SIZE(sender)
        if not 0 < topic_size <= RING_TOPIC:
            raise ValueError(f"a topic has 1 to {RING_TOPIC} bytes, had {topic_size}")
        if sender_size > RING_SENDER:
            raise ValueError(f"a sender has at most {RING_SENDER} bytes, had {sender_size}")
        draft.topic = <const unsigned char *>PyBytes_AS_STRING(topic)
        draft.topic_size = topic_size
        draft.sender = <const unsigned char *>PyBytes_AS_STRING(sender)
        draft.sender_size = sender_size
        draft.hash = topic_hash(draft.topic, topic_size)
        draft.flags = flags
        return 0

    cdef inline uint64_t message_bytes(self, const ring_draft_t *draft, uint64_t payload) except 0:
        cdef uint64_t names = <uint64_t>draft.topic_size + draft.sender_size
        if payload > ring_limit(&self.ring) or names + payload > ring_limit(&self.ring):
            raise ValueError(
                f"a message of {payload} bytes, with {names} of topic and sender, is more than the {self.limit} that "
                f"fit a quarter of the ring; open the store with bus_bytes above {self.ring.capacity}"
            )
        return ring_message_bytes(names, payload)

    cdef int run(self, ring_draft_t *draft, double timeout) except -1:
        cdef ring_outcome outcome = RING_BUSY
        if draft.bytes < LARGE and word_relaxed(&self.ring.control.provided.word) != 0:
            outcome = ring_publish(&self.ring, draft, 0)
        if outcome == RING_BUSY:
            outcome = self.publish_without_gil(draft, timeout)
        if outcome != RING_PUBLISHED:
            raise self.refusal(outcome, timeout, draft.error)
        if ring_is_awaited(&self.ring, draft.hash):
            with nogil:
                ring_announce(&self.ring, draft.hash)
        ring_announced()
        return 0

    cdef ring_outcome publish_without_gil(self, ring_draft_t *draft, double timeout) except *:
        cdef ring_outcome outcome = RING_BUSY
        cdef uint64_t wait_ns
        end = time.monotonic() + timeout
        while True:
            wait_ns = <uint64_t>max(min((end - time.monotonic()) * 1e9, <double>SLICE_NS), 1.0)
            with nogil:
                outcome = ring_publish(&self.ring, draft, wait_ns)
            if outcome != RING_BUSY or time.monotonic() >= end:
                return outcome
            PyErr_CheckSignals()

    cdef object refusal(self, ring_outcome outcome, double timeout, int error):
        if outcome == RING_BUSY:
            return PublisherStalled(mutex_holder(&self.ring.control.mutex), timeout)
        if outcome == RING_NO_MEMORY:
            return OSError(
                error,
                f"no room for {self.ring.capacity} bytes of messages in shared memory: {os.strerror(error)}; free "
                "some, or open the store with a smaller bus_bytes",
                self.region.path,
            )
        return self.damage("a mutex was given up, or the words contradict each other")

    def publish(
        self, bytes topic not None, payload, bytes sender not None, uint32_t flags=0, *, double timeout=5.0
    ):
        """Publish a message, and return its sequence number.

        Parameters
        ----------
        topic : bytes
            Levels, with a NUL between two of them; not empty.
        payload : bytes-like
            Contiguous; with both names up to :attr:`limit` bytes.
        sender : bytes
            UTF-8, up to 255 bytes.
        flags : int
            Bit 0: it is kept in the log, too.
        timeout : float
            Seconds to wait for other publishers.

        Raises
        ------
        ValueError
            It is too large.
        PublisherStalled
            Another publisher is stopped in the middle of it.
        OSError
            There is no memory for the ring; nothing was taken.
        RingDamaged
            The ring holds what no publisher wrote.

        Notes
        -----
        Nobody who reads is waited for. The GIL is released to wait for the mutex, for large messages, and to wake.
        """
        cdef ring_draft_t draft
        cdef ring_payload_t one
        cdef Payloads held
        cdef uint64_t begun
        self.check_process()
        begun = meters_begin(&self.meters, METER_PUBLISH)
        self.draft(&draft, topic, sender, flags)
        if PyBytes_CheckExact(payload):
            one.bytes = <const unsigned char *>PyBytes_AS_STRING(payload)
            one.size = PyBytes_GET_SIZE(payload)
        else:
            held = Payloads([payload])
            one = held.payloads[0]
        draft.payloads = &one
        draft.count = 1
        draft.bytes = self.message_bytes(&draft, one.size)
        self.run(&draft, timeout)
        meters_end(&self.meters, METER_PUBLISH, begun)
        return draft.sequence

    def publish_many(
        self, bytes topic not None, payloads, bytes sender not None, uint32_t flags=0, *, double timeout=5.0
    ):
        """Publish messages of one topic, and return the sequence number of the last one; 0: there was none.

        As many as fit a quarter of the ring become visible at once, in one hold of the mutex. All are checked before
        the first is published. Parameters and errors as of :meth:`publish`; before an error other than ValueError those
        of earlier batches may have been published.
        """
        cdef ring_draft_t draft
        cdef Payloads held
        cdef uint64_t part = ring_part(&self.ring)
        cdef uint64_t size
        cdef size_t i
        cdef size_t begin = 0
        self.check_process()
        self.draft(&draft, topic, sender, flags)
        held = Payloads(list(payloads))
        for i in range(held.count):
            self.message_bytes(&draft, held.payloads[i].size)
        draft.sequence = 0
        while begin < held.count:
            draft.payloads = &held.payloads[begin]
            draft.count = 0
            draft.bytes = 0
            for i in range(begin, held.count):
                size = self.message_bytes(&draft, held.payloads[i].size)
                if draft.bytes + size > part:
                    break
                draft.bytes += size
                draft.count += 1
            begin += draft.count
            self.run(&draft, timeout)
            meters_count(&self.meters, METER_PUBLISH, draft.count)
        return draft.sequence

    # ---- what it is ----

    @property
    def last(self):
        """The sequence number of the newest message; one less than :attr:`first`: there is none."""
        cdef uint64_t position = 0
        cdef uint64_t sequence = 0
        self.check_process()
        if ring_next(&self.ring, &position, &sequence) != RING_MATCH:
            raise self.damage("no message ends where the last one should")
        return sequence - 1

    @property
    def first(self):
        """The sequence number of the first message there ever was, or is going to be."""
        return self.ring.first

    @property
    def capacity(self):
        """Bytes of messages that it holds before it overwrites the oldest."""
        return self.ring.capacity

    @property
    def memory_bytes(self):
        """Bytes of shared memory that it has taken: none before the first message."""
        self.check_process()
        return self.ring.capacity if word_relaxed(&self.ring.control.provided.word) else 0

    @property
    def limit(self):
        """Bytes that topic, sender and payload of a message have at most, together."""
        return ring_limit(&self.ring)


# ---- reading ----------------------------------------------------------------------------------------------------


@cython.final
cdef class RingReader:
    """A place in the ring, and what to look for from there on.

    Parameters
    ----------
    ring : Ring
    pattern : Pattern
    since : int, optional
        The sequence number of the last message seen: what comes after it is delivered, and what of that was overwritten
        counted. By default what is published from now on.
    capacity : int, optional
        When more messages than this wait, the oldest are dropped and counted.

    Raises
    ------
    ValueError
        `since` was not given out yet.

    Notes
    -----
    **Thread safety**: one thread at a time; a second one gets a RuntimeError.
    """

    cdef Ring ring
    cdef Pattern pattern
    cdef ring_reader_t reader
    cdef uint64_t born              # from which sequence on what it reads has just been published
    cdef list topics
    cdef list senders
    cdef bint is_busy

    def __cinit__(self, Ring ring not None, Pattern pattern not None, since=None, capacity=None):
        cdef uint64_t first
        cdef ring_found found
        ring.check_process()
        self.ring = ring
        self.pattern = pattern
        self.topics = [None] * NAMES
        self.senders = [None] * NAMES
        memset(&self.reader, 0, sizeof(ring_reader_t))
        self.reader.ring = &ring.ring
        self.reader.pattern = pattern.pattern
        if capacity is not None:
            if capacity < 1:
                raise ValueError(f"capacity must be 1 or more, was {capacity}")
            self.reader.most = capacity
        if ring_next(&ring.ring, &self.reader.next.position, &self.reader.next.sequence) != RING_MATCH:
            raise ring.damage("no message ends where the last one should")
        self.born = self.reader.next.sequence
        if since is not None:
            if not 0 <= since < self.reader.next.sequence:
                raise ValueError(
                    f"since must be a sequence number that was given out, {self.reader.next.sequence - 1} at most, was "
                    f"{since}"
                )
            first = max(since + 1, ring.ring.first)  # what a ring before this one had is not known
            if first < self.reader.next.sequence:
                self.reader.next.sequence = first
                with nogil:
                    found = reader_rejoin(&self.reader, 0)
                self.check(found)
        self.reader.ahead = self.reader.next

    cdef int check(self, ring_found found) except -1:
        if found == RING_DAMAGED:
            raise self.ring.damage(
                f"no sound message {self.reader.next.sequence} begins at {self.reader.next.position}"
            )
        return 0

    cdef int enter(self) except -1:
        self.ring.check_process()
        if self.is_busy:
            raise RuntimeError("another thread is using this reader")
        self.is_busy = True
        return 0

    cdef ring_found find(self, ring_message_t *message) except *:
        """Pass what does not match."""
        cdef ring_found found
        if self.reader.most != 0:
            self.trim()
        found = reader_find(&self.reader, message, NEAR, False)
        while found == RING_PASSED or found == RING_OVERWRITTEN:
            PyErr_CheckSignals()
            with nogil:
                found = reader_find(&self.reader, message, STRIDE, True)
        return found

    cdef int trim(self) except -1:
        """Drop the oldest of too many that wait; damage ahead is an error only when reading has come there."""
        cdef ring_found found = RING_PASSED
        while found == RING_PASSED:
            with nogil:
                found = reader_trim(&self.reader, STRIDE)
            PyErr_CheckSignals()
        return 0

    cdef Message take(self, const ring_message_t *message):
        """The next message, which matches; None: it was overwritten meanwhile."""
        cdef const char *at = <const char *>ring_at(self.reader.ring, self.reader.next.position)
        cdef Message one = Message.__new__(Message)
        cdef bint whole
        cdef char *to
        at += sizeof(ring_message_t)
        one.topic_name = name_of(self.topics, message.hash, at, message.topic_size)
        one.sender_name = name_of(self.senders, message.pid, at + message.topic_size, message.sender_size)
        one.content = PyBytes_FromStringAndSize(NULL, message.payload_size)
        to = PyBytes_AS_STRING(one.content)
        if message.payload_size < LARGE:
            whole = reader_copy(&self.reader, message, to)
        else:
            with nogil:
                whole = reader_copy(&self.reader, message, to)
        if not whole:
            return None
        one.seq = message.sequence
        one.ts = message.time
        one.flags = message.flags
        one.lagged = self.reader.missed
        self.reader.missed = 0
        reader_pass(&self.reader, message, True)
        return one

    def read(self, Py_ssize_t limit=256):
        """Return the next messages that match, `limit` at most, and go behind them; an empty list: there is none yet.

        Raises
        ------
        RingDamaged
            What stands there is no message; those before it are returned first.

        Notes
        -----
        Never waits. **Complexity**: O(messages passed); messages that do not match are passed without the GIL.
        """
        cdef ring_message_t message
        cdef ring_found found = RING_END
        cdef Message one
        cdef list taken = []
        self.enter()
        try:
            while len(taken) < limit:
                found = reader_find(&self.reader, &message, NEAR, False) if taken else self.find(&message)
                if found != RING_MATCH:
                    break  # with what there is, rather than looking on
                one = self.take(&message)
                if one is not None:
                    taken.append(one)
            if not taken:
                self.check(found)
        finally:
            self.is_busy = False
        if taken:
            self.count(<Message>taken[0], len(taken))
        return taken

    cdef void count(self, Message oldest, uint64_t taken) noexcept:
        """Of what is taken at once, the one that waited longest is measured: a clock for each would cost too much."""
        cdef int64_t lag
        if oldest.seq < self.born:
            return
        lag = wall_ns() - oldest.ts
        meters_record(&self.ring.meters, METER_DELIVER, lag if lag > 0 else 0)
        meters_count(&self.ring.meters, METER_DELIVER, taken - 1)

    def ready(self):
        """Whether a message that matches is there; what does not is passed. Never waits."""
        cdef ring_message_t message
        cdef ring_found found
        self.enter()
        try:
            found = self.find(&message)
            self.check(found)
        finally:
            self.is_busy = False
        return found == RING_MATCH

    def wait(self, double timeout):
        """Wait until a message that matches is there; return whether it is after `timeout` seconds.

        Notes
        -----
        Without the GIL, in slices of 50 ms in which signals are looked at; publishing wakes it.
        """
        cdef ring_message_t message
        cdef ring_found found
        cdef uint64_t wait_ns
        cdef double left
        if not timeout >= 0 or math.isinf(timeout):
            raise ValueError(f"timeout must be seconds, 0 or more, was {timeout}")
        self.enter()
        try:
            end = time.monotonic() + timeout
            while True:
                found = self.find(&message)
                self.check(found)
                left = end - time.monotonic()
                if found == RING_MATCH or left <= 0:
                    return found == RING_MATCH
                wait_ns = <uint64_t>min(left * 1e9 + 1, SLICE_NS)
                with nogil:
                    reader_wait(&self.reader, wait_ns)
                PyErr_CheckSignals()
        finally:
            self.is_busy = False

    @property
    def lagged(self):
        """How many messages it has missed, ever."""
        return word_relaxed(&self.reader.lagged)

    @property
    def position(self):
        """The sequence number of the last message that was read or passed; for `since` of another reader."""
        return word_relaxed(&self.reader.next.sequence) - 1
