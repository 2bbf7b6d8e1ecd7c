"""A store's shared region: its name, who may map it, making it, and what is done with one that was left behind.

``docs/design/region.md`` has the table of states. Everything here happens while the caller holds ``open.lock``.

**Invariants**

1. A region is made only by who is alone, and its id is in LMDB before it has a name: a region that LMDB does not know
   belongs to another state of the data file.
2. What a region holds beyond LMDB is never thrown away: it is flushed, or the opening is refused.
3. All processes of a store write through the log, or all of them straight into LMDB (`attach.lock` tells).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from glob import escape, glob
from hashlib import sha256
from typing import NamedTuple

from .. import clock as clocks
from .._core import positions
from .._core.examine import examine
from .._core.hot import HotTable
from .._core.leases import LeaseTable
from .._core.log import Log, LogDamaged
from .._core.meters import Meters
from .._core.region import Region, RegionDamaged, RegionMismatch
from .._core.ring import Ring
from ..errors import CorruptionError, DiskFull, StorageError
from .datafile import DATA_FILE

SHARED_MEMORY = "/dev/shm"
REGION_ID_BYTES = 16

_IDENTITY = struct.Struct("<36sQQQ16s")  # boot id, device and inode of the data file, PID namespace, region id
_ASIDE = "it may hold changes that are not on disk yet: 'ntmem doctor' shows it, and sets it aside"
POSITION_SLOTS = 4096
_MOST_AHEAD = 1 << 40  # so many versions were not wasted
_SLOT_BYTES = 128  # of the ring for each slot of the index
_FLOCK = struct.Struct("hhqqi4x")
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG)
_LOG_USERS, _LMDB_USERS = 0, 1  # bytes of attach.lock


HAS_LOCKS = hasattr(fcntl, "F_OFD_SETLK")
"""Whether processes can tell each other how they use a store."""


def is_supported() -> bool:
    """Whether this machine has what a region needs: Linux's shared memory, and a right to write there."""
    return HAS_LOCKS and hasattr(os, "O_TMPFILE") and os.access(SHARED_MEMORY, os.W_OK)


# ---- who is there ----


def may_attach(directory: str) -> bool:
    """Whether this process may say that it uses the store in `directory`."""
    name = os.path.join(directory, "attach.lock")
    return os.access(name if os.path.exists(name) else directory, os.R_OK | os.W_OK)


class AttachLock:
    """``attach.lock``: says to other processes that this one uses the store, and how. An OFD lock: POSIX ones vanish.

    Closed by :meth:`release`, or with the process. A forked child closes its copy, which would outlive the parent.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._file = os.open(os.path.join(directory, "attach.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _set(self, kind: int, byte: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def is_alone(self) -> bool:
        """Whether no other process uses the log. Leaves this one registered as a user."""
        alone = self._set(fcntl.F_WRLCK, _LOG_USERS)
        self._set(fcntl.F_RDLCK, _LOG_USERS)
        return alone

    def is_used(self) -> bool:
        """Whether a process uses the log; asked through an object that has not joined."""
        found = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOG_USERS, 1, 0))
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def join(self, *, log: bool) -> None:
        """Register as a user of the log, or of LMDB alone; raise :class:`StorageError` if others use the other."""
        mine, other = (_LOG_USERS, _LMDB_USERS) if log else (_LMDB_USERS, _LOG_USERS)
        if not self._set(fcntl.F_WRLCK, other):
            raise StorageError(
                f"{self.directory} is open in another process with engine={'lmdb' if log else 'shared'!r}; "
                "open it with the same engine, or close it there first"
            )
        self._set(fcntl.F_UNLCK, other)
        self._set(fcntl.F_RDLCK, mine)

    def leave(self) -> None:
        """Be no user any more."""
        self._set(fcntl.F_UNLCK, _LOG_USERS)
        self._set(fcntl.F_UNLCK, _LMDB_USERS)

    def release(self) -> None:
        """Go away."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


# ---- names ----


