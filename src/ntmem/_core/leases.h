/* Leases: who holds which lock until when, in shared memory. docs/design/locks.md is the specification.
 *
 * A leaf: plain C, no Python. Functions that end in `_locked` need the table's mutex, which is held for some ten
 * instructions and never while waiting. A lease is judged by its fence word alone (fence.h), which the log reads without
 * this mutex; everything else here says who may be granted next.
 */
#ifndef NTMEM_LEASES_H
#define NTMEM_LEASES_H

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "failpoint.h"
#include "fence.h"
#include "keyhash.h"
#include "log_write.h"

#define LEASE_MAGIC 0x31307361656c6e2eull /* ".nleas01" */
#define LEASE_SLOTS 2048u                 /* that are held or waited for at the same time */
#define LEASE_PLACES 1024u                /* of those who wait in order; others look again and again */
#define LEASE_NAME 255
#define LEASE_OWNER 127
#define LEASE_UNNAMED 1ull /* in place of a hash: there was a name, and it is gone */

#define LEASE_LOOK_NS 3000000ull    /* who waits looks this often whether the owner lives */
#define LEASE_PATIENCE_NS 20000000ull /* who has not looked for so long is not waited for: it is stopped, or dead */
#define LEASE_GIVEN_UP_NS 1000000000ull /* and is looked at whether it lives */

/* A process: its number alone may mean another one by now. */
typedef struct {
    uint64_t start; /* field 22 of /proc/<pid>/stat: clock ticks since boot */
    uint32_t pid;
} lease_process_t;

typedef struct {
    fence_word_t fence;
    uint64_t granted; /* CLOCK_BOOTTIME, ns */
    lease_process_t process;
    uint32_t first; /* 1 + place of who waits longest; 0: nobody waits */
    uint16_t name_size;
    uint16_t owner_size;
    uint64_t ttl;
    uint64_t grants; /* since it has this name: leases, */
    uint64_t waits;  /* those that were waited for, */
    uint64_t waited; /* how long, all in all, */
    uint64_t longest;
    unsigned char owner[LEASE_OWNER + 1]; /* what it calls itself */
    unsigned char name[LEASE_NAME + 1];
} __attribute__((aligned(SYNC_LINE))) lease_slot_t;

typedef struct {
    uint32_t slot; /* 1 + what it waits for; 0: nobody has this place */
    uint32_t next; /* 1 + place behind it; 0: it is the last */
    uint64_t ticket;
    uint64_t since;
    uint64_t pulse; /* when it looked last */
    lease_process_t process;
    uint32_t news; /* futex: 1: look again */
} __attribute__((aligned(SYNC_LINE))) lease_place_t;

typedef struct {
    uint64_t magic;
    shared_mutex_t mutex;
    uint64_t next;  /* number of the next lease: raised before it is used, */
    uint64_t limit; /* and never above this, up to which they are reserved on disk */
    uint64_t ticket;
    uint64_t grants; /* of all names: leases, */
    uint64_t waits;  /* those that were waited for, */
    uint64_t taken;  /* those that were taken from who was dead or late, */
    uint32_t held;   /* and how many may be granted at this moment (some may have expired) */
    uint64_t hashes[LEASE_SLOTS] __attribute__((aligned(SYNC_LINE))); /* of names; 0: never used, and a search ends */
    lease_place_t places[LEASE_PLACES];
    lease_slot_t slots[LEASE_SLOTS];
} lease_table_t;

typedef struct {
    lease_table_t *table;
    log_t log;
    lease_process_t process; /* this one */
} leases_t;

enum lease_outcome {
    LEASE_GRANTED,
    LEASE_HELD,       /* by another, or others have waited longer */
    LEASE_BUSY,       /* a mutex was not to be had */
    LEASE_FULL,       /* LEASE_SLOTS names are held or waited for */
    LEASE_NO_NUMBERS, /* reserve some */
    LEASE_LOST,       /* another lease, or none, is granted */
    LEASE_DAMAGED,
};

