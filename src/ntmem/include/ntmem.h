/* ntmem.h: read the positions of an ntmem store from C or C++, in place, in some ten nanoseconds.
 *
 *     ntmem_book_t book;
 *     ntmem_position_t position;
 *     if (ntmem_open("desk", &book) != 0) { perror("desk"); ... }
 *     const ntmem_slot_t *slot = ntmem_find(&book, "BTCUSDT", "", "", "");
 *     if (slot != NULL && ntmem_read(slot, &position))
 *         printf("%g\n", ntmem_quantity(&position));
 *     ntmem_close(&book);
 *
 * A store has a book in shared memory while a Python process has it open for writing. Nothing here writes, takes a lock or
 * waits: a reader cannot disturb a trading process. When the last writer has closed the store, `ntmem_is_over` says so;
 * what was read last stays readable, and the store is opened anew.
 *
 * Quantities and prices are whole numbers of 10^-precision; money (cost, realized, fees, funding) is in units of
 * 10^-(price_precision + quantity_precision), without the multiplier. Times are nanoseconds since 1970, UTC; 0: none.
 *
 * Linux, little-endian, gcc or clang (128-bit integers). Header only. MIT or Apache-2.0, as ntmem.
 */
#ifndef NTMEM_H
#define NTMEM_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NTMEM_LAYOUT 5 /* of the region, which this header knows */

__extension__ typedef __int128 ntmem_money_t;

typedef struct {
    uint8_t format; /* 1 */
    uint8_t price_precision;
    uint8_t quantity_precision;
    uint8_t multiplier_precision;
    uint8_t was_set; /* to what somebody said it is: its fills do not come to it */
    uint8_t zero[3];
    int64_t multiplier;
    char currency[12];
    uint8_t zero_too[4];
    uint64_t version;    /* of the change that made it */
    uint64_t fills;
    int64_t quantity;    /* signed: below zero is short */
    int64_t peak;        /* the largest it was since it was opened, without a sign */
    int64_t ts_opened;
    int64_t ts_last;
    int64_t ts_closed;
    int64_t fills_since; /* older trade ids are not known any more */
    int64_t mark;        /* price; tells only if ts_mark is not 0 */
    int64_t ts_mark;
    ntmem_money_t cost;  /* of what is held, signed like it */
    ntmem_money_t realized;
    ntmem_money_t fees;    /* paid: above zero */
    ntmem_money_t funding; /* received: above zero */
} __attribute__((packed, aligned(16))) ntmem_position_t;

typedef struct {
    uint64_t sequence;
    uint64_t hash; /* 0: nobody's */
    uint32_t name_size;
    uint32_t order;
    char name[240]; /* symbol, account, strategy and position id, UTF-8, 0x1f between them */
    ntmem_position_t copies[2] __attribute__((aligned(64)));
} __attribute__((aligned(64))) ntmem_slot_t;

typedef struct {
    const unsigned char *base;
    size_t size;
    const uint64_t *gone; /* not 0: the last writer has closed the store */
    const uint64_t *used; /* how many keys there are */
    const ntmem_slot_t *slots;
    uint64_t slot_count;
} ntmem_book_t;

#define NTMEM_GONE_ 1152 /* where a word of the region stands */

/* ---- opening ---------------------------------------------------------------------------------------------------- */

static inline uint64_t ntmem_load_(const unsigned char *from, size_t size)
{
    uint64_t number = 0;

    memcpy(&number, from, size);
    return number;
}

/* Whether this is the region of the data file; then its book is filled in. */
static inline int ntmem_map_(int file, const struct stat *data, ntmem_book_t *book)
{
    unsigned char head[4096];
    struct stat about;
    uint64_t sections, i;

    if (fstat(file, &about) != 0 || pread(file, head, sizeof head, 0) != (ssize_t)sizeof head ||
        memcmp(head, "tmemgv01", 8) != 0 || ntmem_load_(head + 8, 4) != NTMEM_LAYOUT ||
        ntmem_load_(head + 16, 8) != (uint64_t)about.st_size || ntmem_load_(head + 40 + 36, 8) != (uint64_t)data->st_dev ||
        ntmem_load_(head + 40 + 44, 8) != (uint64_t)data->st_ino)
        return 0;
    sections = ntmem_load_(head + 32, 4);
    book->size = (size_t)about.st_size;
    book->base = (const unsigned char *)mmap(NULL, book->size, PROT_READ, MAP_SHARED, file, 0);
    if (book->base == MAP_FAILED)
        return 0;
    for (i = 0; i < sections && i < 16; i++) {
        const unsigned char *section = head + 296 + 24 * i;

        if (ntmem_load_(section, 4) == 6) {
            const unsigned char *table = book->base + ntmem_load_(section + 8, 8);

            const uint64_t slots = ntmem_load_(table + 8, 8);

            if (memcmp(table, "ntbook01", 8) != 0 || slots == 0 || (slots & (slots - 1)) != 0)
                break;
            book->gone = (const uint64_t *)(book->base + 4096 + NTMEM_GONE_);
            book->slot_count = slots;
            book->used = (const uint64_t *)(table + 16);
            book->slots = (const ntmem_slot_t *)(table + 64);
            return 1;
        }
    }
    munmap((void *)(uintptr_t)book->base, book->size);
    return 0;
}

/* Maps the book of the store in a directory. 0, or -1 and errno: ENOENT, no process has it open for writing, or it is
 * another version's. */
