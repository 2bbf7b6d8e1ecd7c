/* How rows stand on disk: what ntmem/tiers/layout.py and tables.py write, byte for byte, from C.
 *
 * A leaf: plain C, no Python, no LMDB: only bytes. layout.py has the specification; integers within keys are
 * big-endian, all others little-endian. What is decoded points into the bytes it was decoded from.
 */
#ifndef NTMEM_ROWS_H
#define NTMEM_ROWS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "blake2b.h"
#include "crc32.h"

#define ROW_FORMAT 1 /* of records and of namespaces */
#define ROW_DELETED 1 /* flags of records */
#define ROW_AHEAD 2
#define ROW_HAS_KEY 4
#define ROW_FENCED 16 /* the writer's name is followed by the lease under which it wrote */
#define ROW_KEY_HEAD 479
#define ROW_LONG_KEY (ROW_KEY_HEAD + BLAKE2B_DIGEST)
#define ROW_SPACE_HEAD 484
#define ROW_LONG_SPACE (ROW_SPACE_HEAD + BLAKE2B_DIGEST)
#define ROW_KEY_ROOM (8 + ROW_LONG_KEY)       /* what any key of `records` fits into, */
#define ROW_EXPIRY_ROOM (8 + ROW_KEY_ROOM)    /* of `expiry`, */
#define ROW_PAST_KEY (8 + BLAKE2B_DIGEST + 8) /* and the size of those of `history` */
#define ROW_PAST_STEM (8 + BLAKE2B_DIGEST)

typedef struct {
    uint8_t flags; /* without HAS_KEY */
    uint16_t writer_size;
    uint32_t key_size; /* 0: the database key holds it */
    uint64_t version;
    int64_t ts_event;
    int64_t ts_known;
    int64_t expires_at;
    const unsigned char *writer;
    const unsigned char *key;
    const unsigned char *value;
    size_t value_size;
} row_record_t;

typedef struct {
    uint64_t id;
    int64_t max_age;   /* 0: none */
    int64_t max_bytes; /* 0: none */
    int64_t history_since;
    int64_t history_bytes;
    int history;
    uint8_t rules; /* all that is kept of them: history, and what only Python asks for */
} row_space_t;

typedef struct {
    uint64_t generation;
    uint64_t position;
    uint64_t next_namespace;
    int64_t latest;
} row_head_t;

/* ---- keys ----------------------------------------------------------------------------------------------------- */

static inline void row_store_big(unsigned char *to, uint64_t number)
{
    number = __builtin_bswap64(number);
    memcpy(to, &number, sizeof number);
}

static inline uint64_t row_load_big(const unsigned char *from)
{
    uint64_t number;

    memcpy(&number, from, sizeof number);
    return __builtin_bswap64(number);
}

/* A name as it stands in a key: itself, or its head and a digest of the whole. Its size. */
static inline size_t row_name(unsigned char *to, const unsigned char *name, size_t size, size_t head)
{
    if (size < head + BLAKE2B_DIGEST) {
        memcpy(to, name, size);
        return size;
    }
    memcpy(to, name, head);
    blake2b_digest(to + head, name, size);
    return head + BLAKE2B_DIGEST;
}

static inline size_t row_record_key(unsigned char *to, uint64_t id, const unsigned char *key, size_t size)
{
    row_store_big(to, id);
    return 8 + row_name(to + 8, key, size, ROW_KEY_HEAD);
}

static inline int row_holds_key(size_t record_key_size) { return record_key_size < 8 + ROW_LONG_KEY; }

/* What the keys of all past versions of a key begin with. */
static inline void row_past_stem(unsigned char *to, uint64_t id, const unsigned char *key, size_t size)
{
    row_store_big(to, id);
    blake2b_digest(to + 8, key, size);
}

static inline size_t row_expiry_key(unsigned char *to, int64_t expires_at, const unsigned char *record_key, size_t size)
{
    row_store_big(to, (uint64_t)expires_at);
    memcpy(to + 8, record_key, size);
    return 8 + size;
}

/* Labels, each behind its length: none is empty, and they end where they should. */
static inline int row_labels_fit(const unsigned char *labels, size_t size)
{
    size_t at = 0;

    while (at < size && labels[at] != 0)
        at += 1 + (size_t)labels[at];
    return size > 0 && at == size;
}

/* ---- records -------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t format;
    uint8_t flags;
    uint16_t writer_size;
    uint32_t key_size;
    uint64_t version;
    int64_t ts_event;
    int64_t ts_known;
    int64_t expires_at;
    uint32_t crc; /* of the database key, what is above, and what is behind this header */
} __attribute__((packed)) row_record_header_t;

#define ROW_RECORD_HEADER sizeof(row_record_header_t)
#define ROW_CRC_OFFSET offsetof(row_record_header_t, crc)

_Static_assert(ROW_RECORD_HEADER == 44 && ROW_CRC_OFFSET == 40, "the format of layout.py");

static inline size_t row_record_size(const row_record_t *record)
{
    return ROW_RECORD_HEADER + record->writer_size + record->key_size + record->value_size;
}

/* All but the value and the checksum; returns where the value is to be put. */
static inline unsigned char *row_record_begin(unsigned char *to, const row_record_t *record)
{
    const uint8_t flags = (uint8_t)(record->flags | (record->key_size != 0 ? ROW_HAS_KEY : 0));
    const row_record_header_t header = {ROW_FORMAT,       flags,            record->writer_size, record->key_size,
                                        record->version,  record->ts_event, record->ts_known,    record->expires_at,
                                        0};

    memcpy(to, &header, sizeof header);
    to += sizeof header;
    if (record->writer_size != 0)
        memcpy(to, record->writer, record->writer_size);
    to += record->writer_size;
    if (record->key_size != 0)
        memcpy(to, record->key, record->key_size);
    return to + record->key_size;
}

