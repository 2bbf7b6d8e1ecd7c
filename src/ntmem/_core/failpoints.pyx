"""Named points in the native code at which a test makes its own process die, stop or dawdle.

Layout
------
One table for the process, here; every native module with failpoints takes its address when it is imported.

Invariants
----------
1. A build without NTMEM_FAILPOINTS=1 has no names and no table, and its failpoints are no instructions.
"""

cdef extern from "failpoint.h" nogil:
    enum:
        FAILPOINTS_COMPILED
        FAILPOINT_KILL
        FAILPOINT_STOP
        FAILPOINT_DELAY
        FAILPOINT_DRAG
        FAILPOINT_PASS

    const char **failpoint_names
    int failpoint_arm(failpoints_t *table, const char *name, int action, uint64_t nth) noexcept

cdef failpoints_t table


cdef failpoints_t *failpoints_table() noexcept:
    return &table


def failpoints():
    """Names of the failpoints of this build, in the order of the code; none unless built with NTMEM_FAILPOINTS=1."""
    names, i = [], 0
    while failpoint_names[i] != NULL:
        names.append((<bytes>failpoint_names[i]).decode())
        i += 1
    return tuple(names)


def arm(str name not None, str action not None, uint64_t nth=1):
    """Make this process act at the `nth` next hit of a failpoint.

    Parameters
    ----------
    name : str
        One of :func:`failpoints`.
    action : {"kill", "stop", "delay", "drag", "pass"}
        End it (SIGKILL), stop it (SIGSTOP), sleep 5 ms, sleep 500 ms at this hit and at all later ones, or nothing any
        more.
    nth : int
        1 is the next hit.
    """
    actions = {
        "kill": FAILPOINT_KILL, "stop": FAILPOINT_STOP, "delay": FAILPOINT_DELAY, "drag": FAILPOINT_DRAG,
        "pass": FAILPOINT_PASS,
    }
    if not FAILPOINTS_COMPILED:
        raise RuntimeError("this build has no failpoints; build with NTMEM_FAILPOINTS=1")
    if action not in actions:
        raise ValueError(f"action must be one of {', '.join(actions)}, was {action!r}")
    if nth < 1:
        raise ValueError(f"nth must be 1 or more, was {nth}")
    if failpoint_arm(&table, name.encode(), actions[action], nth) != 0:
        raise ValueError(f"no failpoint {name!r}; there are {', '.join(failpoints())}")
