// SPDX-License-Identifier: Apache-2.0
// Entries of maps, each kind by a row of one table; those of no kind that is known here by their types.
#include "cli/bpf_commands.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "bpf/relay.h"
#include "bpf/storage.h"
#include "intercept/cgroups.h"
#include "intercept/ebpf_cells.h"
#include "intercept/ebpf_entries.h"
#include "intercept/ebpf_load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

struct dump {
	struct emit *emit;
	const struct ebpf_list *list;
	struct btf *types; // of the map under way
};

// --- values -----------------------------------------------------------------------------------------------
static struct ip ip_of(uint8_t family, const uint32_t words[4])
{
	struct ip ip = {.family = family};
	memcpy(ip.bytes, words, family == AF_INET6 ? 16 : 4);
	return ip;
}

static struct addr addr_of(const struct weir_address *address)
{
	return (struct addr){.ip = ip_of(address->family, address->ip), .port = ntohs(address->port)};
}

static void emit_original(struct emit *emit, const char *key, const struct weir_address *address)
{
	struct addr addr = {0};
	if (address->family)
		addr = addr_of(address);
	emit_addr(emit, key, &addr);
}

static void emit_namespace(const struct dump *dump, uint64_t cookie)
{
	char text[32];
	uint32_t number = ebpf_list_namespace(dump->list, cookie);
	snprintf(text, sizeof text, "net:[%u]", number);
	emit_text(dump->emit, "namespace", number ? text : NULL);
	emit_uint(dump->emit, "cookie", cookie);
}

static void emit_stored(const struct dump *dump, const struct ebpf_entry *entry)
{
	const struct weir_stored *stored = entry->key;
	emit_namespace(dump, stored->netns);
	emit_uint(dump->emit, "socket", stored->socket);
}

static void begin(const struct dump *dump, const struct ebpf_map *map)
{
	emit_row_begin(dump->emit);
	emit_uint(dump->emit, "map", map->id);
}

// --- kinds ------------------------------------------------------------------------------------------------
static void emit_plan(struct emit *emit, const union weir_cell *cells)
{
	static const char *const policies[] = {
	    [FAIL_CLOSED] = "closed", [FAIL_OPEN] = "open", [FAIL_HOLD] = "hold"};
	const struct weir_header *header = &cells[WEIR_CELL_HEADER].header;
	const uint64_t *counters = (const uint64_t *)cells[WEIR_CELL_COUNTERS].counters;
	emit_uint(emit, "outbound_port", header->ports[WEIR_ROLE_OUTBOUND]);
	emit_uint(emit, "inbound_port", header->ports[WEIR_ROLE_INBOUND]);
	emit_uint(emit, "dns_port", header->ports[WEIR_ROLE_DNS]);
	emit_text(emit, "fail", header->fail < ARRAY_SIZE(policies) ? policies[header->fail] : NULL);
	emit_uint(emit, "rules", header->rule_count);
	emit_uint(emit, "sets", header->set_count);
	emit_uint(emit, "let_through", counters[WEIR_COUNT_OPEN]);
	emit_uint(emit, "refused", counters[WEIR_COUNT_NO_LISTENER]);
	emit_uint(emit, "refused_full", counters[WEIR_COUNT_PENDING_FULL]);
}

// Whether this version can read it.
static bool is_known(const union weir_cell *cells, uint32_t count)
{
	return count > WEIR_CELL_COUNTERS && cells[WEIR_CELL_HEADER].header.version == WEIR_LAYOUT_VERSION;
}

// The plan of a namespace: the number of the map that it is, and its head.
static int plans_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	union weir_cell *cells = NULL;
	uint32_t count = 0, id;
	uint64_t cookie;
	memcpy(&id, entry->value, sizeof id);
	memcpy(&cookie, entry->key, sizeof cookie);
	int err = ebpf_plan_read_map(id, &cells, &count);
	if (err && err != ERR_MALFORMED)
		return err == -ENOENT ? 0 : err; // another took its place meanwhile
	begin(dump, map);
	emit_namespace(dump, cookie);
	emit_uint(dump->emit, "plan", id);
	if (is_known(cells, count))
		emit_plan(dump->emit, cells);
	emit_row_end(dump->emit);
	mem_free(cells);
	return 0;
}

