// SPDX-License-Identifier: Apache-2.0
// From the bytes of a query to the bytes of an answer.
#include "upstream.h"

#include "base/error.h"
#include "dns/answer.h"
#include "dns/names.h"

static struct dns_names *names;
static struct message query, answer;

static int setup(void **state)
{
	static const struct cidr ranges[] = {{{AF_INET, {240, 240}}, 16}, {{AF_INET6, {0xfd, 0x77}}, 112}};
	struct dns_port ports[60];
	struct dns_entry web = {.name = STR("web.mesh"),
				.v4 = {AF_INET, {240, 240, 3, 7}},
				.v6 = {AF_INET6, {0xfd, 0x77, [15] = 9}},
				.ports = ports,
				.port_count = ARRAY_SIZE(ports)};
	struct dns_entry outside = {.name = STR("api.example.com"), .v4 = {AF_INET, {240, 240, 3, 8}}};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
		ports[i] = (struct dns_port){(uint16_t)(80 + i), STR("_http"), STR("_tcp")};
	return dns_names_new(STR("mesh"), 10, ranges, 2, &names) || dns_names_add(names, &web) ||
	       dns_names_add(names, &outside);
}

static int teardown(void **state)
{
	(void)state;
	dns_names_unref(names);
	return 0;
}

static enum dns_verdict resolve(bool tcp)
{
	struct dns_query parsed;
	memset(answer.bytes, 0xee, sizeof answer.bytes);
	answer.len = 0;
	return dns_answer(names, query.bytes, query.len, tcp, &parsed, answer.bytes, &answer.len);
}

static unsigned u16_at(size_t at)
{
	assert_in_range(at + 2, 2, answer.len);
	return (unsigned)answer.bytes[at] << 8 | answer.bytes[at + 1];
}

static void ask(const char *name, uint16_t type, uint16_t edns, bool tcp)
{
	make_query(&query, 0x4321, name, type, edns);
	assert_int_equal(resolve(tcp), DNS_VERDICT_ANSWER);
	assert_int_equal(u16_at(0), 0x4321);
}

// The counts of the answer, authority and additional sections, and the code.
static void expect(unsigned rcode, unsigned answers, unsigned authority, unsigned additional)
{
	assert_int_equal(u16_at(2) & DNS_RCODE_MASK, rcode);
	assert_int_equal(u16_at(6), answers);
	assert_int_equal(u16_at(8), authority);
	assert_int_equal(u16_at(10), additional);
}

static void addresses(void **state)
{
	static const uint8_t exact[] =
	    "\x43\x21\x85\x80\0\1\0\1\0\0\0\0\3WeB\4mesh\0\0\1\0\1\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4\xf0\xf0\3\7";
	(void)state;
	ask("WeB.mesh", DNS_TYPE_A, 0, false);
	assert_int_equal(answer.len, sizeof exact - 1);
	assert_memory_equal(answer.bytes, exact, answer.len);
	ask("web.mesh", DNS_TYPE_AAAA, 1232, true);
	expect(DNS_NOERROR, 1, 0, 1);
	ask("web.mesh", DNS_TYPE_HTTPS, 0, false);
	expect(DNS_NOERROR, 0, 1, 0);
	ask("api.example.com", DNS_TYPE_AAAA, 0, false); // one family only: no data, and not upstream's
	expect(DNS_NOERROR, 0, 1, 0);
	ask("no.mesh", DNS_TYPE_A, 0, false);
	expect(DNS_NXDOMAIN, 0, 1, 0);
	ask("mesh", DNS_TYPE_SOA, 0, false);
	expect(DNS_NOERROR, 1, 0, 0);
}

static void loopback_and_special_names(void **state)
{
	static const char six[] = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa";
	static const char *const pointers[] = {"1.0.0.127.in-addr.arpa", six};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(pointers); i++) {
		ask(pointers[i], DNS_TYPE_PTR, 0, false);
		expect(DNS_NOERROR, 1, 0, 0);
		assert_memory_equal(answer.bytes + answer.len - 11, "\11localhost", 11);
	}
	ask("2.0.0.127.in-addr.arpa", DNS_TYPE_PTR, 0, false);
	expect(DNS_NXDOMAIN, 0, 1, 0);
	ask("0.127.in-addr.arpa", DNS_TYPE_PTR, 0, false);
	expect(DNS_NOERROR, 0, 1, 0);
	ask("x.localhost", DNS_TYPE_A, 0, false);
	expect(DNS_NOERROR, 1, 0, 0);
	ask("x.invalid", DNS_TYPE_A, 0, false);
	expect(DNS_NXDOMAIN, 0, 1, 0);
	ask("7.3.240.240.in-addr.arpa", DNS_TYPE_PTR, 0, false);
	expect(DNS_NOERROR, 1, 0, 0);
}

