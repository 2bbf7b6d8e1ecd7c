"""Leases in shared memory: locks that end by themselves, with numbers that only rise, between threads and processes.

Layout
------
Section 5: words (mutex, the next number, up to which numbers are reserved) | hashes of names | places of those who
wait | slots, one for each name. ``leases.h`` gives every step, ``fence.h`` what a lease is judged by;
``docs/design/locks.md`` has the why.

Invariants
----------
1. A number is granted once, and numbers rise (I8). No number above the limit is granted: the limit is on disk.
2. At most one lease of a name is current; what is written under one is committed before the next is granted.
3. The mutex is held for some ten instructions and never while waiting. Whoever dies with it is repaired by the next.
4. Nobody waits for who does not look: a process that is dead or stopped loses its turn, and its lease when it is over.
5. A wait is without the GIL, and cut into slices after which signals are looked at.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from posix.unistd cimport getpid

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.leases cimport *
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport boot_ns, fence_is_current, mutex_holder, mutex_is_sound, word_acquire
from ntmem._core.logrecords cimport Claim
from ntmem._core.meters cimport METER_LOCK_HOLD, METER_LOCK_WAIT, meters_of, meters_record, meters_t

from ntmem._core.logrecords import LogDamaged, LogShut, WriterStalled

failpoints_join(failpoints_table())


cdef enum:
    SECTION_LEASES = 5
    SLICE_NS = 50_000_000
    PATIENCE_NS = 1_000_000_000  # for the mutex, of who gives up or gives back,
    LOOK_NS = 200_000_000        # and of who only looks


class LeasesFull(RuntimeError):
    """All slots are held or waited for."""


class NumbersUsedUp(RuntimeError):
    """All numbers that are reserved on disk have been granted; reserve more and call again."""


def started(uint32_t pid):
    """Return when a process was started, in clock ticks since boot; None: it is dead."""
    cdef uint64_t start = process_start(pid)
    return None if start == 0 else start


# ---- what is granted --------------------------------------------------------------------------------------------


@cython.final
cdef class Lease(Claim):
    """A lease that was granted to this process, by :meth:`LeaseTable.acquire`. Dropped, it goes on until it is over."""

    cdef uint32_t slot
    cdef readonly bytes name

    cdef LeaseTable of(self):
        if self.table is None:
            raise TypeError("leases come from LeaseTable.acquire()")
        (<LeaseTable>self.table).check_process()
        return <LeaseTable>self.table

    @property
    def is_current(self):
        """Whether it is neither over nor given back."""
        self.of()
        return fence_is_current(self.word, self.number, boot_ns())

    def remaining(self):
        """Return the seconds until it is over; 0.0: it is."""
        self.of()
        cdef uint64_t expires = word_acquire(&self.word.expires)
        cdef uint64_t now = boot_ns()
        return (expires - now) / 1e9 if fence_is_current(self.word, self.number, now) and expires > now else 0.0

    def renew(self, uint64_t ttl):
        """Let it end `ttl` ns from now; return whether it was current."""
        return self.of().renew_at(self.slot, self.number, ttl)

    def release(self):
        """Give it back; return whether it was current."""
        return self.of().release_at(self.slot, self.number)


@cython.final
cdef class Place:
    """A place in the row of those who wait for a lease, for who must not block: look, do something else, look again."""

    cdef LeaseTable table
    cdef bytes name
    cdef bytes owner
    cdef lease_request_t request

    def __init__(self):
        raise TypeError("places come from LeaseTable.queue()")

    def look(self, uint64_t ttl):
        """Return the lease if it can be granted now, else None. Who does not look every 20 ms is passed over."""
        cdef lease_outcome outcome
        if self.table is None:
            raise TypeError("places come from LeaseTable.queue()")
        self.request.ttl = ttl
        outcome = self.table.look(&self.request, True, 0)
        if outcome == LEASE_GRANTED:
            return self.table.granted(&self.request, self.name, self.request.since)
        if outcome == LEASE_HELD or outcome == LEASE_BUSY:
            return None
        raise self.table.refusal(outcome, 0)

    def leave(self):
        """Wait no more."""
        if self.table is None:
            raise TypeError("places come from LeaseTable.queue()")
        self.table.leave(&self.request)


# ---- the table --------------------------------------------------------------------------------------------------


@cython.final
cdef class LeaseTable:
    """The leases of a region.

    Parameters
    ----------
    log : Log
        With the section of :meth:`sections` in its region, made ready by :meth:`create`.

    Raises
    ------
    LogDamaged
        The section is not there, or is none.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region. Times are
    CLOCK_BOOTTIME, which goes on while the machine sleeps.

    Examples
    --------
    >>> from ntmem._core.log import Log
    >>> from ntmem._core.region import Region
    >>> sections = [*Log.sections(1 << 16, 1 << 9), *LeaseTable.sections()]
    >>> region = Region.create(None, identity=b"", generation=1, sections=sections)
    >>> leases = LeaseTable.create(Log.create(region), 1, 1000)
    >>> lease = leases.acquire(b"BTCUSDT", b"me", 10**9)
    >>> lease.number, leases.acquire(b"BTCUSDT", b"another", 10**9, 0.0) is None
    (1, True)
    >>> lease.release(), lease.is_current
    (True, False)
    """

    cdef Log log
    cdef leases_t leases
    cdef meters_t meters

    def __cinit__(self, Log log not None):
        cdef uint64_t size = 0
        cdef lease_table_t *table
        self.log = log
        table = <lease_table_t *>log.region.section(SECTION_LEASES, &size)
        if size != sizeof(lease_table_t) or table.magic != LEASE_MAGIC or not mutex_is_sound(&table.mutex):
            raise LogDamaged(f"{log.region.path} has no table of leases that is whole")
        self.leases.table = table
        self.leases.log = log.log
        self.leases.process.pid = getpid()
        self.leases.process.start = process_start(getpid())
        meters_of(log.region, &self.meters)

    @staticmethod
    def sections():
        """Return the section a region needs for leases."""
        return [(SECTION_LEASES, sizeof(lease_table_t), 0)]

    @staticmethod
    def create(Log log not None, uint64_t first, uint64_t limit):
        """Make an empty table beside a log that is not published yet; numbers from `first` to `limit` are reserved."""
        cdef uint64_t size = 0
        cdef lease_table_t *table = <lease_table_t *>log.region.section(SECTION_LEASES, &size)
        if first == 0:
            raise ValueError("the first number must be 1 or more, was 0")
        if size != sizeof(lease_table_t) or table.magic != 0:
            raise ValueError("there is no room for leases in this region, or there are some already")
        if leases_create(table, first, limit) != 0:
            raise OSError("the system has no robust mutexes")
        return LeaseTable(log)

    cdef inline int check_process(self) except -1:
        return self.log.check_process()

    cdef int aim(self, lease_request_t *request, bytes name, bytes owner, uint64_t ttl) except -1:
        """`request` points into both."""
        if name is None or owner is None or not 0 < PyBytes_GET_SIZE(name) <= LEASE_NAME:
            raise ValueError(f"a name has 1 to {LEASE_NAME} bytes, was {name!r}")
        memset(request, 0, sizeof(request[0]))
        request.name = <const unsigned char *>PyBytes_AS_STRING(name)
        request.name_size = PyBytes_GET_SIZE(name)
        request.owner = <const unsigned char *>PyBytes_AS_STRING(owner)
        request.owner_size = min(PyBytes_GET_SIZE(owner), LEASE_OWNER)
        request.hash = lease_hash(request.name, request.name_size)
        request.ttl = ttl
        return 0

    cdef Lease granted(self, const lease_request_t *request, bytes name, uint64_t begun):
        """`begun`: when it was asked for; 0: just now."""
        cdef Lease lease = Lease.__new__(Lease)
        cdef uint64_t now = boot_ns()
        meters_record(&self.meters, METER_LOCK_WAIT, now - begun if 0 < begun < now else 0)
        lease.table = self
        lease.slot = request.slot
        lease.name = name
        lease.number = request.number
        lease.word = &self.leases.table.slots[request.slot].fence
        lease.mark = <uint64_t>request.slot + 1
        return lease

    cdef object refusal(self, lease_outcome outcome, double seconds):
        if outcome == LEASE_FULL:
            return LeasesFull(f"{LEASE_SLOTS} locks are held or waited for, which is all there is room for")
        if outcome == LEASE_NO_NUMBERS:
            return NumbersUsedUp(f"all numbers up to {self.leases.table.limit} have been granted")
        if outcome == LEASE_BUSY:
            return WriterStalled(
                mutex_holder(&self.leases.table.mutex) or mutex_holder(&self.leases.log.control.writer), seconds
            )
        return LogDamaged(f"the leases in {self.log.region.path} are damaged: a mutex was given up")

    cdef lease_outcome look(self, lease_request_t *request, bint queue, uint64_t wait_ns) except? LEASE_DAMAGED:
        """Looks once, and once more if who holds it turns out to be dead."""
        cdef lease_outcome outcome
        self.check_process()
        if self.log.is_shut:
            raise LogShut("this process has shut the log")
        outcome = lease_try(&self.leases, request, queue, wait_ns)
        if outcome == LEASE_HELD and request.holder.pid != 0 and request.dead != request.number:
            self.log.appending += 1
            with nogil:
                if process_is_dead(&request.holder):
                    request.dead = request.number
                    outcome = lease_try(&self.leases, request, queue, wait_ns)
            self.log.appending -= 1
        return outcome

    cdef int leave(self, lease_request_t *request) except -1:
        if request.place != 0 and self.log.forks_at_mapping == self.log.forks[0]:
            with nogil:
                lease_leave(&self.leases, request, PATIENCE_NS)
        return 0

    # ---- granting ----

    def acquire(self, bytes name not None, bytes owner not None, uint64_t ttl, double timeout=-1.0):
        """Return a lease of `name` when nobody else has one; None: not in `timeout` seconds.

        Parameters
        ----------
        name : bytes
            Of what is locked: 1 to 255 bytes.
        owner : bytes
            What this one calls itself, for lists; 127 bytes of it are kept.
        ttl : int
            Nanoseconds after which the lease ends, unless it is renewed.
        timeout : float
            Seconds to wait; negative: for ever; 0: only look.

        Raises
        ------
        LeasesFull, NumbersUsedUp, LogShut, LogDamaged
            It cannot be granted at all.
        WriterStalled
            The mutex was not to be had, or a write under the lease before this one has not ended, as its process is
            stopped.

        Notes
        -----
        Who began to wait first is granted first, unless it does not look for 20 ms. **Complexity**: O(1); O(slots) for
        a name that was not used before once there have been as many names as slots.
        """
        cdef lease_request_t request
        cdef lease_outcome outcome
        cdef uint64_t begun = boot_ns()
        self.check_process()
        self.aim(&request, name, owner, ttl)
        if self.log.is_shut:
            raise LogShut("this process has shut the log")
        outcome = lease_try(&self.leases, &request, False, 0)
        if outcome != LEASE_GRANTED:
            outcome = self.wait(&request, timeout)
        if outcome == LEASE_GRANTED:
            return self.granted(&request, name, begun)
        if outcome == LEASE_HELD:
            return None
        raise self.refusal(outcome, timeout)

    cdef lease_outcome wait(self, lease_request_t *request, double timeout) except? LEASE_DAMAGED:
        cdef lease_outcome outcome
        cdef uint64_t now = boot_ns()
        cdef uint64_t until = <uint64_t>-1 if timeout < 0 or timeout > 1e9 else now + <uint64_t>(timeout * 1e9)
        cdef uint64_t patience = max(until, now + LOOK_NS)  # with who has the mutex: it is no wait for the lease
        cdef bint called = False
        request.since = now
        try:
            outcome = self.look(request, timeout != 0, 0)
            while outcome == LEASE_HELD or outcome == LEASE_BUSY:
                PyErr_CheckSignals()
                now = boot_ns()
                if now >= (until if outcome == LEASE_HELD else patience):
                    break
                if self.log.is_shut:
                    raise LogShut("this process has shut the log")
                self.log.appending += 1  # who shuts the log waits for those in here, then gives back what is held
                with nogil:
                    if outcome == LEASE_HELD:
                        called = lease_wait(&self.leases, request, until - now)
                        if not called and request.holder.pid != 0 and process_is_dead(&request.holder):
                            request.dead = request.number
                    outcome = lease_try(&self.leases, request, timeout != 0, SLICE_NS)
                self.log.appending -= 1
        finally:
            self.leave(request)
        return outcome

    def queue(self, bytes name not None, bytes owner not None):
        """Return a :class:`Place` in the row of those who wait for `name`, for who must not block."""
        cdef Place place = Place.__new__(Place)
        self.check_process()
        place.table = self
        place.name = name
        place.owner = owner
        self.aim(&place.request, name, owner, 0)
        return place

    def reserve(self, uint64_t limit):
        """Let numbers be granted up to `limit`, which are reserved on disk."""
        cdef lease_outcome outcome
        self.check_process()
        with nogil:
            outcome = leases_take(&self.leases, PATIENCE_NS)
        if outcome != LEASE_GRANTED:
            raise self.refusal(outcome, PATIENCE_NS / 1e9)
        if self.leases.table.limit < limit:
            self.leases.table.limit = limit
        leases_give(&self.leases)

    # ---- holding ----

    cdef bint release_at(self, uint32_t slot, uint64_t number) except -1:
        cdef lease_outcome outcome
        cdef uint64_t granted, now
        self.check_process()
        granted = word_acquire(&self.leases.table.slots[slot].granted)  # while it is this lease's, if it is
        outcome = lease_free(&self.leases, slot, number, 0)
        if outcome == LEASE_BUSY:
            with nogil:
                outcome = lease_free(&self.leases, slot, number, PATIENCE_NS)
        if outcome == LEASE_BUSY or outcome == LEASE_DAMAGED:
            raise self.refusal(outcome, PATIENCE_NS / 1e9)
        if outcome == LEASE_GRANTED:
            now = boot_ns()
            meters_record(&self.meters, METER_LOCK_HOLD, now - granted if granted < now else 0)
        return outcome == LEASE_GRANTED

    cdef bint renew_at(self, uint32_t slot, uint64_t number, uint64_t ttl) except -1:
        cdef lease_outcome outcome
        cdef uint64_t expires = 0
        self.check_process()
        outcome = lease_renew(&self.leases, slot, number, ttl, 0, &expires)
        if outcome == LEASE_BUSY:
            with nogil:
                outcome = lease_renew(&self.leases, slot, number, ttl, PATIENCE_NS, &expires)
        if outcome == LEASE_BUSY or outcome == LEASE_DAMAGED:
            raise self.refusal(outcome, PATIENCE_NS / 1e9)
        return outcome == LEASE_GRANTED

    cdef uint32_t find(self, bytes name, uint64_t number) except? LEASE_SLOTS:
        self.check_process()
        if number == 0:
            return LEASE_SLOTS
        return lease_find(
            self.leases.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), number
        )

    def claim(self, bytes name not None, uint64_t number):
        """Return what the log wants to write under the lease `number` of `name`, or None if it is over for sure."""
        cdef uint32_t slot = self.find(name, number)
        cdef Claim claim
        if slot == LEASE_SLOTS:
            return None
        claim = Claim.__new__(Claim)
        claim.table = self
        claim.number = number
        claim.word = &self.leases.table.slots[slot].fence
        claim.mark = <uint64_t>slot + 1
        return claim

    def release(self, bytes name not None, uint64_t number):
        """Give the lease `number` of `name` back; return whether it was current."""
        cdef uint32_t slot = self.find(name, number)
        return slot != LEASE_SLOTS and self.release_at(slot, number)

    def renew(self, bytes name not None, uint64_t number, uint64_t ttl):
        """Let the lease `number` of `name` end `ttl` ns from now; return whether it was current."""
        cdef uint32_t slot = self.find(name, number)
        return slot != LEASE_SLOTS and self.renew_at(slot, number, ttl)

    def release_all(self):
        """Give back what this process holds."""
        self.check_process()
        with nogil:
            leases_free_all(&self.leases, PATIENCE_NS)

    # ---- looking ----

    def list(self, bytes only=None):
        """Return what is held or waited for, in no order.

        Parameters
        ----------
        only : bytes, optional
            The name that is asked about.

        Returns
        -------
        list of tuple
            ``(name, owner, number, pid, alive, left, held, waiting, grants, waits, waited, longest)``: number 0 is of
            what is free by now and waited for; `alive` whether its process lives; `left` and `held` the nanoseconds
            until it ends (0: it is over) and since it was granted; counts of this name, times in nanoseconds.

        Notes
        -----
        **Complexity**: O(slots), and a question to the kernel for each that is held.
        """
        cdef list found = []
        cdef lease_slot_t *copies
        cdef lease_slot_t *slot
        cdef lease_outcome outcome
        cdef uint64_t now = 0
        cdef const unsigned char *wanted = NULL
        cdef size_t size = 0
        cdef uint32_t i, at, waiting, count = 0, begin = 0, end = LEASE_SLOTS
        self.check_process()
        if only is not None:
            wanted = <const unsigned char *>PyBytes_AS_STRING(only)
            size = PyBytes_GET_SIZE(only)
        copies = <lease_slot_t *>malloc((LEASE_SLOTS if only is None else 1) * sizeof(lease_slot_t))
        try:
            if copies == NULL:
                raise MemoryError("no memory for a list of locks")
            with nogil:
                outcome = leases_take(&self.leases, PATIENCE_NS)
                if outcome == LEASE_GRANTED:
                    now = boot_ns()
                    if wanted != NULL:
                        begin = slot_find(self.leases.table, wanted, size, lease_hash(wanted, size))
                        end = min(begin + 1, <uint32_t>LEASE_SLOTS)
                    for i in range(begin, end):
                        slot = &self.leases.table.slots[i]
                        row_tidy_locked(self.leases.table, slot, now)
                        if slot.fence.number == 0 and slot.first == 0:
                            continue
                        waiting = 0
                        at = slot.first
                        while 0 < at <= LEASE_PLACES and waiting < LEASE_PLACES:
                            waiting += 1
                            at = self.leases.table.places[at - 1].next
                        copies[count] = slot[0]
                        copies[count].first = waiting
                        count += 1
                    leases_give(&self.leases)
            if outcome != LEASE_GRANTED:
                raise self.refusal(outcome, PATIENCE_NS / 1e9)
            for i in range(count):  # Python objects only now: making them may run anything
                slot = &copies[i]
                found.append((
                    PyBytes_FromStringAndSize(<char *>slot.name, min(slot.name_size, LEASE_NAME)),
                    PyBytes_FromStringAndSize(<char *>slot.owner, min(slot.owner_size, LEASE_OWNER)),
                    slot.fence.number, slot.process.pid, not process_is_dead(&slot.process),
                    slot.fence.expires - now if slot.fence.expires > now else 0, now - slot.granted,
                    slot.first, slot.grants, slot.waits, slot.waited, slot.longest,
                ))
        finally:
            free(copies)
        return found

    @property
    def counts(self):
        """Leases that were granted, waited for, and taken from the dead or late; how many are held."""
        cdef lease_table_t *table = self.leases.table
        self.check_process()
        return {"grants": table.grants, "waits": table.waits, "taken": table.taken, "held": table.held}

    @property
    def next_number(self):
        """The number of the next lease."""
        self.check_process()
        return word_acquire(&self.leases.table.next)

    @property
    def limit(self):
        """Up to which numbers are reserved."""
        self.check_process()
        return word_acquire(&self.leases.table.limit)
