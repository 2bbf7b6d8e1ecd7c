"""Scrubbing: what is taken out of text and what stays, that it is done once, and that no text makes it slow."""

from __future__ import annotations

import datetime
import itertools
import re
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ntmem
from ntmem import Scrubber, SerializationError, Trajectory, scrubrules
from ntmem.reasoningbank import Case, Verdict
from ntmem.scrubrules import KINDS, Rule, is_harmless, suspected

RULES = [it for it in vars(scrubrules).values() if isinstance(it, Rule)]
scrub = Scrubber()

FOUND = {
    "mail ann.lee+desk@mail.example.co.uk.": "mail [EMAIL].",
    "<müller@börse.de>,bob@x.io": "<[EMAIL]>,[EMAIL]",
    "123-45-6789": "[SSN]",
    "her SSN is 123 45 6789, ssn: 123456789": "her SSN is [SSN], ssn: [SSN]",
    "Social Security number 123456789": "Social Security number [SSN]",
    f"use sk-{'a1B2' * 12} or sk-ant-api03-{'x_9-' * 9}": "use [API_KEY] or [API_KEY]",
    f"ghp_{'a1' * 18} gho_{'b2' * 18},ghs_{'c3' * 18}": "[API_KEY] [API_KEY],[API_KEY]",
    f"github_pat_{'d4' * 20};": "[API_KEY];",
    "xoxb-" + "1234567890-abcdefGHIJ": "[API_KEY]",
    f"AIza{'Sy0_-' * 7} glpat-{'a1b2c' * 4} hf_{'aB3' * 12}": "[API_KEY] [API_KEY] [API_KEY]",
    "sk_" + "live_51H8xYzAbCdEfGhIj": "[API_KEY]",
    "api_key=f00ba4f00ba4, API-KEY: 'abcdefgh'": "api_key=[API_KEY], API-KEY: '[API_KEY]'",
    '{"BINANCE_API_SECRET": "vmPUZE6mv9SD5VNHk4HlWFsOr6"}': '{"BINANCE_API_SECRET": "[API_KEY]"}',
    "Authorization: Bearer abc123def456ghi789": "Authorization: Bearer [API_KEY]",
    "Authorization: Basic dXNlcjpwYXNzd29yZDE=": "Authorization: Basic [API_KEY]",
    "AKIAIOSFODNN7EXAMPLE ASIAIOSFODNN7EXAMPLE": "[AWS_KEY] [AWS_KEY]",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "aws_secret_access_key = [AWS_KEY]",
    'AWS secret access key "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"': 'AWS secret access key "[AWS_KEY]"',
    "4111111111111111,5500-0000-0000-0004": "[CREDIT_CARD],[CREDIT_CARD]",
    "4222222222222 or 6011 0009 9013 9424": "[CREDIT_CARD] or [CREDIT_CARD]",
    "378282246310005 3782 822463 10005.": "[CREDIT_CARD] [CREDIT_CARD].",
    "3530111333300000 2223003122003222 30569309025904": "[CREDIT_CARD] [CREDIT_CARD] [CREDIT_CARD]",
    "+14155552671 +1 (415) 555-2671 +49 30 1234567": "[PHONE] [PHONE] [PHONE]",
    "+44 (0)20 7946 0958, +33.6.12.34.56.78": "[PHONE], [PHONE]",
    "(415) 555-2671, 415-555-2671, 1-415-555-2671, 415.555.2671": "[PHONE], [PHONE], [PHONE], [PHONE]",
    "020 7946 0958; 06 12 34 56 78; 030/1234567; (030) 1234567": "[PHONE]; [PHONE]; [PHONE]; [PHONE]",
    "Phone: 415 555 2671": "Phone: [PHONE]",
    "10.0.0.1:8080 and 192.168.1.0/24, 8.8.8.8.": "[IP]:8080 and [IP]/24, [IP].",
    "from 10.0.0.1-10.0.0.9": "from [IP]-[IP]",
    "2001:db8::8a2e:370:7334, fe80::1. [::ffff:10.0.0.1]:80": "[IP], [IP]. [[IP]]:80",
    "https://x.io/a?id=7&token=abc&X-Amz-Signature=ff": "https://x.io/a?id=7&token=[REDACTED]&X-Amz-Signature=[REDACTED]",
    "wss://x.io?apikey=k&password=p": "wss://x.io?apikey=[REDACTED]&password=[REDACTED]",
    "postgres://bob:p@ss@db.internal/desk": "postgres://[REDACTED]@db.internal/desk",
    "password: hunter2": "password: [REDACTED]",
    "jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJ_SMeKKF2QT4.": "jwt [JWT].",
    "a -----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\nProc-Type: 4\n-----END RSA PRIVATE KEY----- b": "a [PRIVATE_KEY] b",
    "-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXk": "[PRIVATE_KEY]",
}


