"""ntmem.h: what C and C++ read of a store is what Python reads; and, step by step, how slots are read and published.

In the latter every copy stops in its middle, and there something happens that in life happens only now and then.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostile import Start, regions

import ntmem

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

INCLUDE = os.path.join(os.path.dirname(ntmem.__file__), "include")
READS = int(os.environ.get("NTMEM_BOOK_READS", "300000"))
COMPILER = shutil.which("gcc") or shutil.which("clang")

SOURCE = r"""
#include <ntmem.h>
#include <stdlib.h>

typedef struct {
    double quantity, average, realized, unrealized, multiplier;
    int64_t cost, fees, funding, mark, ts_opened, ts_last, ts_closed, ts_mark, peak;
    uint64_t version, fills;
    char currency[16];
} row_t;

ntmem_book_t *book_open(const char *directory, int *error)
{
    ntmem_book_t *book = calloc(1, sizeof *book);

    if (ntmem_open(directory, book) == 0)
        return book;
    *error = errno;
    free(book);
    return NULL;
}
void book_close(ntmem_book_t *book) { ntmem_close(book); ntmem_close(book); free(book); }
int book_over(const ntmem_book_t *book) { return ntmem_is_over(book); }
uint64_t book_used(const ntmem_book_t *book) { return *book->used; }
const void *book_find(const ntmem_book_t *book, const char *a, const char *b, const char *c, const char *d)
{
    return ntmem_find(book, a, b, c, d);
}
int slot_read(const void *slot, row_t *row)
{
    ntmem_position_t p;

    if (!ntmem_read(slot, &p))
        return 0;
    *row = (row_t){ntmem_quantity(&p), ntmem_average_price(&p), ntmem_realized_pnl(&p), ntmem_unrealized_pnl(&p),
                   ntmem_multiplier(&p), (int64_t)p.cost, (int64_t)p.fees, (int64_t)p.funding, p.mark, p.ts_opened,
                   p.ts_last, p.ts_closed, p.ts_mark, p.peak, p.version, p.fills, {0}};
    memcpy(row->currency, p.currency, sizeof p.currency);
    return 1;
}
/* How many of so many reads were torn; how many states there were, and the last. */
long slot_torn(const void *slot, long reads, long *states, long *last)
{
    ntmem_position_t p;
    long torn = 0;

    *states = *last = 0;
    for (long i = 0; i < reads; i++) {
        if (!ntmem_read(slot, &p))
            return -1;
        torn += p.cost != p.quantity || p.fees != p.quantity ||
                p.fills != (uint64_t)p.quantity || p.peak != p.quantity ||
                p.realized != 0 || p.quantity < *last;
        *states += p.quantity != *last;
        *last = p.quantity;
    }
    return torn;
}
"""


class Row(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_double) for name in ("quantity", "average", "realized", "unrealized", "multiplier")),
        *((name, ctypes.c_int64) for name in ("cost", "fees", "funding", "mark", "ts_opened", "ts_last", "ts_closed")),
        *((name, ctypes.c_int64) for name in ("ts_mark", "peak")),
        *((name, ctypes.c_uint64) for name in ("version", "fills")),
        ("currency", ctypes.c_char * 16),
    ]


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    place = tmp_path_factory.mktemp("header")
    (place / "reader.c").write_text(SOURCE)
    command = [COMPILER, "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    compiled = [*command, f"-I{INCLUDE}", "-o", str(place / "reader.so"), str(place / "reader.c")]
    done = subprocess.run(compiled, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(place / "reader.so"))
    library.book_open.restype = library.book_find.restype = ctypes.c_void_p
    library.book_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    library.book_close.argtypes = library.book_over.argtypes = library.book_used.argtypes = [ctypes.c_void_p]
    library.book_used.restype = ctypes.c_uint64
    library.book_find.argtypes = [ctypes.c_void_p, *[ctypes.c_char_p] * 4]
    library.slot_read.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.slot_torn.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    library.slot_torn.restype = ctypes.c_long
    return library


@pytest.fixture
def store(ram: Path) -> Path:
    return ram / "s"


def opened(c: Any, store: Path) -> int:
    error = ctypes.c_int()
    book: int | None = c.book_open(os.fsencode(store), ctypes.byref(error))
    if book is None:
        raise OSError(error.value, os.strerror(error.value))
    return book


def find(c: Any, book: int, *key: str) -> int | None:
    slot: int | None = c.book_find(book, *(part.encode() for part in (*key, "", "", "")[:4]))
    return slot


@pytest.mark.parametrize("standard", ["c++11", "c++17", "c++20"])
def test_it_is_cpp(tmp_path: Path, standard: str) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    (tmp_path / "a.cpp").write_text(
        '#include <ntmem.h>\nint main() { ntmem_book_t b; ntmem_position_t p; if (ntmem_open("x", &b)) return 1;\n'
        'const ntmem_slot_t *s = ntmem_find(&b, "A", "", "", ""); if (s && ntmem_read(s, &p))\n'
        "return ntmem_quantity(&p) + ntmem_average_price(&p) + ntmem_realized_pnl(&p) + ntmem_unrealized_pnl(&p) > 0;\n"
        "ntmem_close(&b); return ntmem_is_over(&b); }\n"
    )
    flags = ["-fsyntax-only", f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{INCLUDE}"]
    done = subprocess.run([compiler, *flags, str(tmp_path / "a.cpp")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_c_reads_what_python_reads(c: Any, store: Path) -> None:
    keys = [("A",), ("A", "x"), ("A", "x", "y", "long"), ("ÜNI-コイン", "é"), ("F",), ("only cash",)]
    with ntmem.open(store) as memory:
        book = memory.positions
        book.define("F", price_precision=2, quantity_precision=0, multiplier="0.5", currency="USD")
        reader = opened(c, store)
        assert (c.book_used(reader), find(c, reader, "A")) == (0, None)
        for number, key in enumerate(keys[:-1], 1):
            how = dict(zip(("account", "strategy", "position_id"), key[1:], strict=False))
            book.apply_fill(key[0], -3 * number, "10.25", trade_id="1", fee="0.01", **how)
            book.apply_fill(key[0], number, "11.5", trade_id="2", **how)
            book.apply_cash(key[0], -number, cash_id="1", **how)
        book.apply_cash("only cash", 1, cash_id="1")
        book.mark("F", 12)
        for key in keys:
            row, slot = Row(), find(c, reader, *key)
            assert slot is not None
            assert c.slot_read(slot, ctypes.byref(row)) == 1
            held = book.get(*key)
            money = 10 ** (held.price_precision + held.quantity_precision)
            assert (row.quantity, row.average, row.realized) == pytest.approx(
                (held.quantity, held.average_price, held.realized_pnl), rel=1e-15
            )
            assert (row.unrealized, row.multiplier) == pytest.approx((held.unrealized_pnl, held.multiplier), rel=1e-15)
            assert (row.cost, row.fees, row.funding) == tuple(
                int(amount * money) for amount in (held.cost_decimal, held.fees_decimal, held.funding_decimal)
            )
            times = (held.ts_opened, held.ts_last, held.ts_closed, held.ts_mark)
            assert (row.ts_opened, row.ts_last, row.ts_closed, row.ts_mark) == tuple(ts or 0 for ts in times)
            assert (row.version, row.fills, row.currency.decode()) == (held.version, held.fills, held.currency)
        for key in (("B",), ("A", "y"), ("A", "x", "y"), ("",), ("a" * 300,)):
            assert find(c, reader, *key) is None
        book.ref("nothing")
        assert c.slot_read(find(c, reader, "nothing"), ctypes.byref(Row())) == 0
        assert c.book_over(reader) == 0
        slot = find(c, reader, "A")
        book.apply_fill("A", 100, 1, trade_id="3")
    assert c.book_over(reader) == 1
    c.slot_read(slot, ctypes.byref(row))  # what was last
    assert row.quantity == 98.0
    c.book_close(reader)
    with pytest.raises(FileNotFoundError):
        opened(c, store)
    with ntmem.open(store):
        reader = opened(c, store)
        c.slot_read(find(c, reader, "A"), ctypes.byref(row))
        assert (row.quantity, c.book_over(reader)) == (98.0, 0)
        c.book_close(reader)


def test_no_store_is_an_error(c: Any, ram: Path) -> None:
    for place in (ram / "none", ram, Path("/dev/null"), ram / ("a" * 5000)):
        with pytest.raises(OSError, match="rrno"):
            opened(c, place)
    with ntmem.open(ram / "lmdb", engine="lmdb"), pytest.raises(FileNotFoundError):
        opened(c, ram / "lmdb")


def test_a_store_is_not_anothers(c: Any, ram: Path) -> None:
    with ntmem.open(ram / "one") as one, ntmem.open(ram / "two") as two:
        one.positions.apply_fill("A", 1, 1, trade_id="1")
        two.positions.apply_fill("A", 2, 1, trade_id="1")
        for name, quantity in (("one", 1.0), ("two", 2.0)):
            reader, row = opened(c, ram / name), Row()
            c.slot_read(find(c, reader, "A"), ctypes.byref(row))
            assert row.quantity == quantity
            c.book_close(reader)


def test_nothing_is_torn(c: Any, store: Path, start: Start) -> None:
    writer = start(
        """
