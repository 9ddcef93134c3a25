// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_sockets.h"

#include "base/table.h"
#include "bpf/shared.h"
#include "bpf/storage.h"
#include "intercept/ebpf_entries.h"
#include "intercept/redirect.h"

#include <linux/bpf.h>

static void set_ip(const struct weir_address *address, struct ip *ip)
{
	*ip = (struct ip){.family = address->family};
	memcpy(ip->bytes, address->ip, address->family == AF_INET6 ? 16 : 4);
}

static int take_entry(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct table *sockets = arg;
	const struct weir_stored *stored = entry->key;
	const struct weir_socket *kept = entry->value;
	size_t cursor = 0;
	struct socket_info *info = table_find(sockets, stored->socket, &cursor);
	(void)map;
	// One that goes elsewhere by now has it from before.
	if (!info || kept->side != WEIR_SIDE_CLIENT || !redirect_has(&info->remote.ip))
		return 0;
	set_ip(&kept->original, &info->remote.ip);
	info->remote.port = ntohs(kept->original.port);
	if (kept->source.family)
		set_ip(&kept->source, &info->local.ip);
	return 0;
}

void ebpf_sockets_reveal(struct socket_list *list)
{
	autostrbuf struct strbuf ignored = {0};
	struct table sockets = {0};
	struct ebpf_list kernel;
	int err = 0;
	for (size_t i = 0; i < list->count && err == 0; i++)
		if (list->sockets[i].cookie)
			err = table_add(&sockets, list->sockets[i].cookie, &list->sockets[i]);
	if (err == 0 && ebpf_list_read(&kernel, &ignored) == 0) {
		for (size_t i = 0; i < kernel.map_count; i++) {
			const struct ebpf_map *map = &kernel.maps[i];
			if (strcmp(map->name, "weir_sockets") == 0 && map->kind == BPF_MAP_TYPE_SK_STORAGE &&
			    map->value_size == sizeof(struct weir_socket))
				ebpf_entries_each(map, take_entry, &sockets);
		}
		ebpf_list_done(&kernel);
	}
	table_done(&sockets);
}