static int pending_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_pending_key *key = entry->key;
	const struct weir_pending *pending = entry->value;
	struct ip redirect = ip_of(pending->original.family, key->ip);
	struct ip source = ip_of(pending->source.family, pending->source.ip);
	begin(dump, map);
	emit_namespace(dump, key->netns);
	emit_uint(dump->emit, "client", pending->client);
	emit_original(dump->emit, "original", &pending->original);
	emit_ip(dump->emit, "source", &source);
	emit_ip(dump->emit, "redirect", &redirect);
	emit_row_end(dump->emit);
	return 0;
}

static int shares_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	struct weir_share share;
	uint64_t cookie;
	memcpy(&cookie, entry->key, sizeof cookie);
	memcpy(&share, entry->value, sizeof share);
	begin(dump, map);
	emit_namespace(dump, cookie);
	emit_uint(dump->emit, "pending", (uint64_t)share.pending);
	emit_row_end(dump->emit);
	return 0;
}

static int sockets_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	static const char *const sides[] = {"none", "client", "accepted", "served"};
	const struct dump *dump = arg;
	const struct weir_socket *socket = entry->value;
	struct ip redirect = {0}, source = ip_of(socket->source.family, socket->source.ip);
	if (socket->side == WEIR_SIDE_CLIENT)
		redirect = ip_of(socket->original.family, socket->redirect);
	begin(dump, map);
	emit_stored(dump, entry);
	emit_text(dump->emit, "side", socket->side < ARRAY_SIZE(sides) ? sides[socket->side] : NULL);
	emit_original(dump->emit, "original", &socket->original);
	emit_ip(dump->emit, "source", &source);
	emit_ip(dump->emit, "redirect", &redirect);
	emit_row_end(dump->emit);
	return 0;
}

static int servers_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_servers *servers = entry->value;
	for (uint32_t i = 0; i < WEIR_SERVERS_MAX; i++) {
		if (!servers->servers[i].family)
			continue;
		begin(dump, map);
		emit_stored(dump, entry);
		emit_uint(dump->emit, "number", i);
		emit_original(dump->emit, "server", &servers->servers[i]);
		emit_text(dump->emit, "asker", NULL);
		emit_row_end(dump->emit);
	}
	for (uint32_t i = 0; i < WEIR_ASKERS_MAX; i++) {
		if (!servers->askers[i].family)
			continue;
		begin(dump, map);
		emit_stored(dump, entry);
		emit_text(dump->emit, "number", NULL);
		emit_text(dump->emit, "server", NULL);
		emit_original(dump->emit, "asker", &servers->askers[i]);
		emit_row_end(dump->emit);
	}
	return 0;
}

static int calls_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_call_key *key = entry->key;
	const struct weir_call *call = entry->value;
	struct addr from = {.ip = ip_of((uint8_t)key->family, key->source), .port = key->source_port};
	struct addr to = {.ip = ip_of((uint8_t)key->family, key->dest), .port = key->dest_port};
	begin(dump, map);
	emit_namespace(dump, key->netns);
	emit_original(dump->emit, "client", &call->client);
	emit_addr(dump->emit, "from", &from);
	emit_addr(dump->emit, "to", &to);
	emit_row_end(dump->emit);
	return 0;
}

static int callers_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_caller *caller = entry->value;
	begin(dump, map);
	emit_stored(dump, entry);
	emit_original(dump->emit, "client", &caller->client);
	emit_row_end(dump->emit);
	return 0;
}

static int listeners_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_listener_key *key = entry->key;
	uint64_t socket;
	memcpy(&socket, entry->value, sizeof socket);
	begin(dump, map);
	emit_namespace(dump, key->netns);
	emit_text(dump->emit, "family", key->family == AF_INET6 ? "IPv6" : "IPv4");
	emit_uint(dump->emit, "port", key->port);
	emit_uint(dump->emit, "slot", key->slot);
	emit_uint(dump->emit, "socket", socket);
	emit_row_end(dump->emit);
	return 0;
}

