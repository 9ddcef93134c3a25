// SPDX-License-Identifier: Apache-2.0
#include "net/relay.h"

#include "base/mem.h"
#include "bpf/relay.h"
#include "net/bpf_map.h"
#include "run/stats.h"

#include <sys/socket.h>

static const struct relay_handles off = {-1, -1, -1, -1, -1, -1};
static struct relay_handles current = {-1, -1, -1, -1, -1, -1};
static struct weir_relay_counts published;

void relay_set(const struct relay_handles *handles)
{
	current = handles ? *handles : off;
	relay_read_counts(&published);
}

bool relay_is_on(void)
{
	return current.sources >= 0;
}

uint64_t relay_start(int from, int to)
{
	if (!relay_is_on())
		return 0;
	uint64_t key = bpf_socket_cookie(from), sink = bpf_socket_cookie(to);
	uint64_t from_fd = (uint64_t)from, to_fd = (uint64_t)to;
	struct weir_relay relay = {.to = sink};
	if (!key || !sink || setsockopt(from, SOL_SOCKET, SO_ATTACH_BPF, &current.guard, sizeof current.guard) < 0 ||
	    bpf_map_call(BPF_MAP_UPDATE_ELEM, current.sinks, &sink, &to_fd) < 0 ||
	    bpf_map_call(BPF_MAP_UPDATE_ELEM, current.relays, &key, &relay) < 0)
		return 0;
	if (bpf_map_call(BPF_MAP_UPDATE_ELEM, current.sources, &key, &from_fd) == 0)
		return key;
	relay_stop(key);
	return 0;
}

struct relay_state relay_state(uint64_t relay)
{
	struct weir_relay found;
	if (bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.relays, &relay, &found) < 0)
		return (struct relay_state){0};
	return (struct relay_state){found.bytes, found.passed, found.broken != 0};
}

void relay_tell(uint64_t relay, uint64_t written)
{
	bpf_map_call(BPF_MAP_UPDATE_ELEM, current.done, &relay, &written);
}

void relay_stop(uint64_t relay)
{
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.relays, &relay, NULL);
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.done, &relay, NULL);
}

size_t relay_sockets(void)
{
	const int maps[] = {current.sources, current.sinks, current.relays, current.done};
	size_t count = 0;
	for (size_t i = 0; relay_is_on() && i < ARRAY_SIZE(maps); i++)
		count += bpf_map_count(maps[i], 0, RELAY_FLOWS_MAX);
	return count;
}

void relay_read_counts(struct weir_relay_counts *ret_counts)
{
	*ret_counts = (struct weir_relay_counts){0};
	if (relay_is_on())
		bpf_map_sum(current.counts, (uint64_t *)ret_counts, sizeof *ret_counts / sizeof(uint64_t));
}

void relay_publish_counts(void)
{
	struct weir_relay_counts now;
	if (!relay_is_on())
		return;
	relay_read_counts(&now);
	stats_add(STAT_RELAYED_MESSAGES, now.messages - published.messages);
	stats_add(STAT_RELAYED_BYTES, now.bytes - published.bytes);
	stats_add(STAT_RELAYED_FALLBACKS, now.fallbacks - published.fallbacks);
	published = now;
}
