"""The counters and histograms that all processes add to, for native code."""

from libc.stdint cimport uint32_t, uint64_t

from ntmem._core.region cimport Region


cdef extern from "meters.h" nogil:
    enum:
        METER_BUCKETS

    enum meter_op:
        METER_APPLY_FILL
        METER_APPEND
        METER_PUBLISH
        METER_DELIVER
        METER_LOCK_WAIT
        METER_LOCK_HOLD
        METER_OPS

    ctypedef struct meter_t:
        uint64_t calls
        uint64_t sum
        uint64_t *buckets

    ctypedef struct meters_head_t:
        pass

    ctypedef struct meters_t:
        meter_t *meters
        uint32_t ops
        uint32_t mask

    uint64_t word_relaxed(const uint64_t *word) noexcept
    uint64_t meters_size() noexcept
    void meters_create(meters_head_t *head) noexcept
    bint meters_open(meters_t *meters, meters_head_t *head, uint64_t size) noexcept
    meter_t *meter_at(const meters_t *meters, uint32_t shard, uint32_t op) noexcept
    void meters_record(const meters_t *meters, meter_op op, uint64_t value) noexcept
    void meters_count(const meters_t *meters, meter_op op, uint64_t calls) noexcept
    uint64_t meters_begin(const meters_t *meters, meter_op op) noexcept
    void meters_end(const meters_t *meters, meter_op op, uint64_t begun) noexcept


cdef enum:
    SECTION_METERS = 9


cdef inline void meters_of(Region region, meters_t *meters) noexcept:
    """Those of a region; none, if it was made by an older build."""
    cdef uint64_t size = 0
    cdef char *head = region.section_if_any(SECTION_METERS, &size)
    meters_open(meters, <meters_head_t *>head, size if head != NULL else 0)
