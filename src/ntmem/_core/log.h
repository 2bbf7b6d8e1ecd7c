/* The commit log: its words, its bytes, and what makes them sound. docs/design/log.md is the specification.
 *
 * A leaf: plain C, no Python. log_read.h and log_write.h build on it.
 */
#ifndef NTMEM_LOG_H
#define NTMEM_LOG_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crc.h"
#include "failpoint.h"
#include "keyhash.h"
#include "sync.h"

#define LOG_MAGIC 0x3130676f6c746e2eull   /* ".ntlog01" */
#define GROUP_MAGIC 0x50524721u           /* "!GRP" */
#define LOG_ALIGN 16
#define LOG_SEQUENCE_BITS 44
#define LOG_ANY_EPOCH UINT64_MAX
#define LOG_MIN_CAPACITY 4096ull
#define LOG_MAX_CAPACITY (1ull << 32)     /* distances and sizes inside are 32 bits wide */

enum log_kind { LOG_KIND_PUT = 1, LOG_KIND_DELETE = 2, LOG_KIND_NOTICE = 3 }; /* a notice changes nothing: it tells followers */

/* Why the flusher cannot go on; who can still write then. */
enum log_trouble {
    TROUBLE_NONE,
    TROUBLE_FULL,    /* the data file is at its limit: deletions may be written */
    TROUBLE_NO_ROOM, /* the disk is full: deletions may be written */
    TROUBLE_BROKEN,  /* a sync failed, or LMDB is damaged: nobody writes until the store is opened anew */
};

/* ---- words of the control page, a line each ------------------------------------------------------------------- */

typedef struct {
    uint64_t word;
} __attribute__((aligned(SYNC_LINE))) log_line_t;

typedef struct {
    uint32_t word;
} __attribute__((aligned(SYNC_LINE))) log_news_t;

typedef struct {
    uint64_t magic;
    uint64_t capacity;
    uint64_t slot_count;
    uint64_t generation;
    uint32_t crc; /* of the four above */
} __attribute__((aligned(SYNC_LINE))) log_constants_t;

/* The store's clock: system, `at` is added to the boot clock; simulated, it is the time. Only rises. `told` follows it,
 * so that a wrong time does not pass for a right one: log_examine.h. */
typedef struct {
    int64_t at;
    uint32_t simulated;
    int64_t told;
} __attribute__((aligned(SYNC_LINE))) log_clock_t;

typedef struct {
    uint64_t pulse; /* CLOCK_MONOTONIC_COARSE of its last sign of life */
    uint32_t pid;
} __attribute__((aligned(SYNC_LINE))) log_leader_t;

typedef struct {
    uint32_t kind; /* enum log_trouble */
    int32_t code;  /* what LMDB or the system said */
} __attribute__((aligned(SYNC_LINE))) log_trouble_t;

typedef struct {
    log_constants_t constants;
    shared_mutex_t writer;
    log_line_t committed;
    log_line_t reserved;
    log_line_t next_sequence;
    log_line_t flushed;
    log_news_t commit_news;
    log_news_t flush_news;
    shared_mutex_t flusher;     /* held for one pass */
    log_line_t flushed_sequence; /* versions up to this one are on disk */
    log_line_t oldest;          /* when the oldest unflushed group was written; tells only while there is one */
    log_line_t wanted;          /* somebody waits for the disk to reach this position */
    log_news_t wanted_news;
    log_line_t barrier;         /* what stands before is not to be read here any more, but on disk */
    log_line_t epoch;           /* raised by what changes the rules for writers: policies of namespaces */
    log_clock_t clock;
    log_leader_t leader;
    log_trouble_t trouble;
    log_line_t gone; /* the region has lost its name, or is about to: nobody is to join it any more */
    log_line_t floor; /* what the hot table has seen only up to before this is not to be believed: disk was written past the log */
    log_line_t last;    /* where the group begins that was committed last: what follows from it may be to be published yet */
    log_line_t fencing; /* 1 + slot of the lease under which the holder of `writer` writes; 0: under none */
} log_control_t;

_Static_assert(sizeof(log_control_t) <= 4096, "the control words fit a page");

