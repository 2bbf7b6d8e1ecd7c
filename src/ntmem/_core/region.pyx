"""One file of shared memory that every process of a store maps.

Layout
------
``header`` (a page, written once before the file has a name) | ``control`` (a page: mutexes and counters) | sections,
each page-aligned. The header lists them by kind; a mirrored one is mapped twice, one behind the other, so that what
crosses its end is contiguous. ``docs/design/region.md`` has the why.

Invariants
----------
1. Nothing of a file is believed, and none of it mapped, before size and checksum of its header are right.
2. A file has a name only when it is whole. It is never resized, and its header never changed.
3. A forked child has no mapping: every use of an inherited object raises.
"""

import errno
import os

from libc.errno cimport errno as c_errno
from libc.string cimport memcpy, memset
from posix.unistd cimport close


cdef extern from "region.h" nogil:
    uint32_t region_forks
    int region_watch_forks() noexcept
    void region_header_seal(region_header_t *header) noexcept
    int region_header_read(int fd, region_header_t *header, char *reason) noexcept
    int region_map(region_t *region) noexcept
    void region_unmap(region_t *region) noexcept
    int region_file_create(const char *directory, const region_header_t *header) noexcept
    int region_file_link(int fd, const char *path) noexcept


class RegionDamaged(ValueError):
    """The file is no whole region of this layout; it may still hold acknowledged changes."""


class RegionMismatch(ValueError):
    """The file is sound and belongs to something else; `found` and `expected` are the two identities."""

    def __init__(self, path, found, expected):
        super().__init__(f"{path} belongs to {found!r}, expected {expected!r}; open it where it was made")
        self.path = path
        self.found = found
        self.expected = expected

    def __reduce__(self):
        return type(self), (self.path, self.found, self.expected)


if region_watch_forks() != 0:
    raise MemoryError("no memory for a fork handler")


cdef object system_error(str what, object path):
    cdef int number = c_errno
    return OSError(number, f"{what}: {os.strerror(number)}", path)


