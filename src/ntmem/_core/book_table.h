/* The position book: slots in shared memory, changed by who holds the log's mutex, read by anybody without a lock.
 *
 * A leaf: plain C, no Python. A slot is a projection of the newest record of its key in the log: it is published after
 * the commit and before the mutex is given back, and by repair if its writer died in between. docs/design/positions.md
 * is the specification.
 */
#ifndef NTMEM_BOOK_TABLE_H
#define NTMEM_BOOK_TABLE_H

#include "book.h"
#include "failpoint.h"
#include "log_read.h"
#include "sync.h"

#define BOOK_MAGIC 0x31306b6f6f62746eull /* "ntbook01" */
#define BOOK_NAME 240

typedef struct {
    uint64_t sequence; /* how often it was published: the newest stands in copies[sequence & 1] */
    uint64_t hash;     /* of the whole key in the log; 0: nobody's */
    uint32_t name_size;
    uint32_t order; /* how many keys there were before it */
    unsigned char name[BOOK_NAME]; /* the key: symbol, account, strategy and position id behind each other, 0x1f between */
    book_position_t copies[2] __attribute__((aligned(SYNC_LINE)));
} __attribute__((aligned(SYNC_LINE))) book_slot_t;

typedef struct book_table {
    uint64_t magic;
    uint64_t slot_count; /* a power of two */
    uint64_t used;
    uint64_t zero[5];
    book_slot_t slots[];
} __attribute__((aligned(SYNC_LINE))) book_table_t;

/* The book in a section, NULL if none is made there (yet), or it is none. */
static inline book_table_t *book_of(void *section, uint64_t size)
{
    book_table_t *table = section;

    if (table == NULL || size < sizeof *table || table->magic != BOOK_MAGIC ||
        table->slot_count != (size - sizeof *table) / sizeof(book_slot_t))
        return NULL;
    return table;
}

/* The slot of a key, NULL if it has none; `room`: where it would be made. */
static inline book_slot_t *book_find(book_table_t *table, const unsigned char *name, size_t size, uint64_t hash,
                                     book_slot_t **room)
{
    const uint64_t mask = table->slot_count - 1;

    for (uint64_t i = 0; i <= mask; i++) {
        book_slot_t *slot = &table->slots[(hash + i) & mask];
        const uint64_t found = word_acquire(&slot->hash);

        if (found == hash && slot->name_size == size && memcmp(slot->name, name, size) == 0)
            return slot;
        if (found == 0) {
            *room = slot;
            return NULL;
        }
    }
    *room = NULL;
    return NULL;
}

/* Whoever died while it made a slot may not have counted it. */
static inline void book_recount_locked(book_table_t *table)
{
    uint64_t used = 0;

    for (uint64_t i = 0; i < table->slot_count; i++)
        used += word_acquire(&table->slots[i].hash) != 0;
    word_release(&table->used, used);
}

/* Whether there is room for another key. Needs the log's mutex. */
static inline int book_has_room_locked(book_table_t *table)
{
    if (table->magic == BOOK_MAGIC) /* while it is made nobody dies over it that anybody lives to see */
        book_recount_locked(table);
    return table->used < table->slot_count - table->slot_count / 4;
}

/* Needs the log's mutex. NULL: the book is full. A slot is never given to another key. */
static inline book_slot_t *book_make_locked(book_table_t *table, const unsigned char *name, size_t size, uint64_t hash)
{
    book_slot_t *room = NULL, *slot = book_find(table, name, size, hash, &room); /* set for compilers that cannot see it */

    if (slot != NULL || room == NULL || size > BOOK_NAME)
        return slot;
    if (!book_has_room_locked(table))
        return NULL;
    room->name_size = (uint32_t)size;
    memcpy(room->name, name, size);
    room->order = (uint32_t)table->used;
    word_release(&room->hash, hash);
    word_release(&table->used, table->used + 1);
    return room;
}

/* What is overwritten is the older copy: a reader of the newer one is not disturbed, were this stopped in the middle. */
static inline void book_publish_locked(book_slot_t *slot, const book_position_t *position)
{
    const uint64_t sequence = word_relaxed(&slot->sequence) + 1;

    fence_release(); /* nothing is overwritten before readers can see that it is not the newest any more */
    bytes_copy(&slot->copies[sequence & 1], position, sizeof *position);
    FAILPOINT(book_copied);
    word_release(&slot->sequence, sequence);
    FAILPOINT(book_published);
}

/* The newest state; its sequence, 0: nothing was published yet. Takes no lock. A copy that may have been overwritten is
 * taken again: it was published while 176 bytes were copied. */
static inline uint64_t book_read(const book_slot_t *slot, book_position_t *position)
{
    for (;;) {
        const uint64_t sequence = word_acquire(&slot->sequence);

        bytes_copy(position, &slot->copies[sequence & 1], sizeof *position);
        fence_acquire();
        if (word_relaxed(&slot->sequence) == sequence)
            return sequence;
    }
}

/* Encoded labels of the namespace in which the records of positions are. */
#define BOOK_SPACE "\5ntmem\11positions"
#define BOOK_SPACE_SIZE (sizeof BOOK_SPACE - 1)

/* Publishes what a record of the log or of the disk says, unless the slot has that already. Needs the log's mutex, or that
 * nobody else has the region yet. 0: the book is full. */
static inline int book_project_locked(book_table_t *table, const unsigned char *name, size_t size, uint64_t hash,
                                      const void *value, uint64_t version)
{
    book_slot_t *slot = book_make_locked(table, name, size, hash);
    book_position_t position;

    if (slot == NULL)
        return 0;
    memcpy(&position, value, sizeof position);
    position.version = version;
    if (slot->sequence != 0) {
        const book_position_t *held = &slot->copies[slot->sequence & 1];

        if (held->version >= version)
            return 1;
        if (held->ts_mark >= position.ts_mark) { /* marks are not in the log */
            position.mark = held->mark;
            position.ts_mark = held->ts_mark;
        }
    }
    book_publish_locked(slot, &position);
    return 1;
}

/* Publishes the positions of a group: of the last one, if its writer died or does not do it itself. */
static inline void book_show_locked(book_table_t *table, const unsigned char *group)
{
    log_group_t head;
    log_record_t record;
    const unsigned char *at = group + sizeof head;

    memcpy(&head, group, sizeof head);
    for (uint32_t i = 0; i < head.records; i++, at += record_bytes(&record)) {
        const unsigned char *names = at + sizeof record;

        memcpy(&record, at, sizeof record);
        if (record.kind == LOG_KIND_PUT && record.namespace_size == BOOK_SPACE_SIZE &&
            memcmp(names, BOOK_SPACE, BOOK_SPACE_SIZE) == 0 && record.value_size == sizeof(book_position_t) &&
            record.key_size <= BOOK_NAME)
            book_project_locked(table, names + record.namespace_size, record.key_size, record.hash,
                                names + record.namespace_size + record.key_size + record.writer_size, record.version);
    }
}

#endif
