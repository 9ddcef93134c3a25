// SPDX-License-Identifier: Apache-2.0
// Rulesets as data: sets, comparison, text; and the way to nftables' form and back, without a kernel.
#include "make_plan.h"

#include "base/mem.h"
#include "intercept/nft_rule.h"

#include <errno.h>
#include <libnftnl/expr.h>
#include <linux/netfilter/nf_tables.h>
#include <stdio.h>

// --- sets ---------------------------------------------------------------------------------------------------
static void set_of(const char *option, const char *values, const char *name, const char *expected)
{
	char text[512];
	autostrbuf struct strbuf out = {0};
	struct ruleset ruleset;
	snprintf(text, sizeof text, "%s %s", option, values);
	make_rules(text, &ruleset);
	int set = ruleset_find_set(&ruleset, name);
	assert_true(set >= 0);
	rule_set_print(&ruleset.sets[set], &out);
	assert_string_equal(out.p, expected);
	ruleset_done(&ruleset);
}

static void sets_are_sorted_and_joined(void **state)
{
	(void)state;
	static const struct {
		const char *option, *values, *name, *expected;
	} rows[] = {
	    {"include-outbound-ports", "80", "outbound_include_ports", "80"},
	    {"include-outbound-ports", "9,5-7,8,1-3", "outbound_include_ports", "1-3, 5-9"},
	    {"include-outbound-ports", "1-65535,80", "outbound_include_ports", "1-65535"},
	    {"include-outbound-ports", "65535,65534,1", "outbound_include_ports", "1, 65534-65535"},
	    {"include-outbound-ports", "255,256,511-512", "outbound_include_ports", "255-256, 511-512"},
	    {"include-outbound-cidrs", "10.0.0.0/9,10.128.0.0/9", "outbound_include_ipv4", "10.0.0.0/8"},
	    {"include-outbound-cidrs", "10.1.0.0/16,10.0.0.0/8,11.0.0.1", "outbound_include_ipv4",
	     "10.0.0.0/8, 11.0.0.1"},
	    {"include-outbound-cidrs", "10.0.0.1,10.0.0.2", "outbound_include_ipv4", "10.0.0.1-10.0.0.2"},
	    {"include-outbound-cidrs", "0.0.0.0/0,255.255.255.255", "outbound_include_ipv4", "0.0.0.0/0"},
	    {"include-outbound-cidrs", "::/0,fd00::1", "outbound_include_ipv6", "::/0"},
	    {"include-outbound-cidrs", "fd00::1,fd00::,ff00::/8", "outbound_include_ipv6",
	     "fd00::/127, ff00::/8"},
	    {"include-users", "4294967294,0,1", "include_users", "0-1, 4294967294"},
	    {"exclude-inbound-ports", "21,23", "inbound_exclude_ports", "21-23"}, // with SSH
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		set_of(rows[i].option, rows[i].values, rows[i].name, rows[i].expected);
}

// --- text ---------------------------------------------------------------------------------------------------
static void a_small_plan_as_text(void **state)
{
	(void)state;
	static const char expected[] =
	    "table inet weir {\n"
	    "\tset outbound_include_ports {\n\t\ttype inet_service\n\t\tflags interval\n\t\telements = { 80, "
	    "443-444 }\n"
	    "\t}\n\n"
	    "\tchain output {\n"
	    "\t\ttype nat hook output priority -100; policy accept;\n"
	    "\t\tmeta nfproto ipv6 counter packets 0 bytes 0 return comment \"IPv6 is not captured\"\n"
	    "\t\ttcp flags != syn / fin,syn,rst,ack counter packets 0 bytes 0 return comment \"connections "
	    "that "
	    "are open already\"\n"
	    "\t\tmeta mark & 0x00000fff == 0x00000772 counter packets 0 bytes 0 return "
	    "comment \"proxy: to the application, DNS servers and others\"\n"
	    "\t\tmeta mark & 0x00000fff == 0x00000771 counter packets 0 bytes 0 return comment \"proxy: to "
	    "endpoints\"\n"
	    "\t\tmeta skuid 99 counter packets 0 bytes 0 return comment \"proxy: by its user\"\n"
	    "\t\tmeta mark 0x00000005 counter packets 0 bytes 0 return comment \"excluded mark\"\n"
	    "\t\toifname \"lo\" counter packets 0 bytes 0 return comment \"a program's connections to its "
	    "own host\"\n"
	    "\t\toifname != \"eth*\" oifname != \"wlan0\" counter packets 0 bytes 0 return "
	    "comment \"not an included interface\"\n"
	    "\t\ttcp dport != @outbound_include_ports counter packets 0 bytes 0 return comment \"not an "
	    "included port\"\n"
	    "\t\tmeta l4proto tcp counter packets 0 bytes 0 redirect to :15001 comment \"outbound\"\n"
	    "\t}\n"
	    "}\n";
	autostrbuf struct strbuf out = {0};
	struct ruleset ruleset;
	make_rules(
	    "no-ipv6; no-inbound; no-dns; capture-metadata; include-outbound-ports 443-444,80; proxy-user 99;"
	    "exclude-marks 5; include-outbound-interfaces eth*,wlan0",
	    &ruleset);
	ruleset_print(&ruleset, &out);
	assert_string_equal(out.p, expected);
	ruleset_done(&ruleset);
}

// --- comparison ---------------------------------------------------------------------------------------------
static void equality(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(plans); j++) {
			struct ruleset a, b;
			make_rules(plans[i], &a);
			make_rules(plans[j], &b);
			assert_int_equal(ruleset_equal(&a, &b), i == j);
			ruleset_done(&a);
			ruleset_done(&b);
		}
	}
}

