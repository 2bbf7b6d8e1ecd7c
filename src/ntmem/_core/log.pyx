"""A bounded ring of record groups in shared memory: committed by one store, found without a lock.

Layout
------
``control`` (mutexes and counters, a line each) | ``index`` section (newest record of each slot) | ``ring`` section
(groups, mapped twice). ``docs/design/log.md`` gives every byte and every step; the C leaves ``log*.h`` are those steps.

Invariants
----------
1. What :meth:`Log.append` has returned for is visible to every process, and survives the death of all (I1, I2).
2. A group is seen whole or not at all; versions and positions only rise, and none is used twice (I1).
3. A reader takes no lock and waits for nobody; what may have been overwritten while it copied is not returned (I5).
4. ``reserved - capacity <= flushed <= committed <= reserved``: nothing unflushed is ever overwritten (I2, I6).
5. Python objects are touched only outside the mutex; a wait is without the GIL, and bounded.
"""

import math
import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset
from posix.unistd cimport getpid

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport group_records, key_fill, record_make

from ntmem._core.logrecords import (
    Conflict,
    LogDamaged,
    LogFull,
    LogShut,
    LookAgain,
    NewRules,
    Overwritten,
    StaleLease,
    Trouble,
    ValueTooLarge,
    WriterStalled,
)


cdef enum:
    SECTION_RING = 1
    SECTION_INDEX = 2
    SECTION_BOOK = 6
    SLICE_NS = 50_000_000   # a wake-up lost with a dead process costs this; signals are looked at as often
    LARGE = 65536           # from here on copying is worth releasing the GIL for

failpoints_join(failpoints_table())


# ---- helpers ----------------------------------------------------------------------------------------------------


