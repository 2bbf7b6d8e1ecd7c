/* A part of a collection's memory in a file: slots that will not change, so that the next who opens the store need not
 * make them from its records.
 *
 * A leaf: plain C, no Python. A segment goes on where the one before it ended: at its slot, its byte of the arena, its
 * distinct value. It is read into memory that nobody uses yet, checksum by checksum, and counted when all of it is there.
 */
#ifndef NTMEM_SEGMENT_H
#define NTMEM_SEGMENT_H

#include "crc.h"
#include "vectors.h"

#define SEGMENT_MAGIC 0x316d6765736d746eull /* "ntmsegm1" */
#define SEGMENT_FORMAT 2
#define SEGMENT_SLOTS 4096u /* a segment begins and ends at a multiple of it */
#define SEGMENT_PARTS 12
#define SEGMENT_NAMES 8
#define SEGMENT_PIECE (1u << 18) /* bytes that are read, checked and put into memory at a time: they stay in the cache */
#define SEGMENT_AHEAD 16u        /* slots whose places in the index are asked for before the first is needed */

typedef struct {
    uint64_t offset, size;
    uint32_t crc, zero;
} segment_part_t;

typedef struct {
    uint64_t magic;
    uint32_t format;
    uint32_t crc; /* of this header, this field being 0 */
    uint64_t collection;
    uint64_t version; /* what tells the store's record of the last slot from others */
    uint64_t first, end;
    uint64_t arena_first, arena_end;
    uint64_t value_first, value_end;
    uint32_t field_count;
    uint32_t previous; /* crc of the header of the segment before; 0: it is the first */
    uint32_t dimension, stride;
    int32_t type, metric;
    segment_part_t parts[SEGMENT_PARTS];
} segment_t;

static inline uint32_t segment_crc(const segment_t *segment)
{
    segment_t copy = *segment;

    copy.crc = 0;
    return crc32c(&copy, sizeof copy);
}

/* Where part `part` is in memory, and its bytes. */
static inline char *segment_part(const vectors_t *vectors, const segment_t *segment, int part, uint64_t *size)
{
    static const int each[] = {VECTORS_ROWS,  VECTORS_STEPS, VECTORS_SQUARES, VECTORS_KNOWN,
                               VECTORS_EVENT, VECTORS_TEXTS, VECTORS_DELETED};
    const uint64_t slots = segment->end - segment->first;

    switch (part) {
    case 0 ... 6: {
        const uint64_t bits = 8 * vectors->sizes[each[part]] / vectors->capacity; /* of a slot */
        *size = each[part] == VECTORS_SQUARES && vectors->metric != VECTORS_L2 ? 0 : slots * bits / 8;
        return vectors->sections[each[part]] + segment->first * bits / 8;
    }
    case 7:
        *size = segment->arena_end - segment->arena_first;
        return vectors->sections[VECTORS_ARENA] + segment->arena_first;
    case SEGMENT_NAMES:
        *size = segment->field_count * sizeof(vectors_name_t);
        return vectors->sections[VECTORS_NAMES];
    case 9:
        *size = (segment->value_end - segment->value_first) * sizeof(vectors_value_t);
        return vectors->sections[VECTORS_VALUES] + segment->value_first * sizeof(vectors_value_t);
    default: /* columns, one behind the other: what is given is the first one's */
        *size = slots * segment->field_count * (part == 10 ? 1 : 8);
        return vectors->sections[part == 10 ? VECTORS_KINDS : VECTORS_WORDS] +
               segment->first * (part == 10 ? 1 : 8);
    }
}

/* Columns of a part: each stands in a place of its own. */
static inline uint64_t segment_columns(const segment_t *segment, int part) { return part < 10 ? 1 : segment->field_count; }

static inline uint64_t segment_stride(const vectors_t *vectors, int part) { return vectors->capacity * (part == 10 ? 1 : 8); }