static void emit_held(const struct dump *dump, const struct weir_held_key *key)
{
	struct addr from = {.ip = ip_of((uint8_t)key->family, key->source), .port = key->source_port};
	emit_namespace(dump, key->netns);
	emit_addr(dump->emit, "from", &from);
	emit_uint(dump->emit, "port", key->dest_port);
}

static int held_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_held *held = entry->value;
	uint64_t now = clock_mono_ns();
	begin(dump, map);
	emit_held(dump, entry->key);
	emit_duration(dump->emit, "left", held->until > now ? held->until - now : 0);
	emit_row_end(dump->emit);
	return 0;
}

static int unheard_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_unheard *each = entry->value;
	for (size_t i = 0; i < entry->value_len / sizeof *each; i++) {
		if (!each[i].protocol)
			continue;
		begin(dump, map);
		emit_uint(dump->emit, "cpu", i);
		emit_text(dump->emit, "protocol", each[i].protocol == IPPROTO_UDP ? "udp" : "tcp");
		emit_held(dump, &each[i].key);
		emit_uint(dump->emit, "proxy_port", each[i].proxy_port);
		emit_row_end(dump->emit);
	}
	return 0;
}

static int bypassed_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	uint64_t socket;
	memcpy(&socket, entry->key, sizeof socket);
	if (socket == BYPASS_DEAD_END)
		return 0;
	begin(dump, map);
	emit_uint(dump->emit, "socket", socket);
	emit_row_end(dump->emit);
	return 0;
}

static int join_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	struct weir_join join;
	uint64_t socket;
	memcpy(&socket, entry->key, sizeof socket);
	memcpy(&join, entry->value, sizeof join);
	begin(dump, map);
	emit_uint(dump->emit, "socket", socket);
	emit_uint(dump->emit, "outlet", join.outlet_cookie);
	emit_uint(dump->emit, "messages", join.messages);
	emit_bytes(dump->emit, "bytes", join.bytes);
	emit_row_end(dump->emit);
	return 0;
}

static int relay_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	uint64_t socket;
	struct weir_relay relay;
	memcpy(&socket, entry->key, sizeof socket);
	memcpy(&relay, entry->value, sizeof relay);
	begin(dump, map);
	emit_uint(dump->emit, "socket", socket);
	emit_uint(dump->emit, "outlet", relay.to);
	emit_uint(dump->emit, "messages", relay.messages);
	emit_bytes(dump->emit, "bytes", relay.bytes);
	emit_uint(dump->emit, "left_to_proxy", relay.passed);
	emit_row_end(dump->emit);
	return 0;
}

// Of all CPUs together.
static int relay_counts_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_relay_counts *each = entry->value;
	struct weir_relay_counts sum = {0};
	for (size_t i = 0; i < entry->value_len / sizeof *each; i++) {
		sum.messages += each[i].messages;
		sum.bytes += each[i].bytes;
		sum.fallbacks += each[i].fallbacks;
		sum.overlaps += each[i].overlaps;
		sum.refused += each[i].refused;
	}
	begin(dump, map);
	emit_uint(dump->emit, "messages", sum.messages);
	emit_bytes(dump->emit, "bytes", sum.bytes);
	emit_uint(dump->emit, "fallbacks", sum.fallbacks);
	emit_uint(dump->emit, "overlaps", sum.overlaps);
	emit_uint(dump->emit, "refused", sum.refused);
	emit_row_end(dump->emit);
	return 0;
}

// The same.
static int counts_row(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	const struct weir_bypass_counts *each = entry->value;
	struct weir_bypass_counts sum = {0};
	for (size_t i = 0; i < entry->value_len / sizeof *each; i++) {
		sum.connections += each[i].connections;
		sum.messages += each[i].messages;
		sum.bytes += each[i].bytes;
		sum.fallbacks += each[i].fallbacks;
		sum.joined_messages += each[i].joined_messages;
		sum.joined_bytes += each[i].joined_bytes;
	}
	begin(dump, map);
	emit_uint(dump->emit, "connections", sum.connections);
	emit_uint(dump->emit, "messages", sum.messages);
	emit_bytes(dump->emit, "bytes", sum.bytes);
	emit_uint(dump->emit, "fallbacks", sum.fallbacks);
	emit_uint(dump->emit, "joined_messages", sum.joined_messages);
	emit_bytes(dump->emit, "joined_bytes", sum.joined_bytes);
	emit_row_end(dump->emit);
	return 0;
}

