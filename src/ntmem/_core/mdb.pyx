"""LMDB itself, compiled in, with the part of py-lmdb's interface that the store uses.

Native parts call the same copy of LMDB through ``mdb_calls.h``, without the GIL. Names, meanings and exceptions are
py-lmdb's, so that either runs under the store.

Layout
------
``Environment`` (the file, mapped) < ``Transaction`` < ``Cursor``, each keeping the one before alive; ``Database`` is
the number of a named table.

Invariants
----------
1. What Python gets is a copy: no object outlives the page that it was read from. (A record is copied anyway, and up to
   some kilobytes a copy costs less than an exporter of the page would.)
2. Every commit is synced; nothing here can turn that off.
3. A process has one environment per file: a second one would take the locks of the first away when it is closed.
4. A forked child neither uses nor frees what it inherited: every use raises, and the finalizers do nothing, as the
   reader slots, the writer's mutex and their file locks are the parent's.
5. A write transaction is used and ended by the thread that began it, which owns LMDB's mutex; read transactions are
   in calls with the GIL only. So a transaction is in one call at a time. An environment in a call without it is held.
"""

import errno
import os

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EACCES, EBUSY, EINVAL, ENOMEM
from libc.string cimport memcpy

from ntmem._core.lmdb_api cimport (
    MDB_APPEND, MDB_CP_COMPACT, MDB_CREATE, MDB_FIRST, MDB_GET_CURRENT, MDB_KEYEXIST, MDB_LAST, MDB_NEXT,
    MDB_NOOVERWRITE, MDB_NOTFOUND, MDB_NOTLS, MDB_PREV, MDB_RDONLY, MDB_SET_RANGE, MDB_cursor_op, MDB_envinfo,
    MDB_stat, mdb_cursor_close, mdb_cursor_del, mdb_cursor_get, mdb_cursor_open, mdb_dbi_open, mdb_del, mdb_env_close,
    mdb_env_copy2, mdb_env_create, mdb_env_info, mdb_env_open, mdb_env_set_mapsize, mdb_env_set_maxdbs,
    mdb_env_set_maxreaders, mdb_env_stat, mdb_env_sync, mdb_get, mdb_put, mdb_reader_check, mdb_stat, mdb_strerror,
    mdb_txn_abort, mdb_txn_begin, mdb_txn_commit, mdb_txn_id, mdb_txn_renew,
)


cdef extern from "region.h" nogil:  # for its count of forks
    uint32_t region_forks
    int region_watch_forks() noexcept


cdef extern from *:
    """
    #include "mdb_calls.h"

    /* An environment keeps one read transaction that has ended, or none (NULL); who takes it has it alone. */
    static inline MDB_txn *spare_take(MDB_txn **spare)
    {
        return __atomic_exchange_n(spare, NULL, __ATOMIC_ACQUIRE);
    }

    static inline void spare_give(MDB_txn **spare, MDB_txn *txn)
    {
        MDB_txn *none = NULL;
        mdb_txn_reset(txn);
        if (!__atomic_compare_exchange_n(spare, &none, txn, 0, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
            mdb_txn_abort(txn);
    }

    static const mdb_calls_t mdb_calls_here = {
        mdb_txn_begin, mdb_txn_commit, mdb_txn_abort, mdb_txn_reset, mdb_txn_renew, mdb_txn_id,
        mdb_get, mdb_put, mdb_del,
        mdb_cursor_open, mdb_cursor_close, mdb_cursor_get, mdb_cursor_put, mdb_cursor_del,
        mdb_stat, mdb_env_info, mdb_env_stat, mdb_env_sync, mdb_reader_check, mdb_strerror,
    };
    """
    const mdb_calls_t mdb_calls_here
    MDB_txn *spare_take(MDB_txn **spare) noexcept
    void spare_give(MDB_txn **spare, MDB_txn *txn) noexcept


