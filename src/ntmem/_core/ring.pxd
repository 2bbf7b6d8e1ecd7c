"""The C leaves of the message ring, declared for Cython; ring.h and ring_read.h have what they mean."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t


cdef extern from "ring.h" nogil:
    enum:
        RING_TOPIC
        RING_SENDER
        RING_PARTS

    ctypedef struct ring_line_t:
        uint64_t word

    ctypedef struct ring_constants_t:
        uint64_t magic, capacity, first

    ctypedef struct shared_mutex_t:
        uint32_t holder

    ctypedef struct ring_control_t:
        ring_constants_t constants
        shared_mutex_t mutex
        ring_line_t reserved, committed, provided

    ctypedef struct ring_message_t:
        uint64_t sequence
        int64_t time
        uint32_t size, payload_size, hash, pid, flags
        uint16_t topic_size, sender_size

    ctypedef struct ring_t:
        ring_control_t *control
        unsigned char *bytes
        uint64_t capacity, first, offset
        int fd
        uint32_t pid

    ctypedef struct ring_payload_t:
        const unsigned char *bytes
        uint64_t size

    ctypedef struct ring_draft_t:
        const unsigned char *topic
        const unsigned char *sender
        uint16_t topic_size, sender_size
        uint32_t hash, flags
        const ring_payload_t *payloads
        size_t count
        uint64_t bytes, sequence
        int error

    enum ring_outcome:
        RING_PUBLISHED
        RING_BUSY
        RING_NO_MEMORY
        RING_BROKEN

    enum ring_found:
        RING_MATCH
        RING_PASSED
        RING_END
        RING_OVERWRITTEN
        RING_DAMAGED

    bint ring_size_fits(uint64_t capacity) noexcept
    bint ring_is_sound(const ring_t *ring, uint64_t size) noexcept
    int ring_create(ring_control_t *control, uint64_t capacity, uint64_t first) noexcept
    uint64_t ring_limit(const ring_t *ring) noexcept
    uint64_t ring_part(const ring_t *ring) noexcept
    uint64_t ring_message_bytes(uint64_t names, uint64_t payload) noexcept
    unsigned char *ring_at(const ring_t *ring, uint64_t position) noexcept
    ring_found ring_next(const ring_t *ring, uint64_t *position, uint64_t *sequence) noexcept
    ring_outcome ring_publish(const ring_t *ring, ring_draft_t *draft, uint64_t wait_ns) noexcept
    uint32_t topic_hash(const unsigned char *topic, size_t size) noexcept
    bint ring_is_awaited(const ring_t *ring, uint32_t hash) noexcept
    void ring_announce(const ring_t *ring, uint32_t hash) noexcept
    void ring_announced() noexcept
    uint64_t word_relaxed(const uint64_t *word) noexcept
    int64_t wall_ns() noexcept
    uint32_t mutex_holder(const shared_mutex_t *shared) noexcept


cdef extern from "ring_read.h" nogil:
    ctypedef struct ring_pattern_t:
        const unsigned char *bytes
        uint32_t size, hash
        bint exact

    ctypedef struct ring_place_t:
        uint64_t position, sequence

    ctypedef struct ring_reader_t:
        const ring_t *ring
        ring_pattern_t pattern
        ring_place_t next, ahead
        uint64_t waiting, most, missed, lagged

    int pattern_is_exact(const unsigned char *bytes, size_t size) noexcept
    bint pattern_matches(const ring_pattern_t *pattern, const unsigned char *topic, size_t topic_size) noexcept
    ring_found reader_rejoin(ring_reader_t *reader, uint64_t margin) noexcept
    void reader_pass(ring_reader_t *reader, const ring_message_t *message, bint matches) noexcept
    ring_found reader_find(ring_reader_t *reader, ring_message_t *message, size_t steps, bint walks) noexcept
    ring_found reader_trim(ring_reader_t *reader, size_t steps) noexcept
    void reader_wait(const ring_reader_t *reader, uint64_t wait_ns) noexcept
    bint reader_copy(const ring_reader_t *reader, const ring_message_t *message, void *to) noexcept