typedef struct {
    const unsigned char *name, *owner;
    size_t name_size, owner_size;
    uint64_t ttl;
    uint64_t hash;
    uint32_t place;   /* 1 + place where it waits; 0: none, */
    uint64_t ticket;  /* and what it drew there */
    uint64_t dead;    /* number of a lease whose owner is dead */
    uint64_t since;   /* when it began to wait; 0: it did not */
    /* what comes of it: */
    uint32_t slot;
    uint64_t number;  /* granted, or of who holds it: */
    uint64_t expires;
    lease_process_t holder; /* pid 0: nobody, but others have waited longer */
} lease_request_t;

/* ---- processes ------------------------------------------------------------------------------------------------ */

#define PROCESS_EXITING 4 /* PF_EXITING of the kernel's flags: it runs no more of its program, but may be long in going */

/* When a process was started; 0: it is dead, or dying, be it that nobody has waited for it yet. UINT64_MAX: cannot be
 * told. */
static inline uint64_t process_start(uint32_t pid)
{
    char path[32], text[1024], *at;
    ssize_t size;
    int file;

    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT || errno == ESRCH ? 0 : UINT64_MAX;
    size = read(file, text, sizeof text - 1);
    close(file);
    if (size <= 0)
        return size < 0 && errno == ESRCH ? 0 : UINT64_MAX;
    text[size] = 0;
    at = strrchr(text, ')'); /* the name in front may have anything in it */
    if (at == NULL || at[1] != ' ')
        return UINT64_MAX;
    at += 2;
    if (*at == 'Z' || *at == 'X' || *at == 'x')
        return 0;
    for (int field = 3; field < 22; field++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return UINT64_MAX;
        at++;
        if (field + 1 == 9 && (strtoull(at, NULL, 10) & PROCESS_EXITING) != 0)
            return 0;
    }
    return strtoull(at, NULL, 10);
}

static inline int process_is_dead(const lease_process_t *process)
{
    const uint64_t start = process_start(process->pid);

    return start == 0 || (start != UINT64_MAX && process->start != UINT64_MAX && start != process->start);
}

/* ---- making, the mutex ---------------------------------------------------------------------------------------- */

static inline int leases_create(lease_table_t *table, uint64_t next, uint64_t limit)
{
    table->next = next;
    table->limit = limit;
    table->magic = LEASE_MAGIC;
    return mutex_create(&table->mutex);
}

static inline void place_insert_locked(lease_table_t *table, uint32_t place)
{
    const uint32_t slot = table->places[place].slot - 1;
    uint32_t *link = &table->slots[slot].first;

    for (uint32_t steps = 0; *link != 0 && *link <= LEASE_PLACES && steps < LEASE_PLACES; steps++) {
        if (table->places[*link - 1].ticket > table->places[place].ticket)
            break;
        link = &table->places[*link - 1].next;
    }
    table->places[place].next = *link;
    *link = place + 1;
}

/* Whoever died with the mutex changed one slot and the row of one name. A slot is as its number says; rows are made anew
 * from the places. */
static inline void leases_repair_locked(lease_table_t *table)
{
    uint32_t held = 0;

    for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
        table->slots[i].first = 0;
        held += table->slots[i].fence.number != 0;
    }
    table->held = held;
    for (uint32_t i = 0; i < LEASE_PLACES; i++) {
        if (table->places[i].slot > LEASE_SLOTS)
            table->places[i].slot = 0;
        if (table->places[i].slot != 0)
            place_insert_locked(table, i);
    }
    FAILPOINT(lease_repaired);
}

static inline enum lease_outcome leases_take(const leases_t *leases, uint64_t wait_ns)
{
    lease_table_t *table = leases->table;

    switch (mutex_take(&table->mutex, wait_ns, leases->process.pid)) {
    case MUTEX_TAKEN:
        break;
    case MUTEX_OWNER_DIED:
        leases_repair_locked(table);
        mutex_mend(&table->mutex);
        break;
    case MUTEX_BUSY:
        return LEASE_BUSY;
    case MUTEX_BROKEN:
        return LEASE_DAMAGED;
    }
    FAILPOINT(lease_locked);
    return LEASE_GRANTED;
}

static inline void leases_give(const leases_t *leases) { mutex_release(&leases->table->mutex); }

/* ---- names ---------------------------------------------------------------------------------------------------- */

