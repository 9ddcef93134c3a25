// SPDX-License-Identifier: Apache-2.0
// What the rules do with a connection, and what is told of the way there.
#include "make_plan.h"

#include "base/mem.h"
#include "intercept/decide.h"
#include "intercept/marks.h"

static struct flow flow_to(const char *dest)
{
	struct flow flow = {.protocol = IPPROTO_TCP, .user = 1000, .group = 1000, .out_interface = "eth0"};
	assert_int_equal(addr_parse(str_from(dest), &flow.dest), 0);
	return flow;
}

// The way of a connection as text: a letter for each rule (passed over, leads on, unknown, decides).
static void note(const struct rule_visit *visit, void *arg)
{
	strbuf_add_char(arg, visit->decides ? 'D' : visit->unknown ? '?' : visit->failed ? '.' : '>');
}

static void goes(const char *plan, enum rule_chain chain, const struct flow *flow, const char *way,
		 const char *comment)
{
	autostrbuf struct strbuf seen = {0};
	struct ruleset ruleset;
	make_rules(plan, &ruleset);
	const struct rule *rule = ruleset_trace(&ruleset, chain, flow, note, &seen);
	assert_ptr_equal(rule, ruleset_decide(&ruleset, chain, flow));
	assert_string_equal(seen.p ? seen.p : "", way);
	assert_string_equal(rule ? rule->comment : "", comment);
	ruleset_done(&ruleset);
}

static void each_rule_on_the_way_is_told(void **state)
{
	(void)state;
	struct flow flow = flow_to("192.0.2.1:80");
	goes("", CHAIN_OUTPUT, &flow, "...........D", "outbound");
	goes("exclude-users 5,1000", CHAIN_OUTPUT, &flow, "......D", "excluded user");
	goes("exclude-outbound-ports 79-81", CHAIN_OUTPUT, &flow, ".........D", "excluded port");
	goes("exclude-outbound-cidrs 192.0.2.0/24", CHAIN_OUTPUT, &flow, ".........D", "excluded network");
	goes("include-outbound-cidrs 10.0.0.0/8", CHAIN_OUTPUT, &flow, "...........D",
	     "not an included network");
	goes("no-outbound", CHAIN_OUTPUT, &flow, "........", "");
	flow.mark = WEIR_MARK_INBOUND;
	goes("", CHAIN_OUTPUT, &flow, "..D", "proxy: to the application, DNS servers and others");
}

static void chains_lead_on(void **state)
{
	(void)state;
	struct flow flow = flow_to("10.0.0.5:80");
	flow.out_interface = "lo";
	flow.mark = WEIR_MARK_OUTBOUND;
	goes("", CHAIN_OUTPUT, &flow, "...>.D", "inbound");
	flow = flow_to("10.0.0.5:22");
	flow.out_interface = NULL;
	flow.in_interface = "eth0";
	flow.dest_is_local = true;
	goes("", CHAIN_PREROUTING, &flow, "...>D", "excluded port");
	flow = flow_to("10.0.0.53:53");
	flow.protocol = IPPROTO_UDP;
	goes("", CHAIN_OUTPUT_RAW, &flow, ">...D", "captured DNS queries");
}

// A group stands for those that are in it; what is included goes on in a chain of its own.
static void control_groups(void **state)
{
	(void)state;
	struct flow flow = flow_to("192.0.2.1:80");
	flow.cgroups = cgroup_line_at(4);
	goes("exclude-cgroups a1/b2", CHAIN_OUTPUT, &flow, "......D", "excluded control group");
	goes("exclude-cgroups a3,a1/b2/c4", CHAIN_OUTPUT, &flow, ".......D", "excluded control group");
	goes("include-cgroups a3,a1", CHAIN_OUTPUT, &flow, ".......>.....D", "outbound");
	goes("exclude-cgroups a1; include-cgroups a1", CHAIN_OUTPUT, &flow, "......D",
	     "excluded control group");
	flow.cgroups = cgroup_line_at(1);
	goes("include-cgroups a1/b2; include-groups 5; include-users 6", CHAIN_OUTPUT, &flow, ".........D",
	     "no included user, group, control group or mark");
	goes("include-cgroups a1/b2; include-users 1000", CHAIN_OUTPUT, &flow, ".......>.....D", "outbound");
	goes("include-cgroups a1; no-outbound; no-dns", CHAIN_OUTPUT, &flow, "......>D",
	     "nothing else is captured");
	flow.unknown = 1u << RULE_CGROUP;
	goes("exclude-cgroups a1", CHAIN_OUTPUT, &flow, "......?.....D", "outbound");
	flow = flow_to("10.0.0.53:53");
	flow.protocol = IPPROTO_UDP;
	flow.cgroups = cgroup_line_at(2);
	goes("include-cgroups a1", CHAIN_OUTPUT_RAW, &flow, ">...>D", "captured DNS queries");
	flow.cgroups = cgroup_line_at(0);
	goes("include-cgroups a1", CHAIN_OUTPUT_RAW, &flow, ">....D",
	     "no included user, group, control group or mark");
}

