"""What outcomes say, against a slow reckoning of the same and against integrals; and what luck alone makes of it."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from earned import Weighted, bayes_factor, folded, integrated_bayes_factor, kish, mean, measured, page, scatter, weight

from ntmem.reasoningbank.evidence import SCEPTICISM, Folded, Measure, Totals, measure, strength, sure
from ntmem.reasoningbank.evidence import fold as fold_arrays

FACTS = Measure.__struct_fields__


def history(chance: random.Random, count: int, kinds: int) -> tuple[list[int], list[float]]:
    """Return outcomes of actions; what they earn changes somewhere."""
    actions = [chance.randrange(kinds) for _ in range(count)]
    change, scale = chance.randrange(count + 1), 10 ** chance.uniform(-4, 4)
    values = [
        scale * (chance.gauss(0, 1) + 2 * action - (4 * action if place >= change else 0))
        for place, action in enumerate(actions)
    ]
    return actions, values


def fold(actions: list[int], values: list[float], kinds: int, keeps: float) -> Folded:
    return fold_arrays(np.array(actions, np.uint16), np.array(values, np.float64), kinds, keeps)


def at_once(*totals: Totals) -> Folded:
    """Return outcomes of which all count the same for choosing and for claims."""
    return Folded([*totals], [*totals], [])


def totals_of(values: list[float], keeps: float = 1.0) -> Totals:
    found = Totals()
    for each in values:
        found.keep(keeps)
        found.add(each)
    return found


@pytest.mark.parametrize("seed", range(25))
def test_outcomes_are_folded_and_measured(seed: int) -> None:
    chance = random.Random(seed)
    kinds, count = chance.randrange(1, 5), chance.choice([0, 1, 2, 5, 40, 90])
    keeps, tested = chance.choice([1.0, 0.985, 0.9, 0.3]), chance.choice([0, 1, 7, 1000])
    actions, values = history(chance, count, kinds)
    found = fold(actions, values, kinds, keeps)
    rows = folded(actions, values, kinds, keeps)
    assert found.drifts == rows.drifts
    for own, totals in [*zip(rows.now, found.now, strict=True), *zip(rows.ever, found.ever, strict=True)]:
        assert totals.weight == pytest.approx(weight(own))
        assert totals.mean == pytest.approx(mean(own), rel=1e-9, abs=1e-9)
        assert totals.scatter == pytest.approx(scatter(own), rel=1e-6, abs=1e-9 * max([1, *map(abs, values)]) ** 2)
        assert totals.count == pytest.approx(kish(own))
    usual = totals_of([chance.gauss(0, 3) for _ in range(chance.randrange(30))], 0.998)
    expected = measured(rows, usual.mean, usual.scatter / max(usual.weight, 1.0), tested)
    for got, facts in zip(measure(found, usual, tested), expected, strict=True):
        for name in FACTS:
            assert getattr(got, name) == pytest.approx(facts[name], rel=1e-5, abs=1e-8), name


def test_some_histories_drift() -> None:
    """Else nothing above would say anything of drifts."""
    found = [len(fold(*history(random.Random(seed), 90, 3), 3, 0.985).drifts) for seed in range(25)]
    assert sum(each > 0 for each in found) > 5
    assert 0 in found


def test_drift_is_noticed_and_seldom_imagined() -> None:
    """After a change of two deviations within a dozen outcomes of that action; by chance once in hundreds."""
    late, imagined = [], 0
    for seed in range(40):
        chance = random.Random(seed)
        same = [chance.gauss(1, 1) for _ in range(60)]
        imagined += len(fold([0] * 60, same, 1, 0.985).drifts)
        changed = same + [chance.gauss(-1, 1) for _ in range(40)]
        after = [each - 60 for each in fold([0] * 100, changed, 1, 0.985).drifts if each >= 60]
        late.append(after[0] if after else 99)
        for shifted in (-3.0, 3.0):  # either way, and whatever the scale
            values = [0.0, 1.0] * 8 + [0.5 + shifted] * 9
            found = fold([0] * 25, values, 1, 1.0).drifts
            assert found
            assert fold([0] * 25, [each * 1e6 for each in values], 1, 1.0).drifts == found
    assert sorted(late)[20] <= 8
    assert sorted(late)[36] <= 15
    assert imagined <= 12


def test_what_was_before_a_drift_counts_a_tenth() -> None:
    values = [0.0, 1.0] * 20 + [9.0] * 3
    found = fold([0, 1] * 20 + [0] * 3, values, 2, 1.0)
    assert found.drifts == [42]  # the third: each is 3 at most, less 1/2
    own, other = found.now
    assert found.ever[0] == own
    assert (own.weight, own.total) == (1.0, 9.0)
    assert (other.weight, other.total, other.count) == (pytest.approx(2.0), pytest.approx(2.0), pytest.approx(20.0))


def test_one_outlier_is_no_drift() -> None:
    assert fold([0] * 22, [0.0, 1.0] * 10 + [1e9, 0.5], 1, 1.0).drifts == []
    assert fold([0] * 15, [0.0] * 7 + [1e6] * 8, 1, 1.0).drifts == []  # nobody knows yet what is usual


def test_page_sums() -> None:
    assert page([]) == page([0.5]) == page([-3.0, 0.2]) == 0
    assert page([1.0, -9.0, 1.5, 2.0]) == 2.5
    assert page([3.0, 3.0, 3.0]) == 7.5


@pytest.mark.parametrize(
    ("t", "size", "freedom"),
    [(0.0, 1.0, 8.0), (0.5, 3.0, 12.0), (2.0, 2.0, 10.0), (-3.0, 5.0, 20.0), (4.0, 6.5, 30.0), (6.0, 4.0, 45.0)],
)
def test_the_strength_is_a_bayes_factor(t: float, size: float, freedom: float) -> None:
    """That of Gonen, Johnson, Lu and Westfall (2005), by integrating over what they integrate over."""
    factor = integrated_bayes_factor(t, size, freedom)
    assert bayes_factor(t, size, freedom) == pytest.approx(factor, rel=1e-3)
    for tested in (1, 40):
        odds = factor / (SCEPTICISM * tested)
        assert strength(t, size, freedom, tested) == pytest.approx(odds / (1 + odds), rel=1e-3)
    assert strength(t, size, freedom, 0) == strength(t, size, freedom, 1)
    assert strength(t, size, freedom, 1) == strength(-t, size, freedom, 1)


def test_strength_rises_with_evidence() -> None:
    by_t = [strength(t, 5.0, 20.0, 4) for t in (0, 1, 2, 4, 8, 1e3, 1e50, 1e200, math.inf)]
    assert by_t == sorted(by_t)
    assert by_t[0] < 0.001
    assert by_t[-1] > 0.999
    by_tested = [strength(6.0, 5.0, 30.0, tested) for tested in (1, 10, 100, 10_000, 10**12)]
    assert by_tested == sorted(by_tested, reverse=True)
    assert by_tested[-1] < 1e-6


def test_an_effect_is_against_the_others() -> None:
    """And against what is usual, which counts as one of theirs for claims, as eight for choosing."""
    usual = totals_of([0.0, 2.0] * 20)
    same = [1.0 + each / 10 for each in range(8)]
    alone = measure(at_once(totals_of(same)), usual, 1)[0]
    assert alone.base == pytest.approx(1.0)
    beside = measure(at_once(totals_of(same), totals_of([5.0] * 24)), usual, 1)
    assert beside[0].base == pytest.approx((24 * 5 + 1) / 25)
    assert beside[0].effect < 0 < beside[1].effect
    assert beside[1].base == pytest.approx((sum(same) + 1) / 9)
    assert beside[0].expected == pytest.approx((sum(same) + (24 * 5 + 8) / 32) / 9)
    assert beside[1].mean == pytest.approx((24 * 5 + beside[1].base) / 25)  # one outcome at the base rate


def test_luck_is_no_evidence() -> None:
    """Of 1200 effects that are none, a share of 1 in 300 may look like one at most; of real ones most are seen."""
    chance, imagined, seen = random.Random(1), 0, 0
    for _ in range(300):
        actions = [chance.randrange(4) for _ in range(100)]
        values = [chance.gauss(0, 1) for _ in actions]
        usual = totals_of(values, 0.998)
        imagined += sum(it.strength > 0.5 for it in measure(fold(actions, values, 4, 0.985), usual, 4))
        real = [value + 1.5 * (action == 2) for action, value in zip(actions, values, strict=True)]
        seen += measure(fold(actions, real, 4, 0.985), totals_of(real, 0.998), 4)[2].strength > 0.5
    assert imagined <= 4
    assert seen > 150


def test_nothing_and_next_to_nothing() -> None:
    nothing = Totals()
    assert (nothing.mean, nothing.scatter, nothing.count) == (0, 0, 0)
    assert fold([], [], 3, 0.9) == Folded([Totals()] * 3, [Totals()] * 3, [])
    for each in measure(at_once(nothing, totals_of([1.0])), nothing, 0):
        assert all(math.isfinite(getattr(each, name)) for name in FACTS)
    none = measure(at_once(nothing, totals_of([3.0] * 5)), totals_of([3.0] * 5), 1)[0]
    assert (none.count, none.effect, none.strength) == (0, 0, 0)
    assert none.mean == none.base == pytest.approx(3.0)
    assert measure(at_once(), nothing, 1) == []


def test_what_is_always_the_same() -> None:
    """No scatter at all: no division by zero, and no certainty where nothing differs."""
    usual = totals_of([2.0] * 30)
    one, other = measure(at_once(totals_of([2.0] * 15), totals_of([2.0] * 15)), usual, 2)
    assert one == other
    assert (one.effect, one.mean) == (0, 2.0)
    assert one.strength < 0.5
    zeros = measure(fold([0, 1] * 20, [0.0] * 40, 2, 0.985), totals_of([0.0] * 40), 2)
    assert all(it.strength < 0.5 and it.effect == 0 for it in zeros)


@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e-9, 1e9, 1e100])
def test_the_scale_does_not_matter_or_at_least_not_end_it(scale: float) -> None:
    chance = random.Random(2)
    actions, values = [0, 1] * 20, [chance.gauss(0, 1) + 3 * (place % 2) for place in range(40)]
    found = measure(fold(actions, [each * scale for each in values], 2, 0.985), totals_of([0.0, scale]), 2)
    plain = measure(fold(actions, values, 2, 0.985), totals_of([0.0, 1.0]), 2)
    for got, expected in zip(found, plain, strict=True):
        assert all(math.isfinite(getattr(got, name)) for name in FACTS)
        assert 0 <= got.strength <= 1
        if 1e-10 < scale < 1e10:
            assert got.strength == pytest.approx(expected.strength, rel=1e-6)
            assert got.effect == pytest.approx(expected.effect * scale, rel=1e-6)


def test_how_sure_a_sign_is() -> None:
    assert sure(0.0, 1.0) == sure(5.0, 0.0) == 0.5
    assert sure(1.959964, 1.0) == sure(-1.959964, 1.0) == pytest.approx(0.975)
    assert sure(1e300, 1e-300) == 1.0


def test_weights_by_hand() -> None:
    rows = [Weighted(1.0, 0.25), Weighted(3.0, 0.5), Weighted(5.0, 1.0)]
    found = totals_of([1.0, 3.0, 5.0], 0.5)
    assert (found.weight, found.mean) == (weight(rows), mean(rows)) == (1.75, pytest.approx(6.75 / 1.75))
    assert found.count == kish(rows) == pytest.approx(1.75**2 / 1.3125)
    assert found.plus(Totals()) == found
