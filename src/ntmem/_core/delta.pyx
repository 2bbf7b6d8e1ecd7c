"""Numeric series in few bytes, lossless: what ``ntmem.delta`` is made of.

Layout
------
A series is::

    magic "NTD1" | type u8 | flags u8 | zero u16 | count u64 | block length u32 | crc u32     24 bytes
    size of each block, u32
    blocks: bytes of delta_block.h | crc u32

All blocks but the last hold `block length` numbers, 65,536 at most. The first CRC-32C is over what stands before it
and the sizes, that of a block over its bytes. Flag 1: a guess by other columns was taken off, and is wanted again.

Invariants
----------
1. Numbers of types, modes, kinds and forms never change meaning; another layout gets another magic.
2. What the header says is held against the size of the data before anything is allocated by it.
3. Every block is copied before it is checked and decoded: nobody can change it between.
4. While the GIL is released only C memory is touched, and all buffers are held.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset


cdef extern from "crc.h" nogil:
    uint32_t crc32c(const void *data, size_t size) noexcept


cdef extern from "delta_scratch.h" nogil:
    void *scratch_take(size_t size) noexcept
    void scratch_give(void *bytes, bint keep) noexcept


cdef extern from "delta_block_read.h" nogil:
    void delta_vectors_use(bint wanted) noexcept
    void lanes_begin() noexcept
    enum:
        DELTA_BLOCK
        DELTA_SLACK
    ctypedef struct block_work_t:
        pass
    ctypedef struct block_room_t:
        pass
    ctypedef struct guess_t:
        unsigned kind
        const unsigned char *left
        const unsigned char *right

    size_t number_size(unsigned type) noexcept
    size_t block_room(size_t n) noexcept
    unsigned char *block_encode(
        block_work_t *work, unsigned type, const unsigned char *numbers, size_t n, const guess_t *guess, int level,
        unsigned char *out
    ) noexcept
    int block_decode(
        block_room_t *room, unsigned type, unsigned char *data, size_t data_size, const guess_t *guess,
        size_t n, unsigned char *numbers
    ) noexcept
    float block_estimate(
        block_work_t *work, unsigned type, const unsigned char *numbers, size_t n, const guess_t *guess, int level
    ) noexcept


lanes_begin()
delta_vectors_use(True)


cdef enum:
    MAGIC = 0x3144544E
    HEADER = 24
    FLAG_GUESSED = 1
    KEPT = 16384  # scratch of longer blocks is not kept


ctypedef struct header_t:
    uint32_t magic
    uint8_t type
    uint8_t flags
    uint8_t zero[2]
    uint64_t count
    uint32_t block
    uint32_t crc


class Damaged(ValueError):
    """Data that is no series, or not any more."""


cdef int guess_of(
    guess_t *guess, int kind, const unsigned char[::1] left, const unsigned char[::1] right, size_t size
) except -1:
    # Not returned: line tracing shows a returned struct to Python, and would take its pointers for strings.
    guess[0] = guess_t(<unsigned>kind, NULL, NULL)
    if kind < 0 or kind > 3:
        raise ValueError(f"kind must be 0 to 3, was {kind}")
    if kind > 0:
        if left is None or <size_t>left.shape[0] != size:
            raise ValueError("left must have as many numbers of the same type")
        guess.left = &left[0] if size else NULL
    if kind > 1:
        if right is None or <size_t>right.shape[0] != size:
            raise ValueError("right must have as many numbers of the same type")
        guess.right = &right[0] if size else NULL
    return 0


cdef size_t size_of(int type) except 0:
    if type < 0 or number_size(<unsigned>type) == 0:
        raise ValueError(f"type must be 1 to 11, was {type}")
    return number_size(<unsigned>type)


def encode(
    const unsigned char[::1] numbers not None, int type, int level, int kind=0,
    const unsigned char[::1] left=None, const unsigned char[::1] right=None
):
    """Code the bytes of numbers of a type; `kind`, `left`, `right` are the guess."""
    cdef size_t width = size_of(type)
    cdef size_t size = numbers.shape[0]
    cdef size_t count = size // width
    if count * width != size:
        raise ValueError(f"numbers must be whole numbers of {width} bytes, were {size} bytes")
    if level != 0 and level != 1:
        raise ValueError(f"level must be 0 or 1, was {level}")
    cdef guess_t guess
    guess_of(&guess, kind, left, right, size)
    cdef guess_t at = guess
    cdef size_t n_blocks = (count + DELTA_BLOCK - 1) // DELTA_BLOCK
    cdef size_t block = (count + n_blocks - 1) // n_blocks if n_blocks else 1
    cdef size_t used = HEADER + 4 * n_blocks
    cdef size_t room = used + n_blocks * (block * width + 5) + block_room(block) + 8
    cdef const unsigned char *first = &numbers[0] if size else NULL
    cdef block_work_t *work = <block_work_t *>scratch_take(sizeof(block_work_t))
    cdef unsigned char *out = <unsigned char *>malloc(room)
    cdef header_t header
    cdef uint32_t word
    cdef size_t number, begin, n, taken
    try:
        if out == NULL or work == NULL:
            raise MemoryError(f"no memory to code {size} bytes")
        with nogil:
            for number in range(n_blocks):
                begin = number * block
                n = block if count - begin > block else count - begin
                if kind > 0:
                    at.left = guess.left + begin * width
                if kind > 1:
                    at.right = guess.right + begin * width
                taken = block_encode(work, type, first + begin * width, n, &at, level, out + used) - (out + used)
                word = crc32c(out + used, taken)
                memcpy(out + used + taken, &word, 4)
                word = <uint32_t>(taken + 4)
                memcpy(out + HEADER + 4 * number, &word, 4)
                used += taken + 4
            memset(&header, 0, sizeof(header))
            header.magic = MAGIC
            header.type = <uint8_t>type
            header.flags = FLAG_GUESSED if kind else 0
            header.count = count
            header.block = <uint32_t>block
            # The place of the CRC holds 0 meanwhile.
            memcpy(out, &header, HEADER)
            header.crc = crc32c(out, HEADER + 4 * n_blocks)
            memcpy(out, &header, HEADER)
        return (<const unsigned char *>out)[:used]
    finally:
        free(out)
        scratch_give(work, block <= KEPT)


cdef header_t header_of(const unsigned char[::1] data, uint32_t **sizes) except *:
    """The header, held against all of the data; `sizes` is to be freed."""
    cdef size_t size = data.shape[0]
    cdef header_t header
    cdef uint64_t n_blocks, total
    cdef size_t index, i
    cdef unsigned char *copy
    cdef uint32_t crc
    sizes[0] = NULL
    if size < HEADER:
        raise Damaged(f"a series has at least {HEADER} bytes, there are {size}")
    memcpy(&header, &data[0], HEADER)
    if header.magic != MAGIC:
        raise Damaged("this is no series of this format: it does not begin with NTD1")
    if number_size(header.type) == 0 or header.block == 0 or header.block > DELTA_BLOCK:
        raise Damaged("the header of the series is damaged")
    n_blocks = header.count // header.block + (header.count % header.block != 0)
    if n_blocks > (size - HEADER) // 4:
        raise Damaged(f"the series should have {n_blocks} blocks, too many for {size} bytes")
    index = HEADER + 4 * <size_t>n_blocks
    copy = <unsigned char *>malloc(index)
    if copy == NULL:
        raise MemoryError(f"no memory for {index} bytes")
    try:
        memcpy(copy, &data[0], index)
        memcpy(&header, copy, HEADER)
        crc = header.crc
        memset(copy + 20, 0, 4)
        if crc != crc32c(copy, index):
            raise Damaged("the header of the series is damaged")
        total = index
        sizes[0] = <uint32_t *>calloc(n_blocks + 1, 4)
        if sizes[0] == NULL:
            raise MemoryError(f"no memory for the sizes of {n_blocks} blocks")
        memcpy(sizes[0], copy + HEADER, index - HEADER)
        for i in range(n_blocks):
            total += sizes[0][i]
        if total != size:
            free(sizes[0])
            sizes[0] = NULL
            raise Damaged(f"the series should have {total} bytes, there are {size}")
    finally:
        free(copy)
    return header


def describe(const unsigned char[::1] data not None):
    """Type, flags, count and block length of a series whose header is sound."""
    cdef uint32_t *sizes
    cdef header_t header = header_of(data, &sizes)
    free(sizes)
    return header.type, header.flags, header.count, header.block


def decode(
    const unsigned char[::1] data not None, unsigned char[::1] numbers not None, uint64_t first_block=0, int kind=0,
    const unsigned char[::1] left=None, const unsigned char[::1] right=None
):
    """Decode whole blocks from `first_block` on, as many as fill `numbers`."""
    cdef uint32_t *sizes
    cdef header_t header = header_of(data, &sizes)
    cdef size_t width = number_size(header.type), size = numbers.shape[0], at = 0, done = 0, block_size, n
    cdef uint64_t number = 0
    cdef uint64_t n_blocks = header.count // header.block + (header.count % header.block != 0)
    cdef size_t most = header.block * width + 5
    cdef const unsigned char *bytes = &data[0]
    cdef unsigned char *out = &numbers[0] if size else NULL
    cdef unsigned char *copy = NULL
    cdef block_room_t *room = NULL
    cdef uint32_t crc
    cdef int64_t bad = -1
    cdef guess_t guess
    cdef guess_t moved
    try:
        guess_of(&guess, kind, left, right, size)
        if (kind != 0) != (header.flags & FLAG_GUESSED):
            raise Damaged("the series is coded by other columns: decode it with them")
        room = <block_room_t *>scratch_take(sizeof(block_room_t) + most + DELTA_SLACK)
        if room == NULL:
            raise MemoryError(f"no memory to decode a block of {header.block} numbers")
        copy = <unsigned char *>(room + 1)
        moved = guess
        with nogil:
            at = HEADER + 4 * <size_t>n_blocks
            for number in range(n_blocks):
                block_size = sizes[number]
                if number < first_block:
                    at += block_size
                    continue
                if done >= size:
                    break
                n = header.block
                if header.count - number * header.block < n:
                    n = <size_t>(header.count - number * header.block)
                if n * width > size - done or block_size < 5 or block_size > most:
                    bad = <int64_t>number
                    break
                memcpy(copy, bytes + at, block_size)
                memcpy(&crc, copy + block_size - 4, 4)
                memset(copy + block_size - 4, 0, DELTA_SLACK)
                if kind > 0:
                    moved.left = guess.left + done
                if kind > 1:
                    moved.right = guess.right + done
                if (
                    crc != crc32c(copy, block_size - 4)
                    or block_decode(room, header.type, copy, block_size - 4, &moved, n, out + done) != 0
                ):
                    bad = <int64_t>number
                    break
                at += block_size
                done += n * width
        if bad >= 0:
            raise Damaged(f"block {bad} of {n_blocks} is damaged")
        if done != size:
            raise ValueError(f"numbers must have room for whole blocks, had {size} bytes, blocks have {done}")
    finally:
        free(sizes)
        scratch_give(room, header.block <= KEPT)


def estimate(
    const unsigned char[::1] numbers not None, int type, int kind=0,
    const unsigned char[::1] left=None, const unsigned char[::1] right=None
):
    """How many bits the first block would take, about."""
    cdef size_t width = size_of(type)
    cdef size_t size = numbers.shape[0]
    cdef size_t n = min(size // width, <size_t>DELTA_BLOCK)
    cdef guess_t guess
    cdef block_work_t *work
    cdef const unsigned char *first
    cdef float bits
    guess_of(&guess, kind, left, right, size)
    if n == 0:
        return 0.0
    first = &numbers[0]
    work = <block_work_t *>scratch_take(sizeof(block_work_t))
    if work == NULL:
        raise MemoryError("no memory for an estimate")
    with nogil:
        bits = block_estimate(work, type, first, n, &guess, 0)
    scratch_give(work, n <= KEPT)
    return bits


def use_vectors(bint wanted):
    """Whether to use AVX2 where the processor has it: tests compare both."""
    delta_vectors_use(wanted)


def crc(const unsigned char[::1] data not None):
    """The CRC-32C of some bytes."""
    return crc32c(&data[0], data.shape[0]) if data.shape[0] else 0