// One of several is enough; what is excluded stays so.
static void marks(void **state)
{
	(void)state;
	struct flow flow = flow_to("192.0.2.1:80");
	flow.mark = 0x25;
	goes("include-marks 1,0x20/0xf0", CHAIN_OUTPUT, &flow, ".......>.....D", "outbound");
	goes("include-marks 1,0x20/0xf0; exclude-marks 0x25", CHAIN_OUTPUT, &flow, "......D", "excluded mark");
	goes("include-marks 0x20; include-users 1000", CHAIN_OUTPUT, &flow, ".......>.....D", "outbound");
	goes("include-marks 0x20; include-users 5", CHAIN_OUTPUT, &flow, "........D",
	     "no included user, group, control group or mark");
	flow.unknown = 1u << RULE_MARK;
	goes("include-marks 0x25", CHAIN_OUTPUT, &flow, "..?????D", "no included user, group, control group or mark");
}

static void what_is_unknown_does_not_decide(void **state)
{
	(void)state;
	struct flow flow = flow_to("192.0.2.1:80");
	flow.unknown = 1u << RULE_USER | 1u << RULE_OUT_INTERFACE;
	goes("exclude-users 1000", CHAIN_OUTPUT, &flow, "......?..?..D", "outbound");
	// A rule for the destination's family, nothing of which is known, is passed over in the same way.
	flow = flow_to("240.240.0.1:80");
	flow.unknown = 1u << RULE_DEST4 | 1u << RULE_DEST6;
	goes("vips 240.240.0.0/16; no-dns; no-inbound", CHAIN_OUTPUT, &flow, ".?..?.??D", "outbound");
}

static void the_match_that_fails_is_the_first(const struct rule_visit *visit, void *arg)
{
	(void)arg;
	size_t i = 0;
	while (visit->failed && &visit->rule->matches[i] != visit->failed)
		i++;
	assert_true(i < visit->rule->match_count || !visit->failed);
	if (strcmp(visit->rule->comment, "neither an included user nor group") == 0) {
		assert_non_null(visit->failed); // the user is not included, but the group is
		assert_int_equal(visit->failed->field, RULE_GROUP);
	}
}

static void failed_matches_are_named(void **state)
{
	(void)state;
	struct flow flow = flow_to("192.0.2.1:80");
	struct ruleset ruleset;
	make_rules("include-users 5; include-groups 1000", &ruleset);
	const struct rule *rule =
	    ruleset_trace(&ruleset, CHAIN_OUTPUT, &flow, the_match_that_fails_is_the_first, NULL);
	assert_string_equal(rule->comment, "outbound");
	ruleset_done(&ruleset);
}

// What somebody else put between ours is told, and not followed.
static void foreign_rules_are_told(void **state)
{
	(void)state;
	autostrbuf struct strbuf seen = {0};
	struct flow flow = flow_to("192.0.2.1:80");
	struct ruleset ruleset;
	make_rules("no-dns; no-inbound", &ruleset);
	ruleset.rules[0].foreign = true;
	ruleset.rules[0].match_count = 0;
	assert_non_null(ruleset_trace(&ruleset, CHAIN_OUTPUT, &flow, note, &seen));
	assert_int_equal(seen.p[0], '?');
	ruleset_done(&ruleset);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_rule_on_the_way_is_told),
	    cmocka_unit_test(chains_lead_on),
	    cmocka_unit_test(control_groups),
	    cmocka_unit_test(marks),
	    cmocka_unit_test(what_is_unknown_does_not_decide),
	    cmocka_unit_test(failed_matches_are_named),
	    cmocka_unit_test(foreign_rules_are_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
