// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/addr.h"
#include "base/error.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>

static void round_trips(void **state)
{
	(void)state;
	static const char *const texts[] = {"192.0.2.1:80", "[2001:db8::1]:443", "0.0.0.0:0", "[::]:65535"};
	for (size_t i = 0; i < 4; i++) {
		struct addr addr, again;
		struct sockaddr_storage sa;
		char text[ADDR_TEXT_MAX];
		assert_int_equal(addr_parse(str_from(texts[i]), &addr), 0);
		assert_string_equal(addr_format(&addr, text), texts[i]);
		assert_true(addr_to_sockaddr(&addr, &sa) > 0);
		assert_int_equal(addr_from_sockaddr(&sa, &again), 0);
		assert_true(addr_eq(&addr, &again));
		assert_true(addr_hash(&addr) == addr_hash(&again));
	}
}

static void one_spelling_of_a_mapped_address(void **state)
{
	(void)state;
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
	struct sockaddr_storage sa = {0};
	struct addr mapped, plain;
	inet_pton(AF_INET6, "::ffff:192.0.2.1", &in6.sin6_addr);
	memcpy(&sa, &in6, sizeof in6);
	assert_int_equal(addr_from_sockaddr(&sa, &mapped), 0);
	assert_int_equal(addr_parse(STR("192.0.2.1:80"), &plain), 0);
	assert_true(addr_eq(&mapped, &plain));
	assert_int_equal(addr_parse(STR("[::ffff:192.0.2.1]:80"), &mapped), 0);
	assert_true(addr_eq(&mapped, &plain));
}

static void refusals(void **state)
{
	(void)state;
	static const char *const bad[] = {
	    "",	    "192.0.2.1", "192.0.2.1:", "192.0.2.1:x",	"2001:db8::1:80", "[::1]80",
	    "[::1", "[::1]:",	 "host:80",    "192.0.2.256:1", "[192.0.2.1:80"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct addr addr;
		assert_int_equal(addr_parse(str_from(bad[i]), &addr), ERR_MALFORMED);
	}
	struct addr addr;
	assert_int_equal(addr_parse(STR("192.0.2.1:65536"), &addr), -ERANGE);
}

static void prefixes(void **state)
{
	(void)state;
	struct cidr cidr;
	struct ip in, out;
	char text[ADDR_TEXT_MAX];
	assert_int_equal(cidr_parse(STR("10.16.0.0/12"), &cidr), 0);
	assert_string_equal(cidr_format(&cidr, text), "10.16.0.0/12");
	assert_int_equal(ip_parse(STR("10.31.255.255"), &in), 0);
	assert_int_equal(ip_parse(STR("10.32.0.0"), &out), 0);
	assert_true(cidr_contains(&cidr, &in));
	assert_false(cidr_contains(&cidr, &out));
	assert_int_equal(cidr_parse(STR("fd77:65:6972::/112"), &cidr), 0);
	assert_false(cidr_contains(&cidr, &in));
	assert_int_equal(cidr_parse(STR("0.0.0.0/0"), &cidr), 0);
	assert_true(cidr_contains(&cidr, &in));
	assert_int_equal(cidr_parse(STR("10.0.0.1"), &cidr), 0);
	assert_int_equal(cidr.bits, 32);
	assert_int_equal(cidr_parse(STR("10.0.0.1/24"), &cidr), ERR_MALFORMED); // host bits
	assert_int_equal(cidr_parse(STR("10.0.0.0/33"), &cidr), ERR_MALFORMED);
	assert_int_equal(cidr_parse(STR("10.0.0.0/"), &cidr), ERR_MALFORMED);
}

static void kinds(void **state)
{
	(void)state;
	struct ip ip;
	assert_int_equal(ip_parse(STR("127.9.9.9"), &ip), 0);
	assert_true(ip_is_loopback(&ip));
	assert_int_equal(ip_parse(STR("::1"), &ip), 0);
	assert_true(ip_is_loopback(&ip));
	assert_int_equal(ip_parse(STR("10.0.0.1"), &ip), 0);
	assert_false(ip_is_loopback(&ip));
	assert_int_equal(ip_parse(STR("::"), &ip), 0);
	assert_true(ip_is_any(&ip));
	static const struct {
		const char *text;
		bool multicast, link_local;
	} rows[] = {{"223.255.255.255", false, false}, {"224.0.0.1", true, false},
		    {"239.255.255.255", true, false},  {"240.0.0.1", false, false},
		    {"255.255.255.255", true, false},  {"ff02::1", true, false},
		    {"fe7f::1", false, false},	       {"fe80::1", false, true},
		    {"febf::1", false, true},	       {"fec0::1", false, false}};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(ip_parse(str_from(rows[i].text), &ip), 0);
		assert_int_equal(ip_is_multicast(&ip), rows[i].multicast);
		assert_int_equal(ip_is_link_local_v6(&ip), rows[i].link_local);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(round_trips), cmocka_unit_test(one_spelling_of_a_mapped_address),
	    cmocka_unit_test(refusals),	   cmocka_unit_test(prefixes),
	    cmocka_unit_test(kinds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
