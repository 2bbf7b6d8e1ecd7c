/* Scratch memory that a thread keeps between calls: a small call would spend more on pages than on its numbers.
 *
 * A thread holds one piece, up to SCRATCH_KEPT bytes. To take it is to own it: nobody else sees it until it is given
 * back, so calls within calls only get another one. The address sanitizer sees a piece of its own for every call.
 *
 * A leaf: plain C, no Python.
 */
#ifndef NTMEM_DELTA_SCRATCH_H
#define NTMEM_DELTA_SCRATCH_H

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

typedef struct {
    size_t size;
    _Alignas(64) unsigned char bytes[];
} scratch_t;

#ifdef __SANITIZE_ADDRESS__
#define SCRATCH_KEPT 0
#else
#define SCRATCH_KEPT ((size_t)16 << 20)
#endif

static pthread_once_t scratch_once = PTHREAD_ONCE_INIT;
static pthread_key_t scratch_key;
static int scratch_has_key;

static void scratch_begin(void)
{
    scratch_has_key = pthread_key_create(&scratch_key, free) == 0;
}

/* At least `size` bytes with anything in them, or NULL. */
static inline void *scratch_take(size_t size)
{
    scratch_t *scratch = NULL;

    pthread_once(&scratch_once, scratch_begin);
    if (scratch_has_key && size <= SCRATCH_KEPT && (scratch = pthread_getspecific(scratch_key)) != NULL) {
        pthread_setspecific(scratch_key, NULL);
        if (scratch->size >= size)
            return scratch->bytes;
        free(scratch);
    }
    if (size > SIZE_MAX - sizeof *scratch - 64)
        return NULL;
    scratch = aligned_alloc(64, (sizeof *scratch + size + 63) & ~(size_t)63);
    if (scratch == NULL)
        return NULL;
    scratch->size = size;
    return scratch->bytes;
}

/* `keep`: the next call may have it. */
static inline void scratch_give(void *bytes, int keep)
{
    scratch_t *scratch;

    if (bytes == NULL)
        return;
    scratch = (scratch_t *)(void *)((unsigned char *)bytes - offsetof(scratch_t, bytes));
    if (keep && scratch_has_key && scratch->size <= SCRATCH_KEPT && pthread_getspecific(scratch_key) == NULL &&
        pthread_setspecific(scratch_key, scratch) == 0)
        return;
    free(scratch);
}

#endif
