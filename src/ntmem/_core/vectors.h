/* Vectors of a collection in a file that processes share: appended by one at a time, read by all without a lock.
 *
 * A leaf: plain C, no Python. A change (a vector, or the deletion of one) has the next slot, and slots are never reused.
 * What a slot holds is written before `count` says that it is there, and stands for ever but for `next`, the slot
 * that came in its place; who searches takes `count` first, and what came later is nothing to it, in `next` as well.
 *
 * All that is read is held to be wrong until it was compared with a limit: offsets, sizes, numbers of slots.
 */
#ifndef NTMEM_VECTORS_H
#define NTMEM_VECTORS_H

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "failpoint.h"
#include "keyhash.h"
#include "region.h"
#include "scan.h"
#include "sync.h"

#define VECTORS_FIELDS 64      /* of metadata that have a column */
#define VECTORS_NAME 56        /* bytes of such a field's name */
#define VECTORS_FIRST_LEVEL 10 /* an index begins with so many bits of slots */
#define VECTORS_LEAST_ARENA (1ull << 28)
#define VECTORS_AT_BITS 38 /* of a text: where it is in the arena, and both its sizes, are one word */
#define VECTORS_METADATA_BITS 16
#define VECTORS_ID_BITS 10
#define VECTORS_SPARE (1ull << 18) /* bytes taken beyond what is needed, of large sections a 256th part if that is more */

enum vectors_section {
    VECTORS_ROWS = 1,
    VECTORS_STEPS,     /* float: a vector is its numbers times its step */
    VECTORS_SQUARES,   /* float: its squared length, of the metric l2 only */
    VECTORS_KNOWN,     /* int64 */
    VECTORS_EVENT,     /* int64 */
    VECTORS_LINKS,     /* vectors_link_t */
    VECTORS_SPECIAL,   /* a bit: it has a next, or is a deletion */
    VECTORS_DELETED,   /* a bit: it is a deletion */
    VECTORS_TEXTS,     /* vectors_text_t in one word */
    VECTORS_ARENA,     /* ids and metadata, and distinct values */
    VECTORS_NAMES,     /* of fields */
    VECTORS_KINDS,     /* a byte a slot, field by field */
    VECTORS_WORDS,     /* eight bytes a slot, field by field */
    VECTORS_VALUES,    /* vectors_value_t: distinct values */
    VECTORS_IDS,       /* index of ids: by slot plus 1 */
    VECTORS_VALUE_IDS, /* index of distinct values: by number plus 1 */
    VECTORS_SECTIONS,
};

enum vectors_kind { VECTORS_MISSING, VECTORS_INT, VECTORS_FLOAT, VECTORS_VALUE };
enum vectors_type { VECTORS_I8 = KERNELS_I8, VECTORS_F16 = KERNELS_F16, VECTORS_F32 = KERNELS_F32 };
enum vectors_metric { VECTORS_COSINE, VECTORS_L2, VECTORS_IP };

typedef struct {
    uint32_t next;   /* the slot that came in its place, plus 1; 0: none */
    uint32_t before; /* and the one in whose place it came */
} vectors_link_t;

typedef struct {
    uint64_t at; /* in the arena: the id, metadata behind it */
    uint32_t metadata_size;
    uint32_t id_size;
} vectors_text_t;

typedef struct {
    uint64_t at;
    uint32_t size;
    uint32_t field;
} vectors_value_t;

typedef struct {
    char name[VECTORS_NAME];
    uint64_t size;
} vectors_name_t;

typedef struct {
    shared_mutex_t mutex;
    uint64_t count;        /* of slots that are there */
    int64_t newest;        /* ts_known of any of them */
    uint64_t specials;     /* how many bits of SPECIAL are set; 0 is exact */
    uint64_t arena_used;
    uint64_t field_count;
    uint64_t value_count;
    uint64_t id_levels;    /* of the index: bit n is the one of 2^n places */
    uint64_t value_levels;
    uint64_t position;     /* of the log, before which the record of slot `count` was not there; 0: unknown */
    uint64_t epoch;        /* as of then */
    uint64_t is_over;      /* the collection was dropped, or this file was given up */
    uint64_t frozen, frozen_arena, frozen_values; /* up to where segments in files have what is here: segment.h */
    uint32_t frozen_crc;
    uint32_t freezer; /* pid of who writes the next one; 0: nobody */
    uint32_t builder; /* and of who makes a graph */
    uint64_t graphs;  /* how many were made */
    uint64_t allocated[VECTORS_SECTIONS]; /* bytes of a section for which there is memory */
} vectors_control_t;

_Static_assert(sizeof(vectors_control_t) <= REGION_PAGE, "it stands in the region's control page");

typedef struct {
    vectors_control_t *control;
    char *sections[VECTORS_SECTIONS];
    uint64_t sizes[VECTORS_SECTIONS];
    uint64_t offsets[VECTORS_SECTIONS]; /* in the file */
    int fd;
    uint32_t pid;
    uint64_t capacity; /* slots */
    uint32_t dimension;
    uint32_t stride; /* bytes of a row */
    int type;
    int metric;
} vectors_t;

