"""The mapped file, for the native parts that live in it."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "region.h" nogil:
    enum:
        REGION_MIRRORED
        REGION_SPARSE
        REGION_SECTIONS
        REGION_IDENTITY
        REGION_CONTROL
        REGION_REASON

    ctypedef struct region_section_t:
        uint32_t kind
        uint32_t flags
        uint64_t offset
        uint64_t size

    ctypedef struct region_header_t:
        uint64_t size
        uint64_t generation
        uint32_t section_count
        uint32_t identity_size
        unsigned char *identity
        region_section_t *sections

    ctypedef struct region_t:
        region_header_t header
        int fd
        char *base
        char **mirrors


cdef class Region:
    cdef region_t region
    cdef const uint32_t *forks      # of this process, and how many there had been
    cdef uint32_t forks_at_mapping
    cdef readonly object path

    cdef int check_process(self) except -1
    cdef int check_open(self) except -1
    cdef char *control(self) except NULL
    cdef char *section(self, uint32_t kind, uint64_t *size) except NULL
    cdef char *section_if_any(self, uint32_t kind, uint64_t *size) noexcept
