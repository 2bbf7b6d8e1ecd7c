/* A position: what it is, and what a fill makes of it. docs/design/positions.md has the formulas.
 *
 * A leaf: plain C, no Python. Quantities and prices are mantissas of their instrument's precisions; money is in units of
 * 10^-(price precision + quantity precision), so a price times a quantity is exact. A function that fails has changed
 * nothing.
 */
#ifndef NTMEM_BOOK_H
#define NTMEM_BOOK_H

#include <string.h>

#include "fixed.h"

#define BOOK_FORMAT 1
#define BOOK_CURRENCY 12

/* As it stands in the log, on disk and in a slot: little-endian, no padding. */
typedef struct {
    uint8_t format;
    uint8_t price_precision;
    uint8_t quantity_precision;
    uint8_t multiplier_precision;
    uint8_t was_set; /* to what somebody said it is: its fills do not come to it */
    uint8_t zero[3];
    int64_t multiplier;
    char currency[BOOK_CURRENCY];
    uint8_t zero_too[4];
    uint64_t version;  /* of the change that made it */
    uint64_t fills;
    int64_t quantity;  /* signed: below zero is short */
    int64_t peak;      /* the largest it was since it was opened; 0 or more */
    int64_t ts_opened; /* ns UTC, of the fills' ts_event; 0: never */
    int64_t ts_last;
    int64_t ts_closed;
    int64_t fills_since; /* older trade ids are not known any more */
    int64_t mark;        /* price */
    int64_t ts_mark;     /* 0: there is none */
    int128_t cost;     /* of what is held, signed like it */
    int128_t realized; /* without fees and funding */
    int128_t fees;     /* paid: above zero */
    int128_t funding;  /* received: above zero */
} __attribute__((packed, aligned(16))) book_position_t;

_Static_assert(sizeof(book_position_t) == 176, "the format of docs/design/positions.md");

typedef struct {
    int64_t quantity; /* signed */
    int64_t price;
    int128_t fee;
    int64_t ts_event;
} book_fill_t;

/* What is kept of a fill, or of cash, under its id. */
typedef struct {
    uint8_t format;
    uint8_t price_precision;
    uint8_t quantity_precision;
    uint8_t kind; /* enum book_kind */
    uint8_t has_time; /* `ts_event` was given: the same id with another one is a conflict */
    uint8_t zero[3];
    int64_t quantity;
    int64_t price;
    int64_t ts_event;
    int128_t fee;      /* or the amount of cash */
    int128_t realized;
} __attribute__((packed, aligned(16))) book_entry_t;

_Static_assert(sizeof(book_entry_t) == 64, "the format of docs/design/positions.md");

enum book_kind { BOOK_FILL, BOOK_FUNDING };

enum book_outcome { BOOK_DONE, BOOK_OVERFLOW };

#define BOOK_MOST ((int128_t)1 << 125)

static inline int book_has_room(int128_t money) { return money > -2 * BOOK_MOST && money < 2 * BOOK_MOST; }

/* Whether bytes from elsewhere are a position that can be reckoned with: precisions have their power of ten, and no sign
 * or sum overflows. */
static inline int book_is_sound(const book_position_t *position)
{
    return position->format == BOOK_FORMAT && position->price_precision <= FIXED_DIGITS &&
           position->quantity_precision <= FIXED_DIGITS && position->multiplier_precision <= FIXED_DIGITS &&
           position->multiplier > 0 && position->quantity > INT64_MIN && position->mark > INT64_MIN &&
           position->peak >= 0 && book_has_room(position->cost) && book_has_room(position->realized) &&
           book_has_room(position->fees) && book_has_room(position->funding);
}

static inline int book_fits(int128_t money) { return money < BOOK_MOST && money > -BOOK_MOST; }

static inline int64_t book_size(int64_t quantity) { return quantity < 0 ? -quantity : quantity; }

/* Average cost: what is closed takes its share of the cost with it; what is left of a flip was bought at this price.
 * `realized` is what the fill closed. */
