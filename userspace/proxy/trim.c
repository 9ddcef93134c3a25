// SPDX-License-Identifier: Apache-2.0
#include "proxy/trim.h"

#include "base/mem.h"
#include "run/stats.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

// Below a few hundred connections there is nothing to gain.
enum { INTERVAL_MS = 1000, CONNECTIONS_MIN = 256, GROWTH_BYTES = 4 * 1024 * 1024 };

bool trim_is_due(struct trim_memory *memory, uint64_t connections, uint64_t resident)
{
	memory->peak = MAX(memory->peak, connections);
	memory->floor = memory->floor ? MIN(memory->floor, resident) : resident;
	bool gone = memory->peak >= CONNECTIONS_MIN && connections <= memory->peak / 2;
	bool grown = resident > memory->floor + GROWTH_BYTES;
	if (!gone && !grown)
		return false;
	*memory = (struct trim_memory){.peak = connections};
	return true;
}

// No stdio: its buffer would come from the allocator, second by second.
uint64_t trim_resident(void)
{
	char text[128];
	unsigned long long whole, resident;
	autoclose int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t len = read(fd, text, sizeof text - 1);
	if (len < 0)
		return 0;
	text[len] = 0;
	if (sscanf(text, "%llu %llu", &whole, &resident) != 2)
		return 0;
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void on_timer(struct loop_timer *timer)
{
	struct trim *trim = container_of(timer, struct trim, _timer);
	uint64_t connections = stats_read(STAT_OUTBOUND_ACTIVE) + stats_read(STAT_INBOUND_ACTIVE) +
			       stats_read(STAT_UPSTREAM_ACTIVE);
	if (trim_is_due(&trim->_memory, connections, trim_resident())) {
		malloc_trim(0);
		trim->_memory.floor = trim_resident();
	}
	loop_timer_start(trim->_loop, timer, INTERVAL_MS);
}

void trim_init(struct trim *trim, struct loop *loop)
{
	*trim = (struct trim){._loop = loop, ._memory.floor = trim_resident()};
	loop_timer_init(&trim->_timer, on_timer);
	loop_timer_start(loop, &trim->_timer, INTERVAL_MS);
}

void trim_done(struct trim *trim)
{
	if (trim->_loop)
		loop_timer_stop(&trim->_timer);
	*trim = (struct trim){0};
}
