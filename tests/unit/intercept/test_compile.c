// SPDX-License-Identifier: Apache-2.0
// What the rules of a plan do with connections. An independent reading of the plan (as its header words it)
// says what they should do, for all kinds of connections.
#include "make_plan.h"

#include "base/mem.h"
#include "intercept/decide.h"
#include "intercept/marks.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

static struct addr at(const char *text)
{
	struct addr addr;
	assert_int_equal(addr_parse(str_from(text), &addr), 0);
	return addr;
}

static struct flow flow_to(const char *dest)
{
	return (struct flow){
	    .protocol = IPPROTO_TCP, .dest = at(dest), .out_interface = "eth0", .user = 1000, .group = 1000};
}

// The port that the connection is redirected to; 0: left alone.
static unsigned captured(const struct ruleset *ruleset, enum rule_chain chain, const struct flow *flow)
{
	const struct rule *rule = ruleset_decide(ruleset, chain, flow);
	assert_true(!rule || rule->action == RULE_REDIRECT || rule->action == RULE_RETURN);
	return rule && rule->action == RULE_REDIRECT ? rule->value : 0;
}

static const char *why(const struct ruleset *ruleset, enum rule_chain chain, const struct flow *flow)
{
	const struct rule *rule = ruleset_decide(ruleset, chain, flow);
	return rule ? rule->comment : "";
}

// --- every rule ---------------------------------------------------------------------------------------------
static void every_rule_says_what_it_is_for(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
		struct ruleset ruleset;
		make_rules(plans[i], &ruleset);
		assert_true(ruleset.rule_count > 0);
		for (size_t j = 0; j < ruleset.rule_count; j++) {
			const struct rule *rule = &ruleset.rules[j];
			assert_true(rule->comment[0] && strlen(rule->comment) < RULE_COMMENT_MAX - 1);
			assert_null(strchr(rule->comment, '"'));
			assert_true(rule->match_count <= RULE_MATCHES_MAX && !rule->foreign);
			if (rule->action == RULE_GOTO)
				assert_true(ruleset_has_chain(&ruleset, (enum rule_chain)rule->value));
		}
		ruleset_done(&ruleset);
	}
}

// --- the same by another way --------------------------------------------------------------------------------
static bool has_port(const struct capture_ports *ports, uint16_t port)
{
	for (size_t i = 0; i < ports->count; i++)
		if (port >= ports->ranges[i].first && port <= ports->ranges[i].last)
			return true;
	return false;
}

static bool has_ip(const struct cidr *cidrs, size_t count, const struct ip *ip)
{
	for (size_t i = 0; i < count; i++)
		if (cidr_contains(&cidrs[i], ip))
			return true;
	return false;
}

static bool has_id(const struct capture_ids *ids, uint32_t id)
{
	for (size_t i = 0; i < ids->count; i++)
		if (id >= ids->ranges[i].first && id <= ids->ranges[i].last)
			return true;
	return false;
}

static bool has_cgroup(const struct capture_cgroups *cgroups, const struct flow *flow)
{
	for (size_t i = 0; i < cgroups->count; i++)
		for (size_t j = 0; j < flow->cgroups.count; j++)
			if (flow->cgroups.ids[j] == cgroup_number(cgroups->names[i]))
				return true;
	return false;
}

static bool has_interface(const struct capture_interfaces *interfaces, const char *name)
{
	for (size_t i = 0; i < interfaces->count; i++) {
		const char *wanted = interfaces->names[i];
		size_t len = strlen(wanted);
		if (wanted[len - 1] == '*' ? !strncmp(wanted, name, len - 1) : !strcmp(wanted, name))
			return true;
	}
	return false;
}

static bool direction_takes(const struct capture_direction *direction, uint16_t port, const struct ip *ip,
			    const char *interface)
{
	if (has_port(&direction->exclude_ports, port) ||
	    has_interface(&direction->exclude_interfaces, interface) ||
	    has_ip(direction->exclude_cidrs.cidrs, direction->exclude_cidrs.count, ip))
		return false;
	return (!direction->include_ports.count || has_port(&direction->include_ports, port)) &&
	       (!direction->include_interfaces.count ||
		has_interface(&direction->include_interfaces, interface)) &&
	       (!direction->include_cidrs.count ||
		has_ip(direction->include_cidrs.cidrs, direction->include_cidrs.count, ip));
}