/* ---- bytes of the ring ---------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t magic;
    uint32_t crc; /* of all that follows, to the group's end */
    uint64_t position;
    uint64_t first_version;
    uint64_t time; /* CLOCK_MONOTONIC_COARSE, for lags */
    int64_t now;   /* the store's clock */
    uint32_t bytes;
    uint32_t records;
    uint32_t pid;
    uint32_t zero[3];
} log_group_t;

typedef struct {
    uint32_t key_size;
    uint32_t value_size;
    uint16_t namespace_size;
    uint16_t writer_size;
    uint8_t kind;
    uint8_t flags;
    uint16_t zero;
    uint64_t version;
    int64_t ts_event;
    int64_t ts_known;
    int64_t expires_at;
    uint64_t hash;
    uint32_t previous; /* the next older record of the slot, */
    uint32_t other;    /* and the next older one with another key: how far back, in units of 16; 0: none */
} log_record_t;

_Static_assert(sizeof(log_group_t) == 64 && sizeof(log_record_t) == 64, "the format of docs/design/log.md");

/* ---- a process's view of it ----------------------------------------------------------------------------------- */

typedef struct {
    log_control_t *control;
    unsigned char *ring; /* mapped twice, one behind the other */
    uint64_t *slots;
    uint64_t capacity; /* a power of two, as is slot_count: checked once, and never read from there again */
    uint64_t slot_count;
    uint64_t generation;
    struct book_table *book; /* positions: a projection of what is committed here; NULL: there is none */
    uint32_t pid;
} log_t;

static inline unsigned char *log_at(const log_t *log, uint64_t position)
{
    return log->ring + (position & (log->capacity - 1));
}

static inline uint64_t *log_slot(const log_t *log, uint64_t hash) { return log->slots + (hash & (log->slot_count - 1)); }

static inline uint64_t log_round_up(uint64_t size) { return (size + LOG_ALIGN - 1) & ~(uint64_t)(LOG_ALIGN - 1); }

static inline uint64_t log_group_limit(const log_t *log) { return log->capacity / 2; }
static inline uint64_t log_value_limit(const log_t *log) { return log->capacity / 8; }

static inline uint64_t record_bytes(const log_record_t *record)
{
    return log_round_up(sizeof *record + (uint64_t)record->namespace_size + record->key_size + record->writer_size +
                        record->value_size);
}

/* Bytes before this may be being overwritten. All of it is flushed. */
static inline uint64_t log_begin(const log_t *log)
{
    const uint64_t reserved = word_relaxed(&log->control->reserved.word);
    return reserved > log->capacity ? reserved - log->capacity : 0;
}

/* What stands before this is no answer: overwritten, or behind the barrier. Whoever ends here asks the disk. */
static inline uint64_t log_bound(const log_t *log)
{
    const uint64_t begin = log_begin(log), barrier = word_relaxed(&log->control->barrier.word);
    return begin > barrier ? begin : barrier;
}

static inline int log_is_behind(const log_t *log, uint64_t position)
{
    fence_acquire(); /* what was copied was read before the bound is */
    return position < log_bound(log);
}

static inline int log_was_overwritten(const log_t *log, uint64_t position)
{
    fence_acquire();
    return position < log_begin(log);
}

static inline uint64_t coarse_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

/* The store's time. */
static inline int64_t log_now(const log_t *log)
{
    const log_clock_t *clock = &log->control->clock;
    const int64_t at = __atomic_load_n(&clock->at, __ATOMIC_ACQUIRE);
    struct timespec time;

    if (clock->simulated)
        return at;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return at + (int64_t)time.tv_sec * (int64_t)NANOSECONDS + (int64_t)time.tv_nsec;
}

