"""A native thread that moves the commit log into LMDB, prefix by prefix, in group commits.

Layout
------
``flush_pass.h`` is one pass (mutex, transaction, sync, ``flushed``), ``flusher.h`` the thread: when a pass is due, and
which of the processes leads. ``docs/design/flusher.md`` has the why.

Invariants
----------
1. The data file holds a prefix of the log, and says itself which: records and position go in one transaction.
2. ``flushed`` is raised only after that transaction was synced (I3).
3. A flusher takes no lock that a writer or a reader of the log holds, nor the GIL.
4. A transaction that fails changes nothing; the log keeps what is not on disk. After a failed sync nobody writes (I3).
5. While the thread runs, the log stays mapped and the environment open: this object keeps both, and holds the latter.
"""

import os
import time

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.logformat cimport (
    TROUBLE_BROKEN, TROUBLE_FULL, TROUBLE_NO_ROOM, mutex_holder, word32_acquire, word_acquire
)
from ntmem._core.meters cimport meters_of

from ntmem._core.logrecords import Trouble


cdef extern from "lmdb.h" nogil:
    enum:
        MDB_MAP_FULL
        MDB_MAP_RESIZED
        MDB_PANIC
        MDB_CORRUPTED
        MDB_PAGE_NOTFOUND
        MDB_INVALID

cdef enum:
    REGION_ID = 16
    SLICE_NS = 50_000_000       # signals are looked at as often
    PATIENCE_NS = 5_000_000_000  # of who is deallocated

failpoints_join(failpoints_table())

CODES = {
    MDB_MAP_FULL: "the data file has reached the size of its map",
    MDB_MAP_RESIZED: "another process has made the data file larger than this one can map",
    MDB_PANIC: "an earlier commit of this process failed while it was being made valid",
    MDB_CORRUPTED: "a page of the data file is damaged",
    MDB_PAGE_NOTFOUND: "a page of the data file is missing",
    MDB_INVALID: "the data file is damaged",
    FLUSH_GROUP_DAMAGED: "the commit log is damaged where the data file ends",
    FLUSH_BEHIND: "the data file has less than it had before: it was replaced while the store was open",
    FLUSH_AHEAD: "the data file has more than was ever committed: it was replaced while the store was open",
    FLUSH_WORDS: "the control words of the shared memory are damaged",
    FLUSH_STRANGER: "the data file does not belong to this shared memory",
    APPLY_BAD_GROUP: "the commit log has a change that no writer made",
    APPLY_DAMAGED: "a row that describes the store is damaged",
    APPLY_BAD_STAGED: "a large value is not in the data file where the commit log says",
}
"""What is said of a code; those above zero are the system's."""


def trouble_text(int kind, int code):
    """Return a sentence for users about why the flusher cannot go on: what was found, and what to do.

    Parameters
    ----------
    kind, code : int
        As in ``Log.trouble`` and :class:`~ntmem._core.logrecords.Trouble`.

    Examples
    --------
    >>> trouble_text(1, 0)
    'the store holds its max_storage_bytes; delete something or raise it'
    >>> trouble_text(2, 28)
    'the disk is full (No space left on device); nothing is lost: free some space, it goes on by itself'
    """
    said = CODES.get(code) or (os.strerror(code) if code > 0 else f"code {code}")
    if kind == TROUBLE_FULL:
        if code == 0:
            return "the store holds its max_storage_bytes; delete something or raise it"
        return f"the store is full ({said}); nothing is lost: delete something, or open it with more max_storage_bytes"
    if kind == TROUBLE_NO_ROOM:
        return f"the disk is full ({said}); nothing is lost: free some space, it goes on by itself"
    if kind == TROUBLE_BROKEN:
        if code > 0:
            return (
                f"the disk failed to sync a change ({said}); the store refuses to write until all its processes have "
                "closed it and one opens it again: check the disk first"
            )
        return (
            f"the store cannot be written any more: {said}; close it in all processes, check it with `ntmem verify`, "
            "and restore a backup if that finds damage"
        )
    raise ValueError(f"kind must be 1, 2 or 3, was {kind}")


