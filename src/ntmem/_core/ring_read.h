/* Following the ring of messages without a lock: topics, a reader's place, what becomes of who was overtaken.
 *
 * A leaf: plain C, no Python. What is copied out of the ring is trusted only after a second look at `reserved`; lengths
 * are checked before they are used, so what is overwritten meanwhile leads nowhere.
 */
#ifndef NTMEM_RING_READ_H
#define NTMEM_RING_READ_H

#include "ring.h"

/* ---- topics --------------------------------------------------------------------------------------------------- */

/* Levels, with a NUL between two of them. In a pattern `*` is any one level, and `>` at the end one or more. */
typedef struct {
    const unsigned char *bytes;
    uint32_t size;
    uint32_t hash;
    int exact; /* it has no wildcard */
} ring_pattern_t;

static inline size_t level_size(const unsigned char *at, const unsigned char *end)
{
    const unsigned char *found = memchr(at, 0, (size_t)(end - at));

    return (size_t)((found == NULL ? end : found) - at);
}

static inline int pattern_matches(const ring_pattern_t *pattern, const unsigned char *topic, size_t topic_size)
{
    const unsigned char *at = pattern->bytes, *end = at + pattern->size, *topic_end = topic + topic_size;

    for (;; at++, topic++) {
        const size_t wanted = level_size(at, end), size = level_size(topic, topic_end);

        if (wanted == 1 && *at == '>' && at + 1 == end)
            return 1;
        if (!(wanted == 1 && *at == '*') && (wanted != size || memcmp(at, topic, size) != 0))
            return 0;
        at += wanted;
        topic += size;
        if (at == end || topic == topic_end)
            return at == end && topic == topic_end;
    }
}

/* Whether it has no wildcard; -1: it is none, as a level is empty, or `>` is not the last one. */
static inline int pattern_is_exact(const unsigned char *bytes, size_t size)
{
    const unsigned char *at = bytes, *end = bytes + size;
    int exact = 1;

    for (;; at++) {
        const size_t level = level_size(at, end);

        if (level == 0)
            return -1;
        if (level == 1 && *at == '>' && at + 1 != end)
            return -1;
        exact &= !(level == 1 && (*at == '>' || *at == '*'));
        at += level;
        if (at == end)
            return exact;
    }
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t position; /* where a message begins, or the ring ends */
    uint64_t sequence; /* that it must have; of a reader's next message other threads may ask for it */
} ring_place_t;

typedef struct {
    const ring_t *ring;
    ring_pattern_t pattern;
    ring_place_t next;
    ring_place_t ahead; /* up to where it was counted how many wait; for who wants to be told of the newest only */
    uint64_t waiting;   /* what matches between the two */
    uint64_t most;      /* of those that may wait; 0: any number */
    uint64_t missed;    /* since the last message that was handed out */
    uint64_t lagged;    /* ever; other threads may ask for it */
} ring_reader_t;

/* Whether the topic of the message at `at` matches, where it lies. Worthless if that was overwritten meanwhile. */
static inline int message_matches(const ring_reader_t *reader, const ring_message_t *message, const unsigned char *at)
{
    const ring_pattern_t *pattern = &reader->pattern;
    unsigned char topic[RING_TOPIC];

    if (pattern->exact)
        return message->hash == pattern->hash && message->topic_size == pattern->size &&
               bytes_equal(at + sizeof *message, pattern->bytes, pattern->size);
    if (pattern->size == 1 && pattern->bytes[0] == '>')
        return 1;
    bytes_copy(topic, at + sizeof *message, message->topic_size); /* levels are not to change under the comparison */
    return pattern_matches(pattern, topic, message->topic_size);
}

/* What stands at a place. A header is trusted only when it is known that it was not overwritten while it was copied. */
static inline enum ring_found ring_look(const ring_reader_t *reader, const ring_place_t *place, ring_message_t *message)
{
    const ring_t *ring = reader->ring;
    const uint64_t end = word_acquire(&ring->control->committed.word);
    int matches;

    if (place->position == end)
        return RING_END;
    if (place->position > end || place->position % RING_ALIGN != 0)
        return RING_DAMAGED;
    bytes_copy(message, ring_at(ring, place->position), sizeof *message);
    FAILPOINT(ring_headed);
    if (ring_was_overwritten(ring, place->position))
        return RING_OVERWRITTEN;
    FAILPOINT(ring_looked);
    if (!message_is_plausible(ring, message, place->sequence, end - place->position))
        return RING_DAMAGED;
    matches = message_matches(reader, message, ring_at(ring, place->position));
    if (ring_was_overwritten(ring, place->position))
        return RING_OVERWRITTEN;
    return matches ? RING_MATCH : RING_PASSED;
}

/* Finds the oldest message that stands at or above `floor` and is not older than `place->sequence`, walking back from
 * the end; or the end, if there is none. */