/* Raises a word that others may raise as well; whether this call did. */
static inline int word_raise(uint64_t *word, uint64_t value)
{
    uint64_t found = word_relaxed(word);

    while (found < value)
        if (__atomic_compare_exchange_n(word, &found, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return 1;
    return 0;
}

/* The same of a time; whether it is there now. */
static inline int clock_raise(int64_t *word, int64_t at)
{
    int64_t found = __atomic_load_n(word, __ATOMIC_RELAXED);

    while (found < at)
        if (__atomic_compare_exchange_n(word, &found, at, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return 1;
    return found == at;
}

static inline int log_set_clock(const log_t *log, int64_t at)
{
    log_clock_t *clock = &log->control->clock;

    return clock_raise(&clock->at, at) && (clock_raise(&clock->told, at), 1);
}

/* Lets the flusher know that somebody waits for `position` to be on disk. */
static inline void log_want(const log_t *log, uint64_t position)
{
    if (word_raise(&log->control->wanted.word, position))
        news_announce(&log->control->wanted_news.word);
}

/* ---- making and opening --------------------------------------------------------------------------------------- */

static inline int is_power_of_two(uint64_t number) { return number != 0 && (number & (number - 1)) == 0; }

static inline int log_sizes_fit(uint64_t capacity, uint64_t slot_count)
{
    return is_power_of_two(capacity) && capacity >= LOG_MIN_CAPACITY && capacity <= LOG_MAX_CAPACITY &&
           is_power_of_two(slot_count) && slot_count <= LOG_MAX_CAPACITY;
}

static inline uint32_t log_constants_crc(const log_constants_t *constants)
{
    return crc32c(constants, offsetof(log_constants_t, crc));
}

/* The page is all zeroes before, and nobody else has it. */
static inline int log_control_create(log_control_t *control, uint64_t capacity, uint64_t slot_count,
                                     uint64_t generation, uint64_t first_sequence)
{
    int error = mutex_create(&control->writer);

    if (error == 0)
        error = mutex_create(&control->flusher);
    control->constants = (log_constants_t){LOG_MAGIC, capacity, slot_count, generation, 0};
    control->constants.crc = log_constants_crc(&control->constants);
    control->next_sequence.word = first_sequence;
    control->flushed_sequence.word = first_sequence - 1;
    return error;
}

/* What no order of writers' and flushers' steps can produce is damage. Loads are ordered so that living ones do not
 * look like it. */
static inline int log_words_are_sound(const log_t *log)
{
    const log_control_t *control = log->control;
    const uint64_t barrier = word_acquire(&control->barrier.word);
    const uint64_t flushed = word_acquire(&control->flushed.word);
    const uint64_t committed = word_acquire(&control->committed.word);
    const uint64_t reserved = word_acquire(&control->reserved.word);
    const uint64_t flushed_since = word_acquire(&control->flushed.word);
    const uint64_t sequence = word_acquire(&control->next_sequence.word);

    return ((flushed | committed | reserved) & (LOG_ALIGN - 1)) == 0 && barrier <= flushed &&
           flushed <= committed && committed <= reserved &&
           reserved < 1ull << 62 && (reserved <= log->capacity || reserved - log->capacity <= flushed_since) &&
           sequence >= 1 && sequence <= 1ull << LOG_SEQUENCE_BITS;
}

/* ---- groups --------------------------------------------------------------------------------------------------- */

static inline uint32_t group_crc(const unsigned char *group, uint64_t bytes)
{
    return crc32c(group + offsetof(log_group_t, position), bytes - offsetof(log_group_t, position));
}

/* Whether a group can begin here at all: what is copied or checked next is as long as it says. */
static inline int group_is_plausible(const log_t *log, const log_group_t *group, uint64_t position, uint64_t end)
{
    return group->magic == GROUP_MAGIC && group->position == position && group->bytes >= sizeof *group &&
           group->bytes % LOG_ALIGN == 0 && group->bytes <= log_group_limit(log) && position + group->bytes <= end &&
           group->records > 0 && group->records <= group->bytes / sizeof(log_record_t);
}

/* A private or a stable copy: checksum, and records that fill it exactly. */
static inline int group_is_sound(const unsigned char *group)
{
    log_group_t head;
    log_record_t record;
    uint64_t offset = sizeof head;

    memcpy(&head, group, sizeof head);
    if (head.crc != group_crc(group, head.bytes))
        return 0;
    for (uint32_t i = 0; i < head.records; i++) {
        if (offset + sizeof record > head.bytes)
            return 0;
        memcpy(&record, group + offset, sizeof record);
        if (record.version != head.first_version + i)
            return 0;
        offset += record_bytes(&record);
    }
    return offset == head.bytes;
}

#endif
