// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "dns/text.h"

// A message that is one record of that data, behind a header and the name "a.example" at 12.
static void expect_data(uint16_t type, const void *data, uint16_t len, const char *text)
{
	uint8_t bytes[512];
	struct dns_record record = {0};
	autostrbuf struct strbuf out = {0};
	struct writer w;
	struct reader r;
	writer_init(&w, bytes, sizeof bytes);
	writer_reserve(&w, DNS_HEADER_BYTES);
	writer_bytes(&w, "\1a\7example", 11);
	writer_u16(&w, type);
	writer_u16(&w, DNS_CLASS_IN);
	writer_u32(&w, 60);
	writer_u16(&w, len);
	writer_bytes(&w, data, len);
	reader_init(&r, bytes, w.len);
	reader_skip(&r, DNS_HEADER_BYTES);
	dns_record_read(&r, &record);
	assert_int_equal(reader_finish(&r), 0);
	dns_data_format(bytes, w.len, &record, &out);
	assert_string_equal(out.p, text);
}

static void data(void **state)
{
	(void)state;
	expect_data(DNS_TYPE_A, "\xc0\0\2\1", 4, "192.0.2.1");
	expect_data(DNS_TYPE_AAAA, "\x20\1\xd\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16, "2001:db8::1");
	expect_data(DNS_TYPE_CNAME, "\3www\xc0\xc", 6, "www.a.example");
	expect_data(15, "\0\xa\4mail\xc0\xe", 9, "10 mail.example");
	expect_data(DNS_TYPE_SRV, "\0\1\0\2\0\x50\xc0\xc", 8, "1 2 80 a.example");
	expect_data(DNS_TYPE_SOA, "\0\xc0\xc\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0\5", 23,
		    ". a.example 1 2 3 4 5");
	expect_data(16,
		    "\2"
		    "ab\0\4\"\\\n\xff",
		    9, "\"ab\" \"\" \"\\\"\\\\\\010\\255\"");
	expect_data(65280, "\xa\xb", 2, "\\# 2 0a0b");
}

// By its bytes, whole and no farther.
static void malformed_data(void **state)
{
	(void)state;
	expect_data(DNS_TYPE_A, "\xc0\0\2", 3, "\\# 3 c00002");
	expect_data(DNS_TYPE_A, "\xc0\0\2\1\1", 5, "\\# 5 c000020101");
	expect_data(DNS_TYPE_A, "", 0, "\\# 0");
	expect_data(16,
		    "\5"
		    "ab",
		    3, "\\# 3 056162");
	expect_data(DNS_TYPE_CNAME, "\3www", 4, "\\# 4 03777777");
	expect_data(DNS_TYPE_CNAME, "\xc0\xff", 2, "\\# 2 c0ff");
}

static void words(void **state)
{
	static const struct {
		const char *text;
		uint16_t type;
	} rows[] = {{"A", 1}, {"aaaa", 28}, {"TYPE64", 64}, {"type65535", 65535}, {"99", 99}, {"Https", 65}};
	char text[DNS_WORD_MAX];
	uint16_t type;
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(dns_type_from_text(str_from(rows[i].text), &type), 0);
		assert_int_equal(type, rows[i].type);
	}
	static const char *const wrong[] = {"", "AA", "TYPE", "TYPE65536", "0", "-1", "TYPE1x"};
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(dns_type_from_text(str_from(wrong[i]), &type), ERR_MALFORMED);
	assert_string_equal(dns_type_format(DNS_TYPE_HTTPS, text), "HTTPS");
	assert_string_equal(dns_type_format(65535, text), "TYPE65535");
	assert_string_equal(dns_rcode_format(DNS_NXDOMAIN, text), "NXDOMAIN");
	assert_string_equal(dns_rcode_format(12, text), "RCODE12");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(data),
	    cmocka_unit_test(malformed_data),
	    cmocka_unit_test(words),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
