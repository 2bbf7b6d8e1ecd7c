"""The C leaves of the log, declared for Cython; log.h has what they mean."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ntmem._core.keyhash cimport whole_key_t


cdef extern from "log.h" nogil:
    ctypedef struct log_constants_t:
        uint64_t magic
        uint64_t capacity
        uint64_t slot_count
        uint64_t generation
        uint32_t crc

    ctypedef struct shared_mutex_t:
        uint32_t holder

    ctypedef struct log_line_t:
        uint64_t word

    ctypedef struct log_news_t:
        uint32_t word

    ctypedef struct log_clock_t:
        int64_t at
        uint32_t simulated
        int64_t told

    ctypedef struct log_leader_t:
        uint64_t pulse
        uint32_t pid

    ctypedef struct log_trouble_t:
        uint32_t kind
        int code

    ctypedef struct log_control_t:
        log_constants_t constants
        shared_mutex_t writer
        log_line_t committed, reserved, next_sequence, flushed
        log_news_t commit_news, flush_news
        shared_mutex_t flusher
        log_line_t flushed_sequence, oldest, wanted
        log_news_t wanted_news
        log_line_t barrier, epoch
        log_clock_t clock
        log_leader_t leader
        log_trouble_t trouble
        log_line_t gone, floor, fencing

    ctypedef struct log_group_t:
        uint64_t position, first_version, time
        int64_t now
        uint32_t bytes, records, pid

    ctypedef struct log_record_t:
        uint32_t key_size, value_size
        uint16_t namespace_size, writer_size
        uint8_t kind, flags
        uint64_t version
        int64_t ts_event, ts_known, expires_at
        uint64_t hash

    ctypedef struct log_t:
        log_control_t *control
        unsigned char *ring
        uint64_t *slots
        uint64_t capacity, slot_count, generation
        void *book
        uint32_t pid


cdef extern from "log_read.h" nogil:
    const uint64_t LOG_ANY_EPOCH

    enum log_kind:
        LOG_KIND_PUT
        LOG_KIND_DELETE
        LOG_KIND_NOTICE

    enum log_trouble:
        TROUBLE_NONE
        TROUBLE_FULL
        TROUBLE_NO_ROOM
        TROUBLE_BROKEN

    enum log_find_outcome:
        LOG_FOUND
        LOG_ABSENT
        LOG_DAMAGED

    uint32_t crc_of "crc32c"(const void *data, size_t size) noexcept
    uint32_t crc_portable(const void *data, size_t size) noexcept
    bint mutex_is_sound(const shared_mutex_t *shared) noexcept
    uint32_t mutex_holder(const shared_mutex_t *shared) noexcept
    uint64_t word_acquire(const uint64_t *word) noexcept
    uint32_t word32_acquire(const uint32_t *word) noexcept
    bint log_sizes_fit(uint64_t capacity, uint64_t slot_count) noexcept
    int log_control_create(
        log_control_t *, uint64_t capacity, uint64_t slot_count, uint64_t generation, uint64_t first_sequence
    ) noexcept
    uint32_t log_constants_crc(const log_constants_t *constants) noexcept
    bint log_words_are_sound(const log_t *log) noexcept
    uint64_t log_value_limit(const log_t *log) noexcept
    uint64_t log_group_limit(const log_t *log) noexcept
    uint64_t log_begin(const log_t *log) noexcept
    uint64_t log_bound(const log_t *log) noexcept
    bint log_is_behind(const log_t *log, uint64_t position) noexcept
    uint64_t coarse_ns() noexcept
    int64_t log_now(const log_t *log) noexcept
    bint log_set_clock(const log_t *log, int64_t at) noexcept
    void log_want(const log_t *log, uint64_t position) noexcept
    bint word_raise(uint64_t *word, uint64_t value) noexcept
    uint64_t log_limit(const log_t *log) noexcept
    log_find_outcome log_find(
        const log_t *log, const whole_key_t *key, uint64_t limit, uint64_t *position, log_record_t *record
    ) noexcept
    uint64_t log_chain(const log_t *log, const whole_key_t *key) noexcept
    uint64_t log_chain_behind(uint64_t position, const log_record_t *record) noexcept
    log_find_outcome log_find_from(
        const log_t *log, const whole_key_t *key, uint64_t link, uint64_t limit, uint64_t *position,
        log_record_t *record
    ) noexcept
    void log_copy(const log_t *log, uint64_t position, void *to, size_t size) noexcept
    bint log_was_overwritten(const log_t *log, uint64_t position) noexcept
    uint64_t record_bytes(const log_record_t *record) noexcept


cdef extern from "fence.h" nogil:
    ctypedef struct fence_word_t:
        uint64_t number, expires

    uint64_t boot_ns() noexcept
    bint fence_is_current(const fence_word_t *word, uint64_t number, uint64_t now) noexcept


cdef extern from "book_table.h" nogil:
    void *book_of(void *section, uint64_t size) noexcept


cdef extern from "log_write.h" nogil:
    ctypedef struct log_draft_t:
        whole_key_t key
        const unsigned char *writer
        const unsigned char *value
        log_record_t record
        uint64_t offset
        size_t before
        int conditional
        uint64_t if_version, stored_version

    enum log_condition:
        CONDITION_NONE
        CONDITION_SERVED
        CONDITION_NEWEST
        CONDITION_GUARDED

    const int LOG_FENCED

    ctypedef struct log_append_t:
        log_draft_t *drafts
        size_t count, conflict
        uint64_t bytes, snapshot, epoch, max_lag, first_version, end, conflict_version
        bint shows
        int64_t now
        bint frees
        const fence_word_t *fence
        uint64_t fence_number, fencing
        const unsigned char *resource
        size_t resource_size

    enum log_append_outcome:
        APPEND_DONE
        APPEND_BUSY
        APPEND_NO_ROOM
        APPEND_TROUBLE
        APPEND_NEW_RULES
        APPEND_CONFLICT
        APPEND_LOOK_AGAIN
        APPEND_DAMAGED
        APPEND_EXHAUSTED
        APPEND_STALE

    void append_place(const log_t *log, log_append_t *append, size_t *heads, size_t head_count) noexcept
    log_append_outcome log_append(const log_t *log, log_append_t *append, uint64_t wait_ns) noexcept
    log_append_outcome log_take(const log_t *log, uint64_t wait_ns) noexcept
    void log_release(const log_t *log) noexcept
    log_append_outcome append_announced_locked(const log_t *log, log_append_t *append) noexcept
    log_append_outcome fence_mark_locked(
        const log_t *log, const fence_word_t *fence, uint64_t number, uint64_t mark
    ) noexcept
    void fence_clear_locked(const log_t *log) noexcept


cdef extern from "log_flush.h" nogil:
    enum log_group_outcome:
        GROUP_COPIED
        GROUP_NONE
        GROUP_TOO_LARGE
        GROUP_OVERWRITTEN
        GROUP_DAMAGED

    enum log_advance_outcome:
        ADVANCE_DONE
        ADVANCE_BACKWARDS
        ADVANCE_BEYOND
        ADVANCE_INSIDE

    log_group_outcome log_group_copy(
        const log_t *log, uint64_t position, unsigned char *to, uint64_t room, uint64_t *bytes
    ) noexcept
    log_advance_outcome log_advance(const log_t *log, uint64_t position, uint64_t sequence) noexcept
    uint64_t log_wait(uint64_t *word, uint32_t *news, uint64_t target, uint64_t wait_ns) noexcept


cdef extern from "log_examine.h" nogil:
    enum examine_outcome:
        EXAMINE_SOUND
        EXAMINE_WORDS
        EXAMINE_MUTEX
        EXAMINE_GROUP
        EXAMINE_BEHIND
        EXAMINE_VERSIONS
        EXAMINE_CLOCK
        EXAMINE_INDEX

    ctypedef struct examine_t:
        uint64_t position
        int64_t now

    examine_outcome log_examine(const log_t *log, bint with_index, examine_t *examined) noexcept
    void log_settle(const log_t *log, int64_t least) noexcept
