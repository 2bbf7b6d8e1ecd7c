"""How records, keys and namespaces stand on disk: pure functions between Python values and bytes.

**Layout** (little-endian unless an integer is part of a key: those are big-endian, so that bytes sort as numbers)

========== ==================================================== ==================================================
database   key                                                  value
========== ==================================================== ==================================================
meta       name                                                 see :mod:`ntmem.tiers.engine`
namespaces labels, each behind its length byte                  ``_NAMESPACE`` header, all labels; 0 and its owner
records    namespace id (8), key                                record
history    namespace id (8), digest of the key (16), version(8) record
expiry     expires_at (8), records key                          key of the row in ``namespaces``
========== ==================================================== ==================================================

A record is ``_HEADER``, the writer, the full key where the database key cannot hold it, the value. LMDB's keys
end at 511 bytes: a longer one keeps its first bytes and a digest of the whole, and is told from a short one by
its length alone.

**Invariants**

1. A record's CRC covers its database key, header and payload, so a value that stands under another key is damage.
2. Two namespaces or keys share a database key only if 128-bit BLAKE2b digests collide.
3. The format numbers below never change meaning.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from ..errors import CorruptionError
from ..records import Fence, Policy, Record

RECORD_FORMAT = 1
NAMESPACE_FORMAT = 1

DELETED = 1
"""Record flag: marks a deletion; only in history."""
AHEAD = 2
"""Record flag: when it was written, its ``ts_known`` lay in the future of the store's clock."""
_HAS_KEY = 4
FENCED = 16
"""Record flag, also in the log: the writer's name is followed by the lease under which it wrote."""

HISTORY, GUARDED = 1, 2  # rules of a namespace

_HEADER = struct.Struct("<BBHIQqqqI")  # format flags writer_size key_size version ts_event ts_known expires_at crc
_FENCE = struct.Struct("<QB")  # number, size of the resource in front
_NAMESPACE = struct.Struct("<BBQqqqq")  # format rules id max_age max_bytes history_since history_bytes
_U64 = struct.Struct(">Q")
_CRC_OFFSET = _HEADER.size - 4

_DIGEST = 16
KEY_HEAD = 479
"""A key longer than ``KEY_HEAD + _DIGEST - 1`` bytes keeps this many and a digest."""
_LONG_KEY = KEY_HEAD + _DIGEST
_NAMESPACE_HEAD = 484
_LONG_NAMESPACE = _NAMESPACE_HEAD + _DIGEST


def _digest(data: bytes) -> bytes:
    from hashlib import blake2b  # 5 ms to import, and only long keys and history need it

    return blake2b(data, digest_size=_DIGEST).digest()


class Stored(NamedTuple):
    """A record as it stands in a database. `key` is empty where the database key already holds it."""

    flags: int
    version: int
    ts_event: int
    ts_known: int
    expires_at: int  # 0: never
    writer: bytes
    key: bytes
    value: bytes

    def expired(self, now: int) -> bool:
        """Whether the record is no longer served at `now`."""
        return 0 < self.expires_at <= now

    @property
    def fence(self) -> Fence | None:
        """The lease under which it was written."""
        return split_writer(self.writer, self.flags)[1]

    def public(self) -> Record:
        """Return it as users see it."""
        value = None if self.flags & DELETED else self.value
        writer, fence = split_writer(self.writer, self.flags)
        return Record(value, self.version, self.ts_event, self.ts_known, self.expires_at or None, fence, writer)


def join_writer(writer: bytes, fence: Fence | None) -> bytes:
    """Return a writer's name with the lease under which it writes, of which the record's flag `FENCED` tells."""
    if fence is None:
        return writer
    resource = fence.resource.encode()
    return b"".join((writer, resource, _FENCE.pack(fence.number, len(resource))))


def split_writer(data: bytes, flags: int) -> tuple[str, Fence | None]:
    """Return what :func:`join_writer` has joined."""
    if not flags & FENCED:
        return _text(data), None
    end = len(data) - _FENCE.size
    number, size = _FENCE.unpack_from(data, end) if end >= 0 else (0, 0)
    if not 0 <= size <= end:
        raise CorruptionError(
            f"the writer of a record says that it has a lease, in {len(data)} bytes; restore a backup"
        )
    return _text(data[: end - size]), Fence(_text(data[end - size : end]), number)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CorruptionError(f"the name {data[:80]!r} is no UTF-8 ({error.reason}); restore a backup") from None


def record_key(namespace_id: int, key: bytes) -> bytes:
    """Return the key of a record in the ``records`` database."""
    if len(key) >= _LONG_KEY:
        key = key[:KEY_HEAD] + _digest(key)
    return _U64.pack(namespace_id) + key


def holds_key(database_key: bytes) -> bool:
    """Whether a ``records`` key holds the whole key rather than its head and a digest."""
    return len(database_key) < 8 + _LONG_KEY


def id_prefix(namespace_id: int) -> bytes:
    """Return what all keys of a namespace begin with, in ``records`` and in ``history``."""
    return _U64.pack(namespace_id)


def history_prefix(namespace_id: int, key: bytes) -> bytes:
    """Return what all past versions of a key begin with in ``history``."""
    return _U64.pack(namespace_id) + _digest(key)


def history_key(namespace_id: int, key: bytes, version: int) -> bytes:
    """Return the key of one past version in ``history``."""
    return history_prefix(namespace_id, key) + _U64.pack(version)