#define VECTORS_AT(vectors, section, type) ((type *)(vectors)->sections[section])

/* ---- sizes ---------------------------------------------------------------------------------------------------- */

static inline uint32_t vectors_stride(int type, uint32_t dimension)
{
    const uint32_t size = type == VECTORS_I8 ? 1 : type == VECTORS_F16 ? 2 : 4;
    return (dimension * size + 31) & ~31u;
}

/* Bytes of a section of a file for so many slots, `capacity` being a power of two. */
static inline uint64_t vectors_section_size(int section, uint64_t capacity, uint32_t stride)
{
    switch (section) {
    case VECTORS_ROWS:
        return capacity * stride;
    case VECTORS_STEPS:
    case VECTORS_SQUARES:
        return capacity * 4;
    case VECTORS_LINKS:
    case VECTORS_KNOWN:
    case VECTORS_EVENT:
    case VECTORS_TEXTS:
        return capacity * 8;
    case VECTORS_SPECIAL:
    case VECTORS_DELETED:
        return (capacity + 63) / 64 * 8;
    case VECTORS_ARENA:
        capacity = capacity < 1ull << (VECTORS_AT_BITS - 10) ? capacity : 1ull << (VECTORS_AT_BITS - 10);
        return capacity * 1024 > VECTORS_LEAST_ARENA ? capacity * 1024 : VECTORS_LEAST_ARENA;
    case VECTORS_NAMES:
        return VECTORS_FIELDS * sizeof(vectors_name_t);
    case VECTORS_KINDS:
        return capacity * VECTORS_FIELDS;
    case VECTORS_WORDS:
        return capacity * VECTORS_FIELDS * 8;
    case VECTORS_VALUES:
        return capacity * 4 * sizeof(vectors_value_t);
    case VECTORS_IDS:
        return 4 * capacity * 4; /* levels up to twice as many as slots, one behind the other */
    default:
        return 4 * (capacity * 4) * 4;
    }
}

/* Whether the words by which a writer goes are what they can be; under the mutex. */
static inline int vectors_is_sound(const vectors_t *vectors)
{
    const vectors_control_t *control = vectors->control;
    const uint64_t *allocated = control->allocated;
    int sound = control->count <= vectors->capacity && control->arena_used <= vectors->sizes[VECTORS_ARENA] &&
                control->field_count <= VECTORS_FIELDS && control->frozen <= control->count &&
                control->value_count <= vectors->sizes[VECTORS_VALUES] / sizeof(vectors_value_t) &&
                control->frozen_arena <= control->arena_used && control->frozen_values <= control->value_count &&
                control->id_levels < vectors->sizes[VECTORS_IDS] / 4 &&
                control->value_levels < vectors->sizes[VECTORS_VALUE_IDS] / 4;

    for (int section = 1; section < VECTORS_SECTIONS; section++)
        if (section != VECTORS_KINDS && section != VECTORS_WORDS)
            sound &= allocated[section] <= vectors->sizes[section];
    return sound && allocated[VECTORS_KINDS] <= vectors->capacity && allocated[VECTORS_WORDS] <= VECTORS_FIELDS &&
           control->arena_used <= allocated[VECTORS_ARENA] &&
           control->value_count * sizeof(vectors_value_t) <= allocated[VECTORS_VALUES] &&
           control->count <= allocated[VECTORS_KINDS] && control->field_count <= allocated[VECTORS_WORDS];
}

/* Memory for bytes of a section, or ENOSPC; under the mutex. */
static inline int vectors_allocate(vectors_t *vectors, int section, uint64_t from, uint64_t to)
{
    int error;

    if (to > vectors->sizes[section])
        return ENOSPC;
    do
        error = posix_fallocate(vectors->fd, (off_t)(vectors->offsets[section] + from), (off_t)(to - from));
    while (error == EINTR);
    return error;
}

/* What is taken if so much is needed: more, so that it is rare, where it is not known (`spare`) how much will be. */
static inline uint64_t vectors_taken(uint64_t needed, uint64_t least, int spare)
{
    const uint64_t most = needed / 256 > least ? needed / 256 : least;

    return spare ? needed + (needed / 8 < most ? needed / 8 : most) : needed;
}

/* Memory for the first bytes of a section. */
static inline int vectors_ensure(vectors_t *vectors, int section, uint64_t bytes, int spare)
{
    uint64_t *allocated = &vectors->control->allocated[section], to;
    int error;

    if (bytes <= *allocated)
        return 0;
    to = page_round_up(vectors_taken(bytes, VECTORS_SPARE, spare));
    to = to < vectors->sizes[section] ? to : vectors->sizes[section];
    if (to < bytes)
        return ENOSPC;
    error = vectors_allocate(vectors, section, *allocated, to);
    if (error == 0)
        *allocated = to;
    return error;
}

