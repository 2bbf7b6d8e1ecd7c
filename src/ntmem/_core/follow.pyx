"""Walks the log for those who follow one namespace: Python objects are made only for what is of it.

Layout
------
A :class:`Follower` is a position in the log, the encoded namespace it looks for, and a buffer into which a group that
has something of it is copied. All other groups are stepped over where they stand, header by header.

Invariants
----------
1. What is returned was copied whole and its checksum is right; a group that was overwritten meanwhile is an error (I5).
2. No lock is taken. A writer is made to wake this one only while the log stands still: beside a busy log it naps.
3. Python objects are touched with the GIL only, and all waiting is without it.
"""

import math
import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport Record, record_make

from ntmem._core.logrecords import LogDamaged, Overwritten


cdef extern from "log.h" nogil:
    unsigned char *log_at(const log_t *log, uint64_t position) noexcept
    bint group_is_plausible(const log_t *log, const log_group_t *group, uint64_t position, uint64_t end) noexcept

cdef extern from "sync.h" nogil:
    void bytes_copy(void *to, const void *source, size_t size) noexcept
    bint bytes_equal(const void *a, const void *b, size_t size) noexcept
    uint32_t news_expect(uint32_t *word) noexcept
    void news_wait(uint32_t *word, uint32_t expected, uint64_t wait_ns) noexcept

cdef enum:
    ALIGN = 16
    FIRST_ROOM = 1 << 14
    STRIDE = 1 << 14           # groups between two looks at the clock
    SLICE_NS = 50_000_000      # a wake-up lost with a dead process costs this; signals are looked at as often
    PATIENCE = 4               # how often it is woken in vain before it naps
    FIRST_NAP_NS = 50_000
    LONGEST_NAP_NS = 1_000_000  # what a change may be late in a store that is busy with others

cdef enum follow_outcome:
    FOLLOW_MATCH        # the group at the position has something
    FOLLOW_PASSED       # it had nothing, and the position is behind it
    FOLLOW_END          # no group is there yet
    FOLLOW_OVERWRITTEN
    FOLLOW_DAMAGED

failpoints_join(failpoints_table())


# ---- matching ---------------------------------------------------------------------------------------------------


ctypedef struct follow_t:
    const log_t *log
    const unsigned char *stem
    uint64_t stem_size
    bint children
    uint64_t after      # versions up to this one are not looked at
    uint64_t position   # where the next group begins
    uint64_t version    # the last one before the position; 0: not known yet
    bint moved          # it has passed groups since it last waited
    uint32_t in_vain    # how often that was so, since something matched or the log stood still


cdef inline bint record_matches(
    const follow_t *follow, const log_record_t *record, const unsigned char *space
) noexcept nogil:
    """Whether it is of the namespace or, if they are wanted, its children; a notice: also if of what it lies below."""
    cdef bint below = record.namespace_size >= follow.stem_size
    if record.version <= follow.after:
        return False
    if record.kind == LOG_KIND_NOTICE and record.namespace_size <= follow.stem_size:
        return bytes_equal(space, follow.stem, record.namespace_size)
    if record.namespace_size != follow.stem_size and not (follow.children and below):
        return False
    return bytes_equal(space, follow.stem, follow.stem_size)


