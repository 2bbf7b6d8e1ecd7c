"""Products and distances of vectors, and the best of many by an exact scan; by the best instructions of the processor.

Layout
------
``kernels.h`` has sets of functions for kinds of processors (``kernels_x86.h``, ``kernels_arm.h``), ``scan.h`` the scan.
A set is chosen by name, by default the best that runs here, or what the environment variable ``NTMEM_KERNELS`` says.

Invariants
----------
1. All sets give the same int8 products, bit for bit, so results do not depend on the machine; float sums may differ in
   the last bits.
2. Results of a scan are in one total order: higher values first, and of equal ones the lower row. A row's value does
   not depend on the rows beside it.
3. While the GIL is released only C memory is touched, and the buffers are held.
"""

import os

import numpy as np

cimport cython
from libc.math cimport isnan
from libc.stdint cimport int8_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "kernels.h" nogil:
    float quantize_i8(const float *vector, size_t n, int8_t *to) noexcept

MOST_DIMENSIONS = 65_536
KINDS = {np.dtype(np.int8): KERNELS_I8, np.dtype(np.float16): KERNELS_F16, np.dtype(np.float32): KERNELS_F32}


def available():
    """Return the names of the sets that run on this machine, the best first."""
    names, place = [], 0
    while kernels_at(place) != NULL:
        names.append((<bytes>kernels_at(place).name).decode())
        place += 1
    return tuple(names)


def quantize(const float[:, ::1] vectors not None):
    """Return float32 vectors as int8, and the step of each: a vector is about its bytes times its step.

    Steps are the largest number's 127th part, so an error is half of it at most; zeroes have step 0.

    Raises
    ------
    ValueError
        A number is NaN or infinite; says in which row.
    """
    cdef size_t count = vectors.shape[0], dimension = vectors.shape[1], row
    cdef float step
    done = np.empty((count, dimension), np.int8)
    steps = np.empty(count, np.float32)
    cdef int8_t[:, ::1] to = done
    cdef float[::1] sizes = steps
    cdef Py_ssize_t wrong = -1
    if count and dimension:
        with nogil:
            for row in range(count):
                step = quantize_i8(&vectors[row, 0], dimension, &to[row, 0])
                sizes[row] = step
                if isnan(step):
                    wrong = row
                    break
    if wrong >= 0:
        raise ValueError(f"vectors hold finite numbers, row {wrong} has NaN or infinity")
    return done, steps


cdef const kernels_t *kernels_named(str name) except NULL:
    cdef size_t place = 0
    wanted = name or os.environ.get("NTMEM_KERNELS") or available()[0]
    if wanted not in available():
        raise ValueError(f"there are no kernels {wanted!r} on this machine; there are {', '.join(available())}")
    while (<bytes>kernels_at(place).name).decode() != wanted:
        place += 1
    return kernels_at(place)