/* Columns stand one behind the other, so each has memory of its own; `allocated` counts slots here. */
static inline int vectors_ensure_columns(vectors_t *vectors, uint64_t slots, uint64_t fields, int spare)
{
    vectors_control_t *control = vectors->control;
    uint64_t *slots_of = &control->allocated[VECTORS_KINDS], *fields_of = &control->allocated[VECTORS_WORDS];
    uint64_t to = *slots_of;
    int error = 0;

    if (slots <= *slots_of && fields <= *fields_of)
        return 0;
    if (slots > to)
        to = (vectors_taken(slots, VECTORS_SPARE / 64, spare) + 511) & ~(uint64_t)511;
    to = to < vectors->capacity ? to : vectors->capacity;
    if (to < slots || fields > VECTORS_FIELDS)
        return ENOSPC;
    for (uint64_t field = 0; field < fields && error == 0; field++) {
        const uint64_t from = field < *fields_of ? *slots_of : 0, base = field * vectors->capacity;
        if (from == to)
            continue;
        error = vectors_allocate(vectors, VECTORS_KINDS, base + from, base + to);
        if (error == 0)
            error = vectors_allocate(vectors, VECTORS_WORDS, 8 * (base + from), 8 * (base + to));
    }
    if (error != 0)
        return error;
    *slots_of = to;
    *fields_of = fields > *fields_of ? fields : *fields_of;
    return 0;
}

/* Memory for the slot `slot`, but for its text and columns. */
static inline int vectors_ensure_slot(vectors_t *vectors, uint64_t slot, int spare)
{
    static const int sections[] = {VECTORS_ROWS,    VECTORS_STEPS, VECTORS_SQUARES, VECTORS_KNOWN,  VECTORS_EVENT,
                                   VECTORS_LINKS,   VECTORS_TEXTS, VECTORS_SPECIAL, VECTORS_DELETED};
    int error = slot < vectors->capacity ? 0 : ENOSPC;

    for (size_t i = 0; i < sizeof sections / sizeof *sections && error == 0; i++) {
        const int section = sections[i];
        const int is_bits = section == VECTORS_SPECIAL || section == VECTORS_DELETED;
        if (section == VECTORS_SQUARES && vectors->metric != VECTORS_L2)
            continue;
        error = vectors_ensure(
            vectors, section,
            is_bits ? (slot / 64 + 1) * 8 : (slot + 1) * (vectors->sizes[section] / vectors->capacity), spare);
    }
    return error;
}

/* ---- rows ----------------------------------------------------------------------------------------------------- */

/* To the nearest, ties to even; what is too large for a half is the caller's to refuse. */
static inline uint16_t vectors_half(float number)
{
    uint32_t bits, sign, rest;
    uint64_t fraction;
    int exponent, shift;

    memcpy(&bits, &number, sizeof bits);
    sign = bits >> 16 & 0x8000u;
    exponent = (int)(bits >> 23 & 255) - 112;
    fraction = (bits & 0x7fffffu) | 0x800000u;
    if (exponent < -10)
        return (uint16_t)sign;
    shift = exponent > 0 ? 13 : 14 - exponent;
    rest = (uint32_t)(fraction & ((1u << shift) - 1));
    fraction >>= shift;
    fraction += rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (fraction & 1) != 0);
    return (uint16_t)(sign | ((exponent > 0 ? (uint32_t)(exponent - 1) << 10 : 0) + (uint32_t)fraction));
}

/* A vector as a row of a collection of this type, its step and its squared length. Of a cosine the steps make all lengths
 * 1, that of what is kept: a vector is at 1 from itself. */
static inline void vectors_row(const vectors_t *vectors, int type, const float *numbers, float *scratch, void *row,
                               float *step, float *square)
{
    const uint32_t dimension = vectors->dimension;
    double length = 0.0, kept = 0.0;

    for (uint32_t i = 0; i < dimension; i++)
        length += (double)numbers[i] * numbers[i];
    if (vectors->metric == VECTORS_COSINE) {
        const double scale = 1.0 / sqrt(length);
        for (uint32_t i = 0; i < dimension; i++)
            scratch[i] = (float)(numbers[i] * scale);
        numbers = scratch;
    }
    *step = 1.0f;
    if (type == VECTORS_I8) {
        int8_t *to = row;
        int64_t sum = 0;
        *step = quantize_i8(numbers, dimension, to);
        for (uint32_t i = 0; i < dimension; i++)
            sum += to[i] * to[i];
        kept = (double)*step * *step * (double)sum;
    } else if (type == VECTORS_F16) {
        uint16_t *to = row;
        for (uint32_t i = 0; i < dimension; i++) {
            to[i] = vectors_half(numbers[i]);
            kept += (double)half_of(to[i]) * half_of(to[i]);
        }
    } else {
        memcpy(row, numbers, dimension * sizeof *numbers);
        for (uint32_t i = 0; i < dimension; i++)
            kept += (double)numbers[i] * numbers[i];
    }
    if (vectors->metric == VECTORS_COSINE && kept > 0.0)
        *step = (float)(*step / sqrt(kept));
    *square = (float)kept;
}

/* Of slots that are there; no more than there can be. */
static inline uint64_t vectors_count(const vectors_t *vectors)
{
    const uint64_t count = word_acquire(&vectors->control->count);
    return count < vectors->capacity ? count : vectors->capacity;
}