// 60 SRV records are longer than 512 and than 1,232 bytes, and whole over TCP.
static void truncation(void **state)
{
	(void)state;
	ask("_http._tcp.web.mesh", DNS_TYPE_SRV, 0, false);
	assert_true(u16_at(2) & DNS_FLAG_TC);
	assert_in_range(answer.len, 300, 512);
	ask("_http._tcp.web.mesh", DNS_TYPE_SRV, 700, false);
	assert_true(u16_at(2) & DNS_FLAG_TC);
	assert_in_range(answer.len, 513, 700);
	ask("_http._tcp.web.mesh", DNS_TYPE_SRV, 65535, false);
	assert_true(u16_at(2) & DNS_FLAG_TC);
	assert_in_range(answer.len, 701, 1232);
	ask("_http._tcp.web.mesh", DNS_TYPE_SRV, 0, true);
	assert_false(u16_at(2) & DNS_FLAG_TC);
	expect(DNS_NOERROR, 60, 0, 2);
}

// --- what is wrong ------------------------------------------------------------------------------------------
static void set_u16(size_t at, uint16_t value)
{
	query.bytes[at] = (uint8_t)(value >> 8);
	query.bytes[at + 1] = (uint8_t)value;
}

static void expect_rcode(unsigned rcode)
{
	assert_int_equal(resolve(false), DNS_VERDICT_ANSWER);
	assert_int_equal(u16_at(2) & DNS_RCODE_MASK, rcode);
	assert_in_range(answer.len, DNS_HEADER_BYTES, DNS_UDP_PLAIN);
}

static void opcodes_and_classes(void **state)
{
	(void)state;
	for (unsigned opcode = 1; opcode < 16; opcode++) { // NOTIFY is 4, UPDATE 5
		make_query(&query, 1, "web.mesh", DNS_TYPE_A, 0);
		set_u16(2, (uint16_t)(opcode << 11));
		expect_rcode(DNS_NOTIMP);
		assert_int_equal(u16_at(2) & DNS_OPCODE_MASK, opcode << 11);
	}
	make_query(&query, 1, "version.bind", 16, 0);
	set_u16(query.len - 2, 3); // CH
	expect_rcode(DNS_REFUSED);
	static const uint16_t transfers[] = {DNS_TYPE_AXFR, DNS_TYPE_IXFR};
	for (size_t i = 0; i < ARRAY_SIZE(transfers); i++) {
		make_query(&query, 1, "mesh", transfers[i], 0);
		expect_rcode(DNS_REFUSED);
	}
}

static void edns_versions(void **state)
{
	(void)state;
	make_query(&query, 1, "web.mesh", DNS_TYPE_A, 1232);
	query.bytes[query.len - 5] = 1;
	expect_rcode(0); // the upper bits are in OPT
	assert_int_equal(u16_at(6), 0);
	assert_int_equal(answer.bytes[answer.len - 6], DNS_BADVERS >> 4);
	assert_int_equal(answer.bytes[answer.len - 5], 0);
}

static void queries_that_are_wrong(void **state)
{
	(void)state;
	for (uint16_t count = 0; count < 4; count++) {
		make_query(&query, 1, "web.mesh", DNS_TYPE_A, 0);
		set_u16(4, count);
		if (count != 1)
			expect_rcode(DNS_FORMERR);
	}
	make_query(&query, 1, "web.mesh", DNS_TYPE_A, 0);
	query.len++; // something behind it
	expect_rcode(DNS_FORMERR);
	make_query(&query, 1, "", DNS_TYPE_A, 0);
	static const uint8_t targets[] = {12, 13, 0, 11, 255}; // itself, forward, into the header
	for (size_t i = 0; i < sizeof targets; i++) {
		set_u16(12, (uint16_t)(0xc000 | targets[i]));
		query.len = 18;
		expect_rcode(DNS_FORMERR);
	}
}

