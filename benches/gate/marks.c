/* What valgrind counts between marks. Outside of valgrind the marks do nothing. */
#include <valgrind/callgrind.h>

void mark_begin(void) { CALLGRIND_ZERO_STATS; }
void mark_end(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }
