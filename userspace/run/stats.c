// SPDX-License-Identifier: Apache-2.0
#include "run/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

const struct stat_row stat_rows[STAT_COUNT] = {
#define STAT_ROW(symbol, ...) [symbol] = {__VA_ARGS__},
    STAT_TABLE(STAT_ROW)
#undef STAT_ROW
};

// Slots start on cache lines of their own.
enum { SLOT_WORDS = (STAT_COUNT + 7) / 8 * 8 };

static uint64_t nobody[SLOT_WORDS];
__thread uint64_t *_stats_slot = nobody;
static uint64_t *shared;
static unsigned shared_slots;
static int shared_fd = -1;

int stats_init(unsigned slots)
{
	size_t size = (size_t)slots * SLOT_WORDS * sizeof(uint64_t);
	int fd = memfd_create("weir-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	void *map = MAP_FAILED;
	if (ftruncate(fd, (off_t)size) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		int err = -errno;
		close(fd);
		return err;
	}
	shared = map;
	shared_slots = slots;
	shared_fd = fd;
	return 0;
}

void stats_use_slot(unsigned slot)
{
	_stats_slot = slot < shared_slots ? shared + (size_t)slot * SLOT_WORDS : nobody;
}

int stats_fd(void)
{
	return shared_fd;
}

uint64_t stats_read(enum counter counter)
{
	uint64_t sum = 0;
	for (unsigned slot = 0; slot < shared_slots; slot++)
		sum += __atomic_load_n(&shared[(size_t)slot * SLOT_WORDS + counter], __ATOMIC_RELAXED);
	return sum;
}
