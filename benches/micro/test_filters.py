"""Filters of metadata over the columns of 200,000 rows, to what one would write in numpy for just that filter.

Numpy's side has the values as an array of their type, without rows that miss them or have another type, and makes the
same bitmap.
"""

import numpy as np
import pytest
from msgspec import msgpack

from ntmem.filters import compile_where

COUNT = 200_000
VENUES = [f"venue-{number}" for number in range(500)]
WANTED = VENUES[::100]


class Columns:
    """Of a price (float), a quantity (int) and a venue (one of 500 str)."""

    def __init__(self):
        rng = np.random.default_rng(1)
        self.price = rng.random(COUNT)
        self.quantity = rng.integers(0, 10_000, COUNT)
        self.venue = rng.integers(0, len(VENUES), COUNT)
        self.columns = {
            "price": (np.full(COUNT, 2, np.uint8), self.price.view(np.uint64)),
            "quantity": (np.full(COUNT, 1, np.uint8), self.quantity.view(np.uint64)),
            "venue": (np.full(COUNT, 3, np.uint8), self.venue.view(np.uint64)),
        }
        self.numbers = {msgpack.encode(name): number for number, name in enumerate(VENUES)}

    def column(self, name):
        return self.columns[name]

    def interned(self, name):
        return [(number, data) for data, number in self.numbers.items()] if name == "venue" else []

    def intern_number(self, name, data):
        return self.numbers.get(data, -1) if name == "venue" else -1


FILTERS = {
    "range": ({"price": {"$gte": 0.25, "$lt": 0.75}}, lambda c: (c.price >= 0.25) & (c.price < 0.75)),
    "equal int": ({"quantity": 77}, lambda c: c.quantity == 77),
    "equal str": ({"venue": "venue-7"}, lambda c: c.venue == 7),
    "in 5 str": ({"venue": {"$in": WANTED}}, lambda c: np.isin(c.venue, range(0, 500, 100))),
    "in 5 int": (
        {"quantity": {"$in": [3, 14, 159, 2653, 5897]}},
        lambda c: np.isin(c.quantity, [3, 14, 159, 2653, 5897]),
    ),
    "in 3,000 int": ({"quantity": {"$in": list(range(0, 9000, 3))}}, lambda c: np.isin(c.quantity, range(0, 9000, 3))),
    "prefix": ({"venue": {"$prefix": "venue-1"}}, lambda c: PREFIXED[c.venue]),
    "and of two": ({"price": {"$gt": 0.5}, "venue": "venue-7"}, lambda c: (c.price > 0.5) & (c.venue == 7)),
    "not": ({"price": {"$not": {"$gt": 0.5}}}, lambda c: ~(c.price > 0.5)),
}
PREFIXED = np.array([name.startswith("venue-1") for name in VENUES])


@pytest.mark.parametrize("name", FILTERS)
def test_filter_to_numpy(ratio_to, name):
    filter_of, numpy_of = FILTERS[name]
    where, columns = compile_where(filter_of), Columns()

    def ours():
        return where.bits(columns, COUNT)

    def theirs():
        return np.packbits(numpy_of(columns), bitorder="little").view(np.uint64)

    assert (ours() == theirs()).all()
    ratio_to(ours, theirs, rounds=50, repeats=4)


def test_columns_to_rows(ratio_to):
    """The native pass to asking each row, which is what remains for a field without a column; 20,000 rows."""
    where, columns = compile_where({"price": {"$gt": 0.5}, "venue": "venue-7"}), Columns()
    count = 20_000
    rows = [
        {"price": price, "venue": VENUES[venue]}
        for price, venue in zip(columns.price[:count].tolist(), columns.venue[:count].tolist(), strict=True)
    ]

    def ours():
        return where.bits(columns, count)

    def theirs():
        return [number for number, row in enumerate(rows) if where.matches(row)]

    assert np.bitwise_count(ours()).sum() == len(theirs())
    ratio_to(ours, theirs, rounds=10, repeats=2)
