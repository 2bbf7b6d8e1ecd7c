"""How often the operations of a store were called, and how long they took, by all its processes.

Layout
------
Section 9: a head (how many shards, operations and buckets) | shards, each with counters for each operation: calls, the
sum of what was measured, a histogram of it with four buckets to each doubling. ``meters.h`` gives every step,
``docs/design/meters.md`` has the why.

Invariants
----------
1. Recording takes no lock, waits for nobody and never fails; whoever dies in it has miscounted one call.
2. Figures never fall, as long as the region lives.
3. Names have fixed numbers. Of a region made by another build only what both know is recorded and read.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from ntmem._core.hot cimport usage_bucket_ns, usage_clock
from ntmem._core.region cimport Region

NAMES = (
    "scan", "commit", "apply_fill", "append", "extend", "recent", "range", "vector_add", "vector_search", "publish",
    "deliver", "lock_wait", "lock_hold", "vote", "flush", "flush_groups", "flush_bytes", "recall", "choose", "judge",
    "distill",
)
(
    SCAN, COMMIT, APPLY_FILL, APPEND, EXTEND, RECENT, RANGE, VECTOR_ADD, VECTOR_SEARCH, PUBLISH, DELIVER, LOCK_WAIT,
    LOCK_HOLD, VOTE, FLUSH, FLUSH_GROUPS, FLUSH_BYTES, RECALL, CHOOSE, JUDGE, DISTILL,
) = tuple(range(len(NAMES)))

if len(NAMES) != METER_OPS:
    raise ImportError("the names of meters are not those of meters.h")


@cython.final
cdef class Meters:
    """The meters of a region; of one that has none, and without a region, those of this object alone.

    Parameters
    ----------
    region : Region, optional
        With the section of :meth:`sections`, made ready by :meth:`create`.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread of any process that has the region. **Complexity**:
    O(1), three additions; :meth:`read` O(shards, operations and buckets).

    Examples
    --------
    >>> meters = Meters()
    >>> meters.record(SCAN, 1000)
    >>> meters.read()["scan"]
    (1, 1000, [(896, 1)])
    """

    cdef object region              # keeps the memory mapped; None: it is this object's own
    cdef meters_head_t *own
    cdef meters_t meters

    def __cinit__(self, Region region=None):
        if region is not None:
            region.check_open()
            meters_of(region, &self.meters)
            self.region = region
        if self.meters.meters == NULL:
            self.region = None
            self.own = <meters_head_t *>calloc(1, meters_size() + 64)
            if self.own == NULL:
                raise MemoryError("no memory for counters")
            meters_create(aligned(self.own))
            meters_open(&self.meters, aligned(self.own), meters_size())

    def __dealloc__(self):
        free(self.own)

    @staticmethod
    def sections():
        """Return the section a region needs for meters."""
        return [(SECTION_METERS, meters_size(), 0)]

    @staticmethod
    def create(Region region not None):
        """Make meters in a region that is not published yet."""
        cdef uint64_t size = 0
        cdef char *head = region.section(SECTION_METERS, &size)
        if size < meters_size():
            raise ValueError("the section is too small for meters")
        meters_create(<meters_head_t *>head)
        return Meters(region)

    @property
    def is_shared(self):
        """Whether all processes of the store add to them."""
        return self.region is not None

    cdef inline bint is_mapped(self) noexcept:
        cdef Region region
        if self.region is None:
            return True
        region = self.region
        return region.forks_at_mapping == region.forks[0]  # else in a forked child, which has no mapping

    def record(self, unsigned int op, int64_t value):
        """Count a call of an operation, and what was measured of it; a time is ns."""
        if self.is_mapped():
            meters_record(&self.meters, <meter_op>op, max(value, 0))

    def since(self, unsigned int op, uint64_t begun):
        """Count a call that began at this ``time.perf_counter_ns()`` and ends now."""
        cdef uint64_t now = usage_clock()
        if self.is_mapped():
            meters_record(&self.meters, <meter_op>op, now - begun if now > begun else 0)

    def read(self):
        """Return {name: (calls, sum of what was measured, [(least of a bucket, count), ...])}, of what was called.

        Of an operation of which one call in 61 is measured, the counts of its buckets sum up to fewer than its calls.
        What others record meanwhile may be in one of the figures and not in the other.
        """
        cdef uint32_t op, shard, bucket
        cdef uint32_t known = min(self.meters.ops, <uint32_t>METER_OPS)
        cdef uint32_t shards = self.meters.mask + 1
        cdef uint64_t calls, total, count
        cdef meter_t *meter
        cdef dict found = {}
        if self.region is not None:
            (<Region>self.region).check_process()
        for op in range(known):
            calls = total = 0
            buckets = []
            for shard in range(shards):
                meter = meter_at(&self.meters, shard, op)
                calls += word_relaxed(&meter.calls)
                total += word_relaxed(&meter.sum)
            if calls == 0:
                continue
            for bucket in range(<uint32_t>METER_BUCKETS):
                count = 0
                for shard in range(shards):
                    count += word_relaxed(&meter_at(&self.meters, shard, op).buckets[bucket])
                if count:
                    buckets.append((usage_bucket_ns(bucket), count))
            found[NAMES[op]] = calls, total, buckets
        return found


cdef inline meters_head_t *aligned(meters_head_t *memory) noexcept:
    return <meters_head_t *>((<size_t>memory + 63) & ~<size_t>63)
