"""The position book: what is held, readable by every thread and process in tens of nanoseconds, never torn.

Layout
------
Section 6: ``head`` (how many slots) | slots: sequence, hash, key, two copies of a position. ``fixed.h`` is arithmetic,
``book.h`` what a fill makes of a position, ``book_table.h`` slots; ``docs/design/positions.md`` has the why.

Invariants
----------
1. A slot has what the newest record of its key in the log has: it is published while the log's mutex is held that the
   record was committed under, and by repair if its writer died in between (I1, I2).
2. A reader takes no lock and waits for nobody; what may have been overwritten while it copied is copied again (I5).
"""

import time
from operator import itemgetter

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from ntmem._core.bookformat cimport *
from ntmem._core.cold cimport COLD_ABSENT, COLD_FOUND, cold_find, cold_found_t, cold_outcome, cold_space
from ntmem._core.failpoints cimport failpoints_join, failpoints_table
from ntmem._core.fill cimport fill, id_bytes, make_fill, sign_of
from ntmem._core.keyhash cimport keyhash
from ntmem._core.log cimport Log
from ntmem._core.logformat cimport *
from ntmem._core.logrecords cimport Claim, key_fill
from ntmem._core.mdb cimport MDB_dbi, MDB_txn, Environment
from ntmem._core.meters cimport METER_APPLY_FILL, meters_begin, meters_end, meters_of, meters_t
from ntmem._core.position cimport Position, begin, decimal_of, mantissa_of, name_of, small

from ntmem._core.logrecords import LogDamaged, WriterStalled
from ntmem._core.text import exact

failpoints_join(failpoints_table())


cdef enum:
    SECTION_BOOK = 6
    SLICE_NS = 50_000_000

cdef bytes POSITIONS = b"\5ntmem\tpositions"  # labels of namespaces, each behind its length
cdef bytes ENTRIES = b"\5ntmem\5fills"
cdef str EMPTY = ""

_first = itemgetter(0)


class BookFull(RuntimeError):
    """All slots are taken."""


class Conflicting(ValueError):
    """An id was used for something else."""


class TooOld(ValueError):
    """Ids of that time are not kept any more."""


# ---- making a book ----------------------------------------------------------------------------------------------


def sections(uint64_t slots):
    """Return the section a region needs for a book of so many keys, a power of two."""
    if slots == 0 or slots & (slots - 1) or slots > 1 << 20:
        raise ValueError(f"slots must be a power of two up to 2**20, was {slots}")
    return [(SECTION_BOOK, sizeof(book_table_t) + slots * sizeof(book_slot_t), 0)]


def create(Log log not None, rows):
    """Make the book of a region that is not published yet.

    Parameters
    ----------
    rows : iterable of (bytes, bytes, int)
        Key, value and version of the records of positions that are on disk. Those that were purged get no slot: who
        books to one again wakes it.
    """
    cdef book_position_t body
    cdef uint64_t size = 0
    cdef bytes name, value
    cdef uint64_t version
    cdef book_table_t *table = <book_table_t *>log.region.section(SECTION_BOOK, &size)
    if table.magic != 0:
        raise ValueError("there is a book in this region already")
    table.slot_count = (size - sizeof(book_table_t)) // sizeof(book_slot_t)
    for name, value, version in rows:
        if len(value) == sizeof(book_position_t):
            memcpy(&body, PyBytes_AS_STRING(value), sizeof(body))
        if len(value) != sizeof(book_position_t) or not book_is_sound(&body):
            raise LogDamaged(f"the position {name!r} on disk is none of this version's, or damaged")
        if body.quantity == 0 and body.fills_since > max(body.ts_closed, body.ts_last):
            continue
        if not book_project_locked(table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                   hash_of(name), PyBytes_AS_STRING(value), version):
            raise BookFull(f"the store has more positions than the {table.slot_count * 3 // 4} there is room for")
    table.magic = BOOK_MAGIC
    log.log.book = <void *>table


def count(Log log not None):
    """Return how many positions the book beside a log has, and how many of them are open; O(slots)."""
    cdef book_table_t *table = <book_table_t *>log.log.book
    cdef book_position_t body
    cdef uint64_t i, slots
    cdef uint64_t used = 0
    cdef uint64_t is_open = 0
    log.check_process()
    if table == NULL:
        return 0, 0
    slots = table.slot_count
    with nogil:
        for i in range(slots):
            if word_acquire(&table.slots[i].hash) != 0 and book_read(&table.slots[i], &body) != 0:
                used += 1
                is_open += body.quantity != 0
    return used, is_open