static inline uint64_t vectors_value_count(const vectors_t *vectors)
{
    const uint64_t count = word_acquire(&vectors->control->value_count);
    const uint64_t most = vectors->sizes[VECTORS_VALUES] / sizeof(vectors_value_t);
    return count < most ? count : most;
}

/* ---- texts ---------------------------------------------------------------------------------------------------- */

static inline int vectors_in_arena(const vectors_t *vectors, uint64_t at, uint64_t size)
{
    return at <= vectors->sizes[VECTORS_ARENA] && size <= vectors->sizes[VECTORS_ARENA] - at;
}

static inline uint64_t vectors_text_word(const vectors_text_t *text)
{
    return text->at | (uint64_t)text->metadata_size << VECTORS_AT_BITS |
           (uint64_t)text->id_size << (VECTORS_AT_BITS + VECTORS_METADATA_BITS);
}

/* A copy of what the slot says of its text; 0: it cannot be. */
static inline int vectors_text(const vectors_t *vectors, uint64_t slot, vectors_text_t *text)
{
    const uint64_t word = VECTORS_AT(vectors, VECTORS_TEXTS, uint64_t)[slot];

    text->at = word & ((1ull << VECTORS_AT_BITS) - 1);
    text->metadata_size = (uint32_t)(word >> VECTORS_AT_BITS) & ((1u << VECTORS_METADATA_BITS) - 1);
    text->id_size = (uint32_t)(word >> (VECTORS_AT_BITS + VECTORS_METADATA_BITS));
    return vectors_in_arena(vectors, text->at, (uint64_t)text->id_size + text->metadata_size);
}

static inline int vectors_has_id(const vectors_t *vectors, uint64_t slot, const char *id, uint32_t size)
{
    vectors_text_t text;

    return vectors_text(vectors, slot, &text) && text.id_size == size &&
           memcmp(vectors->sections[VECTORS_ARENA] + text.at, id, size) == 0;
}

static inline int vectors_is_value(const vectors_t *vectors, uint64_t number, uint32_t field, const char *bytes,
                                   uint32_t size)
{
    vectors_value_t value;

    memcpy(&value, VECTORS_AT(vectors, VECTORS_VALUES, vectors_value_t) + number, sizeof value);
    return value.field == field && value.size == size && vectors_in_arena(vectors, value.at, size) &&
           memcmp(vectors->sections[VECTORS_ARENA] + value.at, bytes, size) == 0;
}

/* ---- indexes: open addressing, in levels of which each has twice as many places as the one before or more. Nothing is
 * moved: what comes stands in the last level, and who looks goes from that to the first. An entry is a number plus 1, and
 * above it as many bits of the hash as there is room for, so that few others are looked at. ----------------------- */

static inline uint64_t vectors_hash(const char *bytes, size_t size, uint64_t seed)
{
    return keyhash_bytes((const unsigned char *)bytes, size, seed + KEYHASH_SEED);
}

static inline uint32_t *vectors_level(const vectors_t *vectors, int section, uint64_t level)
{
    const uint64_t places = 1ull << (level < 40 ? level : 40);
    return 2 * places * 4 <= vectors->sizes[section] ? VECTORS_AT(vectors, section, uint32_t) + places : NULL;
}

static inline uint64_t vectors_levels(const vectors_t *vectors, int section)
{
    const vectors_control_t *control = vectors->control;
    return word_acquire(section == VECTORS_IDS ? &control->id_levels : &control->value_levels);
}

static inline uint64_t vectors_last_level(uint64_t levels) { return 63 - (uint64_t)__builtin_clzll(levels | 1); }

/* The part of an entry that is a number. */
static inline uint32_t vectors_number_mask(const vectors_t *vectors, int section)
{
    const uint64_t most = section == VECTORS_IDS ? vectors->capacity : 4 * vectors->capacity;
    return most < 1ull << 31 ? (uint32_t)(2 * most - 1) : ~0u;
}

static inline uint32_t vectors_entry(uint32_t mask, uint64_t hash, uint64_t number)
{
    return ((uint32_t)(hash >> 32) & ~mask) | (uint32_t)(number + 1);
}

/* A look through an index: the next number, plus 1, of what may have this hash; 0: there are no more. */
typedef struct {
    const uint32_t *index;
    uint64_t levels, hash, place, looked, places;
    uint32_t mask;
} vectors_look_t;

static inline vectors_look_t vectors_look(const vectors_t *vectors, int section, uint64_t hash)
{
    return (vectors_look_t){
        .levels = vectors_levels(vectors, section), .hash = hash, .mask = vectors_number_mask(vectors, section)};
}

static inline uint32_t vectors_next(const vectors_t *vectors, int section, vectors_look_t *look)
{
    for (;;) {
        while (look->looked < look->places) {
            const uint32_t entry = word32_acquire(&look->index[look->place++ & (look->places - 1)]);
            if (entry == 0)
                break;
            look->looked++;
            if (((entry ^ (uint32_t)(look->hash >> 32)) & ~look->mask) == 0 && (entry & look->mask) != 0)
                return entry & look->mask;
        }
        if (look->levels == 0)
            return 0;
        look->index = vectors_level(vectors, section, vectors_last_level(look->levels));
        look->places = look->index == NULL ? 0 : 1ull << vectors_last_level(look->levels);
        look->levels &= ~(1ull << vectors_last_level(look->levels));
        look->place = look->hash;
        look->looked = 0;
    }
}