static bool family_is_captured(const struct capture_plan *plan, const struct ip *ip)
{
	return ip->family == AF_INET6 ? plan->ipv6 : plan->ipv4;
}

static bool has_mark(const struct capture_marks *marks, uint32_t mark)
{
	for (size_t i = 0; i < marks->count; i++)
		if ((mark & marks->matches[i].mask) == marks->matches[i].value)
			return true;
	return false;
}

static bool program_is_captured(const struct capture_plan *plan, const struct flow *flow)
{
	uint32_t mark = flow->mark & plan->mark_mask;
	if (mark == plan->outbound_mark || mark == plan->inbound_mark)
		return false;
	if (has_mark(&plan->exclude_marks, flow->mark))
		return false;
	if ((plan->has_proxy_uid && flow->user == plan->proxy_uid) ||
	    (plan->has_proxy_gid && flow->group == plan->proxy_gid))
		return false;
	if (has_id(&plan->exclude_users, flow->user) || has_id(&plan->exclude_groups, flow->group))
		return false;
	if (has_cgroup(&plan->exclude_cgroups, flow))
		return false;
	bool all = !plan->include_users.count && !plan->include_groups.count &&
		   !plan->include_cgroups.count && !plan->include_marks.count;
	return all || has_cgroup(&plan->include_cgroups, flow) || has_id(&plan->include_users, flow->user) ||
	       has_id(&plan->include_groups, flow->group) || has_mark(&plan->include_marks, flow->mark);
}

static bool dns_takes(const struct capture_plan *plan, const struct flow *flow)
{
	bool listed = plan->dns.server_count == 0;
	for (size_t i = 0; i < plan->dns.server_count; i++)
		listed |= ip_eq(&plan->dns.servers[i], &flow->dest.ip);
	return plan->dns.enabled && flow->dest.port == 53 && listed;
}

static bool is_metadata(const struct ip *ip)
{
	static const char *const services[] = {"169.254.169.254", "169.254.170.2", "169.254.170.23",
					       "100.100.100.200", "168.63.129.16", "fd00:ec2::254",
					       "fd00:ec2::23",	  "fd20:ce::254"};
	for (size_t i = 0; i < ARRAY_SIZE(services); i++) {
		struct ip service;
		ip_parse(str_from(services[i]), &service);
		if (ip_eq(ip, &service))
			return true;
	}
	return false;
}

static bool is_link_local(const struct ip *ip)
{
	return ip->family == AF_INET6 && ip->bytes[0] == 0xfe && ip->bytes[1] >> 6 == 2;
}

// The outbound proxy's call to an endpoint on this host.
static bool is_self_call(const struct capture_plan *plan, const struct flow *flow)
{
	return (flow->mark & plan->mark_mask) == plan->outbound_mark && !strcmp(flow->out_interface, "lo") &&
	       plan->inbound.enabled && !ip_is_loopback(&flow->dest.ip) && flow->protocol == IPPROTO_TCP;
}

static unsigned self_call_expected(const struct capture_plan *plan, uint16_t port)
{
	bool included = !plan->inbound.include_ports.count || has_port(&plan->inbound.include_ports, port);
	bool ssh = port == 22 && !plan->capture_ssh;
	return included && !ssh && !has_port(&plan->inbound.exclude_ports, port) ? plan->inbound_port : 0;
}

static bool outbound_takes(const struct capture_plan *plan, const struct flow *flow)
{
	if (!plan->outbound.enabled || flow->protocol != IPPROTO_TCP)
		return false;
	if (has_ip(plan->vips, plan->vip_count, &flow->dest.ip))
		return true;
	if (!strcmp(flow->out_interface, "lo") || (is_metadata(&flow->dest.ip) && !plan->capture_metadata))
		return false;
	return direction_takes(&plan->outbound, flow->dest.port, &flow->dest.ip, flow->out_interface);
}

