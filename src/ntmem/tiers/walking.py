"""A walk through a data file at rest, page by page: py-lmdb's offline verifier, which reads and never maps it."""

from __future__ import annotations

import struct
from typing import Any

from lmdb import verify

_PAGE_NUMBER = struct.Struct("=Q")


_Verifier: Any = verify._Verifier  # which has no types


class _Walker(_Verifier):  # type: ignore[misc]
    """Knows of values in more pages than they need.

    LMDB leaves a value that was shortened in the transaction that wrote it in the pages it had ("we don't bother to
    try shrinking", in ``mdb_cursor_put``). The verifier of py-lmdb 3.0 takes that for damage.
    """

    def _bigdata(
        self, ctx: Any, pgno: int, i: int, buf: bytes, doff: int, dsize: int, want_bytes: bool
    ) -> bytes | None:
        takes = dsize
        if not self.eng["has_txnid"] and doff + _PAGE_NUMBER.size <= self.psize:
            first = _PAGE_NUMBER.unpack_from(buf, doff)[0]
            page = self.read_page(first) if first < self.next_pgno else None
            pages = 0 if page is None else self._pg_pages(page, 0)
            if first + pages <= self.next_pgno:  # else it is damage, and is found
                takes = max(dsize, pages * self.psize - self.hdrsz)
        found: bytes | None = super()._bigdata(ctx, pgno, i, buf, doff, takes, want_bytes)
        return None if found is None else found[:dsize]


def walk_file(data_file: str) -> list[str]:
    """Return what is wrong with the structure of an LMDB file; raises ``lmdb.verify.VerifyError`` if it is none."""
    with open(data_file, "rb") as file:
        size = file.seek(0, 2)
        return list(_Walker(file, size).verify())