def region_path(directory: str) -> str:
    """Return the name of the region of the store in `directory`, on this boot."""
    stat = os.stat(os.path.join(directory, DATA_FILE))
    digest = sha256(b"%d %d %s" % (stat.st_dev, stat.st_ino, clocks.boot_id())).hexdigest()[:16]
    return f"{SHARED_MEMORY}/ntmem-{os.getuid()}-{digest}"


def region_identity(directory: str | None, region_id: bytes) -> bytes:
    """Return what the region of a store must say of itself."""
    stat = os.stat(os.path.join(directory, DATA_FILE) if directory else "/")
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return _IDENTITY.pack(clocks.boot_id(), stat.st_dev & (2**64 - 1), stat.st_ino, namespace, region_id)


def tail_path(directory: str, number: int) -> str:
    """Return the name of the memory beside a region in which the vectors of a collection are."""
    return f"{region_path(directory)}-v{number}"


def remove_tails(path: str) -> None:
    """Remove the memory of vectors beside a region of this name, whose last user was or is to be this process."""
    for name in glob(f"{escape(path)}-v*"):
        remove_file(name)


def remove_file(path: str | None) -> None:
    """Remove a file that may be gone; None: there was none."""
    if path is not None:
        with suppress(FileNotFoundError):
            os.unlink(path)


# ---- making and mapping ----


class Cache(NamedTuple):
    """Limits of a region's hot table."""

    max_bytes: int
    max_entries: int
    ttl: int
    """Nanoseconds that an entry may stay."""


