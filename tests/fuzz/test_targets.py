"""Every target on its corpus and on changes of it, without a fuzzer: none is to rot. ``make fuzz`` is the fuzzing."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import inputs
from mutate import mutated
from registry import CORPUS, Refused, Target, promised, targets, tried

TARGETS = targets()
SLOW = {"export", "bank_lines", "database", "database_file"}
"""Each run of these opens a store."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_holds(target: Target) -> None:
    corpus = inputs.read(target.name)
    chance = random.Random(target.name)
    if target.name in SLOW:
        corpus = [*inputs.findings(target.name), chance.choice(corpus), next(iter(target.seeds()))]
    taken = [tried(target.run, data) for data in corpus]
    assert any(taken), "nothing of the corpus is taken: python tests/fuzz seeds"
    for _ in range(2 if target.name in SLOW else 100):
        tried(target.run, mutated(chance.choice(corpus), chance))


def test_the_corpus_is_of_targets() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.iterdir()) < 300_000


def test_what_is_not_promised_is_a_finding() -> None:
    def fails_at(data: bytes) -> None:
        with promised(ValueError):
            raise {b"v": ValueError("said"), b"s": ValueError(), b"k": KeyError("said")}[data]

    assert not tried(fails_at, b"v")
    for data, error in ((b"s", AssertionError), (b"k", KeyError)):
        with pytest.raises(error):
            tried(fails_at, data)
    assert not issubclass(Refused, ValueError)
