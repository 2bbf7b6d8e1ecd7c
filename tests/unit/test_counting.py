"""How votes are counted, against the rule as it is written: in Fractions, with every set of votes tried."""

from __future__ import annotations

import itertools
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from ntmem import ConsensusError
from ntmem.coordination.counting import Electorate, Tally, exact, exact_quorum, exact_weight

NOBODY = Tally(0, 0, 0)
QUORUMS: list[Any] = [0.01, 0.5, 0.505, 0.51, 0.67, 0.75, 1.0, 1, Decimal("0.67"), Fraction(2, 3), Fraction(1, 2)]


def approves(weights: dict[str, Fraction], approving: set[str], quorum: Any) -> bool:
    """The rule of the specification, word for word."""
    share = sum((weights[name] for name in approving), Fraction(0)) / sum(weights.values())
    least = quorum if isinstance(quorum, Fraction) else Fraction(str(quorum)) - Fraction(5, 1000)
    return share >= least and share > Fraction(1, 2)


def of(weights: dict[str, Any], quorum: Any = 0.67) -> Electorate:
    return Electorate.of({name: exact_weight(it) for name, it in weights.items()}, exact_quorum(quorum))


@pytest.mark.parametrize("quorum", QUORUMS, ids=repr)
def test_every_set_of_votes_comes_to_what_the_rule_says(quorum: Any) -> None:
    chance = random.Random(str(quorum))
    numbers = [0, 1, 1, 2, 3, 0.1, 0.2, 0.3, Decimal("0.005"), Fraction(1, 3), Fraction(2, 3), 10**30]
    for _ in range(40):
        weights = {name: exact_weight(chance.choice(numbers)) for name in "abcd"[: chance.randint(1, 4)]}
        if not sum(weights.values()):
            continue
        electorate = Electorate.of(weights, exact_quorum(quorum))
        for votes in itertools.product((True, False, None), repeat=len(weights)):
            cast = {name: vote for name, vote in zip(weights, votes, strict=True) if vote is not None}
            check(electorate, weights, cast, quorum)


def check(electorate: Electorate, weights: dict[str, Fraction], cast: dict[str, bool], quorum: Any) -> None:
    tally = NOBODY
    for name, vote in cast.items():
        tally = tally.cast(electorate, electorate.names.index(name), vote)
    approving = {name for name, vote in cast.items() if vote}
    missing = [name for name in weights if name not in cast]
    enough = [
        size
        for size in range(len(missing) + 1)
        if any(approves(weights, approving | {*more}, quorum) for more in itertools.combinations(missing, size))
    ]
    expected = "rejected" if not enough else "approved" if enough[0] == 0 else "pending"
    assert tally.status(electorate) == expected
    if expected == "pending":
        assert tally.votes_needed(electorate) == enough[0]
    rate = sum((weights[name] for name in approving), Fraction(0)) / sum(weights.values())
    assert tally.rate(electorate) == float(rate)
    assert electorate.weights() == weights


@pytest.mark.parametrize(
    ("quorum", "voters", "least"),
    [
        (0.67, 3, 2),
        (0.67, 100, 67),
        (0.67, 1000, 665),
        (Fraction(67, 100), 1000, 670),
        (Fraction(2, 3), 3, 2),
        (Fraction(2, 3), 100, 67),
        (0.67, 200, 133),
        (0.5, 2, 2),
        (0.5, 100, 51),
        (0.1, 100, 51),
        (1, 3, 3),
        (1.0, 199, 199),
        (1, 200, 199),
        (Fraction(1), 200, 200),
        (Decimal("0.75"), 4, 3),
        (0.001, 1, 1),
    ],
)
def test_votes_that_approve(quorum: Any, voters: int, least: int) -> None:
    assert of({f"{number}": 1 for number in range(voters)}, quorum).need == least


def test_floats_are_what_their_digits_say() -> None:
    assert exact(0.1, "x") == Fraction(1, 10)
    electorate = of({"a": 0.1, "b": 0.2, "c": 0.3}, 0.5)
    tally = NOBODY.cast(electorate, electorate.names.index("a"), True)
    tally = tally.cast(electorate, electorate.names.index("b"), True)
    assert tally.rate(electorate) == 0.5
    assert tally.status(electorate) == "pending"  # in binary 0.1 + 0.2 is more than 0.3


@pytest.mark.parametrize(
    "number", [5e-324, 1.7976931348623157e308, 10**1000, Fraction(10**1000), Fraction(1, 10**1000), Decimal("1e-1000")]
)
def test_numbers_of_any_size(number: Any) -> None:
    electorate = of({"a": number, "b": number, "c": number})
    tally = NOBODY.cast(electorate, 0, True).cast(electorate, 1, True)
    assert (tally.status(electorate), tally.rate(electorate)) == ("approved", 2 / 3)


@pytest.mark.parametrize(
    ("number", "error", "says"),
    [
        (math.nan, ValueError, "weight must be a finite number, was nan"),
        (math.inf, ValueError, "finite"),
        (Decimal("-inf"), ValueError, "finite"),
        (Decimal("nan"), ValueError, "finite"),
        (Decimal("sNaN"), ValueError, "finite"),
        (-1, ValueError, "weight must be 0 or more, was -1"),
        (-0.5, ValueError, "0 or more"),
        (Fraction(-1, 3), ValueError, "0 or more"),
        (Decimal("1e999999999"), ValueError, "at most 1200 digits; round it"),
        (Decimal("1e-999999999"), ValueError, "at most 1200 digits"),
        (1 << 5000, ValueError, "at most 4096 bits"),
        (Fraction(1, 1 << 5000), ValueError, "at most 4096 bits"),
        (True, TypeError, "int, float, Decimal or Fraction, was bool"),
        ("1", TypeError, "was str"),
        (None, TypeError, "was NoneType"),
        (1j, TypeError, "was complex"),
    ],
)
def test_no_weights(number: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        exact_weight(number)


@pytest.mark.parametrize("quorum", [0, 0.0, -0.5, 1.0000001, Fraction(3, 2), Decimal(2)])
def test_no_quorums(quorum: Any) -> None:
    with pytest.raises(ValueError, match="quorum must be above 0 and at most 1, was"):
        exact_quorum(quorum)


def test_weights_without_a_common_denominator() -> None:
    primes = [number for number in range(2, 30_000) if all(number % each for each in range(2, math.isqrt(number) + 1))]
    with pytest.raises(ConsensusError, match=r"no common denominator of fewer than 12000 bits; .*rounder"):
        of({f"{prime}": Fraction(1, prime) for prime in primes})


@pytest.mark.parametrize("weights", [{}, {"a": 0}, {"a": 0.0, "b": Decimal(0)}])
def test_nobody_to_decide(weights: dict[str, Any]) -> None:
    with pytest.raises(ConsensusError, match="no voter with a weight above 0 is registered; register voters first"):
        of(weights)
