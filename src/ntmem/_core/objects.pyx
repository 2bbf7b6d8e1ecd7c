"""A cache of Python objects by reference: any hashable key, any value, within limits of entries, bytes and time.

Layout
------
``objects.h`` holds nodes in one array: a hash table of their numbers, two queues of eviction, the order of insertion
and the order of expiry. ``duel.h`` says which node goes. ``docs/design/hotcache.md`` has the why.

Invariants
----------
1. Other code runs only in a key's ``__hash__`` and ``__eq__``, in ``size_of`` and the like, and where references are
   dropped. Between the end of a search and the beginning of dropping nothing else runs: a change is one step to all.
2. Whoever compared keys looks whether the table has changed meanwhile, and then searches anew.
3. What leaves the table goes to a list first, and its references are dropped when the structure is whole again.
4. A read moves nothing: it raises a counter of the node that it found.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport Py_EQ, PyObject, PyObject_Hash, PyObject_RichCompareBool
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_REALTIME

from sys import getsizeof
from types import GenericAlias


cdef extern from "objects.h" nogil:
    """
    #define NODE_FAILED (NODE_NONE - 1)
    /* Strings are equal or not without any code of others. */
    static inline int both_are_str(PyObject *a, PyObject *b)
    {
        return PyUnicode_CheckExact(a) && PyUnicode_CheckExact(b);
    }
    static inline int str_equal(PyObject *a, PyObject *b)
    {
        const Py_ssize_t size = PyUnicode_GET_LENGTH(a);
        return size == PyUnicode_GET_LENGTH(b) && PyUnicode_KIND(a) == PyUnicode_KIND(b) &&
            memcmp(PyUnicode_DATA(a), PyUnicode_DATA(b), (size_t)size * (size_t)PyUnicode_KIND(a)) == 0;
    }
    """
    const uint32_t NODE_NONE
    const uint32_t NODE_FAILED
    const int CLOCK_BOOTTIME
    const int CAUSES
    enum:
        LINK_QUEUE
        LINK_ORDER
        CAUSE_ENTRIES
        CAUSE_BYTES
        CAUSE_EXPIRED
        CAUSE_TOO_LARGE
        CAUSE_USER

    ctypedef struct link_t:
        uint32_t previous, next

    ctypedef struct node_t:
        void *key
        void *value
        int64_t hash, expires_at, last_access
        uint64_t size, reads
        uint8_t cause

    ctypedef struct rest_t:
        link_t links[3]
        int64_t created_at

    ctypedef struct list_t:
        uint32_t first, last, size

    ctypedef struct slot_t:
        uint32_t tag, node

    ctypedef struct objects_t:
        node_t *nodes
        rest_t *rests
        slot_t *slots
        uint32_t slot_bits
        uint64_t entries, bytes, max_entries, max_bytes, changes, departed_bytes
        uint64_t evicted[4]
        list_t order, departed, dropped
        bint reports
        int64_t now

    void objects_begin(objects_t *objects) noexcept
    void objects_end(objects_t *objects) noexcept
    bint objects_reserve(objects_t *objects, bint inserts) noexcept
    void objects_remove(objects_t *objects, uint32_t at, int cause) noexcept
    void objects_purge(objects_t *objects, int64_t now) noexcept
    uint64_t objects_expired(const objects_t *objects, int64_t now) noexcept
    void objects_insert(
        objects_t *objects, void *key, void *value, int64_t hash, uint64_t size, int64_t now, int64_t lifetime,
        bint own_ttl
    ) noexcept
    void *objects_replace(
        objects_t *objects, uint32_t at, void *value, uint64_t size, int64_t now, int64_t lifetime, bint own_ttl
    ) noexcept
    void objects_refuse(objects_t *objects, void *key, void *value, uint64_t size) noexcept
    int64_t objects_tick(objects_t *objects) noexcept
    int64_t clock_ns(int clock) noexcept
    bint node_has_expired(const node_t *node, int64_t now) noexcept
    void node_touch(objects_t *objects, node_t *node) noexcept
    void node_give_back(objects_t *objects, uint32_t at) noexcept
    void list_push(objects_t *objects, list_t *list, int link, uint32_t at) noexcept
    void list_remove(objects_t *objects, list_t *list, int link, uint32_t at) noexcept
    uint64_t hash_spread(int64_t hash) noexcept
    uint64_t slot_home(const objects_t *objects, uint32_t tag) noexcept
    uint64_t slot_after(const objects_t *objects, uint64_t at) noexcept
    bint both_are_str(PyObject *a, PyObject *b) noexcept
    bint str_equal(PyObject *a, PyObject *b) noexcept


cdef enum:
    KEYS
    VALUES
    ITEMS
    MOST_UNREPORTED = 10_000  # evicted entries that wait for a report; further ones push out the oldest

CAUSE_NAMES = ("entries", "bytes", "expired", "too_large")
"""Why an entry was evicted, as users see it."""

cdef object MISSING = object()


cdef uint64_t size_of_value(object value) except? 0xFFFFFFFFFFFFFFFF:
    if PyBytes_CheckExact(value):
        return PyBytes_GET_SIZE(value)
    if PyByteArray_CheckExact(value):
        return PyByteArray_GET_SIZE(value)
    if isinstance(value, memoryview):
        return value.nbytes
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    return getsizeof(value)


cdef class ObjectTable:
    """The table under :class:`ntmem.HotCache`: what of a mapping has to be native.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread, from finalizers and from the ``__eq__`` of keys.
    **Complexity**: O(1), and O(log n) for an entry with a time to live of its own; a put frees what it evicts.

    Examples
    --------
    >>> table = ObjectTable()
    >>> table.put("AAPL", 42)
    >>> table.get("AAPL"), table.get("MSFT")
    (42, None)
    """

    cdef objects_t objects
    cdef uint64_t hits, misses, puts, unreported
    cdef int64_t lifetime, wall_offset
    cdef bint track_access, is_woken
    cdef object size_of, lifetime_of, wake

    def __cinit__(self, *args, **kwargs):
        objects_begin(&self.objects)
        self.objects.max_entries = 100_000
        self.objects.max_bytes = 64 << 20
        self.lifetime = 3600 * 1_000_000_000
        self.wall_offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME)
        self.track_access = True

    def __dealloc__(self):
        self.empty()
        objects_end(&self.objects)

    def configure(
        self, uint64_t max_entries, uint64_t max_bytes, int64_t ttl_ns, bint track_access, *, size_of=None,
        lifetime_of=None
    ):
        """Set the limits, in entries, bytes and ns; what is over them is evicted at the next put.

        `size_of` says the bytes of a value, `lifetime_of` the ns of a duration that :meth:`put` was given.
        """
        self.objects.max_entries = max_entries
        self.objects.max_bytes = max_bytes
        self.lifetime = ttl_ns
        self.track_access = track_access
        self.size_of = size_of
        self.lifetime_of = lifetime_of

    # ---- searching ----

    cdef uint32_t find(self, object key, int64_t hash) except? 0xFFFFFFFE:
        """Return a key's node, expired or not. Runs code of keys; no other code runs after it until this returns."""
        cdef objects_t *objects = &self.objects
        cdef uint32_t tag = <uint32_t>(hash_spread(hash) >> 32)
        cdef uint64_t at, changes
        cdef uint32_t node
        cdef void *there
        cdef bint equal
        while True:  # once for each time that the table changed while keys were compared
            changes = objects.changes
            if objects.entries == 0:
                return NODE_NONE
            at = slot_home(objects, tag)
            while True:
                node = objects.slots[at].node
                if node == 0:
                    return NODE_NONE
                node -= 1
                if objects.slots[at].tag == tag and objects.nodes[node].hash == hash:
                    there = objects.nodes[node].key
                    if there == <void *>key:
                        return node
                    if both_are_str(<PyObject *>there, <PyObject *>key):
                        if str_equal(<PyObject *>there, <PyObject *>key):
                            return node
                    else:
                        equal = self.compare(<object>there, key)
                        if objects.changes != changes:
                            break
                        if equal:
                            return node
                at = slot_after(objects, at)

    cdef bint compare(self, object there, object key) except -1:
        return PyObject_RichCompareBool(there, key, Py_EQ)  # its argument keeps `there` alive meanwhile

    cdef uint32_t find_live(self, object key) except? 0xFFFFFFFE:
        """Return a key's node unless it has expired."""
        cdef uint32_t at = self.find(key, PyObject_Hash(key))
        if at != NODE_NONE and node_has_expired(&self.objects.nodes[at], objects_tick(&self.objects)):
            return NODE_NONE
        return at

    cdef object read(self, object key, object default):
        """Count a read and return the value, or `default`."""
        cdef uint32_t at = self.find_live(key)
        cdef node_t *node
        if at == NODE_NONE:
            self.misses += 1
            return default
        node = &self.objects.nodes[at]
        self.hits += 1
        if self.track_access:
            node.reads += 1
            node.last_access = self.objects.now
        node_touch(&self.objects, node)
        return <object>node.value

    # ---- dropping ----

    cdef int free_dropped(self) except -1:
        cdef objects_t *objects = &self.objects
        cdef uint32_t at
        cdef void *key
        cdef void *value
        while objects.dropped.size > 0:
            at = objects.dropped.first
            list_remove(objects, &objects.dropped, LINK_QUEUE, at)
            key = objects.nodes[at].key
            value = objects.nodes[at].value
            node_give_back(objects, at)
            Py_XDECREF(<PyObject *>value)  # runs finalizers; they find the table whole
            Py_XDECREF(<PyObject *>key)
        return 0

    cdef inline int drop_departed(self) noexcept:
        """Have the first of what waits for a report freed without one."""
        cdef objects_t *objects = &self.objects
        cdef uint32_t at = objects.departed.first
        list_remove(objects, &objects.departed, LINK_QUEUE, at)
        objects.departed_bytes -= objects.nodes[at].size
        list_push(objects, &objects.dropped, LINK_QUEUE, at)
        return 0

    cdef int settle(self) except -1:
        """Drop what left the table, and tell that there is something to report; ends every change."""
        cdef objects_t *objects = &self.objects
        if objects.departed.size > 0:
            while objects.departed.size > MOST_UNREPORTED or (
                objects.departed.size > 1 and objects.departed_bytes > objects.max_bytes
            ):
                self.drop_departed()
                self.unreported += 1
            if not self.is_woken and self.wake is not None:
                self.is_woken = True
                self.wake()
        if objects.dropped.size > 0:
            self.free_dropped()
        return 0

    cdef int empty(self) except -1:
        """Forget everything, also what waits for a report."""
        cdef objects_t *objects = &self.objects
        while objects.order.size > 0:
            objects_remove(objects, objects.order.first, CAUSE_USER)
        while objects.departed.size > 0:
            self.drop_departed()
        return self.free_dropped()

    # ---- changing ----

    cdef uint64_t measure(self, object value) except? 0xFFFFFFFFFFFFFFFF:
        if self.size_of is None:
            return size_of_value(value)
        size = self.size_of(value)
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"size_of must return the bytes of a value, an int of 0 or more, was {size!r}")
        return min(size, INT64_MAX)

    cdef object store(self, object key, object value, object ttl, bint replace):
        """Set a key, or, unless `replace`, return the value that it has."""
        cdef objects_t *objects = &self.objects
        cdef uint64_t size = self.measure(value)
        cdef int64_t hash = PyObject_Hash(key)
        cdef int64_t lifetime = self.lifetime
        cdef int64_t now
        cdef uint32_t at
        if ttl is not None:
            lifetime = self.lifetime_of(ttl) if self.lifetime_of is not None else ttl
        if lifetime <= 0:
            raise ValueError(f"ttl must be more than 0, was {ttl!r}")
        at = self.find(key, hash)
        # From here to the end of the step nothing else runs.
        now = objects_tick(objects)
        if at != NODE_NONE and node_has_expired(&objects.nodes[at], now):
            objects_remove(objects, at, CAUSE_EXPIRED)
            at = NODE_NONE
        if at != NODE_NONE and not replace:
            return <object>objects.nodes[at].value
        if not objects_reserve(objects, at == NODE_NONE and size <= objects.max_bytes):
            raise MemoryError("there is no memory for one more entry")
        self.puts += 1
        Py_INCREF(value)
        if size > objects.max_bytes:
            if at != NODE_NONE:
                objects_remove(objects, at, CAUSE_USER)
            Py_INCREF(key)
            objects_refuse(objects, <void *>key, <void *>value, size)
            self.settle()
        elif at == NODE_NONE:
            Py_INCREF(key)
            objects_insert(objects, <void *>key, <void *>value, hash, size, now, lifetime, ttl is not None)
            if objects.dropped.size > 0 or objects.departed.size > 0:
                self.settle()
        else:
            old = objects_replace(objects, at, <void *>value, size, now, lifetime, ttl is not None)
            if objects.dropped.size > 0 or objects.departed.size > 0:
                try:
                    self.settle()
                finally:
                    Py_XDECREF(<PyObject *>old)
            else:
                Py_XDECREF(<PyObject *>old)
        return value

    cdef object take(self, uint32_t at):
        """Remove a node and return its value."""
        cdef object value = <object>self.objects.nodes[at].value
        objects_remove(&self.objects, at, CAUSE_USER)
        self.settle()
        return value

    def get(self, key, default=None):
        """Return the value of a key, or `default`; counts as a read."""
        return self.read(key, default)

    def put(self, key, value, ttl=None):
        """Set a key, for `ttl` seconds if they are given, else for as long as the configuration says.

        A value larger than ``max_bytes`` is not kept: it is evicted at once, and so is what the key had.
        """
        self.store(key, value, ttl, True)

    def delete(self, key):
        """Delete a key; return whether it existed."""
        cdef uint32_t at = self.find_live(key)
        if at == NODE_NONE:
            return False
        self.take(at)
        return True

    def setdefault(self, key, default=None):
        """Return the value of a key, set to `default` if it does not exist; counts as a read."""
        found = self.read(key, MISSING)
        return self.store(key, default, None, False) if found is MISSING else found

    def pop(self, key, *default):
        """Delete a key and return its value; of a missing one `default`, or raise ``KeyError``."""
        if len(default) > 1:
            raise TypeError(f"pop takes a key and a default, got {1 + len(default)} arguments")
        cdef uint32_t at = self.find_live(key)
        if at != NODE_NONE:
            return self.take(at)
        if default:
            return default[0]
        raise KeyError(key)

    def popitem(self):
        """Delete the key that was added last and return it with its value; raise ``KeyError`` if there is none."""
        self.purge()
        cdef uint32_t at = self.objects.order.last
        if at == NODE_NONE:
            raise KeyError("the cache is empty")
        key = <object>self.objects.nodes[at].key
        return key, self.take(at)

    def clear(self):
        """Delete everything; that is no eviction."""
        cdef objects_t *objects = &self.objects
        while objects.order.size > 0:
            objects_remove(objects, objects.order.first, CAUSE_USER)
        self.settle()

    def purge(self):
        """Evict what has expired. A put of a new key and :meth:`counters` do it as well."""
        objects_purge(&self.objects, clock_ns(CLOCK_BOOTTIME))
        self.settle()

    # ---- asking ----

    def entry(self, key):
        """Return (value, created, expires, last access, reads) of a key, times in ns UTC, or None; not a read."""
        cdef uint32_t at = self.find_live(key)
        cdef node_t *node
        if at == NODE_NONE:
            return None
        node = &self.objects.nodes[at]
        expires_at = None if node.expires_at == INT64_MAX else node.expires_at + self.wall_offset
        return (
            <object>node.value, self.objects.rests[at].created_at + self.wall_offset, expires_at,
            node.last_access + self.wall_offset, node.reads,
        )

    def counters(self):
        """Return what has been counted, by the names of :class:`ntmem.CacheStats`."""
        self.purge()
        return {
            "entries": self.objects.entries,
            "bytes": self.objects.bytes,
            "hits": self.hits,
            "misses": self.misses,
            "puts": self.puts,
            "evictions": {name: self.objects.evicted[cause] for cause, name in enumerate(CAUSE_NAMES)},
            "unreported": self.unreported,
        }

    def iterate(self, str what):
        """Return an iterator over "keys", "values" or "items", in the order in which the keys were added."""
        return ObjectIterator(self, ("keys", "values", "items").index(what))

    def collect_evicted(self, wake):
        """Keep what is evicted for :meth:`take_evicted`, and call `wake` when there is some; None: do not, any more.

        `wake` is called in the middle of others' calls and once until all was taken, so it must be quick and not raise.
        """
        self.wake = wake
        self.is_woken = False
        self.objects.reports = wake is not None
        if wake is None:
            while self.objects.departed.size > 0:
                self.drop_departed()
        self.settle()

    def take_evicted(self):
        """Return (key, value, cause) of all that was evicted since the last call, oldest first."""
        cdef objects_t *objects = &self.objects
        cdef node_t *node
        found = []
        while objects.departed.size > 0:
            node = &objects.nodes[objects.departed.first]
            key, value, cause = <object>node.key, <object>node.value, node.cause
            self.drop_departed()
            found.append((key, value, CAUSE_NAMES[cause]))
        self.is_woken = False
        self.free_dropped()
        return found

    @classmethod
    def __class_getitem__(cls, parameters):
        return GenericAlias(cls, parameters)

    def __getitem__(self, key):
        value = self.read(key, MISSING)
        if value is MISSING:
            raise KeyError(key)
        return value

    def __setitem__(self, key, value):
        self.store(key, value, None, True)

    def __delitem__(self, key):
        cdef uint32_t at = self.find_live(key)
        if at == NODE_NONE:
            raise KeyError(key)
        self.take(at)

    def __contains__(self, key):
        return self.find_live(key) != NODE_NONE

    def __len__(self):
        # Nothing is purged here: list(cache) asks for the length when it has begun to iterate.
        return self.objects.entries - objects_expired(&self.objects, clock_ns(CLOCK_BOOTTIME))

    def __iter__(self):
        return ObjectIterator(self, KEYS)


