"""The position book against a plain one in Decimal: fills, flips, fees, funding, hedged mode, restarts, replays."""

from __future__ import annotations

import os
import shutil
import tempfile
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import ntmem

EXACT = Context(prec=200, rounding=ROUND_HALF_EVEN)
PRECISIONS = {"BTCUSDT": (2, 8), "ES": (2, 0), "X": (8, 8)}
MULTIPLIERS = {"BTCUSDT": Decimal(1), "ES": Decimal(50), "X": Decimal("0.1")}
symbols = st.sampled_from([*PRECISIONS])
accounts = st.sampled_from(["", "a"])
position_ids = st.sampled_from(["", "long", "short"])
ids = st.integers(0, 40).map(str)
quantities = st.integers(-(10**10), 10**10).filter(bool)
prices = st.integers(-100, 10**7)
few = st.integers(-4, 4).filter(bool)
forms = st.sampled_from(["decimal", "str", "float"])


def share(cost: Decimal, part: Decimal, of: Decimal, unit: Decimal) -> Decimal:
    exact = EXACT.divide(EXACT.multiply(cost, part), of)
    return exact.quantize(unit, ROUND_HALF_EVEN, context=EXACT)


class Plain:
    """A position as anybody would compute it by hand."""

    def __init__(self, unit: Decimal) -> None:
        self.unit = unit
        self.quantity = self.cost = self.realized = self.fees = self.funding = Decimal(0)
        self.fills = 0

    def fill(self, quantity: Decimal, price: Decimal, fee: Decimal) -> Decimal:
        held, realized = self.quantity, Decimal(0)
        self.quantity = EXACT.add(held, quantity)
        if held and (held > 0) != (quantity > 0):
            closed = min(abs(held), abs(quantity))
            part = share(self.cost, closed, abs(held), self.unit)
            realized = EXACT.subtract(EXACT.multiply(closed if held > 0 else -closed, price), part)
            self.cost = EXACT.subtract(self.cost, part)
            if abs(quantity) > abs(held):
                self.cost = EXACT.multiply(self.quantity, price)
        else:
            self.cost = EXACT.add(self.cost, EXACT.multiply(quantity, price))
        self.realized = EXACT.add(self.realized, realized)
        self.fees = EXACT.add(self.fees, fee)
        self.fills += 1
        return realized


def given(number: Decimal, form: str) -> Any:
    return {"decimal": number, "str": str(number), "float": float(number)}[form]


class BookMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self.memory = ntmem.open(self.directory, clock=ntmem.SimulatedClock(10**18), log_bytes=1 << 16)
        self.book = self.memory.positions
        for symbol, (price, quantity) in PRECISIONS.items():
            self.book.define(
                symbol,
                price_precision=price,
                quantity_precision=quantity,
                multiplier=MULTIPLIERS[symbol],
                currency="USD",
            )
        self.plain: dict[tuple[str, ...], Plain] = {}
        self.seen: dict[tuple[str, ...], dict[str, tuple[Decimal, Decimal, Decimal]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()
            shutil.rmtree(self.directory)

    def key_of(self, symbol: str, account: str, position_id: str) -> tuple[str, ...]:
        return symbol, account, "", position_id

    def units(self, symbol: str) -> tuple[Decimal, Decimal, Decimal]:
        price, quantity = PRECISIONS[symbol]
        return Decimal(1).scaleb(-price), Decimal(1).scaleb(-quantity), Decimal(1).scaleb(-price - quantity)

    def apply(
        self, key: tuple[str, ...], trade_id: str, quantity: Decimal, price: Decimal, fee: Decimal, form: str
    ) -> Any:
        how: dict[str, Any] = {"account": key[1], "position_id": key[3], "trade_id": trade_id, "fee": given(fee, form)}
        if form == "str":
            side = "buy" if quantity > 0 else "sell"
            return self.book.apply_fill(key[0], given(abs(quantity), form), given(price, form), side=side, **how)
        return self.book.apply_fill(key[0], given(quantity, form), given(price, form), **how)

    @rule(
        symbol=symbols,
        account=accounts,
        position_id=position_ids,
        trade_id=ids,
        quantity=quantities,
        price=prices,
        fee=st.integers(-1000, 1000),
        form=forms,
    )
    def fill(
        self, symbol: str, account: str, position_id: str, trade_id: str, quantity: int, price: int, fee: int, form: str
    ) -> None:
        key = self.key_of(symbol, account, position_id)
        price_unit, quantity_unit, money_unit = self.units(symbol)
        wanted = Decimal(quantity) * quantity_unit, Decimal(price) * price_unit, Decimal(fee) * money_unit
        known = self.seen.setdefault(key, {}).get(trade_id)
        if known is not None and known != wanted:
            before = self.book.get(*key)
            with pytest.raises(ntmem.FillConflict):
                self.apply(key, trade_id, *wanted, form)
            assert self.book.get(*key).version == before.version
            return
        made = self.apply(key, trade_id, *wanted, form)
        assert made.applied == (known is None)
        if known is None:
            realized = self.plain.setdefault(key, Plain(money_unit)).fill(*wanted)
            assert made.realized_pnl_decimal == EXACT.multiply(realized, MULTIPLIERS[symbol])
            self.seen[key][trade_id] = wanted

    @rule(symbol=symbols, account=accounts, position_id=position_ids)
    def sell_all(self, symbol: str, account: str, position_id: str) -> None:
        key = self.key_of(symbol, account, position_id)
        plain = self.plain.get(key)
        if plain is None or not plain.quantity:
            return
        trade_id = f"close {plain.fills}"
        price = Decimal(100)
        self.apply(key, trade_id, -plain.quantity, price, Decimal(0), "decimal")
        self.seen[key][trade_id] = (-plain.quantity, price, Decimal(0))
        plain.fill(-plain.quantity, price, Decimal(0))
        assert self.book.quantity(*key) == 0
        assert self.book.get(*key).cost_decimal == 0

    @rule(symbol=symbols, fills=st.lists(st.tuples(few, st.integers(0, 20)), min_size=3, max_size=8))
    def trade(self, symbol: str, fills: list[tuple[int, int]]) -> None:
        """A few units of one key to and fro: shares that are no whole number, halves among them."""
        key = self.key_of(symbol, "", "")
        price_unit, quantity_unit, money_unit = self.units(symbol)
        plain = self.plain.setdefault(key, Plain(money_unit))
        for quantity, price in fills:
            trade_id, wanted = f"trade {plain.fills}", (quantity * quantity_unit, price * price_unit, Decimal(0))
            made = self.apply(key, trade_id, *wanted, "decimal")
            self.seen.setdefault(key, {})[trade_id] = wanted
            assert made.realized_pnl_decimal == EXACT.multiply(plain.fill(*wanted), MULTIPLIERS[symbol])

    @rule(symbol=symbols, account=accounts, amount=st.integers(-(10**9), 10**9), cash_id=ids)
    def cash(self, symbol: str, account: str, amount: int, cash_id: str) -> None:
        key = self.key_of(symbol, account, "")
        wanted = Decimal(amount) * self.units(symbol)[2]
        known = self.seen.setdefault(key, {}).get("cash:" + cash_id)
        if known is not None and known[0] != wanted:
            with pytest.raises(ntmem.FillConflict):
                self.book.apply_cash(symbol, wanted, cash_id=cash_id, account=account)
            return
        made = self.book.apply_cash(symbol, wanted, cash_id=cash_id, account=account)
        assert made.applied == (known is None)
        if known is None:
            plain = self.plain.setdefault(key, Plain(self.units(symbol)[2]))
            plain.funding = EXACT.add(plain.funding, wanted)
            self.seen[key]["cash:" + cash_id] = (wanted, Decimal(0), Decimal(0))

    @rule(
        symbol=symbols,
        bad=st.sampled_from([float("nan"), float("inf"), "1e-30", "0.000000001", 10**30, "x", None, True]),
    )
    def refused(self, symbol: str, bad: Any) -> None:
        before = self.book.snapshot().tobytes()
        for quantity, price in ((bad, 1), (1, bad)):
            with pytest.raises((ValueError, TypeError, OverflowError)):
                self.book.apply_fill(symbol, quantity, price, trade_id="refused")
        assert self.book.snapshot().tobytes() == before

    @rule(symbol=symbols, price=st.integers(1, 10**6))
    def mark(self, symbol: str, price: int) -> None:
        price_unit = self.units(symbol)[0]
        self.book.mark(symbol, Decimal(price) * price_unit)
        for key, plain in self.plain.items():
            if key[0] == symbol:
                value = EXACT.subtract(EXACT.multiply(plain.quantity, Decimal(price) * price_unit), plain.cost)
                found = self.book.get(*key).unrealized_pnl_decimal
                assert found == EXACT.multiply(value, MULTIPLIERS[symbol])

    @rule()
    def flush(self) -> None:
        self.memory.flush()

    @rule()
    def restart(self) -> None:
        self.memory.close()
        self.memory = ntmem.open(self.directory, log_bytes=1 << 16)
        self.book = self.memory.positions

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "plain"):
            return
        for key, plain in self.plain.items():
            found = self.book.get(*key)
            multiplier = MULTIPLIERS[key[0]]
            assert found.quantity_decimal == plain.quantity
            assert found.cost_decimal == plain.cost
            assert found.realized_pnl_decimal == EXACT.multiply(plain.realized, multiplier)
            assert (found.fees_decimal, found.funding_decimal, found.fills) == (plain.fees, plain.funding, plain.fills)
        rows = self.book.snapshot()
        assert {tuple(row)[:4] for row in rows} == {*self.plain}


def test_the_book_is_that_of_anybody_who_computes_in_decimal() -> None:
    run_state_machine_as_test(
        BookMachine,
        settings=settings(
            max_examples=int(os.environ.get("NTMEM_EXAMPLES", "60")), stateful_step_count=40, deadline=None
        ),
    )
