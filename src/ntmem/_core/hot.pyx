"""A lossy cache in shared memory: read without a lock by every thread and process, never older than the log allows.

Layout
------
``head`` (sizes) | stripes, each: words, lock, two rings' words, buckets of seven slots, arenas. ``hot.h`` is reading,
``hot_write.h`` changing; ``docs/design/hot.md`` has the why.

Invariants
----------
1. A reader takes no lock and waits for nobody (I5); what may have been overwritten while it copied is a miss.
2. Nothing older than a stripe's floor is returned, and nothing is promoted that was looked for before a change (I4).
3. Slots are changed by single stores; bytes are overwritten only after the sequence has told readers.
4. A stripe whose lock's owner died is emptied, not repaired.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport getpid

from ntmem._core.region cimport Region


cdef extern from "hot_write.h" nogil:
    enum:
        HOT_MAGIC
        HOT_HIT
        HOT_MISS
        HOT_AGAIN
        HOT_PUT
        HOT_BUSY
        HOT_TOO_LARGE
        HOT_CHANGED
        HOT_OLDER

    ctypedef struct hot_record_t:
        uint32_t value_size
        uint64_t version, leaves_at
        int64_t expires_at

    ctypedef struct hot_bucket_t:
        pass

    ctypedef struct hot_stripe_t:
        uint64_t sequence, floor, changes, entries, live

    ctypedef struct hot_head_t:
        uint64_t magic, stripe_count, bucket_count, arena_size, stripe_size, max_entries

    ctypedef struct hot_t:
        char *stripes
        uint64_t stripe_count, bucket_count, arena_size, stripe_size, max_entries
        uint32_t pid

    ctypedef struct hot_key_t:
        const unsigned char *space
        const unsigned char *key
        uint32_t space_size, key_size
        uint64_t hash

    ctypedef struct hot_found_t:
        hot_record_t record

    uint64_t keyhash(const unsigned char *space, size_t space_size, const unsigned char *key, size_t size) noexcept
    uint64_t hot_stripe_bytes(uint64_t bucket_count, uint64_t arena_size) noexcept
    int hot_create(hot_t *hot) noexcept
    hot_stripe_t *hot_stripe(const hot_t *hot, uint64_t hash) noexcept
    int hot_find(const hot_t *hot, const hot_key_t *key, hot_found_t *found) noexcept
    const unsigned char *hot_value(const hot_t *hot, const hot_found_t *found) noexcept
    bint hot_is_unchanged(const hot_found_t *found) noexcept
    void hot_touch(const hot_found_t *found) noexcept
    uint64_t hot_changes(const hot_t *hot, uint64_t hash) noexcept
    bint hot_take(const hot_t *hot, hot_stripe_t *stripe, uint64_t wait_ns) noexcept
    void hot_release(hot_stripe_t *stripe) noexcept
    void hot_raise_floor(hot_stripe_t *stripe, uint64_t version) noexcept
    void hot_empty_locked(const hot_t *hot, hot_stripe_t *stripe) noexcept
    void hot_forget_locked(const hot_t *hot, hot_stripe_t *stripe, const hot_key_t *key) noexcept
    int hot_put_locked(
        const hot_t *hot, hot_stripe_t *stripe, const hot_key_t *key, const unsigned char *value, uint32_t value_size,
        uint64_t version, int64_t expires_at, uint64_t leaves_at
    ) noexcept
    int hot_promote(
        const hot_t *hot, const hot_key_t *key, const unsigned char *value, uint32_t value_size, uint64_t version,
        int64_t expires_at, uint64_t leaves_at, uint64_t changes
    ) noexcept
    void bytes_copy(void *to, const void *source, size_t size) noexcept


cdef enum:
    SECTION_HOT = 3
    STRIPES = 64
    ATTEMPTS = 2            # of a reader, before it is a miss
    PATIENCE_NS = 20_000    # of a writer; then it raises the floor
    LEAST_ARENA = 8192


cdef uint64_t power_of_two(uint64_t least) noexcept:
    cdef uint64_t found = 1
    while found < least:
        found *= 2
    return found


cdef hot_head_t head_of(uint64_t max_bytes, uint64_t max_entries):
    """The sizes of a table: hashes are uneven, so a stripe has a quarter more than its share of entries, and half as
    many slots again."""
    cdef hot_head_t head
    memset(&head, 0, sizeof(head))
    head.magic = HOT_MAGIC
    head.stripe_count = STRIPES
    while head.stripe_count > 1 and max_bytes // head.stripe_count < 4 * LEAST_ARENA:
        head.stripe_count //= 2
    head.arena_size = max(max_bytes // head.stripe_count, <uint64_t>LEAST_ARENA) // 64 * 64
    head.max_entries = max(max_entries * 5 // (4 * head.stripe_count), <uint64_t>1)
    head.bucket_count = power_of_two(head.max_entries * 3 // (2 * 7) + 1)
    head.stripe_size = hot_stripe_bytes(head.bucket_count, head.arena_size)
    return head


cdef inline int key_fill(hot_key_t *wanted, bytes namespace, bytes key) except -1:
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
        With the section of :meth:`sections`, made ready by :meth:`create`.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region. **Complexity**:
    O(1) and the bytes of a value; a put looks at 8 KiB of records at most to make room.

    Examples
    --------
    >>> from ntmem._core.region import Region
    >>> region = Region.create(None, identity=b"", generation=0, sections=HotTable.sections(1 << 20, 1000))
    >>> hot = HotTable.create(region, 1 << 20, 1000)
    >>> hot.put(b"desk", b"AAPL", b"42", 7)
    True
    >>> hot.get(b"desk", b"AAPL"), hot.get(b"desk", b"MSFT")
    (b'42', None)
    """

    cdef readonly Region region
    cdef hot_t hot

    def __cinit__(self, Region region not None):
        cdef uint64_t size = 0
        cdef hot_head_t *head = <hot_head_t *>region.section(SECTION_HOT, &size)
        cdef hot_t *hot = &self.hot
        self.region = region
        hot.stripes = <char *>head + sizeof(hot_head_t)
        hot.pid = getpid()
        hot.stripe_count = head.stripe_count
        hot.bucket_count = head.bucket_count
        hot.arena_size = head.arena_size
        hot.stripe_size = head.stripe_size
        hot.max_entries = head.max_entries
        if (head.magic != HOT_MAGIC or hot.stripe_count != power_of_two(hot.stripe_count)
                or hot.bucket_count != power_of_two(hot.bucket_count) or hot.arena_size < LEAST_ARENA
                or hot.arena_size > 1 << 34 or hot.bucket_count > 1 << 28 or hot.stripe_count > 1 << 16
                or hot.stripe_size < hot_stripe_bytes(hot.bucket_count, hot.arena_size)
                or hot.stripe_count * hot.stripe_size + sizeof(hot_head_t) > size):
            raise ValueError(f"{region.path} has no sound hot table")

    @staticmethod
    def sections(uint64_t max_bytes, uint64_t max_entries):
        """Return the section a region needs for a table of so many bytes of records and so many entries."""
        cdef hot_head_t head = head_of(max_bytes, max_entries)
        return [(SECTION_HOT, sizeof(hot_head_t) + head.stripe_count * head.stripe_size, False)]

    @staticmethod
    def create(Region region not None, uint64_t max_bytes, uint64_t max_entries):
        """Make an empty table in a region that is not published yet, of the sizes given to :meth:`sections`."""
        cdef HotTable self
        cdef uint64_t size = 0
        cdef hot_head_t *head = <hot_head_t *>region.section(SECTION_HOT, &size)
        cdef hot_head_t wanted = head_of(max_bytes, max_entries)
        if head.magic != 0 or size < sizeof(hot_head_t) + wanted.stripe_count * wanted.stripe_size:
            raise ValueError("the section is too small, or has a table already")
        head[0] = wanted
        self = HotTable(region)
        if hot_create(&self.hot) != 0:
            raise OSError("the system has no robust mutexes")
        return self

    # ---- reading ----

    def get(self, bytes namespace not None, bytes key not None, int64_t now=0):
        """Return a value, or None if the table does not have it or it has expired by `now`."""
        cdef hot_key_t wanted
        cdef hot_found_t found
        cdef object value
        cdef int _
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        for _ in range(ATTEMPTS):
            outcome = hot_find(&self.hot, &wanted, &found)
            if outcome == HOT_AGAIN:
                continue
            if outcome == HOT_MISS or 0 < found.record.expires_at <= now:
                return None
            value = PyBytes_FromStringAndSize(NULL, found.record.value_size)
            bytes_copy(PyBytes_AS_STRING(value), hot_value(&self.hot, &found), found.record.value_size)
            if hot_is_unchanged(&found):
                hot_touch(&found)
                return value
        return None

    def version(self, bytes namespace not None, bytes key not None):
        """Return the version of what the table has of a key; 0: nothing."""
        cdef hot_key_t wanted
        cdef hot_found_t found
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        if hot_find(&self.hot, &wanted, &found) == HOT_HIT and hot_is_unchanged(&found):
            return found.record.version
        return 0

    def changes(self, bytes namespace not None, bytes key not None):
        """Return what :meth:`promote` wants to know; to be asked before one looks for the value elsewhere."""
        cdef hot_key_t wanted
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        return hot_changes(&self.hot, wanted.hash)

    # ---- changing ----

    def put(
        self, bytes namespace not None, bytes key not None, bytes value not None, uint64_t version, int64_t expires_at=0
    ):
        """Put a value that was just written; return whether the table has it.

        It has not if it is too large for it, or has a younger one. What it had is not served any more, either way.
        """
        cdef hot_key_t wanted
        cdef hot_stripe_t *stripe
        cdef int outcome
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        stripe = hot_stripe(&self.hot, wanted.hash)
        if not hot_take(&self.hot, stripe, PATIENCE_NS):
            hot_raise_floor(stripe, version)
            return False
        outcome = hot_put_locked(
            &self.hot, stripe, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value),
            version, expires_at, 0
        )
        hot_release(stripe)
        return outcome == HOT_PUT

    def forget(self, bytes namespace not None, bytes key not None, uint64_t version):
        """Forget a key that is about to have `version`: nothing older of it is served when this returns."""
        cdef hot_key_t wanted
        cdef hot_stripe_t *stripe
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        stripe = hot_stripe(&self.hot, wanted.hash)
        if not hot_take(&self.hot, stripe, PATIENCE_NS):
            hot_raise_floor(stripe, version)
            return
        hot_forget_locked(&self.hot, stripe, &wanted)
        hot_release(stripe)

    def promote(
        self, bytes namespace not None, bytes key not None, bytes value not None, uint64_t version, uint64_t changes,
        int64_t expires_at=0
    ):
        """Put a value that was found elsewhere after :meth:`changes` was asked; return whether it was put."""
        cdef hot_key_t wanted
        self.region.check_process()
        key_fill(&wanted, namespace, key)
        return hot_promote(
            &self.hot, &wanted, <const unsigned char *>PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), version,
            expires_at, 0, changes
        ) == HOT_PUT

    def clear(self):
        """Forget everything."""
        cdef hot_stripe_t *stripe
        cdef uint64_t i
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            stripe = <hot_stripe_t *>(self.hot.stripes + i * self.hot.stripe_size)
            if not hot_take(&self.hot, stripe, PATIENCE_NS):
                hot_raise_floor(stripe, <uint64_t>-1)
                continue
            hot_empty_locked(&self.hot, stripe)
            hot_release(stripe)

    # ---- accounts ----

    def __len__(self):
        return self.sum_of(True)

    @property
    def live_bytes(self):
        """Bytes of the records that can be found."""
        return self.sum_of(False)

    cdef uint64_t sum_of(self, bint entries):
        cdef hot_stripe_t *stripe
        cdef uint64_t i, total = 0
        self.region.check_process()
        for i in range(self.hot.stripe_count):
            stripe = <hot_stripe_t *>(self.hot.stripes + i * self.hot.stripe_size)
            total += stripe.entries if entries else stripe.live
        return total
