"""Scrubbing: what harmless text costs, to one pass over it and to the plain patterns; and what it adds to a step."""

import re

import pytest

import ntmem

HARMLESS = "Bought 10 AAPL at 182.50; the spread was tight, and momentum in BTC-USDT had turned after the open. "
NAMED = "ask ann@example.com or +1 415-555-2671; key sk-" + 12 * "a1B2" + ", from 10.0.0.1, card 4111 1111 1111 1111. "
SEEN = {"price": 61800.1, "spread": 0.1, "imbalance": 0.7143, "regime": "quiet"}
PLAIN = [  # as one would write them: one search for each kind
    (re.compile(pattern), tag)
    for pattern, tag in [
        (r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}\b", "[EMAIL]"),
        (r"\b\d{3}-\d{2}-\d{4}\b", "[SSN]"),
        (r"\b(?:sk-[A-Za-z0-9]{20,}|gh[po]_[A-Za-z0-9]{36}|xoxb-[A-Za-z0-9-]+)", "[API_KEY]"),
        (r"\bAKIA[A-Z0-9]{16}\b", "[AWS_KEY]"),
        (r"\b\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}\b", "[CREDIT_CARD]"),
        (r"(?:\+?1[ .-]?)?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}\b", "[PHONE]"),
        (r"\b(?:\d{1,3}\.){3}\d{1,3}\b", "[IP]"),
        (r"[?&](?:token|key|apikey|api_key|secret)=[^&\s]+", "[REDACTED]"),
        (r"\beyJ[\w-]+\.eyJ[\w-]+\.[\w-]+", "[JWT]"),
    ]
]


def plain(text):
    for pattern, tag in PLAIN:
        text = pattern.sub(tag, text)
    return text


@pytest.mark.parametrize("theirs", ["translate", "patterns"])
@pytest.mark.parametrize("size", [100, 10_000])
def test_harmless_text(ratio_to, size, theirs):
    """To one pass of str.translate, and to nine patterns one after the other."""
    scrub, text = ntmem.Scrubber(), HARMLESS * (size // 100)
    assert scrub(text) is text
    ratio_to(lambda: scrub(text), (lambda: text.translate({})) if theirs == "translate" else lambda: plain(text))


@pytest.mark.parametrize("size", [100, 10_000])
def test_text_with_six_secrets(ratio_to, size):
    """To nine patterns one after the other."""
    scrub, text = ntmem.Scrubber(), NAMED * (size // 100)
    ratio_to(lambda: scrub(text), lambda: plain(text))


def test_observation_with_and_without(ratio_to, tmp_path):
    """To the same step of a store without a scrubber: 100 of them, in a trajectory of their own."""
    with ntmem.open(tmp_path / "one", engine="shared") as one, ntmem.open(tmp_path / "two", scrub=False) as other:

        def steps(memory):
            trajectory = memory.bank.begin("agent", "task")
            for _ in range(100):
                trajectory.add_observation(SEEN)

        ratio_to(lambda: steps(one), lambda: steps(other), calls=100, repeats=1)