@pytest.mark.parametrize(("text", "left"), FOUND.items())
def test_what_is_taken_out(text: str, left: str) -> None:
    assert scrub(text) == left
    assert scrub(f"so: {text}") == f"so: {left}"


HARMLESS = [
    "bought 1,250,000.50 of US0378331005 (CUSIP 037833100) at 182.50, 1.234.567,89 EUR, $4,111,111,111,111,111",
    "BTC-USDT ETH/USD:PERP ES=F 6EZ4 BRK.B AAPL240119C00190000 XS2010044381 DE000BAY0017",
    "limit 182.50 x 100 @ 182.45; +12500 -3.25% +1,250,000.00 +12500000 +1.250.000.000 (1,250) 1e-9 +3.5e+10",
    "order 1234567890123456789, id 7f3e9a, ORD-555-123-4567, 100-200-300, client 20240102-000123",
    "epoch 1700000000 1700000000123 1700000000123456 1700000000123456789",
    "at 2024-01-02T03:04:05.123456789+00:00, 02/01/2024 03:04, 01.02.2024, 20240102, 12:34:56.789",
    "f47ac10b-58cc-4372-a567-0e02b2c3d479 01ARZ3NDEKTSV4RRFFQ69G5FAV d41d8cd98f00b204e9800998ecf8427e",
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0xdAC17F958D2ee523a2206206994597C13D831ec7",
    "ntmem 0.1.0, python 3.11.7, v1.2.3.4, version 1.2.3.4, 120.0.6099.109, chapter 1.2.3",
    "a[10::20] x[1:2:3] std::vector dead::beef 00:1b:44:11:3a:b7 1:2:3:4 09:30:00 BINANCE:BTCUSDT",
    "1m 5m 15m 1 2 3 4 5 6 7 8 9 10 11 12 100 200 300 400 4000 1200 3000 1600 2000",
    "risk-adjusted-return-2024-of-portfolio task-12345678901234567890 key: value, token: BTC, the key is 7",
    "bearer bonds, the bearer of instruments; password-less; secretary; monkey = 3; passing: 12345",
    "follow @trader, 5@limit, 10@182.50, me@localhost, a@b, mean±sd 4:1, C++ 2:30pm",
    "https://api.x.io/v3/klines?symbol=BTCUSDT&interval=1m&limit=500#row=3",
    "4111111111111112 is no card by Luhn, 9999999999999995 by its issuer, 41111111111111111112222 by its length",
    "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000 are no numbers of anybody, nor 123456789",
    "0.1234567890123456 123.4567890123456 -4111111111111111.25 4111111111111111.25",
    "",
    "ASIAPACIFIC sk-learn SG.EUREX ghp_short hf_model eyJ",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_stays(text: str) -> None:
    assert scrub.scan(text) == []
    assert scrub(text) is text


def test_tables_have_every_kind() -> None:
    assert set(re.findall(r"\[([A-Z_]+)\]", "".join(FOUND.values()))) == set(KINDS)


def test_what_is_found_is_where_it_is_said_to_be() -> None:
    text = "of bob@x.io, from 10.0.0.1"
    assert scrub.scan(text) == [("EMAIL", 3, 11), ("IP", 18, 26)]
    own = Scrubber(["IP", "EMAIL"])
    assert own.kinds == ("EMAIL", "IP")
    assert (own(text), own("4111111111111111 bob@x.io")) == ("of [EMAIL], from [IP]", "4111111111111111 [EMAIL]")
    assert own.counts == {"EMAIL": 2, "IP": 1}
    assert repr(own) == "<Scrubber EMAIL, IP>"
    assert Scrubber([])("bob@x.io") == "bob@x.io"


# ---- once is enough, and nothing is left out for speed ----

PARTS = st.one_of(
    st.sampled_from([*FOUND, *FOUND.values(), *HARMLESS]),
    st.sampled_from(["@", "://", "=", ":", "-", ".", " ", "[", "]", "[EMAIL]", "[SSN]", "ssn ", "password=", "?key="]),
    st.sampled_from(["555-123-4567", "4111111111111111", "10.0.0.1", "a@b.co", "AKIA", "eyJ", "+1", "1", "::", "x"]),
    st.text("0123456789.:-+ @aA_/=&?", max_size=12),
    st.text(max_size=4),
)
TEXTS = st.lists(PARTS, max_size=8).map("".join)


@given(TEXTS)
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    once = scrub(text)
    assert scrub.scan(once) == []
    assert scrub(text) == once
    found = scrub.scan(text)
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(found))
    assert (once == text) == (not found)