// However much of a query is cut off: dropped without a whole header, FORMERR otherwise.
static void every_length(void **state)
{
	(void)state;
	make_query(&query, 1, "web.mesh", DNS_TYPE_A, 1232);
	for (size_t len = query.len; len-- > 0;) {
		query.len = len;
		if (len >= DNS_HEADER_BYTES)
			expect_rcode(DNS_FORMERR);
		else
			assert_int_equal(resolve(false), DNS_VERDICT_DROP);
	}
	make_query(&query, 1, "web.mesh", DNS_TYPE_A, 0);
	query.bytes[2] |= 0x80; // an answer
	assert_int_equal(resolve(false), DNS_VERDICT_DROP);
}

static void before_there_are_names(void **state)
{
	struct dns_names *kept = names;
	(void)state;
	names = NULL;
	make_query(&query, 1, "web.mesh", DNS_TYPE_A, 0);
	assert_int_equal(resolve(false), DNS_VERDICT_FORWARD);
	names = kept;
	make_query(&query, 1, "www.example.com", DNS_TYPE_A, 0);
	assert_int_equal(resolve(false), DNS_VERDICT_FORWARD);
	make_query(&query, 1, "api.example.com", 15, 0); // MX: upstream's
	assert_int_equal(resolve(false), DNS_VERDICT_FORWARD);
}

static void names_that_are_too_long(void **state)
{
	struct dns_name name;
	char text[300];
	(void)state;
	memset(text, 'a', sizeof text);
	for (size_t i = 63; i < sizeof text; i += 64)
		text[i] = '.';
	assert_int_equal(dns_name_from_text((struct str){text, 253}, &name), 0);
	assert_int_equal(name.len, 255);
	assert_int_equal(dns_name_from_text((struct str){text, 254}, &name), ERR_MALFORMED);
	text[63] = 'a';
	assert_int_equal(dns_name_from_text((struct str){text, 64}, &name), ERR_MALFORMED);
	assert_int_equal(dns_name_from_text(STR("a..b"), &name), ERR_MALFORMED);
}

// A query with an option of that code, and of that many bytes.
static void make_option_query(uint16_t code, uint16_t len)
{
	struct writer w;
	make_query(&query, 0x4321, "web.mesh", DNS_TYPE_A, 1232);
	writer_init(&w, query.bytes, sizeof query.bytes);
	writer_reserve(&w, query.len);
	writer_patch_u16(&w, query.len - 2, (uint16_t)(4 + len));
	writer_u16(&w, code);
	writer_u16(&w, len);
	writer_reserve(&w, len);
	query.len = w.len;
}

static void who_answers(void **state)
{
	struct dns_query parsed;
	(void)state;
	make_option_query(3, 0);
	assert_int_equal(dns_query_parse(query.bytes, query.len, &parsed), 0);
	assert_int_equal(parsed.rcode, DNS_NOERROR);
	assert_true(parsed.nsid);
	make_option_query(10, 8); // a cookie
	assert_int_equal(dns_query_parse(query.bytes, query.len, &parsed), 0);
	assert_false(parsed.nsid);
	assert_int_equal(resolve(false), DNS_VERDICT_ANSWER);
	assert_null(dns_nsid_find(answer.bytes, answer.len).p);

	size_t len = answer.len;
	assert_int_equal(dns_nsid_add(answer.bytes, len, len + 7, STR("weir")), len); // no room
	answer.len = dns_nsid_add(answer.bytes, len, len + 8, STR("weir"));
	assert_int_equal(answer.len, len + 8);
	assert_true(str_eq(dns_nsid_find(answer.bytes, answer.len), STR("weir")));
	expect(DNS_NOERROR, 1, 0, 1);
	ask("web.mesh", DNS_TYPE_A, 0, false); // without OPT
	assert_int_equal(dns_nsid_add(answer.bytes, answer.len, 512, STR("weir")), answer.len);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses),
	    cmocka_unit_test(loopback_and_special_names),
	    cmocka_unit_test(truncation),
	    cmocka_unit_test(opcodes_and_classes),
	    cmocka_unit_test(edns_versions),
	    cmocka_unit_test(queries_that_are_wrong),
	    cmocka_unit_test(every_length),
	    cmocka_unit_test(before_there_are_names),
	    cmocka_unit_test(names_that_are_too_long),
	    cmocka_unit_test(who_answers),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
