# cython: freethreading_compatible=True
"""Outcomes of actions added up in their order, forgetting, and noticing when what came before does not hold any more.

:mod:`ntmem.reasoningbank.evidence` has the formulas, and what they are for.
"""

from libc.math cimport fmax, fmin, sqrt
from libc.stdlib cimport calloc, free

cdef double SLACK = 0.5
cdef double DRIFTED = 6.0
cdef double LARGEST = 3.0
cdef double ENOUGH = 16.0
cdef double FORGETS = 0.1


cdef struct Sums:
    double weight
    double weights  # sum of the squares
    double total
    double squares


cdef inline void keep(Sums *sums, double share) noexcept nogil:
    sums.weight *= share
    sums.weights *= share * share
    sums.total *= share
    sums.squares *= share


cdef inline void add(Sums *sums, double value) noexcept nogil:
    sums.weight += 1.0
    sums.weights += 1.0
    sums.total += value
    sums.squares += value * value


cdef inline double scatter(const Sums *sums) noexcept nogil:
    return fmax(sums.squares - sums.total * (sums.total / sums.weight), 0.0) if sums.weight > 0 else 0.0


cdef double deviation(const Sums *sums, Py_ssize_t kinds) noexcept nogil:
    """Return the deviation of outcomes from the means of their actions."""
    cdef double weight = 0.0, whole = 0.0
    cdef Py_ssize_t kind
    for kind in range(kinds):
        weight += sums[kind].weight
        whole += scatter(&sums[kind])
    return fmax(sqrt(whole / weight), 1e-12)


cdef list listed(const Sums *sums, Py_ssize_t kinds):
    return [(sums[kind].weight, sums[kind].weights, sums[kind].total, sums[kind].squares) for kind in range(kinds)]


def fold(const unsigned short[:] actions, const double[:] values, Py_ssize_t kinds, double keeps):
    """Add up outcomes, the first one first. O(outcomes x actions).

    Parameters
    ----------
    actions : uint16, shape (n,)
        Numbers of actions, each below `kinds`.
    values : float64, shape (n,)
    keeps : float
        What an outcome counts after each later one.

    Returns
    -------
    now, ever : list of tuple of float
        By action the sums of weights, their squares, weighted values and weighted squares: forgotten with each later
        outcome of any action, and with each later one of the same action.
    drifts : list of int
        At which outcomes a drift was noticed.

    Raises
    ------
    ValueError
        The arrays differ in length, or name an action that there is not.
    """
    cdef Py_ssize_t count = actions.shape[0], place, kind, other
    cdef double value, away
    cdef Sums *now
    cdef Sums *ever
    cdef double *above
    cdef double *below
    if values.shape[0] != count:
        raise ValueError(f"there must be as many values as actions, were {values.shape[0]} and {count}")
    for place in range(count):
        if actions[place] >= kinds:
            raise ValueError(f"actions must be below {kinds}, was {actions[place]}")
    drifts = []
    now = <Sums *>calloc(2 * kinds + 1, sizeof(Sums))
    above = <double *>calloc(2 * kinds + 1, sizeof(double))
    try:
        if now == NULL or above == NULL:
            raise MemoryError
        ever, below = now + kinds, above + kinds
        for place in range(count):
            kind, value = actions[place], values[place]
            if now[kind].weight >= ENOUGH:
                away = (value - now[kind].total / now[kind].weight) / deviation(now, kinds)
                away = fmax(-LARGEST, fmin(away, LARGEST))
                above[kind] = fmax(0.0, above[kind] + away - SLACK)
                below[kind] = fmax(0.0, below[kind] - away - SLACK)
                if above[kind] > DRIFTED or below[kind] > DRIFTED:
                    drifts.append(place)
                    for other in range(2 * kinds):
                        keep(&now[other], FORGETS)
                        above[other] = 0.0
                    keep(&now[kind], 0.0)
                    keep(&ever[kind], 0.0)
            for other in range(kinds):
                keep(&now[other], keeps)
            keep(&ever[kind], keeps)
            add(&now[kind], value)
            add(&ever[kind], value)
        return listed(now, kinds), listed(ever, kinds), drifts
    finally:
        free(now)
        free(above)
