// SPDX-License-Identifier: Apache-2.0
// A ruleset as cells and back, and that going through the cells as the kernel does it gives the verdicts of
// ruleset_decide().
#include "make_plan.h"

#include "base/mem.h"
#include "bpf/shared.h"
#include "intercept/decide.h"
#include "intercept/ebpf_cells.h"

#include <netinet/in.h>
#include <stdlib.h>

static union weir_cell *weir_cell_at(void *plan, __u32 index)
{
	union weir_cell *cells = plan;
	return index < cells[WEIR_CELL_HEADER].header.cell_count ? &cells[index] : NULL;
}

// A control group is known to these tests by its number.
static int weir_in_cgroup(__u64 cgroup, __u64 id)
{
	struct cgroup_line line = cgroup_line_at(cgroup);
	for (size_t i = 0; i < line.count; i++)
		if (line.ids[i] == id)
			return 1;
	return 0;
}

#include "bpf/decide.h"

enum { HOLD_MS = 1500 };

static void make_kernel_rules(const char *text, struct ruleset *ret_ruleset)
{
	make_rules(text, ret_ruleset);
	ruleset_drop_chain(ret_ruleset, CHAIN_OUTPUT_RAW);
	ruleset_drop_chain(ret_ruleset, CHAIN_DNS_ZONE);
	ruleset_drop_chain(ret_ruleset, CHAIN_DNS_CHOSEN);
	ruleset_simplify_hold(ret_ruleset, HOLD_MS);
}

static const char plan_that_holds[] = "fail hold; hold-timeout 1500ms";

static void encoding_and_decoding_are_inverse(void **state)
{
	(void)state;
	for (size_t i = 0; i <= ARRAY_SIZE(plans); i++) {
		struct ruleset ruleset, decoded;
		union weir_cell *cells;
		uint32_t count;
		make_kernel_rules(i < ARRAY_SIZE(plans) ? plans[i] : plan_that_holds, &ruleset);
		assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
		assert_int_equal(ebpf_decode(cells, count, &decoded), 0);
		assert_true(ruleset_equal(&ruleset, &decoded));
		ruleset_done(&decoded);
		ruleset_done(&ruleset);
		mem_free(cells);
	}
}

// The back end that has what leaves by nftables.
static void what_arrives_can_be_encoded_alone(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
		struct ruleset ruleset, decoded;
		union weir_cell *cells;
		uint32_t count;
		make_kernel_rules(plans[i], &ruleset);
		ruleset_drop_chain(&ruleset, CHAIN_OUTPUT);
		ruleset_drop_chain(&ruleset, CHAIN_CHOSEN);
		assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
		assert_int_equal(cells[WEIR_CELL_HEADER].header.chains[WEIR_CHAIN_OUTPUT], 0);
		assert_int_equal(ebpf_decode(cells, count, &decoded), 0);
		assert_true(ruleset_equal(&ruleset, &decoded));
		ruleset_done(&decoded);
		ruleset_done(&ruleset);
		mem_free(cells);
	}
}

static void what_is_cut_short_or_of_another_version_is_refused(void **state)
{
	(void)state;
	struct ruleset ruleset, decoded;
	union weir_cell *cells;
	uint32_t count;
	make_kernel_rules(plan_of_everything, &ruleset);
	assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
	for (uint32_t shorter = 0; shorter < count; shorter++)
		assert_int_equal(ebpf_decode(cells, shorter, &decoded), ERR_MALFORMED);
	cells[WEIR_CELL_HEADER].header.version++;
	assert_int_equal(ebpf_decode(cells, count, &decoded), ERR_MALFORMED);
	ruleset_done(&ruleset);
	mem_free(cells);
}

static void what_has_no_hook_is_refused(void **state)
{
	(void)state;
	struct ruleset ruleset;
	union weir_cell *cells;
	uint32_t count;
	make_rules("", &ruleset);
	assert_int_equal(ebpf_encode(&ruleset, &cells, &count), ERR_LIMIT);
	ruleset_done(&ruleset);
}

// --- deciding ------------------------------------------------------------------------------------------------
static uint16_t decide_in_cells(union weir_cell *cells, enum weir_chain chain, const struct weir_flow *flow)
{
	struct weir_walk walk = {
	    .plan = cells, .flow = flow, .rule = cells[WEIR_CELL_HEADER].header.chains[chain]};
	size_t steps = 0;
	while (walk.rule && !weir_step(&walk))
		assert_true(++steps < WEIR_STEPS_MAX);
	return walk.verdict == WEIR_CAPTURE ? (uint16_t)walk.value : 0;
}

