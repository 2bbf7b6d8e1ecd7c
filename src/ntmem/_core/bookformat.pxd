"""The C leaves of the position book, declared for Cython; fixed.h, book.h and book_table.h have what they mean."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ntmem._core.keyhash cimport whole_key_t
from ntmem._core.logformat cimport fence_word_t, log_append_outcome, log_t


cdef extern from "fixed.h" nogil:
    ctypedef long long int128_t  # 128 bits: C does what is done with it, Cython only hands it on

    enum fixed_outcome:
        FIXED_DONE
        FIXED_EXCESS
        FIXED_OVERFLOW
        FIXED_NONE
        FIXED_UNSURE

    enum:
        FIXED_DIGITS

    fixed_outcome fixed_parse(const char *text, size_t size, int precision, int128_t *mantissa) noexcept
    fixed_outcome fixed_from_double(double number, int precision, int128_t *mantissa) noexcept
    fixed_outcome fixed_from_int(int64_t number, int precision, int128_t *mantissa) noexcept
    bint fixed_is_small(int128_t number) noexcept
    double fixed_double(int128_t mantissa, int precision) noexcept
    size_t fixed_text(int128_t mantissa, char *text) noexcept


cdef extern from "book.h" nogil:
    enum:
        BOOK_FORMAT
        BOOK_CURRENCY
        BOOK_FILL
        BOOK_FUNDING

    ctypedef struct book_position_t:
        uint8_t format, price_precision, quantity_precision, multiplier_precision
        int64_t multiplier
        char *currency
        uint64_t version, fills
        int64_t quantity, peak, ts_opened, ts_last, ts_closed, fills_since, mark, ts_mark
        int128_t cost, realized, fees, funding

    ctypedef struct book_entry_t:
        uint8_t format, price_precision, quantity_precision, kind, has_time
        int64_t quantity, price, ts_event
        int128_t fee, realized

    ctypedef struct book_fill_t:
        int64_t quantity, price
        int128_t fee
        int64_t ts_event

    bint book_is_sound(const book_position_t *position) noexcept

    enum book_outcome:
        BOOK_DONE
        BOOK_OVERFLOW

    book_outcome book_apply(book_position_t *position, const book_fill_t *fill, int128_t *realized) noexcept
    book_outcome book_apply_cash(book_position_t *position, int128_t amount, int64_t ts_event) noexcept
    ctypedef struct book_row_t:
        uint64_t row

    void book_row(book_row_t *row, uint64_t number, const book_position_t *position) noexcept
    double book_average(const book_position_t *position) noexcept
    int128_t book_unrealized(const book_position_t *position) noexcept


cdef extern from "book_table.h" nogil:
    enum:
        BOOK_NAME
    const uint64_t BOOK_MAGIC

    ctypedef struct book_slot_t:
        uint64_t sequence, hash
        uint32_t name_size, order
        unsigned char *name
        book_position_t *copies

    ctypedef struct book_table_t:
        uint64_t magic, slot_count, used
        book_slot_t *slots

    book_slot_t *book_find(
        book_table_t *table, const unsigned char *name, size_t size, uint64_t hash, book_slot_t **room
    ) noexcept
    book_slot_t *book_make_locked(
        book_table_t *table, const unsigned char *name, size_t size, uint64_t hash
    ) noexcept
    void book_publish_locked(book_slot_t *slot, const book_position_t *position) noexcept
    uint64_t book_read(const book_slot_t *slot, book_position_t *position) noexcept
    bint book_project_locked(
        book_table_t *table, const unsigned char *name, size_t size, uint64_t hash, const void *value, uint64_t version
    ) noexcept


cdef extern from "book_write.h" nogil:
    ctypedef struct book_request_t:
        whole_key_t entry_key, position_key
        const unsigned char *writer
        size_t writer_size
        const fence_word_t *fence
        uint64_t fence_number, fencing
        book_position_t fresh
        uint64_t snapshot, if_version, max_lag
        int64_t now
        book_entry_t entry
        book_position_t position
        book_slot_t *slot
        uint64_t version
        log_append_outcome append

    enum book_request_outcome:
        REQUEST_DONE
        REQUEST_KNOWN
        REQUEST_LOOK_AGAIN
        REQUEST_FULL
        REQUEST_OVERFLOW
        REQUEST_OLD
        REQUEST_PRECISION
        REQUEST_CONFLICT
        REQUEST_LOG

    const uint64_t BOOK_ANY_VERSION
    book_request_outcome request_apply(book_request_t *request) noexcept
    book_request_outcome request_run(
        const log_t *log, book_request_t *request, bint sets, uint64_t wait_ns
    ) noexcept
    log_append_outcome book_mark(
        const log_t *log, book_slot_t *slot, int64_t price, int64_t ts, uint64_t wait_ns
    ) noexcept