@cython.final
cdef class PositionRef:
    """A position that is looked at again and again: each attribute is as of now.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(1), no lock.
    """

    cdef Book book
    cdef book_slot_t *slot
    cdef bytes name
    cdef readonly tuple key
    """(symbol, account, strategy, position_id)."""

    def __init__(self):
        raise TypeError("references come from a position book")

    cdef inline uint64_t read(self, book_position_t *body) except? 0:
        self.book.check()
        return book_read(self.slot, body)

    cdef Position now(self):
        cdef Position found = Position.__new__(Position)
        if self.read(&found.body) == 0:
            return None
        found.names = self.key
        return found

    @property
    def position(self):
        """All of it, as of one moment; None: nothing was ever held."""
        return self.now()

    @property
    def quantity(self):
        """Signed: below zero is short; 0.0 when flat or unknown."""
        cdef book_position_t body
        if self.read(&body) == 0:
            return 0.0
        return fixed_double(body.quantity, body.quantity_precision)

    def __getattr__(self, name):
        position = self.now()
        if position is None:
            raise AttributeError(f"nothing was ever held under {self.key}, so it has no {name}")
        return getattr(position, name)

    def __repr__(self):
        return f"<PositionRef {'/'.join(filter(None, self.key))}>"


cdef inline uint64_t hash_of(bytes name) noexcept:
    return keyhash(
        <const unsigned char *>PyBytes_AS_STRING(POSITIONS), PyBytes_GET_SIZE(POSITIONS),
        <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
    )


# ---- the book ---------------------------------------------------------------------------------------------------


