"""Damage is looked for before LMDB maps the data file, because LMDB dies on it.

LMDB trusts its file: one that was cut short raises SIGBUS in whoever reads past the end, and its pages carry no
checksums. So both meta pages and the size are read with plain reads first; a file that looks too short is walked
whole by py-lmdb's offline verifier, which never maps it. The deep check runs in a process of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import time
from contextlib import suppress

from ..errors import CorruptionError, SchemaError

DATA_FILE = "data.mdb"
LOCK_FILE = "lock.mdb"
NOTE_FILE = "closed"
_NOTE_BYTES = 120

WALKED_BYTES = 2 << 20
"""A file up to this size that nobody uses is walked whole at each opening: 7 to 20 ms (measured: 4.0 ms a MiB with
300-byte values, 9.8 with 64-byte ones, 0.3 with 20 kB). A larger one is mapped after the look at its meta pages."""

_MAGIC = 0xBEEFC0DE
_META_PAGE = 0x08
_PAGE_HEAD = struct.Struct("=QHHHH")  # pgno pad flags lower upper
_META = struct.Struct("=IIQQ48s48sQQ")  # magic version address mapsize free_db main_db last_pg txnid
_TREE = struct.Struct("=IHHQQQQQ")  # pad flags depth branch_pages leaf_pages overflow_pages entries root
_INTEGER_KEY, _NO_SUBDIR = 0x08, 0x4000
_META_BYTES = _PAGE_HEAD.size + _META.size
_HEAD_BYTES = 2**16 + _META_BYTES  # two meta pages of the largest size
_NO_PAGE = 2**64 - 1
_REMEDY = "restore a backup of the directory; 'ntmem verify' says in detail what is damaged"


def find_damage(data_file: str) -> str | None:
    """Return what is visibly wrong with an LMDB file, None if it may be mapped. The file is only read."""
    with open(data_file, "rb") as file:
        head = file.read(_HEAD_BYTES)  # both meta pages at once: a commit of another process may come in between
        size = os.fstat(file.fileno()).st_size  # asked for behind them: a commit first extends the file
    if size == 0:
        return None  # LMDB makes a new database of an empty file
    if len(head) < _META_BYTES:
        return f"it has {size} bytes, less than one meta page"
    magic, later_magic, later_version = (int.from_bytes(head[at : at + 4], sys.byteorder) for at in (16, 24, 28))
    if magic != _MAGIC and later_magic == _MAGIC:  # LMDB 1.0 has longer page heads
        return f"it has data format {later_version}, only 1 (LMDB 0.9) is supported"
    page_size = _TREE.unpack(_META.unpack_from(head, _PAGE_HEAD.size)[4])[0]
    if page_size not in {2**n for n in range(9, 17)}:
        return f"its page size reads as {page_size}"
    if size < 2 * page_size:
        return f"it has {size} bytes, less than its two meta pages"
    metas = []
    for number in range(2):
        page = head[number * page_size :]
        damage = _meta_damage(number, page, page_size)
        if damage:
            return damage
        metas.append(_META.unpack_from(page, _PAGE_HEAD.size))
    older, newer = sorted(metas, key=lambda meta: meta[7])
    follow = newer[7] - older[7] == 1 and newer is metas[newer[7] & 1]
    if not follow and newer[7] != 0:
        return f"its meta pages are of transactions {metas[0][7]} and {metas[1][7]}, which do not follow each other"
    if newer[6] < older[6] or newer[3] < older[3]:
        return f"it shrank from one transaction to the next (last page {older[6]}, {newer[6]})"
    pages = newer[6] + 1
    if pages * page_size > size:
        # Pages that were taken and given back within one transaction may never have been written, so a sound
        # file can be shorter than its last page number says: only a walk of the whole tree can tell. While others
        # write, a walk finds pages that are not of one commit; they have the file mapped already.
        problems = walk(data_file) if at_rest(os.path.dirname(data_file)) else []
        if problems:
            return f"it has {size} bytes where {pages * page_size} are expected ({problems[0]})"
    return None


def _meta_damage(number: int, page: bytes, page_size: int) -> str | None:
    pgno, _, flags, _, _ = _PAGE_HEAD.unpack_from(page)
    magic, version, _, _, free_db, main_db, last_page, txnid = _META.unpack_from(page, _PAGE_HEAD.size)
    if magic != _MAGIC or not flags & _META_PAGE or pgno != number:
        return f"meta page {number} is not one (magic {magic:#x}, flags {flags:#x}, page number {pgno})"
    if version != 1:
        return f"meta page {number} has data format {version}, only 1 (LMDB 0.9) is supported"
    for name, tree in (("free", free_db), ("main", main_db)):
        pad, flags, depth, _, _, _, _, root = _TREE.unpack(tree)
        if name == "free" and pad != page_size:
            return f"the meta pages disagree about the page size ({page_size}, {pad})"
        if flags & ~_NO_SUBDIR != (_INTEGER_KEY if name == "free" else 0):
            return f"meta page {number} has flags {flags:#x} of its {name} tree"
        if (root == _NO_PAGE) != (depth == 0) or (root != _NO_PAGE and not (2 <= root <= last_page and 0 < depth < 32)):
            return f"meta page {number} has its {name} tree at page {root} of {last_page}, depth {depth}"
    if last_page < 1 or last_page > 2**40 or txnid > 2**62:
        return f"meta page {number} has last page {last_page}, transaction {txnid}"
    return None


def walk(data_file: str) -> list[str]:
    """Return what is wrong with the structure of an LMDB file at rest, checked page by page without mapping it."""
    from lmdb.verify import VerifyError

    from .walking import walk_file

    try:
        return walk_file(data_file)
    except VerifyError as error:
        return [str(error)]


def check_before_mapping(directory: str) -> None:
    """Raise :class:`CorruptionError` if the data file in `directory` must not be mapped."""
    data_file = os.path.join(directory, DATA_FILE)
    if not os.path.exists(data_file):
        return
    if not os.path.isfile(data_file):
        raise CorruptionError(f"{data_file} is not a regular file; {_REMEDY}")
    damage = None
    for _ in range(3):  # a commit of another process may stand half-written in what was just read
        damage = find_damage(data_file)
        if damage is None:
            break
        time.sleep(0.01)
    else:
        if "data format" in str(damage):
            raise SchemaError(f"{data_file} was written by another LMDB: {damage}; open it with what wrote it")
        raise CorruptionError(f"{data_file} is damaged: {damage}; {_REMEDY}")
    if 0 < os.path.getsize(data_file) <= WALKED_BYTES and at_rest(directory):
        problems = walk(data_file)
        if problems:
            raise CorruptionError(f"{data_file} is damaged: {problems[0]}; {_REMEDY}")


def note_closed(directory: str) -> None:
    """Write down how the data file looks to this process, which is done with it but still has it open."""
    with suppress(OSError):  # without a note the next opening takes the file for another one, which is no harm
        file = os.open(os.path.join(directory, NOTE_FILE), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            look = b""
            while look != (now := _look(directory)):  # who changes it behind the last look will note it, too
                look = now
                os.pwrite(file, look.ljust(_NOTE_BYTES), 0)
        finally:
            os.close(file)


def was_touched(directory: str) -> bool:
    """Whether the data file, which nobody uses, is not as the last process that closed it left it.

    It may have been put back from a backup. Device and inode do not tell: a file can be overwritten in place, and a
    new one often gets the inode of the one just deleted. The time of change can be set by nobody.
    """
    if not at_rest(directory):
        return False
    try:
        with open(os.path.join(directory, NOTE_FILE), "rb") as file:
            return file.read(_NOTE_BYTES).rstrip() != _look(directory)
    except OSError:
        return True


def _look(directory: str) -> bytes:
    with open(os.path.join(directory, DATA_FILE), "rb") as file:
        stat, head = os.fstat(file.fileno()), file.read(_HEAD_BYTES)
    page_size = _TREE.unpack(_META.unpack_from(head, _PAGE_HEAD.size)[4])[0]
    transactions = [_META.unpack_from(head, number * page_size + _PAGE_HEAD.size)[7] for number in range(2)]
    return b"%d %d %d %d %d" % (stat.st_dev, stat.st_ino, stat.st_ctime_ns, stat.st_size, max(transactions))


def at_rest(directory: str) -> bool:
    """Whether no process has the file mapped: LMDB's users hold a lock on the first byte of its lock file."""
    try:
        file = os.open(os.path.join(directory, LOCK_FILE), os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return error.errno == errno.ENOENT
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
    except OSError:
        return False
    finally:
        os.close(file)  # and with it the lock; this process has none there, it is about to open the file
    return True
