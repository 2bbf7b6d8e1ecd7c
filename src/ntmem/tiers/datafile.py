"""Damage is looked for before LMDB maps the data file, because LMDB dies on it.

LMDB trusts its file: one that was cut short raises SIGBUS in whoever reads past the end, and its pages carry no
checksums. So both meta pages and the size are read with plain reads first; a file that looks too short is walked
whole by py-lmdb's offline verifier, which never maps it. The deep check runs in a process of its own.
"""

from __future__ import annotations

import os
import struct
import time

from ..errors import CorruptionError, SchemaError

DATA_FILE = "data.mdb"

_MAGIC = 0xBEEFC0DE
_META_PAGE = 0x08
_PAGE_HEAD = struct.Struct("=QHHHH")  # pgno pad flags lower upper
_META = struct.Struct("=IIQQ48s48sQQ")  # magic version address mapsize free_db main_db last_pg txnid
_TREE = struct.Struct("=IHHQQQQQ")  # pad flags depth branch_pages leaf_pages overflow_pages entries root
_NO_PAGE = 2**64 - 1
_REMEDY = "restore a backup of the directory; 'ntmem verify' says in detail what is damaged"


def find_damage(data_file: str) -> str | None:
    """Return what is visibly wrong with an LMDB file, None if it may be mapped. The file is only read."""
    size = os.path.getsize(data_file)
    if size == 0:
        return None  # LMDB makes a new database of an empty file
    with open(data_file, "rb") as file:
        head = file.read(_PAGE_HEAD.size + _META.size)
        if len(head) < _PAGE_HEAD.size + _META.size:
            return f"it has {size} bytes, less than one meta page"
        page_size = _TREE.unpack(_META.unpack_from(head, _PAGE_HEAD.size)[4])[0]
        if page_size not in {2**n for n in range(9, 17)}:
            return f"its page size reads as {page_size}"
        file.seek(page_size)
        second = file.read(_PAGE_HEAD.size + _META.size)
    if len(second) < _PAGE_HEAD.size + _META.size:
        return f"it has {size} bytes, less than its two meta pages"
    metas = []
    for number, page in enumerate((head, second)):
        damage = _meta_damage(number, page, page_size)
        if damage:
            return damage
        metas.append(_META.unpack_from(page, _PAGE_HEAD.size))
    newest = max(metas, key=lambda meta: meta[7])
    pages = newest[6] + 1
    if pages * page_size > size:
        # Pages that were taken and given back within one transaction may never have been written, so a sound
        # file can be shorter than its last page number says: only a walk of the whole tree can tell.
        problems = walk(data_file)
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
        pad, _, depth, _, _, _, _, root = _TREE.unpack(tree)
        if name == "free" and pad != page_size:
            return f"the meta pages disagree about the page size ({page_size}, {pad})"
        if root != _NO_PAGE and not (2 <= root <= last_page and 0 < depth < 32):
            return f"meta page {number} has its {name} tree at page {root} of {last_page}, depth {depth}"
    if last_page < 1 or last_page > 2**40 or txnid > 2**62:
        return f"meta page {number} has last page {last_page}, transaction {txnid}"
    return None


def walk(data_file: str) -> list[str]:
    """Return what is wrong with the structure of an LMDB file at rest, checked page by page without mapping it."""
    from lmdb import verify

    try:
        return list(verify.verify(data_file, subdir=False))  # type: ignore[no-untyped-call]
    except verify.VerifyError as error:
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
            return
        time.sleep(0.01)
    error = SchemaError if "data format" in str(damage) else CorruptionError
    raise error(f"{data_file} is damaged: {damage}; {_REMEDY}")