static inline uint64_t lease_hash(const unsigned char *name, size_t size)
{
    const uint64_t hash = keyhash_bytes(name, size, KEYHASH_SEED);

    return hash <= LEASE_UNNAMED ? LEASE_UNNAMED + 1 : hash;
}

/* The slot of a name, or LEASE_SLOTS. Of who has no mutex, only a hint: a name may change under it, but not while a
 * lease of it is granted. */
static inline uint32_t slot_find(lease_table_t *table, const unsigned char *name, size_t size, uint64_t hash)
{
    for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
        const uint32_t at = (uint32_t)(hash + i) % LEASE_SLOTS;
        const uint64_t found = word_acquire(&table->hashes[at]);

        if (found == 0)
            break;
        if (found == hash && __atomic_load_n(&table->slots[at].name_size, __ATOMIC_RELAXED) == size &&
            bytes_equal(table->slots[at].name, name, size))
            return at;
    }
    return LEASE_SLOTS;
}

/* Whether a write under the lease that a slot had may be in the middle of its commit (log_write.h). */
static inline int lease_is_barred(const leases_t *leases, uint32_t slot)
{
    return __atomic_load_n(&leases->log.control->fencing.word, __ATOMIC_SEQ_CST) == (uint64_t)slot + 1;
}

/* Whether another name may have a slot: nobody holds or waits for it, nor does anybody write under it yet (who is granted
 * its old name looks for the mark of another slot). */
static inline int slot_take_idle_locked(const leases_t *leases, uint32_t at, int pass, uint64_t now)
{
    lease_slot_t *slot = &leases->table->slots[at];

    if (slot->first != 0 || (slot->fence.number != 0 && !(pass >= 1 && slot->fence.expires <= now) &&
                             !(pass >= 2 && process_is_dead(&slot->process))))
        return 0;
    if (slot->fence.number != 0) {
        __atomic_store_n(&slot->fence.number, 0, __ATOMIC_SEQ_CST);
        leases->table->held--;
    }
    return !lease_is_barred(leases, at);
}

/* The slot of a name, which is given one if it has none; LEASE_SLOTS: all are in use. */
static inline uint32_t slot_make_locked(const leases_t *leases, const lease_request_t *request, uint64_t now)
{
    lease_table_t *table = leases->table;
    uint32_t found = slot_find(table, request->name, request->name_size, request->hash);
    lease_slot_t *slot;

    if (found != LEASE_SLOTS)
        return found;
    for (int pass = 0; pass < 3 && found == LEASE_SLOTS; pass++) { /* the free; then what is over; then the dead's */
        for (uint32_t i = 0; i < LEASE_SLOTS && found == LEASE_SLOTS; i++) {
            const uint32_t at = (uint32_t)(request->hash + i) % LEASE_SLOTS;

            if (slot_take_idle_locked(leases, at, pass, now))
                found = at;
        }
    }
    if (found == LEASE_SLOTS)
        return found;
    slot = &table->slots[found];
    word_release(&table->hashes[found], LEASE_UNNAMED);
    slot->grants = slot->waits = slot->waited = slot->longest = 0;
    __atomic_store_n(&slot->name_size, (uint16_t)request->name_size, __ATOMIC_RELAXED);
    bytes_copy(slot->name, request->name, request->name_size);
    FAILPOINT(lease_named);
    word_release(&table->hashes[found], request->hash);
    return found;
}

/* The slot in which the lease `number` of a name is granted, or LEASE_SLOTS. Takes no mutex. */
static inline uint32_t lease_find(lease_table_t *table, const unsigned char *name, size_t size, uint64_t number)
{
    const uint32_t found = slot_find(table, name, size, lease_hash(name, size));

    return found != LEASE_SLOTS && word_acquire(&table->slots[found].fence.number) == number ? found : LEASE_SLOTS;
}

/* ---- who waits ------------------------------------------------------------------------------------------------ */