cdef follow_outcome follow_step(follow_t *follow) noexcept nogil:
    """Pass the next group if it has nothing that matches."""
    cdef const log_t *log = follow.log
    cdef uint64_t committed = word_acquire(&log.control.committed.word)
    cdef uint64_t at = follow.position
    cdef uint64_t end, size
    cdef log_group_t group
    cdef log_record_t record
    cdef bint plausible
    cdef bint matches = False
    cdef uint32_t _
    if at == committed:
        return FOLLOW_END
    if at > committed or at % ALIGN:
        return FOLLOW_DAMAGED
    bytes_copy(&group, log_at(log, at), sizeof(group))
    plausible = group_is_plausible(log, &group, at, committed)
    if plausible and group.first_version + group.records - 1 > follow.after:
        end = at + group.bytes
        at += sizeof(group)
        for _ in range(group.records):
            plausible = at + sizeof(record) <= end
            if not plausible:
                break
            bytes_copy(&record, log_at(log, at), sizeof(record))
            size = record_bytes(&record)
            plausible = size <= end - at
            if not plausible:
                break
            matches = record_matches(follow, &record, log_at(log, at) + sizeof(record))
            if matches:
                break
            at += size
    if log_was_overwritten(log, follow.position):
        return FOLLOW_OVERWRITTEN
    if not plausible:
        return FOLLOW_DAMAGED
    if matches:
        return FOLLOW_MATCH
    follow.position += group.bytes
    follow.version = group.first_version + group.records - 1
    follow.moved = True
    return FOLLOW_PASSED


cdef follow_outcome follow_on(follow_t *follow) noexcept nogil:
    """Pass groups until one matches; FOLLOW_PASSED: there are more than a stride."""
    cdef follow_outcome outcome = FOLLOW_PASSED
    cdef int _
    for _ in range(STRIDE):
        outcome = follow_step(follow)
        if outcome != FOLLOW_PASSED:
            break
    return outcome


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <uint64_t>moment.tv_sec * 1_000_000_000 + <uint64_t>moment.tv_nsec


cdef follow_outcome follow_until(follow_t *follow, uint64_t deadline) noexcept nogil:
    """Pass groups, and wait at the end of the log, until one matches or it is `deadline`."""
    cdef log_control_t *control = follow.log.control
    cdef follow_outcome outcome
    cdef uint64_t now
    cdef uint64_t nap = 0
    cdef uint32_t expected
    cdef timespec duration
    while True:
        outcome = follow_on(follow)
        now = monotonic_ns()
        if outcome != FOLLOW_PASSED and outcome != FOLLOW_END or now >= deadline:
            return outcome
        if outcome == FOLLOW_PASSED:
            continue
        if not follow.moved:
            if nap != 0:
                follow.in_vain = 0
            nap = 0
        elif follow.in_vain < PATIENCE:
            follow.in_vain += 1
            follow.moved = False
        else:  # others write a lot: they are not to wake this one each time
            follow.moved = False
            nap = min(max(2 * nap, <uint64_t>FIRST_NAP_NS), <uint64_t>LONGEST_NAP_NS, deadline - now)
            duration.tv_sec = 0
            duration.tv_nsec = nap
            nanosleep(&duration, NULL)
            continue
        expected = news_expect(&control.commit_news.word)
        if word_acquire(&control.committed.word) == follow.position:
            news_wait(&control.commit_news.word, expected, deadline - now)


# ---- for Python -------------------------------------------------------------------------------------------------


