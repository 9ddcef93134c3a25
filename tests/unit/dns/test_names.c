// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "dns/lookup.h"

#include <errno.h>
#include <stdio.h>

static struct ip ip(const char *text)
{
	struct ip result = {0};
	if (text)
		assert_int_equal(ip_parse(str_from(text), &result), 0);
	return result;
}

static int add(struct dns_names *names, const char *name, const char *v4, const char *v6)
{
	static const struct dns_port ports[] = {{80, STR("_http"), STR("_tcp")}, {90, STR(""), STR("_tcp")}};
	struct dns_entry entry = {str_from(name), ip(v4), ip(v6), ports, 2};
	return dns_names_add(names, &entry);
}

static struct dns_names *table(const char *v4_range)
{
	struct dns_names *names;
	struct cidr ranges[2];
	assert_int_equal(cidr_parse(str_from(v4_range), &ranges[0]), 0);
	assert_int_equal(cidr_parse(STR("fd77:65:6972::/112"), &ranges[1]), 0);
	assert_int_equal(dns_names_new(STR("mesh"), 10, ranges, 2, &names), 0);
	assert_int_equal(add(names, "reviews.mesh", "240.240.3.7", "fd77:65:6972::1a2b"), 0);
	assert_int_equal(add(names, "a.b.c.mesh", "240.240.3.8", NULL), 0);
	assert_int_equal(add(names, "*.wild.mesh", "240.240.3.9", NULL), 0);
	assert_int_equal(add(names, "x.y.wild.mesh", "240.240.3.10", NULL), 0);
	assert_int_equal(add(names, "api.example.com", "240.240.3.11", NULL), 0);
	assert_int_equal(add(names, "*.example.net", "240.240.3.12", NULL), 0);
	assert_int_equal(add(names, "plain.example.net", NULL, NULL), 0);
	assert_int_equal(add(names, "outside.mesh", "192.0.2.1", NULL), 0);
	return names;
}

static struct dns_names *default_table(void)
{
	return table("240.240.0.0/16");
}

// What is found and where the zone begins, as text: "ours HOST|SRV|PTR owner zone", "empty zone", "missing
// zone", "outside".
static const char *find(const struct dns_names *names, const char *text)
{
	static char result[4 * DNS_NAME_TEXT_MAX];
	static const char *const kinds[] = {"EMPTY", "HOST", "SRV", "PTR"};
	static const char *const found[] = {"outside", "ours", "empty", "missing"};
	char zone[DNS_NAME_TEXT_MAX];
	struct dns_name name;
	struct dns_match match;
	assert_int_equal(dns_name_from_text(str_from(text), &name), 0);
	dns_names_find(names, &name, &match);
	if (match.found == DNS_OUTSIDE)
		return "outside";
	dns_name_format(&name.bytes[match.apex], zone);
	if (match.found != DNS_OURS)
		snprintf(result, sizeof result, "%s %s", found[match.found], zone);
	else
		snprintf(result, sizeof result, "ours %s %.*s %s%s", kinds[match.node->kind],
			 STR_ARG(match.node->host->entry.name), zone, match.in_zone ? "" : " alone");
	return result;
}

static void test_zone(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	assert_string_equal(find(names, "reviews.mesh"), "ours HOST reviews.mesh mesh");
	assert_string_equal(find(names, "Reviews.MESH."), "ours HOST reviews.mesh mesh");
	assert_string_equal(find(names, "other.mesh"), "missing mesh");
	assert_string_equal(find(names, "x.reviews.mesh"), "missing mesh");
	assert_string_equal(find(names, "mesh"), "empty mesh");
	assert_string_equal(find(names, "c.mesh"), "empty mesh");
	assert_string_equal(find(names, "b.c.mesh"), "empty mesh");
	assert_string_equal(find(names, "z.c.mesh"), "missing mesh");
	assert_string_equal(find(names, "xmesh"), "outside");
	assert_string_equal(find(names, "mesh.example.org"), "outside");
	assert_string_equal(find(names, "."), "outside");
	dns_names_unref(names);
}