static inline enum ring_found ring_walk(const ring_t *ring, uint64_t floor, ring_place_t *place)
{
    const uint64_t oldest = place->sequence;
    enum ring_found found = ring_next(ring, &place->position, &place->sequence);

    if (found != RING_MATCH)
        return found;
    while (place->sequence > oldest && place->position > floor) {
        const uint64_t size = message_size_before(ring, place->position);

        if (size == 0)
            return ring_was_overwritten(ring, place->position - RING_ALIGN) ? RING_OVERWRITTEN : RING_DAMAGED;
        if (size > place->position - floor)
            break;
        place->position -= size;
        place->sequence--;
    }
    return ring_was_overwritten(ring, place->position) ? RING_OVERWRITTEN : RING_MATCH;
}

static inline void reader_miss(ring_reader_t *reader, uint64_t count)
{
    reader->missed += count;
    word_release(&reader->lagged, reader->lagged + count);
}

/* Goes on at the first message that is not older than the next one and stands `margin` above the oldest. Who is
 * overtaken again while he walks tries nearer to the end. RING_PASSED: done. */
static inline enum ring_found reader_rejoin(ring_reader_t *reader, uint64_t margin)
{
    const ring_t *ring = reader->ring;
    ring_place_t place;
    enum ring_found found;

    do {
        place = reader->next;
        found = ring_walk(ring, ring_begin(ring) + margin, &place);
        margin = margin == 0 ? ring->capacity / RING_MARGIN : margin < ring->capacity ? 2 * margin : margin;
    } while (found == RING_OVERWRITTEN);
    if (found != RING_MATCH || place.sequence < reader->next.sequence)
        return RING_DAMAGED;
    reader_miss(reader, place.sequence - reader->next.sequence);
    reader->ahead = place;
    reader->next.position = place.position;
    word_release(&reader->next.sequence, place.sequence);
    reader->waiting = 0;
    return RING_PASSED;
}

static inline void place_pass(ring_place_t *place, const ring_message_t *message)
{
    place->position += message->size;
    word_release(&place->sequence, place->sequence + 1);
}

/* Goes behind the next message, which `message` is the header of. */
static inline void reader_pass(ring_reader_t *reader, const ring_message_t *message, int matches)
{
    place_pass(&reader->next, message);
    if (reader->next.position > reader->ahead.position) {
        reader->ahead = reader->next;
        reader->waiting = 0;
    } else {
        reader->waiting -= (uint64_t)matches;
    }
}

/* Passes messages until one matches, and leaves it there. RING_PASSED: `steps` are used up. Who may not take the time
 * for a walk over the ring gets RING_OVERWRITTEN instead. */
static inline enum ring_found reader_find(ring_reader_t *reader, ring_message_t *message, size_t steps, int walks)
{
    enum ring_found found = RING_PASSED;

    for (size_t i = 0; i < steps && found == RING_PASSED; i++) {
        found = ring_look(reader, &reader->next, message);
        if (found == RING_PASSED)
            reader_pass(reader, message, 0);
        else if (found == RING_OVERWRITTEN && walks)
            found = reader_rejoin(reader, reader->ring->capacity / RING_MARGIN);
    }
    return found;
}

/* Drops the oldest of more than `most` that wait. RING_PASSED: `steps` are used up. */
static inline enum ring_found reader_trim(ring_reader_t *reader, size_t steps)
{
    enum ring_found found = RING_PASSED;
    ring_message_t message;

    for (size_t i = 0; i < steps && (found == RING_PASSED || found == RING_MATCH); i++) {
        if (reader->waiting > reader->most) {
            found = reader_find(reader, &message, 1, 1);
            if (found == RING_MATCH) {
                reader_pass(reader, &message, 1);
                reader_miss(reader, 1);
            }
            continue;
        }
        found = ring_look(reader, &reader->ahead, &message);
        if (found == RING_OVERWRITTEN) {
            found = reader_rejoin(reader, reader->ring->capacity / RING_MARGIN);
        } else if (found == RING_PASSED || found == RING_MATCH) {
            place_pass(&reader->ahead, &message);
            reader->waiting += found == RING_MATCH;
        }
    }
    return found == RING_MATCH ? RING_PASSED : found;
}

static inline uint32_t *reader_news(const ring_reader_t *reader)
{
    return reader->pattern.exact ? ring_news_of(reader->ring, reader->pattern.hash)
                                 : ring_news_of_patterns(reader->ring);
}

/* Waits for news at the end of the ring; returns at once if there is something by now. */
static inline void reader_wait(const ring_reader_t *reader, uint64_t wait_ns)
{
    uint32_t *news = reader_news(reader);
    const uint32_t expected = news_expect(news);

    if (word_acquire(&reader->ring->control->committed.word) == reader->next.position)
        news_wait(news, expected, wait_ns);
}

/* Copies the payload of the next message; whether that is whole, and so what was copied of the message before. */
static inline int reader_copy(const ring_reader_t *reader, const ring_message_t *message, void *to)
{
    const unsigned char *at = ring_at(reader->ring, reader->next.position) + sizeof *message + message->topic_size +
                              message->sender_size;
    const size_t half = message->payload_size / 2;

    bytes_copy(to, at, half);
    FAILPOINT(ring_half_copied);
    bytes_copy((char *)to + half, at + half, message->payload_size - half);
    FAILPOINT(ring_copied);
    return !ring_was_overwritten(reader->ring, reader->next.position);
}

#endif
