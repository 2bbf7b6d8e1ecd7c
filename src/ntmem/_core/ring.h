/* The ring of messages in shared memory: publishing, reading, topics. docs/design/bus.md is the specification.
 *
 * A leaf: plain C, no Python. Functions that end in `_locked` need the publishers' mutex. A reader takes no lock and
 * writes nothing that others read, but for the bit by which it asks to be woken.
 */
#ifndef NTMEM_RING_H
#define NTMEM_RING_H

#include <fcntl.h>
#include <stddef.h>

#include "crc.h"
#include "failpoint.h"
#include "keyhash.h"
#include "sync.h"

#define RING_MAGIC 0x3130676e69726d2eull /* ".mring01" */
#define RING_ALIGN 8ull
#define RING_NEWS 64u
#define RING_LEAST (64ull << 10)
#define RING_MOST (4ull << 30)
#define RING_TOPIC 4096u /* bytes at most, with what is between levels */
#define RING_SENDER 255u
#define RING_PARTS 4 /* a message, and a batch, has at most one of so many parts of the ring */
#define RING_MARGIN 8 /* who was overtaken goes on such a part above the oldest */

/* ---- what is in shared memory --------------------------------------------------------------------------------- */

typedef struct {
    uint64_t magic;
    uint64_t capacity;
    uint64_t first; /* sequence of the first message */
    uint32_t crc;   /* of the three above */
} __attribute__((aligned(SYNC_LINE))) ring_constants_t;

typedef struct {
    uint64_t word;
} __attribute__((aligned(SYNC_LINE))) ring_line_t;

typedef struct {
    uint32_t word;
} __attribute__((aligned(SYNC_LINE))) ring_news_t;

typedef struct {
    ring_constants_t constants;
    shared_mutex_t mutex;
    ring_line_t reserved;  /* bytes up to here may be being written, and those a lap before are being overwritten */
    ring_line_t committed; /* messages are whole up to here: the only word that publishes */
    ring_line_t provided;  /* 1: the bytes have memory */
    ring_news_t news[RING_NEWS]; /* 0: who follows a pattern waits here; others by hash of their topic */
} ring_control_t;

/* Then topic, sender, payload, and something up to a multiple of 8, of which the last four bytes are `size` again: from
 * where a message ends one can go back to where it begins. */
typedef struct {
    uint64_t sequence; /* one more than that of the message before it */
    int64_t time;      /* CLOCK_REALTIME, ns */
    uint32_t size;     /* of all of it */
    uint32_t payload_size;
    uint32_t hash; /* of the topic */
    uint32_t pid;
    uint32_t flags;
    uint16_t topic_size;
    uint16_t sender_size;
} ring_message_t;

_Static_assert(sizeof(ring_message_t) == 40, "the format of docs/design/bus.md");

/* ---- a process's view of it ----------------------------------------------------------------------------------- */

typedef struct {
    ring_control_t *control;
    unsigned char *bytes; /* mapped twice, one behind the other */
    uint64_t capacity;    /* a power of two; checked once, and never read from there again, as is `first` */
    uint64_t first;
    uint64_t offset; /* of the bytes in the file `fd` */
    int fd;
    uint32_t pid;
} ring_t;

static inline unsigned char *ring_at(const ring_t *ring, uint64_t position)
{
    return ring->bytes + (position & (ring->capacity - 1));
}

static inline uint64_t ring_part(const ring_t *ring) { return ring->capacity / RING_PARTS; }

/* Of topic, sender and payload together. */
static inline uint64_t ring_limit(const ring_t *ring)
{
    return ring_part(ring) - sizeof(ring_message_t) - sizeof(uint32_t);
}

static inline uint64_t ring_message_bytes(uint64_t names, uint64_t payload)
{
    return (sizeof(ring_message_t) + names + payload + sizeof(uint32_t) + RING_ALIGN - 1) & ~(RING_ALIGN - 1);
}

static inline int ring_size_fits(uint64_t capacity)
{
    return capacity >= RING_LEAST && capacity <= RING_MOST && (capacity & (capacity - 1)) == 0;
}

static inline uint32_t ring_constants_crc(const ring_constants_t *constants)
{
    return crc32c(constants, offsetof(ring_constants_t, crc));
}

/* The page is all zeroes before, and nobody else has it. */
static inline int ring_create(ring_control_t *control, uint64_t capacity, uint64_t first)
{
    control->constants = (ring_constants_t){RING_MAGIC, capacity, first, 0};
    control->constants.crc = ring_constants_crc(&control->constants);
    return mutex_create(&control->mutex);
}

