// SPDX-License-Identifier: Apache-2.0
#include "net/bypass.h"

#include "base/mem.h"
#include "bpf/bypass.h"
#include "run/stats.h"

#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const uint32_t none;
const volatile uint32_t *_bypass_turns = &none, *_bypass_refusals = &none;
static struct bypass_handles current = {-1, -1, &none, &none};
static struct weir_bypass_counts published;

void bypass_set(const struct bypass_handles *handles)
{
	current = handles ? *handles : (struct bypass_handles){-1, -1, &none, &none};
	_bypass_turns = current.turns;
	_bypass_refusals = current.refusals;
	bypass_read_counts(&published);
}

bool bypass_is_on(void)
{
	return current.sockets >= 0;
}

static int map_call(enum bpf_cmd command, int map, const void *key, void *value)
{
	union bpf_attr attr = {.map_fd = (uint32_t)map, .key = (uintptr_t)key, .value = (uintptr_t)value};
	return (int)syscall(SYS_bpf, command, &attr, sizeof attr);
}

bool bypass_has(int fd)
{
	uint64_t cookie, value;
	socklen_t len = sizeof cookie;
	return bypass_is_on() && getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 &&
	       map_call(BPF_MAP_LOOKUP_ELEM, current.sockets, &cookie, &value) == 0;
}

size_t bypass_sockets(void)
{
	uint64_t key, next;
	size_t count = 0;
	int more = bypass_is_on() ? map_call(BPF_MAP_GET_NEXT_KEY, current.sockets, NULL, &next) : -1;
	for (; more == 0 && count < BYPASS_SOCKETS_MAX; count += key != BYPASS_DEAD_END) {
		key = next;
		more = map_call(BPF_MAP_GET_NEXT_KEY, current.sockets, &key, &next);
	}
	return count;
}

// CPUs that may ever be there: the kernel writes a value for each.
static size_t cpu_count(void)
{
	unsigned first, last = 0;
	FILE *file = fopen("/sys/devices/system/cpu/possible", "re");
	if (file && fscanf(file, "%u-%u", &first, &last) < 2)
		last = 0;
	if (file)
		fclose(file);
	return (size_t)last + 1;
}

void bypass_read_counts(struct weir_bypass_counts *ret_counts)
{
	uint32_t zero = 0;
	size_t cpus = bypass_is_on() ? cpu_count() : 0;
	struct weir_bypass_counts *each = cpus ? mem_array(cpus, sizeof *each) : NULL;
	*ret_counts = (struct weir_bypass_counts){0};
	if (each && map_call(BPF_MAP_LOOKUP_ELEM, current.counts, &zero, each) == 0) {
		for (size_t i = 0; i < cpus; i++) {
			ret_counts->connections += each[i].connections;
			ret_counts->messages += each[i].messages;
			ret_counts->bytes += each[i].bytes;
			ret_counts->fallbacks += each[i].fallbacks;
		}
	}
	mem_free(each);
}

void bypass_publish_counts(void)
{
	struct weir_bypass_counts now;
	if (!bypass_is_on())
		return;
	bypass_read_counts(&now);
	stats_add(STAT_ACCELERATED_CONNECTIONS, now.connections - published.connections);
	stats_add(STAT_ACCELERATED_MESSAGES, now.messages - published.messages);
	stats_add(STAT_ACCELERATED_BYTES, now.bytes - published.bytes);
	stats_add(STAT_ACCELERATED_FALLBACKS, now.fallbacks - published.fallbacks);
	published = now;
}
