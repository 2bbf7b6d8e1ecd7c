"""Embeddings: objects as vectors that lie near each other where the objects are alike.

Two providers are built in, neither of which asks a network or a model: :class:`MarketWindowEmbedder` for a window of
prices, :class:`HashedTextEmbedder` for text. Any other is a function wrapped by :class:`FunctionEmbedder`, or an object
with the three members of :class:`EmbeddingProvider`. :class:`CachedEmbedder` keeps what was computed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from .errors import VectorError
from .instants import Duration, duration_ns, require_int

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["CachedEmbedder", "EmbeddingProvider", "FunctionEmbedder", "HashedTextEmbedder", "MarketWindowEmbedder"]

MOST_DIMENSIONS = 65_536


@runtime_checkable
class EmbeddingProvider(Protocol):
    """What makes vectors of objects: the same vector of the same object, in every process and on every machine."""

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""

    def embed(self, what: Any) -> NDArray[np.float32]:
        """Return the vector of one object, shape (dimension,)."""

    def embed_batch(self, these: Sequence[Any]) -> NDArray[np.float32]:
        """Return the vectors of several, shape (len(these), dimension)."""


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)


def _rows(vectors: Iterable[NDArray[np.float32]], dimension: int) -> NDArray[np.float32]:
    found = list(vectors)
    return np.stack(found) if found else np.empty((0, dimension), np.float32)


class HashedTextEmbedder:
    """Text by its words, pairs of words and parts of words, each hashed to a place and a sign.

    Alike is what shares words and spellings; meaning is not understood. Words count with 1 + log(times), parts of words
    (three to five letters) with a third of that; the vector has length 1. Source: feature hashing, Weinberger et al.,
    "Feature Hashing for Large Scale Multitask Learning", ICML 2009.

    Parameters
    ----------
    dimension : int
        From 8 to 65,536: fewer let more words share a place.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(letters). The hash is BLAKE2b, the same everywhere.

    Examples
    --------
    >>> embedder = HashedTextEmbedder()
    >>> a, b, c = embedder.embed_batch(["momentum long BTC", "long BTC on momentum", "rates curve steepener"])
    >>> bool(a @ b > 0.5), bool(abs(a @ c) < 0.3)
    (True, True)
    """

    _PART = 1 / 3

    def __init__(self, dimension: int = 384) -> None:
        self._dimension = require_int(dimension, "dimension", 8, MOST_DIMENSIONS)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._dimension

    def __repr__(self) -> str:
        return f"HashedTextEmbedder({self._dimension})"

    def embed(self, what: str) -> NDArray[np.float32]:
        """Return the vector of a text; zeroes if it has no word."""
        if not isinstance(what, str):
            raise TypeError(f"a text is a str, was {type(what).__name__}")
        words = re.findall(r"\w+", what.casefold())
        counts = Counter(words) + Counter(f"{a} {b}" for a, b in itertools.pairwise(words))
        parts = Counter(part for word in words for part in _parts(word))
        found = np.zeros(self._dimension)
        for weight, tokens in ((1.0, counts), (self._PART, parts)):
            for token, times in tokens.items():
                place, sign = self._place(token)
                found[place] += sign * weight * (1 + np.log(times))
        return _unit(found)

    def embed_batch(self, these: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of several texts."""
        return _rows(map(self.embed, these), self._dimension)

    def _place(self, token: str) -> tuple[int, int]:
        number = int.from_bytes(blake2b(token.encode(errors="replace"), digest_size=8).digest(), "little")
        return (number >> 1) % self._dimension, 1 if number & 1 else -1


def _parts(word: str) -> Iterable[str]:
    marked = f"<{word}>"
    return (marked[at : at + size] for size in (3, 4, 5) for at in range(len(marked) - size + 1))


