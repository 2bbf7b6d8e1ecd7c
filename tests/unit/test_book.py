"""The book: Decimal fill by fill against fractions over the list of fills."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntmem.replay.book import Position, check, recompute

D = Decimal
CENT = D("0.01")
prices = st.decimals("0.00000001", "99999.99", places=8, allow_nan=False)
fills = st.lists(st.tuples(st.integers(-30, 30).filter(bool), prices), max_size=30)


def played(fills, unit=CENT):
    position, records = Position(), []
    for units, price in fills:
        position = position.fill(units * unit, price)
        side = "buy" if units > 0 else "sell"
        records.append({"side": side, "quantity": str(abs(units) * unit), "price": str(price)})
    return position, records


@pytest.mark.parametrize(
    ("fills", "quantity", "average", "realized"),
    [
        ([], 0, 0, 0),
        ([(2, 10), (2, 20)], 4, 15, 0),
        ([(2, 10), (2, 20), (-1, 25)], 3, 15, 10),
        ([(2, 10), (-2, 13)], 0, 0, 6),
        ([(2, 10), (-5, 13)], -3, 13, 6),
        ([(-3, 10), (1, 4), (4, 20)], 2, 20, -14),
    ],
)
def test_average_cost(fills, quantity, average, realized):
    position, _ = played([(units, D(price)) for units, price in fills], unit=D(1))
    assert (position.quantity, position.average_price, position.realized_pnl) == (quantity, average, realized)


@given(fills, prices)
def test_the_kept_book_is_the_recomputed_one(fills, mark):
    position, records = played(fills)
    assert check(position, recompute(records, mark), mark) == []
    assert check(Position.from_record(position.to_record()), recompute(records, mark), mark) == []


@given(fills)
def test_flat_is_exactly_zero(fills):
    position, _ = played(fills)
    if position.quantity:
        position = position.fill(-position.quantity, D("3.3"))
    assert (position.quantity, position.cost, position.average_price) == (0, 0, 0)
    assert position.realized_pnl == position.cash


@given(fills.filter(bool), prices, st.data())
def test_a_difference_is_found(fills, mark, data):
    position, records = played(fills)
    left_out = data.draw(st.integers(0, len(records) - 1))
    missing = check(position, recompute(records[:left_out] + records[left_out + 1 :], mark), mark)
    assert any("quantity is" in difference for difference in missing)
    off = Position(position.quantity, position.cost, position.cash + D("0.00000001"))
    differences = check(off, recompute(records, mark), mark)
    assert any("total P&L is" in difference for difference in differences)
    assert any("realized P&L is" in difference for difference in differences)


def test_an_average_that_has_no_end_stays_accurate():
    position, records = played([(1, D(1)), (1, D(1)), (1, D(2)), (-2, D(2))], unit=D(1))
    recomputed = recompute(records, D(2))
    assert recomputed.realized_pnl == Fraction(4, 3)
    assert recomputed.total_pnl == 2
    assert str(position.average_price).startswith("1.33333333333333333333333333333333333")
    assert check(position, recomputed, D(2)) == []
