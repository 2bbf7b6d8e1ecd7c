/* What mutex_take() says of a mutex that is free, held by another process, and left by a dead one; prints how it waits. */
#define _GNU_SOURCE
#include "sync.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

static shared_mutex_t *mutex;

static int said_by_child(int dies)
{
    const pid_t child = fork();
    int status;

    if (child == 0) {
        const int outcome = (int)mutex_take(mutex, 20 * 1000 * 1000, (uint32_t)getpid());
        if (!dies && outcome == MUTEX_TAKEN)
            mutex_release(mutex);
        _exit(outcome);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int main(void)
{
    mutex = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (mutex == MAP_FAILED || mutex_create(mutex) != 0)
        return 1;
    if (said_by_child(0) != MUTEX_TAKEN || mutex_take(mutex, 0, 1) != MUTEX_TAKEN)
        return 2;
    if (said_by_child(0) != MUTEX_BUSY)
        return 3;
    mutex_release(mutex);
    if (said_by_child(1) != MUTEX_TAKEN || mutex_take(mutex, 20 * 1000 * 1000, 1) != MUTEX_OWNER_DIED)
        return 4;
    mutex_mend(mutex);
    mutex_release(mutex);
    if (said_by_child(0) != MUTEX_TAKEN)
        return 5;
    puts(pthread_mutex_clocklock != NULL ? "waits" : "polls");
    return 0;
}