/* What no order of publishers' steps can produce is damage. Loads are ordered so that living ones do not look so. */
static inline int ring_words_are_sound(const ring_t *ring)
{
    const uint64_t committed = word_acquire(&ring->control->committed.word);
    const uint64_t reserved = word_acquire(&ring->control->reserved.word);
    const uint64_t provided = word_acquire(&ring->control->provided.word);

    return ((committed | reserved) & (RING_ALIGN - 1)) == 0 && committed <= reserved && reserved < 1ull << 62 &&
           (provided == 1 || (provided == 0 && reserved == 0));
}

static inline int ring_is_sound(const ring_t *ring, uint64_t size)
{
    const ring_constants_t *constants = &ring->control->constants;

    return constants->magic == RING_MAGIC && constants->crc == ring_constants_crc(constants) &&
           constants->capacity == size && ring_size_fits(size) && mutex_is_sound(&ring->control->mutex) &&
           ring_words_are_sound(ring);
}

/* Bytes before this may be being overwritten. */
static inline uint64_t ring_begin(const ring_t *ring)
{
    const uint64_t reserved = word_relaxed(&ring->control->reserved.word);

    return reserved > ring->capacity ? reserved - ring->capacity : 0;
}

static inline int ring_was_overwritten(const ring_t *ring, uint64_t position)
{
    fence_acquire(); /* what was copied was read before the bound is */
    return position < ring_begin(ring);
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

enum ring_found {
    RING_MATCH,
    RING_PASSED, /* it does not match, or the steps are used up */
    RING_END,    /* no message is there yet */
    RING_OVERWRITTEN,
    RING_DAMAGED,
};

/* Whether a header can be that of the message `sequence`, with `room` bytes from its beginning to the end. */
static inline int message_is_plausible(const ring_t *ring, const ring_message_t *message, uint64_t sequence,
                                       uint64_t room)
{
    const uint64_t names = (uint64_t)message->topic_size + message->sender_size;

    return message->sequence == sequence && message->size <= room && message->size <= ring_part(ring) &&
           message->topic_size > 0 && message->topic_size <= RING_TOPIC && message->sender_size <= RING_SENDER &&
           message->size == ring_message_bytes(names, message->payload_size);
}

/* The size of the message that ends at `end`; 0: none can. Worthless if that was overwritten meanwhile. */
static inline uint64_t message_size_before(const ring_t *ring, uint64_t end)
{
    uint32_t size;

    bytes_copy(&size, ring_at(ring, end - sizeof size), sizeof size);
    if (size % RING_ALIGN != 0 || size < ring_message_bytes(0, 0) || size > ring_part(ring) || size > end)
        return 0;
    return size;
}

/* The header of the message that ends at `end`: RING_MATCH, or why there is none. */
static inline enum ring_found message_before(const ring_t *ring, uint64_t end, ring_message_t *message)
{
    const uint64_t size = message_size_before(ring, end);

    if (size != 0)
        bytes_copy(message, ring_at(ring, end - size), sizeof *message);
    if (ring_was_overwritten(ring, end - (size != 0 ? size : RING_ALIGN)))
        return RING_OVERWRITTEN;
    return size != 0 && message->size == size && message_is_plausible(ring, message, message->sequence, size)
               ? RING_MATCH
               : RING_DAMAGED;
}

/* The sequence of the next message, and where it is going to begin. */
static inline enum ring_found ring_next(const ring_t *ring, uint64_t *position, uint64_t *sequence)
{
    enum ring_found found;
    ring_message_t last;

    do { /* again, as often as others have written a whole lap meanwhile */
        *position = word_acquire(&ring->control->committed.word);
        *sequence = ring->first;
        if (*position == 0)
            return RING_MATCH;
        found = message_before(ring, *position, &last);
    } while (found == RING_OVERWRITTEN && *position != word_acquire(&ring->control->committed.word));
    if (found != RING_MATCH)
        return RING_DAMAGED;
    *sequence = last.sequence + 1;
    return RING_MATCH;
}

/* ---- publishing ----------------------------------------------------------------------------------------------- */

enum ring_outcome {
    RING_PUBLISHED,
    RING_BUSY,      /* the mutex was not to be had */
    RING_NO_MEMORY, /* the draft says why */
    RING_BROKEN,    /* the mutex, or words that contradict each other */
};

typedef struct {
    const unsigned char *bytes;
    uint64_t size;
} ring_payload_t;

/* What is to be published: `count` messages that become visible at once. */
typedef struct {
    const unsigned char *topic, *sender;
    uint16_t topic_size, sender_size;
    uint32_t hash, flags;
    const ring_payload_t *payloads;
    size_t count;
    uint64_t bytes;    /* of all of them in the ring */
    uint64_t sequence; /* of the last one, when it is published */
    int error;         /* of the system, if there is no memory */
} ring_draft_t;

static inline uint32_t topic_hash(const unsigned char *topic, size_t size)
{
    return (uint32_t)keyhash_bytes(topic, size, KEYHASH_SEED);
}

static inline uint32_t *ring_news_of(const ring_t *ring, uint32_t hash)
{
    return &ring->control->news[1 + hash % (RING_NEWS - 1)].word;
}

static inline uint32_t *ring_news_of_patterns(const ring_t *ring) { return &ring->control->news[0].word; }

/* Memory for the bytes: touching them without it would end the process on a full file system. Nothing is left half
 * done, as the system gives back what it could not complete. */
static inline int ring_provide_locked(const ring_t *ring)
{
    int error;

    if (word_relaxed(&ring->control->provided.word) != 0)
        return 0;
    do
        error = posix_fallocate(ring->fd, (off_t)ring->offset, (off_t)ring->capacity);
    while (error == EINTR);
    if (error == 0)
        word_release(&ring->control->provided.word, 1);
    return error;
}

static inline int64_t wall_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_REALTIME, &time);
    return (int64_t)time.tv_sec * (int64_t)NANOSECONDS + (int64_t)time.tv_nsec;
}

