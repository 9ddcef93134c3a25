// SPDX-License-Identifier: Apache-2.0
// From the plan to the rules. What comes first decides: first whose connection it is (the proxy's, an exempt
// program's), then what cannot be meant otherwise (DNS, virtual IPs, the host itself), then where it goes.
#include "intercept/rules.h"

#include "base/mem.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stdio.h>

// The zone in which captured DNS queries are tracked. (Rules of old had the answers in theirs, too, 0x771:
// what they began must not be found by those that take their place, since its answers would not be.)
enum { DNS_ZONE = 0x774, CLIENT_ZONE = 0x773, SSH_PORT = 22, DNS_PORT = 53 };
// Longer than TCP waits between two tries, and than resolvers do.
enum { LAST_TRY_MS = 200000, LAST_QUERY_MS = 60000 };

static const char held_comment[] = "held, while no proxy listens";
static const char handed_comment[] = "inbound, while no proxy listens";
static const char listens_comment[] = "the proxy listens";
static const char over_comment[] = "has waited for as long as it may";

// A set that two rules use, one a family.
struct set_pair {
	int ipv4, ipv6; // negative: no such set
};

struct compiler {
	const struct capture_plan *plan;
	struct ruleset *ruleset;
	struct rule *rule; // under way
	struct rule _lost; // when there is no memory
	int err;
	struct set_pair loopback, link_local, vips, dns_servers;
	enum rule_chain going; // where rules on destinations go, for connections that leave
};

// --- building a rule ---------------------------------------------------------------------------------------
static void begin(struct compiler *c, enum rule_chain chain)
{
	c->rule = ruleset_add_rule(c->ruleset, chain);
	if (!c->rule) {
		c->err = -ENOMEM;
		c->rule = &c->_lost;
	}
}

static struct rule_match *add_match(struct compiler *c, enum rule_field field)
{
	struct rule *rule = c->rule;
	if (rule == &c->_lost)
		rule->match_count = 0;
	struct rule_match *match = &rule->matches[rule->match_count++];
	*match = (struct rule_match){.field = field, .set = -1, .mask = UINT32_MAX};
	return match;
}

static void match_value(struct compiler *c, enum rule_field field, uint32_t value)
{
	add_match(c, field)->value = value;
}

static void match_mark(struct compiler *c, uint32_t value, uint32_t mask)
{
	struct rule_match *match = add_match(c, RULE_MARK);
	match->value = value;
	match->mask = mask;
}

static void match_syn(struct compiler *c, bool negated)
{
	struct rule_match *match = add_match(c, RULE_SYN);
	match->value = RULE_SYN_VALUE;
	match->mask = RULE_SYN_MASK;
	match->negated = negated;
}

static void match_set(struct compiler *c, enum rule_field field, int set, bool negated)
{
	struct rule_match *match = add_match(c, field);
	match->set = set;
	match->negated = negated;
}

static void match_interface(struct compiler *c, enum rule_field field, const char *name, bool negated)
{
	struct rule_match *match = add_match(c, field);
	strncpy(match->name, name, sizeof match->name - 1);
	match->negated = negated;
}

static void match_cgroup(struct compiler *c, const char *name)
{
	struct rule_match *match = add_match(c, RULE_CGROUP);
	match->path = ruleset_keep_text(c->ruleset, str_from(name));
	if (!match->path)
		c->err = -ENOMEM;
}

static void end(struct compiler *c, enum rule_action action, uint32_t value, const char *comment)
{
	c->rule->action = action;
	c->rule->value = value;
	strncpy(c->rule->comment, comment, sizeof c->rule->comment - 1);
}

// --- sets --------------------------------------------------------------------------------------------------
static void add_range(struct compiler *c, int set, const struct rule_range *range)
{
	if (set >= 0 && rule_set_add(&c->ruleset->sets[set], range))
		c->err = -ENOMEM;
}

static int new_set(struct compiler *c, const char *name, enum rule_set_type type)
{
	int set = ruleset_add_set(c->ruleset, name, type);
	if (set < 0)
		c->err = set;
	return set;
}

static int finish_set(struct compiler *c, int set)
{
	if (set >= 0)
		rule_set_normalise(&c->ruleset->sets[set]);
	return set;
}

static void add_port(struct compiler *c, int set, uint16_t first, uint16_t last)
{
	struct rule_range range = {{(uint8_t)(first >> 8), (uint8_t)first},
				   {(uint8_t)(last >> 8), (uint8_t)last}};
	add_range(c, set, &range);
}

