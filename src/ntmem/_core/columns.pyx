"""Which rows of a column match: ranges and members of numbers, interned values, missing ones, as a bitmap.

Layout
------
A column has a kind and a word for each row, as below; ``columns.h`` has what is done with them. Bitmaps are uint64, the
bit of the lowest row first; bits beyond the last row are 0.

==== ======== ================================
kind name     word
==== ======== ================================
0    missing  any
1    int      the bits of an int64
2    float    the bits of a float64
3    interned number of a distinct value
==== ======== ================================

Invariants
----------
1. All sets of functions give the same bits.
2. A row of another kind matches nothing.
3. While the GIL is released only C memory is touched, and the buffers are held.
"""

import os

import numpy as np

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memset


cdef extern from "columns.h" nogil:
    ctypedef struct columns_t:
        const char *name

    ctypedef struct column_ints_t:
        int has_range
        int64_t low, high
        const uint64_t *members
        size_t count

    ctypedef struct column_floats_t:
        int has_range
        double low, high
        const uint64_t *members
        size_t count

    ctypedef struct column_mask_t:
        pass

    ctypedef struct column_test_t:
        column_ints_t ints
        column_floats_t floats
        column_mask_t mask
        int missing

    const columns_t *columns_at(size_t place) noexcept
    void column_mask_set(column_mask_t *mask, const uint64_t *words, size_t count) noexcept
    void column_match(
        const columns_t *kernels, const column_test_t *test, const uint8_t *kinds, const uint64_t *words, size_t count,
        uint64_t *bits
    ) noexcept

MISSING, INT, FLOAT, INTERNED = 0, 1, 2, 3


def available():
    """Return the names of the sets of functions that run on this machine, the best first."""
    names, place = [], 0
    while columns_at(place) != NULL:
        names.append((<bytes>columns_at(place).name).decode())
        place += 1
    return tuple(names)


cdef const columns_t *kernels_of(str name) except NULL:
    cdef size_t place = 0
    names = available()
    if name is None:  # the same switch as that of kernels.pyx, which may know sets that are not here
        name = os.environ.get("NTMEM_KERNELS")
        if name not in names:
            return columns_at(0)
    if name not in names:
        raise ValueError(f"there are no kernels {name!r} on this machine; there are {', '.join(names)}")
    place = names.index(name)
    return columns_at(place)


cdef const columns_t *usual = kernels_of(None)


cdef object bits_of(
    const columns_t *kernels, const column_test_t *test, const uint8_t[::1] kinds, const uint64_t[::1] words,
    Py_ssize_t count
):
    cdef uint64_t[::1] bits
    if not 0 <= count <= min(kinds.shape[0], words.shape[0]):
        raise ValueError(
            f"count must be from 0 to the length of the column, was {count}; there are {kinds.shape[0]} kinds and "
            f"{words.shape[0]} words"
        )
    done = np.empty((count + 63) // 64, np.uint64)
    if count:
        bits = done
        with nogil:
            column_match(kernels, test, &kinds[0], &words[0], count, &bits[0])
    return done


def match(
    const uint8_t[::1] kinds not None, const uint64_t[::1] words not None, Py_ssize_t count, *, tuple ints=None,
    tuple floats=None, const uint64_t[::1] mask=None, bint missing=False, str kernels=None
):
    """Return the rows whose value is in a range, or is one of some interned values, or is missing.

    Parameters
    ----------
    kinds : uint8, shape (n,)
    words : uint64, shape (n,)
    count : int
        Rows to look at, from the first; n at most.
    ints, floats : (low, high), optional
        Ranges that have their ends; by default no int, no float matches. NaN is in no range.
    mask : uint64, shape (m,), optional
        A bit for each number of an interned value, the lowest first; a number of 64 m or more does not match.
    missing : bool
        Whether rows without a value match.
    kernels : str, optional
        One of :func:`available`, by default the best.

    Returns
    -------
    uint64, shape (count / 64 rounded up,)

    Raises
    ------
    ValueError
        The column is shorter than `count`, or there are no such kernels.
    OverflowError
        An end of `ints` is not an int64.

    Notes
    -----
    **Thread safety**: the GIL is released; nobody may write to the arrays meanwhile. **Complexity**: O(count + m).
    """
    cdef column_test_t test
    memset(&test, 0, sizeof(test))
    if ints is not None:
        test.ints.low, test.ints.high = ints
        test.ints.has_range = test.ints.low <= test.ints.high
    if floats is not None:
        test.floats.low, test.floats.high = floats
        test.floats.has_range = True
    if mask is not None and mask.shape[0]:
        column_mask_set(&test.mask, &mask[0], mask.shape[0])
    test.missing = missing
    return bits_of(usual if kernels is None else kernels_of(kernels), &test, kinds, words, count)


def match_any(
    const uint8_t[::1] kinds not None, const uint64_t[::1] words not None, Py_ssize_t count, *, ints=None,
    floats=None, const uint64_t[::1] mask=None, str kernels=None
):
    """Return the rows whose value is one of many; parameters that are not here are those of :func:`match`.

    Parameters
    ----------
    ints, floats : uint64, shape (m,), optional
        The words that match, in any order. Floats are compared by their bits: 0.0 and -0.0 are two.

    Notes
    -----
    **Thread safety**: that of :func:`match`. **Complexity**: O((count + m) log m).
    """
    cdef column_test_t test
    cdef const uint64_t[::1] some, others
    memset(&test, 0, sizeof(test))
    if ints is not None and len(ints):
        some = np.sort(ints)
        test.ints.members, test.ints.count = &some[0], some.shape[0]
    if floats is not None and len(floats):
        others = np.sort(floats)
        test.floats.members, test.floats.count = &others[0], others.shape[0]
    if mask is not None and mask.shape[0]:
        column_mask_set(&test.mask, &mask[0], mask.shape[0])
    return bits_of(usual if kernels is None else kernels_of(kernels), &test, kinds, words, count)
