// SPDX-License-Identifier: Apache-2.0
// The names that the responder answers for: built once with a snapshot of the model, then immutable and
// shared by reference between threads.
#pragma once

#include "base/addr.h"

struct dns_names;

struct dns_port {
	uint16_t port;
	struct str service; // "_http"; empty: none
	struct str proto;   // "_tcp"
};

struct dns_entry {
	struct str name;  // "reviews.mesh", or "*.example.mesh" (RFC 4592); lower case, no final dot
	struct ip v4, v6; // family 0: none, so that type is NODATA
	const struct dns_port *ports;
	size_t port_count;
};

// `zone` ("mesh") and the reverse zones of `vip_ranges` are ours: what is not there is NXDOMAIN with SOA.
// Names outside the zone may be added too; their siblings are forwarded, and so they are themselves if they
// have no address. An empty `zone`: none. 0, -ENOMEM, or ERR_MALFORMED (the zone).
int dns_names_new(struct str zone, uint32_t ttl, const struct cidr *vip_ranges, size_t range_count,
		  struct dns_names **ret_names);
// Only before it is shared. Copies everything. 0, -ENOMEM, -EEXIST, or ERR_MALFORMED for what is no host name
// (letters, digits, '-', '_'; the first label may be '*'). After an error the table is good for
// dns_names_unref only.
int dns_names_add(struct dns_names *names, const struct dns_entry *entry);
struct dns_names *dns_names_ref(struct dns_names *names);
void dns_names_unref(struct dns_names *names); // NULL is fine
// Calls fn for each entry (admin), in order of name; of addition when out of memory.
void dns_names_each(const struct dns_names *names, void (*fn)(const struct dns_entry *entry, void *arg),
		    void *arg);