// The set of some ports, or -1 if there are none. `extra`: one port more, if not 0.
static int port_set(struct compiler *c, const char *name, const struct capture_ports *ports, uint16_t extra)
{
	if (ports->count == 0 && !extra)
		return -1;
	int set = new_set(c, name, SET_PORT);
	for (size_t i = 0; i < ports->count; i++)
		add_port(c, set, ports->ranges[i].first, ports->ranges[i].last);
	if (extra)
		add_port(c, set, extra, extra);
	return finish_set(c, set);
}

static void put_u32(uint8_t bytes[4], uint32_t value)
{
	uint32_t net = htonl(value);
	memcpy(bytes, &net, sizeof net);
}

static int id_set(struct compiler *c, const char *name, enum rule_set_type type,
		  const struct capture_ids *ids)
{
	if (ids->count == 0)
		return -1;
	int set = new_set(c, name, type);
	for (size_t i = 0; i < ids->count; i++) {
		struct rule_range range = {0};
		put_u32(range.first, ids->ranges[i].first);
		put_u32(range.last, ids->ranges[i].last);
		add_range(c, set, &range);
	}
	return finish_set(c, set);
}

static struct rule_range cidr_range(const struct cidr *cidr)
{
	struct rule_range range = {0};
	size_t len = cidr->ip.family == AF_INET6 ? 16 : 4;
	memcpy(range.first, cidr->ip.bytes, len);
	memcpy(range.last, cidr->ip.bytes, len);
	for (size_t bit = cidr->bits; bit < len * 8; bit++)
		range.last[bit / 8] |= (uint8_t)(0x80u >> (bit % 8));
	return range;
}

static bool has_family(const struct cidr *cidrs, size_t count, uint8_t family)
{
	for (size_t i = 0; i < count; i++)
		if (cidrs[i].ip.family == family)
			return true;
	return false;
}

static int family_set(struct compiler *c, const char *name, uint8_t family, const struct cidr *cidrs,
		      size_t count)
{
	char full[32];
	if (!has_family(cidrs, count, family))
		return -1;
	snprintf(full, sizeof full, "%s_%s", name, family == AF_INET ? "ipv4" : "ipv6");
	int set = new_set(c, full, family == AF_INET ? SET_IPV4 : SET_IPV6);
	for (size_t i = 0; i < count; i++) {
		struct rule_range range = cidr_range(&cidrs[i]);
		if (cidrs[i].ip.family == family)
			add_range(c, set, &range);
	}
	return finish_set(c, set);
}

static struct set_pair cidr_sets(struct compiler *c, const char *name, const struct cidr *cidrs, size_t count)
{
	return (struct set_pair){
	    .ipv4 = c->plan->ipv4 ? family_set(c, name, AF_INET, cidrs, count) : -1,
	    .ipv6 = c->plan->ipv6 ? family_set(c, name, AF_INET6, cidrs, count) : -1,
	};
}

// --- rules that several chains have ------------------------------------------------------------------------
static void family_rules(struct compiler *c, enum rule_chain chain)
{
	if (c->plan->ipv4 && c->plan->ipv6)
		return;
	begin(c, chain);
	match_value(c, RULE_FAMILY, c->plan->ipv4 ? AF_INET6 : AF_INET);
	end(c, RULE_RETURN, 0, c->plan->ipv4 ? "IPv6 is not captured" : "IPv4 is not captured");
}

// A link-local address means nothing without its interface (RFC 4007 6), which no redirect keeps: neither
// could the proxy call a server there, nor would a program take an answer for that server's. What comes from
// such an address is captured all the same: who is on the link must not get past the proxy's policy so.
static void link_local_rule(struct compiler *c, enum rule_chain chain)
{
	if (c->link_local.ipv6 < 0)
		return;
	begin(c, chain);
	match_set(c, RULE_DEST6, c->link_local.ipv6, false);
	end(c, RULE_RETURN, 0, "link-local address");
}

// Connection tracking takes the next packet of a connection that was open before it began for the first of a
// new one. Redirected to the proxy, which knows nothing of it, such a connection would be reset.
static void open_rule(struct compiler *c, enum rule_chain chain)
{
	begin(c, chain);
	match_syn(c, true);
	end(c, RULE_RETURN, 0, "connections that are open already");
}

// The proxy's own connections, and what is exempt whatever its destination.
static void owner_rules(struct compiler *c, enum rule_chain chain)
{
	const struct capture_plan *plan = c->plan;
	begin(c, chain);
	match_mark(c, plan->outbound_mark, plan->mark_mask);
	end(c, RULE_RETURN, 0, "proxy: to endpoints");
	if (plan->has_proxy_uid) {
		begin(c, chain);
		match_value(c, RULE_USER, plan->proxy_uid);
		end(c, RULE_RETURN, 0, "proxy: by its user");
	}
	if (plan->has_proxy_gid) {
		begin(c, chain);
		match_value(c, RULE_GROUP, plan->proxy_gid);
		end(c, RULE_RETURN, 0, "proxy: by its group");
	}
	for (size_t i = 0; i < plan->exclude_marks.count; i++) {
		begin(c, chain);
		match_mark(c, plan->exclude_marks.matches[i].value, plan->exclude_marks.matches[i].mask);
		end(c, RULE_RETURN, 0, "excluded mark");
	}
}

