// SPDX-License-Identifier: Apache-2.0
// Every name of ours is a node in one hash table, with its ancestors as empty nodes, so that an empty
// non-terminal and the closest encloser of a name that is not there (RFC 4592) are found by looking up.
#include "dns/lookup.h"

#include "base/error.h"
#include "base/mem.h"
#include "dns/table.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { TTL_MAX = 0x7fffffff }; // RFC 2181 8

struct names_range {
	struct cidr cidr;
	unsigned labels; // of the reverse zones, above in-addr.arpa or ip6.arpa
};

struct dns_names {
	atomic_uint refs;
	struct dns_table nodes;
	struct dns_host **hosts;
	size_t host_count, host_cap;
	bool has_zone;
	struct dns_name zone;
	uint32_t ttl;
	size_t range_count;
	struct names_range ranges[];
};

static const uint8_t REVERSE4[] = "\7in-addr\4arpa";
static const uint8_t REVERSE6[] = "\3ip6\4arpa";

// --- life ---------------------------------------------------------------------------------------------------
int dns_names_new(struct str zone, uint32_t ttl, const struct cidr *vip_ranges, size_t range_count,
		  struct dns_names **ret_names)
{
	struct dns_names *names = mem_zalloc(sizeof *names + range_count * sizeof names->ranges[0]);
	if (!names)
		return -ENOMEM;
	atomic_init(&names->refs, 1);
	names->has_zone = zone.len > 0;
	if (names->has_zone && dns_name_from_text(zone, &names->zone) != 0) {
		mem_free(names);
		return ERR_MALFORMED;
	}
	names->ttl = MIN(ttl, (uint32_t)TTL_MAX);
	names->range_count = range_count;
	for (size_t i = 0; i < range_count; i++) {
		unsigned step = vip_ranges[i].ip.family == AF_INET6 ? 4 : 8;
		names->ranges[i] =
		    (struct names_range){vip_ranges[i], (vip_ranges[i].bits + step - 1) / step};
	}
	*ret_names = names;
	return 0;
}

struct dns_names *dns_names_ref(struct dns_names *names)
{
	atomic_fetch_add_explicit(&names->refs, 1, memory_order_relaxed);
	return names;
}

static void node_free(struct dns_link *link, void *arg)
{
	(void)arg;
	mem_free(container_of(link, struct dns_node, _link));
}

void dns_names_unref(struct dns_names *names)
{
	if (!names || atomic_fetch_sub_explicit(&names->refs, 1, memory_order_acq_rel) > 1)
		return;
	dns_table_clear(&names->nodes, node_free, NULL);
	dns_table_done(&names->nodes);
	for (size_t i = 0; i < names->host_count; i++)
		mem_free(names->hosts[i]);
	mem_free(names->hosts);
	mem_free(names);
}

uint32_t dns_names_ttl(const struct dns_names *names)
{
	return names->ttl;
}

// --- nodes --------------------------------------------------------------------------------------------------
// Where the label begins that ends at `end` (> 0), itself the start of a label.
static size_t label_before(const struct dns_name *name, size_t end)
{
	size_t at = 0;
	while (at + name->bytes[at] + 1u < end)
		at += name->bytes[at] + 1u;
	return at;
}

static struct str wire_str(const uint8_t *wire, size_t len)
{
	return (struct str){(const char *)wire, len};
}

static struct dns_node *node_find(const struct dns_names *names, const uint8_t *wire, size_t len)
{
	struct dns_link *link = dns_table_first(&names->nodes, str_hash(wire_str(wire, len)));
	for (; link; link = dns_table_next(link)) {
		struct dns_node *node = container_of(link, struct dns_node, _link);
		if (node->len == len && memcmp(node->name, wire, len) == 0)
			return node;
	}
	return NULL;
}