static inline void message_write_locked(const ring_t *ring, const ring_draft_t *draft, ring_message_t *message,
                                        const ring_payload_t *payload, uint64_t position)
{
    const uint64_t names = (uint64_t)draft->topic_size + draft->sender_size;
    unsigned char *at = ring_at(ring, position);

    message->payload_size = (uint32_t)payload->size;
    message->size = (uint32_t)ring_message_bytes(names, payload->size);
    bytes_copy(at, message, sizeof *message);
    bytes_copy(at + message->size - sizeof message->size, &message->size, sizeof message->size);
    bytes_copy(at + sizeof *message, draft->topic, draft->topic_size);
    bytes_copy(at + sizeof *message + draft->topic_size, draft->sender, draft->sender_size);
    FAILPOINT(ring_half_written);
    bytes_copy(at + sizeof *message + names, payload->bytes, payload->size);
}

static inline enum ring_outcome ring_publish_locked(const ring_t *ring, ring_draft_t *draft)
{
    ring_control_t *control = ring->control;
    const uint64_t reserved = word_relaxed(&control->reserved.word);
    uint64_t position, end, sequence;
    ring_message_t message;

    if (!ring_words_are_sound(ring) || reserved - word_relaxed(&control->committed.word) > ring_part(ring))
        return RING_BROKEN;
    draft->error = ring_provide_locked(ring);
    if (draft->error != 0)
        return RING_NO_MEMORY;
    if (ring_next(ring, &position, &sequence) != RING_MATCH)
        return RING_BROKEN;
    end = position + draft->bytes;
    if (end > reserved) /* it never falls: who died behind it has overwritten what was a lap before */
        word_release(&control->reserved.word, end);
    fence_release();
    FAILPOINT(ring_reserved);
    message = (ring_message_t){.time = wall_ns(),
                               .hash = draft->hash,
                               .pid = ring->pid,
                               .flags = draft->flags,
                               .topic_size = draft->topic_size,
                               .sender_size = draft->sender_size};
    for (size_t i = 0; i < draft->count; i++) {
        message.sequence = sequence + i;
        message_write_locked(ring, draft, &message, &draft->payloads[i], position);
        position += message.size;
    }
    FAILPOINT(ring_written);
    word_release(&control->committed.word, end);
    FAILPOINT(ring_committed);
    draft->sequence = message.sequence;
    return RING_PUBLISHED;
}

/* A dead publisher leaves nothing to repair: what it had not committed was never published, and is written over. */
static inline enum ring_outcome ring_publish(const ring_t *ring, ring_draft_t *draft, uint64_t wait_ns)
{
    enum ring_outcome outcome;

    switch (mutex_take(&ring->control->mutex, wait_ns, ring->pid)) {
    case MUTEX_TAKEN:
        break;
    case MUTEX_OWNER_DIED:
        FAILPOINT(ring_repaired);
        mutex_mend(&ring->control->mutex);
        break;
    case MUTEX_BUSY:
        return RING_BUSY;
    case MUTEX_BROKEN:
        return RING_BROKEN;
    }
    FAILPOINT(ring_locked);
    outcome = ring_publish_locked(ring, draft);
    mutex_release(&ring->control->mutex);
    return outcome;
}

/* Whether somebody waits for a topic; to be asked after it was published. Full barriers, so that one sees the other. */
static inline int ring_is_awaited(const ring_t *ring, uint32_t hash)
{
    return ((__atomic_fetch_add(ring_news_of_patterns(ring), 0, __ATOMIC_ACQ_REL) |
             __atomic_fetch_add(ring_news_of(ring, hash), 0, __ATOMIC_ACQ_REL)) & 1) != 0;
}

static inline void ring_announce(const ring_t *ring, uint32_t hash)
{
    news_announce(ring_news_of_patterns(ring));
    news_announce(ring_news_of(ring, hash));
}

static inline void ring_announced(void) { FAILPOINT(ring_announced); }

#endif
