"""The C leaves of leases, declared for Cython; leases.h has what they mean."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from ntmem._core.logformat cimport fence_word_t, log_t, shared_mutex_t


cdef extern from "leases.h" nogil:
    const uint64_t LEASE_MAGIC
    enum:
        LEASE_SLOTS
        LEASE_PLACES
        LEASE_NAME
        LEASE_OWNER

    ctypedef struct lease_process_t:
        uint64_t start
        uint32_t pid

    ctypedef struct lease_slot_t:
        fence_word_t fence
        uint64_t granted
        lease_process_t process
        uint32_t first
        uint16_t name_size, owner_size
        uint64_t ttl, grants, waits, waited, longest
        unsigned char *owner
        unsigned char *name

    ctypedef struct lease_place_t:
        uint32_t slot, next

    ctypedef struct lease_table_t:
        uint64_t magic
        shared_mutex_t mutex
        uint64_t next, limit, grants, waits, taken
        uint32_t held
        lease_place_t *places
        lease_slot_t *slots

    ctypedef struct leases_t:
        lease_table_t *table
        log_t log
        lease_process_t process

    enum lease_outcome:
        LEASE_GRANTED
        LEASE_HELD
        LEASE_BUSY
        LEASE_FULL
        LEASE_NO_NUMBERS
        LEASE_LOST
        LEASE_DAMAGED

    ctypedef struct lease_request_t:
        const unsigned char *name
        const unsigned char *owner
        size_t name_size, owner_size
        uint64_t ttl, hash
        uint32_t place
        uint64_t ticket, dead, since
        uint32_t slot
        uint64_t number, expires
        lease_process_t holder

    uint64_t process_start(uint32_t pid) noexcept
    bint process_is_dead(const lease_process_t *process) noexcept
    int leases_create(lease_table_t *table, uint64_t next, uint64_t limit) noexcept
    lease_outcome leases_take(const leases_t *leases, uint64_t wait_ns) noexcept
    void leases_give(const leases_t *leases) noexcept
    void row_tidy_locked(lease_table_t *table, const lease_slot_t *slot, uint64_t now) noexcept
    uint64_t lease_hash(const unsigned char *name, size_t size) noexcept
    uint32_t lease_find(lease_table_t *table, const unsigned char *name, size_t size, uint64_t number) noexcept
    uint32_t slot_find(lease_table_t *table, const unsigned char *name, size_t size, uint64_t hash) noexcept
    lease_outcome lease_try(const leases_t *leases, lease_request_t *request, bint queue, uint64_t wait_ns) noexcept
    lease_outcome lease_free(const leases_t *leases, uint32_t at, uint64_t number, uint64_t wait_ns) noexcept
    lease_outcome lease_renew(
        const leases_t *leases, uint32_t at, uint64_t number, uint64_t ttl, uint64_t wait_ns, uint64_t *expires
    ) noexcept
    lease_outcome lease_leave(const leases_t *leases, lease_request_t *request, uint64_t wait_ns) noexcept
    bint lease_wait(const leases_t *leases, const lease_request_t *request, uint64_t wait_ns) noexcept
    lease_outcome leases_free_all(const leases_t *leases, uint64_t wait_ns) noexcept
