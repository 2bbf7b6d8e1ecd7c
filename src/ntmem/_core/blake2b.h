/* BLAKE2b without a key, digests of 16 bytes: what stands for names that are too long for a key on disk.
 *
 * A leaf: plain C, no Python. Written from RFC 7693; the same as Python's hashlib.blake2b(data, digest_size=16).
 */
#ifndef NTMEM_BLAKE2B_H
#define NTMEM_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLAKE2B_BLOCK 128
#define BLAKE2B_DIGEST 16

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are taken from bytes as they stand");

static const uint64_t blake2b_iv[8] = {
    0x6a09e667f3bcc908ull, 0xbb67ae8584caa73bull, 0x3c6ef372fe94f82bull, 0xa54ff53a5f1d36f1ull,
    0x510e527fade682d1ull, 0x9b05688c2b3e6c1full, 0x1f83d9abfb41bd6bull, 0x5be0cd19137e2179ull,
};

static const unsigned char blake2b_sigma[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

static inline uint64_t blake2b_rotated(uint64_t word, int bits) { return word >> bits | word << (64 - bits); }

static inline void blake2b_mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
    v[a] += v[b] + x;
    v[d] = blake2b_rotated(v[d] ^ v[a], 32);
    v[c] += v[d];
    v[b] = blake2b_rotated(v[b] ^ v[c], 24);
    v[a] += v[b] + y;
    v[d] = blake2b_rotated(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = blake2b_rotated(v[b] ^ v[c], 63);
}

/* `count` bytes have gone in with this block. */
static inline void blake2b_compress(uint64_t *state, const unsigned char *block, uint64_t count, int last)
{
    uint64_t v[16], m[16];

    memcpy(m, block, sizeof m);
    memcpy(v, state, 8 * sizeof *v);
    memcpy(v + 8, blake2b_iv, sizeof blake2b_iv);
    v[12] ^= count; /* its upper half is 0: nothing in memory has 2**64 bytes */
    if (last)
        v[14] = ~v[14];
    for (int round = 0; round < 12; round++) {
        const unsigned char *s = blake2b_sigma[round % 10];
        blake2b_mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
        blake2b_mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
        blake2b_mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
        blake2b_mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
        blake2b_mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
        blake2b_mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
        blake2b_mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
        blake2b_mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

static inline void blake2b_digest(unsigned char *digest, const void *data, size_t size)
{
    const unsigned char *bytes = data;
    unsigned char block[BLAKE2B_BLOCK] = {0};
    uint64_t state[8];
    uint64_t count = 0;

    memcpy(state, blake2b_iv, sizeof state);
    state[0] ^= 0x01010000ull ^ BLAKE2B_DIGEST;
    for (; size - count > BLAKE2B_BLOCK; bytes += BLAKE2B_BLOCK) { /* a full last block is still the last one */
        count += BLAKE2B_BLOCK;
        blake2b_compress(state, bytes, count, 0);
    }
    if (size > count)
        memcpy(block, bytes, size - count);
    blake2b_compress(state, block, size, 1);
    memcpy(digest, state, BLAKE2B_DIGEST);
}

#endif
