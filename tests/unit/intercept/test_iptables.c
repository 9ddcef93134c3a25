// SPDX-License-Identifier: Apache-2.0
// Rules as iptables' text and back, and ways from one state to another, without a kernel.
#include "make_plan.h"

#include "base/mem.h"
#include "intercept/iptables_text.h"

#include <errno.h>

// Besides those of make_plan.h.
static const char *const more_plans[] = {
    "no-ipv6; include-outbound-cidrs fd00::/8",
    "include-outbound-cidrs 0.0.0.0/0; include-inbound-cidrs fd00::/8",
    "include-users 5; include-groups 7",
    "inbound-source client; no-dns",
    "fail hold",
    "fail hold; no-dns; no-ipv6",
    "include-users 5; exclude-groups 5-9,11; proxy-user 7; exclude-marks 0x5",
    ("exclude-outbound-ports 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31-33,35; include-outbound-ports "
     "1,3,5,7,9,11,13,15,17,19,21,23,25,27-29,31"),
    "include-outbound-interfaces eth*; dns-servers 10.0.0.1,10.0.0.2,10.0.0.3,fd00::1",
};

static void parse(const struct ruleset *ruleset, uint8_t family, struct iptables_state *ret_state)
{
	autostrbuf struct strbuf text = {0};
	iptables_print(ruleset, family, &text);
	assert_int_equal(iptables_parse(strbuf_str(&text), ret_state), 0);
}

static void decode(const struct ruleset *ruleset, struct ruleset *ret_decoded)
{
	struct iptables_state ipv4, ipv6;
	parse(ruleset, AF_INET, &ipv4);
	parse(ruleset, AF_INET6, &ipv6);
	assert_int_equal(iptables_decode(&ipv4, &ipv6, ret_decoded), 0);
	iptables_state_done(&ipv4);
	iptables_state_done(&ipv6);
}

static void check_plan(const char *plan)
{
	struct ruleset ruleset, decoded;
	make_rules(plan, &ruleset);
	decode(&ruleset, &decoded);
	if (!ruleset_equal(&ruleset, &decoded)) {
		autostrbuf struct strbuf a = {0}, b = {0};
		ruleset_print(&ruleset, &a);
		ruleset_print(&decoded, &b);
		fail_msg("%s%s:\n%s\n%s", plan, decoded.altered ? " (altered)" : "", a.p, b.p);
	}
	ruleset_done(&ruleset);
	ruleset_done(&decoded);
}

static void what_is_printed_is_found_again(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++)
		check_plan(plans[i]);
	for (size_t i = 0; i < ARRAY_SIZE(more_plans); i++)
		check_plan(more_plans[i]);
}

static void check_text(const char *plan, uint8_t family, const char *wanted)
{
	autostrbuf struct strbuf text = {0};
	struct ruleset ruleset;
	make_rules(plan, &ruleset);
	iptables_print(&ruleset, family, &text);
	strbuf_add_char(&text, 0);
	ruleset_done(&ruleset);
	if (!wanted)
		assert_string_equal(text.p, "");
	else if (!strstr(text.p, wanted))
		fail_msg("%s: %s is not in\n%s", plan, wanted, text.p);
}

// What iptables-save prints of what it was given: the unit that suits, and a rate that is rounded.
static void replace(struct strbuf *text, const char *from, const char *to)
{
	autostrbuf struct strbuf replaced = {0};
	strbuf_add_char(text, 0);
	for (const char *at = text->p; *at;) {
		bool found = strncmp(at, from, strlen(from)) == 0;
		strbuf_add_str(&replaced, found ? str_from(to) : (struct str){at, 1});
		at += found ? strlen(from) : 1;
	}
	strbuf_clear(text);
	strbuf_add_str(text, strbuf_str(&replaced));
}

static void decode_with(const struct ruleset *ruleset, const char *from, const char *to,
			struct ruleset *ret_decoded)
{
	autostrbuf struct strbuf text = {0};
	struct iptables_state ipv4, ipv6 = {0};
	iptables_print(ruleset, AF_INET, &text);
	replace(&text, from, to);
	assert_int_equal(iptables_parse(strbuf_str(&text), &ipv4), 0);
	assert_int_equal(iptables_decode(&ipv4, &ipv6, ret_decoded), 0);
	iptables_state_done(&ipv4);
}

static bool is_found_again(uint32_t limit_ms, const char *from, const char *to)
{
	struct ruleset ruleset, decoded;
	make_rules("fail hold; no-ipv6; hold-timeout 1ms", &ruleset);
	ruleset_simplify_hold(&ruleset, limit_ms);
	decode_with(&ruleset, from, to, &decoded);
	bool equal = ruleset_equal(&ruleset, &decoded);
	ruleset_done(&ruleset);
	ruleset_done(&decoded);
	return equal;
}

