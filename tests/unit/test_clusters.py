"""When one kind of situations is several: known mixtures are told apart, noise is not, and nothing ends it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntmem.reasoningbank.clusters import FEWEST, centres_of, divide, gain, means, normalised, spread

ALIKE = 0.8


def mixture(
    chance: np.random.Generator, count: int, centres: np.ndarray, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return situations of length 1 around centres, and of which each is."""
    kinds = chance.integers(len(centres), size=count)
    kinds[: len(centres)] = np.arange(len(centres))
    return normalised(centres[kinds] + chance.normal(0, noise, (count, centres.shape[1]))), kinds


def agreement(places: np.ndarray, kinds: np.ndarray) -> float:
    """Return the share of situations that are in the part in which most of their kind are."""
    table = np.zeros((places.max() + 1, kinds.max() + 1))
    np.add.at(table, (places, kinds), 1)
    return float(table.max(axis=0).sum() / len(kinds))


@pytest.mark.parametrize("dimensions", [2, 3, 16, 384])
@pytest.mark.parametrize("kinds", [2, 3, 8])
def test_kinds_are_told_apart(dimensions: int, kinds: int) -> None:
    for seed in range(3):
        chance = np.random.default_rng(seed)
        if dimensions == 2:
            angles = 2 * math.pi * np.arange(kinds) / kinds
            centres = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        elif dimensions == 3:
            centres = np.array([(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)], float)
            centres = centres[chance.permutation(8)[:kinds]]
        else:
            centres = np.eye(dimensions)[:kinds]
        count = max(40, 25 * kinds)
        rows, of_kind = mixture(chance, count, centres, 0.1 if dimensions < 384 else 0.03)
        places = divide(rows, ALIKE)
        assert places is not None
        assert places.shape == (count,)
        assert agreement(places, of_kind) > 0.98, seed
        parts = sorted(set(places.tolist()))
        assert parts in ([*range(kinds)], [*range(7 if kinds == 8 else kinds)]), seed  # two of eight may be one


@pytest.mark.parametrize("dimensions", [2, 4, 16, 64, 384])
@pytest.mark.parametrize("count", [16, 64, 250])
def test_noise_is_one_kind(dimensions: int, count: int) -> None:
    """Around a centre, narrow or wide, however many directions there are in which halves could be thought to differ.

    In few dimensions what is wide is most of a circle, and so not one kind.
    """
    for seed in range(4):
        for noise in (0.01, 0.1) if dimensions < 4 else (0.01, 0.3 / math.sqrt(dimensions), 1 / math.sqrt(dimensions)):
            rows, _ = mixture(np.random.default_rng(seed), count, np.eye(dimensions)[:1], noise)
            assert divide(rows, ALIKE) is None, (seed, noise)


@pytest.mark.parametrize("dimensions", [16, 64, 384])
def test_noise_without_a_centre_is_one_kind(dimensions: int) -> None:
    for seed in range(6):
        rows = normalised(np.random.default_rng(seed).normal(size=(200, dimensions)))
        assert divide(rows, ALIKE) is None


@pytest.mark.parametrize("period", [1, 2, 3])
def test_kinds_that_take_turns_are_told_apart(period: int) -> None:
    """However regularly: each half that is fitted has seen both."""
    kinds = np.arange(60) // period % 2
    rows = normalised(np.eye(3)[kinds] + np.random.default_rng(period).normal(0, 0.1, (60, 3)))
    places = divide(rows, ALIKE)
    assert places is not None
    assert agreement(places, kinds) == 1


def test_what_is_alike_is_one_kind() -> None:
    chance = np.random.default_rng(0)
    for cosine, is_one in ((0.95, True), (0.85, True), (0.75, False), (0.3, False)):
        centres = np.array([[1.0, 0.0, 0.0], [cosine, math.sqrt(1 - cosine**2), 0.0]])
        rows, kinds = mixture(chance, 100, centres, 0.02)
        places = divide(rows, ALIKE)
        assert (places is None) is is_one, cosine
        if places is not None:
            assert agreement(places, kinds) == 1