@cython.final
cdef class Kernels:
    """One set of kernels.

    Parameters
    ----------
    name : str, optional
        One of :func:`available`; by default ``NTMEM_KERNELS``, or else the best.

    Raises
    ------
    ValueError
        There is no such set, or it does not run on this machine.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. **Complexity**: O(dimension) a pair.
    """

    cdef const kernels_t *kernels

    def __init__(self, str name=None):
        self.kernels = kernels_named(name)

    @property
    def name(self):
        """Of this set."""
        return (<bytes>self.kernels.name).decode()

    def dot(self, a, b):
        """Return the product of two vectors of int8 (-127 to 127; an int), float16 or float32 (a float)."""
        kind = pair_of(a, b)
        if kind == np.int8:
            return self.dot_i8(a, b)
        if kind == np.float32:
            return self.floats(a, b, False)
        return self.halves(a.view(np.uint16), b.view(np.uint16), False)

    def squared(self, a, b):
        """Return the squared distance of two vectors of float16 or float32."""
        kind = pair_of(a, b)
        if kind == np.int8:
            raise TypeError("the distance of int8 vectors follows from their steps and products; see scan")
        if kind == np.float32:
            return self.floats(a, b, True)
        return self.halves(a.view(np.uint16), b.view(np.uint16), True)

    cdef object dot_i8(self, const int8_t[::1] a, const int8_t[::1] b):
        return self.kernels.dot_i8(&a[0], &b[0], a.shape[0])

    cdef object floats(self, const float[::1] a, const float[::1] b, bint distance):
        return (self.kernels.squared_f32 if distance else self.kernels.dot_f32)(&a[0], &b[0], a.shape[0])

    cdef object halves(self, const uint16_t[::1] a, const uint16_t[::1] b, bint distance):
        return (self.kernels.squared_f16 if distance else self.kernels.dot_f16)(&a[0], &b[0], a.shape[0])

    def scan(
        self, rows not None, const float[::1] steps, query not None, float query_step, size_t k, *,
        const float[::1] squares=None, const uint64_t[::1] allowed=None, size_t base=0, found=None
    ):
        """Return the rows that are best for a query, and their values.

        Parameters
        ----------
        rows : int8, float16 or float32, shape (n, d)
            int8 from -127 to 127.
        steps : float32, shape (n,), or None
            By which rows are multiplied to be the vectors. None: they are the vectors.
        query : int8 for rows of int8, else float32; shape (d,)
        query_step : float
            By which the query is multiplied.
        k : int
            1 or more.
        squares : float32, shape (n,), optional
            Squared lengths of the vectors: values are -|a - b|^2 + |a|^2 then, of which |a|^2, of the query, is left to
            the caller. By default they are products.
        allowed : uint64, shape (n / 64 rounded up,), optional
            A bit for each row, the lowest first: others are left out.
        base : int
            The number of the first row.
        found : tuple of rows and values, optional
            What a scan of other rows returned: the best of these and of those are returned.

        Returns
        -------
        rows : uint32, values : float32
            At most `k`, the best first; of equal values the lower row first. A value that is NaN counts as -infinity.

        Notes
        -----
        **Thread safety**: the GIL is released; nobody may write to the arrays meanwhile. **Complexity**: O(n d), or
        O(n / 64 + m d) for m rows that are allowed.
        """
        cdef scan_rows_t what
        cdef size_t dimension, count
        check_scan(rows, query, k, base)
        count, dimension = rows.shape
        if ((steps is not None and <size_t>steps.shape[0] != count)
                or (squares is not None and <size_t>squares.shape[0] != count)):
            raise ValueError(f"steps and squares must be as many as the {count} rows")
        if allowed is not None and <size_t>allowed.shape[0] != (count + 63) // 64:
            raise ValueError(f"allowed must have {(count + 63) // 64} words for {count} rows, had {allowed.shape[0]}")
        before = found or (np.empty(0, np.uint32), np.empty(0, np.float32))
        if not count:
            return before[0][:k], before[1][:k]
        cdef const uint8_t[:, ::1] row_bytes = rows.view(np.uint8)
        cdef const uint8_t[::1] query_bytes = query.view(np.uint8)
        what.rows, what.count, what.stride = &row_bytes[0, 0], count, row_bytes.shape[1]
        what.kind, what.base = KINDS[rows.dtype], <uint32_t>base
        what.steps = NULL
        what.squares = NULL
        what.allowed = NULL
        if steps is not None:
            what.steps = &steps[0]
        if squares is not None:
            what.squares = &squares[0]
        if allowed is not None:
            what.allowed = &allowed[0]
        return self.best(&what, &query_bytes[0], query_step, dimension, k, before[0], before[1])

    cdef tuple best(
        self, const scan_rows_t *what, const void *query, float query_step, size_t dimension, size_t most,
        const uint32_t[::1] rows, const float[::1] values
    ):
        cdef size_t k = min(most, what.count + <size_t>rows.shape[0]), count = 0, i
        cdef scanned_t each
        cdef scanned_t *heap
        if rows.shape[0] != values.shape[0]:
            raise ValueError(f"found must have as many rows as values, had {rows.shape[0]} and {values.shape[0]}")
        heap = <scanned_t *>malloc(k * sizeof(scanned_t))
        if heap == NULL:
            raise MemoryError(f"no memory for {k} rows")
        try:
            with nogil:
                for i in range(<size_t>rows.shape[0]):
                    each.row, each.value = rows[i], values[i]
                    count = scanned_add(heap, count, k, each)
                count = scan_best(self.kernels, what, query, query_step, dimension, heap, k, count)
                scanned_sort(heap, count)
            return listed(heap, count)
        finally:
            free(heap)


cdef tuple listed(const scanned_t *best, size_t count):
    rows, values = np.empty(count, np.uint32), np.empty(count, np.float32)
    cdef uint32_t[::1] to_rows = rows
    cdef float[::1] to_values = values
    cdef size_t i
    for i in range(count):
        to_rows[i] = best[i].row
        to_values[i] = best[i].value
    return rows, values


def check_scan(rows, query, size_t k, size_t base):
    """Raise what is wrong with the arrays of a scan."""
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.dtype not in KINDS:
        raise TypeError("rows are an array of int8, float16 or float32, of two dimensions")
    wanted = np.dtype(np.int8 if rows.dtype == np.int8 else np.float32)
    if not isinstance(query, np.ndarray) or query.ndim != 1 or query.dtype != wanted:
        raise TypeError(f"the query of rows of {rows.dtype} is an array of {wanted}, of one dimension")
    if k < 1 or not 0 < rows.shape[1] <= MOST_DIMENSIONS or len(query) != rows.shape[1]:
        raise ValueError(
            f"k must be 1 or more, was {k}, and the query have the dimensions of the rows, 1 to {MOST_DIMENSIONS}: it "
            f"has {len(query)}, they {rows.shape[1]}"
        )
    if base + <size_t>len(rows) > <size_t>1 << 32:
        raise ValueError(f"numbers of rows must fit 32 bits, {len(rows)} from {base} do not")


def pair_of(a, b):
    """Return the type of two vectors that go together, or raise what is wrong with them."""
    for each in (a, b):
        if not isinstance(each, np.ndarray) or each.dtype not in (np.int8, np.float16, np.float32):
            raise TypeError(f"vectors are arrays of int8, float16 or float32, one was {type(each).__name__}")
    if a.ndim != 1 or a.shape != b.shape or a.dtype != b.dtype or not 0 < len(a) <= MOST_DIMENSIONS:
        raise ValueError(
            f"two vectors have one type and 1 to {MOST_DIMENSIONS} dimensions, were {a.dtype} of {a.shape} and "
            f"{b.dtype} of {b.shape}"
        )
    return a.dtype
