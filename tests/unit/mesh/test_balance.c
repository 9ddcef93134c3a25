// SPDX-License-Identifier: Apache-2.0
// Balancing in virtual time.
#include "../control/build_model.h"

#include "base/clock.h"
#include "base/mem.h"
#include "mesh/balance.h"

#include <errno.h>
#include <stdio.h>

static struct balancer *balancer;
static struct model *model;
static int retired;

static void on_retire(struct endpoint_state *state, void *arg)
{
	(void)arg;
	(void)state;
	retired++;
}

static void use(const char *text)
{
	model_unref(model);
	model = build_model(text);
	assert_int_equal(balancer_update(balancer, model, on_retire, NULL), 0);
}

static int setup(void **state)
{
	(void)state;
	model = NULL;
	retired = 0;
	random_seed(3);
	return balancer_new(&balancer);
}

static int teardown(void **state)
{
	(void)state;
	balancer_free(balancer);
	model_unref(model);
	return 0;
}

static struct endpoint_state *pick(uint64_t now_s)
{
	return balancer_pick(balancer, model_cluster(model, STR("c")), NULL, now_s * NS_PER_S);
}

#define THREE(balance)                                                                                       \
	"clusters: [{name: c, balance: " balance ", endpoints: [{address: \"10.0.0.1:1\", weight: 5}, "      \
	"{address: \"10.0.0.2:1\", weight: 1}, {address: \"10.0.0.3:1\", weight: 1}]}]\n"

static unsigned last_byte(const struct endpoint_state *state)
{
	return state->addr.ip.bytes[3];
}

static void round_robin_is_smooth(void **state)
{
	(void)state;
	static const unsigned cycle[] = {1, 1, 2, 1, 3, 1, 1};
	use(THREE("round_robin"));
	for (int round = 0; round < 3; round++)
		for (size_t i = 0; i < ARRAY_SIZE(cycle); i++)
			assert_int_equal(last_byte(pick(0)), cycle[i]);
}

static void random_follows_the_weights(void **state)
{
	(void)state;
	double expected[] = {0, 50000, 10000, 10000}, chi = 0;
	unsigned counts[4] = {0};
	use(THREE("random"));
	for (int i = 0; i < 70000; i++)
		counts[last_byte(pick(0))]++;
	for (int i = 1; i <= 3; i++)
		chi += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
	assert_true(chi < 13.8);
}

static void least_request_prefers_the_idle(void **state)
{
	(void)state;
	unsigned counts[4] = {0};
	use("clusters: [{name: c, balance: least_request, endpoints: [{address: \"10.0.0.1:1\"}, {address: "
	    "\"10.0.0.2:1\"}]}]\n");
	struct endpoint_state *busy = pick(0);
	busy->active = 100;
	for (int i = 0; i < 10000; i++)
		counts[last_byte(pick(0))]++;
	assert_in_range(counts[last_byte(busy)], 2300, 2700); // only when it is drawn twice
}

static void what_refuses_is_left_alone_for_a_while(void **state)
{
	(void)state;
	use("clusters: [{name: c, endpoints: [{address: \"10.0.0.1:1\"}, {address: \"10.0.0.2:1\"}]}]\n");
	struct endpoint_state *down = pick(0);
	uint64_t last = 0;
	for (int failure = 0; failure < 8; failure++) {
		uint64_t begin = last;
		endpoint_mark_failure(down, begin);
		uint64_t expected_ms = 1000ull << MIN(failure, 5);
		assert_in_range((down->down_until_ns - begin) / NS_PER_MS, expected_ms * 9 / 10,
				expected_ms * 11 / 10);
		last = down->down_until_ns;
		endpoint_mark_failure(down, begin + 1); // another connection that met the same outage
		assert_int_equal(down->down_until_ns, last);
	}
	for (int i = 0; i < 10; i++)
		assert_ptr_not_equal(pick(0), down);
	uint64_t later = last / NS_PER_S + 1;
	assert_true(pick(later) == down || pick(later) == down);
	endpoint_mark_success(down);
	assert_true(pick(0) == down || pick(0) == down);
}

static void if_all_are_down_one_is_tried(void **state)
{
	(void)state;
	use("clusters: [{name: c, endpoints: [{address: \"10.0.0.1:1\"}, {address: \"10.0.0.2:1\"}]}]\n");
	endpoint_mark_failure(pick(0), 0);
	endpoint_mark_failure(pick(0), 0);
	assert_non_null(pick(0));
	struct endpoint_state *first = pick(0);
	assert_ptr_not_equal(balancer_pick(balancer, model_cluster(model, STR("c")), first, 0), first);
	use("clusters: [{name: c}]\n");
	assert_null(pick(0));
}