static inline uint64_t vectors_find_hashed(const vectors_t *vectors, const char *id, uint32_t size, uint64_t hash)
{
    vectors_look_t look = vectors_look(vectors, VECTORS_IDS, hash);
    const uint64_t count = vectors_count(vectors);
    uint64_t found;

    if (count != 0 && vectors_has_id(vectors, count - 1, id, size))
        return count; /* it may not be in the index yet */
    while ((found = vectors_next(vectors, VECTORS_IDS, &look)) != 0)
        if (found <= vectors_count(vectors) && vectors_has_id(vectors, found - 1, id, size))
            return found;
    return 0;
}

/* The slot of the newest change of this id, plus 1; 0: there is none. */
static inline uint64_t vectors_find(const vectors_t *vectors, const char *id, uint32_t size)
{
    return vectors_find_hashed(vectors, id, size, vectors_hash(id, size, 0));
}

static inline uint64_t vectors_find_value(const vectors_t *vectors, uint32_t field, const char *bytes, uint32_t size)
{
    vectors_look_t look = vectors_look(vectors, VECTORS_VALUE_IDS, vectors_hash(bytes, size, field + 1));
    const uint64_t count = vectors_value_count(vectors);
    uint64_t found;

    while ((found = vectors_next(vectors, VECTORS_VALUE_IDS, &look)) != 0)
        if (found <= count && vectors_is_value(vectors, found - 1, field, bytes, size))
            return found;
    return 0;
}

/* Room for `more` in the index of `count`, under the mutex. */
static inline int vectors_ensure_index(vectors_t *vectors, int section, uint64_t count, uint64_t more)
{
    vectors_control_t *control = vectors->control;
    uint64_t *levels = section == VECTORS_IDS ? &control->id_levels : &control->value_levels;
    uint64_t level = *levels == 0 ? VECTORS_FIRST_LEVEL : vectors_last_level(*levels) + 1;
    int error;

    if (count + more <= *levels / 2) /* half of all places */
        return 0;
    while (level < 40 && count + more > (*levels + (1ull << level)) / 2)
        level++;
    if (vectors_level(vectors, section, level) == NULL)
        return ENOSPC;
    error = vectors_allocate(vectors, section, 4ull << level, 8ull << level);
    if (error == 0)
        word_release(levels, *levels | 1ull << level);
    return error;
}

static inline int vectors_same_id(const vectors_t *vectors, uint64_t slot, uint64_t other)
{
    vectors_text_t text;

    return vectors_text(vectors, slot, &text) && other < vectors->capacity &&
           vectors_has_id(vectors, other, vectors->sections[VECTORS_ARENA] + text.at, text.id_size);
}

/* Asks the memory for where a number with this hash will be put. */
static inline void vectors_fetch(const vectors_t *vectors, int section, uint64_t hash)
{
    const uint64_t level = vectors_last_level(vectors_levels(vectors, section));
    const uint32_t *index = vectors_level(vectors, section, level);

    if (index != NULL)
        __builtin_prefetch(&index[hash & ((1ull << level) - 1)], 1);
}

/* Puts a number into the last level: in the place of an older change of its id, else where there is nothing. */
static inline void vectors_put(vectors_t *vectors, int section, uint64_t hash, uint64_t number)
{
    const uint64_t level = vectors_last_level(vectors_levels(vectors, section)), places = 1ull << (level & 63);
    const uint32_t mask = vectors_number_mask(vectors, section), entry = vectors_entry(mask, hash, number);
    uint32_t *index = vectors_level(vectors, section, level);

    for (uint64_t looked = 0, place = hash; index != NULL && looked < places; looked++, place++) {
        const uint32_t found = index[place & (places - 1)];
        if (found != 0 && (section != VECTORS_IDS || ((found ^ entry) & ~mask) != 0 ||
                           !vectors_same_id(vectors, number, (found & mask) - 1ull)))
            continue;
        __atomic_store_n(&index[place & (places - 1)], entry, __ATOMIC_RELEASE);
        return;
    }
}

/* Of a value that is in the arena. */
static inline uint64_t vectors_value_hash(const vectors_t *vectors, const vectors_value_t *value)
{
    return vectors_hash(vectors->sections[VECTORS_ARENA] + value->at, value->size, value->field + 1);
}

/* Of the id of a slot that is there, or is staged. */
static inline uint64_t vectors_id_hash(const vectors_t *vectors, uint64_t slot)
{
    vectors_text_t text;

    if (!vectors_text(vectors, slot, &text))
        return 0;
    return vectors_hash(vectors->sections[VECTORS_ARENA] + text.at, text.id_size, 0);
}

/* ---- fields and distinct values ------------------------------------------------------------------------------- */