def lasting_sections(log_bytes: int, bus_bytes: int) -> list[tuple[int, int, int]]:
    """Return kind, size and flags of all sections of a region but those of the hot table."""
    return [
        *Log.sections(log_bytes, max(log_bytes // _SLOT_BYTES, 1)),
        *LeaseTable.sections(),
        *positions.sections(POSITION_SLOTS),
        *Ring.sections(bus_bytes),
        *Meters.sections(),
    ]


def create_region(
    directory: str | None,
    region_id: bytes,
    *,
    generation: int,
    first_sequence: int,
    clock: tuple[bool, int],
    size: int,
    bus_bytes: int,
    cache: Cache,
    fences: tuple[int, int],
    held: Iterable[tuple[bytes, bytes, int]],
) -> Log:
    """Make and publish a region whose log is empty; `clock` is whether it is simulated, and its time or offset, and
    `fences` the first and last number that leases may be granted with.

    Where there is no room for a hot table there is none.
    """
    path = None if directory is None else region_path(directory)
    lasting = lasting_sections(size, bus_bytes)
    hots = HotTable.sections(cache.max_bytes, cache.max_entries)

    def make(sections: list[tuple[int, int, int]]) -> Region:
        identity = region_identity(directory, region_id)
        return Region.create(path, identity=identity, generation=generation, sections=sections)

    try:
        try:
            region = make([*lasting, *hots])
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            hots = []
            region = make(lasting)
        log = Log.create(region, first_sequence=first_sequence, clock=clock[1], simulated=clock[0])
        LeaseTable.create(log, *fences)
        positions.create(log, held)
        Ring.create(region)
        Meters.create(region)
        if hots:
            HotTable.create(region, cache.max_bytes, cache.max_entries, ttl=cache.ttl)
        if path is not None:
            remove_tails(path)  # of one that is lost
            region.publish()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(
                f"{SHARED_MEMORY} has no room for a log of {size} bytes ({error.strerror}); free some, open the store "
                "with a smaller log_bytes, or with engine='lmdb'"
            ) from error
        raise StorageError(f"cannot make the shared region: {error}") from error
    return log


def hot_table(log: Log) -> HotTable | None:
    """Return the hot table beside a log; None if the region has none that is sound: a store does without."""
    with suppress(ValueError):
        return HotTable(log.region, log)
    return None


def lease_table(log: Log) -> LeaseTable:
    """Return the leases beside a log."""
    try:
        return LeaseTable(log)
    except (LogDamaged, RegionDamaged) as error:
        raise CorruptionError(f"{error}; {_ASIDE}") from error


def message_ring(log: Log) -> Ring:
    """Return the ring of messages beside a log."""
    try:
        return Ring(log.region)
    except (LogDamaged, RegionDamaged) as error:
        raise CorruptionError(f"{error}; {_ASIDE}") from error


def map_region(directory: str, region_id: bytes, path: str | None = None) -> Log:
    """Map the region of a store, which is there or was there a moment ago.

    Raises
    ------
    FileNotFoundError
        There is none, under its name or by any living process.
    CorruptionError, StorageError
        It is damaged; it belongs to another state of the data file.
    """
    name = path or region_path(directory)
    try:
        log = Log(Region.attach(name, identity=region_identity(directory, region_id)))
        if log.is_gone and path is None:
            raise FileNotFoundError(f"{name} is about to be removed")
        return log
    except FileNotFoundError:
        if path is not None:
            raise
        return _map_unnamed(directory, region_id)
    except (RegionDamaged, LogDamaged) as error:
        raise CorruptionError(f"{error}; {_ASIDE}") from error
    except RegionMismatch as error:
        raise StorageError(
            f"the shared region {name} belongs to another state of {directory}/{DATA_FILE} (was a backup put back, or "
            "is this another container?); 'ntmem doctor' shows it, and sets it aside"
        ) from error


def examine_region(
    log: Log, *, position: int, newest: tuple[int, int], clock: tuple[bool, int], index: bool = False
) -> int:
    """See that what dead processes left in a region is whole, and goes with the data file; for who is alone with it.

    Returns the least that its clock can be at, for :func:`ntmem._core.examine.settle`.

    Parameters
    ----------
    position : int
        Up to which the data file has the log.
    newest : tuple of int
        Generation and sequence number of the newest version in the data file.
    clock : tuple of bool and int
        As the data file knows it: whether it is simulated, and its time or offset.
    index : bool
        It is going to be read, and not drained first.

    Raises
    ------
    CorruptionError
        It is not, or does not.
    """
    try:
        latest = examine(log, index=index)
    except LogDamaged as error:
        raise CorruptionError(f"{error}; {_ASIDE}") from error
    generation, sequence = newest
    simulated, at = log.clock
    found = None
    if not log.flushed <= position <= log.committed:
        found = f"it has what is between {log.flushed} and {log.committed}, the data file ends at {position}"
    elif generation != log.region.generation or not 0 <= log.next_sequence - 1 - sequence < _MOST_AHEAD:
        found = (
            f"its next version is {log.next_sequence} of generation {log.region.generation}, the data file has "
            f"{sequence} of {generation}"
        )
    elif simulated != clock[0] or at < clock[1]:
        kinds = ("the system's", "a simulated one")
        found = f"its clock is {kinds[simulated]}, at {at}, the data file has {kinds[clock[0]]}, at {clock[1]}"
    if found is not None:
        raise CorruptionError(
            f"the shared region {log.region.path} contradicts its data file: {found}; was one of them put back from a "
            f"copy? {_ASIDE}"
        )
    return max(clock[1], latest) if simulated and latest is not None else clock[1]


def remove_region(log: Log) -> None:
    """Take the name of a region away, unless another region has it by now."""
    path = log.region.path
    log.leave()
    with suppress(FileNotFoundError):
        if path is not None and os.stat(path).st_ino == os.fstat(log.region.fileno()).st_ino:
            remove_tails(path)
            os.unlink(path)


def _map_unnamed(directory: str, region_id: bytes) -> Log:
    """Map a region whose name somebody removed, through the descriptor of a process that has it."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            files = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for file in files:
            link = f"/proc/{pid}/fd/{file}"
            try:
                if os.readlink(link).startswith(SHARED_MEMORY + "/"):
                    log = Log(Region.attach(link, identity=region_identity(directory, region_id)))
                    if not log.is_gone:
                        return log
            except (OSError, ValueError):
                continue
    raise FileNotFoundError(f"no process has the region of {directory}")