@given(TEXTS)
def test_no_rule_is_left_out_that_finds_something(text: str) -> None:
    asked = suspected(text)
    for rule in RULES:
        if rule not in asked:
            assert rule.find(text) == []
        if is_harmless(text):
            assert rule.kind == "REDACTED" or rule.find(text) == []


def test_no_rule_is_left_out_of_what_is_short() -> None:
    parts = {part for whole in FOUND for part in (whole, *whole.split(), *whole.split(","))}
    for text in parts | {"a@b.co", "://a@"}:
        asked = suspected(text)
        assert [rule for rule in RULES if rule not in asked and rule.find(text)] == []


@given(st.integers(0, 10**20), st.floats(allow_nan=False), st.integers(0, 10**19))
def test_numbers_stay(whole: int, real: float, instant: int) -> None:
    for text in (f"{real}", f"{real:,.2f}", f"{whole:,}", f"px {real:.8f} qty {real:.3g}"):
        assert scrub(text) == text
    if not scrubrules.is_card(str(whole)):
        assert scrub(f"order {whole} at {instant % 10**9}") == f"order {whole} at {instant % 10**9}"
    epoch = 1_500_000_000 + instant % (7 * 10**8)  # to 2039: from 2.2e9 on, instants in us and ns can be cards
    for unit in (1, 10**3, 10**6, 10**9):
        assert scrub(str(epoch * unit + instant % unit)) == str(epoch * unit + instant % unit)


@given(st.uuids(), st.binary(min_size=8, max_size=64), st.datetimes())
def test_names_and_digests_stay(name: uuid.UUID, data: bytes, instant: datetime.datetime) -> None:
    for text in (str(name), f"x{data.hex()}", instant.isoformat(), f"{instant:%Y%m%d-%H%M%S}"):
        assert scrub(text) == text


# ---- no text makes it slow ----


def test_no_pattern_repeats_what_repeats() -> None:
    """Nested repeats without end are what takes exponential time; possessive ones give nothing back."""

    def ends(tree: Any, within: bool) -> None:
        for op, argument in tree:
            inside = within
            if op is _constants.MAX_REPEAT and argument[1] is _constants.MAXREPEAT:
                assert not within, "a repeat without end within another one"
                inside = True
            for part in argument if isinstance(argument, tuple | list) else [argument]:
                for each in part if isinstance(part, list) else [part]:
                    if isinstance(each, _parser.SubPattern):
                        ends(each, inside)

    assert len(RULES) == len({rule.pattern.pattern for rule in RULES}) > 15
    for rule in RULES:
        ends(_parser.parse(rule.pattern.pattern, rule.pattern.flags), False)
    with pytest.raises(AssertionError, match="within another"):
        ends(_parser.parse(r"(?:x(?:a+b?)*)"), False)


HOSTILE = [
    *("a", "1", "-", ":", "a@", "b.", "a@b.", "1 ", "1.", "+1 ", "01-", "4111 ", "(555) ", "://a", "://a@", "eyJ"),
    *("eyJaaaaaaaa.", "sk-", "key=", "&a_", "ssn ", "aws_secret_", "[", "[EMAIL]", "bearer ", "phone: 1-", "abc::"),
    *(
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\n-",
        "a@b.co ",
        "555-123-4567 ",
        "SG.aaaaaaaaaaaaaaaaa",
    ),
]