static inline void place_leave_locked(lease_table_t *table, uint32_t place)
{
    const uint32_t slot = table->places[place].slot - 1;
    uint32_t *link;

    if (slot >= LEASE_SLOTS)
        return;
    link = &table->slots[slot].first;
    for (uint32_t steps = 0; *link != 0 && *link <= LEASE_PLACES && steps < LEASE_PLACES; steps++) {
        if (*link == place + 1) {
            *link = table->places[place].next;
            break;
        }
        link = &table->places[*link - 1].next;
    }
    FAILPOINT(lease_left);
    __atomic_store_n(&table->places[place].slot, 0, __ATOMIC_RELEASE);
}

/* Frees places of processes that are dead, among those who have not looked for long. Rare, as it asks the kernel. */
static inline void places_tidy_locked(lease_table_t *table, uint64_t now)
{
    for (uint32_t i = 0; i < LEASE_PLACES; i++) {
        const lease_place_t *place = &table->places[i];

        if (place->slot != 0 && now > place->pulse + LEASE_GIVEN_UP_NS && process_is_dead(&place->process))
            place_leave_locked(table, i);
    }
}

/* The same of one row. */
static inline void row_tidy_locked(lease_table_t *table, const lease_slot_t *slot, uint64_t now)
{
    uint32_t at = slot->first;

    for (uint32_t steps = 0; at != 0 && at <= LEASE_PLACES && steps < LEASE_PLACES; steps++) {
        const lease_place_t *place = &table->places[at - 1];
        const uint32_t next = place->next;

        if (now > place->pulse + LEASE_GIVEN_UP_NS && process_is_dead(&place->process))
            place_leave_locked(table, at - 1);
        at = next;
    }
}

/* Takes a place at the end of the row of `request->slot`, if there is one. */
static inline void place_take_locked(const leases_t *leases, lease_request_t *request, uint64_t now)
{
    lease_table_t *table = leases->table;

    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < LEASE_PLACES; i++) {
            const uint32_t at = (request->slot + i) % LEASE_PLACES;
            lease_place_t *place = &table->places[at];

            if (place->slot != 0)
                continue;
            place->next = 0;
            place->ticket = ++table->ticket;
            place->since = request->since;
            place->pulse = now;
            place->process = leases->process;
            place->news = 0;
            place->slot = request->slot + 1;
            FAILPOINT(lease_queued);
            place_insert_locked(table, at);
            request->place = at + 1;
            request->ticket = place->ticket;
            return;
        }
        places_tidy_locked(table, now);
    }
}

/* Whether somebody has waited longer for a slot, and looks: who does not is passed over. */
static inline int place_is_behind_locked(lease_table_t *table, const lease_slot_t *slot, uint32_t mine, uint64_t now)
{
    uint32_t at = slot->first;

    for (uint32_t steps = 0; at != 0 && at <= LEASE_PLACES && at != mine && steps < LEASE_PLACES; steps++) {
        if (now < table->places[at - 1].pulse + LEASE_PATIENCE_NS)
            return 1;
        at = table->places[at - 1].next;
    }
    return 0;
}

/* The futex of who is to look next, or NULL. If that one does not look, those behind it find out by themselves. */
static inline uint32_t *place_call_locked(lease_table_t *table, lease_slot_t *slot, uint64_t now)
{
    uint32_t at = slot->first;

    for (uint32_t steps = 0; at != 0 && at <= LEASE_PLACES && steps < LEASE_PLACES; steps++) {
        lease_place_t *place = &table->places[at - 1];

        if (now < place->pulse + LEASE_PATIENCE_NS) {
            __atomic_store_n(&place->news, 1, __ATOMIC_RELEASE);
            return &place->news;
        }
        at = place->next;
    }
    return NULL;
}