struct program_sets {
	int exclude_users, exclude_groups, include_users, include_groups;
};

// That a control group does not match cannot be asked for in all back ends: for nftables, a socket that is
// less deep in the hierarchy neither matches nor differs. And a mark may be any of several, of which there are
// no sets. So what is included goes on in a chain of its own.
static void include_rules(struct compiler *c, enum rule_chain chain, const struct program_sets *sets,
			  enum rule_chain chosen)
{
	const struct capture_cgroups *cgroups = &c->plan->include_cgroups;
	const struct capture_marks *marks = &c->plan->include_marks;
	for (size_t i = 0; i < cgroups->count; i++) {
		begin(c, chain);
		match_cgroup(c, cgroups->names[i]);
		end(c, RULE_GOTO, chosen, "included control group");
	}
	for (size_t i = 0; i < marks->count; i++) {
		begin(c, chain);
		match_mark(c, marks->matches[i].value, marks->matches[i].mask);
		end(c, RULE_GOTO, chosen, "included mark");
	}
	if (sets->include_users >= 0) {
		begin(c, chain);
		match_set(c, RULE_USER, sets->include_users, false);
		end(c, RULE_GOTO, chosen, "included user");
	}
	if (sets->include_groups >= 0) {
		begin(c, chain);
		match_set(c, RULE_GROUP, sets->include_groups, false);
		end(c, RULE_GOTO, chosen, "included group");
	}
	begin(c, chain);
	end(c, RULE_RETURN, 0, "no included user, group, control group or mark");
}

// Returns the chain in which it goes on: `chain`, or `chosen`.
static enum rule_chain program_rules(struct compiler *c, enum rule_chain chain,
				     const struct program_sets *sets, enum rule_chain chosen)
{
	const struct capture_cgroups *excluded = &c->plan->exclude_cgroups;
	for (size_t i = 0; i < excluded->count; i++) {
		begin(c, chain);
		match_cgroup(c, excluded->names[i]);
		end(c, RULE_RETURN, 0, "excluded control group");
	}
	if (sets->exclude_users >= 0) {
		begin(c, chain);
		match_set(c, RULE_USER, sets->exclude_users, false);
		end(c, RULE_RETURN, 0, "excluded user");
	}
	if (sets->exclude_groups >= 0) {
		begin(c, chain);
		match_set(c, RULE_GROUP, sets->exclude_groups, false);
		end(c, RULE_RETURN, 0, "excluded group");
	}
	if (c->plan->include_cgroups.count || c->plan->include_marks.count) {
		include_rules(c, chain, sets, chosen);
		return chosen;
	}
	if (sets->include_users < 0 && sets->include_groups < 0)
		return chain;
	begin(c, chain);
	if (sets->include_users >= 0)
		match_set(c, RULE_USER, sets->include_users, true);
	if (sets->include_groups >= 0)
		match_set(c, RULE_GROUP, sets->include_groups, true);
	end(c, RULE_RETURN, 0, "neither an included user nor group");
	return chain;
}

// A chain that others lead to must be there.
static void finish_chosen(struct compiler *c, enum rule_chain chain)
{
	if (ruleset_has_chain(c->ruleset, chain))
		return;
	begin(c, chain);
	end(c, RULE_RETURN, 0, "nothing else is captured");
}

static void proxy_inbound_rule(struct compiler *c, enum rule_chain chain)
{
	begin(c, chain);
	match_mark(c, c->plan->inbound_mark, c->plan->mark_mask);
	end(c, RULE_RETURN, 0, "proxy: to the application, DNS servers and others");
}

// --- DNS ---------------------------------------------------------------------------------------------------
// One
// rule, or one a family if there is a list of servers.
static void dns_rules(struct compiler *c, enum rule_chain chain, enum rule_field port,
		      enum rule_action action, uint32_t value, const char *comment)
{
	const struct set_pair *servers = &c->dns_servers;
	const struct {
		enum rule_field field;
		int set;
	} families[] = {{RULE_DEST4, servers->ipv4}, {RULE_DEST6, servers->ipv6}};
	bool to_all = c->plan->dns.server_count == 0;
	for (size_t i = 0; i < (to_all ? 1 : 2); i++) {
		if (!to_all && families[i].set < 0)
			continue;
		begin(c, chain);
		match_value(c, port, DNS_PORT);
		if (!to_all)
			match_set(c, families[i].field, families[i].set, false);
		end(c, action, value, comment);
	}
}