static int node_make(struct dns_names *names, const uint8_t *wire, size_t len, struct dns_node **ret_node)
{
	struct dns_node *node = node_find(names, wire, len);
	if (!node) {
		node = mem_zalloc(sizeof *node + len);
		if (!node)
			return -ENOMEM;
		node->len = (uint8_t)len;
		memcpy(node->name, wire, len);
		int err = dns_table_insert(&names->nodes, &node->_link, str_hash(wire_str(wire, len)));
		if (err) {
			mem_free(node);
			return err;
		}
	}
	*ret_node = node;
	return 0;
}

// The node of a name and those of all its ancestors but the root.
static int node_add(struct dns_names *names, const struct dns_name *name, struct dns_node **ret_node)
{
	struct dns_node *node = NULL;
	for (size_t at = name->len - 1u; at > 0;) {
		at = label_before(name, at);
		int err = node_make(names, &name->bytes[at], name->len - at, &node);
		if (err)
			return err;
	}
	*ret_node = node;
	return 0;
}

// --- zones --------------------------------------------------------------------------------------------------
void dns_name_reverse(const struct ip *ip, struct dns_name *ret_name)
{
	char text[ADDR_TEXT_MAX + 32];
	const uint8_t *b = ip->bytes;
	if (ip->family == AF_INET) {
		snprintf(text, sizeof text, "%u.%u.%u.%u.in-addr.arpa", b[3], b[2], b[1], b[0]);
	} else {
		for (int i = 0; i < 16; i++)
			snprintf(text + 4 * i, 5, "%x.%x.", b[15 - i] & 15u, b[15 - i] >> 4u);
		memcpy(text + 64, "ip6.arpa", 9);
	}
	(void)dns_name_from_text(str_from(text), ret_name); // it is a name
}

// The number that a label of a reverse name stands for, in its one spelling; -1 if it is none.
static int reverse_label(const uint8_t *label, bool v6)
{
	int value = 0;
	if (v6 ? label[0] != 1 : label[0] > 3 || (label[0] > 1 && label[1] == '0'))
		return -1;
	for (int i = 1; i <= label[0]; i++) {
		bool letter = v6 && label[i] >= 'a' && label[i] <= 'f';
		if (!letter && (label[i] < '0' || label[i] > '9'))
			return -1;
		value = value * 10 + (letter ? label[i] - 'a' + 10 : label[i] - '0');
	}
	return value <= 255 ? value : -1;
}

// Whether the name lies in the reverse zone that covers it, of a range; where that zone begins.
static bool range_apex(const struct names_range *range, const struct dns_name *name, size_t *ret_apex)
{
	bool v6 = range->cidr.ip.family == AF_INET6;
	size_t suffix_len = v6 ? sizeof REVERSE6 : sizeof REVERSE4;
	struct ip ip = {.family = range->cidr.ip.family};
	if (!dns_name_is_below(name->bytes, name->len, v6 ? REVERSE6 : REVERSE4, suffix_len))
		return false;
	size_t at = name->len - suffix_len;
	for (unsigned i = 0; i < range->labels; i++) {
		if (at == 0)
			return false;
		at = label_before(name, at);
		int value = reverse_label(&name->bytes[at], v6);
		if (value < 0)
			return false;
		if (v6)
			ip.bytes[i / 2] |= (uint8_t)(value << (i % 2 ? 0 : 4));
		else
			ip.bytes[i] = (uint8_t)value;
	}
	*ret_apex = at;
	return cidr_contains(&range->cidr, &ip);
}

static bool names_apex(const struct dns_names *names, const struct dns_name *name, size_t *ret_apex)
{
	if (names->has_zone &&
	    dns_name_is_below(name->bytes, name->len, names->zone.bytes, names->zone.len)) {
		*ret_apex = name->len - names->zone.len;
		return true;
	}
	for (size_t i = 0; i < names->range_count; i++)
		if (range_apex(&names->ranges[i], name, ret_apex))
			return true;
	return false;
}

