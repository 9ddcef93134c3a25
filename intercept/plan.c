// SPDX-License-Identifier: Apache-2.0
#include "intercept/plan.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "intercept/cgroups.h"
#include "intercept/marks.h"

#include <net/if.h>
#include <stdio.h>

void capture_plan_init(struct capture_plan *ret_plan)
{
	*ret_plan = (struct capture_plan){
	    .ipv4 = true,
	    .ipv6 = true,
	    .outbound_port = 15001,
	    .inbound_port = 15006,
	    .dns_port = 15053,
	    .outbound_mark = WEIR_MARK_OUTBOUND,
	    .inbound_mark = WEIR_MARK_INBOUND,
	    .client_mark = WEIR_MARK_CLIENT,
	    .mark_mask = WEIR_MARK_MASK,
	    .outbound.enabled = true,
	    .inbound.enabled = true,
	    .dns.enabled = true,
	};
}

static int invalid(struct strbuf *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
static int invalid(struct strbuf *error, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(error, format, args);
	va_end(args);
	return ERR_CONFIG;
}

static int check_proxy(const struct capture_plan *plan, struct strbuf *error)
{
	if (!plan->ipv4 && !plan->ipv6)
		return invalid(error, "neither IPv4 nor IPv6 is to be captured");
	if (!plan->outbound.enabled && !plan->inbound.enabled && !plan->dns.enabled)
		return invalid(error, "nothing is to be captured: outbound, inbound and DNS are all off");
	if (plan->hold_ms > LIMIT_HOLD_MS)
		return invalid(error, "connections may wait for %d s at most", LIMIT_HOLD_MS / 1000);
	if (!plan->outbound_port || !plan->inbound_port || !plan->dns_port)
		return invalid(error, "a port of the proxy is 0");
	if (plan->inbound_mode == INBOUND_TPROXY && plan->inbound_source == INBOUND_SOURCE_CLIENT)
		return invalid(
		    error,
		    "inbound mode tproxy and inbound source client do not go together: the proxy's "
		    "connection to "
		    "the application and another one of the same client could have the same four ends");
	if (plan->outbound_port == plan->inbound_port || plan->outbound_port == plan->dns_port ||
	    plan->inbound_port == plan->dns_port)
		return invalid(error, "the proxy's ports must differ: outbound %u, inbound %u, DNS %u",
			       plan->outbound_port, plan->inbound_port, plan->dns_port);
	return 0;
}

static int check_marks(const struct capture_plan *plan, struct strbuf *error)
{
	uint32_t outbound = plan->outbound_mark & plan->mark_mask,
		 inbound = plan->inbound_mark & plan->mark_mask;
	if (outbound != plan->outbound_mark || inbound != plan->inbound_mark)
		return invalid(error, "the proxy's marks have bits outside of their mask 0x%08x",
			       plan->mark_mask);
	// Unmarked sockets have 0: every application would pass for the proxy.
	if (!outbound || !inbound || outbound == inbound)
		return invalid(error, "the proxy's marks must differ from each other and from 0");
	if (plan->inbound_source == INBOUND_SOURCE_CLIENT &&
	    (plan->client_mark & ~plan->mark_mask || plan->client_mark == outbound ||
	     plan->client_mark == inbound || !plan->client_mark))
		return invalid(
		    error,
		    "the mark of connections from clients' addresses must differ from the proxy's others "
		    "and from 0, within their mask");
	return 0;
}

static int check_mark_matches(const struct capture_marks *marks, const char *what, struct strbuf *error)
{
	if (marks->count > LIMIT_CAPTURE_MARKS)
		return invalid(error, "%s marks: more than %d entries", what, LIMIT_CAPTURE_MARKS);
	for (size_t i = 0; i < marks->count; i++) {
		const struct mark_match *match = &marks->matches[i];
		if (!match->mask || match->value & ~match->mask)
			return invalid(
			    error, "%s mark 0x%x/0x%x can never match: its value has bits outside of its mask",
			    what, match->value, match->mask);
	}
	return 0;
}

static int check_ports(const struct capture_ports *ports, const char *what, struct strbuf *error)
{
	if (ports->count > LIMIT_CAPTURE_RANGES)
		return invalid(error, "%s: more than %d entries", what, LIMIT_CAPTURE_RANGES);
	for (size_t i = 0; i < ports->count; i++) {
		if (!ports->ranges[i].first)
			return invalid(error, "%s: port 0 does not exist", what);
		if (ports->ranges[i].first > ports->ranges[i].last)
			return invalid(error, "%s: the range %u-%u ends before it begins", what,
				       ports->ranges[i].first, ports->ranges[i].last);
	}
	return 0;
}

static int check_ids(const struct capture_ids *ids, const char *what, struct strbuf *error)
{
	if (ids->count > LIMIT_CAPTURE_RANGES)
		return invalid(error, "%s: more than %d entries", what, LIMIT_CAPTURE_RANGES);
	for (size_t i = 0; i < ids->count; i++)
		if (ids->ranges[i].first > ids->ranges[i].last)
			return invalid(error, "%s: the range %u-%u ends before it begins", what,
				       ids->ranges[i].first, ids->ranges[i].last);
	return 0;
}

static bool interface_is_valid(const char *name)
{
	size_t len = strlen(name);
	if (len == 0 || len >= IFNAMSIZ || strcmp(name, "*") == 0)
		return false;
	for (const char *c = name; *c; c++)
		if (*c <= ' ' || *c == '/' || *c == '"' || *c == '\\' || *c == 0x7f || (*c == '*' && c[1]))
			return false;
	return true;
}

static int check_interfaces(const struct capture_interfaces *interfaces, const char *what,
			    struct strbuf *error)
{
	if (interfaces->count > LIMIT_CAPTURE_INTERFACES)
		return invalid(error, "%s: more than %d entries", what, LIMIT_CAPTURE_INTERFACES);
	for (size_t i = 0; i < interfaces->count; i++)
		if (!interface_is_valid(interfaces->names[i]))
			return invalid(error, "%s: '%.64s' is no name of an interface", what,
				       interfaces->names[i]);
	return 0;
}

static int check_cgroups(const struct capture_cgroups *cgroups, const char *what, struct strbuf *error)
{
	if (cgroups->count > LIMIT_CAPTURE_CGROUPS)
		return invalid(error, "%s: more than %d entries", what, LIMIT_CAPTURE_CGROUPS);
	for (size_t i = 0; i < cgroups->count; i++) {
		const char *fault = cgroup_name_fault(cgroups->names[i]);
		if (fault)
			return invalid(error, "%s: '%.64s' %s", what, cgroups->names[i], fault);
	}
	return 0;
}

static int check_direction(const struct capture_direction *direction, const char *name, struct strbuf *error)
{
	char what[64];
	int err = 0;
	const struct {
		const char *text;
		const struct capture_ports *ports;
		const struct capture_cidrs *cidrs;
		const struct capture_interfaces *interfaces;
	} lists[] = {
	    {"included", &direction->include_ports, &direction->include_cidrs,
	     &direction->include_interfaces},
	    {"excluded", &direction->exclude_ports, &direction->exclude_cidrs,
	     &direction->exclude_interfaces},
	};
	for (size_t i = 0; i < 2 && !err; i++) {
		snprintf(what, sizeof what, "%s ports, %s", lists[i].text, name);
		err = check_ports(lists[i].ports, what, error);
		if (err == 0 && lists[i].cidrs->count > LIMIT_CAPTURE_RANGES)
			err = invalid(error, "%s networks, %s: more than %d entries", lists[i].text, name,
				      LIMIT_CAPTURE_RANGES);
		snprintf(what, sizeof what, "%s interfaces, %s", lists[i].text, name);
		if (err == 0)
			err = check_interfaces(lists[i].interfaces, what, error);
	}
	return err;
}

static int check_lists(const struct capture_plan *plan, struct strbuf *error)
{
	const struct {
		const struct capture_ids *ids;
		const char *what;
	} ids[] = {{&plan->include_users, "included users"},
		   {&plan->exclude_users, "excluded users"},
		   {&plan->include_groups, "included groups"},
		   {&plan->exclude_groups, "excluded groups"}};
	int err = check_direction(&plan->outbound, "outbound", error);
	if (err == 0)
		err = check_direction(&plan->inbound, "inbound", error);
	for (size_t i = 0; i < 4 && !err; i++)
		err = check_ids(ids[i].ids, ids[i].what, error);
	if (err == 0)
		err = check_cgroups(&plan->include_cgroups, "included control groups", error);
	if (err == 0)
		err = check_cgroups(&plan->exclude_cgroups, "excluded control groups", error);
	if (err == 0)
		err = check_mark_matches(&plan->include_marks, "included", error);
	if (err == 0)
		err = check_mark_matches(&plan->exclude_marks, "excluded", error);
	if (err == 0 &&
	    (plan->vip_count > LIMIT_CAPTURE_RANGES || plan->dns.server_count > LIMIT_CAPTURE_RANGES))
		err = invalid(error, "ranges of virtual IPs, DNS servers: more than %d entries",
			      LIMIT_CAPTURE_RANGES);
	return err;
}

// Connections to these are none that a proxy could take: a program's own host, groups of hosts, and addresses
// that mean nothing without an interface.
static bool is_no_vip_range(const struct cidr *vips)
{
	static const struct cidr reserved[] = {
	    {{AF_INET, {127}}, 8},   {{AF_INET, {224}}, 4},	     {{AF_INET6, {[15] = 1}}, 128},
	    {{AF_INET6, {0xff}}, 8}, {{AF_INET6, {0xfe, 0x80}}, 10},
	};
	for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
		if (cidr_contains(&reserved[i], &vips->ip) || cidr_contains(vips, &reserved[i].ip))
			return true;
	return vips->bits < 4;
}

static int check_vips(const struct capture_plan *plan, struct strbuf *error)
{
	char text[ADDR_TEXT_MAX];
	for (size_t i = 0; i < plan->vip_count; i++)
		if (is_no_vip_range(&plan->vips[i]))
			return invalid(error, "%s cannot be a range of virtual IPs",
				       cidr_format(&plan->vips[i], text));
	return 0;
}

static int check_dns_servers(const struct capture_plan *plan, struct strbuf *error)
{
	static const struct cidr link_local = {{AF_INET6, {0xfe, 0x80}}, 10};
	char text[ADDR_TEXT_MAX];
	for (size_t i = 0; i < plan->dns.server_count; i++)
		if (cidr_contains(&link_local, &plan->dns.servers[i]))
			return invalid(error, "%s: DNS queries to link-local addresses are not captured",
				       ip_format(&plan->dns.servers[i], text));
	return 0;
}

// Who names their port means them, unless they are of some servers: it spares TCP to that port of others.
static int check_dns_port(const struct capture_plan *plan, struct strbuf *error)
{
	enum { DNS_PORT = 53 };
	const struct capture_ports *ports = &plan->outbound.exclude_ports;
	bool all = plan->dns.enabled && plan->dns.server_count == 0;
	for (size_t i = 0; i < ports->count && all; i++)
		if (ports->ranges[i].first == DNS_PORT && ports->ranges[i].last == DNS_PORT)
			return invalid(error, "excluded outbound port 53 would not spare DNS queries, which have rules of their "
					      "own: turn their capture off, or give the servers of which they are captured");
	return 0;
}

int capture_plan_validate(const struct capture_plan *plan, struct strbuf *ret_error)
{
	int err = check_proxy(plan, ret_error);
	if (err == 0)
		err = check_marks(plan, ret_error);
	if (err == 0)
		err = check_lists(plan, ret_error);
	if (err == 0)
		err = check_dns_servers(plan, ret_error);
	if (err == 0)
		err = check_dns_port(plan, ret_error);
	return err ? err : check_vips(plan, ret_error);
}