// The proxy and an application may well use the same source port to the same DNS server, one after the other.
// UDP entries of connection tracking outlive the sockets, so the second one would be taken for the first: the
// application's query would pass the proxy by, or the proxy's would come back to itself. Hence captured
// queries, and they alone, are tracked in a zone of their own. What comes back is not: that nobody listens
// would not be known to belong to them then, and not be told to those who asked.
static void zone_rules(struct compiler *c, const struct program_sets *programs)
{
	begin(c, CHAIN_OUTPUT_RAW);
	match_value(c, RULE_UDP_DEST_PORT, DNS_PORT);
	end(c, RULE_GOTO, CHAIN_DNS_ZONE, "DNS queries");
	family_rules(c, CHAIN_DNS_ZONE);
	link_local_rule(c, CHAIN_DNS_ZONE);
	proxy_inbound_rule(c, CHAIN_DNS_ZONE);
	owner_rules(c, CHAIN_DNS_ZONE);
	enum rule_chain chain = program_rules(c, CHAIN_DNS_ZONE, programs, CHAIN_DNS_CHOSEN);
	dns_rules(c, chain, RULE_UDP_DEST_PORT, RULE_ZONE_ORIGINAL, DNS_ZONE, "captured DNS queries");
	finish_chosen(c, chain);
}

static struct set_pair dns_server_sets(struct compiler *c)
{
	const struct capture_dns *dns = &c->plan->dns;
	struct set_pair sets = {-1, -1};
	if (!dns->enabled || dns->server_count == 0)
		return sets;
	struct cidr *cidrs = mem_array(dns->server_count, sizeof *cidrs);
	if (!cidrs) {
		c->err = -ENOMEM;
		return sets;
	}
	for (size_t i = 0; i < dns->server_count; i++)
		cidrs[i] = (struct cidr){dns->servers[i], dns->servers[i].family == AF_INET6 ? 128 : 32};
	sets = cidr_sets(c, "dns_servers", cidrs, dns->server_count);
	mem_free(cidrs);
	return sets;
}

// --- where it goes -----------------------------------------------------------------------------------------
static void interface_rules(struct compiler *c, enum rule_chain chain, enum rule_field field,
			    const struct capture_direction *direction)
{
	for (size_t i = 0; i < direction->exclude_interfaces.count; i++) {
		begin(c, chain);
		match_interface(c, field, direction->exclude_interfaces.names[i], false);
		end(c, RULE_RETURN, 0, "excluded interface");
	}
	if (direction->include_interfaces.count == 0)
		return;
	begin(c, chain);
	for (size_t i = 0; i < direction->include_interfaces.count; i++)
		match_interface(c, field, direction->include_interfaces.names[i], true);
	end(c, RULE_RETURN, 0, "not an included interface");
}

struct port_sets {
	int exclude, include;
};

static struct port_sets port_sets(struct compiler *c, const char *direction,
				  const struct capture_direction *ports, uint16_t exclude)
{
	char exclude_name[32], include_name[32];
	snprintf(exclude_name, sizeof exclude_name, "%s_exclude_ports", direction);
	snprintf(include_name, sizeof include_name, "%s_include_ports", direction);
	int excluded = port_set(c, exclude_name, &ports->exclude_ports, exclude);
	return (struct port_sets){excluded, port_set(c, include_name, &ports->include_ports, 0)};
}

static void port_rules(struct compiler *c, enum rule_chain chain, struct port_sets sets)
{
	if (sets.exclude >= 0) {
		begin(c, chain);
		match_set(c, RULE_TCP_DEST_PORT, sets.exclude, false);
		end(c, RULE_RETURN, 0, "excluded port");
	}
	if (sets.include >= 0) {
		begin(c, chain);
		match_set(c, RULE_TCP_DEST_PORT, sets.include, true);
		end(c, RULE_RETURN, 0, "not an included port");
	}
}

static void exclude_cidr_rules(struct compiler *c, enum rule_chain chain, const char *name,
			       const struct cidr *cidrs, size_t count, enum rule_field ipv4)
{
	struct set_pair sets = cidr_sets(c, name, cidrs, count);
	if (sets.ipv4 >= 0) {
		begin(c, chain);
		match_set(c, ipv4, sets.ipv4, false);
		end(c, RULE_RETURN, 0, "excluded network");
	}
	if (sets.ipv6 >= 0) {
		begin(c, chain);
		match_set(c, ipv4 + 1, sets.ipv6, false);
		end(c, RULE_RETURN, 0, "excluded network");
	}
}

