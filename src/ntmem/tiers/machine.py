"""What a store needs of the machine it is on, and whether that is there; ``ntmem doctor`` prints it.

Looking changes nothing. What cannot be found out is no finding.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from .._core import kernels
from .._core.hot import HotTable
from ..config import MemoryConfig
from .budget import plan
from .datafile import DATA_FILE, LOCK_FILE
from .region import SHARED_MEMORY, is_supported, lasting_sections

Level = Literal["ok", "warning", "problem"]

LEVELS: tuple[Level, ...] = ("ok", "warning", "problem")
"""From good to bad."""

_SPARSE = 2  # flag of a section whose memory is taken when it is needed
_FEW_FILES, _ENOUGH_FILES = 64, 256
_LITTLE_DISK, _ENOUGH_DISK = 64 << 20, 1 << 30
_SLOW_CLOCK = 300  # ns of a look at the clock, which costs some 50
_QUICK_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
_REMOTE = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gluster", "beegfs", "gpfs", "ocfs2", "gfs2", "davfs")
_PASSING = ("tmpfs", "ramfs", "overlay")
_NAMES = {"avx512vnni": "AVX-512 VNNI", "avx2": "AVX2", "neon": "NEON"}


class Finding(Struct, frozen=True):
    """One thing that was looked at.

    Attributes
    ----------
    name : str
        What.
    level : {"ok", "warning", "problem"}
        ``problem``: a store cannot be opened or trusted here. ``warning``: it works, but slower or not for long.
    found : str
        What was found.
    remedy : str
        What to do; empty if that is nothing.
    """

    name: str
    level: Level
    found: str
    remedy: str = ""


def examine_machine(config: MemoryConfig | None = None) -> list[Finding]:
    """Look at what every store needs; `config` is of the one that is to be opened, by default as by default."""
    config = MemoryConfig() if config is None else config
    return [_shared_memory(config), *_limits(), *_kernel(), _clock(), _processor()]


def examine_directory(directory: str | os.PathLike[str], config: MemoryConfig | None = None) -> list[Finding]:
    """Look at where a store is: its file system, the room on it, and the right to write there."""
    config = MemoryConfig() if config is None else config
    path = os.path.abspath(directory)
    return [_file_system(path), _room(path, config), _rights(path)]


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level of findings; of none: ok."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TB"


# ---- memory -----------------------------------------------------------------------------------------------------


def region_bytes(config: MemoryConfig) -> tuple[int, int]:
    """Return what the shared memory of a store takes at once, and what it may take without vectors."""
    limits = plan(config)
    hot = HotTable.sections(limits.cache.max_bytes, limits.cache.max_entries)
    sections = [*lasting_sections(limits.log, limits.bus), *hot]
    at_once = sum(taken for _, taken, flags in sections if not flags & _SPARSE)
    return at_once, sum(taken for _, taken, _ in sections)


def _shared_memory(config: MemoryConfig) -> Finding:
    name = "shared memory"
    if not is_supported():
        return Finding(
            name,
            "problem",
            f"{SHARED_MEMORY} is not there, or may not be written to",
            "mount a tmpfs there (containers: --shm-size, or --ipc=host), or open stores with engine='lmdb'",
        )
    stat = os.statvfs(SHARED_MEMORY)
    free = stat.f_bavail * stat.f_frsize
    at_once, most = region_bytes(config)
    found = f"{SHARED_MEMORY} has {size(free)} free of {size(stat.f_blocks * stat.f_frsize)}"
    larger = "make it larger (mount -o remount,size=2G /dev/shm; containers: --shm-size=2g), or open stores with "
    if free < at_once:
        return Finding(name, "problem", f"{found}; a store takes {size(at_once)} at once", f"{larger}smaller log_bytes")
    if free < most:
        remedy = f"{larger}smaller limits in cache_config, and smaller bus_bytes"
        return Finding(name, "warning", f"{found}; a store takes up to {size(most)}, vectors not counted", remedy)
    return Finding(name, "ok", f"{found}; a store takes {size(at_once)} to {size(most)}, vectors not counted")


# ---- limits -----------------------------------------------------------------------------------------------------


def _limits() -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    level: Level = "problem" if 0 <= files < _FEW_FILES else "warning" if 0 <= files < _ENOUGH_FILES else "ok"
    remedy = "" if level == "ok" else "raise it: ulimit -n 1024, or LimitNOFILE= of the service"
    yield Finding("open files", level, f"ulimit -n is {_said(files)}; a store takes some ten, and one a graph", remedy)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    yield Finding("locked memory", "ok", f"ulimit -l is {_said(locked)}; ntmem locks none")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        yield Finding(
            "address space",
            "warning",
            f"ulimit -v is {size(space)}, and the data file is mapped as large as it may become (max_storage_bytes)",
            "lift it (ulimit -v unlimited), or open stores with max_storage_bytes well below it",
        )
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY:
        remedy = "lift it: ulimit -f unlimited"
        yield Finding("file size", "warning", f"ulimit -f lets no file grow above {size(largest)}", remedy)


def _said(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _kernel() -> Iterator[Finding]:
    said = _read("/proc/sys/vm/overcommit_memory")
    if said == "2":
        yield Finding(
            "overcommit",
            "warning",
            "vm.overcommit_memory is 2: the kernel refuses memory that it might not have, threads' stacks included",
            "see that CommitLimit in /proc/meminfo is well above Committed_AS, or set vm.overcommit_memory=0",
        )
    elif said:
        yield Finding("overcommit", "ok", f"vm.overcommit_memory is {said}")


def _clock() -> Finding:
    source = _read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "not known"
    costs = []
    for _ in range(5):  # the least: others may have taken the processor meanwhile
        begun = time.perf_counter_ns()
        for _ in range(200):
            time.perf_counter_ns()
        costs.append((time.perf_counter_ns() - begun) / 200)
    found = f"{source}; a look takes {min(costs):.0f} ns"
    if source in _QUICK_CLOCKS or min(costs) < _SLOW_CLOCK:
        return Finding("clock", "ok", found)
    remedy = "each write looks at it: let the kernel use tsc (see dmesg for why it does not; clocksource=tsc)"
    return Finding("clock", "warning", found, remedy)


def _processor() -> Finding:
    chosen = kernels.Kernels().name
    found = f"vectors are searched with {_NAMES.get(chosen, chosen)} (it can: {', '.join(kernels.available())})"
    if chosen != "scalar":
        return Finding("processor", "ok", found)
    remedy = "many times slower than with AVX2 or NEON: a newer machine, or a virtual one that passes them on"
    return Finding("processor", "warning", found, remedy)


# ---- where the store is -----------------------------------------------------------------------------------------


def _file_system(path: str) -> Finding:
    name, kind = "file system", kind_of(path)
    if kind is None:
        return Finding(name, "ok", "its kind cannot be told")
    if kind.startswith(_REMOTE) or kind in ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone"):
        remedy = "put the store on a disk of this machine: LMDB needs locks and a memory map that others share"
        return Finding(name, "problem", f"{path} is on {kind}, a network file system", remedy)
    if kind in _PASSING:
        gone = "the container" if kind == "overlay" else "the machine is running"
        remedy = "fine for tests; else put the store on a disk (containers: on a volume)"
        return Finding(name, "warning", f"{path} is on {kind}: it lasts as long as {gone}", remedy)
    if kind.startswith("fuse"):
        remedy = "see that it keeps what was synced, and that locks and shared maps work on it"
        return Finding(name, "warning", f"{path} is on {kind}", remedy)
    return Finding(name, "ok", kind)


def kind_of(path: str, mounts: Sequence[str] | None = None) -> str | None:
    """Return the kind of file system that a path is on, by the lines of ``/proc/self/mountinfo``; None: not known."""
    lines = _read("/proc/self/mountinfo").splitlines() if mounts is None else mounts
    real, found, longest = os.path.realpath(path), None, -1
    for line in lines:
        fields, _, rest = line.partition(" - ")
        with suppress(IndexError):
            point = fields.split()[4].encode().decode("unicode_escape")  # a space is \040
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= longest:  # of two on one point the later hides the earlier
                found, longest = rest.split()[0], len(point)
    return found


def _room(path: str, config: MemoryConfig) -> Finding:
    stat = os.statvfs(path)
    free = stat.f_bavail * stat.f_frsize
    found = f"{size(free)} free of {size(stat.f_blocks * stat.f_frsize)}"
    if free < _LITTLE_DISK + plan(config).log:
        remedy = "free some: a store whose disk is full refuses writes, and loses nothing"
        return Finding("disk", "problem", found, remedy)
    if free < _ENOUGH_DISK:
        return Finding("disk", "warning", found, "free some before it is full: then writes are refused")
    return Finding("disk", "ok", found)


def _rights(path: str) -> Finding:
    name, own = "rights", os.getuid()
    files = [path, *(os.path.join(path, each) for each in (DATA_FILE, LOCK_FILE, "open.lock", "attach.lock"))]
    for file in files:
        if not os.path.exists(file):
            continue
        owner = os.stat(file).st_uid
        if owner != own and file != path:
            remedy = f"run as that user, or give the store to this one: chown -R {own} {path}"
            return Finding(name, "problem", f"{file} belongs to user {owner}, this process to user {own}", remedy)
        if not os.access(file, os.R_OK | os.W_OK | (os.X_OK if file == path else 0)):
            remedy = f"chmod u+rw{'x' if file == path else ''} {file}"
            return Finding(name, "problem", f"{file} may not be read and written", remedy)
    return Finding(name, "ok", f"user {own} may read and write it")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
