"""Exact nearest neighbours over float32 rows.

Layout
------
``vectors`` is read in place as n rows of d float32, one after the other. The k best so far stand
in a heap of (row, distance) with the farthest on top, so a row that is too far costs one comparison.

Invariants
----------
1. Results are in one total order: nearer first, and of equal distances the lower row first.
2. A NaN distance is never in the heap, hence never returned.
3. While the GIL is released only C memory is touched, and the two buffers are held.
"""

from libc.stdint cimport SIZE_MAX
from libc.stdlib cimport free, malloc


cdef extern from "distance.h" nogil:
    ctypedef struct neighbour_t:
        size_t row
        float distance

    size_t neighbours_find(
        const float *vectors, size_t n, size_t dimension, const float *query, neighbour_t *found, size_t k
    ) noexcept


cdef object explain_refusal(str name, object value, int ndim):
    """The exception for a buffer that is not C-contiguous float32 of `ndim` dimensions."""
    shape = "(n, d)" if ndim == 2 else "(d,)"
    wanted = f"{name} must be a C-contiguous float32 buffer of shape {shape}"
    remedy = f"pass numpy.ascontiguousarray({name}, dtype=numpy.float32)"
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError):
        dtype = getattr(value, "dtype", None)
        found = type(value).__name__ + ("" if dtype is None else f" of {dtype}")
        return TypeError(f"{wanted}, was {found}; {remedy}")
    if view.format.lstrip("@=<") != "f":
        dtype = getattr(value, "dtype", f"format {view.format!r}")
        return TypeError(f"{wanted}, was {type(value).__name__} of {dtype}; {remedy}")
    if view.ndim != ndim:
        return ValueError(f"{wanted}, had shape {view.shape}")
    return ValueError(f"{wanted}, was not C-contiguous; {remedy}")


cdef const float[:, ::1] view_matrix(object vectors) except *:
    if vectors is None:  # Cython would make an empty view of it
        raise explain_refusal("vectors", vectors, 2)
    try:
        return vectors
    except (TypeError, ValueError, BufferError):
        raise explain_refusal("vectors", vectors, 2) from None


cdef const float[::1] view_vector(object query) except *:
    if query is None:  # Cython would make an empty view of it
        raise explain_refusal("query", query, 1)
    try:
        return query
    except (TypeError, ValueError, BufferError):
        raise explain_refusal("query", query, 1) from None


def nearest(vectors, query, Py_ssize_t k):
    """Find the rows nearest to a query by squared Euclidean distance.

    Parameters
    ----------
    vectors : buffer of float32, shape (n, d), C-contiguous
        The rows to search; n may be 0, d may not. Read-only buffers are fine.
    query : buffer of float32, shape (d,), contiguous
    k : int
        How many rows to return at most, 1 or more.

    Returns
    -------
    list of (int, float)
        Row index and squared distance, nearest first; of equal distances the lower row first.
        Fewer than `k` when there are fewer rows. A row whose distance is NaN is left out; one at
        infinite distance is not. Sums are in float32.

    Raises
    ------
    TypeError
        An argument is no buffer, or not of float32, or `k` is no integer.
    ValueError
        Shapes do not fit, a buffer is not contiguous, or `k` is below 1.

    Notes
    -----
    **Thread safety**: the GIL is released during the search; nobody may write to the buffers
    meanwhile, reading is free.

    **Complexity**: O(n d + n log k) time, O(min(n, k)) memory.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.array([[0, 0], [3, 4], [1, 0]], dtype=np.float32)
    >>> nearest(rows, np.zeros(2, dtype=np.float32), k=2)
    [(0, 0.0), (2, 1.0)]
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, was {k}")

    cdef const float[:, ::1] rows = view_matrix(vectors)
    cdef const float[::1] target = view_vector(query)
    cdef size_t n = rows.shape[0]
    cdef size_t dimension = rows.shape[1]

    if dimension == 0:
        raise ValueError(f"vectors must have at least one column, had shape ({n}, 0)")
    if <size_t>target.shape[0] != dimension:
        raise ValueError(f"query must have the {dimension} columns of vectors, had {target.shape[0]}")
    if n == 0:
        return []  # and there is no first row to point to

    cdef const float *first_row = &rows[0, 0]
    cdef const float *first_of_target = &target[0]
    cdef size_t room = min(n, <size_t>k)
    cdef neighbour_t *found = NULL
    cdef size_t count
    if room <= SIZE_MAX // sizeof(neighbour_t):
        found = <neighbour_t *>malloc(room * sizeof(neighbour_t))
    if found == NULL:
        raise MemoryError(f"no memory for {room} neighbours")
    try:
        with nogil:
            count = neighbours_find(first_row, n, dimension, first_of_target, found, room)
        return [(found[i].row, found[i].distance) for i in range(count)]
    finally:
        free(found)
