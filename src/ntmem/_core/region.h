/* The file that processes share: its header, what makes it sound, and how it is mapped.
 *
 * A leaf: plain C, no Python. Functions that fail leave errno, or a sentence in `reason`.
 */
#ifndef NTMEM_REGION_H
#define NTMEM_REGION_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc.h"

#define REGION_MAGIC 0x313076676d656d74ull /* "tmemgv01" */
/* 1: who uses one knows nothing of the hot table and its floor; 2: of leases; 3: of positions; 4: of messages */
#define REGION_LAYOUT 5
#define REGION_PAGE 4096
#define REGION_CONTROL REGION_PAGE
#define REGION_FIRST (2 * REGION_PAGE)
#define REGION_LARGE_PAGE (2ull << 20)
#define REGION_SECTIONS 16
#define REGION_IDENTITY 256
#define REGION_REASON 160
#define REGION_MIRRORED 1u
#define REGION_SPARSE 2u /* its memory is taken when it is needed: by who uses it, with fallocate() */

typedef struct {
    uint32_t kind; /* 0: the end of the table */
    uint32_t flags;
    uint64_t offset;
    uint64_t size;
} region_section_t;

typedef struct {
    uint64_t magic;
    uint32_t layout;
    uint32_t crc; /* of the page, this field being 0 */
    uint64_t size;
    uint64_t generation;
    uint32_t section_count;
    uint32_t identity_size;
    unsigned char identity[REGION_IDENTITY];
    region_section_t sections[REGION_SECTIONS];
    unsigned char zero[REGION_PAGE - 40 - REGION_IDENTITY - REGION_SECTIONS * sizeof(region_section_t)];
} region_header_t;

_Static_assert(sizeof(region_header_t) == REGION_PAGE, "the header is a page");

typedef struct {
    region_header_t header; /* a copy: what was checked is what is used */
    int fd;
    char *base;
    char *mirrors[REGION_SECTIONS]; /* the same bytes twice, one behind the other */
} region_t;

static inline uint64_t page_round_up(uint64_t size) { return (size + REGION_PAGE - 1) & ~(uint64_t)(REGION_PAGE - 1); }

static inline uint32_t region_header_crc(const region_header_t *header)
{
    region_header_t copy = *header;

    copy.crc = 0;
    return crc32c(&copy, sizeof copy);
}

/* Lays the sections out one behind the other; their kinds, flags and sizes are the caller's. */
static inline void region_header_seal(region_header_t *header)
{
    uint64_t end = REGION_FIRST;

    for (uint32_t i = 0; i < header->section_count; i++) {
        header->sections[i].offset = end;
        end += page_round_up(header->sections[i].size);
    }
    header->magic = REGION_MAGIC;
    header->layout = REGION_LAYOUT;
    header->size = end;
    header->crc = region_header_crc(header);
}

/* Nothing of the file is believed before this has returned 0, and nothing is mapped. */
static inline int region_header_check(const region_header_t *header, uint64_t file_size, char *reason)
{
    uint64_t end = REGION_FIRST;

    if (header->magic != REGION_MAGIC)
        return snprintf(reason, REGION_REASON, "its first bytes are %016" PRIx64 ", a region's are %016" PRIx64,
                        header->magic, (uint64_t)REGION_MAGIC);
    if (header->crc != region_header_crc(header))
        return snprintf(reason, REGION_REASON, "the checksum of its header is %08x, its header says %08x",
                        region_header_crc(header), header->crc);
    if (header->layout < 1 || header->layout > REGION_LAYOUT)
        return snprintf(reason, REGION_REASON, "its layout is version %u, this build knows %d", header->layout,
                        REGION_LAYOUT);
    if (header->section_count > REGION_SECTIONS || header->identity_size > REGION_IDENTITY)
        return snprintf(reason, REGION_REASON, "it claims %u sections and %u bytes of identity", header->section_count,
                        header->identity_size);
    for (uint32_t i = 0; i < header->section_count; i++) {
        const region_section_t *section = &header->sections[i];
        if (section->offset != end || section->size > UINT64_MAX / 4 - end)
            return snprintf(reason, REGION_REASON, "section %u stands at %" PRIu64 ", not at %" PRIu64, i,
                            section->offset, end);
        end += page_round_up(section->size);
    }
    if (header->size != end || file_size != end)
        return snprintf(reason, REGION_REASON,
                        "the file has %" PRIu64 " bytes, its header says %" PRIu64 ", its sections need %" PRIu64,
                        file_size, header->size, end);
    return 0;
}

