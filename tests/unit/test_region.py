"""The shared file: made once, opened by whom it belongs to, and refused with a reason when it is not whole."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import struct
from pathlib import Path

import pytest
from hostile import children, ram_directory
from logs import IDENTITY, new_log, open_log, put

from ntmem._core.log import Log, LogDamaged
from ntmem._core.region import Region, RegionDamaged, RegionMismatch

SECTIONS = [(9, 100, False), (7, 8192, True)]


@pytest.fixture
def ram():
    with ram_directory() as path:
        yield path


@pytest.fixture
def published(ram):
    region = Region.create(ram / "region", identity=IDENTITY, generation=3, sections=SECTIONS)
    region.publish()
    return ram / "region"


def test_what_is_made_is_what_is_opened(published):
    region = Region.attach(published, identity=IDENTITY)
    assert (region.identity, region.generation, region.sections) == (IDENTITY, 3, SECTIONS)
    assert region.size == published.stat().st_size == 8192 + 4096 + 8192
    assert published.stat().st_mode & 0o777 == 0o600
    assert os.fstat(region.fileno()).st_ino == published.stat().st_ino


def test_a_name_is_given_once(published):
    before = published.stat().st_ino
    second = Region.create(published, identity=IDENTITY, generation=4, sections=SECTIONS)
    with pytest.raises(FileExistsError):
        second.publish()
    assert published.stat().st_ino == before
    assert os.listdir(published.parent) == ["region"]


def test_what_was_not_published_leaves_nothing(ram):
    Region.create(ram / "region", identity=IDENTITY, generation=4, sections=SECTIONS)
    assert os.listdir(ram) == []


def test_none_there(ram):
    with pytest.raises(FileNotFoundError):
        Region.attach(ram / "region", identity=IDENTITY)


def test_another_identity_is_named(published):
    with pytest.raises(RegionMismatch, match=r"belongs to b'a test', expected b'other'") as caught:
        Region.attach(published, identity=b"other")
    assert (caught.value.found, caught.value.expected) == (IDENTITY, b"other")


def test_a_full_disk_is_an_error_at_once(ram):
    with pytest.raises(OSError, match="no room for a region of") as caught:
        Region.create(ram / "region", identity=b"", generation=1, sections=[(1, 1 << 47, False)])
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG, errno.ENOMEM)


@pytest.mark.parametrize(
    "sections", [[(0, 1, False)], [(1, 0, False)], [(1, 5, True)], [(1, 1, False)] * 2, [(1, 1 << 49, False)]]
)
def test_sections_that_cannot_be(ram, sections):
    with pytest.raises(ValueError, match="section"):
        Region.create(ram / "region", identity=b"", generation=1, sections=sections)


def test_other_files_and_rights_are_refused(ram, published):
    (ram / "link").symlink_to(published)
    os.mkfifo(ram / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(RegionDamaged, match="no regular file"):
            Region.attach(ram / name, identity=IDENTITY)
    with pytest.raises(RegionDamaged, match="no regular file"):
        Region.attach(ram, identity=IDENTITY)
    published.chmod(0o644)
    with pytest.raises(RegionDamaged, match="with mode 644"):
        Region.attach(published, identity=IDENTITY)


def test_a_region_without_a_log_is_no_log(published):
    with pytest.raises(RegionDamaged, match="no section of kind 1"):
        Log(Region.attach(published, identity=IDENTITY))


@pytest.mark.parametrize(
    ("size", "reason"), [(0, "has 0 bytes"), (4095, "4095 bytes"), (4096, "file has 4096"), (1 << 20, "has 1048576")]
)
def test_truncated_and_grown_files_are_refused(published, size, reason):
    os.truncate(published, size)
    with pytest.raises(RegionDamaged, match=reason):
        Region.attach(published, identity=IDENTITY)
    assert published.stat().st_size == size


def test_every_bit_of_the_header_counts(published):
    whole = published.read_bytes()
    with open(published, "r+b", buffering=0) as file:
        for offset in range(4096):
            os.pwrite(file.fileno(), bytes([whole[offset] ^ 1 << offset % 8]), offset)
            with pytest.raises(RegionDamaged):
                Region.attach(published, identity=IDENTITY)
            os.pwrite(file.fileno(), whole[offset : offset + 1], offset)
    Region.attach(published, identity=IDENTITY)


def test_a_header_that_lies_with_a_right_checksum(published):
    from ntmem._core.log import crc32c

    whole = bytearray(published.read_bytes()[:4096])
    for offset, value in [(8, 6), (16, 1 << 40), (32, 17), (36, 257), (304, 1 << 60), (312, 1 << 63)]:
        lie = whole.copy()
        struct.pack_into("<Q" if offset in (16, 304, 312) else "<I", lie, offset, value)
        struct.pack_into("<I", lie, 12, 0)
        struct.pack_into("<I", lie, 12, crc32c(bytes(lie)))
        with open(published, "r+b") as file:
            file.write(lie)
        with pytest.raises(RegionDamaged):
            Region.attach(published, identity=IDENTITY)


VICTIM = """
from logs import open_log, put, unflushed
from ntmem._core.log import *
from ntmem._core.region import *
for line in sys.stdin:
    path = line.strip()
    try:
        log = open_log(path)
        for key in (b"a", b"b", b"c"):
            record = log.get(b"ns", key)
            if record is not None and record.value != key * 50:
                say("wrong", key, record)
                break
        else:
            seen = [record.value for group in unflushed(log) for record in group]
            log.append([put(b"d", b"d" * 50)], timeout=0.01)
            say("whole" if seen[-3:] == [b"a" * 50, b"b" * 50, b"c" * 50] else f"lost {len(seen)}")
    except (LogDamaged, RegionDamaged, TimeoutError, OverflowError) as error:
        say("refused", type(error).__name__, error)