// --- adding -------------------------------------------------------------------------------------------------
static bool is_host_name(const struct dns_name *name)
{
	if (name->labels == 0)
		return false;
	for (size_t at = 0; name->bytes[at]; at += name->bytes[at] + 1u) {
		const uint8_t *label = &name->bytes[at];
		if (at == 0 && label[0] == 1 && label[1] == '*')
			continue;
		for (int i = 1; i <= label[0]; i++)
			if (!(label[i] >= 'a' && label[i] <= 'z') && !(label[i] >= '0' && label[i] <= '9') &&
			    label[i] != '-' && label[i] != '_')
				return false;
	}
	return true;
}

static struct str copy_str(char **at, struct str s)
{
	struct str copy = {*at, s.len};
	if (s.len)
		memcpy(*at, s.p, s.len);
	*at += s.len;
	return copy;
}

static struct dns_host *host_new(const struct dns_entry *entry, const struct dns_name *name)
{
	size_t bytes = entry->name.len;
	for (size_t i = 0; i < entry->port_count; i++)
		bytes += entry->ports[i].service.len + entry->ports[i].proto.len;
	struct dns_host *host = mem_alloc(sizeof *host + entry->port_count * sizeof(struct dns_port) + bytes);
	if (!host)
		return NULL;
	struct dns_port *ports = (struct dns_port *)(host + 1);
	char *at = (char *)(ports + entry->port_count);
	*host = (struct dns_host){.entry = *entry, .name = *name};
	host->entry.name = copy_str(&at, entry->name);
	host->entry.ports = ports;
	for (size_t i = 0; i < entry->port_count; i++)
		ports[i] = (struct dns_port){entry->ports[i].port, copy_str(&at, entry->ports[i].service),
					     copy_str(&at, entry->ports[i].proto)};
	return host;
}

// What is there already stays.
static void node_set(struct dns_names *names, struct dns_node *node, enum dns_node_kind kind,
		     const struct dns_host *host, const struct dns_name *name)
{
	size_t apex = 0;
	if (node->kind != DNS_NODE_EMPTY)
		return;
	node->kind = kind;
	node->host = host;
	node->in_zone = names_apex(names, name, &apex);
	if (!node->in_zone && kind == DNS_NODE_SRV)
		apex = name->len - host->name.len;
	if (!node->in_zone && kind == DNS_NODE_HOST && host->name.bytes[0] == 1 && host->name.bytes[1] == '*')
		apex = 2;
	node->apex = (uint8_t)apex;
}

static int host_add_ptr(struct dns_names *names, const struct dns_host *host, const struct ip *ip)
{
	struct dns_name name;
	struct dns_node *node;
	size_t apex;
	if (ip->family == 0)
		return 0;
	dns_name_reverse(ip, &name);
	if (!names_apex(names, &name, &apex))
		return 0;
	int err = node_add(names, &name, &node);
	if (!err)
		node_set(names, node, DNS_NODE_PTR, host, &name);
	return err;
}

static int host_add_srv(struct dns_names *names, const struct dns_host *host, const struct dns_port *port)
{
	char text[LIMIT_DNS_NAME + 1];
	struct dns_name name;
	struct dns_node *node;
	if (port->service.len == 0 || port->proto.len == 0)
		return 0;
	size_t len = port->service.len + port->proto.len + host->entry.name.len + 2;
	if (len > LIMIT_DNS_NAME)
		return ERR_MALFORMED;
	snprintf(text, sizeof text, "%.*s.%.*s.%.*s", STR_ARG(port->service), STR_ARG(port->proto),
		 STR_ARG(host->entry.name));
	int err = dns_name_from_text((struct str){text, len}, &name);
	if (!err)
		err = name.labels == host->name.labels + 2 ? node_add(names, &name, &node) : ERR_MALFORMED;
	if (!err)
		node_set(names, node, DNS_NODE_SRV, host, &name);
	return err;
}