static inline void place_wake(uint32_t *news)
{
    if (news != NULL)
        syscall(SYS_futex, news, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* ---- granting ------------------------------------------------------------------------------------------------- */

static inline enum lease_outcome lease_grant_locked(const leases_t *leases, lease_request_t *request, uint64_t now)
{
    lease_table_t *table = leases->table;
    lease_slot_t *slot;
    uint64_t before;

    request->slot = slot_make_locked(leases, request, now);
    if (request->slot == LEASE_SLOTS)
        return LEASE_FULL;
    slot = &table->slots[request->slot];
    before = slot->fence.number;
    if (request->place != 0 && table->places[request->place - 1].ticket != request->ticket)
        request->place = 0; /* it was given up as dead's */
    if (request->place != 0) {
        table->places[request->place - 1].pulse = now;
        __atomic_store_n(&table->places[request->place - 1].news, 0, __ATOMIC_RELEASE);
    }
    request->number = before;
    request->expires = slot->fence.expires;
    request->holder = slot->process;
    if (before != 0 && now < slot->fence.expires && before != request->dead)
        return LEASE_HELD;
    request->holder.pid = 0;
    row_tidy_locked(table, slot, now);
    if (slot->first != 0 && place_is_behind_locked(table, slot, request->place, now))
        return LEASE_HELD;
    if (table->next > table->limit)
        return LEASE_NO_NUMBERS;

    request->number = table->next++; /* lost if this process dies here: no number is used twice */
    __atomic_store_n(&slot->fence.number, 0, __ATOMIC_SEQ_CST); /* from here on nothing is written under the old one */
    FAILPOINT(lease_revoked);
    request->expires = now + request->ttl;
    slot->process = leases->process;
    slot->granted = now;
    slot->ttl = request->ttl;
    slot->owner_size = (uint16_t)request->owner_size;
    bytes_copy(slot->owner, request->owner, request->owner_size);
    slot->grants++;
    table->grants++;
    table->taken += before != 0;
    table->held += before == 0;
    if (request->since != 0) {
        const uint64_t waited = now - request->since;

        slot->waits++;
        table->waits++;
        slot->waited += waited;
        if (waited > slot->longest)
            slot->longest = waited;
    }
    if (request->place != 0) {
        place_leave_locked(table, request->place - 1);
        request->place = 0;
    }
    word_release(&slot->fence.expires, request->expires);
    FAILPOINT(lease_filled);
    word_release(&slot->fence.number, request->number);
    FAILPOINT(lease_granted);
    return LEASE_GRANTED;
}

/* Waits until nothing is being written under the lease before this one; LEASE_BUSY: its process is stopped. */
static inline enum lease_outcome lease_unbar(const leases_t *leases, uint32_t slot, uint64_t wait_ns)
{
    if (!lease_is_barred(leases, slot))
        return LEASE_GRANTED;
    FAILPOINT(lease_barred);
    switch (log_take(&leases->log, wait_ns)) { /* repairs, if it died */
    case APPEND_DONE:
        log_release(&leases->log);
        return LEASE_GRANTED;
    case APPEND_BUSY:
        return lease_is_barred(leases, slot) ? LEASE_BUSY : LEASE_GRANTED;
    default:
        return LEASE_DAMAGED;
    }
}

static inline enum lease_outcome lease_free(const leases_t *leases, uint32_t at, uint64_t number, uint64_t wait_ns);

/* One look: grants the lease if it can be granted now. `queue`: take a place in the row if it cannot. `wait_ns`: for
 * mutexes alone. */
static inline enum lease_outcome lease_try(const leases_t *leases, lease_request_t *request, int queue,
                                           uint64_t wait_ns)
{
    enum lease_outcome outcome = leases_take(leases, wait_ns);
    uint64_t now;

    if (outcome != LEASE_GRANTED)
        return outcome;
    now = boot_ns();
    outcome = lease_grant_locked(leases, request, now);
    if (outcome == LEASE_HELD && queue && request->place == 0) {
        if (request->since == 0)
            request->since = now;
        place_take_locked(leases, request, now);
    }
    leases_give(leases);
    if (outcome != LEASE_GRANTED)
        return outcome;
    outcome = lease_unbar(leases, request->slot, wait_ns);
    if (outcome != LEASE_GRANTED)
        lease_free(leases, request->slot, request->number, NANOSECONDS);
    return outcome;
}

/* ---- holding -------------------------------------------------------------------------------------------------- */

static inline enum lease_outcome lease_free(const leases_t *leases, uint32_t at, uint64_t number, uint64_t wait_ns)
{
    lease_slot_t *slot = &leases->table->slots[at];
    enum lease_outcome outcome;
    uint32_t *next = NULL;

    if (word_acquire(&slot->fence.number) != number)
        return LEASE_LOST;
    outcome = leases_take(leases, wait_ns);
    if (outcome != LEASE_GRANTED)
        return outcome;
    if (slot->fence.number != number) {
        leases_give(leases);
        return LEASE_LOST;
    }
    if (slot->first != 0 || boot_ns() >= slot->fence.expires) {
        const uint64_t now = boot_ns();

        if (now >= slot->fence.expires)
            outcome = LEASE_LOST; /* it was nobody's any more, and is free all the same */
        next = place_call_locked(leases->table, slot, now);
    }
    __atomic_store_n(&slot->fence.number, 0, __ATOMIC_SEQ_CST);
    leases->table->held--;
    FAILPOINT(lease_freed);
    leases_give(leases);
    place_wake(next);
    return outcome;
}

/* The lease ends `ttl` from now, which may be earlier than before; `expires` is when. */
static inline enum lease_outcome lease_renew(const leases_t *leases, uint32_t at, uint64_t number, uint64_t ttl,
                                             uint64_t wait_ns, uint64_t *expires)
{
    lease_slot_t *slot = &leases->table->slots[at];
    enum lease_outcome outcome = leases_take(leases, wait_ns);
    uint64_t now;

    if (outcome != LEASE_GRANTED)
        return outcome;
    now = boot_ns();
    if (slot->fence.number != number || now >= slot->fence.expires) {
        outcome = LEASE_LOST;
    } else {
        *expires = now + ttl;
        word_release(&slot->fence.expires, *expires);
        FAILPOINT(lease_renewed);
    }
    leases_give(leases);
    return outcome;
}

/* Who waited does so no more. */
static inline enum lease_outcome lease_leave(const leases_t *leases, lease_request_t *request, uint64_t wait_ns)
{
    lease_table_t *table = leases->table;
    enum lease_outcome outcome;
    uint32_t *next = NULL;

    if (request->place == 0)
        return LEASE_GRANTED;
    outcome = leases_take(leases, wait_ns);
    if (outcome != LEASE_GRANTED)
        return outcome;
    if (table->places[request->place - 1].ticket == request->ticket)
        place_leave_locked(table, request->place - 1);
    request->place = 0;
    if (request->slot < LEASE_SLOTS && table->slots[request->slot].fence.number == 0) /* it may have been called, and goes without looking */
        next = place_call_locked(table, &table->slots[request->slot], boot_ns());
    leases_give(leases);
    place_wake(next);
    return LEASE_GRANTED;
}

/* Waits until who waits is called, its patience with the owner ends, or the lease expires; whether it was called. */
static inline int lease_wait(const leases_t *leases, const lease_request_t *request, uint64_t wait_ns)
{
    const uint64_t now = boot_ns();

    if (wait_ns > LEASE_LOOK_NS)
        wait_ns = LEASE_LOOK_NS;
    if (request->number != 0 && request->expires > now && request->expires - now < wait_ns)
        wait_ns = request->expires - now;
    if (request->place != 0) {
        const struct timespec limit = {0, (long)wait_ns};
        uint32_t *news = &leases->table->places[request->place - 1].news;

        syscall(SYS_futex, news, FUTEX_WAIT, 0, &limit, NULL, 0);
        return word32_acquire(news) != 0;
    } else {
        const struct timespec limit = {0, (long)(wait_ns < 1000000 ? wait_ns : 1000000)};

        nanosleep(&limit, NULL);
        return 0;
    }
}

/* Frees what a process holds. */
static inline enum lease_outcome leases_free_all(const leases_t *leases, uint64_t wait_ns)
{
    const enum lease_outcome outcome = leases_take(leases, wait_ns);
    lease_table_t *table = leases->table;

    if (outcome != LEASE_GRANTED)
        return outcome;
    for (uint32_t i = 0; i < LEASE_SLOTS; i++) {
        lease_slot_t *slot = &table->slots[i];

        if (slot->fence.number == 0 || slot->process.pid != leases->process.pid ||
            slot->process.start != leases->process.start)
            continue;
        __atomic_store_n(&slot->fence.number, 0, __ATOMIC_SEQ_CST);
        table->held--;
        place_wake(place_call_locked(table, slot, boot_ns()));
    }
    leases_give(leases);
    return outcome;
}

#endif