// With networks of one family alone, all of the other is left alone.
static void include_cidr_rules(struct compiler *c, enum rule_chain chain, const char *name,
			       const struct capture_cidrs *cidrs, enum rule_field ipv4)
{
	if (cidrs->count == 0)
		return;
	struct set_pair sets = cidr_sets(c, name, cidrs->cidrs, cidrs->count);
	if (c->plan->ipv4) {
		begin(c, chain);
		if (sets.ipv4 >= 0)
			match_set(c, ipv4, sets.ipv4, true);
		else
			match_value(c, RULE_FAMILY, AF_INET);
		end(c, RULE_RETURN, 0, "not an included network");
	}
	if (c->plan->ipv6) {
		begin(c, chain);
		if (sets.ipv6 >= 0)
			match_set(c, ipv4 + 1, sets.ipv6, true);
		else
			match_value(c, RULE_FAMILY, AF_INET6);
		end(c, RULE_RETURN, 0, "not an included network");
	}
}

static void tcp_rule(struct compiler *c, enum rule_chain chain, enum rule_action action, uint32_t value,
		     const char *comment)
{
	begin(c, chain);
	match_value(c, RULE_PROTOCOL, IPPROTO_TCP);
	end(c, action, value, comment);
}

// --- the chains --------------------------------------------------------------------------------------------
// The outbound
// proxy's connections to this very host go on to the inbound proxy, which ends the TLS.
static void self_call_rule(struct compiler *c, enum rule_field field, int loopback)
{
	if (loopback < 0)
		return;
	begin(c, CHAIN_OUTPUT);
	match_mark(c, c->plan->outbound_mark, c->plan->mark_mask);
	match_interface(c, RULE_OUT_INTERFACE, "lo", false);
	match_set(c, field, loopback, true);
	end(c, RULE_GOTO, CHAIN_INBOUND, "proxy: to an endpoint on this host");
}

static void vip_rule(struct compiler *c, enum rule_field field, int vips)
{
	if (vips < 0)
		return;
	begin(c, c->going);
	match_value(c, RULE_PROTOCOL, IPPROTO_TCP);
	match_set(c, field, vips, false);
	end(c, RULE_REDIRECT, c->plan->outbound_port, "outbound: virtual IP");
}

static void outbound_cidr_rules(struct compiler *c)
{
	static const struct cidr metadata[] = {
	    {{AF_INET, {169, 254, 169, 254}}, 32},			    // nearly all
	    {{AF_INET6, {0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, 0x54}}, 128}, // Amazon
	    {{AF_INET, {169, 254, 170, 2}}, 32},			    // its containers' credentials
	    {{AF_INET, {169, 254, 170, 23}}, 32},			    // its pods' credentials
	    {{AF_INET6, {0xfd, 0x00, 0x0e, 0xc2, [15] = 0x23}}, 128},
	    {{AF_INET6, {0xfd, 0x20, 0, 0xce, [14] = 0x02, 0x54}}, 128}, // Google
	    {{AF_INET, {168, 63, 129, 16}}, 32},			 // Azure
	    {{AF_INET, {100, 100, 100, 200}}, 32},			 // Alibaba
	};
	const struct capture_cidrs *exclude = &c->plan->outbound.exclude_cidrs;
	size_t extra = c->plan->capture_metadata ? 0 : ARRAY_SIZE(metadata), count = exclude->count + extra;
	struct cidr *all = mem_array(count + 1, sizeof *all);
	if (!all) {
		c->err = -ENOMEM;
		return;
	}
	memcpy(all, metadata, extra * sizeof *all);
	if (exclude->count)
		memcpy(all + extra, exclude->cidrs, exclude->count * sizeof *all);
	exclude_cidr_rules(c, c->going, "outbound_exclude", all, count, RULE_DEST4);
	include_cidr_rules(c, c->going, "outbound_include", &c->plan->outbound.include_cidrs, RULE_DEST4);
	mem_free(all);
}

static void outbound_rules(struct compiler *c)
{
	vip_rule(c, RULE_DEST4, c->vips.ipv4);
	vip_rule(c, RULE_DEST6, c->vips.ipv6);
	begin(c, c->going);
	match_interface(c, RULE_OUT_INTERFACE, "lo", false);
	end(c, RULE_RETURN, 0, "a program's connections to its own host");
	interface_rules(c, c->going, RULE_OUT_INTERFACE, &c->plan->outbound);
	port_rules(c, c->going, port_sets(c, "outbound", &c->plan->outbound, 0));
	outbound_cidr_rules(c);
	tcp_rule(c, c->going, RULE_REDIRECT, c->plan->outbound_port, "outbound");
}