/* All of a range of a file, read or written. 0 or errno; EIO: the file ends too early. */
static inline int segment_move(int is_write, int fd, char *bytes, uint64_t size, uint64_t at)
{
    while (size > 0) {
        const ssize_t done = is_write ? pwrite(fd, bytes, size, (off_t)at) : pread(fd, bytes, size, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? errno : EIO;
        bytes += done;
        at += (uint64_t)done;
        size -= (uint64_t)done;
    }
    return 0;
}

/* To where it is searched: written, as a page that is written whole is not filled with zeroes first, nor faulted in. */
static inline int segment_take(const vectors_t *vectors, char *to, char *bytes, uint64_t size)
{
    const char *base = vectors->sections[VECTORS_ROWS] - vectors->offsets[VECTORS_ROWS];

    return segment_move(1, vectors->fd, bytes, size, (uint64_t)(to - base));
}

/* One piece: into the file from memory, or by way of `buffer` into memory; a part of names stays in the buffer. */
static inline int segment_move_piece(int fd, const vectors_t *vectors, int part, char *memory, char *buffer, uint64_t size,
                                     uint64_t at, uint32_t *crc)
{
    uint32_t both[2] = {*crc, 0};
    int error = segment_move(buffer == NULL, fd, buffer == NULL ? memory : buffer, size, at);

    both[1] = crc32c(buffer == NULL ? memory : buffer, size);
    *crc = crc32c(both, sizeof both);
    if (error == 0 && buffer != NULL && part != SEGMENT_NAMES)
        error = segment_take(vectors, memory, buffer, size);
    return error;
}

/* A part, from memory into the file; with a buffer, the other way. */
static inline int segment_move_part(int fd, const vectors_t *vectors, const segment_t *segment, int part, char *buffer,
                                    uint64_t at, uint32_t *crc)
{
    const uint64_t columns = segment_columns(segment, part);
    uint64_t size;
    char *bytes = segment_part(vectors, segment, part, &size);
    int error = 0;

    *crc = 0;
    for (uint64_t column = 0; column < columns && error == 0; column++) {
        char *memory = bytes + column * segment_stride(vectors, part);
        for (uint64_t left = size / columns, now; left != 0 && error == 0; left -= now, memory += now, at += now) {
            now = left < SEGMENT_PIECE ? left : SEGMENT_PIECE;
            error = segment_move_piece(fd, vectors, part, memory, buffer, now, at, crc);
        }
    }
    return error;
}

/* What is to be written next: taken under the mutex. Returns 0 if there is nothing. */
static inline int segment_begin(const vectors_t *vectors, segment_t *segment, uint64_t least)
{
    const vectors_control_t *control = vectors->control;

    memset(segment, 0, sizeof *segment);
    segment->magic = SEGMENT_MAGIC;
    segment->format = SEGMENT_FORMAT;
    segment->first = control->frozen;
    segment->end = control->count / SEGMENT_SLOTS * SEGMENT_SLOTS;
    segment->arena_first = control->frozen_arena;
    segment->arena_end = control->arena_used;
    segment->value_first = control->frozen_values;
    segment->value_end = control->value_count;
    segment->field_count = (uint32_t)control->field_count;
    segment->previous = control->frozen_crc;
    segment->dimension = vectors->dimension;
    segment->stride = vectors->stride;
    segment->type = vectors->type;
    segment->metric = vectors->metric;
    return segment->end >= segment->first + (least > SEGMENT_SLOTS ? least : SEGMENT_SLOTS);
}

/* Writes a segment that was begun; nothing of what it has changes meanwhile. 0 or errno. */
static inline int segment_store(int fd, const vectors_t *vectors, segment_t *segment)
{
    uint64_t at = page_round_up(sizeof *segment);
    int error = 0;

    for (int part = 0; part < SEGMENT_PARTS && error == 0; part++) {
        segment_part_t *entry = &segment->parts[part];
        entry->offset = at;
        segment_part(vectors, segment, part, &entry->size);
        error = segment_move_part(fd, vectors, segment, part, NULL, at, &entry->crc);
        at = page_round_up(at + entry->size);
    }
    segment->crc = segment_crc(segment);
    if (error == 0)
        error = segment_move(1, fd, (char *)segment, sizeof *segment, 0);
    if (error == 0 && fsync(fd) != 0)
        error = errno;
    return error;
}

/* Whether a header goes on where this memory ends; under the mutex. */
static inline int segment_fits(const vectors_t *vectors, const segment_t *segment)
{
    const vectors_control_t *control = vectors->control;

    return segment->magic == SEGMENT_MAGIC && segment->format == SEGMENT_FORMAT &&
           segment->crc == segment_crc(segment) && segment->dimension == vectors->dimension &&
           segment->stride == vectors->stride && segment->type == vectors->type && segment->metric == vectors->metric &&
           segment->first == control->count && segment->first == control->frozen && segment->first < segment->end &&
           segment->end <= vectors->capacity && segment->first % SEGMENT_SLOTS == 0 &&
           segment->end % SEGMENT_SLOTS == 0 && segment->arena_first == control->frozen_arena &&
           segment->arena_first <= segment->arena_end && segment->arena_end <= vectors->sizes[VECTORS_ARENA] &&
           segment->value_first == control->frozen_values && segment->value_first <= segment->value_end &&
           segment->value_end <= vectors->sizes[VECTORS_VALUES] / sizeof(vectors_value_t) &&
           segment->previous == control->frozen_crc && segment->field_count <= VECTORS_FIELDS;
}

/* Memory for a segment, and in the index for as many slots as there may be in the end. */
static inline int segment_ensure(vectors_t *vectors, const segment_t *segment, uint64_t slots)
{
    int error = vectors_ensure_slot(vectors, segment->end - 1, 0);

    slots = slots < segment->end || slots > vectors->capacity ? segment->end : slots;
    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_ARENA, segment->arena_end, 0);
    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_NAMES, vectors->sizes[VECTORS_NAMES], 0);
    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_VALUES, segment->value_end * sizeof(vectors_value_t), 0);
    if (error == 0)
        error = vectors_ensure_columns(vectors, segment->end, segment->field_count, 0);
    if (error == 0)
        error = vectors_ensure_index(vectors, VECTORS_IDS, segment->first, slots - segment->first);
    if (error == 0 && segment->value_end != 0)
        error = vectors_ensure_index(vectors, VECTORS_VALUE_IDS, segment->value_first,
                                     segment->value_end - segment->value_first);
    return error;
}