static inline enum book_outcome book_apply(book_position_t *position, const book_fill_t *fill, int128_t *realized)
{
    book_position_t after = *position;
    const int64_t held = position->quantity;
    const int opens = held == 0 || (held < 0) == (fill->quantity < 0);
    int64_t closed = 0;

    *realized = 0;
    if (fill->quantity == INT64_MIN || __builtin_add_overflow(held, fill->quantity, &after.quantity) ||
        after.quantity == INT64_MIN)
        return BOOK_OVERFLOW;
    if (!opens) {
        closed = book_size(held) < book_size(fill->quantity) ? book_size(held) : book_size(fill->quantity);
        const int128_t cost = fixed_share(position->cost, closed, book_size(held));
        const int128_t value = (int128_t)(held < 0 ? -closed : closed) * fill->price;

        *realized = value - cost;
        after.cost -= cost;
        after.realized += *realized;
    }
    if (opens)
        after.cost += (int128_t)fill->quantity * fill->price;
    else if (book_size(fill->quantity) > book_size(held))
        after.cost = (int128_t)after.quantity * fill->price;
    after.fees += fill->fee;
    if (!book_fits(after.cost) || !book_fits(after.realized) || !book_fits(after.fees))
        return BOOK_OVERFLOW;
    if (held == 0 || (after.quantity != 0 && (after.quantity < 0) != (held < 0))) {
        after.ts_opened = fill->ts_event;
        after.ts_closed = 0;
        after.peak = 0;
    }
    if (book_size(after.quantity) > after.peak)
        after.peak = book_size(after.quantity);
    if (after.quantity == 0)
        after.ts_closed = fill->ts_event;
    if (fill->ts_event > after.ts_last)
        after.ts_last = fill->ts_event;
    after.fills++;
    *position = after;
    return BOOK_DONE;
}

/* A row of a snapshot, in floats. */
typedef struct {
    uint64_t row;
    double quantity, average_price, realized, unrealized, fees, funding, mark, peak, multiplier;
    int64_t ts_opened, ts_last, ts_closed, ts_mark;
    uint64_t version, fills;
} book_row_t;

/* What is held is worth more than it cost, at the mark; 0 without one. */
static inline int128_t book_unrealized(const book_position_t *position)
{
    return position->ts_mark == 0 ? 0 : (int128_t)position->quantity * position->mark - position->cost;
}

/* What a unit of it cost; 0.0 when flat. */
static inline double book_average(const book_position_t *position)
{
    if (position->quantity == 0)
        return 0.0;
    return (double)((long double)position->cost / (long double)position->quantity /
                    (long double)fixed_powers[position->price_precision]);
}

static inline void book_row(book_row_t *row, uint64_t number, const book_position_t *position)
{
    const int money = position->price_precision + position->quantity_precision;
    const double multiplier = fixed_double(position->multiplier, position->multiplier_precision);

    *row = (book_row_t){
        .row = number,
        .quantity = fixed_double(position->quantity, position->quantity_precision),
        .average_price = book_average(position),
        .realized = fixed_double(position->realized, money) * multiplier,
        .unrealized = fixed_double(book_unrealized(position), money) * multiplier,
        .fees = fixed_double(position->fees, money),
        .funding = fixed_double(position->funding, money),
        .mark = position->ts_mark == 0 ? NAN : fixed_double(position->mark, position->price_precision),
        .peak = fixed_double(position->peak, position->quantity_precision),
        .multiplier = multiplier,
        .ts_opened = position->ts_opened,
        .ts_last = position->ts_last,
        .ts_closed = position->ts_closed,
        .ts_mark = position->ts_mark,
        .version = position->version,
        .fills = position->fills,
    };
}

static inline enum book_outcome book_apply_cash(book_position_t *position, int128_t amount, int64_t ts_event)
{
    if (!book_fits(position->funding + amount))
        return BOOK_OVERFLOW;
    position->funding += amount;
    if (ts_event > position->ts_last)
        position->ts_last = ts_event;
    return BOOK_DONE;
}

#endif
