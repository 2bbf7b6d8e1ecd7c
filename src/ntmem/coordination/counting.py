"""How votes are counted: exactly, in whole numbers, without a store.

When a proposal is submitted the weights of its electorate are brought to a common denominator, and the quorum is turned
into the least whole number that approves. From then on counting is adding and comparing ints.

**Invariants**

- Approved: at least ``(quorum - 0.005)`` of the electorate's weight, and more than half of it. A Fraction is taken
  without the 0.005.
- Rejected: not even all votes that are missing could approve it any more.
- One of the two, once it holds, holds for ever: votes only add up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from math import isfinite
from typing import Any, Literal, NamedTuple, Self

from ..errors import ConsensusError
from ..instants import shown

Number = int | float | Decimal | Fraction
Status = Literal["approved", "rejected", "pending"]

_SLACK = Fraction(1, 200)
"""What a quorum that is no Fraction is short of itself: 0.67 means two thirds, as people write it."""
_MOST_BITS = 4096  # of a weight's numerator and denominator; of every float that there is 1,100
_MOST_DIGITS = 1200  # of a Decimal, which has the exponent to be a number that fits into no memory
_MOST_TOTAL_BITS = 12_000  # of what is stored as decimal digits: the interpreter prints 4,300 of them


def exact(number: Any, name: str) -> Fraction:
    """Return a number exactly, a float by its shortest digits; `name` is the argument's name for the error."""
    if isinstance(number, bool) or not isinstance(number, Number):
        raise TypeError(f"{name} must be an int, float, Decimal or Fraction, was {type(number).__name__}")
    is_finite = number.is_finite() if isinstance(number, Decimal) else not isinstance(number, float) or isfinite(number)
    if not is_finite:
        raise ValueError(f"{name} must be a finite number, was {number}")
    if isinstance(number, Decimal):
        _, digits, exponent = number.as_tuple()
        if len(digits) + abs(int(exponent)) > _MOST_DIGITS:
            raise ValueError(f"{name} must be a number of at most {_MOST_DIGITS} digits; round it")
    found = Fraction(repr(float(number))) if isinstance(number, float) else Fraction(number)
    if max(abs(found.numerator), found.denominator).bit_length() > _MOST_BITS:
        raise ValueError(f"{name} must be a number of at most {_MOST_BITS} bits; round it")
    return found


def exact_weight(weight: Any) -> Fraction:
    """Return the weight of a vote or a voter exactly."""
    found = exact(weight, "weight")
    if found < 0:
        raise ValueError(f"weight must be 0 or more, was {shown(weight)}")
    return found


def exact_quorum(quorum: Any) -> Fraction:
    """Return the share of the electorate's weight from which on a proposal is approved, if that is over half."""
    found = exact(quorum, "quorum")
    if not 0 < found <= 1:
        raise ValueError(f"quorum must be above 0 and at most 1, was {shown(quorum)}")
    return found if isinstance(quorum, Fraction) else found - _SLACK


class Electorate(NamedTuple):
    """Who decides on a proposal; it never changes."""

    names: list[str]
    """Of the voters, the heaviest first."""
    shares: list[int]
    """Their weights, times `unit`."""
    unit: int
    total: int
    need: int
    """The least sum of shares that approves."""

    @classmethod
    def of(cls, weights: Mapping[str, Fraction], quorum: Fraction) -> Self:
        """Return the electorate of these voters; `quorum` as of :func:`exact_quorum`."""
        unit = math.lcm(*(weight.denominator for weight in weights.values()))
        shares = {name: int(weight * unit) for name, weight in weights.items()}
        total = sum(shares.values())
        if not total:
            raise ConsensusError(
                "nobody could approve it: no voter with a weight above 0 is registered; register voters first"
            )
        if max(total, unit).bit_length() > _MOST_TOTAL_BITS:
            raise ConsensusError(
                "the weights of the registered voters have no common denominator of fewer than "
                f"{_MOST_TOTAL_BITS} bits; register them with rounder weights"
            )
        names = sorted(shares, key=lambda name: (-shares[name], name))
        need = max(math.ceil(quorum * total), total // 2 + 1)
        return cls(names, [shares[name] for name in names], unit, total, need)

    def weights(self) -> dict[str, Fraction]:
        """Return the voters and their weights, by name."""
        return dict(sorted((name, Fraction(share, self.unit)) for name, share in zip(*self[:2], strict=True)))


class Tally(NamedTuple):
    """The votes that were cast on a proposal."""

    approving: int
    refusing: int
    voted: int
    """Bit n: the voter at place n of the electorate."""

    def cast(self, electorate: Electorate, place: int, approve: bool) -> Tally:
        """Return the tally with one vote more."""
        share = electorate.shares[place]
        return Tally(self.approving + share * approve, self.refusing + share * (not approve), self.voted | 1 << place)

    def status(self, electorate: Electorate) -> Status:
        """Return what these votes come to."""
        if self.approving >= electorate.need:
            return "approved"
        return "pending" if electorate.total - self.refusing >= electorate.need else "rejected"

    def rate(self, electorate: Electorate) -> float:
        """Return the share of the electorate's weight that approves."""
        return self.approving / electorate.total

    def votes_needed(self, electorate: Electorate) -> int:
        """Return how many votes more could approve it: those of the heaviest who have not voted. O(voters)."""
        missing, count = electorate.need - self.approving, 0
        for place, share in enumerate(electorate.shares):
            if missing <= 0:
                break
            if not self.voted >> place & 1:
                missing -= share
                count += 1
        return count