// The proxy's connection to the application from a client's address may have the addresses and ports of one
// that this client makes itself. Tracked apart, neither is taken for the other.
static void client_zone_rule(struct compiler *c)
{
	begin(c, CHAIN_OUTPUT_RAW);
	match_mark(c, c->plan->client_mark, c->plan->mark_mask);
	end(c, RULE_ZONE, CLIENT_ZONE, "between the proxy, as a client, and the application");
}

static void output_chain(struct compiler *c, const struct program_sets *programs)
{
	const struct capture_plan *plan = c->plan;
	family_rules(c, CHAIN_OUTPUT);
	open_rule(c, CHAIN_OUTPUT);
	link_local_rule(c, CHAIN_OUTPUT);
	proxy_inbound_rule(c, CHAIN_OUTPUT);
	if (plan_keeps_client(plan)) {
		begin(c, CHAIN_OUTPUT);
		match_mark(c, plan->client_mark, plan->mark_mask);
		end(c, RULE_RETURN, 0, "proxy: to the application, as its client");
	}
	if (plan->inbound.enabled) {
		self_call_rule(c, RULE_DEST4, c->loopback.ipv4);
		self_call_rule(c, RULE_DEST6, c->loopback.ipv6);
	}
	owner_rules(c, CHAIN_OUTPUT);
	c->going = program_rules(c, CHAIN_OUTPUT, programs, CHAIN_CHOSEN);
	if (plan->dns.enabled) {
		dns_rules(c, c->going, RULE_UDP_DEST_PORT, RULE_REDIRECT, plan->dns_port, "DNS over UDP");
		dns_rules(c, c->going, RULE_TCP_DEST_PORT, RULE_REDIRECT, plan->dns_port, "DNS over TCP");
	}
	if (plan->outbound.enabled)
		outbound_rules(c);
	finish_chosen(c, c->going);
}

// Connections from other hosts: what is left alone, then on to `next`.
static void arriving_rules(struct compiler *c, enum rule_chain chain, enum rule_chain next)
{
	const struct capture_direction *inbound = &c->plan->inbound;
	family_rules(c, chain);
	// Where connections are handed over, the answer to a SYN cookie is for the proxy's listener, too;
	// those that have a socket keep it.
	if (chain == CHAIN_PREROUTING)
		open_rule(c, chain);
	begin(c, chain);
	match_interface(c, RULE_IN_INTERFACE, "lo", false);
	end(c, RULE_RETURN, 0, "from this host itself");
	begin(c, chain);
	match_value(c, RULE_DEST_TYPE, RTN_LOCAL);
	c->rule->matches[0].negated = true;
	end(c, RULE_RETURN, 0, "only forwarded by this host");
	interface_rules(c, chain, RULE_IN_INTERFACE, inbound);
	exclude_cidr_rules(c, chain, "inbound_exclude", inbound->exclude_cidrs.cidrs,
			   inbound->exclude_cidrs.count, RULE_SOURCE4);
	include_cidr_rules(c, chain, "inbound_include", &inbound->include_cidrs, RULE_SOURCE4);
	tcp_rule(c, chain, RULE_GOTO, next, "inbound, from other hosts");
}

// Handed over, a connection needs no translation, no mark and no route: only local destinations are captured,
// and its later packets find the accepted socket by their addresses. Only the proxy's own calls to this host
// are redirected in any case: they do not arrive.
static void inbound_chains(struct compiler *c)
{
	const struct capture_plan *plan = c->plan;
	if (plan->inbound_mode == INBOUND_TPROXY)
		arriving_rules(c, CHAIN_ARRIVING, CHAIN_HANDED);
	else
		arriving_rules(c, CHAIN_PREROUTING, CHAIN_INBOUND);
	struct port_sets ports = port_sets(c, "inbound", &plan->inbound, plan->capture_ssh ? 0 : SSH_PORT);
	port_rules(c, CHAIN_INBOUND, ports);
	tcp_rule(c, CHAIN_INBOUND, RULE_REDIRECT, plan->inbound_port, "inbound");
	if (plan->inbound_mode != INBOUND_TPROXY)
		return;
	port_rules(c, CHAIN_HANDED, ports);
	tcp_rule(c, CHAIN_HANDED, RULE_TPROXY, plan->inbound_port, "inbound");
}

// --- waiting -----------------------------------------------------------------------------------------------
// Where connections wait, and what opens one there.
struct waiting {
	enum rule_chain chain;
	int ports;		  // the proxy's; negative: those that are handed over have any
	int held, known, refused; // of the attempts that wait, have begun to, and are over
};