memory = ntmem.open(sys.argv[1])
p = memory.positions
p.define("A", price_precision=0, quantity_precision=0)
n = 0
stop = threading.Event()
threading.Thread(target=lambda: (hear(), stop.set()), daemon=True).start()
p.apply_fill("A", 1, 1, fee=1, trade_id="first")
say("books")
while not stop.is_set():
    p.apply_fill("A", 1, 1, fee=1, trade_id=str(n))
    n += 1
say(int(p.quantity("A")))
hear()
memory.close()
""",
        store,
    )
    assert writer.line() == "books"
    reader = opened(c, store)
    slot = find(c, reader, "A")
    states, last, seen, reads = ctypes.c_long(), ctypes.c_long(), 0, 0
    while reads < READS or seen < 100:
        assert c.slot_torn(slot, 50_000, ctypes.byref(states), ctypes.byref(last)) == 0
        reads, seen = reads + 50_000, seen + states.value - 1
    writer.tell()
    quantity = int(writer.line())
    row = Row()
    c.slot_read(slot, ctypes.byref(row))
    assert row.quantity == quantity == row.fills
    writer.tell()
    writer.end()
    assert c.book_over(reader) == 1
    c.book_close(reader)


HALVES = r"""
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *halves(void *to, const void *from, size_t size);