static unsigned outbound_expected(const struct capture_plan *plan, const struct flow *flow)
{
	if (!family_is_captured(plan, &flow->dest.ip) || is_link_local(&flow->dest.ip))
		return 0;
	if (is_self_call(plan, flow))
		return self_call_expected(plan, flow->dest.port);
	if (!program_is_captured(plan, flow))
		return 0;
	if (dns_takes(plan, flow))
		return plan->dns_port;
	return outbound_takes(plan, flow) ? plan->outbound_port : 0;
}

static unsigned inbound_expected(const struct capture_plan *plan, const struct flow *flow)
{
	if (!plan->inbound.enabled || !family_is_captured(plan, &flow->dest.ip) ||
	    !strcmp(flow->in_interface, "lo") || !flow->dest_is_local || flow->protocol != IPPROTO_TCP)
		return 0;
	if (flow->dest.port == 22 && !plan->capture_ssh)
		return 0;
	return direction_takes(&plan->inbound, flow->dest.port, &flow->source.ip, flow->in_interface)
		   ? plan->inbound_port
		   : 0;
}

static const char *const hosts[] = {
    "10.0.0.1",	     "10.9.1.1",      "10.0.0.53",	 "192.0.2.1",	"240.240.3.7",
    "127.0.0.1",     "127.0.0.6",     "169.254.169.254", "10.77.0.9",	"255.255.255.255",
    "fd00::1",	     "fd00:1::1",     "fd00::53",	 "2001:db8::1", "fd77:65:6972::307",
    "::1",	     "fd00:ec2::254", "ffff::1",	 "fe80::1",	"febf:ffff::1",
    "fec0::1",	     "169.254.170.2", "169.254.170.23",	 "169.254.1.1", "100.100.100.200",
    "168.63.129.16", "fd00:ec2::23",  "fd20:ce::254"};
static const uint16_t ports[] = {1, 5, 10, 11, 22, 53, 80, 443, 15001, 65535};
static const uint32_t marks[] = {0, 1, 0x771, 0x772, 0xf771, 0x70000, 0x70772, 0x770};
static const uint32_t ids[] = {0, 8, 99, 100, 150, 1000, 65534, 4294967294u};
static const uint32_t cgroups[] = {0, 1, 2, 3, 4};
static const char *const interfaces[] = {"lo",	  "eth0",   "eth", "docker0",
					 "wlan0", "wlan01", "br7", "abcdefghijklmno"};

static void compare(const char *text, const struct ruleset *ruleset, const struct capture_plan *plan,
		    const struct flow *flow)
{
	char dest[ADDR_TEXT_MAX];
	unsigned output = captured(ruleset, CHAIN_OUTPUT, flow), wanted = outbound_expected(plan, flow);
	if (output != wanted)
		fail_msg("'%s': to %s by %s, protocol %u, mark %x, user %u, group %u: to %u, not to %u", text,
			 addr_format(&flow->dest, dest), flow->out_interface, flow->protocol, flow->mark,
			 flow->user, flow->group, output, wanted);
	unsigned input = captured(ruleset, CHAIN_PREROUTING, flow);
	wanted = inbound_expected(plan, flow);
	if (input != wanted)
		fail_msg("'%s': inbound to port %u by %s: to %u, not to %u", text, flow->dest.port,
			 flow->in_interface, input, wanted);
}

// Pseudo-random choices of everything: the same ones every time.
static struct flow some_flow(uint32_t *seed)
{
#define PICK(array) array[(*seed = *seed * 1664525 + 1013904223) / 7 % ARRAY_SIZE(array)]
	struct flow flow = {.protocol = PICK(ports) % 3 ? IPPROTO_TCP : IPPROTO_UDP};
	ip_parse(str_from(PICK(hosts)), &flow.dest.ip);
	do
		ip_parse(str_from(PICK(hosts)), &flow.source.ip);
	while (flow.source.ip.family != flow.dest.ip.family);
	flow.dest.port = PICK(ports);
	flow.source.port = 40000;
	flow.mark = PICK(marks);
	flow.user = PICK(ids);
	flow.group = PICK(ids);
	flow.cgroups = cgroup_line_at(PICK(cgroups));
	flow.out_interface = PICK(interfaces);
	flow.in_interface = PICK(interfaces);
	flow.dest_is_local = PICK(ports) % 2;
	return flow;
#undef PICK
}

