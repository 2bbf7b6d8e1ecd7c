"""Text of users and of the environment: names, times, durations, URLs, arguments of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import click
from registry import maybe, promised, target

from ntmem import MemoryConfig
from ntmem.cli.search import _json
from ntmem.coordination.topics import levels_of, pattern_of, topic_of
from ntmem.endpoint import require_url, secret_of
from ntmem.errors import InvalidNamespace
from ntmem.namespace import Namespace, encode_key, labels_of
from ntmem.reasoningbank.memory import instant_of
from ntmem.replay.times import BadValue, TimeReader, detect_unit, seconds_ns
from ntmem.tiers import budget, engines, layout


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _name_seeds() -> Iterator[bytes]:
    yield from (b"desk", b"swarm/agent_1/positions", "é/ü".encode(), b"a//b", b"x" * 256, b"a\0b", b"*/>", b"a/*/b")


@target(_name_seeds)
def name(data: bytes) -> None:
    """A namespace, key, topic or pattern, or what is promised; each comes back from its bytes."""
    text = _text(data)
    for make in (topic_of, pattern_of):
        with maybe(ValueError):
            assert "/".join(levels_of(make(text))) == text
    with maybe(ValueError):
        assert encode_key(text).decode() == text
    with promised(InvalidNamespace):
        labels = labels_of(text)
    assert "/".join(labels) == text
    assert layout.decode_labels(layout.encode_labels(labels)) == labels == Namespace.parse(text)
    assert layout.namespace_key(labels).startswith(layout.namespace_head(labels)[:479])


_ZONES = (None, ZoneInfo("America/New_York"))


def _time_seeds() -> Iterator[bytes]:
    yield from (b"2026-11-21T19:44:26.123456789Z", b"20261121", b"1700000000.25", b"1.7e18", b"2026-11-21 01:30 +05:30")
    yield from (b"60", b"-1", b"nan", b"1e400", b"2026-11-21T01:30:00", b"1700000000000000000", b"9999-12-31 23:59:59")


@target(_time_seeds)
def time(data: bytes) -> None:
    """An instant or a duration within its range, or what is promised."""
    text = _text(data)
    unit = detect_unit([text])
    for zone in _ZONES:
        for each in (unit, None):
            with maybe(BadValue):
                assert 0 <= TimeReader(each, zone)(text) < 2**63
    with maybe(ValueError):
        assert 0 <= instant_of(text) < 2**63
    with promised(ValueError):
        assert 0 <= seconds_ns(text, "it") <= 10**18


def _argument_seeds() -> Iterator[bytes]:
    yield from (b'{"side": "buy", "price": {"$gt": 3}}', b"[" * 2000, b'"\\ud800"', b"1e999", b"{")


@target(_argument_seeds)
def argument(data: bytes) -> None:
    """JSON of the command line, or an error of usage."""
    with promised(click.UsageError):
        _json(_text(data))


def _setting_seeds() -> Iterator[bytes]:
    yield from (
        b"http://127.0.0.1:8780",
        b"https://host/some/path",
        b"http://u:p@h",
        b"http://[::1]:99",
        b"shared",
        b"lmdb",
    )
    yield from (b"1000000", b"-5", b"", b"http://h:99999", b"http://[", "http://é".encode())


@target(_setting_seeds)
def setting(data: bytes) -> None:
    """A URL, token or variable of the environment, or a ValueError; a token is not in what is shown."""
    text = _text(data)
    try:
        require_url(text, "it")
    except ValueError:
        pass
    else:
        MemoryConfig(agentdb_url=text)
    try:
        secret = secret_of(text, "it")
    except ValueError:
        pass
    else:
        assert repr(secret) == "'***'"
        assert str.__str__(secret) == text
    if "\0" in text:
        return
    config = MemoryConfig(storage_path=None)
    before = {key: os.environ.get(key) for key in ("NTMEM_ENGINE", "NTMEM_CACHE_BYTES")}
    try:
        os.environ |= dict.fromkeys(before, text)
        for ask in (engines._name_of, budget.cache_limits):
            with maybe(ValueError):
                ask(config)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