static void limits_of_waiting_are_found_again(void **state)
{
	(void)state;
	static const uint32_t limits[] = {1, 999, 7000, 127001, 3600000};
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
		assert_true(is_found_again(limits[i], "*nat", "*nat"));
	assert_true(is_found_again(500, "172800/day", "2/sec"));
	assert_true(is_found_again(7000, "12343/day", "12342/day"));
	assert_true(is_found_again(60000, "1440/day", "1/min"));
	assert_true(is_found_again(3600000, "24/day", "1/hour"));
	static const char *const changes[][2] = {
	    {"172800/day", "3/sec"},
	    {"172800/day", "0/sec"},
	    {"172800/day", "2/week"},
	    {"172800/day", "2"},
	    {"1429/day", "431/day"}, // of queries, in place of what is of connections
	    {"--hashlimit-above", "--hashlimit-upto"},
	    {"--hashlimit-burst 1", "--hashlimit-burst 2"},
	    {"dstip,dstport", "dstip"},
	    {"weir_h500", "weir_h501"},
	    {"weir_k500", "weir_k"},
	    {"weir_k500", "else"},
	    {"weir_qh500", "weir_h500"},
	    {"weir_qk500", "weir_k500"},
	    {"weir_h500", "weir_qh500"},
	    {"--hashlimit-name weir_h500 ", ""},
	    {"expire 200000", "expire 1"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		assert_false(is_found_again(500, changes[i][0], changes[i][1]));
}

static void flags_are_found_again(void **state)
{
	(void)state;
	static const char flags[] = "! --tcp-flags FIN,SYN,RST,ACK SYN";
	assert_true(is_found_again(500, flags, flags));
	assert_false(is_found_again(500, flags, "--tcp-flags FIN,SYN,RST,ACK SYN"));
	assert_false(is_found_again(500, flags, "! --tcp-flags FIN,SYN,RST,ACK ACK"));
	assert_false(is_found_again(500, flags, "! --tcp-flags SYN,ACK SYN"));
	assert_false(is_found_again(500, flags, "! --tcp-flags FIN,SYN,RST,ACK"));
}

static void rules_as_iptables_prints_them(void **state)
{
	(void)state;
	static const struct {
		const char *plan, *ipv4, *ipv6; // NULL: nothing at all
	} rows[] = {
	    {"", " outbound\" -j REDIRECT --to-ports 15001\n", "! -d ::1/128 "},
	    {"",
	     "-A WEIR_OUTPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m comment --comment \"weir 0 "
	     "connections that are open already\" -j RETURN\n",
	     "-A WEIR_PREROUTING -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN "},
	    {"", "COMMIT\n",
	     "-A WEIR_OUTPUT -d fe80::/10 -m comment --comment \"weir 1 @link_local_ipv6 link-local "
	     "address\" "
	     "-j RETURN\n"},
	    {"no-ipv6", "*nat\n:WEIR_OUTPUT - [0:0]\n", NULL},
	    {"no-ipv4", NULL,
	     "*raw\n:WEIR_OUTPUT_RAW - [0:0]\n:WEIR_DNS_ZONE - [0:0]\n"
	     "-A OUTPUT -m comment --comment weir -j WEIR_OUTPUT_RAW\n"},
	    {"exclude-outbound-ports 1-2,4,6,8,10,12,14,16,18,20,22,24,26,28,30",
	     "--dports 1:2,4,6,8,10,12,14,16,18,20,22,24,26,28 -m comment", "--dports 30 -m comment"},
	    {"no-dns; exclude-users 1000-1005",
	     "-m owner --uid-owner 1000-1005 -m comment --comment \"weir 6 @exclude_users excluded user\" -j "
	     "RETURN\n",
	     "COMMIT\n"},
	    {"exclude-outbound-interfaces docker*", " -o docker+ ", " -o docker+ "},
	    {"vips 240.0.0.0/16,240.1.0.0/16,240.2.0.1", "-d 240.0.0.0/15 -p tcp", "COMMIT\n"},
	    {"include-outbound-ports 80", "-p tcp -m multiport ! --dports 80 -m comment", "COMMIT\n"},
	    {"no-dns; exclude-cgroups a/b\\x2d7",
	     "-A WEIR_OUTPUT -m cgroup --path \"a/b\\\\x2d7\" -m comment --comment \"weir 6 @7 excluded "
	     "control group\" "
	     "-j RETURN\n",
	     "@7 "},
	    {"no-dns; include-cgroups a7", "\"weir 6 @7 included control group\" -g WEIR_CHOSEN\n",
	     "-A WEIR_CHOSEN -o lo"},
	    {"no-dns; include-users 1,3",
	     "--uid-owner 3 -m comment --comment \"weir 6 @include_users listed\" -g WEIR_OUTPUT_1\n",
	     ":WEIR_OUTPUT_1 - [0:0]\n"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		check_text(rows[i].plan, AF_INET, rows[i].ipv4);
		check_text(rows[i].plan, AF_INET6, rows[i].ipv6);
	}
}

static const char saved[] =
    "# Generated by iptables-save\n*filter\n:INPUT ACCEPT [5:300]\n[1:2] -A INPUT -j ACCEPT\n"
    "COMMIT\n*nat\n:OUTPUT ACCEPT [0:0]\n:DOCKER - [0:0]\n:WEIR_OLD - [0:0]\n"
    ":WEIR_OUTPUT - [0:0]\n[3:180] -A OUTPUT -m comment --comment weir -j WEIR_OUTPUT\n"
    "[0:0] -A OUTPUT -j DOCKER\n[7:420] -A WEIR_OUTPUT -p tcp -m comment --comment \"weir 0 a\\\"b\" "
    "-j REDIRECT --to-ports 15001\n-A WEIR_OLD -j RETURN\nCOMMIT\n";

static void what_is_of_others_is_not_ours(void **state)
{
	(void)state;
	struct iptables_state found;
	assert_int_equal(iptables_parse(STR("garbage\n:\n-A\n-A \n[\n[1\n*\n:WEIR_"), &found), 0);
	iptables_state_done(&found);
	assert_int_equal(iptables_parse(str_from(saved), &found), 0);
	assert_int_equal(found.count, 5);
	assert_int_equal(found.lines[3].packets, 7);
	assert_int_equal(found.lines[3].bytes, 420);
	struct ruleset ruleset;
	assert_int_equal(iptables_decode(&found, &(struct iptables_state){0}, &ruleset), 0);
	assert_true(ruleset.altered);
	assert_string_equal(ruleset.rules[1].comment, "a\"b");
	assert_int_equal(ruleset.rules[1].packets, 7);
	ruleset_done(&ruleset);
	iptables_state_done(&found);
}

static void the_way_from_one_state_to_another(void **state)
{
	(void)state;
	struct iptables_state from, to;
	autostrbuf struct strbuf text = {0}, away = {0};
	assert_int_equal(iptables_parse(str_from(saved), &from), 0);
	assert_int_equal(
	    iptables_parse(
		STR("*nat\n:WEIR_OUTPUT - [0:0]\n-A OUTPUT -j WEIR_OUTPUT\n-A WEIR_OUTPUT -j RETURN\n"), &to),
	    0);
	iptables_transition(&from, &to, &text);
	assert_string_equal(text.p,
			    "*nat\n:WEIR_OUTPUT - [0:0]\n:WEIR_OLD - [0:0]\n"
			    "-D OUTPUT -m comment --comment weir -j WEIR_OUTPUT\n"
			    "-I OUTPUT 1 -j WEIR_OUTPUT\n-A WEIR_OUTPUT -j RETURN\n-X WEIR_OLD\nCOMMIT\n");
	iptables_transition(&from, &(struct iptables_state){0}, &away);
	assert_string_equal(
	    away.p,
	    "*nat\n:WEIR_OLD - [0:0]\n:WEIR_OUTPUT - [0:0]\n"
	    "-D OUTPUT -m comment --comment weir -j WEIR_OUTPUT\n-X WEIR_OLD\n-X WEIR_OUTPUT\nCOMMIT\n");
	iptables_state_done(&from);
	iptables_state_done(&to);
}

static void lines_that_are_missing_or_foreign_show(void **state)
{
	(void)state;
	struct ruleset ruleset, decoded;
	make_rules(plan_of_everything, &ruleset);
	struct iptables_state ipv4, ipv6;
	parse(&ruleset, AF_INET, &ipv4);
	parse(&ruleset, AF_INET6, &ipv6);
	for (size_t i = 0; i < ipv4.count; i++) {
		struct iptables_line removed = ipv4.lines[i];
		memmove(&ipv4.lines[i], &ipv4.lines[i + 1], (ipv4.count - i - 1) * sizeof removed);
		ipv4.count--;
		assert_int_equal(iptables_decode(&ipv4, &ipv6, &decoded), 0);
		assert_false(ruleset_equal(&ruleset, &decoded));
		ruleset_done(&decoded);
		memmove(&ipv4.lines[i + 1], &ipv4.lines[i], (ipv4.count - i) * sizeof removed);
		ipv4.lines[i] = removed;
		ipv4.count++;
	}
	iptables_state_done(&ipv4);
	iptables_state_done(&ipv6);
	ruleset_done(&ruleset);
}

static void memory_runs_out(void **state)
{
	(void)state;
	struct ruleset ruleset, decoded;
	make_rules(plan_of_everything, &ruleset);
	struct iptables_state ipv4, ipv6;
	parse(&ruleset, AF_INET, &ipv4);
	parse(&ruleset, AF_INET6, &ipv6);
	for (long i = 0;; i++) {
		mem_fail_set(i);
		int err = iptables_decode(&ipv4, &ipv6, &decoded);
		mem_fail_set(-1);
		if (err == 0)
			break;
		assert_int_equal(err, -ENOMEM);
	}
	assert_true(ruleset_equal(&ruleset, &decoded));
	ruleset_done(&decoded);
	iptables_state_done(&ipv4);
	iptables_state_done(&ipv6);
	ruleset_done(&ruleset);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_printed_is_found_again),
	    cmocka_unit_test(limits_of_waiting_are_found_again),
	    cmocka_unit_test(flags_are_found_again),
	    cmocka_unit_test(rules_as_iptables_prints_them),
	    cmocka_unit_test(what_is_of_others_is_not_ours),
	    cmocka_unit_test(the_way_from_one_state_to_another),
	    cmocka_unit_test(lines_that_are_missing_or_foreign_show),
	    cmocka_unit_test(memory_runs_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
