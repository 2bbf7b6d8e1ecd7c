"""The recomputation of the replay: against figures by hand, and the store's book against it."""

from decimal import Decimal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntmem
from ntmem.replay.book import check, recompute

D = Decimal
UNIT = D("1E-10")  # eight digits of a price, two of a quantity
prices = st.decimals("0.00000001", "99999.99", places=8, allow_nan=False)
fills = st.lists(st.tuples(st.integers(-30, 30).filter(bool), prices), max_size=30)


def made(fills):
    return [SimpleNamespace(quantity_decimal=D(units) / 100, price_decimal=D(price)) for units, price in fills]


def booked(fills):
    with ntmem.open() as memory:
        p = memory.positions
        p.define("X", price_precision=8, quantity_precision=2)
        for number, fill in enumerate(fills):
            p.apply_fill("X", fill.quantity_decimal, fill.price_decimal, trade_id=f"{number}")
        return p.get("X")


@pytest.mark.parametrize(
    ("fills", "quantity", "cost", "realized"),
    [
        ([], 0, 0, 0),
        ([(200, 10), (200, 20)], 4, 60, 0),
        ([(200, 10), (200, 20), (-100, 25)], 3, 45, 10),
        ([(200, 10), (-200, 13)], 0, 0, 6),
        ([(200, 10), (-500, 13)], -3, -39, 6),
        ([(-300, 10), (100, 4), (400, 20)], 2, 40, -14),
        ([(100, 1), (100, 1), (100, 2), (-200, 2)], 1, D("1.3333333333"), D("1.3333333333")),
    ],
)
def test_average_cost(fills, quantity, cost, realized):
    recomputed = recompute(made(fills), UNIT)
    assert recomputed[:3] == (quantity, cost, realized)
    assert recomputed.total_pnl(D(30)) == sum(fill.quantity_decimal * (30 - fill.price_decimal) for fill in made(fills))


@given(fills)
def test_the_book_of_the_store_is_the_recomputed_one(fills):
    fills = made(fills)
    assert check(booked(fills), recompute(fills, UNIT)) == []


@given(fills.filter(bool), st.data())
def test_a_difference_is_found(fills, data):
    fills = made(fills)
    position = booked(fills)
    left_out = data.draw(st.integers(0, len(fills) - 1))
    missing = check(position, recompute(fills[:left_out] + fills[left_out + 1 :], UNIT))
    assert any("quantity is" in difference for difference in missing)
    for name in ("cost_decimal", "realized_pnl_decimal"):
        figures = {
            each: getattr(position, each) for each in ("quantity_decimal", "cost_decimal", "realized_pnl_decimal")
        }
        off = SimpleNamespace(**figures | {name: figures[name] + UNIT})
        assert len(check(off, recompute(fills, UNIT))) == 1


def test_nothing_held_and_no_fills():
    assert check(None, recompute([], UNIT)) == []
    assert len(check(None, recompute(made([(1, 1)]), UNIT))) == 2