static uint16_t decide_by_rules(const struct ruleset *ruleset, enum rule_chain chain, const struct flow *flow)
{
	const struct rule *rule = ruleset_decide(ruleset, chain, flow);
	return rule && rule->action == RULE_REDIRECT ? (uint16_t)rule->value : 0;
}

static struct weir_number number_of_ip(const struct ip *ip)
{
	struct weir_number number = {0};
	for (size_t i = 0; i < (ip->family == AF_INET ? 4 : 16); i++) {
		number.high = number.high << 8 | number.low >> 56;
		number.low = number.low << 8 | ip->bytes[i];
	}
	return number;
}

// One of a few addresses, around the edges of what the plans have.
static struct ip some_ip(uint8_t family)
{
	static const char *const v4[] = {"10.0.0.53",	    "10.9.255.255", "10.10.0.0",
					 "127.0.0.1",	    "240.240.1.1",  "192.0.2.1",
					 "169.254.169.254", "10.77.0.9",    "255.255.255.255"};
	static const char *const v6[] = {"fd00::53",	    "fd00:1::",	   "fd00:2::",	    "::1",
					 "fd77:65:6972::5", "2001:db8::1", "fd00:ec2::254", "ffff::1",
					 "fe80::1",	    "febf::1"};
	struct ip ip;
	const char *text =
	    family == AF_INET ? v4[(size_t)random() % ARRAY_SIZE(v4)] : v6[(size_t)random() % ARRAY_SIZE(v6)];
	assert_int_equal(ip_parse(str_from(text), &ip), 0);
	return ip;
}

static uint32_t one_of(const uint32_t *values, size_t count)
{
	return values[(size_t)random() % count];
}

static void make_flow(struct flow *ret_flow, struct weir_flow *ret_kernel)
{
	static const uint32_t ids[] = {0, 5, 7, 99, 100, 101, 150, 65534, 4294967294u};
	static const uint32_t marks[] = {0, 1, 0x771, 0x772, 0x70000, 0x5501};
	static const uint32_t ports[] = {22, 53, 80, 1, 5, 10, 11, 443, 65535};
	static const char *const interfaces[] = {"lo", "eth0", "br0", "wlan0"};
	uint64_t cgroup = (uint64_t)random() % 5;
	uint8_t family = random() % 2 ? AF_INET : AF_INET6;
	struct flow flow = {
	    .protocol = random() % 4 ? IPPROTO_TCP : IPPROTO_UDP,
	    .source = {.ip = some_ip(family), .port = 40000},
	    .dest = {.ip = some_ip(family), .port = (uint16_t)one_of(ports, ARRAY_SIZE(ports))},
	    .mark = one_of(marks, ARRAY_SIZE(marks)),
	    .user = one_of(ids, ARRAY_SIZE(ids)),
	    .group = one_of(ids, ARRAY_SIZE(ids)),
	    .cgroups = cgroup_line_at(cgroup),
	    .in_interface = interfaces[(size_t)random() % ARRAY_SIZE(interfaces)],
	    .dest_is_local = random() % 3 == 0};
	flow.out_interface = flow.dest_is_local ? "lo" : NULL;
	*ret_flow = flow;
	*ret_kernel = (struct weir_flow){.family = family,
					 .protocol = flow.protocol,
					 .dest_is_local = flow.dest_is_local,
					 .source_port = flow.source.port,
					 .dest_port = flow.dest.port,
					 .mark = flow.mark,
					 .user = flow.user,
					 .group = flow.group,
					 .cgroup = cgroup,
					 .source = number_of_ip(&flow.source.ip),
					 .dest = number_of_ip(&flow.dest.ip)};
	strncpy(ret_kernel->interface, flow.in_interface, sizeof ret_kernel->interface - 1);
}

static void the_kernel_decides_as_the_rules_say(void **state)
{
	(void)state;
	size_t captured = 0, spared = 0;
	srandom(1);
	for (size_t i = 0; i < ARRAY_SIZE(plans); i++) {
		struct ruleset ruleset;
		union weir_cell *cells;
		uint32_t count;
		make_kernel_rules(plans[i], &ruleset);
		assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
		for (int j = 0; j < 20000; j++) {
			struct flow flow;
			struct weir_flow kernel;
			make_flow(&flow, &kernel);
			uint16_t out = decide_in_cells(cells, WEIR_CHAIN_OUTPUT, &kernel);
			uint16_t in = decide_in_cells(cells, WEIR_CHAIN_PREROUTING, &kernel);
			assert_int_equal(out, decide_by_rules(&ruleset, CHAIN_OUTPUT, &flow));
			assert_int_equal(in, decide_by_rules(&ruleset, CHAIN_PREROUTING, &flow));
			captured += (out != 0) + (in != 0);
			spared += (out == 0) + (in == 0);
		}
		ruleset_done(&ruleset);
		mem_free(cells);
	}
	assert_true(captured > 1000 && spared > 1000);
}