static void rules_do_what_the_plan_says(void **state)
{
	(void)state;
	static const char *const more[] = {
	    "exclude-outbound-ports 1-10,52-53; exclude-inbound-ports 80; vips "
	    "240.240.0.0/16,fd77:65:6972::/112",
	    "include-outbound-ports 80; include-inbound-ports 22,443; capture-ssh",
	    "include-users 0-100; include-groups 1000; exclude-groups 150",
	    "exclude-users 1000; proxy-user 99; proxy-group 8; exclude-marks 1,0x70000/0xf0000",
	    "include-outbound-cidrs 10.0.0.0/8; include-inbound-cidrs fd00::/16; no-dns",
	    "include-outbound-interfaces eth*,wlan0; exclude-inbound-interfaces br*; dns-servers "
	    "10.0.0.53,fd00::53",
	    "include-marks 1,0x70000/0xf0000; exclude-users 1000",
	    "include-marks 1; include-users 0-100; include-cgroups a1/b2; exclude-marks 0x70000/0xf0000",
	    "outbound-port 1000; inbound-port 1001; dns-port 1002; outbound-mark 1; inbound-mark 2; "
	    "mark-mask 3",
	};
	for (size_t i = 0; i < ARRAY_SIZE(plans) + ARRAY_SIZE(more); i++) {
		const char *text = i < ARRAY_SIZE(plans) ? plans[i] : more[i - ARRAY_SIZE(plans)];
		autostrbuf struct strbuf error = {0};
		struct plan_builder builder;
		struct ruleset ruleset;
		uint32_t seed = 1;
		size_t taken = 0;
		assert_int_equal(make_plan(&builder, text, &error), 0);
		make_rules(text, &ruleset);
		for (int n = 0; n < 20000; n++) {
			struct flow flow = some_flow(&seed);
			compare(text, &ruleset, &builder.plan, &flow);
			taken += captured(&ruleset, CHAIN_OUTPUT, &flow) ||
				 captured(&ruleset, CHAIN_PREROUTING, &flow);
		}
		assert_true(taken > 100);
		plan_builder_done(&builder);
		ruleset_done(&ruleset);
	}
}

// --- single facts -------------------------------------------------------------------------------------------
static void reasons(void **state)
{
	(void)state;
	struct ruleset ruleset;
	make_rules("vips 240.240.0.0/16; exclude-outbound-ports 81; exclude-users 7", &ruleset);
	struct flow flow = flow_to("10.0.0.1:80");
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow), "outbound");
	flow.dest.port = 81;
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow), "excluded port");
	flow.user = 7;
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow), "excluded user");
	flow.mark = WEIR_MARK_INBOUND;
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow),
			    "proxy: to the application, DNS servers and others");
	flow = flow_to("240.240.0.0:81");
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow), "outbound: virtual IP");
	flow = flow_to("10.0.0.1:53");
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT, &flow), "DNS over TCP");
	flow.protocol = IPPROTO_ICMP;
	assert_null(ruleset_decide(&ruleset, CHAIN_OUTPUT, &flow));
	ruleset_done(&ruleset);
}