cdef class Region:
    """A mapped region, made by :meth:`create` or :meth:`attach`; unmapped when nothing refers to it any more.

    Notes
    -----
    **Thread safety**: all methods may be called from any thread.

    Examples
    --------
    >>> region = Region.create(None, identity=b"an example", generation=7, sections=[(9, 10_000, 0)])
    >>> region.generation, region.sections
    (7, [(9, 10000, 0)])
    """

    def __cinit__(self):
        memset(&self.region, 0, sizeof(region_t))
        self.region.fd = -1
        self.forks = &region_forks
        self.forks_at_mapping = region_forks

    def __init__(self):
        raise TypeError("use Region.create() or Region.attach()")

    def __dealloc__(self):
        if self.forks_at_mapping == self.forks[0]:  # in a forked child others may stand at these addresses
            region_unmap(&self.region)
        if self.region.fd >= 0:
            close(self.region.fd)

    # ---- for the native parts that live in it ----

    cdef int check_process(self) except -1:
        if self.forks_at_mapping != self.forks[0]:
            raise RuntimeError(f"{self.path} was opened before this process was forked; open it again")
        return 0

    cdef int check_open(self) except -1:
        if self.region.base == NULL:
            raise RuntimeError(f"{self.path} is not mapped")
        return self.check_process()

    cdef char *control(self) except NULL:
        self.check_open()
        return self.region.base + REGION_CONTROL

    cdef char *section(self, uint32_t kind, uint64_t *size) except NULL:
        cdef char *found
        self.check_open()
        found = self.section_if_any(kind, size)
        if found == NULL:
            raise RegionDamaged(f"{self.path} has no section of kind {kind}")
        return found

    cdef char *section_if_any(self, uint32_t kind, uint64_t *size) noexcept:
        cdef uint32_t i
        for i in range(self.region.header.section_count):
            if self.region.header.sections[i].kind == kind:
                size[0] = self.region.header.sections[i].size
                if self.region.mirrors[i] != NULL:
                    return self.region.mirrors[i]
                return self.region.base + self.region.header.sections[i].offset
        return NULL

    # ---- making and opening ----

    @staticmethod
    def create(path, *, bytes identity not None, uint64_t generation, sections):
        """Make a region that has no name yet.

        Parameters
        ----------
        path : str or os.PathLike or None
            The name it gets with :meth:`publish`; None for memory of this process alone.
        identity : bytes
            What it belongs to, up to 256 bytes; :meth:`attach` compares it.
        generation : int
            Of the versions given out in it.
        sections : sequence of (kind, size, flags)
            Up to 16; kinds are above 0 and unique. Flag 1: mapped twice, one behind the other; the size is a multiple
            of 4096 then. Flag 2: its memory is not taken here, but by who uses it. 3: both.

        Raises
        ------
        OSError
            No memory (also: /dev/shm is full), no right to write there.
        ValueError
            Something of the above does not hold.
        """
        cdef Region self = Region.__new__(Region)
        cdef region_header_t *header = &self.region.header
        cdef uint32_t i
        cdef bytes directory = None
        cdef const char *where = NULL
        sections = list(sections)
        if len(identity) > REGION_IDENTITY:
            raise ValueError(f"identity has at most {REGION_IDENTITY} bytes, had {len(identity)}")
        if len(sections) > REGION_SECTIONS or len({kind for kind, _, _ in sections}) != len(sections):
            raise ValueError(f"a region has at most {REGION_SECTIONS} sections of different kinds, was {sections}")
        for i, (kind, size, flags) in enumerate(sections):
            if (not 0 < kind < 1 << 32 or not 0 < size <= 1 << 48
                    or flags not in (0, REGION_MIRRORED, REGION_SPARSE, REGION_MIRRORED | REGION_SPARSE)
                    or (flags & REGION_MIRRORED and size % 4096)):
                raise ValueError(f"section {i} cannot be of kind {kind} with {size} bytes and flags {flags}")
            header.sections[i].kind = kind
            header.sections[i].flags = flags
            header.sections[i].size = size
        header.section_count = len(sections)
        header.identity_size = len(identity)
        memcpy(header.identity, <const char *>identity, len(identity))
        header.generation = generation
        region_header_seal(header)
        if path is not None:
            self.path = os.fspath(path)
            directory = os.fsencode(os.path.dirname(self.path) or ".")
            where = directory
        self.region.fd = region_file_create(where, header)
        if self.region.fd < 0:
            raise system_error(f"no room for a region of {header.size} bytes", self.path)
        if region_map(&self.region) != 0:
            raise system_error("cannot map the new region", self.path)
        return self

    def publish(self):
        """Give the region its name; what lives in it is to be ready by now.

        Raises
        ------
        FileExistsError
            There is one of that name already.
        """
        self.check_open()
        if self.path is None:
            raise ValueError("a region without a path stays private")
        cdef bytes name = os.fsencode(self.path)
        if region_file_link(self.region.fd, name) != 0:
            raise system_error("cannot publish the region", self.path)

    @staticmethod
    def attach(path, *, bytes identity not None):
        """Map a published region.

        Raises
        ------
        FileNotFoundError
            There is none.
        RegionDamaged
            It is truncated, grown, changed, of another layout or another user's; the text says which.
        RegionMismatch
            It belongs to another `identity`.
        """
        cdef Region self = Region.__new__(Region)
        cdef char[REGION_REASON] reason
        cdef int found
        self.path = os.fspath(path)
        follow = 0 if self.path.startswith("/proc/") else os.O_NOFOLLOW  # there, another process's descriptor is a link
        try:
            self.region.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | follow)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise RegionDamaged(f"{self.path} is refused: it is no regular file") from None
            raise
        found = region_header_read(self.region.fd, &self.region.header, reason)
        if found < 0:
            raise system_error("cannot read the region", self.path)
        if found > 0:
            raise RegionDamaged(f"{self.path} is refused: {reason.decode()}; it was not touched")
        if self.identity != identity:
            raise RegionMismatch(self.path, self.identity, identity)
        if region_map(&self.region) != 0:
            raise system_error("cannot map the region", self.path)
        return self

    # ---- what it is ----

    @property
    def identity(self):
        """What it belongs to."""
        return <bytes>self.region.header.identity[:self.region.header.identity_size]

    @property
    def generation(self):
        """The generation of the versions given out in it."""
        return self.region.header.generation

    @property
    def size(self):
        """Bytes in all."""
        return self.region.header.size

    @property
    def sections(self):
        """Kind, size and flags of each section."""
        return [
            (section.kind, section.size, section.flags)
            for section in self.region.header.sections[:self.region.header.section_count]
        ]

    def fileno(self):
        """Return the descriptor, by which others can still reach a region whose name is gone."""
        return self.region.fd
