// SPDX-License-Identifier: Apache-2.0
// The capture plan: which connections of this network namespace go through the proxy, and which do not. Plain
// data; all arrays and texts belong to the caller and must outlive the plan's use. What a back end makes of
// it is in rules.h.
//
// How the parts combine: a connection is captured if nothing excludes it and, for every include list that is
// not empty, something in it matches (users, groups and control groups are one list in this respect). The
// proxy's own connections, the connections of a program to its own host, and whatever goes to an IPv6
// link-local address are always left alone.
// Connections to VIP ranges are captured whatever ports, networks and interfaces say: nothing else could
// answer there.
#pragma once

#include "base/addr.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct port_range {
	uint16_t first, last;
};

// User or group numbers.
struct id_range {
	uint32_t first, last;
};

// Matches if (mark & mask) == value.
struct mark_match {
	uint32_t value, mask;
};

struct capture_marks {
	const struct mark_match *matches;
	size_t count;
};

struct capture_ports {
	const struct port_range *ranges;
	size_t count;
};

struct capture_cidrs {
	const struct cidr *cidrs;
	size_t count;
};

struct capture_ids {
	const struct id_range *ranges;
	size_t count;
};

// Names of interfaces; one that ends in '*' stands for all that begin so.
struct capture_interfaces {
	const char *const *names;
	size_t count;
};

// Control groups (version 2) as they are named: a path, or a unit. Each stands for all that are in it, too.
// What they are in the kernel is looked up when rules are made (cgroups.h).
struct capture_cgroups {
	const char *const *names;
	size_t count;
};

// One direction. Networks are destinations outbound and sources inbound; ports are destination ports;
// interfaces are those that connections leave or enter by. Empty include lists: everything.
struct capture_direction {
	bool enabled;
	struct capture_ports include_ports, exclude_ports;
	struct capture_cidrs include_cidrs, exclude_cidrs;
	struct capture_interfaces include_interfaces, exclude_interfaces;
};

struct capture_dns {
	bool enabled;		  // UDP and TCP port 53, also of resolvers on loopback addresses
	const struct ip *servers; // only queries to these; none: to all
	size_t server_count;
};

// How inbound connections get to the proxy: their destination rewritten, or handed over as they are.
enum capture_inbound_mode { INBOUND_REDIRECT, INBOUND_TPROXY };
// Whose address the application sees.
enum capture_inbound_source { INBOUND_SOURCE_PROXY, INBOUND_SOURCE_CLIENT };

// What becomes of connections while nothing listens on the proxy's ports: refused; as if weir were absent;
// kept waiting.
enum capture_fail { FAIL_CLOSED, FAIL_OPEN, FAIL_HOLD };

struct capture_plan {
	bool ipv4, ipv6;
	uint32_t inbound_mode, inbound_source, fail; // of the enums above
	uint32_t hold_ms; // FAIL_HOLD: a connection waits so long; 0: as long as its client tries

	uint16_t outbound_port, inbound_port, dns_port;		      // where the proxy listens
	uint32_t outbound_mark, inbound_mark, client_mark, mark_mask; // of the proxy's sockets (marks.h)
	bool has_proxy_uid, has_proxy_gid; // sockets of this user or group are the proxy's, too
	uint32_t proxy_uid, proxy_gid;

	struct capture_direction outbound, inbound; // TCP
	bool capture_ssh;      // inbound port 22 as well; left out by default, so that nobody is locked out
	bool capture_metadata; // outbound to the clouds' metadata services (169.254.169.254 and others) as well
	struct capture_dns dns;

	// Of outbound connections and DNS queries: the programs that open them.
	struct capture_ids include_users, exclude_users;
	struct capture_ids include_groups, exclude_groups;
	struct capture_cgroups include_cgroups, exclude_cgroups;
	struct capture_marks include_marks, exclude_marks;

	const struct cidr *vips; // ranges of virtual IPs
	size_t vip_count;
};

// Whether applications see their clients' addresses.
static inline bool plan_keeps_client(const struct capture_plan *plan)
{
	return plan->inbound.enabled && plan->inbound_source == INBOUND_SOURCE_CLIENT;
}

// hold_ms as rules have it, in full tenths of a second: kernels keep times in ticks of 1 to 10 ms, and of
// other times some do not tell what they were told. 0: no limit, or a policy under which nothing waits.
static inline uint32_t plan_hold_ms(const struct capture_plan *plan)
{
	const uint32_t tenth = 100;
	return plan->fail == FAIL_HOLD ? (plan->hold_ms + tenth - 1) / tenth * tenth : 0;
}

// The defaults: both families, both directions, all TCP but what capture_ssh and capture_metadata say, DNS to
// all servers, no VIP ranges; ports 15001, 15006, 15053, and the marks of marks.h.
void capture_plan_init(struct capture_plan *ret_plan);
// 0, or ERR_CONFIG with a sentence appended to ret_error.
int capture_plan_validate(const struct capture_plan *plan, struct strbuf *ret_error);