static void every_difference_counts_but_counters(void **state)
{
	(void)state;
	struct ruleset a, b;
	make_rules(plan_of_everything, &a);
	make_rules(plan_of_everything, &b);
	for (size_t i = 0; i < b.rule_count; i++) {
		struct rule *rule = &b.rules[i], kept = *rule;
		rule->packets = rule->bytes = 7;
		assert_true(ruleset_equal(&a, &b));
		rule->value++;
		assert_false(ruleset_equal(&a, &b));
		*rule = kept;
		rule->comment[0] ^= 1;
		assert_false(ruleset_equal(&a, &b));
		*rule = kept;
		rule->foreign = true;
		assert_false(ruleset_equal(&a, &b));
		*rule = kept;
		rule->matches[0].negated ^= true;
		assert_false(ruleset_equal(&a, &b));
		*rule = kept;
		rule->match_count--;
		assert_false(ruleset_equal(&a, &b));
		*rule = kept;
	}
	for (size_t i = 0; i < b.set_count; i++) {
		b.sets[i].ranges[0].first[0] ^= 1;
		assert_false(ruleset_equal(&a, &b));
		b.sets[i].ranges[0].first[0] ^= 1;
	}
	b.altered = true;
	assert_false(ruleset_equal(&a, &b));
	b.altered = false;
	b.rule_count--;
	assert_false(ruleset_equal(&a, &b) || ruleset_equal(&b, &a));
	b.rule_count++;
	assert_true(ruleset_equal(&a, &b));
	ruleset_done(&a);
	ruleset_done(&b);
}

// --- nftables' form -----------------------------------------------------------------------------------------
static int has_counter(struct nftnl_expr *expr, void *found)
{
	if (!strcmp(nftnl_expr_get_str(expr, NFTNL_EXPR_NAME), "counter"))
		++*(int *)found;
	return 0;
}

// The whole ruleset to nftables' form and back. 0 or -ENOMEM.
static int there_and_back(const struct ruleset *from, struct ruleset *to)
{
	int err = 0;
	for (size_t i = 0; i < from->set_count && !err; i++) {
		struct nftnl_set *set;
		err = nft_set_encode(&from->sets[i], (uint32_t)i + 1, &set);
		if (err)
			break;
		int index = nft_set_decode(set, to);
		err = index < 0 ? index : nft_set_decode_elements(set, &to->sets[index]);
		nftnl_set_free(set);
	}
	for (size_t i = 0; i < from->rule_count && !err; i++) {
		struct nftnl_rule *rule;
		int counters = 0;
		err = nft_rule_encode(from, &from->rules[i], &rule);
		if (err)
			break;
		nftnl_expr_foreach(rule, has_counter, &counters);
		assert_int_equal(counters, 1);
		err = nft_rule_decode(rule, to);
		nftnl_rule_free(rule);
	}
	return err;
}

