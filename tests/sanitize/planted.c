/* Faults that the sanitizers must report, or their silence about the rest means nothing. With the words of sync.h: built
 * with NTMEM_PLANTED_RACE a store of theirs is a plain one. */
#include <pthread.h>
#include <stdlib.h>

#include "sync.h"

#define TURNS 10000

static uint64_t word;

static void *write_word(void *unused)
{
    for (uint64_t i = 0; i < TURNS; i++)
        word_release(&word, i);
    return unused;
}

uint64_t share_a_word(void)
{
    pthread_t writer;
    uint64_t seen = 0;

    if (pthread_create(&writer, NULL, write_word, NULL) != 0)
        return 0;
    for (int i = 0; i < TURNS; i++)
        seen |= word_acquire(&word);
    pthread_join(writer, NULL);
    return seen | 1;
}

/* `size` 16 is right, 17 one too many. */
int fill(int size)
{
    char *bytes = malloc(16);
    int last;

    if (bytes == NULL)
        return -1;
    for (volatile int i = 0; i < size; i++)
        bytes[i] = (char)i;
    last = bytes[15];
    free(bytes);
    return last;
}

/* 32 is undefined. */
int shift(int by) { return 1 << by; }
