/* The same code for two kinds of processors: any, and those with AVX2, which is asked at run time.
 *
 * Both are compiled from one source and give the same bytes: no FMA, which would round products otherwise.
 *
 * A leaf: plain C, no Python, no allocation.
 */
#ifndef NTMEM_DELTA_VECTOR_H
#define NTMEM_DELTA_VECTOR_H

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 11
#define DELTA_HAS_VECTORS 1
#else
#define DELTA_HAS_VECTORS 0
#endif

static int delta_vectors; /* 1: use them; set before anything is coded, and by tests, which compare both */

static inline void delta_vectors_use(int wanted)
{
    int found = 0;
#if DELTA_HAS_VECTORS
    found = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
            __builtin_cpu_supports("lzcnt") && __builtin_cpu_supports("popcnt");
#endif
    __atomic_store_n(&delta_vectors, wanted && found, __ATOMIC_RELAXED);
}

/* Makes NAME of PLAIN, compiled twice with all that it calls. */
#if DELTA_HAS_VECTORS
#define DELTA_TWICE(RESULT, NAME, PLAIN, PARAMETERS, ARGUMENTS)                                                        \
    __attribute__((target("avx2,bmi,bmi2,lzcnt,popcnt"), flatten, noinline)) static RESULT                             \
        NAME##_with_vectors PARAMETERS                                                                                 \
    {                                                                                                                  \
        return PLAIN ARGUMENTS;                                                                                        \
    }                                                                                                                  \
    __attribute__((noinline)) static RESULT NAME PARAMETERS                                                            \
    {                                                                                                                  \
        return __atomic_load_n(&delta_vectors, __ATOMIC_RELAXED) ? NAME##_with_vectors ARGUMENTS : PLAIN ARGUMENTS;    \
    }
#else
#define DELTA_TWICE(RESULT, NAME, PLAIN, PARAMETERS, ARGUMENTS)                                                        \
    __attribute__((noinline)) static RESULT NAME PARAMETERS                                                            \
    {                                                                                                                  \
        return PLAIN ARGUMENTS;                                                                                        \
    }
#endif

#endif