@cython.final
cdef class Follower:
    """A position in a log, and what to look for from there on.

    Parameters
    ----------
    log : Log
    namespace : bytes
        Labels, each behind its length byte; not empty.
    children : bool
        Whether namespaces below it are wanted, too.
    position : int
        Where a group begins, or the log ends; or call :meth:`seek`.
    after : int
        Records up to this version are left out.

    Notes
    -----
    **Thread safety**: one thread at a time.

    Examples
    --------
    >>> from ntmem._core.log import Log
    >>> from ntmem._core.logrecords import KIND_PUT
    >>> from ntmem._core.region import Region
    >>> region = Region.create(None, identity=b"", generation=1, sections=Log.sections(1 << 16, 1 << 9))
    >>> log = Log.create(region)
    >>> follower = Follower(log, b"\\x04desk", children=True, position=log.committed)
    >>> _ = log.append([(KIND_PUT, 0, b"\\x04desk", b"AAPL", b"me", b"42", 0, 0, 0)])
    >>> follower.wait(1.0), [[record.key for record in group] for group in follower.read()]
    (True, [[b'AAPL']])
    """

    cdef Log log
    cdef bytes stem
    cdef follow_t follow
    cdef unsigned char *buffer
    cdef uint64_t room

    def __cinit__(
        self, Log log not None, bytes namespace not None, *, bint children, uint64_t position=0, uint64_t after=0
    ):
        if not namespace:
            raise ValueError("namespace must not be empty")
        self.log = log
        self.stem = namespace
        self.follow.log = &log.log
        self.follow.stem = <const unsigned char *>PyBytes_AS_STRING(namespace)
        self.follow.stem_size = PyBytes_GET_SIZE(namespace)
        self.follow.children = children
        self.follow.after = after
        self.follow.position = position

    def __dealloc__(self):
        free(self.buffer)

    cdef object failure(self, follow_outcome outcome):
        if outcome == FOLLOW_OVERWRITTEN:
            return Overwritten(f"the log goes back to {self.log.begin}, not to {self.follow.position}")
        return LogDamaged(f"{self.log.region.path}: no sound group begins at {self.follow.position}")

    cdef log_group_outcome copy(self, uint64_t position, uint64_t *group_bytes) except *:
        """Copy the group at `position`, however large, into the buffer."""
        cdef log_group_outcome outcome = GROUP_TOO_LARGE
        group_bytes[0] = FIRST_ROOM
        while outcome == GROUP_TOO_LARGE:
            if self.room < group_bytes[0]:
                free(self.buffer)
                self.room = 0
                self.buffer = <unsigned char *>malloc(group_bytes[0])
                if self.buffer == NULL:
                    raise MemoryError(f"no memory for {group_bytes[0]} bytes of the log")
                self.room = group_bytes[0]
            with nogil:
                outcome = log_group_copy(self.follow.log, position, self.buffer, self.room, group_bytes)
        return outcome

    def seek(self, uint64_t margin=0):
        """Go to the oldest group that the log still has, and whose bytes are not overwritten before `margin` more are.

        Returns
        -------
        int or None
            The first version there; None: there is no group at or behind it.

        Notes
        -----
        **Complexity**: O(bytes of one group). The GIL is released.
        """
        cdef uint64_t at, committed, group_bytes = 0
        cdef uint64_t first
        cdef log_group_t group
        cdef log_group_outcome outcome
        self.log.check_process()
        while True:
            at = log_begin(self.follow.log)
            if at != 0 or margin != 0:
                at = (at + margin + ALIGN - 1) & ~<uint64_t>(ALIGN - 1)
            with nogil:  # groups follow each other closely: the next one begins where one says that it stands there
                committed = word_acquire(&self.follow.log.control.committed.word)
                while at < committed:
                    bytes_copy(&group, log_at(self.follow.log, at), sizeof(group))
                    if group_is_plausible(self.follow.log, &group, at, committed):
                        break
                    at += ALIGN
            if at >= committed:
                self.follow.position = committed
                return None
            outcome = self.copy(at, &group_bytes)
            if outcome == GROUP_COPIED:
                self.follow.position = at
                first = (<log_group_t *>self.buffer).first_version
                self.follow.version = first - 1
                return first
            if at == 0 and outcome == GROUP_DAMAGED:
                raise LogDamaged(f"{self.log.region.path}: no sound group begins at 0")
            if outcome == GROUP_DAMAGED:  # a value that looked like one
                margin += ALIGN
            PyErr_CheckSignals()

    def wait(self, double timeout):
        """Wait until the log has something that matches; return whether it has after `timeout` seconds.

        Raises
        ------
        Overwritten
            The log does not go back to the position any more; :meth:`seek` goes on.
        LogDamaged
            No sound group begins there.

        Notes
        -----
        **Complexity**: O(records passed). The GIL is released. Beside a log that is busy with other namespaces it looks
        every millisecond; otherwise the commit wakes it.
        """
        cdef uint64_t now, deadline
        cdef follow_outcome outcome = FOLLOW_END
        if not timeout >= 0 or math.isinf(timeout):
            raise ValueError(f"timeout must be seconds, 0 or more, was {timeout}")
        self.log.check_process()
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            with nogil:
                now = monotonic_ns()
            deadline = now + (0 if left <= 0 else <uint64_t>min(left * 1e9 + 1, SLICE_NS))
            with nogil:
                outcome = follow_until(&self.follow, deadline)
            if outcome == FOLLOW_MATCH:
                return True
            if outcome != FOLLOW_END and outcome != FOLLOW_PASSED:
                raise self.failure(outcome)
            PyErr_CheckSignals()
            if left <= 0 and outcome == FOLLOW_END:
                return False

    def read(self, uint32_t max_records=256):
        """Return what matches of the next groups, and go behind them; no more than `max_records`, but whole groups.

        Returns
        -------
        list of list of Record
            Of each group that has something, what it has, in order. Empty: there is nothing yet.

        Raises
        ------
        Overwritten, LogDamaged
            As of :meth:`wait`; nothing of this call's is lost: what came before is returned first.
        """
        cdef uint64_t group_bytes = 0
        cdef size_t count = 0
        cdef follow_outcome outcome = FOLLOW_PASSED
        cdef log_group_outcome copied
        cdef list groups = []
        self.log.check_process()
        while count < max_records:
            with nogil:
                outcome = follow_on(&self.follow)
            if outcome == FOLLOW_PASSED:
                PyErr_CheckSignals()
                continue
            if outcome == FOLLOW_MATCH:
                copied = self.copy(self.follow.position, &group_bytes)
                if copied == GROUP_COPIED:
                    found = self.matching()
                    count += len(found)
                    groups.append(found)
                    self.follow.position += group_bytes
                    self.follow.version = (
                        (<log_group_t *>self.buffer).first_version + (<log_group_t *>self.buffer).records - 1
                    )
                    continue
                outcome = FOLLOW_OVERWRITTEN if copied == GROUP_OVERWRITTEN else FOLLOW_DAMAGED
            if outcome != FOLLOW_END and not groups:
                raise self.failure(outcome)
            break
        self.follow.moved = False
        self.follow.in_vain = 0
        return groups

    cdef list matching(self):
        cdef const unsigned char *at = self.buffer + sizeof(log_group_t)
        cdef const char *names
        cdef log_record_t header
        cdef Record record
        cdef list found = []
        cdef uint32_t _
        for _ in range((<const log_group_t *>self.buffer).records):
            memcpy(&header, at, sizeof(header))
            names = <const char *>at + sizeof(log_record_t)
            if record_matches(&self.follow, &header, <const unsigned char *>names):
                record = record_make(
                    &header,
                    PyBytes_FromStringAndSize(names, header.namespace_size),
                    PyBytes_FromStringAndSize(names + header.namespace_size, header.key_size),
                )
                names += <size_t>header.namespace_size + header.key_size
                record.writer = PyBytes_FromStringAndSize(names, header.writer_size)
                record.value = PyBytes_FromStringAndSize(names + header.writer_size, header.value_size)
                found.append(record)
            at += record_bytes(&header)
        return found

    @property
    def position(self):
        """Where the next group begins that was not looked at."""
        return self.follow.position

    @property
    def version(self):
        """The last version before the position; 0: not known yet."""
        return self.follow.version


def settled(Log log not None):
    """Return where the log ends, and a version so that what is behind the one is behind the other.

    Returns
    -------
    int, int
        A position for :class:`Follower`, and the low bits of the version. That may be older than the newest one, if a
        writer is in the middle of a commit (or died there): never newer.
    """
    cdef log_control_t *control = log.log.control
    cdef uint64_t sequence, reserved, committed = 0
    cdef int _
    log.check_process()
    for _ in range(64):
        sequence = word_acquire(&control.next_sequence.word)
        reserved = word_acquire(&control.reserved.word)
        committed = word_acquire(&control.committed.word)
        if reserved == committed:  # who has raised the sequence has raised `reserved` before, and committed since
            return committed, sequence - 1
    sequence = word_acquire(&control.flushed_sequence.word)  # what is on disk was committed
    committed = word_acquire(&control.committed.word)
    return committed, sequence