// Any other: what its types say, of variables each.
static int typed_rows(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	const struct dump *dump = arg;
	for (size_t variable = 0;; variable++) {
		autostrbuf struct strbuf key = {0}, value = {0};
		int err = ebpf_entry_print(map, dump->types, entry, variable, &key, &value);
		if (err)
			return err == ERR_NOT_FOUND ? 0 : err;
		begin(dump, map);
		emit_str(dump->emit, "key", strbuf_str(&key));
		emit_str(dump->emit, "value", strbuf_str(&value));
		emit_row_end(dump->emit);
	}
}

// --- plans ------------------------------------------------------------------------------------------------
static void emit_rules(const struct dump *dump, const struct ebpf_map *map, const struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		const struct rule *rule = &ruleset->rules[i];
		autostrbuf struct strbuf text = {0};
		rule_print(ruleset, rule, &text);
		begin(dump, map);
		emit_text(dump->emit, "chain",
			  rule->chain < CHAIN_COUNT ? rule_chains[rule->chain].name : NULL);
		emit_uint(dump->emit, "packets", rule->packets);
		emit_text(dump->emit, "purpose", rule->comment);
		emit_str(dump->emit, "rule", strbuf_str(&text));
		emit_row_end(dump->emit);
	}
}

static void emit_sets(const struct dump *dump, const struct ebpf_map *map, const struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->set_count; i++) {
		autostrbuf struct strbuf text = {0};
		rule_set_print(&ruleset->sets[i], &text);
		begin(dump, map);
		emit_text(dump->emit, "set", ruleset->sets[i].name);
		emit_str(dump->emit, "elements", strbuf_str(&text));
		emit_row_end(dump->emit);
	}
}

// The cells of a plan are one thing: its rules, or its sets.
static int dump_plan(const struct dump *dump, const struct ebpf_map *map,
		     void (*fn)(const struct dump *dump, const struct ebpf_map *map,
				const struct ruleset *ruleset))
{
	union weir_cell *cells;
	uint32_t count;
	struct ruleset ruleset;
	int err = ebpf_plan_read_map(map->id, &cells, &count);
	if (err)
		return err;
	err = ebpf_decode(cells, count, &ruleset);
	mem_free(cells);
	if (err)
		return err;
	ruleset_name_cgroups(&ruleset);
	fn(dump, map, &ruleset);
	ruleset_done(&ruleset);
	return 0;
}

static bool is_plan(const struct ebpf_map *map)
{
	return strcmp(map->name, "weir_plan") == 0 && map->value_size == sizeof(union weir_cell);
}

// --- choosing ---------------------------------------------------------------------------------------------
static const struct kind {
	const char *name;
	size_t key_size, value_size; // of another version they may differ
	int (*row)(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg);
} kinds[] = {
    {"weir_plans", sizeof(uint64_t), sizeof(uint32_t), plans_row},
    {"weir_pending", sizeof(struct weir_pending_key), sizeof(struct weir_pending), pending_row},
    {"weir_shares", sizeof(uint64_t), sizeof(struct weir_share), shares_row},
    {"weir_sockets", sizeof(int), sizeof(struct weir_socket), sockets_row},
    {"weir_servers", sizeof(int), sizeof(struct weir_servers), servers_row},
    {"weir_calls", sizeof(struct weir_call_key), sizeof(struct weir_call), calls_row},
    {"weir_callers", sizeof(int), sizeof(struct weir_caller), callers_row},
    {"weir_listeners", sizeof(struct weir_listener_key), sizeof(uint64_t), listeners_row},
    {"weir_held", sizeof(struct weir_held_key), sizeof(struct weir_held), held_row},
    {"weir_unheard", sizeof(uint32_t), sizeof(struct weir_unheard), unheard_row},
    {"weir_bypassed", sizeof(uint64_t), sizeof(uint64_t), bypassed_row},
    {"weir_outlets", sizeof(uint64_t), sizeof(uint64_t), bypassed_row},
    {"weir_joins", sizeof(uint64_t), sizeof(struct weir_join), join_row},
    {"weir_sources", sizeof(uint64_t), sizeof(uint64_t), bypassed_row},
    {"weir_sinks", sizeof(uint64_t), sizeof(uint64_t), bypassed_row},
    {"weir_relays", sizeof(uint64_t), sizeof(struct weir_relay), relay_row},
    {"weir_relayed", sizeof(uint32_t), sizeof(struct weir_relay_counts), relay_counts_row},
    {"weir_counts", sizeof(uint32_t), sizeof(struct weir_bypass_counts), counts_row},
};