// RFC 4592: the wildcard covers what has its parent as the closest encloser, at any depth, and no existing
// name.
static void test_wildcards(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	assert_string_equal(find(names, "a.wild.mesh"), "ours HOST *.wild.mesh mesh");
	assert_string_equal(find(names, "a.b.wild.mesh"), "ours HOST *.wild.mesh mesh");
	assert_string_equal(find(names, "*.wild.mesh"), "ours HOST *.wild.mesh mesh");
	assert_string_equal(find(names, "wild.mesh"), "empty mesh");
	assert_string_equal(find(names, "y.wild.mesh"), "empty mesh");
	assert_string_equal(find(names, "z.y.wild.mesh"), "missing mesh");
	assert_string_equal(find(names, "q.*.wild.mesh"), "missing mesh");
	assert_string_equal(find(names, "x.y.wild.mesh"), "ours HOST x.y.wild.mesh mesh");
	dns_names_unref(names);
}

static void test_outside_the_zone(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	assert_string_equal(find(names, "api.example.com"),
			    "ours HOST api.example.com api.example.com alone");
	assert_string_equal(find(names, "www.example.com"), "outside");
	assert_string_equal(find(names, "example.com"), "outside");
	assert_string_equal(find(names, "x.api.example.com"), "outside");
	assert_string_equal(find(names, "a.example.net"), "ours HOST *.example.net example.net alone");
	assert_string_equal(find(names, "plain.example.net"), "outside");
	assert_string_equal(find(names, "a.plain.example.net"), "outside");
	assert_string_equal(find(names, "_http._tcp.api.example.com"),
			    "ours SRV api.example.com api.example.com alone");
	assert_string_equal(find(names, "_tcp.api.example.com"), "outside");
	dns_names_unref(names);
}

static void test_services(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	assert_string_equal(find(names, "_http._tcp.reviews.mesh"), "ours SRV reviews.mesh mesh");
	assert_string_equal(find(names, "_tcp.reviews.mesh"), "empty mesh");
	assert_string_equal(find(names, "_ftp._tcp.reviews.mesh"), "missing mesh");
	dns_names_unref(names);
}

static void test_reverse(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	assert_string_equal(find(names, "7.3.240.240.in-addr.arpa"),
			    "ours PTR reviews.mesh 240.240.in-addr.arpa");
	assert_string_equal(find(names, "99.3.240.240.in-addr.arpa"), "missing 240.240.in-addr.arpa");
	assert_string_equal(find(names, "3.240.240.in-addr.arpa"), "empty 240.240.in-addr.arpa");
	assert_string_equal(find(names, "4.240.240.in-addr.arpa"), "missing 240.240.in-addr.arpa");
	assert_string_equal(find(names, "x.240.240.in-addr.arpa"), "missing 240.240.in-addr.arpa");
	assert_string_equal(find(names, "1.7.3.240.240.in-addr.arpa"), "missing 240.240.in-addr.arpa");
	assert_string_equal(find(names, "240.240.in-addr.arpa"), "empty 240.240.in-addr.arpa");
	assert_string_equal(find(names, "240.in-addr.arpa"), "outside");
	assert_string_equal(find(names, "in-addr.arpa"), "outside");
	assert_string_equal(find(names, "7.3.0240.240.in-addr.arpa"), "outside");
	assert_string_equal(find(names, "7.3.241.240.in-addr.arpa"), "outside");
	assert_string_equal(find(names, "1.2.0.192.in-addr.arpa"),
			    "outside"); // an address of ours, not our zone
	assert_string_equal(
	    find(names, "b.2.a.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.7.9.6.5.6.0.0.7.7.d.f.ip6.arpa"),
	    "ours PTR reviews.mesh 0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.7.9.6.5.6.0.0.7.7.d.f.ip6.arpa");
	assert_string_equal(find(names, "7.7.d.f.ip6.arpa"), "outside");
	dns_names_unref(names);
}

// A range that does not end between labels: each of the zones that it covers in part or whole is ours where
// it is.
static void test_reverse_inside_a_label(void **state)
{
	(void)state;
	struct dns_names *names = table("240.240.0.0/12");
	assert_string_equal(find(names, "7.3.240.240.in-addr.arpa"),
			    "ours PTR reviews.mesh 240.240.in-addr.arpa");
	assert_string_equal(find(names, "7.3.255.240.in-addr.arpa"), "missing 255.240.in-addr.arpa");
	assert_string_equal(find(names, "7.3.239.240.in-addr.arpa"), "outside");
	assert_string_equal(find(names, "240.in-addr.arpa"), "outside");
	dns_names_unref(names);
}

