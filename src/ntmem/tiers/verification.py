"""The deep check: structure by py-lmdb's offline verifier, then every record's checksum and whether what is said twice
is the same, in a child process.

The child may die of what it finds (LMDB maps the file); its death is then the finding.
"""

from __future__ import annotations

import os
import sys

import lmdb
import msgspec

from ..errors import CorruptionError, NtmemError, StorageError
from ..stats import VerifyReport
from .cold import ColdStore, Txn
from .consistency import Consistency
from .datafile import DATA_FILE, check_before_mapping, walk
from .layout import decode_namespace, decode_record, id_prefix, namespace_key
from .region import AttachLock, map_region, region_path
from .shared import examine_log
from .sharing import attach, detach
from .tables import Tables

_MOST_PROBLEMS = 100


class _Finding(msgspec.Struct):
    problems: list[str]
    records: int = 0
    history: int = 0
    namespaces: int = 0

    def report(self) -> VerifyReport:
        return VerifyReport(tuple(self.problems), self.records, self.history, self.namespaces)


def verify_directory(directory: str) -> VerifyReport:
    """Check the store in `directory` from a process of its own."""
    if not os.path.exists(os.path.join(directory, DATA_FILE)):
        raise StorageError(f"there is no store in {directory}; check the path")
    import subprocess

    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()", directory],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},  # what this process can import, the child can
    )
    if child.returncode == 0:
        return msgspec.json.decode(child.stdout, type=_Finding).report()
    ended = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
    last = child.stderr.strip().splitlines()[-1:] or ["no message"]
    return _Finding([f"the check itself ended with {ended} on reading the file ({last[0]})"]).report()


def verify_store(store: ColdStore) -> VerifyReport:
    """Check every checksum of an open store, in this process."""
    finding = _Finding([])
    store.read(lambda txn: _check_rows(store, txn, finding))
    return finding.report()


def _check_rows(store: ColdStore, txn: Txn, finding: _Finding) -> None:
    tables = Tables(store, txn)
    for look in (tables.head, tables.clock):
        try:
            look()
        except CorruptionError as error:
            _note(finding, str(error))
    for database, handle in store.databases.items():
        for key in txn.cursor(handle).iternext(values=False):
            if txn.get(bytes(key), db=handle) is None:  # a damaged branch page can lead astray who looks for it
                _note(finding, f"{database}: {bytes(key)!r} is there but cannot be found")
    ids = set()
    for key, data in txn.cursor(store.databases["namespaces"]):
        try:
            row = decode_namespace(bytes(data))
            ids.add(id_prefix(row.id))
            if namespace_key(row.labels) != bytes(key):
                _note(finding, f"namespaces: {row.labels} stands under the key {bytes(key)!r}")
        except CorruptionError as error:
            _note(finding, f"namespaces: {bytes(key)!r}: {error}")
        finding.namespaces += 1
    consistency = Consistency(tables, lambda problem: _note(finding, problem))
    for database in ("records", "history"):
        for key, data in txn.cursor(store.databases[database]):
            try:
                stored = decode_record(bytes(key), data)
                if database == "records":
                    consistency.record(bytes(key), stored)
                else:
                    consistency.past(bytes(key), stored, len(key) + len(data))
                if bytes(key[:8]) not in ids:
                    _note(finding, f"{database}: the record under {bytes(key)!r} belongs to no namespace")
            except CorruptionError as error:
                _note(finding, f"{database}: {error}")
            setattr(finding, database, getattr(finding, database) + 1)
    consistency.finish()


def _check_region(store: ColdStore, finding: _Finding) -> None:
    """Look at what dead processes left in shared memory. The caller has ``open.lock``; living ones vouch for theirs."""
    directory = store.directory
    if directory is None or not os.access(directory, os.W_OK) or not os.path.exists(path := region_path(directory)):
        return
    attached = AttachLock(directory)
    try:
        if attached.is_alone():
            row = store.read(lambda txn: Tables(store, txn).log_row())
            if row is not None and row.is_over:
                return
            examine_log(store, map_region(directory, b"" if row is None else row.region_id, path))
    except (NtmemError, FileNotFoundError) as error:
        _note(finding, str(error))
    finally:
        attached.release()


def _note(finding: _Finding, problem: str) -> None:
    if len(finding.problems) < _MOST_PROBLEMS:
        finding.problems.append(problem)


def _check(directory: str) -> _Finding:
    finding = _Finding([])
    try:
        check_before_mapping(directory)
        problems = walk(os.path.join(directory, DATA_FILE))
        if problems:
            problems = _walk_at_rest(directory)
        if not problems:
            store = attach(
                directory,
                read_only=True,
                max_bytes=1 << 40,
                make=lambda: ColdStore(directory, read_only=True, max_bytes=1 << 40),
                prepare=lambda store: _check_region(store, finding),
            )
            try:
                store.read(lambda txn: _check_rows(store, txn, finding))
            finally:
                detach(store)
        for problem in problems:
            _note(finding, problem)
    except NtmemError as error:
        _note(finding, str(error))
    return finding


def _walk_at_rest(directory: str) -> list[str]:
    """Walk again while no writer can run: a commit may have changed the file under the first walk."""
    data_file = os.path.join(directory, DATA_FILE)
    try:
        size = os.path.getsize(data_file)
        with (
            lmdb.open(directory, map_size=2 * size + (1 << 20), create=False, lib_version=0) as env,
            env.begin(write=True),
        ):
            return walk(data_file)
    except lmdb.Error as error:
        return [str(error)]


def main() -> None:
    """Check the directory named on the command line and print the finding."""
    sys.stdout.write(msgspec.json.encode(_check(sys.argv[1])).decode())
