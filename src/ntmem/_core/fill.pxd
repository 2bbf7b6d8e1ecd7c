"""A fill as other modules use it."""

cimport cython
from libc.stdint cimport uint64_t

from ntmem._core.bookformat cimport book_entry_t, book_position_t
from ntmem._core.position cimport Position


@cython.final
cdef class Fill:
    cdef book_entry_t body
    cdef readonly str id
    cdef readonly Position position
    cdef readonly uint64_t version


cdef Fill make_fill(
    tuple names, str id, const book_entry_t *entry, const book_position_t *position, uint64_t version
)
cdef bytes id_bytes(str id, bint cash)
cdef int fill(
    book_entry_t *entry, const book_position_t *position, object quantity, object price, object amount, int sign,
    bint cash
) except -1
cpdef int sign_of(side) except? -2
