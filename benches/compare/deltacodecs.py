"""The codecs that are compared: ours, and of the others those that are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import gorilla
import numpy as np

from ntmem import delta

Encode = Callable[[np.ndarray], Any]


class Codec(NamedTuple):
    name: str
    encoders: tuple[Encode, ...]  # who has several is measured with the one that makes least of a column
    decode: Callable[[Any, np.ndarray], Any] | None  # the second tells the type and length; None: only a size
    is_slow: bool = False  # encodes once, whatever the rounds


def plain(array: np.ndarray) -> np.ndarray:
    """`array`, bool as bytes: pcodec has no bool."""
    return array.view(np.uint8) if array.dtype == bool else array


def codecs() -> Iterator[Codec]:
    yield Codec("best", (delta.encode,), lambda data, _: delta.decode(data))
    yield Codec("fast", (lambda array: delta.encode(array, level="fast"),), lambda data, _: delta.decode(data))
    for package, make in (("pcodec", pcodec), ("zstandard", zstd), ("blosc2", blosc)):
        try:
            module = importlib.import_module(package)
        except ImportError:
            print(f"{package} is not installed: left out")
            continue
        print(f"{package} {metadata.version(package)}")
        yield from make(module)
    yield Codec("gorilla", (gorilla.size,), None)


def pcodec(module: Any) -> Iterator[Codec]:
    standalone = importlib.import_module("pcodec.standalone")
    for level in (12, 8):
        config = module.ChunkConfig(compression_level=level, enable_8_bit=True)
        yield Codec(
            f"pcodec {level}",
            (lambda array, config=config: standalone.simple_compress(plain(array), config),),
            lambda data, array: standalone.simple_decompress(data).astype(array.dtype, copy=False),
        )


def zstd(module: Any) -> Iterator[Codec]:
    for level in (19, 3):
        yield Codec(
            f"zstd {level}",
            (lambda array, level=level: module.ZstdCompressor(level=level).compress(array.tobytes()),),
            lambda data, array: np.frombuffer(module.ZstdDecompressor().decompress(data), array.dtype),
            is_slow=level > 9,
        )


def blosc(module: Any) -> Iterator[Codec]:
    """zstd at its highest level, alone or behind bytes or bits of equal place, or the differences of such bytes."""
    module.set_nthreads(1)

    def packing(*filters: Any) -> Encode:
        settings = {"codec": module.Codec.ZSTD, "clevel": 9, "nthreads": 1}
        settings |= {"filters": list(filters), "filters_meta": [0] * len(filters)}
        return lambda array: module.compress2(array, typesize=array.itemsize, **settings)

    def unpack(data: bytes, array: np.ndarray) -> np.ndarray:
        out = np.empty_like(array)
        module.decompress2(data, dst=out, nthreads=1)
        return out

    kinds = module.Filter
    yield Codec(
        "blosc2",
        (
            packing(kinds.NOFILTER),
            packing(kinds.SHUFFLE),
            packing(kinds.BITSHUFFLE),
            packing(kinds.SHUFFLE, kinds.BYTEDELTA),
        ),
        unpack,
        is_slow=True,
    )
