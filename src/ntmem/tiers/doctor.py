"""What shared regions there are, whose, and in which state; and what can be done with one that was left behind.

Looking changes nothing and waits for nobody: a region is described from its header, which is checked before anything is
mapped, and processes from ``/proc``. Regions and processes of other users are not looked at.

**Invariants**

1. A region is removed only if nobody has it and LMDB has all that it holds; else it is brought to LMDB, or copied into
   a file, synced, before its name goes.
2. The file whose name goes is the one that was looked at.
3. No lock is waited for, but for the ten seconds of an opening.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

from msgspec import Struct, structs

from .. import clock as clocks
from .._core.examine import examine
from .._core.flusher import trouble_text
from .._core.log import Log, LogDamaged
from .._core.region import Region, RegionDamaged, RegionMismatch
from ..config import MemoryConfig
from ..errors import NtmemError, StorageError
from . import region as regions
from .budget import plan
from .datafile import DATA_FILE
from .engines import open_engine
from .region import region_path
from .sharing import detach

RegionState = Literal["in use", "left behind", "stale", "damaged", "foreign", "none"]

_NAME = re.compile(r"ntmem-(\d+)-[0-9a-f]{16}")
_IDENTITY = struct.Struct("<36sQQQ16s")  # as regions.region_identity() packs it
_FLOCK = struct.Struct("hhqqi4x")
_OPEN_TIMEOUT = 10.0


class Process(Struct, frozen=True):
    """A process that has a region."""

    pid: int
    command: str
    stopped: bool

    def __str__(self) -> str:
        return f"{self.pid} ({self.command}{', stopped' if self.stopped else ''})"


class RegionReport(Struct, frozen=True, kw_only=True):
    """What is known of one region.

    Attributes
    ----------
    path : str or None
        Of the region; None: the store `directory` has none, all its changes are on disk.
    state : {"in use", "left behind", "stale", "damaged", "foreign", "none"}
        ``left behind``: nobody has it, and it has changes that are not on disk. ``stale``: nobody has it, and all is
        on disk. ``foreign``: of another boot, container or state of the data file.
    directory : str or None
        Of the store; None: no living process has it open, and no directory that was given is it.
    unflushed : int or None
        Bytes that are committed and not on disk; None: cannot be told.
    lag : float
        Seconds since the oldest change that is not on disk.
    leader : int
        Process that brings changes to disk; 0: none.
    problems, advice : list of str
        What is wrong, and what to do.
    """

    path: str | None
    state: RegionState
    size: int = 0
    directory: str | None = None
    attached: list[Process] = []
    generation: int | None = None
    committed: int | None = None
    unflushed: int | None = None
    lag: float = 0.0
    leader: int = 0
    simulated_clock: bool = False
    problems: list[str] = []
    advice: list[str] = []

    @property
    def ok(self) -> bool:
        """Whether there is nothing to be done about it."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"ok": self.ok, **structs.asdict(self), "attached": [structs.asdict(p) for p in self.attached]}


class _File(NamedTuple):
    """A file that a process has open, by device and inode."""

    pid: int
    device: int
    inode: int
    name: str


# ---- processes --------------------------------------------------------------------------------------------------


def _open_files() -> list[_File]:
    """Return the regions and data files that this user's processes have open or mapped, this one included."""
    found: list[_File] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or is another user's
            if os.stat(f"/proc/{name}").st_uid == os.getuid():
                found += _files_of(int(name))
    own = os.getpid()  # has regions open that it has only looked at; that it uses one shows in attach.lock
    return [file for file in found if file.pid != own or os.path.basename(file.name) == DATA_FILE]


