"""Graphs of neighbours for native parts: made of rows in memory."""

from ntmem._core.graph cimport graph_job_t


# The graph of the rows, as ntmem._core.graph takes it, made without the GIL. None: it was stopped.
cdef bytes graph_of(const graph_job_t *job)