static inline int ntmem_open(const char *directory, ntmem_book_t *book)
{
    char path[4096], prefix[64];
    struct stat data;
    struct dirent *entry;
    int found = 0;
    DIR *regions;

    memset(book, 0, sizeof *book);
    snprintf(path, sizeof path, "%s/data.mdb", directory);
    if (stat(path, &data) != 0)
        return -1;
    snprintf(prefix, sizeof prefix, "ntmem-%u-", (unsigned)geteuid());
    regions = opendir("/dev/shm");
    if (regions == NULL)
        return -1;
    while (!found && (entry = readdir(regions)) != NULL) {
        int file;

        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "/dev/shm/%s", entry->d_name);
        file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (file < 0)
            continue;
        found = ntmem_map_(file, &data, book);
        close(file);
    }
    closedir(regions);
    if (!found) {
        memset(book, 0, sizeof *book);
        errno = ENOENT;
    }
    return found ? 0 : -1;
}

static inline void ntmem_close(ntmem_book_t *book)
{
    if (book->base != NULL)
        munmap((void *)(uintptr_t)book->base, book->size);
    memset(book, 0, sizeof *book);
}

/* Whether the last writer has closed the store: what is there does not change any more. Open it anew. */
static inline int ntmem_is_over(const ntmem_book_t *book) { return __atomic_load_n(book->gone, __ATOMIC_ACQUIRE) != 0; }

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static inline uint64_t ntmem_fold_(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    const wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* By which slots are found: folded multiplication, as wyhash. */
static inline uint64_t ntmem_hash_(const char *name, size_t size)
{
    const uint64_t secret = 0xa0761d6478bd642full;
    const unsigned char *at = (const unsigned char *)name;
    uint64_t seed = 0xfa6c7af919255d37ull; /* of the namespace of positions */
    uint64_t a = 0, b = 0;
    size_t left = size;

    for (; left > 16; left -= 16, at += 16)
        seed = ntmem_fold_(ntmem_load_(at, 8) ^ secret, ntmem_load_(at + 8, 8) ^ seed);
    if (size > 16) {
        a = ntmem_load_(at + left - 16, 8);
        b = ntmem_load_(at + left - 8, 8);
    } else if (size >= 4) {
        const size_t inner = (size >> 3) << 2;
        a = ntmem_load_(at, 4) << 32 | ntmem_load_(at + inner, 4);
        b = ntmem_load_(at + size - 4, 4) << 32 | ntmem_load_(at + size - 4 - inner, 4);
    } else if (size > 0) {
        a = (uint64_t)at[0] << 16 | (uint64_t)at[size >> 1] << 8 | at[size - 1];
    }
    return ntmem_fold_(secret ^ size, ntmem_fold_(a ^ secret, b ^ seed));
}

/* The slot of a key, for as long as the book is mapped; NULL: there is none yet. */
static inline const ntmem_slot_t *ntmem_find(const ntmem_book_t *book, const char *symbol, const char *account,
                                             const char *strategy, const char *position_id)
{
    const char *parts[4] = {symbol, account, strategy, position_id};
    const uint64_t mask = book->slot_count - 1;
    char name[240];
    size_t size = 0, i;
    uint64_t hash;

    for (i = 0; i < 4; i++) {
        const size_t part = strlen(parts[i]);

        if (size + part + (i != 0) > sizeof name)
            return NULL;
        if (i != 0)
            name[size++] = '\x1f';
        memcpy(name + size, parts[i], part);
        size += part;
    }
    hash = ntmem_hash_(name, size);
    for (i = 0; i <= mask; i++) {
        const ntmem_slot_t *slot = &book->slots[(hash + i) & mask];
        const uint64_t found = __atomic_load_n(&slot->hash, __ATOMIC_ACQUIRE);

        if (found == hash && slot->name_size == size && memcmp(slot->name, name, size) == 0)
            return slot;
        if (found == 0)
            return NULL;
    }
    return NULL;
}

/* Copies the newest state; 0: nothing was booked yet. Never torn: what is booked while 176 bytes are copied makes it copy
 * again. */
static inline int ntmem_read(const ntmem_slot_t *slot, ntmem_position_t *position)
{
    for (;;) {
        const uint64_t sequence = __atomic_load_n(&slot->sequence, __ATOMIC_ACQUIRE);

        memcpy(position, &slot->copies[sequence & 1], sizeof *position);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&slot->sequence, __ATOMIC_RELAXED) == sequence)
            return sequence != 0;
    }
}

/* ---- floats ----------------------------------------------------------------------------------------------------- */

static inline double ntmem_scaled_(long double mantissa, int precision)
{
    long double power = 1.0L;

    while (precision-- > 0)
        power *= 10.0L; /* exact up to 10^27 */
    return (double)(mantissa / power);
}

static inline double ntmem_quantity(const ntmem_position_t *position)
{
    return ntmem_scaled_((long double)position->quantity, position->quantity_precision);
}

/* 0.0 when flat. */
static inline double ntmem_average_price(const ntmem_position_t *position)
{
    return position->quantity == 0
               ? 0.0
               : ntmem_scaled_((long double)position->cost / (long double)position->quantity, position->price_precision);
}

static inline double ntmem_multiplier(const ntmem_position_t *position)
{
    return ntmem_scaled_((long double)position->multiplier, position->multiplier_precision);
}

/* Money of the position's currency, the multiplier included. */
static inline double ntmem_realized_pnl(const ntmem_position_t *position)
{
    return ntmem_scaled_((long double)position->realized, position->price_precision + position->quantity_precision) *
           ntmem_multiplier(position);
}

/* At the mark; 0.0 without one. */
static inline double ntmem_unrealized_pnl(const ntmem_position_t *position)
{
    if (position->ts_mark == 0)
        return 0.0;
    return ntmem_scaled_((long double)((ntmem_money_t)position->quantity * position->mark - position->cost),
                         position->price_precision + position->quantity_precision) *
           ntmem_multiplier(position);
}

#ifdef __cplusplus
}
#endif
#endif