static void encoding_and_decoding_are_inverse(void **state)
{
	(void)state;
	static const char *const more[] = {
	    "inbound-mode tproxy; exclude-inbound-ports 9", "inbound-source client; client-mark 0x7",
	    "fail hold", "fail hold; hold-timeout 1500ms", "fail hold; hold-timeout 1s; inbound-mode tproxy",
	    "fail open; inbound-mode tproxy"};
	for (size_t i = 0; i < ARRAY_SIZE(plans) + ARRAY_SIZE(more); i++) {
		struct ruleset from, to = {0};
		make_rules(i < ARRAY_SIZE(plans) ? plans[i] : more[i - ARRAY_SIZE(plans)], &from);
		assert_int_equal(there_and_back(&from, &to), 0);
		assert_true(ruleset_equal(&from, &to));
		ruleset_done(&from);
		ruleset_done(&to);
	}
}

static void limits_of_waiting_are_compared_and_can_be_left_out(void **state)
{
	(void)state;
	struct ruleset limited, longer, simple;
	make_rules("fail hold; hold-timeout 1500ms", &limited);
	make_rules("fail hold; hold-timeout 1501ms", &longer);
	make_rules("fail hold", &simple);
	assert_false(ruleset_equal(&limited, &longer));
	assert_false(ruleset_equal(&limited, &simple));
	ruleset_simplify_hold(&longer, 1501);
	assert_false(ruleset_equal(&longer, &simple));
	ruleset_simplify_hold(&longer, 0);
	ruleset_simplify_hold(&limited, 0);
	assert_true(ruleset_equal(&longer, &simple));
	assert_true(ruleset_equal(&limited, &simple));
	simple.programs.client_mark = 1;
	assert_false(ruleset_equal(&limited, &simple));
	ruleset_done(&limited);
	ruleset_done(&longer);
	ruleset_done(&simple);
}

// What others put into the table: an expression that weir does not use, one in the wrong place, no comment.
static void foreign_rules_are_told_apart(void **state)
{
	(void)state;
	struct ruleset from;
	make_rules("", &from);
	for (int kind = 0; kind < 4; kind++) {
		struct ruleset to = {0};
		struct nftnl_rule *rule;
		assert_int_equal(nft_rule_encode(&from, &from.rules[0], &rule), 0);
		struct nftnl_expr *expr = NULL;
		if (kind == 0) {
			expr = nftnl_expr_alloc("log");
		} else if (kind == 1) { // a second verdict
			expr = nftnl_expr_alloc("immediate");
			nftnl_expr_set_u32(expr, NFTNL_EXPR_IMM_DREG, 0);
			nftnl_expr_set_u32(expr, NFTNL_EXPR_IMM_VERDICT, 1);
		} else if (kind == 2) {
			nftnl_rule_set_str(rule, NFTNL_RULE_CHAIN, "theirs");
		} else {
			nftnl_rule_unset(rule, NFTNL_RULE_USERDATA);
		}
		if (expr)
			nftnl_rule_add_expr(rule, expr);
		assert_int_equal(nft_rule_decode(rule, &to), 0);
		assert_int_equal(to.rule_count, 1);
		assert_true(to.rules[0].foreign);
		nftnl_rule_free(rule);
		ruleset_done(&to);
	}
	ruleset_done(&from);
}

static int change_flags(struct nftnl_expr *expr, void *arg)
{
	const uint8_t syn_and_ack = 0x12, ack = 0x10;
	const char *name = nftnl_expr_get_str(expr, NFTNL_EXPR_NAME);
	if (*(int *)arg == 0 && strcmp(name, "bitwise") == 0)
		nftnl_expr_set(expr, NFTNL_EXPR_BITWISE_MASK, &syn_and_ack, 1);
	if (*(int *)arg == 1 && strcmp(name, "cmp") == 0 &&
	    nftnl_expr_get_u32(expr, NFTNL_EXPR_CMP_OP) == NFT_CMP_NEQ)
		nftnl_expr_set(expr, NFTNL_EXPR_CMP_DATA, &ack, 1);
	return 0;
}

static void other_flags_are_foreign(void **state)
{
	(void)state;
	struct ruleset from;
	make_rules("no-dns", &from);
	for (int kind = 0; kind < 3; kind++) {
		struct ruleset to = {0};
		struct nftnl_rule *rule;
		assert_int_equal(from.rules[0].matches[0].field, RULE_SYN);
		assert_int_equal(nft_rule_encode(&from, &from.rules[0], &rule), 0);
		nftnl_expr_foreach(rule, change_flags, &kind);
		assert_int_equal(nft_rule_decode(rule, &to), 0);
		assert_int_equal(to.rules[0].foreign, kind != 2);
		nftnl_rule_free(rule);
		ruleset_done(&to);
	}
	ruleset_done(&from);
}