/* The number of a field, plus 1; 0: it has no column. */
static inline uint64_t vectors_field(const vectors_t *vectors, const char *name, size_t size)
{
    uint64_t count = word_acquire(&vectors->control->field_count);
    const vectors_name_t *names = VECTORS_AT(vectors, VECTORS_NAMES, vectors_name_t);

    count = count < VECTORS_FIELDS ? count : VECTORS_FIELDS;
    for (uint64_t number = 0; number < count; number++)
        if (names[number].size == size && size <= VECTORS_NAME && memcmp(names[number].name, name, size) == 0)
            return number + 1;
    return 0;
}

/* As above, a new one if need be and there is room; under the mutex. -1 and errno: no memory. */
static inline int64_t vectors_field_made(vectors_t *vectors, const char *name, size_t size)
{
    vectors_control_t *control = vectors->control;
    const uint64_t found = vectors_field(vectors, name, size), count = control->field_count;
    vectors_name_t *to = VECTORS_AT(vectors, VECTORS_NAMES, vectors_name_t) + count;

    if (found != 0 || size > VECTORS_NAME || count >= VECTORS_FIELDS)
        return (int64_t)found;
    errno = vectors_ensure(vectors, VECTORS_NAMES, vectors->sizes[VECTORS_NAMES], 0);
    if (errno == 0)
        errno = vectors_ensure_columns(vectors, control->count + 1, count + 1, 1);
    if (errno != 0)
        return -1;
    memset(VECTORS_AT(vectors, VECTORS_KINDS, char) + count * vectors->capacity, VECTORS_MISSING,
           control->allocated[VECTORS_KINDS]); /* a segment that was damaged may have been read to here */
    memcpy(to->name, name, size);
    to->size = size;
    word_release(&control->field_count, count + 1);
    return (int64_t)count + 1;
}

/* The number of a distinct value, plus 1, a new one if need be; under the mutex. -1 and errno: no memory. */
static inline int64_t vectors_value_made(vectors_t *vectors, uint32_t field, const char *bytes, uint32_t size)
{
    vectors_control_t *control = vectors->control;
    const uint64_t found = vectors_find_value(vectors, field, bytes, size), count = control->value_count;
    vectors_value_t value = {control->arena_used, size, field};

    if (found != 0)
        return (int64_t)found;
    errno = vectors_ensure_index(vectors, VECTORS_VALUE_IDS, count, 1);
    if (errno == 0)
        errno = vectors_ensure(vectors, VECTORS_VALUES, (count + 1) * sizeof value, 1);
    if (errno == 0)
        errno = vectors_ensure(vectors, VECTORS_ARENA, value.at + size, 1);
    if (errno != 0)
        return -1;
    memcpy(vectors->sections[VECTORS_ARENA] + value.at, bytes, size);
    memcpy(VECTORS_AT(vectors, VECTORS_VALUES, vectors_value_t) + count, &value, sizeof value);
    control->arena_used = value.at + size;
    word_release(&control->value_count, count + 1);
    FAILPOINT(vectors_valued);
    vectors_put(vectors, VECTORS_VALUE_IDS, vectors_hash(bytes, size, field + 1), count);
    return (int64_t)count + 1;
}

/* ---- a change: staged where nobody looks, then published ------------------------------------------------------- */

static inline void vectors_bit(vectors_t *vectors, int section, uint64_t slot, int value)
{
    uint64_t *word = VECTORS_AT(vectors, section, uint64_t) + slot / 64;
    const uint64_t bit = 1ull << slot % 64;

    __atomic_store_n(word, value ? *word | bit : *word & ~bit, __ATOMIC_RELEASE);
}

/* The next slot gets its text and times, and no field yet. 0, or why there is no room. */
static inline int vectors_stage(vectors_t *vectors, const char *id, uint32_t id_size, const char *metadata,
                                uint32_t metadata_size, int64_t event, int64_t known, int is_deletion)
{
    vectors_control_t *control = vectors->control;
    const uint64_t slot = control->count;
    const vectors_text_t text = {control->arena_used, metadata_size, id_size};
    int error = vectors_ensure_slot(vectors, slot, 1);

    if (id_size >> VECTORS_ID_BITS != 0 || metadata_size >> VECTORS_METADATA_BITS != 0)
        return EINVAL; /* who writes allows less */
    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_ARENA, text.at + id_size + metadata_size, 1);
    if (error == 0)
        error = vectors_ensure_columns(vectors, slot + 1, control->field_count, 1);
    if (error == 0)
        error = vectors_ensure_index(vectors, VECTORS_IDS, slot, 1);
    if (error != 0)
        return error;
    memcpy(vectors->sections[VECTORS_ARENA] + text.at, id, id_size);
    if (metadata_size != 0)
        memcpy(vectors->sections[VECTORS_ARENA] + text.at + id_size, metadata, metadata_size);
    control->arena_used = text.at + id_size + metadata_size; /* values come behind it; if it comes to nothing, it is lost */
    VECTORS_AT(vectors, VECTORS_TEXTS, uint64_t)[slot] = vectors_text_word(&text);
    VECTORS_AT(vectors, VECTORS_EVENT, int64_t)[slot] = event;
    VECTORS_AT(vectors, VECTORS_KNOWN, int64_t)[slot] = known;
    VECTORS_AT(vectors, VECTORS_LINKS, vectors_link_t)[slot] = (vectors_link_t){0, 0};
    vectors_bit(vectors, VECTORS_DELETED, slot, is_deletion);
    vectors_bit(vectors, VECTORS_SPECIAL, slot, is_deletion);
    for (uint64_t field = 0; field < control->field_count && field < VECTORS_FIELDS; field++)
        VECTORS_AT(vectors, VECTORS_KINDS, uint8_t)[field * vectors->capacity + slot] = VECTORS_MISSING;
    FAILPOINT(vectors_staged);
    return 0;
}