class MarketWindowEmbedder:
    """A window of a market as numbers without a scale: what it did, not at what price or in which coin.

    The window's log returns are measured in its own volatility, so that a quiet and a wild market that did the same lie
    near each other; how wild it was is a feature of its own. With r the n - 1 log returns, s their root mean square, p
    the log prices, per feature:

    ====== ============================================================================================================
    0..7   return of each eighth of the window, over s times the root of its length: the path
    8      return of the whole window, the same
    9      log10 of s, from 1e-6 (-1) to 1e-1 (1): how wild
    10     log of the volatility of the second half over that of the first
    11     where the last price stands between lowest (-1) and highest (1)
    12     largest fall from a high before, in s times root n (Magdon-Ismail and Atiya's maximum drawdown)
    13     largest rise from a low before, the same
    14     skewness of r (third standardized moment), cube root
    15     excess kurtosis of r, log1p
    16     autocorrelation of r at lag 1
    17     efficiency ratio: |whole return| over the sum of |r| (Kaufman), from -1 to 1
    18..21 with volumes: log of the mean volume of each quarter over that of the window
    22     with volumes: z-score of the last volume in the window
    23     with volumes: correlation of volume and |r|
    ====== ============================================================================================================

    All are squashed to (-1, 1) by tanh where they have no bound of their own. Without volumes the last six are 0.

    Parameters
    ----------
    price, volume : str
        Names of the columns, where windows are tables (mappings of arrays or structured arrays such as
        :meth:`ntmem.tiers.observations.Observations.recent` returns). `volume` may be missing there.

    Notes
    -----
    **Thread safety**: any thread. **Complexity**: O(rows).

    Examples
    --------
    >>> embedder = MarketWindowEmbedder()
    >>> windows = [[100, 101, 100.5, 102], [10, 10.1, 10.05, 10.2], [102, 100.5, 101, 100]]
    >>> up, scaled, down = embedder.embed_batch(windows)
    >>> bool(np.allclose(up, scaled, atol=1e-4)), bool(up @ down < 0.5 * (up @ up))
    (True, True)
    """

    dimension = 24

    def __init__(self, price: str = "price", volume: str = "volume") -> None:
        self._price, self._volume = price, volume

    def __repr__(self) -> str:
        return f"MarketWindowEmbedder({self._price!r}, {self._volume!r})"

    def embed(self, what: Any) -> NDArray[np.float32]:
        """Return the vector of a window: an array of prices, or a table with prices and perhaps volumes.

        Raises
        ------
        VectorError
            There are fewer than three prices, one is not above 0 or no number, or a volume is below 0 or no number.
        """
        prices, volumes = self._columns(what)
        if prices.ndim != 1 or len(prices) < 3 or not (np.isfinite(prices).all() and (prices > 0).all()):
            raise VectorError(f"a window is at least 3 prices above 0 in a row, was {_described(prices)}")
        if volumes is not None and (volumes.shape != prices.shape or not (volumes >= 0).all()):
            raise VectorError(f"volumes are as many as prices, and 0 or more, were {_described(volumes)}")
        found = np.zeros(self.dimension)
        found[:18] = _of_prices(np.log(prices))
        if volumes is not None and np.isfinite(volumes).all() and volumes.sum() > 0:
            found[18:] = _of_volumes(volumes, np.abs(np.diff(np.log(prices))))
        return found.astype(np.float32)

    def embed_batch(self, these: Sequence[Any]) -> NDArray[np.float32]:
        """Return the vectors of several windows."""
        return _rows(map(self.embed, these), self.dimension)

    def _columns(self, what: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        names = what.keys() if isinstance(what, Mapping) else getattr(getattr(what, "dtype", None), "names", None)
        if names is None:
            return np.asarray(what, np.float64), None
        if self._price not in names:
            raise VectorError(f"a window has a column {self._price!r}, had {', '.join(map(repr, names))}")
        volumes = np.asarray(what[self._volume], np.float64) if self._volume in names else None
        return np.asarray(what[self._price], np.float64), volumes


def _described(array: NDArray[Any]) -> str:
    return f"shape {array.shape}, from {array.min()} to {array.max()}" if array.size else f"shape {array.shape}"


def _safe(above: float, below: float) -> float:
    return above / below if below > 0 else 0.0


def _of_prices(p: NDArray[np.float64]) -> list[float]:
    r = np.diff(p)
    n = len(r)
    s = float(np.sqrt(np.mean(r**2)))
    cuts = np.round(np.linspace(0, n, 9)).astype(int)
    path = [
        np.tanh(_safe(float(p[end] - p[begin]), s * np.sqrt(max(end - begin, 1))))
        for begin, end in itertools.pairwise(cuts)
    ]
    whole = float(p[-1] - p[0])
    half = n // 2
    halves = [float(np.sqrt(np.mean(part**2))) for part in (r[:half], r[half:])]
    spread = float(p.max() - p.min())
    fall = float(np.max(np.maximum.accumulate(p) - p))
    rise = float(np.max(p - np.minimum.accumulate(p)))
    centred = r - r.mean()
    deviation = float(centred.std())
    skew = _safe(float(np.mean(centred**3)), deviation**3)
    tails = max(_safe(float(np.mean(centred**4)), deviation**4) - 3, 0) if deviation else 0.0
    lagged = _safe(float(np.mean(centred[1:] * centred[:-1])), deviation**2) if n > 1 else 0.0
    wild = np.clip((np.log10(max(s, 1e-12)) + 3.5) / 2.5, -1, 1) if s else -1.0
    turn = np.log(halves[1] / halves[0]) if min(halves) > 0 else 0.0
    root = s * np.sqrt(n)
    return [
        *path,
        np.tanh(_safe(whole, root)),
        float(wild),
        np.tanh(turn),
        2 * _safe(float(p[-1] - p.min()), spread) - 1 if spread else 0.0,
        np.tanh(_safe(fall, root)),
        np.tanh(_safe(rise, root)),
        np.tanh(np.cbrt(skew)),
        np.tanh(np.log1p(tails) / 2),
        float(np.clip(lagged, -1, 1)),
        _safe(whole, float(np.abs(r).sum())),
    ]


def _of_volumes(volumes: NDArray[np.float64], moves: NDArray[np.float64]) -> list[float]:
    mean, deviation = float(volumes.mean()), float(volumes.std())
    quarters = [float(part.mean()) for part in np.array_split(volumes, 4) if len(part)]
    quarters += [mean] * (4 - len(quarters))
    follows = volumes[1:]
    together = 0.0
    if follows.std() > 0 and moves.std() > 0:
        together = float(np.corrcoef(follows, moves)[0, 1])
    return [
        *(float(np.tanh(np.log((it + 1e-12 * mean) / mean))) for it in quarters),
        float(np.tanh(_safe(float(volumes[-1]) - mean, deviation))),
        together,
    ]


class FunctionEmbedder:
    """A function that makes vectors, such as a model's, as a provider.

    Parameters
    ----------
    function : callable
        Takes a list of objects and returns as many vectors.
    dimension : int
        Numbers in each vector; others are refused.
    batch : int
        Objects in a call at most.
    timeout : float or timedelta, optional
        Seconds that a call may take; then :class:`ntmem.VectorError` is raised, and the call goes on in its thread
        without anybody waiting for it.

    Notes
    -----
    **Thread safety**: as the function's; with a timeout it is called on threads of this embedder's.
    """

    def __init__(
        self,
        function: Callable[[list[Any]], ArrayLike],
        dimension: int,
        *,
        batch: int = 64,
        timeout: Duration | None = None,
    ) -> None:
        if not callable(function):
            raise TypeError(f"function must be callable with a list of objects, was {type(function).__name__}")
        self._function = function
        self._dimension = require_int(dimension, "dimension", 1, MOST_DIMENSIONS)
        self._batch = require_int(batch, "batch", 1)
        self._timeout = None if timeout is None else duration_ns(timeout, "timeout") / 1e9
        self._threads: ThreadPoolExecutor | None = None

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._dimension

    def embed(self, what: Any) -> NDArray[np.float32]:
        """Return the vector of one object."""
        found: NDArray[np.float32] = self.embed_batch([what])[0]
        return found

    def embed_batch(self, these: Sequence[Any]) -> NDArray[np.float32]:
        """Return the vectors of several objects.

        Raises
        ------
        VectorError
            The function took too long, or returned something else than finite vectors of `dimension`.
        """
        parts = [list(these[at : at + self._batch]) for at in range(0, len(these), self._batch)]
        found = [self._checked(self._call(part), len(part)) for part in parts]
        return np.concatenate(found) if found else np.empty((0, self._dimension), np.float32)

    def _call(self, part: list[Any]) -> Any:
        if self._timeout is None:
            return self._function(part)
        threads = self._threads = self._threads or ThreadPoolExecutor(4, thread_name_prefix="ntmem-embed")
        try:
            return threads.submit(self._function, part).result(self._timeout)
        except Late:
            self._threads = None  # these may be busy with it for ever
            threads.shutdown(wait=False)
            raise VectorError(f"the embedding of {len(part)} objects took over {self._timeout:g} s") from None

    def _checked(self, made: Any, count: int) -> NDArray[np.float32]:
        vectors = np.asarray(made, np.float32)
        if vectors.shape != (count, self._dimension):
            raise VectorError(
                f"the function made an array of shape {vectors.shape} of {count} objects, not of "
                f"{(count, self._dimension)}"
            )
        if not np.isfinite(vectors).all():
            raise VectorError("the function made a vector with NaN or infinity")
        return vectors


class CachedEmbedder:
    """A provider whose vectors are kept by the content of what they were made of, the last ones used.

    Parameters
    ----------
    provider : EmbeddingProvider
    max_entries : int
        Vectors that are kept at most.
    key : callable, optional
        Returns what stands for the content of an object, something hashable. By default a str or bytes stands for
        itself, an array for its type, shape and bytes; others are not kept.

    Notes
    -----
    **Thread safety**: any thread, if the provider allows that.
    """

    def __init__(
        self, provider: EmbeddingProvider, max_entries: int = 10_000, *, key: Callable[[Any], Hashable] | None = None
    ) -> None:
        from .tiers.hot import HotCache

        if not isinstance(provider, EmbeddingProvider):
            raise TypeError(f"provider must have dimension, embed and embed_batch, was {type(provider).__name__}")
        self._provider = provider
        self._key = content_of if key is None else key
        self._kept: Any = HotCache(max_entries=require_int(max_entries, "max_entries", 1))

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self._provider.dimension

    def embed(self, what: Any) -> NDArray[np.float32]:
        """Return the vector of one object."""
        found: NDArray[np.float32] = self.embed_batch([what])[0]
        return found

    def embed_batch(self, these: Sequence[Any]) -> NDArray[np.float32]:
        """Return the vectors of several objects; those that are not kept are made at once, equal ones once."""
        keys = [self._key(what) for what in these]
        known = {key: self._kept.get(key) for key in keys if key is not None}
        missing: dict[Hashable, int] = {}
        for place, key in enumerate(keys):
            if key is None:
                missing[place, None] = place
            elif known[key] is None:
                missing.setdefault(key, place)
        made = self._provider.embed_batch([these[place] for place in missing.values()]) if missing else ()
        fresh: dict[Any, NDArray[np.float32]] = dict(zip(missing, made, strict=True))
        for key, vector in fresh.items():
            if key in known:
                self._kept[key] = known[key] = vector
        return _rows(
            (known[key] if key is not None else fresh[place, None] for place, key in enumerate(keys)), self.dimension
        )


def content_of(what: Any) -> Hashable:
    """Return what stands for the content of a text or an array; None: nothing does."""
    if isinstance(what, str | bytes):
        return what
    if isinstance(what, np.ndarray) and not what.dtype.hasobject:
        return str(what.dtype), what.shape, blake2b(np.ascontiguousarray(what).tobytes(), digest_size=16).digest()
    return None