// One attribute of an expression as somebody else may have it.
struct change {
	const char *name;
	uint16_t attribute;
	uint8_t value[4], len;
	int made;
};

static int make_change(struct nftnl_expr *expr, void *arg)
{
	struct change *change = arg;
	if (strcmp(nftnl_expr_get_str(expr, NFTNL_EXPR_NAME), change->name) != 0 ||
	    !nftnl_expr_is_set(expr, change->attribute) ||
	    (strcmp(change->name, "ct") == 0 && !nftnl_expr_is_set(expr, NFTNL_EXPR_CT_DIR)))
		return 0;
	nftnl_expr_set(expr, change->attribute, change->value, change->len);
	change->made++;
	return 0;
}

static void what_limits_waiting_is_foreign_with_one_difference(void **state)
{
	(void)state;
	struct change changes[] = {
	    {"ct", NFTNL_EXPR_CT_DIR, {1}, 1, 0},
	    {"ct", NFTNL_EXPR_CT_KEY, {NFT_CT_MARK}, 4, 0},
	    {"ct", NFTNL_EXPR_CT_DREG, {NFT_REG32_15}, 4, 0},
	    {"reject", NFTNL_EXPR_REJECT_TYPE, {NFT_REJECT_ICMP_UNREACH}, 4, 0},
	    {"dynset", NFTNL_EXPR_DYNSET_OP, {NFT_DYNSET_OP_UPDATE}, 4, 0},
	};
	struct ruleset from;
	make_rules("fail hold; hold-timeout 1s; inbound-mode tproxy", &from);
	for (size_t i = 0; i < ARRAY_SIZE(changes) * from.rule_count; i++) {
		struct change *change = &changes[i / from.rule_count];
		const struct rule *rule = &from.rules[i % from.rule_count];
		struct ruleset to = {0};
		struct nftnl_rule *nlr;
		int before = change->made;
		for (size_t set = 0; set < from.set_count; set++)
			assert_true(ruleset_add_set(&to, from.sets[set].name, from.sets[set].type) >= 0);
		assert_int_equal(nft_rule_encode(&from, rule, &nlr), 0);
		nftnl_expr_foreach(nlr, make_change, change);
		assert_int_equal(nft_rule_decode(nlr, &to), 0);
		assert_int_equal(to.rules[0].foreign, change->made != before);
		nftnl_rule_free(nlr);
		ruleset_done(&to);
	}
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		assert_true(changes[i].made > 0);
	ruleset_done(&from);
}

static void programs_do_not_ask_for_what_is_open(void **state)
{
	(void)state;
	struct ruleset ruleset;
	make_rules("no-dns", &ruleset);
	size_t all = ruleset.rule_count;
	ruleset_drop_open(&ruleset, CHAIN_PREROUTING);
	assert_int_equal(ruleset.rule_count, all - 1);
	assert_int_equal(ruleset.rules[0].matches[0].field, RULE_SYN);
	ruleset_drop_open(&ruleset, CHAIN_OUTPUT);
	assert_int_equal(ruleset.rule_count, all - 2);
	for (size_t i = 0; i < ruleset.rule_count; i++)
		assert_string_not_equal(ruleset.rules[i].comment, "connections that are open already");
	ruleset_done(&ruleset);
}

static void without_memory(void **state)
{
	(void)state;
	struct ruleset from;
	make_rules(plan_of_everything, &from);
	for (long n = 0;; n++) {
		struct ruleset to = {0};
		mem_fail_set(n);
		int err = there_and_back(&from, &to);
		mem_fail_set(-1);
		ruleset_done(&to);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	ruleset_done(&from);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sets_are_sorted_and_joined),
	    cmocka_unit_test(a_small_plan_as_text),
	    cmocka_unit_test(equality),
	    cmocka_unit_test(every_difference_counts_but_counters),
	    cmocka_unit_test(encoding_and_decoding_are_inverse),
	    cmocka_unit_test(limits_of_waiting_are_compared_and_can_be_left_out),
	    cmocka_unit_test(foreign_rules_are_told_apart),
	    cmocka_unit_test(other_flags_are_foreign),
	    cmocka_unit_test(what_limits_waiting_is_foreign_with_one_difference),
	    cmocka_unit_test(programs_do_not_ask_for_what_is_open),
	    cmocka_unit_test(without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
