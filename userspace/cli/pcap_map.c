// SPDX-License-Identifier: Apache-2.0
#include "cli/pcap_map.h"

#include "base/mem.h"

#include <errno.h>

struct pcap_entry {
	struct pcap_entry *next;
	uint8_t protocol;
	struct addr client, original;
	struct addr proxy; // without a family: any of the proxy's ports
	char text[];	   // what else is known: ", connection 256, http1"
};

struct pcap_name {
	struct pcap_name *next;
	struct ip ip;
	char text[];
};

// --- names ------------------------------------------------------------------------------------------------
static const char *name_of(const struct pcap_map *map, const struct ip *ip)
{
	size_t cursor = 0;
	const struct pcap_name *name;
	while ((name = table_find(&map->_names, ip_hash(ip), &cursor)))
		if (ip_eq(&name->ip, ip))
			return name->text;
	return NULL;
}

static int add_name(struct pcap_map *map, const struct ip *ip, struct str text)
{
	if (!text.p || name_of(map, ip))
		return 0;
	struct pcap_name *name = mem_alloc(sizeof *name + text.len + 1);
	if (!name)
		return -ENOMEM;
	*name = (struct pcap_name){.next = map->_name_list, .ip = *ip};
	memcpy(name->text, text.p, text.len);
	name->text[text.len] = 0;
	map->_name_list = name;
	return table_add(&map->_names, ip_hash(ip), name);
}

int pcap_map_add_names(struct pcap_map *map, const struct reply *reply)
{
	static const char *const keys[] = {"v4", "v6"};
	const struct json_value *rows = json_member(reply_root(reply), "names"), *row = NULL;
	int err = 0;
	while (!err && (row = json_next(rows, row)))
		for (size_t i = 0; i < ARRAY_SIZE(keys) && !err; i++) {
			struct ip ip = {0};
			if (reply_ip(row, keys[i], &ip))
				err = add_name(map, &ip, reply_text(row, "name"));
		}
	return err;
}

// --- flows ------------------------------------------------------------------------------------------------
static uint64_t end_hash(uint8_t protocol, const struct addr *client)
{
	return client->port + protocol;
}

static bool ends_at(const struct pcap_map *map, const struct pcap_entry *entry, const struct addr *other)
{
	if (addr_eq(&entry->original, other))
		return true;
	return entry->proxy.ip.family ? addr_eq(&entry->proxy, other) : pcap_map_is_port(map, other->port);
}

// With eBPF the client knows itself by another address than packets have, and the proxy as well; it has its
// port, and the proxy's end is its own.
static bool begins_at(const struct pcap_entry *entry, const struct addr *client, const struct addr *other)
{
	if (addr_eq(&entry->client, client))
		return true;
	return entry->client.port == client->port && ip_is_loopback(&client->ip) &&
	       addr_eq(&entry->proxy, other);
}

// Several flows may have had one client end. Those whose other end is known in full come first, then the
// latest.
static const struct pcap_entry *find(const struct pcap_map *map, uint8_t protocol, const struct addr *client,
				     const struct addr *other)
{
	size_t cursor = 0;
	const struct pcap_entry *entry, *found = NULL;
	bool exact = false;
	while ((entry = table_find(&map->_flows, end_hash(protocol, client), &cursor))) {
		if (entry->protocol != protocol || !begins_at(entry, client, other) ||
		    !ends_at(map, entry, other))
			continue;
		bool full = entry->proxy.ip.family || addr_eq(&entry->original, other);
		found = full || !exact ? entry : found;
		exact = exact || full;
	}
	return found;
}

// With eBPF one port may be that of several connections to one place, each with a proxy's end of its own.
static bool are_two_ends(const struct addr *a, const struct addr *b)
{
	return a->ip.family && b->ip.family && !addr_eq(a, b);
}

static struct pcap_entry *find_same(const struct pcap_map *map, const struct pcap_entry *wanted)
{
	size_t cursor = 0;
	struct pcap_entry *entry;
	uint64_t hash = end_hash(wanted->protocol, &wanted->client);
	while ((entry = table_find(&map->_flows, hash, &cursor)))
		if (entry->protocol == wanted->protocol && addr_eq(&entry->client, &wanted->client) &&
		    addr_eq(&entry->original, &wanted->original) &&
		    !are_two_ends(&entry->proxy, &wanted->proxy))
			return entry;
	return NULL;
}