def _files_of(pid: int) -> Iterator[_File]:
    for number in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            link = f"/proc/{pid}/fd/{number}"
            name = os.readlink(link)
            if name.startswith(regions.SHARED_MEMORY + "/") or os.path.basename(_alive(name)) == DATA_FILE:
                stat = os.stat(link)
                yield _File(pid, stat.st_dev, stat.st_ino, name)
    with open(f"/proc/{pid}/maps", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and fields[5].startswith(regions.SHARED_MEMORY + "/ntmem-"):
                major, minor = (int(part, 16) for part in fields[3].split(":"))
                yield _File(pid, os.makedev(major, minor), int(fields[4]), fields[5])


def _alive(name: str) -> str:
    return name.removesuffix(" (deleted)")


def _process(pid: int) -> Process:
    command, stopped = "?", False
    with suppress(OSError, IndexError):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(4096).replace(b"\0", b" ").decode(errors="replace").strip()
        with open(f"/proc/{pid}/stat", "rb") as file:
            stopped = file.read().rpartition(b")")[2].split()[0] in (b"T", b"t")
    printable = "".join(letter if letter.isprintable() else " " for letter in command)
    return Process(pid, printable if len(printable) <= 80 else printable[:77] + "...", stopped)


def _is_used(directory: str) -> bool:
    """Whether any process, in whichever container, is registered as a user of the log of a store."""
    try:
        file = os.open(os.path.join(directory, "attach.lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(file)


# ---- looking ----------------------------------------------------------------------------------------------------


def survey(directories: Sequence[str | os.PathLike[str]] = ()) -> list[RegionReport]:
    """Describe the regions of the stores in `directories`; without any, all of this user on this machine.

    Raises
    ------
    StorageError
        There is no store in one of the directories.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(open files of this user's processes).
    """
    files = _open_files()
    stores = _stores_of(files)
    reports: list[RegionReport] = []
    if not directories:
        for path in _regions():
            with suppress(FileNotFoundError):  # its last user has just gone
                reports.append(_describe(path, files, stores))
        return reports
    for directory in map(os.path.abspath, directories):
        data_file = os.path.join(directory, DATA_FILE)
        if not os.path.exists(data_file):
            raise StorageError(f"there is no store in {directory}; give the directory that holds its {DATA_FILE}")
        stores[_identity_of(data_file)] = directory
        try:
            reports.append(_describe(region_path(directory), files, stores, directory))
        except FileNotFoundError:
            reports.append(RegionReport(path=None, state="none", directory=directory))
    return reports


def _regions() -> list[str]:
    """Return the names of this user's regions."""
    found = []
    for name in sorted(os.listdir(regions.SHARED_MEMORY)):
        match = _NAME.fullmatch(name)
        path = os.path.join(regions.SHARED_MEMORY, name)
        with suppress(OSError):
            if match and int(match[1]) == os.getuid() and os.lstat(path).st_uid == os.getuid():
                found.append(path)
    return found


def _identity_of(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _stores_of(files: Iterable[_File]) -> dict[tuple[int, int], str]:
    """Return the directories of the stores that living processes have open, by device and inode of the data file."""
    return {
        (file.device, file.inode): os.path.dirname(file.name)
        for file in files
        if os.path.basename(file.name) == DATA_FILE  # one that was deleted is no directory's any more
    }


def _describe(
    path: str, files: Sequence[_File], stores: dict[tuple[int, int], str], directory: str | None = None
) -> RegionReport:
    stat = os.lstat(path)
    attached = sorted({file.pid for file in files if (file.device, file.inode) == (stat.st_dev, stat.st_ino)})
    report = RegionReport(
        path=path, state="damaged", size=stat.st_size, directory=directory, attached=[_process(pid) for pid in attached]
    )
    try:
        Region.attach(path, identity=b"not any")
        raise AssertionError("a region that belongs to nothing")
    except RegionMismatch as sound:
        identity = sound.found
    except FileNotFoundError:
        raise
    except (RegionDamaged, OSError) as error:
        return _with_damage(report, f"{error}", directory)
    if len(identity) != _IDENTITY.size:
        return _with_damage(report, f"{path} says of itself {identity!r}, which no store is called", directory)
    boot, device, inode, pid_namespace, _ = _IDENTITY.unpack(identity)
    directory = directory or stores.get((device, inode))
    report = structs.replace(report, directory=directory)
    problems = []
    if boot.rstrip(b"\0") != clocks.boot_id():
        problems.append("it was made before this machine was booted")
    if pid_namespace != os.stat("/proc/self/ns/pid").st_ino:
        problems.append("it was made in another container (PID namespace); open and close the store there")
    if directory is not None and (device, inode) != _identity_of(os.path.join(directory, DATA_FILE)):
        problems.append(f"it belongs to a data file with inode {inode}, not to that of {directory}")
    if problems:
        report = structs.replace(report, state="foreign", problems=problems)
        return structs.replace(report, advice=[_aside_advice(path, directory)])
    try:
        log = Log(Region.attach(path, identity=identity))
    except RegionMismatch as error:
        raise FileNotFoundError(f"{path} has just been replaced") from error
    except FileNotFoundError:
        raise
    except (RegionDamaged, LogDamaged, OSError) as error:
        return _with_damage(report, str(error), directory)
    return _with_log(report, log)


def _with_damage(report: RegionReport, problem: str, directory: str | None) -> RegionReport:
    assert report.path is not None
    return structs.replace(
        report, problems=[problem], advice=[*_ending(report.attached), _aside_advice(report.path, directory)]
    )


def _with_log(report: RegionReport, log: Log) -> RegionReport:
    flushed, committed = log.flushed, log.committed
    used = bool(report.attached) or (report.directory is not None and _is_used(report.directory))
    if not used:
        try:
            examine(log)
        except LogDamaged as error:
            assert report.path is not None
            return _with_damage(report, str(error), report.directory)
    unflushed = max(committed - flushed, 0)
    problems, advice = [], []
    if log.trouble is not None:
        problems.append(trouble_text(*log.trouble))
    stopped = [process for process in report.attached if process.stopped]
    leader = log.leader if used else 0
    for process in stopped:
        role = ", which brings changes to disk," if process.pid == leader else ""
        problems.append(f"process {process}{role} is stopped; others may have to wait for it")
        advice.append(f"let it go on (kill -CONT {process.pid}) or end it (kill -9 {process.pid}): nothing is lost")
    state: RegionState = "in use" if used else "left behind" if unflushed else "stale"
    if state == "left behind":
        problems.append(f"{unflushed} bytes of changes are not on disk, and no process is there to bring them")
        advice.append(
            f"ntmem doctor --flush {report.directory}"
            if report.directory
            else "open its store once, or give its directory: ntmem doctor --flush DIRECTORY; if that was deleted: "
            f"ntmem doctor --set-aside {report.path} DIRECTORY"
        )
    if state == "stale" and report.directory is None and log.clock[0]:
        advice.append("its simulated clock may be nowhere else: open its store once, or give its directory")
    elif state == "stale":
        advice.append(f"it can be removed: ntmem doctor --clean{' ' + report.directory if report.directory else ''}")
    return structs.replace(
        report,
        state=state,
        generation=log.region.generation,
        committed=committed,
        unflushed=unflushed,
        lag=round(log.lag, 3),
        leader=leader,
        simulated_clock=log.clock[0],
        problems=problems,
        advice=advice,
    )


def _ending(attached: Sequence[Process]) -> list[str]:
    return [f"end {', '.join(map(str, attached))} first"] if attached else []


def _aside_advice(path: str, directory: str | None) -> str:
    return (
        f"ntmem doctor --set-aside {path} {directory or 'DIRECTORY'} (copies it into that directory, then removes it)"
    )


# ---- doing ------------------------------------------------------------------------------------------------------


def flush(directory: str | os.PathLike[str]) -> RegionReport:
    """Bring everything a store has in shared memory to disk; return what was there before.

    Raises
    ------
    NtmemError
        There is no store, it cannot be opened, or the disk does not take it in ten seconds. Nothing is lost.
    """
    (before,) = survey([directory])
    config = MemoryConfig(storage_path=directory, engine="shared")
    engine = open_engine(config, plan(config), None, b"ntmem-doctor", read_only=False)
    try:
        engine.flush(_OPEN_TIMEOUT)
    finally:
        detach(engine.store)
    return before


def clean(directories: Sequence[str | os.PathLike[str]] = ()) -> list[RegionReport]:
    """Remove regions that nobody has and that hold nothing which is not on disk; return those that were removed.

    That of a known store is removed by opening and closing the store, that of an unknown one by its name, unless it
    keeps a simulated clock, whose time may be in it alone.
    """
    removed = []
    for report in survey(directories):
        if report.state != "stale" or report.path is None:
            continue
        if report.directory is not None:
            flush(report.directory)
            if not os.path.exists(report.path):
                removed.append(report)
        elif not report.simulated_clock:
            with suppress(FileNotFoundError):
                seen = _identity_of(report.path)
                if _describe(report.path, _open_files(), {}).state == "stale" and _unlink(report.path, seen):
                    removed.append(report)
    return removed


def set_aside(path: str, directory: str | os.PathLike[str] | None = None) -> str:
    """Copy a damaged or foreign region into the directory of its store and remove it; return the name of the copy.

    Parameters
    ----------
    path : str
        Of the region.
    directory : path, optional
        Where the copy goes; by default into the store, if a living process has it open.

    Raises
    ------
    StorageError
        It is no region of this user, or somebody has it; it is sound and its store opens with it; the directory is
        not known or has no room. The region is left as it was.
    """
    if path not in _regions():
        raise StorageError(f"{path} is no shared region of this user; 'ntmem doctor' lists those there are")
    files = _open_files()
    stores = _stores_of(files)
    owner: str | None = None
    if directory is not None:
        directory = os.path.abspath(directory)
        with suppress(OSError):
            owner = directory if region_path(directory) == path else None
    report = _describe(path, files, stores, owner)
    place = directory or report.directory
    if place is None:
        raise StorageError(f"no living process tells whose {path} is; give the directory that is to keep the copy")
    if not os.path.isdir(place):
        raise StorageError(f"{place} is no directory; give the one that is to keep the copy")
    owner = owner or report.directory
    if report.attached or (owner is not None and _is_used(owner)):
        raise StorageError(f"{path} is in use by {', '.join(map(str, report.attached)) or 'a process'}; end it first")
    if report.state in ("left behind", "stale") and report.directory is not None and _opens(report.directory):
        raise StorageError(f"{path} is sound and {report.directory} opens with it, so its changes are on disk now")
    seen = _identity_of(path)
    with _not_opening(place):
        copy = _copy(path, place)
        if not _unlink(path, seen):
            raise StorageError(f"{path} was replaced meanwhile; look again ({copy} holds what was there)")
    return copy


def _opens(directory: str) -> bool:
    try:
        flush(directory)
    except NtmemError:
        return False
    return True


@contextmanager
def _not_opening(directory: str) -> Iterator[None]:
    """Keep others from opening a store meanwhile; who is just doing so is not waited for."""
    file = os.open(os.path.join(directory, "open.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"a process is just opening {directory}; try again when it is done") from error
        yield
    finally:
        os.close(file)


def _copy(path: str, directory: str) -> str:
    """Copy a region into a directory and sync it; return its new name, which is unique."""
    name = f"{os.path.basename(path)}-{time.time_ns()}.region"
    target = os.path.join(directory, name)
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(source, "rb") as read, open(target, "xb", opener=_private) as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            os.unlink(target)
        reason = "is a link" if error.errno == errno.ELOOP else error.strerror
        raise StorageError(f"cannot copy {path} to {target}: {reason}; nothing was removed") from error
    return target


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unlink(path: str, seen: tuple[int, int]) -> bool:
    """Take the name of the region that was looked at away; return whether it was still that one."""
    with suppress(FileNotFoundError):
        if _identity_of(path) == seen:
            os.unlink(path)
            return True
    return False
