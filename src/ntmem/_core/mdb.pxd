"""LMDB for the native parts: its types, the table of its functions, and the environment that owns the file."""

from libc.stdint cimport uint32_t


cdef extern from "mdb_calls.h" nogil:
    ctypedef struct MDB_env:
        pass

    ctypedef struct MDB_txn:
        pass

    ctypedef struct MDB_cursor:
        pass

    ctypedef unsigned int MDB_dbi

    ctypedef struct MDB_val:
        size_t mv_size
        void *mv_data

    ctypedef struct mdb_calls_t:
        pass  # C code has the whole of it by the header


cdef class Environment:
    cdef MDB_env *env               # NULL: closed
    cdef const mdb_calls_t *calls
    cdef MDB_txn *spare             # a read transaction at rest, for the next one
    cdef const uint32_t *forks      # of this process, and how many there had been
    cdef uint32_t forks_at_opening
    cdef Py_ssize_t holds           # open transactions and native users: none may be left at the closing
    cdef unsigned long writer       # the thread that has the write transaction, 0: none of this process
    cdef readonly bint readonly
    cdef str name
    cdef object identity            # device and inode of the data file

    cdef int check_open(self) except -1
    cdef int hold(self) except -1   # what is held cannot be closed; a holder keeps a reference as well
    cdef void release(self) noexcept
    cdef MDB_txn *take_reader(self) noexcept  # a snapshot of now, or NULL; given back before the GIL is
    cdef void give_reader(self, MDB_txn *txn) noexcept
    cdef MDB_dbi number_of(self, object db) except? 0
    cdef int open_file(self, bytes path, size_t map_size, size_t least, list limits) except -1
    cdef void close_file(self) noexcept


cdef class Database:
    cdef Environment env
    cdef MDB_dbi number


cdef class Transaction:
    cdef Environment env
    cdef MDB_txn *txn               # NULL: ended
    cdef bint write
    cdef bint buffers
    cdef bint has_opened            # a database, which is known to others only after a commit
    cdef unsigned long thread       # that has begun it, if it writes

    cdef int check_alive(self) except -1
    cdef int refuse(self) except -1
    cdef int end(self, bint commit) except -1
    cdef object value_of(self, const MDB_val *value)