static inline void vectors_stage_field(vectors_t *vectors, uint64_t field, int kind, uint64_t word)
{
    const uint64_t place = (field - 1) * vectors->capacity + vectors->control->count;

    VECTORS_AT(vectors, VECTORS_WORDS, uint64_t)[place] = word;
    VECTORS_AT(vectors, VECTORS_KINDS, uint8_t)[place] = (uint8_t)kind;
}

/* Its numbers, which are finite; `scratch` has room for as many, and may be where they are. */
static inline void vectors_stage_row(vectors_t *vectors, const float *numbers, float *scratch)
{
    const uint64_t slot = vectors->control->count;
    float square;

    vectors_row(vectors, vectors->type, numbers, scratch, vectors->sections[VECTORS_ROWS] + slot * vectors->stride,
                VECTORS_AT(vectors, VECTORS_STEPS, float) + slot, &square);
    if (vectors->metric == VECTORS_L2)
        VECTORS_AT(vectors, VECTORS_SQUARES, float)[slot] = square;
}

/* The staged change is there from now on. What may be done twice is done so by vectors_repair. */
static inline void vectors_publish_hashed(vectors_t *vectors, uint64_t hash, uint64_t position, uint64_t epoch)
{
    vectors_control_t *control = vectors->control;
    const uint64_t slot = control->count;
    const int64_t known = VECTORS_AT(vectors, VECTORS_KNOWN, int64_t)[slot];
    vectors_link_t *links = VECTORS_AT(vectors, VECTORS_LINKS, vectors_link_t);
    const char *arena = vectors->sections[VECTORS_ARENA];
    vectors_text_t text;
    uint64_t before = 0;

    if (vectors_text(vectors, slot, &text))
        before = vectors_find_hashed(vectors, arena + text.at, text.id_size, hash);
    if (before != 0) {
        links[slot].before = (uint32_t)before;
        __atomic_store_n(&links[before - 1].next, (uint32_t)slot + 1, __ATOMIC_RELEASE);
        vectors_bit(vectors, VECTORS_SPECIAL, before - 1, 1);
    }
    FAILPOINT(vectors_replaced);
    if (before != 0 || (VECTORS_AT(vectors, VECTORS_DELETED, uint64_t)[slot / 64] >> slot % 64 & 1) != 0)
        word_release(&control->specials, control->specials + 1);
    if (known > control->newest)
        __atomic_store_n(&control->newest, known, __ATOMIC_RELEASE);
    word_release(&control->position, 0);
    word_release(&control->count, slot + 1);
    FAILPOINT(vectors_counted);
    vectors_put(vectors, VECTORS_IDS, hash, slot);
    FAILPOINT(vectors_indexed);
    control->epoch = epoch;
    word_release(&control->position, position);
}

static inline void vectors_publish(vectors_t *vectors, uint64_t position, uint64_t epoch)
{
    vectors_publish_hashed(vectors, vectors_id_hash(vectors, vectors->control->count), position, epoch);
}

/* What a dead writer left half done: it may have counted a slot or a value without putting it into the index. */
static inline void vectors_repair(vectors_t *vectors)
{
    const uint64_t slots = vectors_count(vectors), values = vectors_value_count(vectors);
    const char *arena = vectors->sections[VECTORS_ARENA];

    vectors->control->position = 0;
    if (slots > 0)
        vectors_put(vectors, VECTORS_IDS, vectors_id_hash(vectors, slots - 1), slots - 1);
    if (values > 0) {
        const vectors_value_t value = VECTORS_AT(vectors, VECTORS_VALUES, vectors_value_t)[values - 1];
        if (vectors_in_arena(vectors, value.at, value.size) &&
            vectors_find_value(vectors, value.field, arena + value.at, value.size) == 0)
            vectors_put(vectors, VECTORS_VALUE_IDS, vectors_value_hash(vectors, &value), values - 1);
    }
}

/* Memory for so many more changes, with so many bytes of ids and metadata, which have so many fields in all, of names
 * that are known; under the mutex. */
static inline int vectors_reserve(vectors_t *vectors, uint64_t slots, uint64_t bytes, uint64_t values)
{
    vectors_control_t *control = vectors->control;
    int error = slots == 0 ? 0 : vectors_ensure_slot(vectors, control->count + slots - 1, 1);

    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_ARENA, control->arena_used + 2 * bytes, 1); /* as values, too */
    if (error == 0)
        error = vectors_ensure(vectors, VECTORS_VALUES, (control->value_count + values) * sizeof(vectors_value_t), 1);
    if (error == 0)
        error = vectors_ensure_index(vectors, VECTORS_IDS, control->count, slots);
    if (error == 0 && values != 0)
        error = vectors_ensure_index(vectors, VECTORS_VALUE_IDS, control->value_count, values);
    if (error == 0)
        error = vectors_ensure_columns(vectors, control->count + slots, control->field_count, 1);
    return error;
}