// Captured queries alone are tracked apart: what SO_ORIGINAL_DST is asked for never is, nor what comes back.
static void only_captured_queries_are_tracked_in_a_zone(void **state)
{
	(void)state;
	struct ruleset ruleset;
	make_rules("exclude-users 7; dns-servers 10.0.0.53", &ruleset);
	struct flow flow = flow_to("10.0.0.53:53");
	assert_null(ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow)); // TCP
	flow.protocol = IPPROTO_UDP;
	const struct rule *rule = ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow);
	assert_true(rule && rule->action == RULE_ZONE_ORIGINAL && rule->value != 0);
	flow.user = 7;
	assert_int_equal(ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow)->action, RULE_RETURN);
	flow.user = 1;
	flow.mark = WEIR_MARK_INBOUND;
	assert_int_equal(ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow)->action, RULE_RETURN);
	flow = flow_to("10.0.0.54:53");
	flow.protocol = IPPROTO_UDP;
	assert_null(ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow));
	flow.source = at("127.0.0.1:15053");
	flow.dest.port = 5000;
	assert_null(ruleset_decide(&ruleset, CHAIN_OUTPUT_RAW, &flow));
	ruleset_done(&ruleset);

	make_rules("capture-ssh", &ruleset);
	flow = flow_to("[fe80::35]:53");
	flow.protocol = IPPROTO_UDP;
	assert_string_equal(why(&ruleset, CHAIN_OUTPUT_RAW, &flow), "link-local address");
	ruleset_done(&ruleset);
}

// How long an attempt waits, and until when it is known that it did.
static void what_waits_is_known_until_it_is_tried_no_more(void **state)
{
	(void)state;
	static const struct {
		const char *set;
		uint32_t timeout_ms;
	} rows[] = {{"held", 1500},
		    {"known", 201500},
		    {"refused", 200000},
		    {"queries_held_ipv4", 1500},
		    {"queries_known_ipv4", 61500},
		    {"queries_held_ipv6", 1500},
		    {"queries_known_ipv6", 61500}};
	struct ruleset ruleset;
	make_rules("fail hold; hold-timeout 1500ms; inbound-mode tproxy", &ruleset);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int set = ruleset_find_set(&ruleset, rows[i].set);
		assert_true(set >= 0);
		assert_int_equal(ruleset.sets[set].timeout_ms, rows[i].timeout_ms);
	}
	ruleset_done(&ruleset);
	make_rules("fail hold; hold-timeout 1500ms; no-ipv6", &ruleset);
	assert_true(ruleset_find_set(&ruleset, "queries_known_ipv4") >= 0);
	assert_int_equal(ruleset_find_set(&ruleset, "queries_known_ipv6"), -1);
	assert_int_equal(ruleset_find_set(&ruleset, "refused"), -1);
	ruleset_done(&ruleset);
	static const char *const without[] = {"fail hold; inbound-mode tproxy",
					      "fail closed; hold-timeout 1500ms; inbound-mode tproxy"};
	for (size_t plan = 0; plan < ARRAY_SIZE(without); plan++) {
		make_rules(without[plan], &ruleset);
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
			assert_int_equal(ruleset_find_set(&ruleset, rows[i].set), -1);
		for (size_t i = 0; i < ruleset.rule_count; i++)
			assert_int_not_equal(ruleset.rules[i].action, RULE_REMEMBER);
		ruleset_done(&ruleset);
	}
}

static void chains_that_nothing_needs_do_not_exist(void **state)
{
	(void)state;
	struct ruleset ruleset;
	make_rules("no-inbound; no-dns", &ruleset);
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT; chain++)
		assert_int_equal(ruleset_has_chain(&ruleset, chain), chain == CHAIN_OUTPUT);
	ruleset_done(&ruleset);
}

static void without_memory(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	assert_int_equal(make_plan(&builder, plan_of_everything, &error), 0);
	for (long n = 0;; n++) {
		struct ruleset ruleset;
		mem_fail_set(n);
		int err = ruleset_compile(&builder.plan, &ruleset);
		mem_fail_set(-1);
		if (!err) {
			ruleset_done(&ruleset);
			break;
		}
		assert_int_equal(err, -ENOMEM);
	}
	plan_builder_done(&builder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_rule_says_what_it_is_for),
	    cmocka_unit_test(rules_do_what_the_plan_says),
	    cmocka_unit_test(reasons),
	    cmocka_unit_test(only_captured_queries_are_tracked_in_a_zone),
	    cmocka_unit_test(what_waits_is_known_until_it_is_tried_no_more),
	    cmocka_unit_test(chains_that_nothing_needs_do_not_exist),
	    cmocka_unit_test(without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
