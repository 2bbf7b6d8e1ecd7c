/* The hash of a whole key. Over bytes, as Python's own differs from process to process.
 *
 * The construction of wyhash (Wang Yi, public domain): 64 by 64 bit products, folded. It is no part of the log's
 * format: who drains a log does not look at hashes.
 */
#ifndef NTMEM_KEYHASH_H
#define NTMEM_KEYHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KEYHASH_SECRET 0xa0761d6478bd642full
#define KEYHASH_SEED 0xe7037ed1a0b428dbull

/* A key with the namespace it is in. */
typedef struct {
    const unsigned char *space;
    const unsigned char *key;
    uint32_t space_size;
    uint32_t key_size;
    uint64_t hash;
} whole_key_t;

static inline uint64_t keyhash_fold(uint64_t a, uint64_t b)
{
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t keyhash_eight(const unsigned char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t keyhash_four(const unsigned char *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t keyhash_bytes(const unsigned char *bytes, size_t size, uint64_t seed)
{
    uint64_t a = 0, b = 0;

    if (size > 16) {
        size_t left = size;
        for (; left > 16; left -= 16, bytes += 16)
            seed = keyhash_fold(keyhash_eight(bytes) ^ KEYHASH_SECRET, keyhash_eight(bytes + 8) ^ seed);
        a = keyhash_eight(bytes + left - 16);
        b = keyhash_eight(bytes + left - 8);
    } else if (size >= 4) {
        const size_t inner = (size >> 3) << 2;
        a = keyhash_four(bytes) << 32 | keyhash_four(bytes + inner);
        b = keyhash_four(bytes + size - 4) << 32 | keyhash_four(bytes + size - 4 - inner);
    } else if (size > 0) {
        a = (uint64_t)bytes[0] << 16 | (uint64_t)bytes[size >> 1] << 8 | bytes[size - 1];
    }
    return keyhash_fold(KEYHASH_SECRET ^ size, keyhash_fold(a ^ KEYHASH_SECRET, b ^ seed));
}

/* memcmp() == 0 for what is short: a call costs more than the bytes. */
static inline int keys_equal(const unsigned char *a, const unsigned char *b, size_t size)
{
    uint64_t differs = 0;

#if !defined(__SANITIZE_THREAD__)
    if (size >= 8) {
        for (size_t at = 0; at + 8 < size; at += 8)
            differs |= keyhash_eight(a + at) ^ keyhash_eight(b + at);
        return (differs | (keyhash_eight(a + size - 8) ^ keyhash_eight(b + size - 8))) == 0;
    }
#endif
    for (size_t at = 0; at < size; at++)
        differs |= (uint64_t)(__atomic_load_n(&a[at], __ATOMIC_RELAXED) ^ b[at]);
    return differs == 0;
}

static inline uint64_t keyhash(const unsigned char *space, size_t space_size, const unsigned char *key, size_t key_size)
{
    return keyhash_bytes(key, key_size, keyhash_bytes(space, space_size, KEYHASH_SEED));
}

#endif