@cython.final
cdef class ObjectIterator:
    """Walks a table in the order of insertion; as of a dict, adding or removing keys meanwhile is an error."""

    cdef ObjectTable table
    cdef int what
    cdef uint32_t at
    cdef uint64_t changes

    def __cinit__(self, ObjectTable table not None, int what):
        self.table = table
        self.what = what
        self.at = table.objects.order.first
        self.changes = table.objects.changes

    def __iter__(self):
        return self

    def __next__(self):
        cdef objects_t *objects
        cdef node_t *node
        if self.table is None:
            raise StopIteration
        objects = &self.table.objects
        if self.changes != objects.changes:
            self.at = NODE_NONE
            self.changes = 0  # and it stays an error
            raise RuntimeError("the cache's keys changed during iteration; iterate over list(cache)")
        while self.at != NODE_NONE:
            node = &objects.nodes[self.at]
            self.at = objects.rests[self.at].links[LINK_ORDER].next
            if not node_has_expired(node, objects_tick(objects)):
                if self.what == KEYS:
                    return <object>node.key
                if self.what == VALUES:
                    return <object>node.value
                key, value = <object>node.key, <object>node.value  # before a tuple is made, which may run others
                return key, value
        self.table = None
        raise StopIteration


# Cython writes what the garbage collector calls from the attributes that it knows; nodes are not among them.