static void states_survive_a_new_snapshot(void **state)
{
	(void)state;
	use(THREE("round_robin"));
	struct endpoint_state *first = pick(0);
	assert_int_equal(last_byte(first), 1);
	endpoint_mark_failure(first, 0);
	endpoint_state_ref(first);
	use("clusters: [{name: new}, {name: c, endpoints: [{address: \"10.0.0.9:1\"}, {address: "
	    "\"10.0.0.1:1\", weight: 2}]}]\n");
	assert_int_equal(retired, 2);
	assert_false(first->retired);
	assert_int_equal(first->weight, 2);
	assert_int_equal(last_byte(pick(0)), 9); // the other is still marked down
	use("clusters: [{name: c, endpoints: [{address: \"10.0.0.9:1\"}]}]\n");
	assert_true(first->retired);
	assert_int_equal(retired, 3);
	endpoint_state_unref(first);
}

// What was made under another allow list, or without TLS, must not be found again.
static void other_tls_settings_make_other_states(void **state)
{
	(void)state;
	static const char *const keys[] = {
	    "tls: off",
	    "tls: mesh, tls_allow: [\"spiffe://mesh/a\"]",
	    "tls: mesh, tls_allow: [\"spiffe://mesh/b\"]",
	    "tls: mesh, tls_allow: [\"spiffe://mesh/b\", \"spiffe://mesh/a\"]",
	};
	const char *format = "tls: {certificate: /dev/null, private_key: /dev/null, trust: /dev/null}\n"
			     "clusters: [{name: c, %s, endpoints: [{address: \"10.0.0.1:1\"}]}]\n";
	char config[512];
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		snprintf(config, sizeof config, format, keys[i]);
		use(config);
		assert_int_equal(retired, i);
		use(config);
		assert_int_equal(retired, i);
	}
}

static void addresses_of_no_cluster(void **state)
{
	(void)state;
	struct addr addr;
	assert_int_equal(addr_parse(STR("192.0.2.1:1"), &addr), 0);
	struct endpoint_state *a = balancer_address(balancer, &addr), *b = balancer_address(balancer, &addr);
	assert_ptr_equal(a, b);
	endpoint_state_unref(a);
	endpoint_state_unref(b);
}

static void count_address(struct endpoint_state *state, void *arg)
{
	(void)state;
	++*(unsigned *)arg;
}

// A client that walks through many destinations: each has one state, whatever their number.
static void many_addresses(void **state)
{
	(void)state;
	enum { COUNT = 5000 };
	static struct endpoint_state *states[COUNT];
	struct addr addr;
	unsigned count = 0;
	assert_int_equal(addr_parse(STR("192.0.2.1:1"), &addr), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		addr.port = (uint16_t)(i + 1);
		states[i] = balancer_address(balancer, &addr);
		assert_int_equal(states[i]->addr.port, i + 1);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		addr.port = (uint16_t)(i + 1);
		assert_ptr_equal(balancer_address(balancer, &addr), states[i]);
		endpoint_state_unref(states[i]);
	}
	balancer_each_address(balancer, count_address, &count);
	assert_int_equal(count, COUNT);
	for (unsigned i = 0; i < COUNT; i++)
		endpoint_state_unref(states[i]);
	count = 0;
	balancer_each_address(balancer, count_address, &count);
	assert_int_equal(count, 0);
}

static void without_memory(void **state)
{
	(void)state;
	use(THREE("round_robin"));
	struct endpoint_state *first = pick(0);
	struct model *other = build_model(
	    "clusters: [{name: x, endpoints: [{address: \"10.0.0.4:1\"}, {address: \"10.0.0.5:1\"}]}]\n");
	for (long n = 0;; n++) {
		mem_fail_set(n);
		int err = balancer_update(balancer, other, on_retire, NULL);
		mem_fail_set(-1);
		if (!err)
			break;
		assert_int_equal(err, -ENOMEM);
		assert_ptr_equal(balancer_model(balancer), model);
		assert_false(first->retired);
		assert_int_equal(retired, 0);
	}
	assert_int_equal(retired, 3);
	model_unref(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(round_robin_is_smooth, setup, teardown),
	    cmocka_unit_test_setup_teardown(random_follows_the_weights, setup, teardown),
	    cmocka_unit_test_setup_teardown(least_request_prefers_the_idle, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_refuses_is_left_alone_for_a_while, setup, teardown),
	    cmocka_unit_test_setup_teardown(if_all_are_down_one_is_tried, setup, teardown),
	    cmocka_unit_test_setup_teardown(states_survive_a_new_snapshot, setup, teardown),
	    cmocka_unit_test_setup_teardown(other_tls_settings_make_other_states, setup, teardown),
	    cmocka_unit_test_setup_teardown(addresses_of_no_cluster, setup, teardown),
	    cmocka_unit_test_setup_teardown(many_addresses, setup, teardown),
	    cmocka_unit_test_setup_teardown(without_memory, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
