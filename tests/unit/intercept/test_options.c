// SPDX-License-Identifier: Apache-2.0
#include "make_plan.h"

#include "base/limits.h"
#include "base/mem.h"
#include "intercept/marks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static void defaults(void **state)
{
	(void)state;
	struct plan_builder builder;
	plan_builder_init(&builder);
	const struct capture_plan *plan = &builder.plan;
	assert_true(plan->ipv4 && plan->ipv6 && plan->outbound.enabled && plan->inbound.enabled &&
		    plan->dns.enabled);
	assert_false(plan->capture_ssh || plan->capture_metadata || plan->has_proxy_uid ||
		     plan->has_proxy_gid);
	assert_int_equal(plan->outbound_port, 15001);
	assert_int_equal(plan->inbound_port, 15006);
	assert_int_equal(plan->dns_port, 15053);
	assert_int_equal(plan->outbound_mark, WEIR_MARK_OUTBOUND);
	assert_int_equal(plan->inbound_mark, WEIR_MARK_INBOUND);
	assert_int_equal(plan->mark_mask, WEIR_MARK_MASK);
	assert_int_equal(plan->vip_count, 0);
	assert_int_equal(capture_plan_validate(plan, NULL), 0);
	plan_builder_done(&builder);
}

// One setting of every kind, and the field that it is meant for.
static void settings_reach_their_fields(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	assert_int_equal(make_plan(&builder, plan_of_everything, &error), 0);
	const struct capture_plan *plan = &builder.plan;
	assert_int_equal(plan->vip_count, 2);
	assert_int_equal(plan->vips[0].bits, 16);
	assert_int_equal(plan->vips[1].ip.family, AF_INET6);
	assert_int_equal(plan->outbound.exclude_ports.count, 3);
	assert_int_equal(plan->outbound.exclude_ports.ranges[1].first, 5);
	assert_int_equal(plan->outbound.exclude_ports.ranges[2].last, 10);
	assert_int_equal(plan->outbound.include_ports.ranges[0].last, 65535);
	assert_int_equal(plan->outbound.include_cidrs.count, 5);
	assert_int_equal(plan->outbound.exclude_cidrs.count, 2); // given twice: added up
	assert_string_equal(plan->outbound.include_interfaces.names[0], "eth*");
	assert_string_equal(plan->outbound.exclude_interfaces.names[1], "abcdefghijklmno");
	assert_int_equal(plan->inbound.include_ports.ranges[1].first, 80);
	assert_int_equal(plan->inbound.exclude_ports.ranges[0].first, 1);
	assert_int_equal(plan->inbound.include_cidrs.count, 1);
	assert_int_equal(plan->inbound.exclude_cidrs.count, 2);
	assert_string_equal(plan->inbound.include_interfaces.names[0], "eth0");
	assert_string_equal(plan->inbound.exclude_interfaces.names[0], "br*");
	assert_int_equal(plan->include_users.ranges[0].last, 100);
	assert_int_equal(plan->exclude_users.ranges[0].first, 4294967294u);
	assert_int_equal(plan->include_groups.ranges[1].first, 7);
	assert_int_equal(plan->exclude_groups.ranges[0].last, 200);
	assert_int_equal(plan->exclude_marks.matches[0].mask, UINT32_MAX);
	assert_int_equal(plan->exclude_marks.matches[1].value, 0x70000);
	assert_int_equal(plan->exclude_marks.matches[1].mask, 0xf0000);
	assert_int_equal(plan->dns.server_count, 2);
	assert_true(plan->has_proxy_uid && plan->has_proxy_gid);
	assert_int_equal(plan->proxy_uid, 65534);
	assert_int_equal(plan->proxy_gid, 99);
	plan_builder_done(&builder);
}