def crc32c(bytes data not None, *, bint portable=False):
    """Checksum as in the log; `portable` takes the table even where the processor has an instruction.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    return (crc_portable if portable else crc_of)(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


cdef object deadline_of(double timeout):
    if not timeout >= 0 or math.isinf(timeout):
        raise ValueError(f"timeout must be seconds, 0 or more, was {timeout}")
    return time.monotonic() + timeout


cdef uint64_t lag_ns(double seconds):
    return <uint64_t>(seconds * 1e9) if 0 < seconds < 1e9 else 0


cdef uint64_t slice_until(object deadline):
    """The next nanoseconds to wait for; 0: none are left."""
    cdef double left = deadline - time.monotonic()
    return 0 if left <= 0 else <uint64_t>min(left * 1e9 + 1, SLICE_NS)


# ---- the log ---------------------------------------------------------------------------------------------------


@cython.final
cdef class Log:
    """The commit log of a region.

    Parameters
    ----------
    region : Region
        With the sections of :meth:`sections`, made ready by :meth:`create` before it was published.

    Raises
    ------
    LogDamaged
        Its words contradict each other or the region.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region.

    Examples
    --------
    >>> from ntmem._core.logrecords import KIND_PUT
    >>> from ntmem._core.region import Region
    >>> region = Region.create(None, identity=b"", generation=1, sections=Log.sections(1 << 16, 1 << 9))
    >>> log = Log.create(region)
    >>> log.append([(KIND_PUT, 0, b"desk", b"AAPL", b"me", b"42", 0, 0, 0)]) == 1 << 44 | 1
    True
    >>> log.get(b"desk", b"AAPL").value
    b'42'
    >>> log.get(b"desk", b"MSFT") is None
    True
    """

    def __cinit__(self, Region region not None):
        cdef uint64_t ring_size = 0
        cdef uint64_t index_size = 0
        cdef uint64_t book_size = 0
        cdef char *book
        cdef log_constants_t *constants
        self.region = region
        self.log.control = <log_control_t *>region.control()
        self.log.ring = <unsigned char *>region.section(SECTION_RING, &ring_size)
        self.log.slots = <uint64_t *>region.section(SECTION_INDEX, &index_size)
        self.log.pid = getpid()
        self.forks = region.forks
        self.forks_at_mapping = region.forks_at_mapping
        self.log.capacity = ring_size
        self.log.slot_count = index_size // sizeof(uint64_t)
        self.log.generation = region.region.header.generation
        book = region.section_if_any(SECTION_BOOK, &book_size)
        self.log.book = book_of(book, book_size)
        constants = &self.log.control.constants
        if (constants.crc != log_constants_crc(constants) or constants.generation != self.log.generation
                or constants.capacity != ring_size or constants.slot_count != self.log.slot_count
                or not log_sizes_fit(ring_size, self.log.slot_count)):
            raise LogDamaged(
                f"{region.path} has a log of {constants.capacity} bytes, {constants.slot_count} slots, generation "
                f"{constants.generation} (checksum {constants.crc:08x}); its header says {ring_size}, "
                f"{self.log.slot_count}, {self.log.generation}"
            )
        if not mutex_is_sound(&self.log.control.writer) or not mutex_is_sound(&self.log.control.flusher):
            raise LogDamaged(f"{region.path}: a mutex of the log is damaged")
        if not log_words_are_sound(&self.log):
            raise self.damage("its words contradict each other")

    @staticmethod
    def sections(uint64_t capacity, uint64_t slot_count):
        """Return the sections a region needs for a log.

        Parameters
        ----------
        capacity : int
            Bytes of the ring, a power of two from 4 KiB to 4 GiB.
        slot_count : int
            Slots of the index of unflushed keys, a power of two; capacity / 128 has few collisions.
        """
        if not log_sizes_fit(capacity, slot_count):
            raise ValueError(
                f"capacity must be a power of two from 4096 to 2**32 and slot_count one from 1, "
                f"were {capacity} and {slot_count}"
            )
        return [(SECTION_INDEX, slot_count * sizeof(uint64_t), False), (SECTION_RING, capacity, True)]

    @staticmethod
    def create(Region region not None, *, uint64_t first_sequence=1, int64_t clock=0, bint simulated=False):
        """Make an empty log in a region that is not published yet, and return it.

        Parameters
        ----------
        first_sequence : int
            Low bits of the first version.
        clock : int
            The time of a `simulated` clock, else what is added to the boot clock; ns.
        """
        cdef uint64_t ring_size = 0
        cdef uint64_t index_size = 0
        cdef log_control_t *control = <log_control_t *>region.control()
        region.section(SECTION_RING, &ring_size)
        region.section(SECTION_INDEX, &index_size)
        if region.generation >= 1 << 20:
            raise ValueError(f"generation must be below 2**20, was {region.generation}")
        if not 0 < first_sequence <= <uint64_t>1 << 44:
            raise ValueError(f"first_sequence must be from 1 to 2**44, was {first_sequence}")
        if control.constants.magic != 0:
            raise ValueError("there is a log in this region already")
        if log_control_create(
            control, ring_size, index_size // sizeof(uint64_t), region.region.header.generation, first_sequence
        ):
            raise OSError("the system has no robust mutexes")
        control.clock.at = control.clock.told = clock
        control.clock.simulated = simulated
        return Log(region)

    cdef object damage(self, str what):
        cdef log_control_t *control = self.log.control
        return LogDamaged(
            f"the log in {self.region.path} is damaged: {what} (flushed {control.flushed.word}, committed "
            f"{control.committed.word}, reserved {control.reserved.word}, next sequence "
            f"{control.next_sequence.word}, capacity {self.log.capacity})"
        )

    # ---- writing ----

    def append(
        self, records, double timeout=5.0, *, uint64_t snapshot=0, int64_t now=0, uint64_t epoch=LOG_ANY_EPOCH,
        double max_lag=0, bint locked=False, Claim fence=None, bint shows=False
    ):
        """Commit records as one group: all of them or none.

        Parameters
        ----------
        records : sequence of tuple
            ``(kind, flags, namespace, key, writer, value, ts_event, ts_known, expires_at)``; names are bytes, the value
            bytes-like, times int64 (``expires_at`` 0: never). With a condition three more: ``if_version``, which the
            key must have (0: it must not exist; None: no matter), ``stored_version``, which it has in the disk snapshot
            (0: none), and whether that is about the newest version there is, be it a deletion or expired, rather than
            the one that is served. Conditions are about the state before the group.
        timeout : float
            Seconds to wait for the mutex and for room.
        snapshot : int
            The disk snapshot has everything before this position.
        now : int
            The store's time, noted in the group. Records that expire by then count as absent in conditions; 0: none
            expires.
        epoch : int
            Of the rules by which the records were made; by default whatever it is.
        max_lag : float
            Wait, too, while the oldest change that is not on disk is older than so many seconds; 0: any age will do.
        locked : bool
            This thread has the log by :meth:`lock`.
        fence : Claim, optional
            The lease under which it is written.
        shows : bool
            There are positions among them, which the book is to show when they are committed.

        Returns
        -------
        int
            Version of the first record; the others follow it. Waiting until ``flushed`` reaches what ``committed``
            says afterwards is waiting for this group to be on disk.

        Raises
        ------
        Conflict, LookAgain
            A condition does not hold, or the snapshot is too old to tell.
        WriterStalled, LogFull
            Nothing was written in `timeout`.
        Trouble, NewRules, StaleLease
            The flusher cannot go on; the epoch is another; the lease is not current.
        ValueTooLarge
            A value is over an eighth of the log, or the group over half of it.
        LogDamaged
            The words of the log contradict each other.

        Notes
        -----
        **Complexity**: O(bytes). The GIL is kept, unless there is something to wait for or much to copy.
        """
        cdef Batch batch = Batch.__new__(Batch, tuple(records))
        self.place(batch, False)
        batch.append.snapshot = snapshot
        batch.append.now = now
        batch.append.epoch = epoch
        batch.append.max_lag = lag_ns(max_lag)
        batch.append.shows = shows
        if fence is not None:
            batch.append.fence, batch.append.fence_number, batch.append.fencing = fence.word, fence.number, fence.mark
        if locked:
            self.run_locked(&batch.append)
        else:
            self.run(&batch.append, timeout)
        return batch.append.first_version

    def append_each(self, records, double timeout=5.0):
        """Commit records as groups of their own, in order; return the version of the first.

        The GIL is released throughout. Others may write in between. On an error, what came before it is committed.
        """
        cdef Batch batch = Batch.__new__(Batch, tuple(records))
        cdef log_append_t one
        cdef size_t i, done = 0
        cdef size_t[2] heads
        cdef uint64_t first = 0
        cdef log_append_outcome outcome = APPEND_DONE
        self.place(batch, True)
        for i in range(batch.append.count):
            if batch.append.drafts[i].conditional:
                raise ValueError("append_each takes no conditions")
        while done < batch.append.count:
            self.check_not_shut()
            self.appending += 1
            with nogil:
                while done < batch.append.count:
                    memset(&one, 0, sizeof(one))
                    heads[0] = heads[1] = 0
                    one.drafts = batch.append.drafts + done
                    one.count = 1
                    one.epoch = LOG_ANY_EPOCH
                    append_place(&self.log, &one, heads, 2)
                    outcome = log_append(&self.log, &one, 0)
                    if outcome != APPEND_DONE:
                        break
                    first = first or one.first_version
                    done += 1
            self.appending -= 1
            if outcome != APPEND_DONE:
                self.run(&one, timeout)
                first = first or one.first_version
                done += 1
        return first

    cdef int place(self, Batch batch, bint each) except -1:
        cdef log_append_t *append = &batch.append
        cdef size_t[2] few
        cdef size_t *heads = few
        cdef size_t head_count = 2
        cdef size_t i
        cdef uint64_t group = sizeof(log_group_t)
        self.check_process()
        for i in range(append.count):
            if append.drafts[i].record.value_size > log_value_limit(&self.log):
                raise ValueTooLarge(
                    f"the value of record {i} has {append.drafts[i].record.value_size} bytes, over an eighth of the "
                    f"log's {self.log.capacity}; open the store with a larger log"
                )
            group += record_bytes(&append.drafts[i].record)
            if group > log_group_limit(&self.log):
                raise ValueTooLarge(
                    f"{i + 1} of {append.count} records make a group of {group} bytes, over half of the log's "
                    f"{self.log.capacity}; write fewer at once or open the store with a larger log"
                )
            if each:
                group = sizeof(log_group_t)
        if each:
            return 0
        few[0] = few[1] = 0
        if append.count > 1:
            while head_count < 2 * append.count:
                head_count *= 2
            heads = <size_t *>calloc(head_count, sizeof(size_t))
            if heads == NULL:
                raise MemoryError(f"no memory for {append.count} records")
        append_place(&self.log, append, heads, head_count)
        if heads != few:
            free(heads)
        return 0

    cdef int run(self, log_append_t *append, double timeout) except -1:
        cdef log_append_outcome outcome
        cdef uint64_t wait_ns
        cdef object deadline = None
        self.check_not_shut()
        if append.bytes < LARGE:
            outcome = log_append(&self.log, append, 0)
        else:
            outcome = self.append_without_gil(append, 0)
        while outcome == APPEND_BUSY or outcome == APPEND_NO_ROOM:
            if deadline is None:
                deadline = deadline_of(timeout)
            PyErr_CheckSignals()
            wait_ns = slice_until(deadline)
            if wait_ns == 0:
                break
            self.check_not_shut()
            outcome = self.append_without_gil(append, wait_ns)
        if outcome == APPEND_DONE:
            return 0
        raise self.refusal(outcome, append, timeout)

    cdef int check_not_shut(self) except -1:
        if self.is_shut:
            raise LogShut("this process has shut the log")
        return 0

    cdef log_append_outcome append_without_gil(self, log_append_t *append, uint64_t wait_ns) noexcept:
        cdef log_append_outcome outcome
        self.appending += 1
        with nogil:
            outcome = log_append(&self.log, append, wait_ns)
        self.appending -= 1
        return outcome

    cdef int run_locked(self, log_append_t *append) except -1:
        cdef log_append_outcome outcome
        append.epoch = LOG_ANY_EPOCH
        if self.owner != PyThread_get_thread_ident():
            raise ValueError("locked=True is for a thread that has locked the log")
        outcome = append_announced_locked(&self.log, append)
        if outcome != APPEND_DONE:
            raise self.refusal(outcome, append, 0)
        return 0

    def lock(self, double timeout):
        """Keep all writers out until :meth:`unlock`, which the same thread is to call; readers go on.

        Raises :class:`WriterStalled`, :class:`LogDamaged`.
        """
        cdef log_append_outcome outcome = APPEND_BUSY
        cdef uint64_t wait_ns
        self.check_process()
        deadline = deadline_of(timeout)
        while outcome == APPEND_BUSY:
            PyErr_CheckSignals()
            wait_ns = slice_until(deadline)
            if wait_ns == 0:
                raise WriterStalled(mutex_holder(&self.log.control.writer), timeout)
            with nogil:
                outcome = log_take(&self.log, wait_ns)
            if outcome == APPEND_DONE:
                self.owner = PyThread_get_thread_ident()
        if outcome != APPEND_DONE:
            raise self.damage("a writer found its words or its mutex unusable")

    def unlock(self):
        """Let writers go on; nothing to do if this thread has not locked the log."""
        self.check_process()
        if self.owner == PyThread_get_thread_ident():
            self.owner = 0
            fence_clear_locked(&self.log)
            log_release(&self.log)

    def admit(self, Claim fence not None):
        """Let what is written past the log until :meth:`unlock` be written under a lease; between lock and unlock.

        Raises :class:`StaleLease` if it is not current.
        """
        self.check_process()
        if fence_mark_locked(&self.log, fence.word, fence.number, fence.mark) != APPEND_DONE:
            raise StaleLease(f"the lease {fence.number} is not current")

    def raise_barrier(self):
        """Make readers ask the disk for all there is now; between lock and unlock.

        Raises ``ValueError`` unless everything is on disk.
        """
        cdef log_control_t *control = self.log.control
        self.check_process()
        if word_acquire(&control.flushed.word) != word_acquire(&control.committed.word):
            raise ValueError(f"only {self.flushed} of {self.committed} bytes are on disk")
        word_raise(&control.barrier.word, word_acquire(&control.committed.word))

    def raise_floor(self):
        """Let nobody serve from the hot table what was seen until now; between lock and unlock."""
        self.check_process()
        word_raise(&self.log.control.floor.word, word_acquire(&self.log.control.committed.word) + 1)

    def raise_epoch(self):
        """Make writers look at the rules again, which have changed; between lock and unlock."""
        self.check_process()
        word_raise(&self.log.control.epoch.word, word_acquire(&self.log.control.epoch.word) + 1)

    def shut(self):
        """Let no thread of this process append any more; those in the middle of it, or that have it locked, end."""
        cdef unsigned long me = PyThread_get_thread_ident()
        self.is_shut = True
        while self.appending or (self.owner != 0 and self.owner != me):
            time.sleep(0.0002)

    def skip_sequences(self, uint64_t count):
        """Take so many versions for changes that go to disk past the log; return the first. Between lock and unlock."""
        cdef uint64_t *word = &self.log.control.next_sequence.word
        cdef uint64_t first = word_acquire(word)
        self.check_process()
        if count > (<uint64_t>1 << 44) - first:
            raise OverflowError(f"generation {self.log.generation} has no versions left; close and open the store")
        word_raise(word, first + count)
        return first

    cdef object refusal(self, log_append_outcome outcome, const log_append_t *append, double timeout):
        if outcome == APPEND_CONFLICT:
            return Conflict(append.conflict, append.conflict_version)
        if outcome == APPEND_LOOK_AGAIN:
            return LookAgain(f"the snapshot has everything before {append.snapshot}, the log only from {self.begin}")
        if outcome == APPEND_BUSY:
            return WriterStalled(mutex_holder(&self.log.control.writer), timeout)
        if outcome == APPEND_NO_ROOM:
            return LogFull(
                f"no room for {append.bytes} bytes in {timeout:g} s: {self.committed - self.flushed} of "
                f"{self.log.capacity} are not on disk yet; the flusher is too far behind"
            )
        if outcome == APPEND_TROUBLE:
            trouble = self.trouble
            if trouble is None:
                return LogFull("the flusher could not go on, and now can; write again")
            return Trouble(*trouble)
        if outcome == APPEND_STALE:
            return StaleLease(f"the lease {append.fence_number} is not current")
        if outcome == APPEND_NEW_RULES:
            return NewRules(f"the epoch is {self.epoch}")
        if outcome == APPEND_EXHAUSTED:
            return OverflowError(f"generation {self.log.generation} has no versions left; close and open the store")
        return self.damage("a writer found its words or its mutex unusable")

    # ---- reading ----

    def get(self, bytes namespace not None, bytes key not None):
        """Return the newest unflushed record of a key, be it a deletion, or None.

        None means: ask the disk, with a snapshot begun after this call. The GIL is kept.

        Notes
        -----
        **Complexity**: O(1 + keys in the slot + bytes); no lock, no wait.
        """
        cdef whole_key_t wanted
        cdef log_record_t header
        cdef uint64_t position = 0
        cdef log_find_outcome outcome
        self.check_process()
        key_fill(&wanted, namespace, key)
        outcome = log_find(&self.log, &wanted, log_limit(&self.log), &position, &header)
        if outcome == LOG_FOUND:
            return self.copy_record(namespace, key, position, &header)
        if outcome == LOG_DAMAGED:
            raise self.damage(f"the index leads {key!r} to bytes that are no record")
        return None

    def get_many(self, keys, *, uint64_t snapshot):
        """Return, of one moment, the newest unflushed record of each key, or None where the snapshot has the answer.

        Parameters
        ----------
        keys : sequence of (bytes, bytes)
            Namespace and key.
        snapshot : int
            ``flushed`` as a disk snapshot has it that was begun before this call.

        Raises
        ------
        LookAgain
            The log went on so far meanwhile that log and snapshot have a gap between them.
        """
        cdef tuple held = tuple(keys)
        cdef size_t count = len(held)
        cdef size_t i
        cdef uint64_t limit, position = 0
        cdef whole_key_t wanted
        cdef log_record_t header
        cdef log_find_outcome outcome
        cdef bytes namespace, key
        cdef list found = []
        self.check_process()
        limit = log_limit(&self.log)
        for i in range(count):
            namespace, key = held[i]
            if namespace is None or key is None:
                raise TypeError("namespace and key must be bytes, one was None")
            key_fill(&wanted, namespace, key)
            outcome = log_find(&self.log, &wanted, limit, &position, &header)
            if outcome == LOG_DAMAGED:
                raise self.damage(f"the index leads {key!r} to bytes that are no record")
            if outcome == LOG_FOUND and position >= snapshot:
                found.append(self.copy_record(namespace, key, position, &header))
            else:
                found.append(None)  # also for what the log still has of before the snapshot: one side answers, not both
        if log_bound(&self.log) > snapshot:
            raise LookAgain(f"the snapshot has everything before {snapshot}, the log only from {self.begin}")
        return found

    cdef Record copy_record(self, bytes namespace, bytes key, uint64_t position, const log_record_t *header):
        """None if it was overwritten meanwhile: then it is on disk."""
        cdef Record record = record_make(header, namespace, key)
        cdef uint64_t at = position + sizeof(log_record_t) + header.namespace_size + header.key_size
        record.writer = PyBytes_FromStringAndSize(NULL, header.writer_size)
        record.value = PyBytes_FromStringAndSize(NULL, header.value_size)
        log_copy(&self.log, at, PyBytes_AS_STRING(record.writer), header.writer_size)
        log_copy(&self.log, at + header.writer_size, PyBytes_AS_STRING(record.value), header.value_size)
        return None if log_is_behind(&self.log, position) else record

    # ---- following and flushing ----

    def read_groups(self, uint64_t position, size_t max_bytes=1 << 20):
        """Return whole groups from `position` on, and where the next one begins.

        Parameters
        ----------
        position : int
            Where a group begins: ``flushed``, or what this method returned.
        max_bytes : int
            About how many bytes of the log to read; always one group at least, if there is one.

        Returns
        -------
        list of list of Record, int

        Raises
        ------
        Overwritten
            The log does not go back to `position` any more.
        LogDamaged
            No sound group begins there.
        """
        cdef uint64_t group_bytes = 0
        cdef size_t used = 0
        cdef size_t room
        cdef log_group_outcome outcome
        cdef unsigned char *buffer
        cdef list groups = []
        self.check_process()
        room = min(max(max_bytes, <size_t>4096), <size_t>self.log.capacity)
        buffer = <unsigned char *>malloc(room)
        try:
            while True:
                if buffer == NULL:
                    raise MemoryError(f"no memory for {room} bytes of the log")
                with nogil:
                    outcome = log_group_copy(&self.log, position, buffer, room, &group_bytes)
                if outcome == GROUP_TOO_LARGE and not groups:
                    free(buffer)
                    room = group_bytes
                    buffer = <unsigned char *>malloc(room)
                    continue
                if outcome == GROUP_OVERWRITTEN:
                    raise Overwritten(f"the log goes back to {self.begin}, not to {position}")
                if outcome == GROUP_DAMAGED:
                    raise self.damage(f"no sound group begins at {position}")
                if outcome != GROUP_COPIED or (groups and used + group_bytes > max_bytes):
                    return groups, position
                groups.append(group_records(buffer))
                used += group_bytes
                position += group_bytes
        finally:
            free(buffer)

    def advance_flushed(self, uint64_t position, uint64_t sequence=0):
        """Note that everything before `position`, where a group ends, is on disk; who waits for that goes on.

        `sequence` is the low bits of the last version before it.

        Raises
        ------
        ValueError
            It is beyond ``committed``, before ``flushed``, or inside a group.
        """
        cdef log_advance_outcome outcome
        self.check_process()
        outcome = log_advance(&self.log, position, sequence)
        if outcome == ADVANCE_DONE:
            return
        what = "no group ends there"
        if outcome == ADVANCE_BACKWARDS:
            what = f"flushed is at {self.flushed} already"
        elif outcome == ADVANCE_BEYOND:
            what = f"committed is at {self.committed}"
        raise ValueError(f"flushed cannot become {position}: {what}")

    def wait_flushed(self, uint64_t position, double timeout):
        """Wait until everything before `position` is on disk; return whether it is after `timeout` seconds."""
        cdef log_control_t *control = self.log.control
        return self.wait(&control.flushed.word, &control.flush_news.word, position, timeout) >= position

    def note_sequence(self, uint64_t sequence):
        """Note that versions up to this one are on disk."""
        self.check_process()
        word_raise(&self.log.control.flushed_sequence.word, sequence)

    def want_flushed(self, uint64_t position):
        """Let the flusher know that somebody waits for everything before `position` to be on disk."""
        self.check_process()
        log_want(&self.log, position)

    def wait_sequence(self, uint64_t sequence, double timeout):
        """Wait until the version with these low bits is on disk; return whether it is after `timeout` seconds."""
        cdef log_control_t *control = self.log.control
        return self.wait(&control.flushed_sequence.word, &control.flush_news.word, sequence, timeout) >= sequence

    def wait_committed(self, uint64_t position, double timeout):
        """Wait until something is committed beyond `position`; return ``committed`` after `timeout` seconds at most."""
        cdef log_control_t *control = self.log.control
        return self.wait(&control.committed.word, &control.commit_news.word, position + 1, timeout)

    cdef uint64_t wait(self, uint64_t *word, uint32_t *news, uint64_t target, double timeout) except? 0:
        cdef uint64_t reached, wait_ns
        self.check_process()
        reached = word_acquire(word)
        if reached >= target:
            return reached
        deadline = deadline_of(timeout)
        while reached < target:
            PyErr_CheckSignals()
            wait_ns = slice_until(deadline)
            if wait_ns == 0:
                break
            with nogil:
                reached = log_wait(word, news, target, wait_ns)
        return reached

    # ---- where it is ----

    @property
    def committed(self):
        """Where the newest committed group ends."""
        self.check_process()
        return word_acquire(&self.log.control.committed.word)

    @property
    def flushed(self):
        """Everything before is on disk."""
        self.check_process()
        return word_acquire(&self.log.control.flushed.word)

    @property
    def is_gone(self):
        """Whether nobody is to join the region any more: its name is taken away."""
        self.check_process()
        return word_acquire(&self.log.control.gone.word) != 0

    def leave(self):
        """Let nobody join the region any more; for who is alone, before its name is taken away."""
        self.check_process()
        word_raise(&self.log.control.gone.word, 1)

    @property
    def flushed_sequence(self):
        """Low bits of the newest version that is on disk."""
        self.check_process()
        return word_acquire(&self.log.control.flushed_sequence.word)

    @property
    def begin(self):
        """Everything before may be being overwritten."""
        self.check_process()
        return log_begin(&self.log)

    @property
    def barrier(self):
        """Everything before is to be read from the disk."""
        self.check_process()
        return word_acquire(&self.log.control.barrier.word)

    @property
    def epoch(self):
        """Of the rules for writers."""
        self.check_process()
        return word_acquire(&self.log.control.epoch.word)

    @property
    def lag(self):
        """Seconds since the oldest change that is not on disk; 0.0: all are. Steps of some 4 ms."""
        cdef log_control_t *control = self.log.control
        cdef uint64_t oldest, now
        self.check_process()
        if word_acquire(&control.flushed.word) == word_acquire(&control.committed.word):
            return 0.0
        oldest = word_acquire(&control.oldest.word)
        now = coarse_ns()
        return (now - oldest) / 1e9 if now > oldest else 0.0

    @property
    def trouble(self):
        """Why the flusher cannot go on, as (kind, code), or None."""
        cdef uint64_t word
        self.check_process()
        word = word_acquire(<const uint64_t *>&self.log.control.trouble)  # both halves at once
        return None if <uint32_t>word == 0 else (<uint32_t>word, <int32_t>(word >> 32))

    @property
    def leader(self):
        """Process that flushes; 0: none yet."""
        self.check_process()
        return word32_acquire(&self.log.control.leader.pid)

    # ---- the store's clock ----

    @property
    def clock(self):
        """Whether it is simulated, and its time or else what is added to the boot clock; ns."""
        self.check_process()
        cdef log_clock_t *clock = &self.log.control.clock
        return bool(clock.simulated), <int64_t>word_acquire(<const uint64_t *>&clock.at)

    def now(self):
        """Return the store's time, int ns UTC."""
        self.check_process()
        return log_now(&self.log)

    def set_clock(self, int64_t at):
        """Move a simulated clock's time, or the offset of the system's, forward; return whether it is there now."""
        self.check_process()
        return bool(log_set_clock(&self.log, at))

    @property
    def next_sequence(self):
        """Low bits of the next version."""
        self.check_process()
        return word_acquire(&self.log.control.next_sequence.word)

    @property
    def value_limit(self):
        """Bytes that a value may have at most: an eighth of the ring."""
        return log_value_limit(&self.log)

    @property
    def capacity(self):
        """Bytes of the ring."""
        return self.log.capacity
