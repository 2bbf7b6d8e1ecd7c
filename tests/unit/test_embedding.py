"""Embeddings: the same vector of the same object everywhere, near where objects are alike, and clear refusals."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntmem.embedding import (
    CachedEmbedder,
    EmbeddingProvider,
    FunctionEmbedder,
    HashedTextEmbedder,
    MarketWindowEmbedder,
    content_of,
)
from ntmem.errors import VectorError

PRICES = hnp.arrays(np.float64, st.integers(3, 200), elements=st.floats(0.01, 1e6))


@pytest.mark.parametrize("provider", [HashedTextEmbedder(), MarketWindowEmbedder(), FunctionEmbedder(list, 2)])
def test_they_are_providers(provider: EmbeddingProvider) -> None:
    assert isinstance(provider, EmbeddingProvider)
    assert isinstance(CachedEmbedder(provider), EmbeddingProvider)
    assert provider.embed_batch([]).shape == (0, provider.dimension)


# ---- text ------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_a_text_has_a_vector_of_length_one(text: str) -> None:
    vector = HashedTextEmbedder(64).embed(text)
    assert (vector.dtype, vector.shape) == (np.float32, (64,))
    assert np.isfinite(vector).all()
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-6) or not vector.any()


def test_texts_that_share_words_are_near() -> None:
    embedder = HashedTextEmbedder()
    asked = embedder.embed("why did the momentum trade in BTC lose money?")
    near = embedder.embed_batch(["the BTC momentum trade lost", "Momentum trades in btc lose in quiet markets"])
    far = embedder.embed_batch(["the yield curve steepened", "rolling futures of natural gas"])
    assert (near @ asked).min() > 0.3 > (far @ asked).max()
    assert np.array_equal(embedder.embed("A  b!"), embedder.embed("a B"))


def test_a_text_has_the_same_vector_in_every_process() -> None:
    code = "from ntmem.embedding import HashedTextEmbedder as H; print(H(32).embed('short squeeze').tobytes().hex())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert said == {HashedTextEmbedder(32).embed("short squeeze").tobytes().hex() + "\n"}


# ---- windows of a market ---------------------------------------------------------------------------------------------


@given(PRICES, st.floats(1e-3, 1e3))
def test_a_window_has_no_scale(prices: np.ndarray, scale: float) -> None:
    embedder = MarketWindowEmbedder()
    vector = embedder.embed(prices)
    assert (vector.dtype, vector.shape) == (np.float32, (24,))
    assert (np.abs(vector) <= 1 + 1e-6).all()
    if np.diff(np.log(prices)).std() > 1e-9:  # below, rounding of the products is all there is
        np.testing.assert_allclose(embedder.embed(prices * scale), vector, atol=1e-3)


@given(PRICES)
def test_a_window_upside_down_is_the_path_turned_over(prices: np.ndarray) -> None:
    embedder = MarketWindowEmbedder()
    up, down = embedder.embed(prices), embedder.embed(1 / prices)
    moves = float(np.sqrt(np.mean(np.diff(np.log(prices)) ** 2)))
    if moves > 1e-6:
        np.testing.assert_allclose(down[:9], -up[:9], atol=1e-4)
        assert up[12] == pytest.approx(down[13], abs=1e-4)


def test_what_a_window_says() -> None:
    embedder = MarketWindowEmbedder()
    trend = embedder.embed(100 * np.exp(np.linspace(0, 0.05, 65)))
    assert (trend[:9] > 0.9).all()
    assert trend[17] == pytest.approx(1)  # straight up
    assert trend[12] == pytest.approx(0)  # without a fall
    assert trend[11] == pytest.approx(1)
    swings = embedder.embed(100 + np.tile([0, 1.0], 32))
    assert swings[16] < -0.9  # back and forth
    chance = np.random.default_rng(1)
    steps = chance.normal(0, 1e-4, 300)
    wild = np.concatenate([steps[:150], 5 * steps[150:]])
    assert embedder.embed(100 * np.exp(np.cumsum(wild)))[10] > 0.7  # wilder in its second half
    assert embedder.embed(100 * np.exp(np.cumsum(50 * steps)))[9] > embedder.embed(100 * np.exp(np.cumsum(steps)))[9]
    assert not embedder.embed([5.0, 5, 5, 5])[:9].any()


def test_volumes_are_six_more_features() -> None:
    prices, volumes = np.linspace(100, 101, 40), np.ones(40)
    embedder = MarketWindowEmbedder("close", "volume")
    table = np.zeros(40, [("close", "f8"), ("volume", "f8")])
    table["close"], table["volume"] = prices, volumes
    assert not embedder.embed({"close": prices})[18:].any()
    assert np.allclose(embedder.embed(table)[18:], 0, atol=1e-6)  # all alike
    table["volume"][-10:] = 10
    last = embedder.embed(table)
    assert last[21] > 0.7 > 0 > last[18]
    assert last[22] > 0.7


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ([1.0, 2.0], "at least 3 prices"),
        ([1.0, 0.0, 2.0], "above 0"),
        ([1.0, np.nan, 2.0], "above 0"),
        (np.ones((3, 3)), "in a row"),
        ({"volume": [1, 2, 3]}, "has a column 'price', had 'volume'"),
        ({"price": [1, 2, 3.5], "volume": [1, 2]}, "as many as prices"),
        ({"price": [1, 2, 3.5], "volume": [1, 2, -1]}, "0 or more"),
    ],
)
def test_what_is_no_window_is_refused(window: Any, says: str) -> None:
    with pytest.raises(VectorError, match=says):
        MarketWindowEmbedder().embed(window)


# ---- functions, and what is kept -------------------------------------------------------------------------------------


class Counting:
    """A provider that notes what it was asked for."""

    dimension = 2

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []

    def embed(self, what: Any) -> np.ndarray:
        return self.embed_batch([what])[0]

    def embed_batch(self, these: Sequence[Any]) -> np.ndarray:
        self.asked.append(list(these))
        return np.array([[len(str(it)), 1] for it in these], np.float32).reshape(-1, 2)


def test_a_function_is_called_in_batches() -> None:
    sizes = []

    def model(these: list[int]) -> np.ndarray:
        sizes.append(len(these))
        return np.array([[it, -it] for it in these])

    made = FunctionEmbedder(model, 2, batch=4).embed_batch(range(10))
    assert sizes == [4, 4, 2]
    assert made.dtype == np.float32
    assert made.tolist() == [[it, -it] for it in range(10)]


@pytest.mark.parametrize(("made", "says"), [([[1.0, 2.0, 3.0]], "shape"), ([[1.0, np.nan]], "NaN")])
def test_what_a_function_makes_is_checked(made: Any, says: str) -> None:
    with pytest.raises(VectorError, match=says):
        FunctionEmbedder(lambda these: made, 2).embed("x")


def test_a_function_that_takes_too_long_is_left_behind() -> None:
    free = threading.Event()
    slow = [True]

    def model(these: list[str]) -> list[list[float]]:
        if slow.pop() if slow else False:
            free.wait(60)
        return [[1.0]] * len(these)

    embedder = FunctionEmbedder(model, 1, timeout=0.05)
    with pytest.raises(VectorError, match=r"took over 0\.05 s"):
        embedder.embed("x")
    free.set()
    assert FunctionEmbedder(model, 1, timeout=60).embed("y").tolist() == [1]


def test_vectors_are_kept_by_content() -> None:
    inner = Counting()
    embedder = CachedEmbedder(inner)
    first = embedder.embed_batch(["a", "bb", "a"])
    assert inner.asked == [["a", "bb"]]
    assert first.tolist() == [[1, 1], [2, 1], [1, 1]]
    assert embedder.embed_batch(["bb", "ccc"]).tolist() == [[2, 1], [3, 1]]
    assert inner.asked[1:] == [["ccc"]]
    window = np.arange(4.0)
    assert np.array_equal(embedder.embed(window), embedder.embed(window.copy()))
    assert len(inner.asked) == 3
    window[0] = 9
    embedder.embed(window)
    assert len(inner.asked) == 4
    embedder.embed_batch([{"no": "content"}, {"no": "content"}])  # nothing stands for it: made each time
    assert len(inner.asked[-1]) == 2


def test_few_are_kept() -> None:
    inner = Counting()
    embedder = CachedEmbedder(inner, max_entries=10)
    for _ in range(2):
        for number in range(100):
            embedder.embed(f"text {number}")
    assert len(inner.asked) > 150


def test_contents_are_told_apart() -> None:
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(8, np.float32)]
    assert len({content_of(it) for it in [*arrays, "x", b"x"]}) == 6


@pytest.mark.parametrize(
    "make",
    [
        lambda: HashedTextEmbedder(4),
        lambda: HashedTextEmbedder().embed(b"bytes"),  # type: ignore[arg-type]
        lambda: FunctionEmbedder(3, 2),  # type: ignore[arg-type]
        lambda: FunctionEmbedder(len, 0),
        lambda: FunctionEmbedder(len, 1, timeout=0),
        lambda: CachedEmbedder(object()),  # type: ignore[arg-type]
    ],
)
def test_bad_arguments_are_refused(make: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        make()