static void switches_and_numbers(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	assert_int_equal(
	    make_plan(&builder,
		      "no-inbound; no-dns; no-ipv6; capture-ssh; capture-metadata; outbound-port 1;"
		      "inbound-port 65535; dns-port 5353; outbound-mark 0xA0; inbound-mark 16; mark-mask "
		      "0xFf; hold-timeout 2m",
		      &error),
	    0);
	const struct capture_plan *plan = &builder.plan;
	assert_false(plan->inbound.enabled || plan->dns.enabled || plan->ipv6);
	assert_true(plan->outbound.enabled && plan->ipv4 && plan->capture_ssh && plan->capture_metadata);
	assert_int_equal(plan->outbound_port, 1);
	assert_int_equal(plan->inbound_port, 65535);
	assert_int_equal(plan->dns_port, 5353);
	assert_int_equal(plan->outbound_mark, 0xa0);
	assert_int_equal(plan->inbound_mark, 16);
	assert_int_equal(plan->mark_mask, 0xff);
	assert_int_equal(plan->hold_ms, 120000);
	plan_builder_done(&builder);
}

static void names_are_looked_up(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	assert_int_equal(
	    make_plan(&builder, "exclude-users root, 7; exclude-groups root; proxy-user root", &error), 0);
	assert_int_equal(builder.plan.exclude_users.ranges[0].first, 0);
	assert_int_equal(builder.plan.exclude_users.ranges[0].last, 0);
	assert_int_equal(builder.plan.exclude_users.ranges[1].first, 7);
	assert_int_equal(builder.plan.exclude_groups.ranges[0].last, 0);
	assert_true(builder.plan.has_proxy_uid);
	plan_builder_done(&builder);
}

static void refuses(const char *text, const char *why)
{
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	int err = make_plan(&builder, text, &error);
	if (err != ERR_CONFIG || !error.p || !strstr(error.p, why))
		fail_msg("'%s' gave %d, \"%s\"; not \"%s\"", text, err, error.p ? error.p : "", why);
	plan_builder_done(&builder);
}