def expiry_key(expires_at: int, database_key: bytes) -> bytes:
    """Return the key of a record in the ``expiry`` index."""
    return _U64.pack(expires_at) + database_key


def split_expiry_key(index_key: bytes) -> tuple[int, bytes]:
    """Return (expires_at, records key) of an ``expiry`` key."""
    return _U64.unpack_from(index_key)[0], index_key[8:]


def encode_record(database_key: bytes, stored: Stored) -> bytes:
    """Return the bytes of a record that will stand under `database_key`."""
    flags = stored.flags | (_HAS_KEY if stored.key else 0)
    head = _HEADER.pack(
        RECORD_FORMAT,
        flags,
        len(stored.writer),
        len(stored.key),
        stored.version,
        stored.ts_event,
        stored.ts_known,
        stored.expires_at,
        0,
    )
    payload = b"".join((stored.writer, stored.key, stored.value))
    crc = crc32(payload, crc32(head[:_CRC_OFFSET], crc32(database_key)))
    return b"".join((head[:_CRC_OFFSET], crc.to_bytes(4, "little"), payload))


def decode_record(database_key: bytes, data: memoryview) -> Stored:
    """Return the record that stands under `database_key`; raise :class:`CorruptionError` if it is damaged."""
    if len(data) < _HEADER.size:
        raise _damaged(database_key, f"its {len(data)} bytes are shorter than a header")
    record_format, flags, writer_size, key_size, version, ts_event, ts_known, expires_at, crc = _HEADER.unpack_from(
        data
    )
    if crc != crc32(data[_HEADER.size :], crc32(data[:_CRC_OFFSET], crc32(database_key))):
        raise _damaged(database_key, "its checksum does not match")
    if record_format != RECORD_FORMAT:
        raise _damaged(database_key, f"its format is {record_format}, this version reads {RECORD_FORMAT}")
    key_at = _HEADER.size + writer_size
    value_at = key_at + key_size
    if value_at > len(data):
        raise _damaged(database_key, "its sizes exceed it")
    writer, key = bytes(data[_HEADER.size : key_at]), bytes(data[key_at:value_at])
    return Stored(flags & ~_HAS_KEY, version, ts_event, ts_known, expires_at, writer, key, bytes(data[value_at:]))


def _damaged(database_key: bytes, what: str) -> CorruptionError:
    return CorruptionError(
        f"the record under {database_key!r} is damaged: {what}; restore a backup of the store's directory, "
        "or delete and rewrite this key ('ntmem verify' lists every damaged record)"
    )


class NamespaceRow(NamedTuple):
    """What the store knows of one namespace."""

    id: int
    labels: tuple[str, ...]
    policy: Policy
    history_since: int  # the past is complete from here on
    history_bytes: int
    is_guarded: bool = False  # something was written under a lease: who writes is to look under which
    owner: str = ""  # the only one who may write; empty: anybody may


def encode_labels(labels: tuple[str, ...]) -> bytes:
    """Return labels, each behind its length; the encoding of a parent is a prefix of its children's."""
    raw = [label.encode() for label in labels]
    return b"".join(part for label in raw for part in (bytes((len(label),)), label))


def decode_labels(data: bytes) -> tuple[str, ...]:
    """Return the labels that :func:`encode_labels` encoded."""
    labels, at = [], 0
    while at < len(data) and data[at]:
        end = at + 1 + data[at]
        labels.append(_text(data[at + 1 : end]))
        at = end
    return tuple(labels)


def namespace_key(labels: tuple[str, ...]) -> bytes:
    """Return the key of a namespace in the ``namespaces`` database."""
    encoded = encode_labels(labels)
    if len(encoded) >= _LONG_NAMESPACE:
        return encoded[:_NAMESPACE_HEAD] + _digest(encoded)
    return encoded


def namespace_head(labels: tuple[str, ...]) -> bytes:
    """Return what the keys of `labels` and all its children begin with."""
    return encode_labels(labels)[:_NAMESPACE_HEAD]


def encode_namespace(row: NamespaceRow) -> bytes:
    """Return the bytes of a row of ``namespaces``, its CRC in front."""
    policy = row.policy
    body = _NAMESPACE.pack(
        NAMESPACE_FORMAT,
        policy.history * HISTORY | row.is_guarded * GUARDED,
        row.id,
        policy.max_age_ns or 0,
        policy.max_bytes or 0,
        row.history_since,
        row.history_bytes,
    ) + encode_labels(row.labels)
    if row.owner:
        body += b"\0" + row.owner.encode()
    return crc32(body).to_bytes(4, "little") + body


def decode_namespace(data: bytes) -> NamespaceRow:
    """Return a row of ``namespaces``; raise :class:`CorruptionError` if it is damaged."""
    body = data[4:]
    if len(body) < _NAMESPACE.size or int.from_bytes(data[:4], "little") != crc32(body):
        raise CorruptionError("a namespace row is damaged; restore a backup of the store's directory")
    _, rules, namespace_id, max_age, max_bytes, since, size = _NAMESPACE.unpack_from(body)
    policy = Policy(bool(rules & HISTORY), max_age or None, max_bytes or None)
    labels = decode_labels(body[_NAMESPACE.size :])
    owner = _text(body[_NAMESPACE.size + len(encode_labels(labels)) + 1 :])
    return NamespaceRow(namespace_id, labels, policy, since, size, bool(rules & GUARDED), owner)
