"""A lossy cache in shared memory: read without a lock by every thread and process, never older than the log allows.

Layout
------
Section 3: ``head`` (sizes, entries) | blocks of counters, one for each process | stripes: words, lock, words of
two rings. Section 4, whose memory is taken as it is needed: for each stripe buckets of seven slots, and rings.
``hot.h`` is reading, ``hot_write.h`` changing, ``usage.h`` counting; ``docs/design/hot.md`` has the why.

Invariants
----------
1. A reader takes no lock and waits for nobody (I5); what may have been overwritten while it copied is a miss.
2. A record is served only while the log's index has nothing newer of its key than when it was looked for (I1, I4), and
   nothing was done past the log since.
3. Slots are changed by single stores; bytes are overwritten only after the sequence has told readers.
4. A stripe whose lock's owner died is emptied, not repaired.
5. Bytes are touched only when they have memory.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_WriteUnraisable
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.keyhash cimport keyhash, whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.region cimport REGION_SPARSE, Region

failpoints_join(failpoints_table())


cdef enum:
    SECTION_HOT = 3
    SECTION_MEMORY = 4
    STRIPES = 64
    PATIENCE_NS = 1_000_000_000  # of who must have the lock: its owner may be stopped
    LEAST_ARENA = 8192
    LEAST_ENTRIES = 16           # of a stripe on average, as each makes room by itself
    MOST_TOLD = 16 << 20         # bytes of evicted records that wait to be taken

CAUSES = ("entries", "bytes", "collision", "age")
"""Why an entry was evicted: too many of them, too many bytes, fourteen others in its buckets, or its time was over."""


class HotBusy(RuntimeError):
    """The lock of a stripe was not to be had: its owner is stopped."""


cdef uint64_t power_of_two(uint64_t least) noexcept:
    cdef uint64_t found = 1
    while found < least:
        found *= 2
    return found


cdef hot_head_t head_of(uint64_t max_bytes, uint64_t max_entries, uint64_t stripes):
    """The sizes of a table. Hashes are uneven: with two slots or more to an entry hardly one finds two buckets full."""
    cdef hot_head_t head
    memset(&head, 0, sizeof(head))
    head.magic = HOT_MAGIC
    head.stripe_count = stripes
    while head.stripe_count > 1 and (max_bytes // head.stripe_count < 4 * LEAST_ARENA
                                     or max_entries // head.stripe_count < LEAST_ENTRIES):
        head.stripe_count //= 2
    head.arena_size = max(max_bytes // head.stripe_count, <uint64_t>LEAST_ARENA) // 64 * 64
    head.max_entries = max_entries
    head.bucket_count = power_of_two(min(max_entries // head.stripe_count, head.arena_size // 64) * 2 // 7 + 2)
    return head


cdef uint64_t head_size(const hot_head_t *head) noexcept:
    return sizeof(hot_head_t) + USAGE_BLOCKS * sizeof(usage_t) + head.stripe_count * sizeof(hot_stripe_t)


cdef inline int key_fill(whole_key_t *wanted, bytes namespace, bytes key) except -1:
    wanted.space = <const unsigned char *>PyBytes_AS_STRING(namespace)
    wanted.key = <const unsigned char *>PyBytes_AS_STRING(key)
    wanted.space_size = PyBytes_GET_SIZE(namespace)
    wanted.key_size = PyBytes_GET_SIZE(key)
    wanted.hash = keyhash(wanted.space, wanted.space_size, wanted.key, wanted.key_size)
    return 0


@cython.final
cdef class HotTable:
    """The hot table of a region.

    Parameters
    ----------
    region : Region
        With the sections of :meth:`sections`, made ready by :meth:`create`.
    log : Log, optional
        The log in the same region, which knows of newer values. Without one the table is a cache of its own.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region. **Complexity**:
    O(1) and the bytes of a value; a put looks at 8 KiB of records at most to make room.

    Examples
    --------
    >>> from ntmem._core.region import Region
    >>> region = Region.create(None, identity=b"", generation=0, sections=HotTable.sections(1 << 20, 1000))
    >>> hot = HotTable.create(region, 1 << 20, 1000)
    >>> hot.put(b"desk", b"AAPL", b"42")
    True
    >>> hot.get(b"desk", b"AAPL"), hot.get(b"desk", b"MSFT")
    (b'42', None)
    """

    def __cinit__(self, Region region not None, Log log=None):
        cdef uint64_t size = 0
        cdef uint64_t room = 0
        cdef hot_head_t *head = <hot_head_t *>region.section(SECTION_HOT, &size)
        cdef hot_t *hot = &self.hot
        self.region = region
        self.log = log
        hot.head = head
        hot.stripe_count = head.stripe_count
        hot.bucket_count = head.bucket_count
        hot.arena_size = head.arena_size
        hot.max_entries = head.max_entries
        hot.ttl = head.ttl
        hot.memory = region.section(SECTION_MEMORY, &room)
        hot.file_offset = hot.memory - region.region.base
        hot.fd = region.region.fd
        hot.pid = getpid()
        if log is not None:
            hot.index = log.log.slots
            hot.index_mask = log.log.slot_count - 1
            hot.floor = &log.log.control.floor.word
        else:
            hot.floor = &head.floor
        if (head.magic != HOT_MAGIC or not 0 < hot.stripe_count <= HOT_STRIPES
                or not 2 <= hot.bucket_count <= 1 << 26 or hot.bucket_count != power_of_two(hot.bucket_count)
                or not LEAST_ARENA <= hot.arena_size <= 1 << 34 or hot.arena_size % 64 or head_size(head) > size
                or hot.stripe_count * hot_memory_of_stripe(hot.bucket_count, hot.arena_size) > room):
            raise ValueError(f"{region.path} has no sound hot table")
        hot.stripes = <hot_stripe_t *>(<char *>head + sizeof(hot_head_t) + USAGE_BLOCKS * sizeof(usage_t))
        self.sink.most = MOST_TOLD
        self.usage = usage_claim(<usage_t *>(<char *>head + sizeof(hot_head_t)), hot.pid)

    def __dealloc__(self):
        free(self.sink.bytes)

    @staticmethod
    def sections(uint64_t max_bytes, uint64_t max_entries, uint64_t stripes=STRIPES):
        """Return the sections a region needs for a table of so many bytes of records and so many entries.

        Parameters
        ----------
        stripes : int
            At most; each has a lock and an arena of its own. A record is at most an eighth of an arena.
        """
        cdef hot_head_t head
        if not 0 < stripes <= HOT_STRIPES or not 0 < max_entries <= 1 << 32 or not 0 < max_bytes <= 1 << 44:
            raise ValueError(f"there is no table of {max_bytes} bytes, {max_entries} entries and {stripes} stripes")
        head = head_of(max_bytes, max_entries, stripes)
        return [
            (SECTION_HOT, head_size(&head), 0),
            (SECTION_MEMORY, head.stripe_count * hot_memory_of_stripe(head.bucket_count, head.arena_size),
             REGION_SPARSE),
        ]

    @staticmethod
    def create(
        Region region not None, uint64_t max_bytes, uint64_t max_entries, uint64_t stripes=STRIPES, *, uint64_t ttl=0,
        Log log=None
    ):
        """Make an empty table in a region that is not published yet, of the sizes given to :meth:`sections`.

        `ttl`: nanoseconds that an entry may stay; 0: any.
        """
        cdef HotTable self
        cdef uint64_t size = 0
        cdef hot_head_t *head = <hot_head_t *>region.section(SECTION_HOT, &size)
        cdef hot_head_t wanted = head_of(max_bytes, max_entries, stripes)
        if head.magic != 0 or size < head_size(&wanted):
            raise ValueError("the section is too small, or has a table already")
        wanted.ttl = ttl
        head[0] = wanted
        self = HotTable(region, log)
        if hot_create(&self.hot) != 0:
            raise OSError("the system has no robust mutexes")
        return self

    # ---- reading ----

    def get(self, bytes namespace not None, bytes key not None):
        """Return a value, or None if the table does not have it or it has expired by the log's clock."""
        cdef whole_key_t wanted
        cdef hot_found_t found
        cdef bint stale = False
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        value = hot_copy(&self.hot, NULL if self.log is None else &self.log.log, &wanted, &found, &stale)
        usage_add(self.usage, USAGE_ABSENT if value is None else USAGE_HOT, 1)
        return None if value is False else value

    def newest(self, bytes namespace not None, bytes key not None):
        """Return 1 + the position in the log of the newest record of this key or one with a like hash; 0: none."""
        cdef whole_key_t wanted
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        return hot_newest(&self.hot, wanted.hash)

    # ---- changing ----

    def put(self, bytes namespace not None, bytes key not None, bytes value not None, uint64_t ttl=0):
        """Put a value that no log knows of; return whether the table has it now.

        It has not if it is too large for it; what it had of this key is gone either way.

        Parameters
        ----------
        namespace : bytes
            None that the log has.
        ttl : int
            Nanoseconds that it may stay; 0: as long as the table's.

        Raises
        ------
        HotBusy
            A stopped process has the lock; nothing was changed.
        """
        cdef whole_key_t wanted
        cdef hot_stripe_t *stripe
        cdef hot_put_outcome outcome
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        stripe = self.taken(hot_stripe(&self.hot, wanted.hash))
        outcome = hot_put_locked(
            &self.hot, stripe, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value),
            HOT_OWN, 0, hot_leaving(&self.hot, ttl)
        )
        hot_release(stripe)
        self.awaken()
        if outcome == HOT_PUT:
            usage_add(self.usage, USAGE_PROMOTED, 1)
        return outcome == HOT_PUT

    cdef hot_stripe_t *taken(self, hot_stripe_t *stripe) except NULL:
        cdef bint done = hot_take(&self.hot, stripe, 0)
        if not done:
            with nogil:
                done = hot_take(&self.hot, stripe, PATIENCE_NS)
        if not done:
            pid = mutex_holder(&stripe.lock) or "unknown"  # who has just taken it has not said so yet
            raise HotBusy(f"process {pid} has a lock of the cache and is stopped; let it go on")
        return stripe

    def promote(
        self, bytes namespace not None, bytes key not None, bytes value not None, uint64_t seen, int64_t expires_at=0
    ):
        """Put a value that was found in the log or on disk; return whether the table has it now.

        Parameters
        ----------
        seen : int
            Where the log ended before the value was looked for.
        expires_at : int
            By the store's clock, ns; 0: never.
        """
        cdef whole_key_t wanted
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        return self.keep(
            &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), seen, expires_at
        )

    cdef bint keep(
        self, const whole_key_t *wanted, const unsigned char *value, size_t size, uint64_t seen, int64_t expires_at
    ) noexcept:
        cdef bint kept = hot_promote(&self.hot, wanted, value, size, seen, expires_at) == HOT_PUT
        if self.sink.used:
            self.awaken()
        if kept:
            usage_add(self.usage, USAGE_PROMOTED, 1)
        return kept

    def forget(self, bytes namespace not None, bytes key not None):
        """Forget a key; return whether the table had it. Raises :class:`HotBusy`."""
        cdef whole_key_t wanted
        cdef hot_stripe_t *stripe
        cdef bint found
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        stripe = self.taken(hot_stripe(&self.hot, wanted.hash))
        found = hot_forget_locked(&self.hot, stripe, &wanted)
        hot_release(stripe)
        return found

    def raise_floor(self, uint64_t position):
        """Serve nothing any more that was seen only up to a position before this one; see :meth:`Log.raise_floor`."""
        self.region.check_process()
        word_raise(self.hot.floor, position)

    def forget_all(self, bytes namespace not None, bytes prefix not None):
        """Forget the keys of a namespace that begin with `prefix`. Raises :class:`HotBusy`. O(slots)."""
        cdef hot_stripe_t *stripe
        cdef uint64_t i
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            stripe = self.taken(self.hot.stripes + i)
            hot_forget_prefix_locked(
                &self.hot, stripe, <const unsigned char *>PyBytes_AS_STRING(namespace), PyBytes_GET_SIZE(namespace),
                <const unsigned char *>PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix)
            )
            hot_release(stripe)

    def clear(self):
        """Forget everything. Raises :class:`HotBusy`."""
        cdef hot_stripe_t *stripe
        cdef uint64_t i
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            stripe = self.taken(self.hot.stripes + i)
            hot_empty_locked(&self.hot, stripe)
            hot_release(stripe)

    # ---- what was evicted by this process ----

    def listen(self, wake):
        """Keep what this process evicts from now on for :meth:`take_evicted`; None: no longer.

        `wake` is called once there is some, and not again before :meth:`take_evicted`; it is not to use this table.
        """
        self.wake = wake
        self.awake = False
        self.sink.used = 0
        self.hot.sink = NULL if wake is None else &self.sink

    cdef void awaken(self) noexcept:
        if self.sink.used and not self.awake and self.wake is not None:
            self.awake = True
            try:
                self.wake()
            except BaseException:
                PyErr_WriteUnraisable(self)

    def take_evicted(self):
        """Return what this process has evicted since the last call, as (namespace, key, value, cause)."""
        cdef hot_record_t record
        cdef uint32_t cause
        cdef unsigned char *taken = self.sink.bytes  # from here on Python runs, and others may evict
        cdef const char *at = <const char *>taken
        cdef const char *end = at + self.sink.used
        cdef list found = []
        self.sink.bytes = NULL
        self.sink.used = self.sink.room = 0
        self.awake = False
        try:
            while at < end:
                memcpy(&cause, at, sizeof(cause))
                memcpy(&record, at + sizeof(cause), sizeof(record))
                at += sizeof(cause) + sizeof(record)
                namespace = PyBytes_FromStringAndSize(at, record.space_size)
                at += record.space_size
                key = PyBytes_FromStringAndSize(at, record.key_size)
                at += record.key_size
                value = PyBytes_FromStringAndSize(at, record.value_size)
                at += record.value_size
                found.append((namespace, key, value, CAUSES[cause]))
        finally:
            free(taken)
        return found

    @property
    def dropped(self):
        """How many evicted entries were not kept for :meth:`take_evicted`, as too many came at once."""
        return self.sink.dropped

    # ---- accounts ----

    def __len__(self):  # the head's word, which puts ask, may be one off for each process that died while it counted
        cdef uint64_t total = 0, i
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            total += word_relaxed(&self.hot.stripes[i].entries)
        return min(total, self.hot.max_entries)

    @property
    def live_bytes(self):
        """Bytes of the records that can be found."""
        cdef uint64_t i, total = 0
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            total += word_relaxed(&self.hot.stripes[i].live)
        return total

    @property
    def memory_bytes(self):
        """Bytes of shared memory that the table has taken by now."""
        cdef uint64_t i, total
        cdef hot_stripe_t *stripe
        self.region.check_process()
        total = head_size(self.hot.head)
        for i in range(self.hot.stripe_count):
            stripe = &self.hot.stripes[i]
            if word_relaxed(&stripe.state) == 1:
                total += stripe.rings[0].provided + stripe.rings[1].provided
                total += self.hot.bucket_count * sizeof(hot_bucket_t)
        return total

    @property
    def memory_limit(self):
        """Bytes of shared memory that the table takes when it is full."""
        return head_size(self.hot.head) + self.hot.stripe_count * hot_memory_of_stripe(
            self.hot.bucket_count, self.hot.arena_size
        )

    @property
    def limits(self):
        """Bytes and entries that it has at most, and its number of stripes."""
        return self.hot.arena_size * self.hot.stripe_count, self.hot.max_entries, self.hot.stripe_count

    def evictions(self):
        """Return how many entries were evicted, by all processes, by cause."""
        cdef uint64_t i
        cdef int cause
        self.region.check_process()
        counts = dict.fromkeys(CAUSES, 0)
        for i in range(self.hot.stripe_count):
            for cause in range(HOT_CAUSES):
                counts[CAUSES[cause]] += word_relaxed(&self.hot.stripes[i].evicted[cause])
        return counts

    def counts(self):
        """Return what the calls of all processes came to: hot, log, disk, absent, left, promoted, put."""
        cdef usage_t *blocks = <usage_t *>(<char *>self.hot.head + sizeof(hot_head_t))
        cdef int i
        self.region.check_process()
        names = ("hot", "log", "disk", "absent", "left", "promoted", "put")
        return {
            name: sum([word_relaxed(&blocks[i].counts[count]) for i in range(USAGE_BLOCKS)])
            for count, name in enumerate(names)
        }

    def times(self):
        """Return histograms of the native time of gets and puts, by all processes: {call: [(least ns, count), ...]}."""
        cdef usage_t *blocks = <usage_t *>(<char *>self.hot.head + sizeof(hot_head_t))
        cdef int bucket, i, call
        self.region.check_process()
        found = {}
        for call, name in enumerate(("get", "put")):
            sums = []
            for bucket in range(USAGE_BUCKETS):
                count = sum([word_relaxed(&blocks[i].times[call][bucket]) for i in range(USAGE_BLOCKS)])
                if count:
                    sums.append((usage_bucket_ns(bucket), count))
            found[name] = sums
        return found
