/* CRC-32C (Castagnoli), by the processor's instruction where it has one, else by a table.
 *
 * A leaf: plain C, no Python. Both ways give the same number; which one is taken is decided at run time.
 */
#ifndef NTMEM_CRC_H
#define NTMEM_CRC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t crc_table[256];

__attribute__((constructor)) static void crc_table_fill(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest >> 1 ^ (0x82F63B78u & (0u - (rest & 1)));
        crc_table[byte] = rest;
    }
}

static inline uint32_t crc_portable(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint32_t crc = ~0u;

    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ bytes[i]) & 255];
    return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static inline uint32_t crc_by_instruction(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t crc = ~0u, word;

    for (; size >= sizeof word; size -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        crc = __builtin_ia32_crc32di(crc, word);
    }
    for (; size > 0; size--)
        crc = __builtin_ia32_crc32qi((uint32_t)crc, *bytes++);
    return ~(uint32_t)crc;
}
#endif

static inline uint32_t crc32c(const void *data, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc_by_instruction(data, size);
#endif
    return crc_portable(data, size);
}

#endif
