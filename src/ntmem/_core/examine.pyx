"""A look at the log that dead processes left, for who is alone with it: is it what living ones can have written?

Invariants
----------
1. What passes has every group whole that is not on disk, and none that the words do not know of.
2. Nothing is changed but by :func:`settle`.
"""

from libc.stdint cimport int64_t

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *

from ntmem._core.logrecords import LogDamaged

failpoints_join(failpoints_table())

cdef dict FINDINGS = {
    EXAMINE_WORDS: "its words contradict each other",
    EXAMINE_MUTEX: "a mutex is held, and by nobody",
    EXAMINE_GROUP: "no sound group begins at {position}",
    EXAMINE_BEHIND: "a whole group stands behind the last one, at {position}",
    EXAMINE_VERSIONS: "its versions do not rise, at {position}",
    EXAMINE_CLOCK: "its clock is not where it was told to be",
    EXAMINE_INDEX: "its index does not lead to what stands at {position}",
}


def examine(Log log not None, *, bint index=False):
    """Raise :class:`LogDamaged` unless the log is as processes that died can have left it.

    Only for who is alone with the region: of living processes it would not be true.

    Parameters
    ----------
    index : bool
        Look at the index, too, for who reads through it before anybody has brought what the log has to disk.

    Returns
    -------
    int or None
        The latest time that its groups tell of; None if all are on disk.

    Notes
    -----
    **Complexity**: O(unflushed bytes); the GIL is released.
    """
    cdef examine_t examined
    cdef examine_outcome outcome
    log.check_process()
    with nogil:
        outcome = log_examine(&log.log, index, &examined)
    if outcome != EXAMINE_SOUND:
        raise LogDamaged(
            f"the log in {log.region.path} is damaged: {FINDINGS[outcome].format(position=examined.position)} (flushed "
            f"{log.flushed}, committed {log.committed}, next sequence {log.next_sequence})"
        )
    return None if examined.position == log.flushed else examined.now


def settle(Log log not None, int64_t least):
    """Take back a time that was told to nobody, not to before `least`; send readers to the disk for what is there.

    For who is alone, behind :func:`examine` and before anybody uses the log.
    """
    log.check_process()
    log_settle(&log.log, least)