static const struct kind *kind_of(const struct ebpf_map *map)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strcmp(kinds[i].name, map->name) == 0 && kinds[i].key_size == map->key_size &&
		    kinds[i].value_size == map->value_size)
			return &kinds[i];
	return NULL;
}

static int dump_map(struct dump *dump, const struct ebpf_map *map)
{
	const struct kind *kind = kind_of(map);
	if (is_plan(map))
		return dump_plan(dump, map, emit_rules);
	if (kind)
		return ebpf_entries_each(map, kind->row, dump);
	dump->types = ebpf_types_load(map);
	int err = dump->types ? ebpf_entries_each(map, typed_rows, dump) : ERR_UNSUPPORTED;
	ebpf_types_free(dump->types);
	return err;
}

static bool is_meant(const struct ebpf_map *map, struct str which)
{
	uint64_t id;
	return str_eq(which, str_from(map->name)) || (str_to_u64(which, &id) == 0 && id == map->id);
}

static int none_meant(const struct cli *cli, const struct ebpf_list *list, struct str which)
{
	autostrbuf struct strbuf text = {0};
	struct suggestion suggestion = suggest_for(which);
	for (size_t i = 0; i < list->map_count; i++)
		suggest_consider(&suggestion, list->maps[i].name);
	suggest_write(&suggestion, &text);
	return cli_fail(cli, "weir has no map '%.*s' in the kernel%s", STR_ARG(which), text.p ? text.p : "");
}

static void emit_all_sets(const struct dump *dump, struct str which)
{
	const struct ebpf_list *list = dump->list;
	emit_table_begin(dump->emit, "sets");
	for (size_t i = 0; i < list->map_count; i++)
		if (is_meant(&list->maps[i], which) && is_plan(&list->maps[i]))
			dump_plan(dump, &list->maps[i], emit_sets);
	emit_table_end(dump->emit);
}

static int dump_failed(const struct cli *cli, const struct ebpf_map *map, int err)
{
	const char *why = err == ERR_MALFORMED	   ? "another version of weir has made it"
			  : err == ERR_UNSUPPORTED ? "nothing describes what is in it"
						   : err_text(err);
	return cli_fail(cli, "map %u (%s) cannot be read: %s", map->id, map->name, why);
}

// All maps that are meant, as far as they can be read.
static int dump_all(const struct cli *cli, struct dump *dump, struct str which)
{
	const struct ebpf_list *list = dump->list;
	int status = CLI_DONE;
	emit_table_begin(cli->emit, "entries");
	for (size_t i = 0; i < list->map_count; i++) {
		int err = is_meant(&list->maps[i], which) ? dump_map(dump, &list->maps[i]) : 0;
		if (err && err != -ENOENT) // else it has ended meanwhile
			status = dump_failed(cli, &list->maps[i], err);
	}
	emit_table_end(cli->emit);
	return status;
}

int map_dump_emit(const struct cli *cli, const struct ebpf_list *list, struct str which)
{
	struct dump dump = {.emit = cli->emit, .list = list};
	bool any = false, plans = false;
	for (size_t i = 0; i < list->map_count; i++) {
		bool meant = is_meant(&list->maps[i], which);
		any |= meant;
		plans |= meant && is_plan(&list->maps[i]);
	}
	if (!any)
		return none_meant(cli, list, which);
	int status = dump_all(cli, &dump, which);
	if (plans)
		emit_all_sets(&dump, which);
	return status;
}
