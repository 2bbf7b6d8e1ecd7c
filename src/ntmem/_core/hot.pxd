"""The hot table, for native parts that read through it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ntmem._core.keyhash cimport whole_key_t
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport log_now, log_t
from ntmem._core.region cimport Region


cdef extern from "usage.h" nogil:
    enum:
        USAGE_BLOCKS
        USAGE_BUCKETS
        USAGE_COUNTS
        USAGE_SAMPLE

    enum usage_count:
        USAGE_HOT
        USAGE_LOG
        USAGE_DISK
        USAGE_ABSENT
        USAGE_LEFT
        USAGE_PROMOTED
        USAGE_PUT

    enum usage_call:
        USAGE_GETS
        USAGE_PUTS
        USAGE_CALLS

    ctypedef struct usage_t:
        uint32_t pid
        uint64_t *counts
        uint64_t **times

    usage_t *usage_claim(usage_t *blocks, uint32_t pid) noexcept
    uint64_t usage_clock() noexcept
    uint64_t usage_bucket_ns(uint32_t bucket) noexcept
    void usage_add(usage_t *usage, usage_count count, uint64_t number) noexcept
    void usage_time(usage_t *usage, usage_call call, uint64_t ns) noexcept


cdef extern from "hot_write.h" nogil:
    const uint64_t HOT_OWN

    enum:
        HOT_MAGIC
        HOT_STRIPES
        HOT_CAUSES

    enum hot_outcome:
        HOT_HIT
        HOT_MISS
        HOT_AGAIN

    enum hot_put_outcome:
        HOT_PUT
        HOT_BUSY
        HOT_TOO_LARGE
        HOT_OLDER

    ctypedef struct shared_mutex_t:
        uint32_t holder

    ctypedef struct hot_record_t:
        uint32_t value_size, key_size
        unsigned short space_size
        uint64_t seen, leaves_at
        int64_t expires_at

    ctypedef struct hot_bucket_t:
        pass

    ctypedef struct hot_ring_t:
        uint64_t provided

    ctypedef struct hot_stripe_t:
        uint64_t entries, live, state
        shared_mutex_t lock
        uint64_t *evicted
        hot_ring_t *rings

    ctypedef struct hot_head_t:
        uint64_t magic, stripe_count, bucket_count, arena_size, max_entries, ttl, floor, entries

    ctypedef struct hot_sink_t:
        unsigned char *bytes
        size_t used, room, most
        uint64_t dropped

    ctypedef struct hot_t:
        hot_head_t *head
        hot_stripe_t *stripes
        char *memory
        uint64_t stripe_count, bucket_count, arena_size, max_entries, ttl
        const uint64_t *index
        uint64_t *floor
        uint64_t index_mask
        hot_sink_t *sink
        uint64_t file_offset
        int fd
        uint32_t pid

    ctypedef struct hot_found_t:
        const unsigned char *value
        hot_record_t record

    uint64_t coarse_ns() noexcept
    uint64_t hot_memory_of_stripe(uint64_t bucket_count, uint64_t arena_size) noexcept
    int hot_create(const hot_t *hot) noexcept
    hot_stripe_t *hot_stripe(const hot_t *hot, uint64_t hash) noexcept
    const uint64_t *hot_index(const hot_t *hot, uint64_t hash) noexcept
    uint64_t hot_newest(const hot_t *hot, uint64_t hash) noexcept
    bint hot_is_current(const hot_t *hot, const hot_record_t *record, uint64_t newest) noexcept
    hot_outcome hot_find(const hot_t *hot, const whole_key_t *key, hot_found_t *found) noexcept
    bint hot_is_unchanged(const hot_found_t *found) noexcept
    void hot_touch(const hot_found_t *found) noexcept
    bint hot_take(const hot_t *hot, hot_stripe_t *stripe, uint64_t wait_ns) noexcept
    void hot_release(hot_stripe_t *stripe) noexcept
    void hot_empty_locked(const hot_t *hot, hot_stripe_t *stripe) noexcept
    bint hot_forget_locked(const hot_t *hot, hot_stripe_t *stripe, const whole_key_t *key) noexcept
    void hot_forget_prefix_locked(
        const hot_t *hot, hot_stripe_t *stripe, const unsigned char *space, uint32_t space_size,
        const unsigned char *prefix, uint32_t prefix_size
    ) noexcept
    hot_put_outcome hot_put_locked(
        const hot_t *hot, hot_stripe_t *stripe, const whole_key_t *key, const unsigned char *value, uint64_t value_size,
        uint64_t seen, int64_t expires_at, uint64_t leaves_at
    ) noexcept
    uint64_t hot_leaving(const hot_t *hot, uint64_t ttl) noexcept
    hot_put_outcome hot_promote(
        const hot_t *hot, const whole_key_t *key, const unsigned char *value, uint64_t value_size, uint64_t seen,
        int64_t expires_at
    ) noexcept
    void hot_see(const hot_t *hot, const whole_key_t *key, uint64_t before, uint64_t seen) noexcept
    bint word_raise(uint64_t *word, uint64_t value) noexcept
    uint64_t word_relaxed(const uint64_t *word) noexcept
    uint64_t word_acquire(const uint64_t *word) noexcept
    uint32_t mutex_holder(const shared_mutex_t *shared) noexcept
    void bytes_copy(void *to, const void *source, size_t size) noexcept


cdef enum:
    HOT_ATTEMPTS = 2        # of a reader, before it is a miss


cdef class HotTable:
    cdef readonly Region region
    cdef Log log                    # beside it, or None
    cdef hot_t hot
    cdef hot_sink_t sink
    cdef usage_t *usage             # of this process, in shared memory
    cdef object wake                # to be called when something was evicted
    cdef bint awake                 # it was

    cdef void awaken(self) noexcept
    cdef bint keep(
        self, const whole_key_t *wanted, const unsigned char *value, size_t size, uint64_t seen, int64_t expires_at
    ) noexcept
    cdef hot_stripe_t *taken(self, hot_stripe_t *stripe) except NULL


cdef inline object hot_copy(
    const hot_t *hot, const log_t *log, const whole_key_t *wanted, hot_found_t *found, bint *stale
):
    """The value of a key, and in `found` its record; None: the table has nothing that is to be served (`stale`: it has
    what the log may have replaced); False: it has expired by the log's clock. `log` may be NULL."""
    cdef hot_outcome outcome
    cdef object value
    cdef uint64_t newest = hot_newest(hot, wanted.hash)
    cdef int _
    stale[0] = False
    for _ in range(HOT_ATTEMPTS):
        outcome = hot_find(hot, wanted, found)
        if outcome == HOT_AGAIN:
            continue
        if outcome == HOT_MISS or (found.record.leaves_at != 0 and found.record.leaves_at <= coarse_ns()):
            return None
        if not hot_is_current(hot, &found.record, newest):
            stale[0] = found.record.seen >= word_acquire(hot.floor) and hot_is_unchanged(found)
            return None
        if found.record.expires_at != 0 and log != NULL and found.record.expires_at <= log_now(log):
            if hot_is_unchanged(found):
                return False
            continue
        value = PyBytes_FromStringAndSize(NULL, found.record.value_size)
        bytes_copy(PyBytes_AS_STRING(value), found.value, found.record.value_size)
        if hot_is_unchanged(found):
            hot_touch(found)
            return value
    return None