static void what_is_refused_and_why(void **state)
{
	(void)state;
	static const struct {
		const char *text, *why;
	} rows[] = {
	    {"exclude-outbound-ports 0", "excluded ports, outbound: port 0 does not exist"},
	    {"include-inbound-ports 65536", "include-inbound-ports: '65536' is no port or range of ports"},
	    {"exclude-outbound-ports", "'' is no port"},
	    {"hold-timeout 5", "hold-timeout: '5' is no duration"},
	    {"hold-timeout 18446744073709551616s", "is no duration"},
	    {"hold-timeout 1194h", "is no duration"},
	    {"fail hold; hold-timeout 3601s", "for 3600 s at most"},
	    {"exclude-outbound-ports 80,,81", "'' is no port"},
	    {"exclude-outbound-ports 80,", "'' is no port"},
	    {"exclude-outbound-ports 90-80", "the range 90-80 ends before it begins"},
	    {"exclude-outbound-ports 1-2-3", "'1-2-3' is no port"},
	    {"exclude-outbound-ports 0x", "'0x' is no port"},
	    {"exclude-outbound-ports 0x50g", "'0x50g' is no port"},
	    {"exclude-outbound-ports +80", "'+80' is no port"},
	    {"exclude-outbound-ports 99999999999999999999999", "is no port"},
	    {"include-outbound-cidrs 10.0.0.1/8", "'10.0.0.1/8' is no network"},
	    {"include-outbound-cidrs fd00::/129", "is no network"},
	    {"dns-servers ::1/128", "'::1/128' is no IP address"},
	    {"exclude-cgroups /", "excluded control groups: '/' names the root"},
	    {"include-cgroups a,", "included control groups: '' names the root"},
	    {"include-cgroups a/../b", "included control groups: 'a/../b' has . or .. for a part"},
	    {"include-cgroups a\nb", "has a character that no path"},
	    {"exclude-cgroups a\"b", "has a character that no path"},
	    {"exclude-users 4294967295", "is no user here"},
	    {"exclude-groups no-such-group", "'no-such-group' is no group here"},
	    {"exclude-users 9-1", "excluded users: the range 9-1 ends before it begins"},
	    {"proxy-user 1-2", "'1-2' is no user here"},
	    {"proxy-group no-such-group", "is no group here"},
	    {"exclude-marks 0x10/0x0f", "can never match"},
	    {"exclude-marks 1/0", "can never match"},
	    {"exclude-marks 1/2/3", "is no mark"},
	    {"exclude-marks 0x100000000", "is no mark"},
	    {"outbound-mark 0x1771", "bits outside of their mask"},
	    {"inbound-source client; client-mark 0x772", "must differ from the proxy's others"},
	    {"inbound-source client; client-mark 0x1773", "must differ from the proxy's others"},
	    {"inbound-source client; client-mark 0", "must differ from the proxy's others"},
	    {"inbound-source client; inbound-mode tproxy", "do not go together"},
	    {"inbound-mode nat", "inbound-mode: 'nat' is none of its words"},
	    {"inbound-source ", "is none of its words"},
	    {"inbound-mark 0", "must differ from each other and from 0"},
	    {"inbound-mark 0x771", "must differ from each other and from 0"},
	    {"mark-mask 0x100000000", "is no number of 32 bits"},
	    {"outbound-port 15053", "the proxy's ports must differ"},
	    {"dns-port 0", "'0' is no port"},
	    {"exclude-inbound-interfaces abcdefghijklmnop", "'abcdefghijklmnop' is no name of an interface"},
	    {"exclude-inbound-interfaces eth0/1", "is no name of an interface"},
	    {"exclude-inbound-interfaces a\"b", "is no name of an interface"},
	    {"exclude-inbound-interfaces a\\b", "is no name of an interface"},
	    {"exclude-inbound-interfaces a b", "is no name of an interface"},
	    {"exclude-inbound-interfaces e*h", "is no name of an interface"},
	    {"exclude-inbound-interfaces *", "is no name of an interface"},
	    {"exclude-inbound-interfaces a,,b", "is no name of an interface"},
	    {"vips 127.0.0.0/8", "cannot be a range of virtual IPs"},
	    {"vips 112.0.0.0/4", "cannot be a range of virtual IPs"},
	    {"vips ::/16", "cannot be a range of virtual IPs"},
	    {"vips 0.0.0.0/0", "cannot be a range of virtual IPs"},
	    {"vips 240.0.0.0/16,ff02::/16", "ff02::/16 cannot be a range of virtual IPs"},
	    {"vips fe80::/64", "fe80::/64 cannot be a range of virtual IPs"},
	    {"dns-servers 10.0.0.53,fe80::1",
	     "fe80::1: DNS queries to link-local addresses are not captured"},
	    {"no-ipv4; no-ipv6", "neither IPv4 nor IPv6"},
	    {"no-outbound; no-inbound; no-dns", "nothing is to be captured"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		refuses(rows[i].text, rows[i].why);
}

// So many entries of a list, "<prefix>N<suffix>", N from 1001 on.
static void refuses_more_than(size_t limit, const char *name, const char *prefix, const char *suffix)
{
	for (size_t count = limit; count <= limit + 1; count++) {
		autostrbuf struct strbuf text = {0}, error = {0};
		struct plan_builder builder;
		strbuf_printf(&text, "%s ", name);
		for (size_t i = 1; i <= count; i++)
			strbuf_printf(&text, "%s%s%zu%s", i > 1 ? "," : "", prefix, 1000 + i, suffix);
		int err = make_plan(&builder, text.p, &error);
		assert_int_equal(err, count > limit ? ERR_CONFIG : 0);
		if (err)
			assert_non_null(strstr(error.p, "more than"));
		plan_builder_done(&builder);
	}
}

static void lists_have_limits(void **state)
{
	(void)state;
	static const char *const numbers[] = {"include-outbound-ports", "exclude-outbound-ports",
					      "include-inbound-ports",	"exclude-inbound-ports",
					      "include-users",		"exclude-users",
					      "include-groups",		"exclude-groups"};
	static const char *const networks[] = {"vips",
					       "dns-servers",
					       "include-outbound-cidrs",
					       "exclude-outbound-cidrs",
					       "include-inbound-cidrs",
					       "exclude-inbound-cidrs"};
	static const char *const interfaces[] = {"include-outbound-interfaces", "exclude-outbound-interfaces",
						 "include-inbound-interfaces", "exclude-inbound-interfaces"};
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		refuses_more_than(LIMIT_CAPTURE_RANGES, numbers[i], "", "");
	for (size_t i = 0; i < ARRAY_SIZE(networks); i++)
		refuses_more_than(LIMIT_CAPTURE_RANGES, networks[i], "fd00::", "");
	for (size_t i = 0; i < ARRAY_SIZE(interfaces); i++)
		refuses_more_than(LIMIT_CAPTURE_INTERFACES, interfaces[i], "e", "");
	refuses_more_than(LIMIT_CAPTURE_MARKS, "exclude-marks", "0x", "");
	refuses_more_than(LIMIT_CAPTURE_CGROUPS, "include-cgroups", "g", "");
	refuses_more_than(LIMIT_CAPTURE_CGROUPS, "exclude-cgroups", "g", "");
}

static void an_error_repeats_only_the_beginning_of_a_value(void **state)
{
	(void)state;
	autostrbuf struct strbuf text = {0}, error = {0};
	struct plan_builder builder;
	strbuf_add_text(&text, "exclude-outbound-ports ");
	for (int i = 0; i < 100000; i++)
		strbuf_add_char(&text, '9');
	assert_int_equal(make_plan(&builder, text.p, &error), ERR_CONFIG);
	assert_true(error.len < 200);
	plan_builder_done(&builder);
}

static void unknown_names(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	plan_builder_init(&builder);
	assert_int_equal(plan_builder_set(&builder, "exclude-user", STR("1"), &error), ERR_NOT_FOUND);
	assert_int_equal(error.len, 0);
	plan_builder_done(&builder);
}

// A refused list leaves what was set before.
static void a_refused_value_changes_nothing(void **state)
{
	(void)state;
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	plan_builder_init(&builder);
	assert_int_equal(plan_builder_set(&builder, "exclude-users", STR("1,2"), &error), 0);
	assert_int_equal(plan_builder_set(&builder, "exclude-users", STR("3,4,?"), &error), ERR_CONFIG);
	assert_int_equal(plan_builder_set(&builder, "outbound-port", STR("99999"), &error), ERR_CONFIG);
	assert_int_equal(builder.plan.exclude_users.count, 2);
	assert_int_equal(builder.plan.exclude_users.ranges[1].last, 2);
	assert_int_equal(builder.plan.outbound_port, 15001);
	plan_builder_done(&builder);
}

static void without_memory(void **state)
{
	(void)state;
	for (long n = 0;; n++) {
		autostrbuf struct strbuf error = {0};
		struct plan_builder builder;
		mem_fail_set(n);
		int err = make_plan(&builder, plan_of_everything, &error);
		mem_fail_set(-1);
		plan_builder_done(&builder);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults),
	    cmocka_unit_test(settings_reach_their_fields),
	    cmocka_unit_test(switches_and_numbers),
	    cmocka_unit_test(names_are_looked_up),
	    cmocka_unit_test(what_is_refused_and_why),
	    cmocka_unit_test(lists_have_limits),
	    cmocka_unit_test(an_error_repeats_only_the_beginning_of_a_value),
	    cmocka_unit_test(unknown_names),
	    cmocka_unit_test(a_refused_value_changes_nothing),
	    cmocka_unit_test(without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