/* Reads all parts to where nobody looks, the names into `names`. 0; errno; or -1: it is damaged. */
static inline int segment_read(int fd, const vectors_t *vectors, const segment_t *segment, vectors_name_t *names)
{
    char *buffer = malloc(SEGMENT_PIECE);
    int error = buffer == NULL ? ENOMEM : 0;

    for (int part = 0; part < SEGMENT_PARTS && error == 0; part++) {
        uint64_t size;
        uint32_t crc;
        segment_part(vectors, segment, part, &size);
        if (size != segment->parts[part].size || segment->parts[part].offset > 1ull << 48) {
            error = -1;
            break;
        }
        error = segment_move_part(fd, vectors, segment, part, buffer, segment->parts[part].offset, &crc);
        if (error == EIO || (error == 0 && crc != segment->parts[part].crc))
            error = -1;
        else if (part == SEGMENT_NAMES)
            memcpy(names, buffer, size);
    }
    free(buffer);
    return error;
}

/* Counts the slots of a segment that is in memory, one by one: each may come in the place of another. */
static inline void segment_publish(vectors_t *vectors, uint64_t first, uint64_t end)
{
    uint64_t hashes[SEGMENT_AHEAD];

    memset(VECTORS_AT(vectors, VECTORS_LINKS, vectors_link_t) + first, 0, (end - first) * sizeof(vectors_link_t));
    memcpy(VECTORS_AT(vectors, VECTORS_SPECIAL, char) + first / 8, VECTORS_AT(vectors, VECTORS_DELETED, char) + first / 8,
           (end - first) / 8);
    for (uint64_t slot = first; slot < end; slot++) {
        const uint64_t place = slot % SEGMENT_AHEAD;
        for (uint64_t next = 0; next < SEGMENT_AHEAD && place == 0; next++) {
            hashes[next] = vectors_id_hash(vectors, slot + next);
            vectors_fetch(vectors, VECTORS_IDS, hashes[next]);
        }
        vectors_publish_hashed(vectors, hashes[place], 0, 0);
    }
}

/* Reads a segment whose header fits, of so many slots that there may be in the end. 0; errno; or -1: it is damaged, and
 * nothing of it counts. */
static inline int segment_load(int fd, vectors_t *vectors, const segment_t *segment, uint64_t slots)
{
    vectors_control_t *control = vectors->control;
    vectors_name_t names[VECTORS_FIELDS]; /* those of slots that are there stay what they are */
    int error;

    word_release(&control->value_count, segment->value_first); /* others were staged, and came to nothing */
    error = segment_ensure(vectors, segment, slots);
    if (error == 0)
        error = segment_read(fd, vectors, segment, names);
    if (error != 0)
        return error;
    control->arena_used = segment->arena_end;
    memcpy(vectors->sections[VECTORS_NAMES], names, segment->field_count * sizeof *names);
    word_release(&control->field_count, segment->field_count);
    for (uint64_t number = segment->value_first; number < segment->value_end; number++) {
        const vectors_value_t *value = VECTORS_AT(vectors, VECTORS_VALUES, vectors_value_t) + number;
        word_release(&control->value_count, number + 1);
        if (vectors_in_arena(vectors, value->at, value->size))
            vectors_put(vectors, VECTORS_VALUE_IDS, vectors_value_hash(vectors, value), number);
    }
    segment_publish(vectors, segment->first, segment->end);
    return 0;
}

/* From now on the next segment begins behind this one; under the mutex. */
static inline void segment_note(vectors_t *vectors, const segment_t *segment)
{
    vectors_control_t *control = vectors->control;

    control->frozen = segment->end;
    control->frozen_arena = segment->arena_end;
    control->frozen_values = segment->value_end;
    control->frozen_crc = segment->crc;
}

#endif