/* Reads and checks; 0, or a sentence in `reason`, or -1 and errno. */
static inline int region_header_read(int fd, region_header_t *header, char *reason)
{
    struct stat about;
    ssize_t got;

    if (fstat(fd, &about) != 0)
        return -1;
    if (!S_ISREG(about.st_mode))
        return snprintf(reason, REGION_REASON, "it is no regular file (mode %o)", (unsigned)about.st_mode);
    if (about.st_uid != geteuid() || (about.st_mode & 077) != 0)
        return snprintf(reason, REGION_REASON, "it belongs to user %u with mode %o, not to user %u alone",
                        (unsigned)about.st_uid, (unsigned)about.st_mode & 0777, (unsigned)geteuid());
    do
        got = pread(fd, header, sizeof *header, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -1;
    if (got != (ssize_t)sizeof *header)
        return snprintf(reason, REGION_REASON, "it has %zd bytes, the header alone has %d", got, REGION_PAGE);
    return region_header_check(header, (uint64_t)about.st_size, reason);
}

static inline void region_unmap(region_t *region)
{
    for (int i = 0; i < REGION_SECTIONS; i++) {
        if (region->mirrors[i] != NULL)
            munmap(region->mirrors[i], 2 * region->header.sections[i].size);
        region->mirrors[i] = NULL;
    }
    if (region->base != NULL)
        munmap(region->base, region->header.size);
    region->base = NULL;
}

static inline char *region_map_twice(const region_t *region, const region_section_t *section)
{
    char *place = mmap(NULL, 2 * section->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    const int sparse = (section->flags & REGION_SPARSE) != 0; /* populating would take the memory */

    if (place == MAP_FAILED)
        return NULL;
    for (int half = 0; half < 2; half++) {
        if (mmap(place + half * section->size, section->size, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_FIXED | (half == 0 && !sparse ? MAP_POPULATE : 0), region->fd,
                 (off_t)section->offset) == MAP_FAILED) {
            munmap(place, 2 * section->size);
            return NULL;
        }
    }
    return place;
}

/* Maps a whole file where its large pages, if it has any, can be mapped as such. */
static inline char *region_map_aligned(int fd, uint64_t size)
{
    const uint64_t room = size + REGION_LARGE_PAGE;
    char *place = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *base = (char *)(((uintptr_t)place + REGION_LARGE_PAGE - 1) & ~(uintptr_t)(REGION_LARGE_PAGE - 1));
    const char *end = base + page_round_up(size);

    if (place == MAP_FAILED)
        return NULL;
    if (mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
        munmap(place, room);
        return NULL;
    }
    munmap(place, (size_t)(base - place));
    munmap((void *)end, (size_t)(place + room - end));
    return base;
}

/* Maps the file of a checked header; -1 and errno, with nothing left mapped. A forked child does not inherit it. */
static inline int region_map(region_t *region)
{
    const region_header_t *header = &region->header;
    char *base = region_map_aligned(region->fd, header->size);

    if (base == NULL)
        return -1;
    region->base = base;
    if (madvise(base, header->size, MADV_DONTFORK) != 0)
        goto failed;
    for (uint32_t i = 0; i < header->section_count; i++) {
        if ((header->sections[i].flags & REGION_MIRRORED) == 0)
            continue;
        region->mirrors[i] = region_map_twice(region, &header->sections[i]);
        if (region->mirrors[i] == NULL || madvise(region->mirrors[i], 2 * header->sections[i].size, MADV_DONTFORK) != 0)
            goto failed;
    }
    return 0;
failed : {
    const int error = errno;
    region_unmap(region);
    errno = error;
    return -1;
}
}

static inline int region_allocate(int fd, uint64_t from, uint64_t to)
{
    int error;

    do
        error = posix_fallocate(fd, (off_t)from, (off_t)(to - from));
    while (error == EINTR);
    return error;
}

/* A file without a name, so that a creator who dies leaves nothing; all its memory (but of sparse sections) is there or
 * this fails. */
static inline int region_file_create(const char *directory, const region_header_t *header)
{
    const int fd = directory == NULL ? memfd_create("ntmem", MFD_CLOEXEC)
                                     : open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    uint64_t end = REGION_FIRST;
    int error;

    if (fd < 0)
        return -1;
    error = region_allocate(fd, 0, end);
    for (uint32_t i = 0; i < header->section_count && error == 0; i++) {
        end += page_round_up(header->sections[i].size);
        if ((header->sections[i].flags & REGION_SPARSE) == 0)
            error = region_allocate(fd, header->sections[i].offset, end);
    }
    if (error == 0 && ftruncate(fd, (off_t)header->size) != 0)
        error = errno;
    if (error == 0 && fchmod(fd, 0600) != 0)
        error = errno;
    if (error == 0 && pwrite(fd, header, sizeof *header, 0) != (ssize_t)sizeof *header)
        error = errno;
    if (error == 0)
        return fd;
    close(fd);
    errno = error;
    return -1;
}

/* Gives it its name, unless that is taken (EEXIST). */
static inline int region_file_link(int fd, const char *path)
{
    char self[40];

    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
}

/* ---- fork: a child has no mapping, and must not touch the addresses ------------------------------------------- */

static uint32_t region_forks;

static inline void region_count_fork(void) { region_forks++; }

static inline int region_watch_forks(void) { return pthread_atfork(NULL, NULL, region_count_fork); }

#endif
