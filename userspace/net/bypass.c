// SPDX-License-Identifier: Apache-2.0
#include "net/bypass.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "net/bpf_map.h"
#include "run/stats.h"

static const uint32_t none;
const volatile uint32_t *_bypass_turns = &none, *_bypass_refusals = &none;
static const struct bypass_handles off = {-1, -1, -1, -1, -1, -1, &none, &none};
static struct bypass_handles current = {-1, -1, -1, -1, -1, -1, &none, &none};
static struct weir_bypass_counts published;

void bypass_set(const struct bypass_handles *handles)
{
	current = handles ? *handles : off;
	_bypass_turns = current.turns;
	_bypass_refusals = current.refusals;
	bypass_read_counts(&published);
}

bool bypass_is_on(void)
{
	return current.sockets >= 0;
}

bool bypass_has(int fd)
{
	uint64_t cookie = bypass_is_on() ? bpf_socket_cookie(fd) : 0, value;
	return cookie && bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.sockets, &cookie, &value) == 0;
}

bool bypass_is_over(int fd)
{
	struct weir_end end;
	return bypass_is_on() && bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.ends, &fd, &end) == 0 && end.state == WEIR_BY_TCP;
}

// Nothing may wait in their queues past TCP, or it would be lost: of what the application sends nothing ever did, and what
// it was sent has been read once we have gone over to TCP, or never was.
int bypass_leave(int fd)
{
	struct weir_end end;
	uint32_t leaves;
	uint64_t own = bpf_socket_cookie(fd);
	if (!bypass_is_on() || bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.leaving, &own, &leaves) < 0 ||
	    bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.ends, &fd, &end) < 0)
		return ERR_NOT_FOUND;
	if (end.state == WEIR_MEETING || (end.state == WEIR_BYPASSING && end.proven))
		return ERR_NEED_MORE;
	end.state = WEIR_BY_TCP;
	if (bpf_map_call(BPF_MAP_UPDATE_ELEM, current.ends, &fd, &end) < 0)
		return ERR_NEED_MORE;
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.sockets, &end.peer_cookie, NULL);
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.sockets, &own, NULL);
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.leaving, &own, NULL);
	return 0;
}

size_t bypass_sockets(void)
{
	const int maps[] = {current.sockets, current.outlets, current.joins};
	size_t count = 0;
	for (size_t i = 0; bypass_is_on() && i < ARRAY_SIZE(maps); i++)
		count += bpf_map_count(maps[i], BYPASS_DEAD_END, BYPASS_SOCKETS_MAX);
	return count;
}

void bypass_read_counts(struct weir_bypass_counts *ret_counts)
{
	*ret_counts = (struct weir_bypass_counts){0};
	if (bypass_is_on())
		bpf_map_sum(current.counts, (uint64_t *)ret_counts, sizeof *ret_counts / sizeof(uint64_t));
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
	stats_add(STAT_JOINED_MESSAGES, now.joined_messages - published.joined_messages);
	stats_add(STAT_JOINED_BYTES, now.joined_bytes - published.joined_bytes);
	published = now;
}

// --- directions that are joined ------------------------------------------------------------------------------
uint64_t bypass_join(int from, int to, uint64_t received, uint64_t sent)
{
	struct weir_end end;
	uint64_t key = bpf_socket_cookie(from), outlet = bpf_socket_cookie(to), socket = (uint64_t)to;
	if (!bypass_is_on() || !key || !outlet ||
	    bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.ends, &to, &end) < 0 || !end.self)
		return 0;
	struct weir_join join = {
	    .outlet = end.self, .outlet_cookie = outlet, .offset = (uint32_t)(sent - received) + end.first};
	if (bpf_map_call(BPF_MAP_UPDATE_ELEM, current.outlets, &outlet, &socket) < 0)
		return 0;
	return bpf_map_call(BPF_MAP_UPDATE_ELEM, current.joins, &key, &join) < 0 ? 0 : key;
}

uint64_t bypass_joined_bytes(uint64_t join)
{
	struct weir_join found;
	return bpf_map_call(BPF_MAP_LOOKUP_ELEM, current.joins, &join, &found) < 0 ? 0 : found.bytes;
}

void bypass_part(uint64_t join)
{
	bpf_map_call(BPF_MAP_DELETE_ELEM, current.joins, &join, NULL);
}
