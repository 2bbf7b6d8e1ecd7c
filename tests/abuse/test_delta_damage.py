"""Damaged series and tables: an error or the exact numbers, whatever is changed.

``NTMEM_DELTA_DAMAGE`` says how many damaged copies are tried. Half of them have their checksums made right again:
what the checksums would have caught then reaches the decoder, which may give other numbers but has to stay within
its memory; under the address sanitizer that is what this is about.
"""

import os
import struct

import numpy as np
import pytest

from ntmem import delta
from ntmem._core import delta as core
from ntmem.errors import CorruptionError

COUNT = int(os.environ.get("NTMEM_DELTA_DAMAGE", "4000"))


def samples():
    generator = np.random.default_rng(7)
    walk = np.cumsum(generator.integers(-5, 6, 2000))
    prices = np.round(walk / 100 + 500, 2)
    prices[::90] = np.nan
    wide = generator.integers(-(2**63), 2**63 - 1, 300)
    wide[::2] = 0
    spread = np.where(np.arange(12_003) & 512, 5, 60)
    return [
        *(walk, prices, wide, walk * 1000 + generator.integers(0, 3, 2000), np.zeros(500), np.zeros(0)),
        np.round(np.round(prices, 2).astype(np.float32).astype(np.float64), 6),
        *(prices.astype(np.float32), generator.random(3000) < 0.1, np.exp(generator.normal(0, 1, 500))),
        np.convolve(np.nan_to_num(prices), np.ones(20) / 20),
        np.log(generator.integers(1, 90, 3000) * 1.25),
        *(np.arange(300) ** 2, walk.astype(np.int16), np.repeat(walk[:40], 50).astype(np.uint8)),
        *(np.repeat(prices[:100], 7), generator.choice(np.array([0.5, np.nan]), 700)),
        *(generator.normal(0, 50, 12_003).astype(np.int64), (generator.normal(0, 1, 12_003) * spread).astype(np.int64)),
        *(generator.random(4100) < 0.03, 10**18 + 10**9 * np.arange(900) + generator.integers(-(10**6), 10**6, 900)),
    ]


def damage(generator, data):
    """A copy with some bytes changed, cut off, doubled or moved."""
    copy = bytearray(data)
    for _ in range(int(generator.integers(1, 4))):
        if not copy:
            break
        at = int(generator.integers(len(copy)))
        kind = int(generator.integers(6))
        if kind == 0:
            copy[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            copy[at] = int(generator.choice([0, 1, 127, 128, 255]))
        elif kind == 2:
            copy[at : at + 4] = generator.bytes(4)
        elif kind == 3:
            del copy[at:]
        elif kind == 4:
            copy[at:at] = copy[at : at + 8]
        else:
            del copy[at : at + int(generator.integers(1, 9))]
    return copy


def mended(copy):
    """The same with checksums and sizes that fit, if there is one block."""
    if len(copy) < 32:
        return copy
    copy[24:28] = struct.pack("<I", len(copy) - 28)
    copy[-4:] = struct.pack("<I", core.crc(bytes(copy[28:-4])))
    copy[20:24] = bytes(4)
    copy[20:24] = struct.pack("<I", core.crc(bytes(copy[:28])))
    return copy


@pytest.fixture(autouse=True, params=["vectors", "any processor"])
def vectors(request):
    core.use_vectors(request.param == "vectors")
    yield
    core.use_vectors(True)


def test_an_error_or_the_exact_numbers():
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    originals = [(array, delta.encode(array, level=level)) for array in samples() for level in ("best", "fast")]
    refused = 0
    for number in range(COUNT // 2):
        array, data = originals[number % len(originals)]
        try:
            found = delta.decode(damage(generator, data))
        except CorruptionError:
            refused += 1
        else:
            assert found.dtype == array.dtype
            assert found.tobytes() == array.tobytes()
    assert refused > COUNT // 4


def test_wrong_bytes_under_right_checksums():
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    originals = [delta.encode(array, level=level) for array in samples() for level in ("best", "fast") if len(array)]
    for number in range(COUNT // 2):
        copy = mended(damage(generator, originals[number % len(originals)]))
        try:
            found = delta.decode(copy, limit=1 << 24)
        except (CorruptionError, ValueError):
            continue
        assert found.nbytes <= 65_536 * 8  # of one block


def test_tables():
    generator = np.random.default_rng(int.from_bytes(os.urandom(4)))
    bid = np.round(np.cumsum(generator.normal(0, 0.1, 1000)) + 100, 1)
    table = {"bid": bid, "ask": np.round(bid + 0.1, 1), "last": bid + 0.0, "ts": np.arange(1000)}
    data = delta.encode_columns(table)
    for _ in range(COUNT // 8):
        try:
            found = delta.decode_columns(damage(generator, data))
        except CorruptionError:
            continue
        assert all(found[name].tobytes() == table[name].tobytes() for name in table)


@pytest.mark.parametrize("cut", range(0, 60))
def test_short_ones(cut):
    data = delta.encode(np.array([1.5, 2.5, 2.75]))
    if cut < len(data):
        with pytest.raises(CorruptionError):
            delta.decode(data[:cut])
    with pytest.raises(CorruptionError):
        delta.decode(data + bytes(cut + 1))
