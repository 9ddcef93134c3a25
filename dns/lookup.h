// SPDX-License-Identifier: Apache-2.0
// Looking names up in dns/names.h: what the answering code sees of the table. Reads only; any thread that
// holds a reference.
#pragma once

#include "dns/message.h"
#include "dns/names.h"
#include "dns/table.h"

// A name that was added.
struct dns_host {
	struct dns_entry entry; // owns what it points to
	struct dns_name name;
};

enum dns_node_kind {
	DNS_NODE_EMPTY, // only has names below it
	DNS_NODE_HOST,
	DNS_NODE_SRV, // _service._proto.host
	DNS_NODE_PTR, // the reverse name of a VIP
};

struct dns_node {
	struct dns_link _link;
	enum dns_node_kind kind;
	const struct dns_host *host;	 // not of empty nodes
	const struct dns_node *wildcard; // "*" directly below, if it was added
	uint8_t apex;			 // where the zone's name begins in this one; not of empty nodes
	bool in_zone; // false: a name outside our zones, of which we answer some types only
	uint8_t len;
	uint8_t name[];
};

enum dns_found {
	DNS_OUTSIDE, // not ours: to be forwarded
	DNS_OURS,    // there is a node, maybe a wildcard's
	DNS_EMPTY,   // in our zone, without records (an empty non-terminal, or the apex)
	DNS_MISSING, // in our zone, and not there
};

struct dns_match {
	enum dns_found found;
	const struct dns_node *node; // of DNS_OURS
	size_t apex;		     // where the name of the zone begins in the name; not of DNS_OUTSIDE
	bool in_zone;
};

void dns_names_find(const struct dns_names *names, const struct dns_name *name, struct dns_match *ret_match);
uint32_t dns_names_ttl(const struct dns_names *names);
// The reverse name of an address ("7.3.240.240.in-addr.arpa").
void dns_name_reverse(const struct ip *ip, struct dns_name *ret_name);