cdef enum:
    FREE_LIST = 0       # LMDB's numbers of the two databases that every file has
    MAIN = 1
    LARGE = 1 << 16     # values from here on are put without the GIL

cdef set open_files = set()             # identities of the data files of this process' environments
cdef set opening = set()                # and of the directories that are just being opened
cdef tuple CLASSES = (  # of py-lmdb's exceptions, by LMDB's codes from MDB_KEYEXIST on
    "KeyExists", "NotFound", "PageNotFound", "Corrupted", "Panic", "VersionMismatch", "Invalid", "MapFull", "DbsFull",
    "ReadersFull", "TlsFull", "TxnFull", "CursorFull", "PageFull", "MapResized", "Incompatible", "BadRslot", "BadTxn",
    "BadValsize", "BadDbi",
)
cdef dict SYSTEM_CLASSES = {
    errno.EACCES: "Readonly",
    errno.EINVAL: "InvalidParameter",
    errno.EAGAIN: "Lock",
    errno.ENOMEM: "Memory",
    errno.ENOSPC: "Disk",
}

if region_watch_forks() != 0:
    raise MemoryError("no memory for a fork handler")


os.register_at_fork(after_in_child=open_files.clear)  # a child may open what its parent has open
os.register_at_fork(after_in_child=opening.clear)


cdef object failure(str what, int code):
    import lmdb

    reason = mdb_strerror(code).decode(errors="replace")
    if MDB_KEYEXIST <= code < MDB_KEYEXIST + <int>len(CLASSES):
        name = CLASSES[code - MDB_KEYEXIST]
    else:
        name = SYSTEM_CLASSES.get(code, "")
    error = getattr(lmdb, f"{name}Error")(f"{what}: {reason}" if code else what)
    error.what, error.code, error.reason = what, code, reason  # as py-lmdb's own have them
    return error


cdef int check(str what, int code) except -1:
    if code != 0:
        raise failure(what, code)
    return 0


cdef dict stat_dict(const MDB_stat *stat):
    return {
        "psize": stat.ms_psize,
        "depth": stat.ms_depth,
        "branch_pages": stat.ms_branch_pages,
        "leaf_pages": stat.ms_leaf_pages,
        "overflow_pages": stat.ms_overflow_pages,
        "entries": stat.ms_entries,
    }


cdef inline int view_of(object data, MDB_val *value, Py_buffer *buffer) except -1:
    buffer.len = -1  # nothing for release_view() to do
    if PyBytes_CheckExact(data):
        value.mv_data = PyBytes_AS_STRING(data)
        value.mv_size = <size_t>PyBytes_GET_SIZE(data)
        return 0
    PyObject_GetBuffer(data, buffer, PyBUF_SIMPLE)
    value.mv_data = buffer.buf
    value.mv_size = <size_t>buffer.len
    return 0


cdef inline void release_view(Py_buffer *buffer) noexcept:
    if buffer.len >= 0:
        PyBuffer_Release(buffer)