#ifdef NATIVE
#include "sync.h"
#define bytes_copy halves
#define memcpy halves
#include "book_table.h"
#undef memcpy
typedef book_slot_t slot_t;
typedef book_position_t position_t;
#define slot_read book_read
#define slot_publish book_publish_locked
#else
#define memcpy halves
#include <ntmem.h>
#undef memcpy
typedef ntmem_slot_t slot_t;
typedef ntmem_position_t position_t;
#define slot_read ntmem_read
static void slot_publish(slot_t *slot, const position_t *position)
{
    halves(&slot->copies[(slot->sequence + 1) & 1], position, sizeof *position);
    __atomic_store_n(&slot->sequence, slot->sequence + 1, __ATOMIC_RELEASE);
}
#endif

static slot_t slot;
static int64_t newest; /* of the states that were published wholly: 1, 2, 3 and so on */
static int publishing, reading, left;
static long beside, wrong; /* how often was read in the middle of a publication, and not what was before it */

static int64_t state_of(const position_t *p) /* -1: of two */
{
    const int64_t n = p->quantity;

    return p->version == (uint64_t)n && p->ts_mark == n && p->cost == n && p->funding == n ? n : -1;
}

static void publish(void)
{
    const int64_t n = newest + 1;
    position_t next;

    memset(&next, 0, sizeof next);
    next.version = (uint64_t)n;
    next.quantity = next.ts_mark = n;
    next.cost = next.funding = n;
    publishing = 1;
    slot_publish(&slot, &next);
    publishing = 0;
    newest = n;
}

static long read_now(void)
{
    position_t found;

    return slot_read(&slot, &found) != 0 ? (long)state_of(&found) : 0;
}

static long early; /* names that were not written yet where readers found a hash */

#ifdef NATIVE
static book_table_t *table;

static void look_at(const void *name)
{
    for (uint64_t i = 0; table != NULL && i < table->slot_count; i++)
        early += name == table->slots[i].name && table->slots[i].hash != 0;
}
#else
static void look_at(const void *name) { early += name == NULL; }
#endif

static void *halves(void *to, const void *from, size_t size)
{
    memcpy(to, from, size / 2);
    if (size == sizeof(position_t) && publishing && !reading) {
        reading = 1;
        wrong += read_now() != newest;
        beside++;
        reading = 0;
    } else if (size == sizeof(position_t) && !publishing) {
        for (; left > 0; left--)
            publish();
    }
    look_at(to);
    memcpy((char *)to + size / 2, (const char *)from + size / 2, size - size / 2);
    return to;
}