static void test_refused_names(void **state)
{
	(void)state;
	struct dns_names *names = default_table();
	char label[80];
	memset(label, 'a', 64);
	strcpy(label + 64, ".mesh");
	assert_int_equal(add(names, "", NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, ".", NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, "a..mesh", NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, "a b.mesh", NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, "a.*.mesh", NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, label, NULL, NULL), ERR_MALFORMED);
	assert_int_equal(add(names, label + 1, "1.2.3.4", NULL), 0);
	assert_int_equal(add(names, "Reviews.mesh", NULL, NULL), -EEXIST);
	dns_names_unref(names);
	assert_int_equal(dns_names_new(STR("a..b"), 10, NULL, 0, &names), ERR_MALFORMED);
}

static void test_no_zone(void **state)
{
	(void)state;
	struct dns_names *names;
	assert_int_equal(dns_names_new(STR(""), 0xffffffff, NULL, 0, &names), 0);
	assert_int_equal(dns_names_ttl(names), 0x7fffffff);
	assert_int_equal(add(names, "a.mesh", "10.0.0.1", NULL), 0);
	assert_string_equal(find(names, "a.mesh"), "ours HOST a.mesh a.mesh alone");
	assert_string_equal(find(names, "b.mesh"), "outside");
	dns_names_unref(names);
}

static void collect(const struct dns_entry *entry, void *arg)
{
	strncat(arg, entry->name.p, entry->name.len);
	strcat(arg, " ");
}

static void test_each_in_order(void **state)
{
	(void)state;
	struct dns_names *names = dns_names_ref(default_table());
	char all[512] = "";
	dns_names_unref(names);
	dns_names_each(names, collect, all);
	assert_string_equal(
	    all, "*.example.net *.wild.mesh a.b.c.mesh api.example.com outside.mesh plain.example.net "
		 "reviews.mesh x.y.wild.mesh ");
	dns_names_unref(names);
	dns_names_unref(NULL);
}

static void test_many(void **state)
{
	(void)state;
	struct dns_names *names;
	char text[32], expected[64];
	struct cidr cidr;
	assert_int_equal(cidr_parse(STR("10.0.0.0/8"), &cidr), 0);
	assert_int_equal(dns_names_new(STR("mesh"), 10, &cidr, 1, &names), 0);
	for (unsigned i = 0; i < 3000; i++) {
		char address[32];
		snprintf(text, sizeof text, "s%u.mesh", i);
		snprintf(address, sizeof address, "10.1.%u.%u", i / 256, i % 256);
		assert_int_equal(add(names, text, address, NULL), 0);
	}
	for (unsigned i = 0; i < 3000; i++) {
		snprintf(text, sizeof text, "%u.%u.1.10.in-addr.arpa", i % 256, i / 256);
		snprintf(expected, sizeof expected, "ours PTR s%u.mesh 10.in-addr.arpa", i);
		assert_string_equal(find(names, text), expected);
	}
	dns_names_unref(names);
}

static int scenario(void)
{
	struct dns_names *names = NULL;
	struct cidr cidr;
	char all[64] = "";
	assert_int_equal(cidr_parse(STR("10.0.0.0/8"), &cidr), 0);
	int err = dns_names_new(STR("mesh"), 10, &cidr, 1, &names);
	if (!err)
		err = add(names, "b.mesh", "10.1.2.3", NULL);
	if (!err)
		err = add(names, "a.mesh", "10.1.2.4", NULL);
	if (!err)
		dns_names_each(names, collect, all);
	dns_names_unref(names);
	return err;
}

static void test_allocation_failures(void **state)
{
	(void)state;
	for (long n = 0;; n++) {
		mem_fail_set(n);
		int err = scenario();
		bool failed = mem_fail_count() > n;
		mem_fail_set(-1);
		assert_true(err == 0 || err == -ENOMEM);
		if (!failed)
			return;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_zone),
	    cmocka_unit_test(test_wildcards),
	    cmocka_unit_test(test_outside_the_zone),
	    cmocka_unit_test(test_services),
	    cmocka_unit_test(test_reverse),
	    cmocka_unit_test(test_reverse_inside_a_label),
	    cmocka_unit_test(test_refused_names),
	    cmocka_unit_test(test_no_zone),
	    cmocka_unit_test(test_each_in_order),
	    cmocka_unit_test(test_many),
	    cmocka_unit_test(test_allocation_failures),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