OPENS = "@ :// = : key secret aws bearer eyJ AKIA0123456789ABCDEF sk- hf_ 1.2.3.4 1 2 3 4 5 6 7 -----BEGIN \n"
"""What makes a scrubber ask every rule."""


def test_every_rule_is_asked() -> None:
    assert {*RULES} == {*suspected(OPENS)}


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_text_takes_time_in_proportion_to_its_length(part: str) -> None:
    """Sixteen times the text is 16 times the work if it is linear, else 256 times; one of five tries is enough."""

    def taken(size: int) -> float:
        text = OPENS + (part * (size // len(part) + 1))[:size]
        begun = time.process_time()
        scrub(text)
        return time.process_time() - begun

    scrub(part * 100)  # patterns are compiled
    ratios: list[float] = []
    for _ in range(5):
        ratios.append(taken(32_000) / max(taken(2_000), 1e-5))
        if ratios[-1] < 100:
            return
    pytest.fail(f"ratios were {ratios}")


def test_what_yields_ever_more_is_hidden_whole() -> None:
    once = Scrubber(extra={"X": lambda text: [(0, 1)]})
    assert once("some text") == "[REDACTED]"
    assert once("[REDACTED]") == "[REDACTED]"


# ---- values ----


def test_values_are_walked_and_numbers_are_left() -> None:
    array = np.array(["bob@x.io"])
    value = {
        "n": [1, 1.5, True, None, Decimal("4111111111111111"), b"bob@x.io", 4111111111111111],
        "t": (datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC), uuid.uuid4(), array),
        "words": {"quiet", "open"},
    }
    assert scrub.nested(value) is value
    found = scrub.nested({**value, "who": ["bob@x.io", ("10.0.0.1",)], "deep": {"set": frozenset({"bob@x.io", "x"})}})
    assert found["n"] is value["n"]
    assert found["t"] is value["t"]
    assert found["who"] == ["[EMAIL]", ("[IP]",)]
    assert found["deep"] == {"set": frozenset({"[EMAIL]", "x"})}
    assert scrub.nested("bob@x.io") == "[EMAIL]"
    assert scrub.nested(7) == 7


def test_keys_are_scrubbed_and_never_merged() -> None:
    given = {"ann@x.io": 1, "bob@x.io": 2, "[EMAIL] #2": 3, ("bob@x.io",): 4, ("ann@x.io",): 5, "bid": 6}
    found = scrub.nested(given)
    assert found == {
        "[EMAIL]": 1, "[EMAIL] #3": 2, "[EMAIL] #2": 3, ("[EMAIL]",): 4, ("[EMAIL]", "#2"): 5, "bid": 6
    }  # fmt: skip
    assert list(found.values()) == [1, 2, 3, 4, 5, 6]
    assert scrub.nested(found) is found
    whole = scrub.nested({frozenset({"ann@x.io"}): 1, frozenset({"bob@x.io"}): 2})
    assert whole == {frozenset({"[EMAIL]"}): 1, frozenset({"[EMAIL]", "#2"}): 2}


def test_a_key_says_what_its_text_is() -> None:
    given = {"password": "x", "API-Key": "abc", "ssn": "123456789", "token": "BTC", "secret": 7, "pwd": "", "key": "k"}
    found = scrub.nested(given)
    assert found == given | {"password": "[REDACTED]", "API-Key": "[API_KEY]", "ssn": "[SSN]"}
    assert scrub.nested(found) is found
    assert Scrubber(["EMAIL"]).nested(given) is given


@given(st.recursive(TEXTS | st.integers(), lambda it: st.lists(it) | st.dictionaries(TEXTS, it), max_leaves=8))
def test_values_are_scrubbed_once(value: Any) -> None:
    once = scrub.nested(value)
    assert scrub.nested(once) is once
    assert type(once) is type(value)
    if isinstance(value, dict):
        assert len(once) == len(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(SerializationError, match="128 deep"):
        scrub.nested(value)


# ---- own kinds ----


def test_own_kinds_come_first() -> None:
    def names(text: str) -> list[tuple[int, int]]:
        return [it.span() for it in re.finditer("Ann|Bob", text)]

    own = Scrubber(extra={"DESK": r"desk-(?P<value>[0-9]+)", "NAME": names, "HOST": re.compile(r"\w+@\w+")})
    assert own("Ann of desk-17, bob@x.io") == "[NAME] of desk-[DESK], [HOST].io"
    assert own.kinds == ("DESK", "NAME", "HOST", *KINDS)
    assert own.counts == {"DESK": 1, "NAME": 1, "HOST": 1}
    assert own("[NAME] Ann") == "[NAME] [NAME]"
    assert Scrubber(extra={"T": "x*"})("axxb") == "a[T]b"
    assert Scrubber(extra={"T": lambda text: [(0, 3), (2, 4)] if len(text) > 4 else []})("abcdef") == "[T]def"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"kinds": ["MAIL"]}, "not 'MAIL'"),
        ({"kinds": "EMAIL"}, "was one str"),
        ({"extra": {"desk": "x"}}, "has a name of capitals"),
        ({"extra": {"EMAIL": "x"}}, "EMAIL is a kind already"),
        ({"extra": {"DESK": "("}}, "DESK must be a regular expression"),
        ({"extra": {"DESK": b"x"}}, "was one for bytes"),
        ({"extra": {"DESK": 7}}, "DESK must be a regular expression"),
    ],
)
def test_what_cannot_be_looked_for(given: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=re.escape(error)):
        Scrubber(**given)