/* What a reader has in the middle of whose first copy so much is published. */
long read_beside(int publications)
{
    left = publications;
    return read_now();
}
long published(void) { return (long)newest; }
long read_in_the_middle(long *of_them_wrong)
{
    *of_them_wrong = wrong;
    return beside;
}

long read_too_early(void) { return early; }

#ifdef NATIVE
void table_make(uint64_t slots)
{
    free(table);
    table = aligned_alloc(SYNC_LINE, sizeof *table + slots * sizeof(book_slot_t));
    memset(table, 0, sizeof *table + slots * sizeof(book_slot_t));
    table->magic = BOOK_MAGIC;
    table->slot_count = slots;
}
/* The number of a name's slot; -1: there is none. */
long table_add(const char *name, uint64_t hash)
{
    const book_slot_t *made = book_make_locked(table, (const unsigned char *)name, strlen(name), hash);

    return made == NULL ? -1 : (long)(made - table->slots);
}
long table_find(const char *name, uint64_t hash)
{
    book_slot_t *room;
    const book_slot_t *found = book_find(table, (const unsigned char *)name, strlen(name), hash, &room);

    return found == NULL ? -1 : (long)(found - table->slots);
}
#endif
"""


def halves(root: Path, place: Path, kind: str) -> Any:
    """Build what copies by halves, with the native reader and writer or with ntmem.h."""
    if COMPILER is None:
        pytest.skip("there is no C compiler")
    how = ["-DNATIVE", f"-I{root / 'src/ntmem/_core'}"] if kind == "native" else ["-Wextra", f"-I{INCLUDE}"]
    (place / "halves.c").write_text(HALVES)
    command = [COMPILER, "-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", *how]
    done = subprocess.run(
        [*command, "-o", str(place / "halves.so"), str(place / "halves.c")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(place / "halves.so"))
    for name in (
        "read_beside",
        "published",
        "read_in_the_middle",
        "read_too_early",
        *["table_add", "table_find"] * (kind == "native"),
    ):
        getattr(library, name).restype = ctypes.c_long
    return library


@pytest.mark.parametrize("kind", ["native", "header"])
def test_what_is_published_in_the_middle_of_a_copy(root: Path, tmp_path: Path, kind: str) -> None:
    """A reader has a whole state, none older than the newest when it began; beside a writer, the one before."""
    library = halves(root, tmp_path, kind)
    for publications in (0, 1, 2, 3, 4, 5, 1, 2, 0):
        before = library.published()
        found = library.read_beside(publications)
        assert library.published() == before + publications
        assert before <= found <= before + publications  # -1: a half of each
    wrong = ctypes.c_long()
    assert library.read_in_the_middle(ctypes.byref(wrong)) == library.published() == 18
    assert wrong.value == 0


def test_keys_that_want_the_same_slot(root: Path, tmp_path: Path) -> None:
    library = halves(root, tmp_path, "native")
    u64 = ctypes.c_uint64
    library.table_make(u64(8))
    keys = [
        (b"A", 3),
        (b"B", 3),
        (b"C", 11),
        (b"D", 4),
        (b"BB", 3),
        (b"E", 7 + (1 << 63)),
    ]  # the last but one: a prefix
    slots = [library.table_add(name, u64(number)) for name, number in keys]
    assert (slots, library.read_too_early()) == ([3, 4, 5, 6, 7, 0], 0)
    for name, number in keys:
        assert library.table_find(name, u64(number)) == library.table_add(name, u64(number)) == slots.pop(0)
    assert library.table_add(b"F", u64(1)) == -1  # a quarter stays empty: a search for what is not there ends
    assert library.table_find(b"F", u64(3)) == library.table_find(b"A", u64(4)) == -1


def test_a_region_of_another_layout_is_not_read(c: Any, store: Path) -> None:
    with ntmem.open(store):
        (region,) = regions(store)
        with open(region, "r+b") as file, mmap.mmap(file.fileno(), 0) as words:
            words[8] += 1
            with pytest.raises(FileNotFoundError):
                opened(c, store)
            words[8] -= 1
        c.book_close(opened(c, store))
