"""Groups of the log applied to LMDB from Python: for tests and benchmarks. The flusher calls ``apply.h`` itself.

Invariants
----------
1. A run of groups is one transaction: all of it, or an error and nothing.
2. Python objects are touched only with the GIL; nobody else has the transaction while it is released.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ntmem._core.logformat cimport log_group_t
from ntmem._core.mdb cimport MDB_dbi, MDB_txn, Environment, Transaction, mdb_calls_t


cdef extern from "apply.h" nogil:
    enum:
        APPLY_BAD_GROUP
        ROW_REGION_ID
        BLAKE2B_DIGEST

    ctypedef struct apply_dbis_t:
        MDB_dbi meta, namespaces, records, history, expiry, staged

    ctypedef struct apply_note_t:
        const unsigned char *region
        uint64_t position
        int64_t clock
        bint has_clock

    ctypedef struct apply_t:
        pass

    void apply_create(apply_t *apply, const mdb_calls_t *calls, const apply_dbis_t *dbis)
    void apply_destroy(apply_t *apply)
    int apply_begin(apply_t *apply, MDB_txn *txn)
    int apply_group(apply_t *apply, const unsigned char *group)
    int apply_end(apply_t *apply, const apply_note_t *note)
    void apply_dropped(apply_t *apply)
    bint group_is_sound(const unsigned char *group)
    uint32_t crc32_of(const void *data, size_t size, uint32_t crc)
    void blake2b_digest(unsigned char *digest, const void *data, size_t size)


cdef int run_groups(
    apply_t *apply, MDB_txn *txn, const unsigned char *groups, size_t size, const apply_note_t *note, size_t *count
) noexcept nogil:
    cdef log_group_t head
    cdef int code = apply_begin(apply, txn)
    count[0] = 0
    while code == 0 and size != 0:
        if size < sizeof(head):
            return APPLY_BAD_GROUP
        memcpy(&head, groups, sizeof(head))
        if head.bytes < sizeof(head) or head.bytes > size or not group_is_sound(groups):
            return APPLY_BAD_GROUP
        code = apply_group(apply, groups)
        groups += head.bytes
        size -= head.bytes
        count[0] += 1
    return code if code != 0 else apply_end(apply, note)


class ApplyFailed(Exception):
    """Nothing was applied; `code` is LMDB's, the system's, or one of ``enum apply_error``."""

    def __init__(self, code):
        super().__init__(f"applying groups failed with code {code}")
        self.code = code

    def __reduce__(self):
        return type(self), (self.code,)


def crc32(bytes data not None, uint32_t start=0):
    """Checksum of rows: as zlib's."""
    return crc32_of(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start)


def digest(bytes data not None):
    """What stands for a long name: BLAKE2b of 16 bytes."""
    cdef unsigned char[BLAKE2B_DIGEST] found
    blake2b_digest(found, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return (<char *>found)[:BLAKE2B_DIGEST]


@cython.final
@cython.no_gc
cdef class Applier:
    """Applies groups to an environment.

    Parameters
    ----------
    environment : Environment
        Of a store.
    databases : dict of str to Database
        ``meta``, ``namespaces``, ``records``, ``history``, ``expiry`` and, if there is one, ``staged``.
    region_id : bytes
        16 bytes that name the log the groups come from.

    Notes
    -----
    **Thread safety**: one thread at a time.
    """

    cdef apply_t apply_
    cdef Environment env
    cdef bytes region

    def __cinit__(self, Environment environment not None, dict databases not None, bytes region_id not None):
        cdef apply_dbis_t dbis
        if PyBytes_GET_SIZE(region_id) != ROW_REGION_ID:
            raise ValueError(f"region_id must have {ROW_REGION_ID} bytes, had {len(region_id)}")
        dbis.meta = environment.number_of(databases["meta"])
        dbis.namespaces = environment.number_of(databases["namespaces"])
        dbis.records = environment.number_of(databases["records"])
        dbis.history = environment.number_of(databases["history"])
        dbis.expiry = environment.number_of(databases["expiry"])
        dbis.staged = environment.number_of(databases["staged"]) if "staged" in databases else 0
        self.env = environment
        self.region = region_id
        apply_create(&self.apply_, environment.calls, &dbis)

    def __dealloc__(self):
        apply_destroy(&self.apply_)

    def apply(self, bytes groups not None, *, uint64_t position, clock=None):
        """Apply whole groups, one behind the other, in one transaction; return how many they were.

        Parameters
        ----------
        position : int
            Of the log behind them; noted in LMDB.
        clock : int, optional
            The time of a simulated clock, the offset of another, if it has changed.

        Raises
        ------
        ApplyFailed
            Nothing was applied.
        """
        cdef apply_note_t note
        cdef Transaction txn
        cdef const unsigned char *data = <const unsigned char *>PyBytes_AS_STRING(groups)
        cdef size_t size = PyBytes_GET_SIZE(groups)
        cdef size_t count = 0
        cdef int code
        if self.env is None:
            raise ValueError("this applier was closed; make another")
        note.region = <const unsigned char *>PyBytes_AS_STRING(self.region)
        note.position = position
        note.has_clock = clock is not None
        note.clock = clock if clock is not None else 0
        txn = self.env.begin(True)
        with nogil:
            code = run_groups(&self.apply_, txn.txn, data, size, &note, &count)
        try:
            if code != 0:
                txn.abort()
                raise ApplyFailed(code)
            txn.commit()
        except BaseException:
            apply_dropped(&self.apply_)
            raise
        return count

    def close(self):
        """Let the environment go; closing twice is fine."""
        self.env = None