static int host_add_nodes(struct dns_names *names, const struct dns_host *host)
{
	struct dns_node *node;
	size_t apex;
	int err = node_add(names, &host->name, &node);
	if (err)
		return err;
	bool addressed = host->entry.v4.family || host->entry.v6.family;
	// Outside our zone a name without an address says nothing: upstream knows.
	if (!addressed && !names_apex(names, &host->name, &apex))
		return 0;
	node_set(names, node, DNS_NODE_HOST, host, &host->name);
	if (host->name.bytes[0] == 1 && host->name.bytes[1] == '*') {
		struct dns_node *parent = node_find(names, &host->name.bytes[2], host->name.len - 2u);
		if (parent)
			parent->wildcard = node;
		return 0;
	}
	for (size_t i = 0; i < host->entry.port_count && !err; i++)
		err = host_add_srv(names, host, &host->entry.ports[i]);
	if (!err)
		err = host_add_ptr(names, host, &host->entry.v4);
	return err ? err : host_add_ptr(names, host, &host->entry.v6);
}

int dns_names_add(struct dns_names *names, const struct dns_entry *entry)
{
	struct dns_name name;
	if (dns_name_from_text(entry->name, &name) != 0 || !is_host_name(&name))
		return ERR_MALFORMED;
	const struct dns_node *old = node_find(names, name.bytes, name.len);
	if (old && old->kind == DNS_NODE_HOST)
		return -EEXIST;
	int err =
	    mem_grow((void **)&names->hosts, &names->host_cap, names->host_count + 1, sizeof *names->hosts);
	if (err)
		return err;
	struct dns_host *host = host_new(entry, &name);
	if (!host)
		return -ENOMEM;
	// It is owned from here on: nodes that point to it may be there even if a later one could not be
	// made.
	names->hosts[names->host_count++] = host;
	return host_add_nodes(names, host);
}

// --- reading ------------------------------------------------------------------------------------------------
// The node of the wildcard that covers a name which is not there: the one below its closest encloser (RFC
// 4592 3.3.1).
static const struct dns_node *names_wildcard(const struct dns_names *names, const struct dns_name *name)
{
	for (size_t at = name->bytes[0] + 1u; at < name->len && name->bytes[at]; at += name->bytes[at] + 1u) {
		const struct dns_node *encloser = node_find(names, &name->bytes[at], name->len - at);
		if (encloser)
			return encloser->wildcard;
	}
	return NULL;
}

void dns_names_find(const struct dns_names *names, const struct dns_name *name, struct dns_match *ret_match)
{
	struct dns_match match = {.found = DNS_OUTSIDE};
	const struct dns_node *exact = node_find(names, name->bytes, name->len);
	const struct dns_node *node = exact ? exact : names_wildcard(names, name);
	if (node && node->kind != DNS_NODE_EMPTY) {
		// A wildcard's name differs from this one in front of the zone's only.
		size_t apex_len = node->len - (size_t)node->apex;
		*ret_match = (struct dns_match){DNS_OURS, node, name->len - apex_len, node->in_zone};
		return;
	}
	match.in_zone = names_apex(names, name, &match.apex);
	if (match.in_zone)
		match.found = exact || match.apex == 0 ? DNS_EMPTY : DNS_MISSING;
	*ret_match = match;
}

static int host_order(const void *a, const void *b)
{
	const struct dns_host *const *left = a, *const *right = b;
	return str_cmp((*left)->entry.name, (*right)->entry.name);
}

void dns_names_each(const struct dns_names *names, void (*fn)(const struct dns_entry *entry, void *arg),
		    void *arg)
{
	struct dns_host **sorted = mem_array(names->host_count + 1, sizeof *sorted);
	if (sorted && names->host_count) {
		memcpy(sorted, names->hosts, names->host_count * sizeof *sorted);
		qsort(sorted, names->host_count, sizeof *sorted, host_order);
	}
	for (size_t i = 0; i < names->host_count; i++)
		fn(&(sorted ? sorted : names->hosts)[i]->entry, arg);
	mem_free(sorted);
}