static inline uint32_t row_record_crc(const unsigned char *row, size_t size, const unsigned char *key, size_t key_size)
{
    const uint32_t crc = crc32_of(row, ROW_CRC_OFFSET, crc32_of(key, key_size, 0));

    return crc32_of(row + ROW_RECORD_HEADER, size - ROW_RECORD_HEADER, crc);
}

/* The last step: nothing of the row changes any more. */
static inline void row_record_seal(unsigned char *row, size_t size, const unsigned char *key, size_t key_size)
{
    const uint32_t crc = row_record_crc(row, size, key, key_size);

    memcpy(row + ROW_CRC_OFFSET, &crc, sizeof crc);
}

/* `to` has room for row_record_size(). */
static inline void row_record_encode(unsigned char *to, const row_record_t *record, const unsigned char *key,
                                     size_t key_size)
{
    unsigned char *value = row_record_begin(to, record);

    if (record->value_size != 0)
        memcpy(value, record->value, record->value_size);
    row_record_seal(to, row_record_size(record), key, key_size);
}

/* Whether what stands under `key` is a sound record. */
static inline int row_record_decode(row_record_t *record, const unsigned char *key, size_t key_size,
                                    const unsigned char *row, size_t size)
{
    row_record_header_t header;

    if (size < sizeof header)
        return 0;
    memcpy(&header, row, sizeof header);
    if (header.crc != row_record_crc(row, size, key, key_size) || header.format != ROW_FORMAT ||
        size - sizeof header < (uint64_t)header.writer_size + header.key_size)
        return 0;
    *record = (row_record_t){
        .flags = (uint8_t)(header.flags & ~ROW_HAS_KEY),
        .writer_size = header.writer_size,
        .key_size = header.key_size,
        .version = header.version,
        .ts_event = header.ts_event,
        .ts_known = header.ts_known,
        .expires_at = header.expires_at,
        .writer = row + sizeof header,
        .key = row + sizeof header + header.writer_size,
        .value = row + sizeof header + header.writer_size + header.key_size,
        .value_size = size - sizeof header - header.writer_size - header.key_size,
    };
    return 1;
}

/* ---- namespaces ----------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t crc; /* of all that follows, the labels too */
    uint8_t format;
    uint8_t rules; /* layout.py: 1 is history */
    uint64_t id;
    int64_t max_age;
    int64_t max_bytes;
    int64_t history_since;
    int64_t history_bytes;
} __attribute__((packed)) row_space_header_t;

#define ROW_SPACE_HEADER sizeof(row_space_header_t)
#define ROW_HISTORY 1

_Static_assert(ROW_SPACE_HEADER == 46, "the format of layout.py");

/* The labels stand behind the header already. */
static inline void row_space_encode(unsigned char *row, size_t size, const row_space_t *space)
{
    row_space_header_t header = {0,
                                 ROW_FORMAT,
                                 space->rules,
                                 space->id,
                                 space->max_age,
                                 space->max_bytes,
                                 space->history_since,
                                 space->history_bytes};

    memcpy(row, &header, sizeof header);
    header.crc = crc32_of(row + sizeof header.crc, size - sizeof header.crc, 0);
    memcpy(row, &header.crc, sizeof header.crc);
}

static inline int row_space_decode(row_space_t *space, const unsigned char *row, size_t size)
{
    row_space_header_t header;

    if (size < sizeof header)
        return 0;
    memcpy(&header, row, sizeof header);
    if (header.crc != crc32_of(row + sizeof header.crc, size - sizeof header.crc, 0))
        return 0;
    *space = (row_space_t){header.id,           header.max_age,       header.max_bytes, header.history_since,
                           header.history_bytes, header.rules & ROW_HISTORY, header.rules};
    return 1;
}

/* ---- meta ----------------------------------------------------------------------------------------------------- */

#define ROW_CHECKED 4 /* bytes of the checksum in front of a row of `meta`; it covers the row's name, too */

/* The data stands behind the checksum already. */
static inline void row_checked_seal(unsigned char *row, size_t size, const char *name)
{
    const uint32_t crc = crc32_of(row + ROW_CHECKED, size - ROW_CHECKED, crc32_of(name, strlen(name), 0));

    memcpy(row, &crc, sizeof crc);
}

static inline int row_checked_is_sound(const unsigned char *row, size_t size, size_t least, const char *name)
{
    uint32_t crc;

    if (size < ROW_CHECKED + least)
        return 0;
    memcpy(&crc, row, sizeof crc);
    return crc == crc32_of(row + ROW_CHECKED, size - ROW_CHECKED, crc32_of(name, strlen(name), 0));
}

_Static_assert(sizeof(row_head_t) == 32, "the format of tables.py: <QQQq");

#define ROW_HEAD_SIZE (ROW_CHECKED + sizeof(row_head_t))

#define ROW_CLOCK_KIND ROW_CHECKED /* u8: 1 is simulated; then the time or offset, then the boot id */
#define ROW_CLOCK_AT (ROW_CHECKED + 1)
#define ROW_CLOCK_LEAST 9

#define ROW_REGION_ID 16
#define ROW_LOG_SIZE (ROW_CHECKED + ROW_REGION_ID + 8) /* region, position: what of its log is on disk */

#endif
