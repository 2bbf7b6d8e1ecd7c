"""A position as other modules use it."""

cimport cython
from libc.stdint cimport int64_t

from ntmem._core.bookformat cimport book_position_t, int128_t


@cython.final
cdef class Position:
    cdef book_position_t body
    cdef tuple names

    cdef int money_precision(self) noexcept
    cdef object money(self, int128_t amount)
    cdef object money_decimal(self, int128_t amount)


cdef int128_t mantissa_of(object number, int precision, str what) except? -1
cdef object decimal_of(int128_t mantissa, int precision)
cdef int64_t small(int128_t mantissa, str what, object number) except? -1
cdef bytes name_of(tuple names)
cdef int begin(book_position_t *position, tuple definition) except -1