// A flow that is known already may learn its other end.
static int add(struct pcap_map *map, const struct pcap_entry *wanted, struct str text)
{
	struct pcap_entry *known = find_same(map, wanted);
	if (known) {
		known->proxy = known->proxy.ip.family ? known->proxy : wanted->proxy;
		return 0;
	}
	struct pcap_entry *entry = mem_alloc(sizeof *entry + text.len + 1);
	if (!entry)
		return -ENOMEM;
	*entry = *wanted;
	entry->next = map->_entries;
	memcpy(entry->text, text.p, text.len);
	entry->text[text.len] = 0;
	map->_entries = entry;
	map->count++;
	return table_add(&map->_flows, end_hash(entry->protocol, &entry->client), entry);
}

// "virtual_host" of a connection is its service with the port: the name of its virtual IP.
static int add_connection(struct pcap_map *map, const struct json_value *row)
{
	static const char *const keys[] = {"protocol", "virtual_host", "cluster", "endpoint"};
	static const char *const words[] = {"", "", "cluster ", "endpoint "};
	autostrbuf struct strbuf text = {0};
	struct pcap_entry entry = {.protocol = IPPROTO_TCP};
	if (!reply_addr(row, "peer", &entry.client) || !reply_addr(row, "destination", &entry.original))
		return 0;
	reply_addr(row, "local", &entry.proxy);
	struct str direction = reply_text(row, "direction"), id = reply_text(row, "id");
	strbuf_printf(&text, ", %.*s connection %.*s", STR_ARG(direction), STR_ARG(id));
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		struct str value = reply_text(row, keys[i]);
		if (value.p)
			strbuf_printf(&text, ", %s%.*s", words[i], STR_ARG(value));
	}
	return text.failed ? -ENOMEM : add(map, &entry, strbuf_str(&text));
}

int pcap_map_add_connections(struct pcap_map *map, const struct reply *reply)
{
	const struct json_value *rows = json_member(reply_root(reply), "connections"), *row = NULL;
	int err = 0;
	while (!err && (row = json_next(rows, row)))
		err = add_connection(map, row);
	return err;
}

int pcap_map_add_redirected(struct pcap_map *map, const struct redirected_list *list)
{
	int err = 0;
	for (size_t i = 0; i < list->count && !err; i++) {
		const struct redirected *from = &list->entries[i];
		struct pcap_entry entry = {.protocol = from->protocol,
					   .client = from->client,
					   .original = from->original,
					   .proxy = from->proxy};
		err = add(map, &entry, STR(""));
	}
	return err;
}

void pcap_map_done(struct pcap_map *map)
{
	for (struct pcap_entry *next, *entry = map->_entries; entry; entry = next) {
		next = entry->next;
		mem_free(entry);
	}
	for (struct pcap_name *next, *name = map->_name_list; name; name = next) {
		next = name->next;
		mem_free(name);
	}
	table_done(&map->_flows);
	table_done(&map->_names);
	*map = (struct pcap_map){0};
}

bool pcap_map_is_port(const struct pcap_map *map, uint16_t port)
{
	for (size_t i = 0; i < map->port_count; i++)
		if (map->ports[i] == port)
			return true;
	return false;
}

// --- comments ---------------------------------------------------------------------------------------------
static void add_original(const struct pcap_map *map, const struct pcap_entry *entry, struct strbuf *out)
{
	char text[ADDR_TEXT_MAX];
	const char *name = name_of(map, &entry->original.ip);
	strbuf_add_text(out, addr_format(&entry->original, text));
	if (name)
		strbuf_printf(out, " (%s)", name);
}

void pcap_map_comment(const struct pcap_map *map, const struct packet_flow *flow, struct strbuf *out)
{
	char text[ADDR_TEXT_MAX];
	const struct pcap_entry *entry = find(map, flow->protocol, &flow->source, &flow->dest);
	bool answer = !entry;
	if (answer)
		entry = find(map, flow->protocol, &flow->dest, &flow->source);
	if (!entry)
		return;
	strbuf_add_text(out, "weir: ");
	if (answer)
		add_original(map, entry, out);
	else
		strbuf_add_text(out, addr_format(&entry->client, text));
	strbuf_add_text(out, " -> ");
	if (answer)
		strbuf_add_text(out, addr_format(&entry->client, text));
	else
		add_original(map, entry, out);
	strbuf_add_text(out, entry->text);
}
