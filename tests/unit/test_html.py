"""What notebooks show: exact numbers, and nothing that a name could do to a page."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal as D
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntmem
from ntmem._core.text import exact

pytestmark = pytest.mark.only("shared")

EVIL = "<script>alert('&amp;')</script>"


class Page(HTMLParser):
    """Rows of cells, and every tag there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.caption = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.caption += data


@pytest.fixture
def book(engine: str) -> Iterator[Any]:
    with ntmem.open() as memory:
        yield memory.positions


def test_a_position(book: Any) -> None:
    book.define(EVIL, price_precision=2, quantity_precision=1, multiplier="0.1", currency="<b>USD")
    book.apply_fill(EVIL, "-1.5", "10.01", trade_id="1", fee="-0.001", ts_event=1_500_000_000, strategy="a&b")
    book.apply_fill(EVIL, "-1.5", "10.02", trade_id="2", ts_event=2_000_000_001, strategy="a&b")
    book.apply_fill(EVIL, "0.7", "9", trade_id="3", ts_event=3_000_000_000, strategy="a&b")
    held = book.get(EVIL, "", "a&b")
    page = Page(held._repr_html_())
    assert page.tags == {"table", "tr", "th", "td"}
    said = dict(page.rows)
    assert (said["symbol"], said["strategy"], said["side"], said["currency"]) == (EVIL, "a&b", "short", "<b>USD")
    assert not {"account", "position_id", "mark_price", "ts_closed", "ts_mark"} & said.keys()
    for name in ("quantity", "realized_pnl", "unrealized_pnl", "fees", "funding", "peak_quantity", "multiplier"):
        assert D(said[name]) == getattr(held, f"{name}_decimal")
    assert abs(D(said["average_price"]) - held.average_price_decimal) <= D("0.0001") / 2
    assert (said["ts_opened"], said["ts_last"]) == ("1970-01-01T00:00:01.500000000Z", "1970-01-01T00:00:03.000000000Z")
    assert (said["fills"], said["version"]) == ("3", str(held.version))
    assert book.ref(EVIL, "", "a&b")._repr_html_() == held._repr_html_()
    book.apply_fill(EVIL, "2.3", "9", trade_id="4", strategy="a&b")
    assert dict(Page(book.get(EVIL, "", "a&b")._repr_html_()).rows)["quantity"] == "0"


def test_a_book(book: Any) -> None:
    assert Page(book._repr_html_()).caption == "0 open positions"
    book.apply_fill(EVIL, 1, 10, trade_id="1", account="<i>")
    book.apply_fill("CLOSED", 1, 10, trade_id="1")
    book.apply_fill("CLOSED", -1, 10, trade_id="2")
    page = Page(book._repr_html_())
    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert page.caption == "1 open position"
    header, row = page.rows
    assert "position_id" not in header
    assert row[:6] == [EVIL, "<i>", "", "long", "1", "10"]
    for number in range(60):
        book.apply_fill(f"S{number:02}", 1, 10, trade_id="1", position_id="p")
    page = Page(book._repr_html_())
    assert page.caption == "61 open positions, the first 50"
    assert len(page.rows) == 1 + 50
    assert page.rows[-1][:4] == ["S48", "", "", "p"]


def test_a_book_of_a_closed_store(engine: str) -> None:
    with ntmem.open() as memory:
        book: Any = memory.positions
    assert "closed" in Page(book._repr_html_()).caption


def test_facts_of_a_store(engine: str) -> None:
    with ntmem.open() as memory:
        stats = memory.stats()
    said = dict(Page(stats._repr_html_()).rows)
    assert said == {name: str(fact) for name, fact in stats.to_dict().items()}


@given(st.decimals(allow_nan=False, allow_infinity=False, places=16) | st.integers().map(D))
def test_no_digit_is_lost(number: D) -> None:
    digits = exact(number)
    assert D(digits) == number
    assert "E" not in digits
    assert digits == "0" or not ("." in digits and digits.endswith(("0", ".")))