static int rule_filled_set(struct compiler *c, const char *name, enum rule_set_type type, uint32_t timeout_ms)
{
	int set = new_set(c, name, type);
	if (set >= 0)
		c->ruleset->sets[set].timeout_ms = timeout_ms;
	return set;
}

static void begin_attempt(struct compiler *c, const struct waiting *waiting)
{
	begin(c, waiting->chain);
	if (waiting->ports < 0)
		match_syn(c, false);
	else
		match_set(c, RULE_TCP_DEST_PORT, waiting->ports, false);
	match_value(c, RULE_NEW, 0);
}

// What comes to the proxy's ports is refused there. What is handed over would go on to the application: that
// its time is over is noted, for a rule further on its way. (Where it arrives, nftables can refuse since
// Linux 5.10 only.) Without room for the note it waits anew.
static void over_rules(struct compiler *c, const struct waiting *waiting)
{
	bool handed = waiting->chain == CHAIN_HANDED;
	begin_attempt(c, waiting);
	match_set(c, RULE_SEQUENCE, waiting->known, false);
	end(c, handed ? RULE_REMEMBER : RULE_RETURN, handed ? (uint32_t)waiting->refused : 0, over_comment);
	if (!handed)
		return;
	begin_attempt(c, waiting);
	match_set(c, RULE_SEQUENCE, waiting->refused, false);
	end(c, RULE_RETURN, 0, "refused, when it comes to this host");
}

// All packets by which a connection is tried have one number, by which it is known as long as it waits; and
// then for as long as TCP may need for another one, so that this is not taken for a connection's first.
static void limit_rules(struct compiler *c, const struct waiting *waiting, const char *comment)
{
	begin_attempt(c, waiting);
	match_set(c, RULE_SEQUENCE, waiting->held, false);
	end(c, RULE_DROP, 0, comment);
	over_rules(c, waiting);
	begin_attempt(c, waiting);
	end(c, RULE_REMEMBER, (uint32_t)waiting->known, "begins to wait");
	begin_attempt(c, waiting);
	end(c, RULE_REMEMBER, (uint32_t)waiting->held, "waits");
}

// What is dropped is sent again, by TCP for two minutes, and finds the proxy that came meanwhile. What is
// handed over must be dropped in any case: it would go on to the application, as those do that are open
// already.
static void wait_rules(struct compiler *c, const struct waiting *waiting, const char *comment)
{
	if (plan_hold_ms(c->plan))
		limit_rules(c, waiting, comment);
	begin_attempt(c, waiting);
	end(c, RULE_DROP, 0, comment);
}

static int proxy_ports(struct compiler *c)
{
	const struct capture_plan *plan = c->plan;
	int ports = new_set(c, "proxy_ports", SET_PORT);
	if (plan->outbound.enabled)
		add_port(c, ports, plan->outbound_port, plan->outbound_port);
	if (plan->inbound.enabled)
		add_port(c, ports, plan->inbound_port, plan->inbound_port);
	if (plan->dns.enabled)
		add_port(c, ports, plan->dns_port, plan->dns_port);
	return finish_set(c, ports);
}

static void handed_rules(struct compiler *c, struct waiting waiting)
{
	waiting.chain = CHAIN_HANDED;
	waiting.ports = -1;
	wait_rules(c, &waiting, handed_comment);
	if (!plan_hold_ms(c->plan))
		return;
	begin(c, CHAIN_HOLD);
	match_syn(c, false);
	match_value(c, RULE_NEW, 0);
	match_set(c, RULE_SEQUENCE, waiting.refused, false);
	end(c, RULE_REJECT, 0, "inbound, has waited for as long as it may");
}

static void begin_query(struct compiler *c)
{
	begin(c, CHAIN_HOLD);
	match_value(c, RULE_UDP_DEST_PORT, c->plan->dns_port);
}

// Whoever asks again has waited since he asked first, from the same port and the same server; for a while
// after his time he is refused, by the kernel, since nobody listens.
static void query_limit_rules(struct compiler *c, uint8_t family)
{
	bool four = family == AF_INET;
	enum rule_set_type type = four ? SET_QUERY4 : SET_QUERY6;
	enum rule_field field = rule_set_field(type);
	int held =
	    rule_filled_set(c, four ? "queries_held_ipv4" : "queries_held_ipv6", type, plan_hold_ms(c->plan));
	int known = rule_filled_set(c, four ? "queries_known_ipv4" : "queries_known_ipv6", type,
				    plan_hold_ms(c->plan) + LAST_QUERY_MS);
	begin_query(c);
	match_set(c, field, held, false);
	end(c, RULE_DROP, 0, held_comment);
	begin_query(c);
	match_set(c, field, known, false);
	end(c, RULE_RETURN, 0, over_comment);
	begin_query(c);
	match_set(c, field, known, true);
	end(c, RULE_REMEMBER, (uint32_t)known, "begins to wait");
	begin_query(c);
	match_set(c, field, held, true);
	end(c, RULE_REMEMBER, (uint32_t)held, "waits");
}

