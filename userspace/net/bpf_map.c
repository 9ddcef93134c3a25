// SPDX-License-Identifier: Apache-2.0
#include "net/bpf_map.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int bpf_map_call(enum bpf_cmd command, int map, const void *key, void *value)
{
	union bpf_attr attr = {.map_fd = (uint32_t)map, .key = (uintptr_t)key, .value = (uintptr_t)value};
	return (int)syscall(SYS_bpf, command, &attr, sizeof attr);
}

size_t bpf_map_count(int map, uint64_t except, size_t max)
{
	uint64_t key, next;
	size_t count = 0;
	int more = bpf_map_call(BPF_MAP_GET_NEXT_KEY, map, NULL, &next);
	for (; more == 0 && count < max; count += key != except) {
		key = next;
		more = bpf_map_call(BPF_MAP_GET_NEXT_KEY, map, &key, &next);
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

void bpf_map_sum(int map, uint64_t *ret_sums, size_t numbers)
{
	uint32_t zero = 0;
	size_t all = cpu_count() * numbers;
	uint64_t *each = mem_array(all, sizeof *each);
	memset(ret_sums, 0, numbers * sizeof *ret_sums);
	if (each && bpf_map_call(BPF_MAP_LOOKUP_ELEM, map, &zero, each) == 0)
		for (size_t i = 0; i < all; i++)
			ret_sums[i % numbers] += each[i];
	mem_free(each);
}

uint64_t bpf_socket_cookie(int fd)
{
	uint64_t cookie;
	socklen_t len = sizeof cookie;
	return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) == 0 ? cookie : 0;
}