@cython.final
@cython.no_gc
cdef class Flusher:
    """The flusher of one process, for one log and the data file that belongs to it.

    Parameters
    ----------
    log : Log
    environment : Environment
        Open for writing; it cannot be closed while the thread runs.
    databases : dict of str to Database
        Those of the store, by name: meta, namespaces, records, history, expiry, and staged if there is one.
    region_id : bytes
        16 bytes that the row ``log`` of the data file begins with; another id there is refused.
    interval : float
        Seconds that a commit may wait for others to go to disk with it, unless somebody waits for it.
    limit : int
        Bytes in use from which only deletions are taken. The map must be larger than that, by two rings and 16 MiB, so
        that what is acknowledged by then finds room.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. The native thread takes no GIL.
    """

    def __cinit__(
        self, Log log not None, Environment environment not None, dict databases not None, bytes region_id not None,
        *, double interval, uint64_t limit
    ):
        cdef flush_t *flush
        cdef apply_dbis_t dbis
        log.check_process()
        environment.check_open()
        if environment.readonly:
            raise ValueError(f"{environment.name} is open for reading only, and what only reads has no flusher")
        if PyBytes_GET_SIZE(region_id) != REGION_ID:
            raise ValueError(f"region_id must have {REGION_ID} bytes, had {PyBytes_GET_SIZE(region_id)}")
        if not 0 <= interval <= 3600:
            raise ValueError(f"interval must be seconds from 0 to 3600, was {interval}")
        if limit < 1:
            raise ValueError("limit must be bytes, 1 or more, was 0")
        self.log = log
        self.environment = environment
        self.databases = tuple(databases.values())
        self.directory = os.fsencode(environment.name)
        self.flusher = <flusher_t *>calloc(1, sizeof(flusher_t))
        if self.flusher == NULL:
            raise MemoryError("no memory for a flusher")
        self.flusher.interval = <uint64_t>(interval * 1e9)
        flush = &self.flusher.flush
        flush.log = &log.log
        flush.env = environment.env
        flush.calls = environment.calls
        flush.directory = PyBytes_AS_STRING(self.directory)
        flush.limit = limit
        meters_of(log.region, &flush.meters)
        flush.page = environment.stat()["psize"]
        memcpy(flush.region_id, PyBytes_AS_STRING(region_id), REGION_ID)
        dbis.meta = environment.number_of(databases["meta"])
        dbis.namespaces = environment.number_of(databases["namespaces"])
        dbis.records = environment.number_of(databases["records"])
        dbis.history = environment.number_of(databases["history"])
        dbis.expiry = environment.number_of(databases["expiry"])
        dbis.staged = environment.number_of(databases["staged"]) if "staged" in databases else 0
        apply_create(&flush.apply, environment.calls, &dbis)

    def __dealloc__(self):
        cdef flusher_t *flusher = self.flusher
        cdef bint inherited
        if flusher == NULL:
            return
        inherited = self.log.forks_at_mapping != self.log.forks[0]
        if flusher.started and not inherited:
            flusher_ask_to_stop(flusher)
            with nogil:
                flusher_join(flusher, PATIENCE_NS)
            if flusher.started:
                # It is in the middle of a transaction that does not end. What it uses stays for ever.
                Py_INCREF(self.log)
                Py_INCREF(self.environment)
                Py_INCREF(self.directory)
                return
            self.environment.release()
        apply_destroy(&flusher.flush.apply)
        free(flusher.flush.buffer)
        free(flusher)

    # ---- the thread ----

    def start(self):
        """Start the thread; nothing to do if it runs.

        Raises
        ------
        OSError
            The system gives no thread.
        """
        cdef int error
        self.log.check_process()
        if self.flusher.started:
            return
        self.environment.hold()
        error = flusher_start(self.flusher)
        if error != 0:
            self.environment.release()
            raise OSError(error, f"the flusher's thread cannot be started: {os.strerror(error)}")

    def stop(self, double timeout=30.0):
        """End the thread after the pass it is in, and hand over to another process; nothing to do if it does not run.

        What is not on disk by then stays in the log: :meth:`drain` before or after, unless others go on.

        Raises
        ------
        TimeoutError
            It is in the middle of a transaction that does not end in `timeout` seconds. It is told to end after it.
        """
        cdef object deadline = time.monotonic() + timeout
        self.log.check_process()
        if not self.flusher.started:
            return
        flusher_ask_to_stop(self.flusher)
        while not self.stop_in(SLICE_NS):
            PyErr_CheckSignals()
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"the flusher has not ended in {timeout:g} s: it waits for the disk, or for a process that is "
                    "stopped while it writes to the data file; continue or end that"
                )

    cdef int stop_in(self, uint64_t wait_ns) except -1:
        """Whether the thread is gone."""
        cdef bint ended
        if not self.flusher.started:
            return 1  # another thread was faster
        if self.flusher.joining:
            time.sleep(wait_ns / 1e9)
            return 0
        self.flusher.joining = 1
        with nogil:
            ended = flusher_join(self.flusher, wait_ns)
        self.flusher.joining = 0
        if ended:
            self.environment.release()
        return ended

    def drain(self, double timeout, *, bint anew=False):
        """Bring to disk, in this thread, what is committed now; with or without the other thread.

        Parameters
        ----------
        timeout : float
            Seconds. A pass that has begun is not interrupted.
        anew : bool
            Forget the trouble that was noted: only for who has opened the store and knows that nobody else has it.

        Raises
        ------
        Trouble
            It cannot be done; :func:`trouble_text` says why.
        TimeoutError
            Another process has been in the middle of a pass all the time.
        RuntimeError
            This thread has a write transaction open, which the flusher would wait for.
        """
        cdef flush_outcome outcome = FLUSH_DONE
        cdef uint64_t target
        cdef object deadline = time.monotonic() + timeout
        cdef flush_t *flush = &self.flusher.flush
        self.log.check_process()
        if self.environment.writer == <unsigned long>PyThread_get_thread_ident():
            raise RuntimeError("this thread has a write transaction open; end it before draining")
        self.environment.hold()
        try:
            if anew:
                flush_forget(flush.log)
            target = word_acquire(&flush.log.control.committed.word)
            while True:
                with nogil:
                    outcome = flush_once(flush, SLICE_NS)
                trouble = self.log.trouble if outcome == FLUSH_FAILED else None
                if trouble is not None:  # else another process has got through since
                    raise Trouble(*trouble)
                if word_acquire(&flush.log.control.flushed.word) >= target and outcome == FLUSH_DONE:
                    return
                PyErr_CheckSignals()
                if time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"process {mutex_holder(&flush.log.control.flusher) or 'unknown'} has been writing to the data "
                        f"file for {timeout:g} s: it is stopped, or the disk is slow; continue or end it"
                    )
        finally:
            self.environment.release()

    # ---- what it does ----

    @property
    def running(self):
        """Whether there is a thread."""
        self.log.check_process()
        return bool(self.flusher.started)

    @property
    def leads(self):
        """Whether this process is the one that flushes."""
        self.log.check_process()
        return bool(word32_acquire(&self.flusher.leads))

    @property
    def holder(self):
        """The process that is in the middle of a pass; 0: none."""
        self.log.check_process()
        return mutex_holder(&self.log.log.control.flusher)

    @property
    def last_failure(self):
        """Why the last pass of this process that failed did so, a code as in :func:`trouble_text`; 0: none has."""
        return <int64_t>word_acquire(<const uint64_t *>&self.flusher.flush.counts.last_code)

    def counts(self):
        """Return what this process has done: passes, groups, bytes of the log, failures, and seconds.

        ``seconds_in_commit`` are in LMDB's commits, most of it waiting for the disk; ``longest_pass`` is the whole of
        one, from having the right to it until it is on disk.
        """
        cdef flush_counts_t *counts = &self.flusher.flush.counts
        return {
            "passes": word_acquire(&counts.passes),
            "groups": word_acquire(&counts.groups),
            "bytes": word_acquire(&counts.bytes),
            "failures": word_acquire(&counts.failures),
            "seconds_in_commit": word_acquire(&counts.sync_ns) / 1e9,
            "longest_pass": word_acquire(&counts.longest_ns) / 1e9,
        }