def test_few_are_one_kind() -> None:
    """Fewer than 16 are not looked at, and a part has four at least: the rest is with the nearest."""
    assert divide(np.repeat(np.eye(2), FEWEST // 2, axis=0)[1:], ALIKE) is None
    rows = normalised(np.repeat(np.eye(2), FEWEST // 2, axis=0))[np.random.default_rng(0).permutation(FEWEST)]
    places = divide(rows, ALIKE)
    assert places is not None
    assert np.bincount(places).tolist() == [8, 8]
    for odd in (1, 2, 3):
        rows = normalised(np.concatenate([np.tile([1.0, 0.0], (30, 1)), np.tile([0.0, 1.0], (odd, 1))]))
        rows = rows[np.random.default_rng(odd).permutation(len(rows))]
        assert divide(rows, ALIKE) is None


def test_small_parts_are_with_the_nearest() -> None:
    chance = np.random.default_rng(4)
    centres = np.eye(8)[:3]
    kinds = chance.permutation([0] * 40 + [1] * 40 + [2] * 2)
    rows = normalised(centres[kinds] + chance.normal(0, 0.05, (82, 8)))
    places = divide(rows, ALIKE)
    assert places is not None
    assert np.bincount(places).min() >= 4
    assert len(set(places[kinds == 0])) == len(set(places[kinds == 1])) == 1
    assert set(places[kinds == 0]) != set(places[kinds == 1])


@pytest.mark.parametrize("rows", [np.zeros((20, 3)), np.tile([1.0, 0.0], (50, 1)), np.zeros((0, 2)), np.eye(2)])
@pytest.mark.filterwarnings("error")
def test_degenerate_situations(rows: np.ndarray) -> None:
    assert divide(rows, ALIKE) is None
    assert divide(rows.astype(np.float32), ALIKE) is None


@pytest.mark.filterwarnings("error")
def test_two_points_many_times() -> None:
    """No variance within: a logarithm of zero would be infinite."""
    rows = np.tile(np.eye(2), (50, 1))[np.random.default_rng(0).permutation(100)]
    places = divide(rows, ALIKE)
    assert places is not None
    assert (places == places[0]).tolist() == (rows[:, 0] == rows[0, 0]).tolist()
    opposite = rows * [1, 0] - rows[:, ::-1] * [1, 0]
    assert divide(opposite, ALIKE) is not None
    assert math.isfinite(gain(rows, 2))


def test_the_same_situations_are_divided_the_same_way() -> None:
    rows, _ = mixture(np.random.default_rng(0), 120, np.eye(4), 0.2)
    first, again = divide(rows, ALIKE), divide(rows.copy(), ALIKE)
    assert first is not None
    assert (first == again).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 40])
def test_means_are_the_middle_of_their_parts(count: int) -> None:
    chance = np.random.default_rng(count)
    rows = normalised(chance.normal(size=(40, 3)))
    found = means(rows, count)
    assert 1 <= len(found.centres) <= count
    assert sorted(set(found.places.tolist())) == [*range(len(found.centres))]
    for part, centre in enumerate(found.centres):
        assert centre == pytest.approx(rows[found.places == part].mean(axis=0))
    within = ((rows - found.centres[found.places]) ** 2).sum()
    assert within <= ((rows - rows.mean(axis=0)) ** 2).sum() + 1e-9
    equal = means(np.tile([0.6, 0.8], (9, 1)), count)
    assert equal.places.tolist() == [0] * 9
    centres, places = centres_of(rows, np.full(40, 7))
    assert centres == pytest.approx(rows.mean(axis=0)[np.newaxis])
    assert set(places) == {0}


def test_held_out_situations_decide() -> None:
    """Of what was fitted more centres always look better; of the other half only real ones do."""
    chance = np.random.default_rng(0)
    real, _ = mixture(chance, 200, np.eye(5)[:2], 0.1)
    noise, _ = mixture(chance, 200, np.eye(5)[:1], 0.3)
    assert gain(real, 2) > 100
    assert gain(real, 2) > gain(real, 8) - 20
    assert gain(noise, 2) < 22
    assert gain(noise, 8) < gain(noise, 2) + 22


def test_lengths() -> None:
    for rows in (
        np.array([[3.0, 4.0], [0.0, 0.0]]),
        np.array([[3e300, 4e300], [0, 0]]),
        np.array([[3e-300, 4e-300], [0, 0]]),
    ):
        assert normalised(rows) == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
        assert normalised(rows[0]) == pytest.approx(np.array([0.6, 0.8]))
        assert normalised(rows[1]).tolist() == [0.0, 0.0]
    assert normalised(np.array([3, 4], np.float32)).dtype == np.float64
    assert normalised(np.array([2], np.int64)).tolist() == [1.0]


def test_the_spread_is_the_variance() -> None:
    around, _ = mixture(np.random.default_rng(0), 4000, np.eye(6)[:1], 0.05)
    variance = ((around - around.mean(axis=0)) ** 2).mean()
    assert spread(around.sum(axis=0), 4000) == pytest.approx(variance)
    assert spread(np.array([5.0, 0.0]), 5) == pytest.approx(0.5e-9)