def test_what_cannot_be_scrubbed() -> None:
    with pytest.raises(TypeError, match="text must be a str, was bytes"):
        scrub(b"x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="DESK found something at 0 to 9 of a text of 1 characters"):
        Scrubber(extra={"DESK": lambda text: [(0, 9)]})("x")


# ---- in the bank ----


@pytest.fixture
def memory() -> Any:
    with ntmem.open() as memory:
        yield memory


def texts_kept(memory: Any) -> bytes:
    """All that stands in the store, one record behind the other."""
    from ntmem.tiers.guards import DISTILLING, PATTERNS, TRAJECTORIES, TRAJECTORY_INDEX

    spaces = (TRAJECTORIES, TRAJECTORY_INDEX, PATTERNS, DISTILLING)
    return b"".join(
        bytes(key) + bytes(stored.value or b"")
        for space in spaces
        for key, stored in memory._engine().entries_of(space, b"")
    )


def fill(add: Callable[..., Trajectory]) -> Trajectory:
    trajectory = add("agent_1", "mail ann@example.com")
    trajectory.add_observation({"note": "ann@example.com", "price": 4111111111111111}, [1.0, 0.0])
    trajectory.add_action("buy", {"account": "4111 1111 1111 1111", "quantity": 10}, 1.0)
    trajectory.add_outcome(1.0)
    return trajectory


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("is_begun", [True, False])
def test_what_the_bank_keeps_is_scrubbed(memory: Any, is_begun: bool) -> None:
    if is_begun:
        trajectory = fill(memory.bank.begin)
    else:
        trajectory = fill(Trajectory)
        assert trajectory.observations[0].data["note"] == "ann@example.com"  # it is not kept yet
        memory.track_trajectory(trajectory)
    found = memory.trajectories.get(trajectory.id)
    for it in (trajectory, found):
        assert it.task == "mail [EMAIL]"
        assert it.observations[0].data == {"note": "[EMAIL]", "price": 4111111111111111}
        assert it.actions[0].parameters == {"account": "[CREDIT_CARD]", "quantity": 10}

    def judge(case: Case) -> Any:
        return ntmem.VerdictResult(case.trajectory_id, Verdict.CORRECT, None, None, 1.0, "asked bob@x.io")

    memory.bank.judge(trajectory.id, judge=judge)
    memory.bank.judge(trajectory.id, judge=judge)  # as the last: not kept again
    assert [it.feedback for it in memory.trajectories.get(trajectory.id).verdicts] == ["asked [EMAIL]"]
    kept = texts_kept(memory)
    assert b"agent_1" in kept
    assert not re.search(rb"ann@|bob@|4111 1111", kept)


@pytest.mark.usefixtures("engine")
def test_what_is_asked_for_is_scrubbed_alike(memory: Any) -> None:
    bank, task = memory.bank, "mail ann@example.com"
    for number in range(12):
        one = bank.begin("bob@x.io", task)
        one.add_observation(None, [1.0, 0.01 * number])
        one.add_action("buy" if number % 2 else "hold", None, 1.0)
        one.add_outcome(float(number % 2))
    bank.distill()
    assert len(memory.trajectories.find(task=task).trajectories) == 12
    assert len(memory.trajectories.find(agent_id="bob@x.io", task=task).trajectories) == 12
    assert len(memory.trajectories.similar([1.0, 0.0], 3, task=task)) == 3
    assert bank.choose([1.0, 0.0], ["buy", "hold"], task=task, seed=1).patterns
    for where in ({"task": task}, {"task": {"$in": [task]}}, {"$or": [{"task": {"$eq": task}}]}):
        assert len(list(bank.patterns(where=where))) == 2
    assert len(list(bank.patterns(where={"agents": {"$contains": "bob@x.io"}}))) == 2  # ids are never touched
    memory.put("notes", "ann@x.io", b"ann@x.io")
    assert memory.get("notes", "ann@x.io") == b"ann@x.io"


def test_other_words_are_scrubbed(memory: Any) -> None:
    for number in range(80):
        one = memory.bank.begin("a", "t")
        one.add_observation(None, [1.0, 0.0])
        one.add_action("buy" if number % 2 else "hold", None)
        one.add_outcome(float(number % 2) + 0.01 * (number % 5))
    memory.distiller.rewrite = lambda it: (f"{it.action}: ask ann@x.io", "-", "-")
    assert "buy: ask [EMAIL]" in [it.title for it in memory.bank.distill()]
    assert b"ann@" not in texts_kept(memory)


def test_which_scrubber_a_store_has(memory: Any) -> None:
    assert isinstance(memory.scrubber, Scrubber)
    assert memory.scrubber is memory.scrubber
    assert memory.bank.begin("a", "bob@x.io").task == "[EMAIL]"
    assert memory.scrubber.counts == {"EMAIL": 1}
    memory.scrubber = Scrubber(["IP"])
    assert memory.bank.begin("a", "bob@x.io at 10.0.0.1").task == "bob@x.io at [IP]"
    memory.scrubber = None
    assert memory.scrubber is None
    assert memory.bank.begin("a", "bob@x.io at 10.0.0.1").task == "bob@x.io at 10.0.0.1"
    with pytest.raises(TypeError, match="scrubber must be a Scrubber or None, was function"):
        memory.scrubber = lambda text: text
    with ntmem.open(scrub=False) as plain:
        assert plain.scrubber is None
        assert fill(plain.bank.begin).task == "mail ann@example.com"
        plain.scrubber = Scrubber()
        assert fill(plain.bank.begin).task == "mail [EMAIL]"
    with pytest.raises(TypeError, match="scrub must be"):
        ntmem.open(scrub="yes")


def test_a_task_that_grows_beyond_what_a_task_may_be_is_refused(memory: Any) -> None:
    task = "a@b.co " * 585
    assert Trajectory("a", task).task == task
    with pytest.raises(ValueError, match="task, scrubbed, has 0 to 4096 bytes"):
        memory.track_trajectory(Trajectory("a", task))
    assert memory.trajectories.count() == 0


def test_names_of_secrets_in_any_case_and_lists_of_them() -> None:
    scrubber = ntmem.Scrubber()
    said = {"clientSecret": "hunter2hunter2", "accessToken": "x", "PASSWORD": ["hunter2", ["b"], 3], "note": "hunter2"}
    found = {"clientSecret": "[API_KEY]", "accessToken": "[API_KEY]", "PASSWORD": ["[REDACTED]", ["[REDACTED]"], 3]}
    assert scrubber.nested(said) == found | {"note": "hunter2"}
    assert scrubber.nested(found) is found


def test_many_keys_that_become_equal() -> None:
    found = ntmem.Scrubber().nested({f"ann{number}@example.com": number for number in range(20_000)})
    assert list(found)[:2] == ["[EMAIL]", "[EMAIL] #2"]
    assert list(found.values()) == list(range(20_000))