cdef extern from "Python.h":
    ctypedef int (*visit_t "visitproc")(PyObject *, void *) noexcept
    ctypedef int (*traverse_t "traverseproc")(PyObject *, visit_t, void *) noexcept
    ctypedef int (*clear_t "inquiry")(PyObject *) noexcept
    ctypedef struct type_t "PyTypeObject":
        traverse_t tp_traverse
        clear_t tp_clear

cdef traverse_t traverse_attributes
cdef clear_t clear_attributes


cdef int visit_list(objects_t *objects, const list_t *list, int link, visit_t visit, void *arg) noexcept:
    cdef uint32_t at = list.first
    cdef int outcome
    while at != NODE_NONE:
        outcome = visit(<PyObject *>objects.nodes[at].key, arg)
        if outcome == 0:
            outcome = visit(<PyObject *>objects.nodes[at].value, arg)
        if outcome != 0:
            return outcome
        at = objects.rests[at].links[link].next
    return 0


cdef int traverse(PyObject *self, visit_t visit, void *arg) noexcept:
    cdef objects_t *objects = &(<ObjectTable>self).objects
    cdef int outcome = visit_list(objects, &objects.order, LINK_ORDER, visit, arg)
    if outcome == 0:
        outcome = visit_list(objects, &objects.departed, LINK_QUEUE, visit, arg)
    if outcome == 0:
        outcome = visit_list(objects, &objects.dropped, LINK_QUEUE, visit, arg)
    return outcome if outcome != 0 else traverse_attributes(self, visit, arg)


cdef int clear(PyObject *self) noexcept:
    (<ObjectTable>self).empty()
    return clear_attributes(self)


cdef type_t *table_type = <type_t *>ObjectTable
traverse_attributes = table_type.tp_traverse
clear_attributes = table_type.tp_clear
table_type.tp_traverse = traverse
table_type.tp_clear = clear
