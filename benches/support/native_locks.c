/* How long acquire and release take natively, one by one and in turns with the locks of the system: prints JSON.
 *
 * Compiled by the benchmark against src/ntmem/_core, for leases.h is plain C over pthreads. Arguments: rounds, calls.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>

#include "leases.h"

enum { LEASE, ROBUST, PLAIN, FLOCK, OFD, NOTHING, KINDS };
static const char *const NAMES[] = {"lease", "robust mutex", "plain mutex", "flock", "OFD lock", "the clock alone"};

static leases_t leases;
static pthread_mutex_t robust, plain = PTHREAD_MUTEX_INITIALIZER;
static int file;

static uint64_t clock_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + (uint64_t)time.tv_nsec;
}

static void lease_once(void)
{
    static lease_request_t request;

    memset(&request, 0, sizeof request);
    request.name = (const unsigned char *)"BTCUSDT";
    request.name_size = 7;
    request.owner = (const unsigned char *)"agent_1";
    request.owner_size = 7;
    request.hash = lease_hash(request.name, request.name_size);
    request.ttl = 30 * NANOSECONDS;
    if (lease_try(&leases, &request, 0, 0) != LEASE_GRANTED ||
        lease_free(&leases, request.slot, request.number, 0) != LEASE_GRANTED)
        abort();
}

static void ofd(short type)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_len = 1};

    if (fcntl(file, F_OFD_SETLKW, &lock) != 0)
        abort();
}

static void once(int kind)
{
    switch (kind) {
    case LEASE:
        lease_once();
        break;
    case ROBUST:
        pthread_mutex_lock(&robust);
        pthread_mutex_unlock(&robust);
        break;
    case PLAIN:
        pthread_mutex_lock(&plain);
        pthread_mutex_unlock(&plain);
        break;
    case FLOCK:
        if (flock(file, LOCK_EX) != 0 || flock(file, LOCK_UN) != 0)
            abort();
        break;
    case OFD:
        ofd(F_WRLCK);
        ofd(F_UNLCK);
        break;
    }
}

static int compare(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

int main(int count, char **arguments)
{
    const size_t rounds = count > 1 ? (size_t)atol(arguments[1]) : 100;
    const size_t calls = count > 2 ? (size_t)atol(arguments[2]) : 1000;
    const size_t size = sizeof(lease_table_t) + sizeof(log_control_t) + 4096;
    uint64_t *times[KINDS], *batches[KINDS];
    pthread_mutexattr_t shared;
    char name[] = "/tmp/native-locks-XXXXXX";
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || (file = mkstemp(name)) < 0 || unlink(name) != 0)
        return 1;
    leases.table = (lease_table_t *)memory;
    leases.log.control = (log_control_t *)(memory + (sizeof(lease_table_t) + 4095) / 4096 * 4096);
    leases.process.pid = (uint32_t)getpid();
    leases.process.start = process_start(leases.process.pid);
    if (leases_create(leases.table, 1, UINT64_MAX) != 0)
        return 1;
    pthread_mutexattr_init(&shared);
    pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &shared);
    for (int kind = 0; kind < KINDS; kind++) {
        times[kind] = calloc(rounds * calls, sizeof *times[kind]);
        batches[kind] = calloc(rounds, sizeof *batches[kind]);
        if (times[kind] == NULL || batches[kind] == NULL)
            return 1;
    }
    for (size_t round = 0; round < rounds; round++) {
        for (int kind = 0; kind < KINDS; kind++) {
            uint64_t start = clock_ns();

            for (size_t i = 0; i < calls; i++)
                once(kind);
            batches[kind][round] = clock_ns() - start;
            for (size_t i = 0; i < calls; i++) {
                start = clock_ns();
                once(kind);
                times[kind][round * calls + i] = clock_ns() - start;
            }
        }
    }
    printf("{");
    for (int kind = 0; kind < KINDS; kind++) {
        const size_t n = rounds * calls;

        qsort(times[kind], n, sizeof *times[kind], compare);
        qsort(batches[kind], rounds, sizeof *batches[kind], compare);
        printf("%s\"%s\": {\"batch\": %.1f, \"p50\": %lu, \"p99\": %lu, \"p99.9\": %lu}", kind ? ", " : "", NAMES[kind],
               (double)batches[kind][rounds / 2] / (double)calls, times[kind][n / 2], times[kind][n * 99 / 100],
               times[kind][n * 999 / 1000]);
    }
    printf("}\n");
    return 0;
}