@cython.final
@cython.no_gc
cdef class Environment:
    """An LMDB file, opened by this process alone or shared with others; the file is ``data.mdb`` in `path`.

    Parameters
    ----------
    path : str or os.PathLike
        The directory.
    map_size : int
        The most bytes that the file may have. Address space is taken for all of it, or for a half, a quarter, and so
        on if so much cannot be had; ``info()["map_size"]`` says what it was.
    max_dbs, max_readers, mode : int
        Named databases of this process, reading transactions of all processes, permissions of new files.
    readonly : bool
        Never write, not even a lock file that is not there.
    create : bool
        Make the directory if it is not there.

    Raises
    ------
    lmdb.Error
        Of the class that py-lmdb would raise; also when this process has the file open already.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread. Opening, syncing, copying and beginning to write let
    others run.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     env = Environment(directory, map_size=1 << 20)
    ...     with env.begin(write=True, buffers=False) as txn:
    ...         _ = txn.put(b"desk", b"fx")
    ...     with env.begin(buffers=False) as txn:
    ...         txn.get(b"desk")
    ...     env.close()
    b'fx'
    """

    def __cinit__(
        self, path, *, size_t map_size, max_dbs=16, max_readers=1022, mode=0o600, bint readonly=False, bint create=True
    ):
        cdef size_t least = 0
        self.calls = &mdb_calls_here
        self.forks = &region_forks
        self.forks_at_opening = region_forks
        self.readonly = readonly
        self.name = os.fsdecode(path)
        if create and not readonly:
            try:
                os.mkdir(self.name, 0o700)
            except FileExistsError:
                pass
        data_file = os.path.join(self.name, "data.mdb")
        try:
            directory = os.stat(self.name)
        except OSError as error:
            raise failure(self.name, error.errno) from error
        try:
            found = os.stat(data_file)
            least = found.st_size
        except OSError:
            found = None  # LMDB says what is wrong with it
        directory = (directory.st_dev, directory.st_ino)
        if directory in opening or (found is not None and (found.st_dev, found.st_ino) in open_files):
            raise failure(f"{self.name} is already open in this process; use that environment", 0)
        opening.add(directory)
        try:
            self.open_file(os.fsencode(self.name), map_size, least, [max_dbs, max_readers, mode & ~0o111])
            found = os.stat(data_file)
            identity = (found.st_dev, found.st_ino)
            if identity in open_files:
                raise failure(f"{self.name} is already open in this process by another path; use that environment", 0)
            open_files.add(identity)
            self.identity = identity
        except BaseException:
            self.close_file()
            raise
        finally:
            opening.discard(directory)

    def __dealloc__(self):
        if self.forks_at_opening == self.forks[0] and self.holds == 0:
            self.close_file()

    cdef int open_file(self, bytes path, size_t map_size, size_t least, list limits) except -1:
        cdef const char *where = path
        cdef MDB_env *env
        cdef MDB_txn *txn
        cdef MDB_dbi main
        cdef MDB_dbi max_dbs = limits[0]
        cdef unsigned int max_readers = limits[1]
        cdef unsigned int mode = limits[2]
        cdef unsigned int flags = MDB_NOTLS | (MDB_RDONLY if self.readonly else 0)
        cdef int code
        least = max(least, <size_t>1 << 20)
        while True:
            check("mdb_env_create", mdb_env_create(&env))
            with nogil:
                code = mdb_env_set_mapsize(env, map_size)
                if code == 0:
                    code = mdb_env_set_maxreaders(env, max_readers)
                if code == 0:
                    code = mdb_env_set_maxdbs(env, max_dbs)
                if code == 0:
                    code = mdb_env_open(env, where, flags, mode)
                if code == 0:  # the main database has no order before somebody opens it
                    code = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn)
                    if code == 0:
                        code = mdb_dbi_open(txn, NULL, 0, &main)
                        mdb_txn_abort(txn)
                if code != 0:
                    mdb_env_close(env)
            if code == 0:
                self.env = env
                return 0
            if code != ENOMEM or map_size <= least:
                raise failure(self.name, code)
            map_size = max(map_size // 2, least)

    cdef void close_file(self) noexcept:
        cdef MDB_txn *spare
        if self.env == NULL:
            return
        spare = spare_take(&self.spare)
        if spare != NULL:
            mdb_txn_abort(spare)
        mdb_env_close(self.env)
        self.env = NULL
        open_files.discard(self.identity)

    # ---- for the native parts that use it ----

    cdef int check_open(self) except -1:
        if self.forks_at_opening != self.forks[0]:
            raise RuntimeError(f"{self.name} was opened before this process was forked; open it again")
        if self.env == NULL:
            raise failure("Attempt to operate on closed/deleted/dropped object.", 0)
        return 0

    cdef int hold(self) except -1:
        self.check_open()
        self.holds += 1
        return 0

    cdef void release(self) noexcept:
        self.holds -= 1

    cdef MDB_txn *take_reader(self) noexcept:
        cdef MDB_txn *txn
        if self.env == NULL:
            return NULL
        txn = spare_take(&self.spare)
        if txn == NULL:  # another thread has it
            return txn if mdb_txn_begin(self.env, NULL, MDB_RDONLY, &txn) == 0 else NULL
        if mdb_txn_renew(txn) != 0:
            mdb_txn_abort(txn)
            return NULL
        return txn

    cdef void give_reader(self, MDB_txn *txn) noexcept:
        spare_give(&self.spare, txn)

    cdef MDB_dbi number_of(self, object db) except? 0:
        if db is None:
            return MAIN
        if (<Database?>db).env is not self:
            raise failure("Database handle belongs to another environment.", 0)
        return (<Database>db).number

    # ---- transactions and databases ----

    def begin(self, bint write=False, bint buffers=True):
        """Begin a transaction; a write transaction waits for that of every other thread and process.

        Parameters
        ----------
        write : bool
            Whether it may change anything.
        buffers : bool
            Whether keys and values come as memoryview rather than bytes; they are copies in either case.
        """
        cdef Transaction begun = Transaction.__new__(Transaction)
        cdef MDB_txn *txn
        cdef unsigned long thread = 0
        cdef int code
        self.hold()
        try:
            if not write:
                txn = spare_take(&self.spare)
                if txn != NULL:
                    code = mdb_txn_renew(txn)
                    if code != 0:
                        mdb_txn_abort(txn)
                        raise failure("mdb_txn_renew", code)
                else:
                    check("mdb_txn_begin", mdb_txn_begin(self.env, NULL, MDB_RDONLY, &txn))
            else:
                thread = <unsigned long>PyThread_get_thread_ident()
                if self.readonly:
                    raise failure("Cannot start write transaction with read-only environment", EACCES)
                if self.writer == thread:  # it would wait for itself
                    raise failure("This thread has a write transaction already", EBUSY)
                with nogil:
                    code = mdb_txn_begin(self.env, NULL, 0, &txn)
                check("mdb_txn_begin", code)
                self.writer = thread
        except BaseException:
            self.release()
            raise
        begun.env = self
        begun.txn = txn
        begun.write = write
        begun.buffers = buffers
        begun.thread = thread
        return begun

    def open_db(self, name, Transaction txn=None, bint create=True):
        """Return a handle of the database `name`, for ``db=``; made if it is not there, unless `create` is false.

        Raises
        ------
        lmdb.NotFoundError
            It is not there.
        lmdb.IncompatibleError
            There is something else of that name.
        """
        cdef Database db = Database.__new__(Database)
        cdef bytes raw = bytes(name)
        self.check_open()
        if txn is None:
            with self.begin(write=not self.readonly) as txn:
                return self.open_db(raw, txn, create)
        txn.check_alive()
        if txn.env is not self:
            raise failure("Transaction belongs to another environment.", 0)
        txn.has_opened = True
        check("mdb_dbi_open", mdb_dbi_open(txn.txn, raw, MDB_CREATE if create else 0, &db.number))
        db.env = self
        return db

    def close(self):
        """Close the file, or give it up in a forked child.

        Raises
        ------
        RuntimeError
            A transaction is open.
        """
        if self.forks_at_opening != self.forks[0]:
            return
        if self.holds:
            raise RuntimeError(f"{self.name} has {self.holds} open transactions or native users; end them first")
        self.close_file()

    # ---- the file as a whole ----

    @property
    def path(self):
        """The directory."""
        return self.name

    def info(self):
        """Return sizes and counts: map_size, last_pgno, last_txnid, max_readers, num_readers."""
        cdef MDB_envinfo info
        self.check_open()
        check("mdb_env_info", mdb_env_info(self.env, &info))
        return {
            "map_size": info.me_mapsize,
            "last_pgno": info.me_last_pgno,
            "last_txnid": info.me_last_txnid,
            "max_readers": info.me_maxreaders,
            "num_readers": info.me_numreaders,
        }

    def stat(self):
        """Return the figures of the main database: psize, depth, branch_, leaf_, overflow_pages, entries."""
        cdef MDB_stat stat
        self.check_open()
        check("mdb_env_stat", mdb_env_stat(self.env, &stat))
        return stat_dict(&stat)

    def free_pages(self):
        """Return how many pages of the file are free, or will be when nobody reads old states any more."""
        cdef size_t total = 0
        cdef size_t count
        cdef MDB_cursor *cursor = NULL
        cdef MDB_val key
        cdef MDB_val value
        cdef Transaction txn = self.begin()
        cdef int code
        try:
            check("mdb_cursor_open", mdb_cursor_open(txn.txn, FREE_LIST, &cursor))
            code = mdb_cursor_get(cursor, &key, &value, MDB_FIRST)
            while code == 0:
                if value.mv_size >= sizeof(size_t):
                    memcpy(&count, value.mv_data, sizeof(size_t))
                    total += count
                code = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
            mdb_cursor_close(cursor)
            if code != MDB_NOTFOUND:
                raise failure("mdb_cursor_get", code)
        finally:
            txn.end(False)
        return total

    def reader_check(self):
        """Free the slots of readers that have died; return how many there were."""
        cdef int dead = 0
        self.check_open()
        check("mdb_reader_check", mdb_reader_check(self.env, &dead))
        return dead

    def sync(self):
        """Sync the file, as every commit does."""
        cdef int code
        self.hold()
        with nogil:
            code = mdb_env_sync(self.env, 1)
        self.release()
        check("mdb_env_sync", code)

    def copy(self, path, bint compact=False):
        """Copy the newest state into the empty directory `path`; `compact` leaves out free pages."""
        cdef bytes raw = os.fsencode(path)
        cdef const char *where = raw
        cdef unsigned int flags = MDB_CP_COMPACT if compact else 0
        cdef int code
        self.hold()
        with nogil:
            code = mdb_env_copy2(self.env, where, flags)
        self.release()
        check("mdb_env_copy2", code)


@cython.final
@cython.no_gc
cdef class Database:
    """A handle of a named database, made by :meth:`Environment.open_db`."""

    def __init__(self):
        raise TypeError("use Environment.open_db()")


@cython.final
@cython.no_gc
cdef class Transaction:
    """One snapshot, or one change; made by :meth:`Environment.begin`. As a context manager it commits at the end.

    Notes
    -----
    **Thread safety**: a read transaction may be handed from thread to thread, a write transaction may not.
    """

    def __init__(self):
        raise TypeError("use Environment.begin()")

    def __dealloc__(self):
        if self.txn == NULL or self.env.forks_at_opening != self.env.forks[0]:
            return
        mdb_txn_abort(self.txn)
        if not self.write:
            self.env.release()
        elif self.thread == <unsigned long>PyThread_get_thread_ident():
            self.env.writer = 0
            self.env.release()
        # else the mutex is another thread's until that ends; it is linked to it, so the file must stay mapped

    cdef inline int check_alive(self) except -1:
        if (
            self.txn == NULL
            or (self.write and self.thread != <unsigned long>PyThread_get_thread_ident())
            or self.env.forks_at_opening != self.env.forks[0]
        ):
            return self.refuse()
        return 0

    cdef int refuse(self) except -1:
        if self.env is None:
            raise TypeError("use Environment.begin()")
        self.env.check_open()
        if self.txn == NULL:
            raise failure("Attempt to operate on closed/deleted/dropped object.", 0)
        raise RuntimeError("a write transaction belongs to the thread that began it; begin one in each thread")

    cdef int end(self, bint commit) except -1:
        cdef MDB_txn *txn = self.txn
        cdef int code = 0
        self.check_alive()
        if self.write:
            self.env.writer = 0  # before: as soon as it has ended, another thread may set it
        self.txn = NULL
        if commit and (self.write or self.has_opened):
            with nogil:
                code = mdb_txn_commit(txn)
        elif self.write or self.has_opened:
            mdb_txn_abort(txn)
        else:
            spare_give(&self.env.spare, txn)
        self.env.release()
        return check("mdb_txn_commit", code)

    cdef inline object value_of(self, const MDB_val *value):
        data = PyBytes_FromStringAndSize(<const char *>value.mv_data, <Py_ssize_t>value.mv_size)
        return PyMemoryView_FromObject(data) if self.buffers else data

    def commit(self):
        """Make the changes; they are on disk when this returns."""
        self.end(True)

    def abort(self):
        """Forget the changes; nothing to do if the transaction has ended."""
        if self.txn != NULL or self.env is None or self.env.forks_at_opening != self.env.forks[0]:
            self.end(False)

    def __enter__(self):
        self.check_alive()
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
            self.commit()
        else:
            self.abort()

    def id(self):
        """Return the number of the snapshot, or of the change that is being made."""
        self.check_alive()
        return mdb_txn_id(self.txn)

    def stat(self, db=None):
        """Return the figures of a database: psize, depth, branch_pages, leaf_pages, overflow_pages, entries."""
        cdef MDB_stat stat
        self.check_alive()
        check("mdb_stat", mdb_stat(self.txn, self.env.number_of(db), &stat))
        return stat_dict(&stat)

    def get(self, key, default=None, db=None):
        """Return a copy of the value of `key`, or `default`."""
        cdef MDB_val where
        cdef MDB_val value
        cdef Py_buffer buffer
        cdef MDB_dbi number
        cdef int code
        self.check_alive()
        number = self.env.number_of(db)
        view_of(key, &where, &buffer)
        code = mdb_get(self.txn, number, &where, &value)
        release_view(&buffer)
        if code == MDB_NOTFOUND:
            return default
        check("mdb_get", code)
        return self.value_of(&value)

    def put(self, key, value, db=None, bint overwrite=True, bint append=False):
        """Set the value of `key`; return whether it was done.

        Parameters
        ----------
        overwrite : bool
            If false, leave an existing value as it is.
        append : bool
            The key is behind all others, which makes it faster.
        """
        cdef MDB_val where
        cdef MDB_val what
        cdef Py_buffer key_buffer
        cdef Py_buffer value_buffer
        cdef MDB_dbi number
        cdef unsigned int flags = (0 if overwrite else MDB_NOOVERWRITE) | (MDB_APPEND if append else 0)
        cdef int code
        self.check_alive()
        number = self.env.number_of(db)
        view_of(key, &where, &key_buffer)
        try:
            view_of(value, &what, &value_buffer)
        except BaseException:
            release_view(&key_buffer)
            raise
        if what.mv_size < LARGE:
            code = mdb_put(self.txn, number, &where, &what, flags)
        else:
            with nogil:
                code = mdb_put(self.txn, number, &where, &what, flags)
        release_view(&value_buffer)
        release_view(&key_buffer)
        if code == MDB_KEYEXIST:
            return False
        check("mdb_put", code)
        return True

    def delete(self, key, db=None):
        """Delete `key`; return whether it was there."""
        cdef MDB_val where
        cdef Py_buffer buffer
        cdef MDB_dbi number
        cdef int code
        self.check_alive()
        number = self.env.number_of(db)
        view_of(key, &where, &buffer)
        code = mdb_del(self.txn, number, &where, NULL)
        release_view(&buffer)
        if code == MDB_NOTFOUND:
            return False
        check("mdb_del", code)
        return True

    def cursor(self, db=None):
        """Return a cursor that stands nowhere yet."""
        cdef Cursor cursor = Cursor.__new__(Cursor)
        self.check_alive()
        check("mdb_cursor_open", mdb_cursor_open(self.txn, self.env.number_of(db), &cursor.cursor))
        cursor.txn = self
        return cursor


@cython.final
@cython.no_gc
cdef class Cursor:
    """A place in a database, made by :meth:`Transaction.cursor`; its iterator yields (key, value) from there on."""

    cdef Transaction txn
    cdef MDB_cursor *cursor
    cdef bint positioned

    def __init__(self):
        raise TypeError("use Transaction.cursor()")

    def __dealloc__(self):
        if self.txn is None or self.txn.env.forks_at_opening != self.txn.env.forks[0]:
            return
        if not self.txn.write:
            mdb_cursor_close(self.cursor)
        elif self.txn.txn != NULL and self.txn.thread == <unsigned long>PyThread_get_thread_ident():
            mdb_cursor_close(self.cursor)
        # else the end of the write transaction frees it, or has

    cdef inline int check_alive(self) except -1:
        if self.txn is None:
            raise TypeError("use Transaction.cursor()")
        return self.txn.check_alive()

    cdef bint move(self, MDB_cursor_op op, MDB_val *row) except -1:
        cdef int code
        self.check_alive()
        code = mdb_cursor_get(self.cursor, &row[0], &row[1], op)
        self.positioned = code == 0
        if code != 0 and code != MDB_NOTFOUND and not (code == EINVAL and op == MDB_GET_CURRENT):
            raise failure("mdb_cursor_get", code)
        return self.positioned

    cdef object current(self, bint key, bint value):
        cdef MDB_val[2] row
        self.check_alive()
        # Asked for anew: a change through the transaction may have moved the page, or deleted the row.
        if not (self.positioned and self.move(MDB_GET_CURRENT, row)):
            row[0] = row[1] = MDB_val(0, NULL)
        if key and value:
            return self.txn.value_of(&row[0]), self.txn.value_of(&row[1])
        return self.txn.value_of(&row[0] if key else &row[1])

    def first(self):
        """Move to the first key; return whether there is one."""
        cdef MDB_val[2] row
        return self.move(MDB_FIRST, row)

    def last(self):
        """Move to the last key; return whether there is one."""
        cdef MDB_val[2] row
        return self.move(MDB_LAST, row)

    def next(self):
        """Move to the next key, from nowhere to the first; return whether there is one."""
        cdef MDB_val[2] row
        return self.move(MDB_NEXT, row)

    def prev(self):
        """Move to the previous key, from nowhere to the last; return whether there is one."""
        cdef MDB_val[2] row
        return self.move(MDB_PREV, row)

    def set_range(self, key):
        """Move to the first key that is `key` or behind it; return whether there is one."""
        cdef MDB_val[2] row
        cdef Py_buffer buffer
        view_of(key, &row[0], &buffer)
        try:
            return self.move(MDB_SET_RANGE if row[0].mv_size else MDB_FIRST, row)
        finally:
            release_view(&buffer)

    def key(self):
        """Return the key here, empty if the cursor stands nowhere."""
        return self.current(True, False)

    def value(self):
        """Return the value here, empty if the cursor stands nowhere."""
        return self.current(False, True)

    def delete(self):
        """Delete what is here and move to the next; return whether there was something."""
        cdef MDB_val[2] row
        self.check_alive()
        if not self.positioned:
            return False
        check("mdb_cursor_del", mdb_cursor_del(self.cursor, 0))
        self.move(MDB_GET_CURRENT, row)
        return True

    def iternext(self, bint keys=True, bint values=True):
        """Return an iterator from here on (from the first key, if the cursor stands nowhere) that moves the cursor."""
        self.check_alive()
        if not self.positioned:
            self.first()
        return self._walk(keys or not values, values)

    def _walk(self, bint keys, bint values):
        while self.positioned:
            yield self.current(keys, values)
            self.next()

    def __iter__(self):
        return self.iternext()
