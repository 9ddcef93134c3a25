// SPDX-License-Identifier: Apache-2.0
// The settings of a capture plan as texts: names, values and their help in one table, from which come the
// options of the command line. `struct plan_builder` collects such settings and owns what the plan points to.
#pragma once

#include "intercept/plan.h"

enum plan_option_kind {
	PLAN_ON,	 // a switch that sets its field
	PLAN_OFF,	 // a switch that clears it
	PLAN_CHOICE,	 // one of the words of what to give, as its number
	PLAN_PORT,	 // 1..65535
	PLAN_NUMBER,	 // 32 bits; hexadecimal with 0x
	PLAN_DURATION,	 // as milliseconds
	PLAN_USER,	 // a name or number
	PLAN_GROUP,	 // the same
	PLAN_PORTS,	 // from here on lists, separated by commas; ports or ranges a-b
	PLAN_CIDRS,	 // networks or addresses
	PLAN_ADDRESSES,	 //
	PLAN_INTERFACES, // names; "docker*"
	PLAN_USERS,	 // names, numbers, or ranges a-b of numbers
	PLAN_GROUPS,	 // the same
	PLAN_MARKS,	 // value or value/mask
	PLAN_CGROUPS,	 // paths, or names of units
};

// X(name, kind, field of struct capture_plan, what to give, help)
#define PLAN_OPTIONS(X)                                                                                      \
	X("vips", PLAN_CIDRS, vips, "CIDRS", "ranges of virtual IPs: always captured, and made reachable")   \
	X("no-outbound", PLAN_OFF, outbound.enabled, NULL, "leave outbound connections alone")               \
	X("no-inbound", PLAN_OFF, inbound.enabled, NULL, "leave inbound connections alone")                  \
	X("no-dns", PLAN_OFF, dns.enabled, NULL, "leave DNS alone")                                          \
	X("no-ipv4", PLAN_OFF, ipv4, NULL, "leave IPv4 alone")                                               \
	X("no-ipv6", PLAN_OFF, ipv6, NULL, "leave IPv6 alone")                                               \
	X("include-outbound-ports", PLAN_PORTS, outbound.include_ports, "PORTS",                             \
	  "outbound: only to these ports")                                                                   \
	X("exclude-outbound-ports", PLAN_PORTS, outbound.exclude_ports, "PORTS",                             \
	  "outbound: not to these ports")                                                                    \
	X("include-outbound-cidrs", PLAN_CIDRS, outbound.include_cidrs, "CIDRS",                             \
	  "outbound: only to these networks")                                                                \
	X("exclude-outbound-cidrs", PLAN_CIDRS, outbound.exclude_cidrs, "CIDRS",                             \
	  "outbound: not to these networks")                                                                 \
	X("include-outbound-interfaces", PLAN_INTERFACES, outbound.include_interfaces, "NAMES",              \
	  "outbound: only by these interfaces (eth*: all that begin so)")                                    \
	X("exclude-outbound-interfaces", PLAN_INTERFACES, outbound.exclude_interfaces, "NAMES",              \
	  "outbound: not by these interfaces")                                                               \
	X("include-inbound-ports", PLAN_PORTS, inbound.include_ports, "PORTS",                               \
	  "inbound: only to these ports")                                                                    \
	X("exclude-inbound-ports", PLAN_PORTS, inbound.exclude_ports, "PORTS",                               \
	  "inbound: not to these ports")                                                                     \
	X("include-inbound-cidrs", PLAN_CIDRS, inbound.include_cidrs, "CIDRS",                               \
	  "inbound: only from these networks")                                                               \
	X("exclude-inbound-cidrs", PLAN_CIDRS, inbound.exclude_cidrs, "CIDRS",                               \
	  "inbound: not from these networks")                                                                \
	X("include-inbound-interfaces", PLAN_INTERFACES, inbound.include_interfaces, "NAMES",                \
	  "inbound: only by these interfaces")                                                               \
	X("exclude-inbound-interfaces", PLAN_INTERFACES, inbound.exclude_interfaces, "NAMES",                \
	  "inbound: not by these interfaces")                                                                \
	X("inbound-mode", PLAN_CHOICE, inbound_mode, "redirect|tproxy",                                      \
	  "inbound: how the proxy gets it (tproxy: without address translation; nft only)")                  \
	X("inbound-source", PLAN_CHOICE, inbound_source, "proxy|client",                                     \
	  "inbound: whose address the application sees")                                                     \
	X("fail", PLAN_CHOICE, fail, "closed|open|hold",                                                     \
	  "while no proxy listens: refuse; as without weir; let wait")                                       \
	X("hold-timeout", PLAN_DURATION, hold_ms, "DURATION",                                                \
	  "--fail hold: for so long, then refuse; as long as its client tries otherwise")                    \
	X("capture-ssh", PLAN_ON, capture_ssh, NULL, "inbound port 22, too; left alone otherwise")           \
	X("capture-metadata", PLAN_ON, capture_metadata, NULL,                                               \
	  "the clouds' metadata services (169.254.169.254, ...), too; left alone otherwise")                 \
	X("include-users", PLAN_USERS, include_users, "USERS", "outbound and DNS: only of these users")      \
	X("exclude-users", PLAN_USERS, exclude_users, "USERS", "outbound and DNS: not of these users")       \
	X("include-groups", PLAN_GROUPS, include_groups, "GROUPS", "outbound and DNS: only of these groups") \
	X("exclude-groups", PLAN_GROUPS, exclude_groups, "GROUPS", "outbound and DNS: not of these groups")  \
	X("include-cgroups", PLAN_CGROUPS, include_cgroups, "CGROUPS",                                       \
	  "outbound and DNS: only of programs in these control groups or units")                             \
	X("exclude-cgroups", PLAN_CGROUPS, exclude_cgroups, "CGROUPS",                                       \
	  "outbound and DNS: not of programs in these control groups or units")                              \
	X("include-marks", PLAN_MARKS, include_marks, "MARKS",                                               \
	  "outbound and DNS: only of sockets so marked")                                                     \
	X("exclude-marks", PLAN_MARKS, exclude_marks, "MARKS", "outbound and DNS: not of sockets so marked") \
	X("dns-servers", PLAN_ADDRESSES, dns.servers, "ADDRESSES", "only DNS queries to these servers")      \
	X("proxy-user", PLAN_USER, proxy_uid, "USER",                                                        \
	  "the proxy runs as this user: leave its connections alone")                                        \
	X("proxy-group", PLAN_GROUP, proxy_gid, "GROUP", "the proxy runs as this group: the same")           \
	X("outbound-port", PLAN_PORT, outbound_port, "PORT",                                                 \
	  "where the proxy takes outbound connections (15001)")                                              \
	X("inbound-port", PLAN_PORT, inbound_port, "PORT",                                                   \
	  "where the proxy takes inbound connections (15006)")                                               \
	X("dns-port", PLAN_PORT, dns_port, "PORT", "where the proxy answers DNS queries (15053)")            \
	X("outbound-mark", PLAN_NUMBER, outbound_mark, "MARK",                                               \
	  "mark of the proxy's connections to endpoints (0x771)")                                            \
	X("inbound-mark", PLAN_NUMBER, inbound_mark, "MARK",                                                 \
	  "mark of the proxy's other connections (0x772)")                                                   \
	X("client-mark", PLAN_NUMBER, client_mark, "MARK",                                                   \
	  "mark of those that come from a client's address (0x773)")                                         \
	X("mark-mask", PLAN_NUMBER, mark_mask, "MASK", "the bits of the marks that count (0xfff)")

// Zero-initialise by plan_builder_init, free with plan_builder_done. `plan` is valid until then.
struct plan_builder {
	struct capture_plan plan;
	void **_blocks;
	size_t _block_count, _block_cap;
};

void plan_builder_init(struct plan_builder *ret_builder);
void plan_builder_done(struct plan_builder *builder);
// Applies one setting; a list is added to what was set by that name before. 0; ERR_NOT_FOUND (no such name);
// ERR_CONFIG with a sentence appended to ret_error; -ENOMEM.
int plan_builder_set(struct plan_builder *builder, const char *name, struct str value,
		     struct strbuf *ret_error);
