"""A whole key and its hash, for native parts."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "keyhash.h" nogil:
    ctypedef struct whole_key_t:
        const unsigned char *space
        const unsigned char *key
        uint32_t space_size, key_size
        uint64_t hash

    uint64_t KEYHASH_SEED
    uint64_t keyhash_bytes(const unsigned char *bytes, size_t size, uint64_t seed) noexcept
    bint keys_equal(const unsigned char *a, const unsigned char *b, size_t size) noexcept
    uint64_t keyhash(const unsigned char *space, size_t space_size, const unsigned char *key, size_t size) noexcept