/* ---- large pages ------------------------------------------------------------------------------------------------ */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Makes large pages of those that the rows of the first `count` slots fill, where the system can (Linux 6.1): a graph
 * leads from one row to any other, and most of these are on pages whose place no processor remembers. */
static inline void vectors_collapse(const vectors_t *vectors, uint64_t count)
{
    const uintptr_t rows = (uintptr_t)vectors->sections[VECTORS_ROWS], mask = REGION_LARGE_PAGE - 1;
    const uintptr_t from = (rows + mask) & ~mask, to = (rows + count * vectors->stride) & ~mask;

    for (uintptr_t at = from; at < to; at += REGION_LARGE_PAGE)
        if (madvise((void *)at, REGION_LARGE_PAGE, MADV_COLLAPSE) != 0 && errno != EAGAIN && errno != EBUSY)
            return;
}

/* ---- reading as of an instant ---------------------------------------------------------------------------------- */

static inline int vectors_is_deletion(const vectors_t *vectors, uint64_t slot)
{
    return VECTORS_AT(vectors, VECTORS_DELETED, uint64_t)[slot / 64] >> slot % 64 & 1;
}

/* Whether something that was known at `limit` came in the place of a slot, for who sees the first `count`. */
static inline int vectors_is_replaced(const vectors_t *vectors, uint64_t slot, uint64_t count, int64_t limit)
{
    const int64_t *known = VECTORS_AT(vectors, VECTORS_KNOWN, int64_t);
    const vectors_link_t *links = VECTORS_AT(vectors, VECTORS_LINKS, vectors_link_t);

    for (;;) {
        const uint64_t next = word32_acquire(&links[slot].next);
        if (next == 0 || next > count || next - 1 <= slot) /* the last is damage: they only rise */
            return 0;
        slot = next - 1;
        if (known[slot] <= limit)
            return 1;
    }
}

/* The slot that is served of an id at `limit`, plus 1; 0: none is. */
static inline uint64_t vectors_served_of(const vectors_t *vectors, const char *id, uint32_t size, int64_t limit)
{
    uint64_t found = vectors_find(vectors, id, size);

    while (found != 0 && VECTORS_AT(vectors, VECTORS_KNOWN, int64_t)[found - 1] > limit) {
        const uint64_t before = VECTORS_AT(vectors, VECTORS_LINKS, vectors_link_t)[found - 1].before;
        found = before < found ? before : 0;
    }
    return found != 0 && vectors_is_deletion(vectors, found - 1) ? 0 : found;
}

/* Clears the bits of slots that are not served at `limit` to who sees the first `count`: what was not known by then, what
 * was replaced or deleted by then, and deletions. Returns how many are left. */
static inline uint64_t vectors_served(const vectors_t *vectors, uint64_t count, int64_t limit, uint64_t *bits)
{
    const uint64_t *special = VECTORS_AT(vectors, VECTORS_SPECIAL, uint64_t);
    const int64_t *known = VECTORS_AT(vectors, VECTORS_KNOWN, int64_t);
    const int some_later = __atomic_load_n(&vectors->control->newest, __ATOMIC_ACQUIRE) > limit;
    uint64_t left = 0;

    for (uint64_t word = 0; word < (count + 63) / 64; word++) {
        uint64_t kept = bits[word], looked = some_later ? kept : 0;
        for (; looked != 0; looked &= looked - 1) {
            const uint64_t place = (uint64_t)__builtin_ctzll(looked);
            kept &= ~((uint64_t)(known[word * 64 + place] > limit) << place);
        }
        for (looked = kept & word_acquire(&special[word]); looked != 0; looked &= looked - 1) {
            const uint64_t place = (uint64_t)__builtin_ctzll(looked), slot = word * 64 + place;
            if (vectors_is_deletion(vectors, slot) || vectors_is_replaced(vectors, slot, count, limit))
                kept &= ~(1ull << place);
        }
        bits[word] = kept;
        left += (uint64_t)__builtin_popcountll(kept);
    }
    return left;
}

static inline void vectors_all(uint64_t count, uint64_t *bits)
{
    memset(bits, 0xff, count / 64 * 8);
    if (count % 64 != 0)
        bits[count / 64] = (1ull << count % 64) - 1;
}

/* Whether all of the slots of which `count` was taken before are served at `limit`. */
static inline int vectors_all_served(const vectors_t *vectors, int64_t limit)
{
    return word_acquire(&vectors->control->specials) == 0 &&
           __atomic_load_n(&vectors->control->newest, __ATOMIC_ACQUIRE) <= limit;
}

/* A query is int8 for rows of int8, else float32. */
static inline void vectors_query(const vectors_t *vectors, const float *numbers, float *scratch, void *query,
                                 float *step, float *square)
{
    const int type = vectors->type == VECTORS_I8 ? VECTORS_I8 : VECTORS_F32;
    vectors_row(vectors, type, numbers, scratch, query, step, square);
}

#endif