cdef class Book:
    """The position book of a store, as one handle of it sees and changes it.

    Parameters
    ----------
    log : Log
        Whose region has a book.
    env : Environment
    databases : dict
        Where the log is flushed to.
    writer : bytes
        Kept with every record.
    max_lag : float
        Seconds to wait for the mutex and for room, and that the oldest change may not be on disk.
    """

    cdef Log log
    cdef Environment env
    cdef MDB_dbi namespaces
    cdef MDB_dbi records
    cdef uint64_t fills_id          # in LMDB; 0: there was no fill yet
    cdef book_table_t *table
    cdef bytes writer
    cdef meters_t meters
    cdef double patience
    cdef public bint plain          # booking is this object's, not the engine's
    cdef public object handle       # raises if the handle is closed
    cdef uint64_t max_lag
    cdef dict refs                  # PositionRef by key, and by symbol alone where that says all
    cdef uint64_t surveyed          # of so many keys it is known what follows:
    cdef list order
    cdef dict symbols               # references by symbol

    def __init__(self, Log log not None, Environment env not None, dict databases not None, bytes writer not None,
                 double max_lag):
        self.log = log
        self.table = <book_table_t *>log.log.book
        if self.table == NULL:
            raise LogDamaged(f"{log.region.path} has no position book")
        self.env = env
        self.namespaces = env.number_of(databases["namespaces"])
        self.records = env.number_of(databases["records"])
        self.writer = writer
        self.patience = max_lag
        self.max_lag = <uint64_t>(max_lag * 1e9) if 0 < max_lag < 1e9 else 0
        self.refs = {}
        self.order = []
        self.symbols = {}
        meters_of(log.region, &self.meters)

    # ---- reading ----

    cdef int check(self) except -1:
        """See that the memory is there, and the store open."""
        self.log.check_process()
        if self.log.is_shut and self.handle is not None:
            self.handle()
        return 0

    cdef PositionRef find(self, tuple names):
        """What is held under a key, or None."""
        cdef bytes name
        self.check()
        cdef book_slot_t *slot
        cdef book_slot_t *room = NULL
        cdef PositionRef ref = self.refs.get(names)
        if ref is not None:
            return ref
        name = name_of(names)
        slot = book_find(self.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                         hash_of(name), &room)
        if slot == NULL:
            return None
        return self.keep(names, slot)

    cdef PositionRef keep(self, tuple names, book_slot_t *slot):
        cdef PositionRef ref = PositionRef.__new__(PositionRef)
        ref.book = self
        ref.slot = slot
        ref.name = PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size)
        ref.key = names
        self.refs[names] = ref
        if names[1] == names[2] == names[3] == "":
            self.refs[names[0]] = ref
        return ref

    cdef inline PositionRef aim(self, object symbol, object account, object strategy, object position_id):
        cdef PyObject *known
        if account is EMPTY and strategy is EMPTY and position_id is EMPTY and PyUnicode_CheckExact(symbol):
            known = PyDict_GetItem(self.refs, symbol)
            if known != NULL:
                return <PositionRef>known
        return self.find((symbol, account, strategy, position_id))

    @cython.binding(False)
    def get(self, symbol, account="", strategy="", position_id=""):
        """Return what is held under a key, flat or not; None: nothing ever was.

        Notes
        -----
        **Complexity**: O(1), no lock; every process sees what any has booked.
        """
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return None if ref is None else ref.now()

    @cython.binding(False)
    def quantity(self, symbol, account="", strategy="", position_id=""):
        """Return what is held under a key, signed; 0.0 when flat or unknown."""
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return 0.0 if ref is None else ref.quantity

    @cython.binding(False)
    def ref(self, symbol, account="", strategy="", position_id=""):
        """Return a live reference to what is held under a key; made if there is none yet."""
        cdef PositionRef ref = self.aim(symbol, account, strategy, position_id)
        return self.made((symbol, account, strategy, position_id)) if ref is None else ref

    cdef PositionRef sought(self, tuple names):
        """What is held under a key that is to be written, or None; one that was purged is shown again first."""
        cdef PositionRef ref = self.find(names)
        cdef bytes name, value
        cdef uint64_t version
        cdef bint has_room
        if ref is not None and word_acquire(&ref.slot.sequence) != 0:
            return ref
        name = name_of(names)
        stored = self._stored(name)  # of an empty slot, too: who woke it may have died before it was shown
        if stored is None:
            return ref
        value, version = stored
        if len(value) != sizeof(book_position_t):
            raise LogDamaged(f"the position {'/'.join(filter(None, names))} is none of this version's; 'ntmem verify'")
        self.take()
        has_room = book_project_locked(
            self.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), hash_of(name),
            PyBytes_AS_STRING(value), version
        )
        log_release(&self.log.log)
        if not has_room:
            raise self.full()
        return self.find(names)

    cdef PositionRef made(self, tuple names):
        cdef PositionRef ref = self.sought(names)
        cdef bytes name = name_of(names)
        cdef book_slot_t *slot
        if ref is not None:
            return ref
        self.take()
        slot = book_make_locked(self.table, <const unsigned char *>PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name),
                                hash_of(name))
        log_release(&self.log.log)
        if slot == NULL:
            raise self.full()
        return self.keep(names, slot)

    cdef object full(self):
        return BookFull(
            f"the position book has its {self.table.used} keys; purge_closed(), then let all processes close the store"
        )

    cdef int take(self) except -1:
        """Take the log's mutex."""
        cdef log_append_outcome outcome
        self.check()
        self.log.check_not_shut()
        outcome = log_take(&self.log.log, 0)
        if outcome == APPEND_BUSY:
            with nogil:
                outcome = log_take(&self.log.log, <uint64_t>(self.patience * 1e9))
        if outcome == APPEND_BUSY:
            raise WriterStalled(mutex_holder(&self.log.log.control.writer), self.patience)
        if outcome != APPEND_DONE:
            raise self.log.damage("a writer found its words or its mutex unusable")
        return 0

    @property
    def used(self):
        """How many keys there are."""
        self.check()
        return word_acquire(&self.table.used)

    def keys(self):
        """Return all keys, in the order in which they came."""
        self.survey()
        return list(self.order)

    cdef int survey(self) except -1:
        """Know every key there is."""
        cdef uint64_t i, used
        cdef book_slot_t *slot
        cdef dict symbols = {}
        cdef list found = []
        cdef PositionRef ref
        self.check()
        used = word_acquire(&self.table.used)
        if used == self.surveyed:
            return 0
        for i in range(self.table.slot_count):
            slot = &self.table.slots[i]
            if word_acquire(&slot.hash) == 0 or slot.order >= used:
                continue
            names = tuple(PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size).decode().split("\x1f"))
            ref = self.refs.get(names)
            found.append((slot.order, self.keep(names, slot) if ref is None else ref))
        found.sort(key=_first)
        for _, ref in found:
            symbols.setdefault(ref.key[0], []).append(ref)
        self.order = [ref.key for _, ref in found]
        self.symbols = symbols
        self.surveyed = used
        return 0

    def of_symbol(self, str symbol not None):
        """Return references to all positions of a symbol."""
        self.survey()
        return list(self.symbols.get(symbol, ()))

    def numbers(self, uint64_t count):
        """Return the numbers of the first `count` keys as packed rows: the key's place, ten floats, six integers."""
        cdef uint64_t i
        cdef book_slot_t *slot
        cdef bytearray rows = bytearray(count * sizeof(book_row_t))
        cdef book_row_t *row = <book_row_t *>PyByteArray_AS_STRING(rows)
        cdef book_position_t body
        cdef uint64_t made = 0
        self.log.check_process()
        with nogil:
            for i in range(self.table.slot_count):
                slot = &self.table.slots[i]
                if (made < count and word_acquire(&slot.hash) != 0 and slot.order < count
                        and book_read(slot, &body) != 0):
                    book_row(&row[made], slot.order, &body)
                    made += 1
        return bytes(memoryview(rows)[:made * sizeof(book_row_t)])

    def each(self):
        """Return all positions that were ever published, in no order."""
        cdef uint64_t i
        cdef book_slot_t *slot
        cdef Position found
        cdef list all_of = []
        self.check()
        for i in range(self.table.slot_count):
            slot = &self.table.slots[i]
            if word_acquire(&slot.hash) == 0:
                continue
            found = Position.__new__(Position)
            if book_read(slot, &found.body) == 0:
                continue
            found.names = tuple(
                PyBytes_FromStringAndSize(<char *>slot.name, slot.name_size).decode().split("\x1f")
            )
            all_of.append(found)
        return all_of

    # ---- booking ----

    @cython.binding(False)
    def apply_fill(
        self, symbol, quantity, price, *, side=None, trade_id, ts_event=None, fee=0, account="", strategy="",
        position_id="", reservation=None, fence=None, durable=None
    ):
        """Book a fill once: the same `trade_id` of the same key again changes nothing, and says so (``applied``).

        Parameters
        ----------
        quantity : number
            With `side` above zero, without it signed.
        price : number
            Of one unit, in the instrument's currency; may be below zero.
        side : {"buy", "sell"}, optional
        trade_id : str
            The broker's id of the fill, at most 128 bytes.
        ts_event : instant, optional
            When it happened; by default now.
        fee : number
            What was paid for it; below zero: a rebate.
        reservation : Reservation, optional
            What was reserved for it; so much less is reserved then.
        fence : Lock, LockToken or Fence, optional
            Book it only while this lease is current.
        durable : bool, optional
            Whether to return only when it is on disk; None: as the store's `durability` says.

        Raises
        ------
        FillConflict, FillTooOld
            The id was used for another fill; ids of that time are not kept any more.
        ValueError, OverflowError, TypeError
            A number is none, has too many digits or is too large.
        StaleFence, StorageError
            The lease is over; the store cannot take it.
        """
        cdef int sign = sign_of(side)
        cdef tuple names = (symbol, account, strategy, position_id)
        if (not self.plain or ts_event is not None or reservation is not None or fence is not None
                or durable is not None):
            return self._apply_fill(
                names, trade_id, quantity, price, fee, sign, ts_event, fence, durable, reservation
            )
        self.handle()
        try:
            return self.book(names, self._define, trade_id, quantity, price, fee, sign, None, False, None, None)
        except Exception as error:
            self._raise(error)

    def book(
        self, tuple names not None, define not None, str id not None, quantity, price, amount, int sign=0,
        ts_event=None, bint cash=False, Claim claim=None, bytes writer=None
    ):
        """Book a fill, or cash, under an id: one group of the log, or nothing.

        Parameters
        ----------
        names : tuple of str
            The key.
        define : callable
            Asked for a symbol whose position is new: returns ``(price_precision, quantity_precision, multiplier,
            multiplier_precision, currency)``; `multiplier` is a mantissa, `currency` bytes.
        id : str
            Of what is booked once for each key.
        quantity, price : number
            Both 0 for cash.
        sign : int
            1 or -1: of a quantity that has none; 0: the quantity is signed.
        amount : number
            The fee that was paid, or the cash that was received.
        ts_event : int or None
            When it happened, ns UTC; None: now, and another time under the same id is no conflict.
        claim, writer
            The lease under which it is booked, and how the writer signs then.

        Returns
        -------
        Fill

        Raises
        ------
        Conflicting
            The id was used for something else.
        TooOld
            Ids of that time are not kept any more.
        ValueError, OverflowError, TypeError
            A number is none, has too many digits or is too large. Nothing was changed.
        BookFull, WriterStalled, LogFull, Trouble, StaleLease, LogDamaged, LogShut
            The log cannot take it. Nothing was changed.

        Notes
        -----
        **Complexity**: O(1), and a look into LMDB for the id. The GIL is kept, unless there is something to wait for.
        """
        cdef book_request_t request
        cdef book_request_outcome outcome
        cdef PositionRef ref = self.sought(names)
        cdef bytes name = name_of(names) if ref is None else ref.name
        cdef bytes key = name + b"\x1f" + id_bytes(id, cash)
        cdef int64_t now = log_now(&self.log.log)
        cdef uint64_t begun = meters_begin(&self.meters, METER_APPLY_FILL)
        cdef bint again = True
        writer = self.prepare(&request, name, now, claim, writer)
        key_fill(&request.entry_key, ENTRIES, key)
        while again:
            if ref is None or book_read(ref.slot, &request.position) == 0:
                if request.fresh.format == 0:
                    begin(&request.fresh, define(names[0]))
                request.position = request.fresh
            fill(&request.entry, &request.position, quantity, price, amount, sign, cash)
            request.entry.has_time = ts_event is not None
            request.entry.ts_event = now if ts_event is None else ts_event
            self.log.check_process()
            self.log.check_not_shut()
            request.snapshot = word_acquire(&self.log.log.control.flushed.word)
            outcome = REQUEST_KNOWN if self.is_on_disk(&request) else self.run(&request, False)
            again = outcome == REQUEST_LOOK_AGAIN or outcome == REQUEST_PRECISION
            if outcome == REQUEST_PRECISION:
                ref = self.find(names)  # another process has made it meanwhile
        if outcome == REQUEST_KNOWN:
            known = self.known(names, id, &request, quantity, price, amount, sign, cash, ts_event)
            meters_end(&self.meters, METER_APPLY_FILL, begun)
            return known
        if outcome != REQUEST_DONE:
            raise self.refusal(outcome, &request, f"id {id!r} of {'/'.join(filter(None, names))}")
        if ref is None:
            ref = self.keep(names, request.slot)
        meters_end(&self.meters, METER_APPLY_FILL, begun)
        return make_fill(names, id, &request.entry, &request.position, request.version)

    def draft(
        self, tuple names not None, define not None, str id not None, quantity, price, amount, int sign, ts_event,
        bytes booked, Position before
    ):
        """Compute a fill without booking it, for who commits it together with something else.

        Parameters
        ----------
        names, define, id, quantity, price, amount, sign, ts_event
            As of :meth:`book`.
        booked : bytes or None
            What is kept under :func:`entry_key` already; then it is compared.
        before : Position or None
            From what to compute it; None: from what is held now.

        Returns
        -------
        fill : Fill
            Its position has the version of what it was computed from. See :func:`settled`.
        entry, position : bytes
            To be kept under :func:`entry_key` and under the key of the position; of a known fill the latter is empty.

        Raises what :meth:`book` raises of numbers and ids.
        """
        cdef book_request_t request
        cdef book_request_outcome outcome
        cdef PositionRef ref = self.sought(names)
        cdef bytes name = name_of(names)
        cdef int64_t now = log_now(&self.log.log)
        self.prepare(&request, name, now, None, None)
        if before is not None:
            request.position = before.body
        elif ref is None or book_read(ref.slot, &request.position) == 0:
            begin(&request.position, define(names[0]))
        request.fresh = request.position
        if booked is not None:
            if len(booked) != sizeof(book_entry_t):
                raise LogDamaged(f"the record of id {id!r} is none of this version's; 'ntmem verify'")
            memcpy(&request.entry, PyBytes_AS_STRING(booked), sizeof(book_entry_t))
            return self.known(names, id, &request, quantity, price, amount, sign, False, ts_event), booked, b""
        fill(&request.entry, &request.position, quantity, price, amount, sign, False)
        request.entry.has_time = ts_event is not None
        request.entry.ts_event = now if ts_event is None else ts_event
        outcome = request_apply(&request)
        if outcome != REQUEST_DONE:
            raise self.refusal(outcome, &request, f"id {id!r} of {'/'.join(filter(None, names))}")
        self.made(names)  # so that there is room for it; what is refused takes none
        return (
            make_fill(names, id, &request.entry, &request.position, 0),
            PyBytes_FromStringAndSize(<char *>&request.entry, sizeof(book_entry_t)),
            PyBytes_FromStringAndSize(<char *>&request.position, sizeof(book_position_t)),
        )

    cdef bytes prepare(self, book_request_t *request, bytes name, int64_t now, Claim claim, bytes writer):
        """What all requests have; return the writer, to whose bytes it points, as it does to those of `name`."""
        memset(request, 0, sizeof(request[0]))
        key_fill(&request.position_key, POSITIONS, name)
        if writer is None:
            writer = self.writer
        request.writer = <const unsigned char *>PyBytes_AS_STRING(writer)
        request.writer_size = PyBytes_GET_SIZE(writer)
        if claim is not None:
            request.fence, request.fence_number, request.fencing = claim.word, claim.number, claim.mark
        request.max_lag = self.max_lag
        request.now = now
        request.if_version = BOOK_ANY_VERSION
        return writer

    cdef book_request_outcome run(self, book_request_t *request, bint sets) except *:
        """One request, after waiting for the mutex and for room."""
        cdef book_request_outcome outcome
        cdef book_position_t wanted = request.position
        cdef object deadline = None
        self.log.check_process()
        self.log.check_not_shut()
        outcome = request_run(&self.log.log, request, sets, 0)
        while outcome == REQUEST_LOG and (request.append == APPEND_BUSY or request.append == APPEND_NO_ROOM):
            PyErr_CheckSignals()
            if deadline is None:
                deadline = time.monotonic() + self.patience
            elif time.monotonic() >= deadline:
                break
            self.log.check_not_shut()
            if sets:
                request.position = wanted
            self.log.appending += 1
            with nogil:
                outcome = request_run(&self.log.log, request, sets, SLICE_NS)
            self.log.appending -= 1
        return outcome

    cdef Position set_to(
        self, tuple names, const book_position_t *body, object if_version, Claim claim, bytes writer
    ):
        cdef bytes name = name_of(names)
        cdef int64_t now
        cdef book_request_t request
        cdef book_request_outcome outcome
        cdef Position made
        self.sought(names)
        now = log_now(&self.log.log)
        writer = self.prepare(&request, name, now, claim, writer)
        request.position = body[0]
        request.entry.ts_event = now
        if if_version is not None:
            request.if_version = if_version
        outcome = self.run(&request, True)
        if outcome != REQUEST_DONE:
            raise self.refusal(outcome, &request, f"the position {'/'.join(filter(None, names))}")
        if self.find(names) is None:
            self.keep(names, request.slot)
        made = Position.__new__(Position)
        made.body = request.position
        made.names = names
        return made

    def set(self, Position position not None, *, if_version=None, Claim claim=None, bytes writer=None):
        """Make what is held under a key what `position` says; return it as it is then.

        Raises :class:`Conflicting` if it has another version than `if_version`, or other precisions.
        """
        return self.set_to(position.names, &position.body, if_version, claim, writer)

    def forget(self, Position position not None, int64_t until):
        """Note that ids from before `until` are not kept any more; False: the position has changed meanwhile."""
        cdef book_position_t body = position.body
        body.fills_since = max(body.fills_since, until)
        try:
            self.set_to(position.names, &body, position.body.version, None, None)
        except Conflicting:
            return False
        return True

    cdef bint is_on_disk(self, book_request_t *request) except -1:
        """Whether the id is on disk and was not purged since; then the entry is what is there."""
        cdef cold_found_t found
        cdef cold_outcome outcome = COLD_FOUND
        cdef MDB_txn *txn = self.env.take_reader()
        cdef bytes booked
        if txn != NULL:
            if self.fills_id == 0:
                outcome = cold_space(
                    self.env.calls, txn, self.namespaces, <const unsigned char *>PyBytes_AS_STRING(ENTRIES),
                    PyBytes_GET_SIZE(ENTRIES), &self.fills_id
                )
            if outcome == COLD_FOUND:
                outcome = cold_find(
                    self.env.calls, txn, self.records, self.fills_id, request.entry_key.key,
                    request.entry_key.key_size, &found
                )
            self.env.give_reader(txn)
            if outcome == COLD_ABSENT:
                return False
            if outcome != COLD_FOUND:
                raise LogDamaged(
                    f"the record of an id in {self.log.region.path}'s data file is damaged; 'ntmem verify'"
                )
        # It is on disk, and perhaps purged since; or the disk could not be read: the engine may wait, or say why.
        booked = self.entry(PyBytes_FromStringAndSize(<char *>request.entry_key.key, request.entry_key.key_size))
        if booked is not None and len(booked) == sizeof(book_entry_t):
            memcpy(&request.entry, PyBytes_AS_STRING(booked), sizeof(book_entry_t))
        return booked is not None

    cdef object known(
        self, tuple names, str id, const book_request_t *request, quantity, price, amount, int sign, bint cash,
        ts_event
    ):
        """What was booked under an id that is used again."""
        cdef book_entry_t said
        cdef const book_entry_t *was = &request.entry
        cdef PositionRef ref = self.find(names)
        cdef book_position_t body
        if ref is None or book_read(ref.slot, &body) == 0:
            body = request.fresh
        fill(&said, &body, quantity, price, amount, sign, cash)
        if (said.kind != was.kind or said.quantity != was.quantity or said.price != was.price or said.fee != was.fee
                or said.price_precision != was.price_precision or said.quantity_precision != was.quantity_precision
                or (ts_event is not None and was.has_time and ts_event != was.ts_event)):
            precision = was.price_precision + was.quantity_precision
            raise Conflicting(
                f"id {id!r} of {'/'.join(filter(None, names))} was booked with quantity "
                f"{exact(decimal_of(was.quantity, was.quantity_precision))}, price "
                f"{exact(decimal_of(was.price, was.price_precision))}, amount {exact(decimal_of(was.fee, precision))} "
                f"at {was.ts_event}; the same id now means something else"
            )
        return make_fill(names, id, was, &body, 0)

    cdef object refusal(self, book_request_outcome outcome, const book_request_t *request, str what):
        cdef log_append_t append
        if outcome == REQUEST_CONFLICT:
            return Conflicting(f"{what} has another version than if_version; look at it again")
        if outcome == REQUEST_PRECISION:
            return Conflicting(f"{what} has other digits behind the point than were given")
        if outcome == REQUEST_FULL:
            return self.full()
        if outcome == REQUEST_OVERFLOW:
            return OverflowError(f"{what} would make the position too large for its digits; nothing was changed")
        if outcome == REQUEST_OLD:
            return TooOld(
                f"{what} happened at {request.entry.ts_event if request.entry.has_time else 'a time not said'}, "
                f"ids from before {request.position.fills_since} are not kept any more: whether it was booked cannot "
                "be told unless ts_event= says that it happened since"
            )
        memset(&append, 0, sizeof(append))
        append.bytes = 2 * sizeof(book_position_t)
        append.fence_number = request.fence_number
        return self.log.refusal(request.append, &append, self.patience)

    def mark_one(self, PositionRef ref not None, price, int64_t ts):
        """Value a position at a price, unless it was marked later already."""
        cdef book_position_t body
        cdef int64_t mantissa
        cdef log_append_outcome outcome
        if ref.read(&body) == 0:
            return
        mantissa = small(mantissa_of(price, body.price_precision, "price"), "price", price)
        self.log.check_not_shut()
        outcome = book_mark(&self.log.log, ref.slot, mantissa, ts, 0)
        if outcome == APPEND_BUSY:
            with nogil:
                outcome = book_mark(&self.log.log, ref.slot, mantissa, ts, <uint64_t>(self.patience * 1e9))
        if outcome == APPEND_BUSY:
            raise WriterStalled(mutex_holder(&self.log.log.control.writer), self.patience)
        if outcome != APPEND_DONE:
            raise self.log.damage("a writer found its words or its mutex unusable")