"""


@contextlib.contextmanager
def damaged_copies():
    """Give a function that has a child use a damaged copy of a log with three records, and says what it said."""
    with new_log(4096, 8) as log, children() as start:
        for key in (b"x", b"a", b"b", b"c"):
            log.append([put(key, key * 50)])
            if key == b"x":
                log.advance_flushed(log.committed)
        place = os.path.dirname(log.region.path)
        whole = bytearray(Path(log.region.path).read_bytes())
        child = start(VICTIM)
        number = 0

        def use(damage):
            nonlocal number
            number += 1
            copy = whole.copy()
            damage(copy)
            path = f"{place}/copy-{number}"
            with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
                file.write(copy)
            child.tell(path)
            said = child.line()  # fails if the child died of it
            os.unlink(path)
            return said

        assert use(lambda copy: None) == "whole"
        yield use


def test_a_zeroed_control_page_is_refused():
    with damaged_copies() as use:
        assert "has a log of 0 bytes" in use(lambda copy: copy.__setitem__(slice(4096, 8192), bytes(4096)))


def test_flipped_bits_of_the_control_page_never_crash_or_lose_silently():
    with damaged_copies() as use:
        said = {}
        for offset in range(4096, 4096 + 9 * 64):
            bit = 1 << random.Random(offset).randrange(8)

            def flip(copy, offset=offset, bit=bit):
                copy[offset] ^= bit

            said[offset] = use(flip)
        for offset, words in said.items():
            assert words.split()[0] in ("whole", "refused"), (offset, words)
        assert sum("refused" in words for words in said.values()) > 50


def test_flipped_bits_of_index_and_ring_are_found_by_who_flushes():
    with damaged_copies() as use:
        for offset in range(8192, 8192 + 64):
            assert use(lambda copy, o=offset: copy.__setitem__(o, copy[o] ^ 16)).split()[0] in ("whole", "refused")
        for offset in range(8192 + 4096 + 192, 8192 + 4096 + 4 * 192, 5):
            words = use(lambda copy, o=offset: copy.__setitem__(o, copy[o] ^ 16))
            assert words.split()[0] in ("refused", "wrong"), (offset, words)


def test_a_mutex_of_another_kind_is_refused():
    with damaged_copies() as use:
        assert "a mutex of the log is damaged" in use(lambda copy: copy.__setitem__(4096 + 64 + 16, 64))


def test_words_that_contradict_each_other_are_refused_while_mapped():
    with new_log() as log:
        log.append([put(b"k", b"v")])
        control = 4096 + 2 * 64
        os.pwrite(log.region.fileno(), struct.pack("<Q", log.committed + 8), control)
        with pytest.raises(LogDamaged, match="words"):
            log.append([put(b"k", b"v")])
        with pytest.raises(LogDamaged, match="contradict"):
            open_log(log.region.path)