static void query_rules(struct compiler *c)
{
	const struct capture_plan *plan = c->plan;
	begin_query(c);
	match_value(c, RULE_LISTENS, 0);
	end(c, RULE_RETURN, 0, listens_comment);
	if (plan_hold_ms(plan) && plan->ipv4)
		query_limit_rules(c, AF_INET);
	if (plan_hold_ms(plan) && plan->ipv6)
		query_limit_rules(c, AF_INET6);
	begin_query(c);
	end(c, RULE_DROP, 0, held_comment);
}

static bool hands_over(const struct capture_plan *plan)
{
	return plan->inbound.enabled && plan->inbound_mode == INBOUND_TPROXY;
}

static void hold_rules(struct compiler *c)
{
	const struct capture_plan *plan = c->plan;
	struct waiting waiting = {.chain = CHAIN_HOLD, .ports = proxy_ports(c)};
	if (plan_hold_ms(plan)) {
		waiting.held = rule_filled_set(c, "held", SET_SEQUENCE, plan_hold_ms(plan));
		waiting.known = rule_filled_set(c, "known", SET_SEQUENCE, plan_hold_ms(plan) + LAST_TRY_MS);
	}
	if (plan_hold_ms(plan) && hands_over(plan))
		waiting.refused = rule_filled_set(c, "refused", SET_SEQUENCE, LAST_TRY_MS);
	begin_attempt(c, &waiting);
	match_value(c, RULE_LISTENS, 0);
	end(c, RULE_RETURN, 0, listens_comment);
	wait_rules(c, &waiting, held_comment);
	if (plan->dns.enabled)
		query_rules(c);
	if (hands_over(plan))
		handed_rules(c, waiting);
}

static struct program_sets program_sets(struct compiler *c)
{
	const struct capture_plan *plan = c->plan;
	return (struct program_sets){
	    .exclude_users = id_set(c, "exclude_users", SET_USER, &plan->exclude_users),
	    .exclude_groups = id_set(c, "exclude_groups", SET_GROUP, &plan->exclude_groups),
	    .include_users = id_set(c, "include_users", SET_USER, &plan->include_users),
	    .include_groups = id_set(c, "include_groups", SET_GROUP, &plan->include_groups),
	};
}

static void compile(struct compiler *c)
{
	static const struct cidr loopback[] = {{{AF_INET, {127}}, 8}, {{AF_INET6, {[15] = 1}}, 128}};
	static const struct cidr link_local = {{AF_INET6, {0xfe, 0x80}}, 10};
	const struct capture_plan *plan = c->plan;
	c->link_local = cidr_sets(c, "link_local", &link_local, 1);
	if (plan->inbound.enabled)
		c->loopback = cidr_sets(c, "loopback", loopback, ARRAY_SIZE(loopback));
	if (plan->outbound.enabled)
		c->vips = cidr_sets(c, "vips", plan->vips, plan->vip_count);
	c->dns_servers = dns_server_sets(c);
	struct program_sets programs = program_sets(c);
	if (plan_keeps_client(plan))
		client_zone_rule(c);
	if (plan->dns.enabled)
		zone_rules(c, &programs);
	output_chain(c, &programs);
	if (plan->inbound.enabled)
		inbound_chains(c);
	if (plan->fail == FAIL_HOLD)
		hold_rules(c);
	else if (plan->fail == FAIL_CLOSED && hands_over(plan))
		handed_rules(c, (struct waiting){0});
}

void ruleset_add_programs(struct ruleset *ruleset, const struct capture_plan *plan)
{
	bool tells = plan_keeps_client(plan);
	ruleset->programs =
	    (struct rule_programs){.fail = plan->fail,
				   .outbound_port = plan->outbound.enabled ? plan->outbound_port : 0,
				   .inbound_port = plan->inbound.enabled ? plan->inbound_port : 0,
				   .dns_port = plan->dns.enabled ? plan->dns_port : 0,
				   .client_mark = tells ? plan->client_mark : 0,
				   .mark_mask = tells ? plan->mark_mask : 0};
}

int ruleset_compile(const struct capture_plan *plan, struct ruleset *ret_ruleset)
{
	struct ruleset ruleset = {0};
	struct compiler c = {.plan = plan, .ruleset = &ruleset, .loopback = {-1, -1}, .vips = {-1, -1}};
	compile(&c);
	if (c.err) {
		ruleset_done(&ruleset);
		return c.err;
	}
	*ret_ruleset = ruleset;
	return 0;
}
