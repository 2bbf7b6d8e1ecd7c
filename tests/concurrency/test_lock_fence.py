"""The look at a lease, interleaved with its end and the next one's grant in every way there is.

The two words change between any two of its loads; nothing but that can be seen to, so the loads of ``fence.h`` are
replaced by ones that let the other side go on.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

LOADS = 6  # more than the look makes

SOURCE = """
#include "sync.h"
static uint64_t words[2]; /* number, expires */
static int (*stores)[2], store_count, done, loads;
static const int *turns; /* how many stores come before each load */
static uint64_t load(const uint64_t *word)
{
    for (int i = 0; i < turns[loads] && done < store_count; i++, done++)
        words[stores[done][0]] = (uint64_t)stores[done][1];
    loads++;
    return *word;
}
#undef __atomic_load_n
#define __atomic_load_n(word, order) load(word)
#define word_acquire(word) load(word)
#include "fence.h"
int look(uint64_t number, uint64_t expires, uint64_t asked, uint64_t now, int count, int (*what)[2], const int *when)
{
    words[0] = number;
    words[1] = expires;
    stores = what, store_count = count, turns = when;
    done = loads = 0;
    return fence_is_current((fence_word_t *)words, asked, now);
}
int loads_made(void) { return loads; }
"""


@pytest.fixture(scope="module")
def look(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no compiler")
    place = tmp_path_factory.mktemp("fence")
    (place / "look.c").write_text(SOURCE)
    headers = root / "src/ntmem/_core"
    subprocess.run(
        [
            compiler,
            "-shared",
            "-fPIC",
            "-O1",
            "-pthread",
            "-D_GNU_SOURCE",
            "-I",
            headers,
            "-o",
            place / "look.so",
            place / "look.c",
        ],
        check=True,
    )
    library = ctypes.CDLL(str(place / "look.so"))

    def run(word: tuple[int, int], asked: int, now: int, stores: list[tuple[int, int]], turns: tuple[int, ...]) -> int:
        what = ((ctypes.c_int * 2) * len(stores))(*stores)
        when = (ctypes.c_int * len(turns))(*turns)
        times = map(ctypes.c_uint64, (*word, asked, now))
        result = int(library.look(*times, len(stores), what, when))
        assert library.loads_made() <= LOADS
        return result

    return run


def turns_of(count: int) -> list[tuple[int, ...]]:
    """All ways to make `count` stores between the loads."""
    return [each for each in itertools.product(range(count + 1), repeat=LOADS) if sum(each) <= count]


NUMBER, EXPIRES = 0, 1
AFTER = {
    "given back": [(NUMBER, 0)],
    "granted anew": [(NUMBER, 0), (EXPIRES, 300), (NUMBER, 8)],
    "granted twice": [(NUMBER, 0), (EXPIRES, 300), (NUMBER, 8), (NUMBER, 0), (EXPIRES, 400), (NUMBER, 9)],
}


@pytest.mark.parametrize("what", AFTER)
def test_what_is_over_is_never_current(look: Callable[..., int], what: str) -> None:
    """Lease 7 ended at 100; it is 200, and others are granted meanwhile, until 300 and later."""
    for turns in turns_of(len(AFTER[what])):
        assert look((7, 100), 7, 200, AFTER[what], turns) == 0, turns
        for number in (0, 6, 10):
            assert look((7, 100), number, 200, AFTER[what], turns) == 0, turns


@pytest.mark.parametrize("what", AFTER)
def test_what_is_current_is_so_until_it_ends(look: Callable[..., int], what: str) -> None:
    for turns in turns_of(len(AFTER[what])):
        found = look((7, 250), 7, 200, AFTER[what], turns)
        assert found == 1 or sum(turns) > 0, turns  # while nothing has changed
        assert found == 0 or turns[0] == 0, turns  # it was taken away before the first load
    assert look((7, 250), 7, 249, [(EXPIRES, 350)], (0, 1, 0, 0, 0, 0)) == 1  # renewed
    assert look((7, 250), 7, 250, [], (0,) * LOADS) == 0