static void what_waits_does_so_while_nobody_listens(void **state)
{
	(void)state;
	static const struct {
		uint8_t protocol, listens;
		uint16_t port;
		enum weir_verdict verdict;
		uint32_t value;
	} rows[] = {
	    {IPPROTO_TCP, 0, 15001, WEIR_HOLD, HOLD_MS}, {IPPROTO_TCP, 0, 15006, WEIR_HOLD, HOLD_MS},
	    {IPPROTO_TCP, 0, 15053, WEIR_HOLD, HOLD_MS}, {IPPROTO_UDP, 0, 15053, WEIR_HOLD, HOLD_MS},
	    {IPPROTO_TCP, 1, 15001, WEIR_LEAVE, 0},	 {IPPROTO_UDP, 1, 15053, WEIR_LEAVE, 0},
	    {IPPROTO_TCP, 0, 80, WEIR_LEAVE, 0},	 {IPPROTO_UDP, 0, 15001, WEIR_LEAVE, 0},
	};
	struct ruleset ruleset;
	union weir_cell *cells;
	uint32_t count;
	make_kernel_rules(plan_that_holds, &ruleset);
	assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct weir_flow flow = {
		    .protocol = rows[i].protocol, .listens = rows[i].listens, .dest_port = rows[i].port};
		struct weir_walk walk = {.plan = cells,
					 .flow = &flow,
					 .rule = cells[WEIR_CELL_HEADER].header.chains[WEIR_CHAIN_HOLD]};
		while (!weir_step(&walk))
			;
		assert_int_equal(walk.verdict, rows[i].verdict);
		assert_int_equal(walk.value, rows[i].value);
	}
	ruleset_done(&ruleset);
	mem_free(cells);
}

static void what_is_only_asked_about_is_not_counted(void **state)
{
	(void)state;
	struct ruleset ruleset;
	union weir_cell *cells;
	uint32_t count;
	make_kernel_rules(plan_that_holds, &ruleset);
	assert_int_equal(ebpf_encode(&ruleset, &cells, &count), 0);
	for (uint8_t uncounted = 0; uncounted < 2; uncounted++) {
		struct weir_flow flow = {.protocol = IPPROTO_UDP, .dest_port = 15053, .uncounted = uncounted};
		struct weir_walk walk = {.plan = cells,
					 .flow = &flow,
					 .rule = cells[WEIR_CELL_HEADER].header.chains[WEIR_CHAIN_HOLD]};
		while (!weir_step(&walk))
			;
		assert_int_equal(walk.verdict, WEIR_HOLD);
		assert_int_equal(cells[walk.rule].rule.packets, 1);
	}
	ruleset_done(&ruleset);
	mem_free(cells);
}

static void a_query_waits_from_when_it_was_asked_first(void **state)
{
	(void)state;
	enum { SECOND = 1000000000, LIMIT = 5 };
	static const struct {
		uint64_t at; // in s
		int over;
	} rows[] = {{100, 0}, {104, 0}, {105, 1}, {106, 1}, {164, 1},
		    {165, 0}, {169, 0}, {170, 1}, {9000, 0}};
	const uint64_t limit = (uint64_t)LIMIT * SECOND;
	__u64 since = 0;
	assert_false(weir_query_is_over(since, 100ull * SECOND, limit));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		weir_query_begins(&since, rows[i].at * SECOND, limit);
		assert_int_equal(weir_query_is_over(since, rows[i].at * SECOND, limit), rows[i].over);
	}
	assert_true(since == 9000ull * SECOND);
	assert_false(weir_query_is_over(since, (9000ull + LIMIT + WEIR_QUERY_STALE) * SECOND, limit));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_query_waits_from_when_it_was_asked_first),
	    cmocka_unit_test(what_waits_does_so_while_nobody_listens),
	    cmocka_unit_test(what_is_only_asked_about_is_not_counted),
	    cmocka_unit_test(encoding_and_decoding_are_inverse),
	    cmocka_unit_test(what_arrives_can_be_encoded_alone),
	    cmocka_unit_test(what_is_cut_short_or_of_another_version_is_refused),
	    cmocka_unit_test(what_has_no_hook_is_refused),
	    cmocka_unit_test(the_kernel_decides_as_the_rules_say),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
