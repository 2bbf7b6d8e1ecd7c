"""The commit log, for native parts that write to it or follow it without Python objects."""

from libc.stdint cimport uint32_t, uint64_t

from ntmem._core.logformat cimport log_append_outcome, log_append_t, log_record_t, log_t
from ntmem._core.logrecords cimport Batch, Claim, Record
from ntmem._core.region cimport Region


cdef class Log:
    cdef readonly Region region
    cdef log_t log
    cdef const uint32_t *forks      # of this process, and how many there had been
    cdef uint32_t forks_at_mapping
    cdef bint is_shut
    cdef unsigned long owner        # thread of this process that has the log locked; 0: none
    cdef size_t appending           # threads that are in an append without the GIL

    cdef inline int check_process(self) except -1:
        if self.forks_at_mapping != self.forks[0]:
            self.region.check_process()
        return 0

    cdef object damage(self, str what)
    cdef int place(self, Batch batch, bint each) except -1
    cdef int run(self, log_append_t *append, double timeout) except -1
    cdef int check_not_shut(self) except -1
    cdef log_append_outcome append_without_gil(self, log_append_t *append, uint64_t wait_ns) noexcept
    cdef int run_locked(self, log_append_t *append) except -1
    cdef object refusal(self, log_append_outcome outcome, const log_append_t *append, double timeout)
    cdef Record copy_record(self, bytes namespace, bytes key, uint64_t position, const log_record_t *header)
    cdef uint64_t wait(self, uint64_t *word, uint32_t *news, uint64_t target, double timeout) except? 0
