// SPDX-License-Identifier: Apache-2.0
// The record layer against the traces of RFC 8448, section 3.
#include "net/tls_record.h"

#include "base/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

static const uint8_t client_secret[] = {0x9e, 0x40, 0x64, 0x6c, 0xe7, 0x9a, 0x7f, 0x9d, 0xc0, 0x5a, 0xf8,
					0x88, 0x9b, 0xce, 0x65, 0x52, 0x87, 0x5a, 0xfa, 0x0b, 0x06, 0xdf,
					0x00, 0x87, 0xf7, 0x92, 0xeb, 0xb7, 0xc1, 0x75, 0x04, 0xa5};
static const uint8_t client_iv[] = {0x5b, 0x78, 0x92, 0x3d, 0xee, 0x08, 0x57, 0x90, 0x33, 0xe5, 0x23, 0xd9};
// The client's first record: the bytes 0 to 49.
static const uint8_t client_record[] = {
    0x17, 0x03, 0x03, 0x00, 0x43, 0xa2, 0x3f, 0x70, 0x54, 0xb6, 0x2c, 0x94, 0xd0, 0xaf, 0xfa,
    0xfe, 0x82, 0x28, 0xba, 0x55, 0xcb, 0xef, 0xac, 0xea, 0x42, 0xf9, 0x14, 0xaa, 0x66, 0xbc,
    0xab, 0x3f, 0x2b, 0x98, 0x19, 0xa8, 0xa5, 0xb4, 0x6b, 0x39, 0x5b, 0xd5, 0x4a, 0x9a, 0x20,
    0x44, 0x1e, 0x2b, 0x62, 0x97, 0x4e, 0x1f, 0x5a, 0x62, 0x92, 0xa2, 0x97, 0x70, 0x14, 0xbd,
    0x1e, 0x3d, 0xea, 0xe6, 0x3a, 0xee, 0xbb, 0x21, 0x69, 0x49, 0x15, 0xe4};

static void payload(uint8_t bytes[50])
{
	for (uint8_t i = 0; i < 50; i++)
		bytes[i] = i;
}

static void seals_as_in_the_rfc(void **state)
{
	(void)state;
	uint8_t plain[50], record[50 + TLS_RECORD_OVERHEAD];
	payload(plain);
	for (size_t cut = 0; cut <= 50; cut++) {
		struct tls_direction direction;
		struct iovec pieces[] = {{plain, cut}, {plain + cut, 50 - cut}};
		assert_int_equal(tls_direction_init(&direction, 0x1301, client_secret, 0, true), 0);
		assert_memory_equal(direction.iv, client_iv, sizeof client_iv);
		assert_int_equal(tls_record_seal(&direction, TLS_RECORD_DATA, pieces, 2, 50, record), 0);
		assert_memory_equal(record, client_record, sizeof client_record);
		assert_int_equal(direction.sequence, 1);
		tls_direction_done(&direction);
	}
}

static void seals_in_place(void **state)
{
	(void)state;
	uint8_t record[50 + TLS_RECORD_OVERHEAD];
	struct tls_direction direction;
	struct iovec piece = {record + TLS_RECORD_HEADER, 50};
	payload(record + TLS_RECORD_HEADER);
	assert_int_equal(tls_direction_init(&direction, 0x1301, client_secret, 0, true), 0);
	assert_int_equal(tls_record_seal(&direction, TLS_RECORD_DATA, &piece, 1, 50, record), 0);
	assert_memory_equal(record, client_record, sizeof client_record);
	tls_direction_done(&direction);
}

static int open_in_pieces(const uint8_t *record, size_t len, size_t cut, uint8_t *plain, size_t *ret_len,
			  uint8_t *ret_type)
{
	struct tls_direction direction;
	size_t body = len - TLS_RECORD_HEADER;
	const uint8_t *at = record + TLS_RECORD_HEADER;
	struct iovec pieces[] = {{(void *)at, cut}, {(void *)(at + cut), body - cut}};
	assert_int_equal(tls_direction_init(&direction, 0x1301, client_secret, 0, false), 0);
	int err = tls_record_open(&direction, record, pieces, 2, body, plain, ret_len, ret_type);
	tls_direction_done(&direction);
	return err;
}

static void opens_in_any_pieces(void **state)
{
	(void)state;
	uint8_t plain[51], expected[50], type;
	size_t len;
	payload(expected);
	for (size_t cut = 0; cut <= sizeof client_record - TLS_RECORD_HEADER; cut++) {
		assert_int_equal(open_in_pieces(client_record, sizeof client_record, cut, plain, &len, &type),
				 0);
		assert_int_equal(len, 50);
		assert_int_equal(type, TLS_RECORD_DATA);
		assert_memory_equal(plain, expected, 50);
	}
}

static void refuses_each_changed_bit(void **state)
{
	(void)state;
	uint8_t record[sizeof client_record], plain[51], type;
	size_t len;
	for (size_t bit = 0; bit < 8 * sizeof record; bit++) {
		memcpy(record, client_record, sizeof record);
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_equal(open_in_pieces(record, sizeof record, 20, plain, &len, &type), ERR_TLS);
	}
}

// Padding counts: the content, its type and the zeros behind it are 2^14 + 1 bytes at most.
static void limits_padded_records(void **state)
{
	(void)state;
	static uint8_t inner[TLS_RECORD_PLAIN + 1], record[sizeof inner + TLS_RECORD_OVERHEAD],
	    plain[sizeof inner + 1];
	struct tls_direction from, to;
	uint8_t type;
	size_t got;
	inner[0] = 'x';
	inner[1] = TLS_RECORD_DATA; // then zeros, of which sealing adds one more in place of the type
	for (size_t len = TLS_RECORD_PLAIN; len <= TLS_RECORD_PLAIN + 1; len++) {
		struct iovec piece = {inner, len},
			     body = {record + TLS_RECORD_HEADER, len + 1 + TLS_RECORD_TAG};
		assert_int_equal(tls_direction_init(&from, 0x1301, client_secret, 0, true), 0);
		assert_int_equal(tls_direction_init(&to, 0x1301, client_secret, 0, false), 0);
		assert_int_equal(tls_record_seal(&from, 0, &piece, 1, len, record), 0);
		int err = tls_record_open(&to, record, &body, 1, body.iov_len, plain, &got, &type);
		assert_int_equal(err, len > TLS_RECORD_PLAIN ? ERR_LIMIT : 0);
		if (err == 0)
			assert_true(got == 1 && plain[0] == 'x' && type == TLS_RECORD_DATA);
		tls_direction_done(&from);
		tls_direction_done(&to);
	}
}

static void updates_keys_on_both_sides(void **state)
{
	(void)state;
	static const uint16_t suites[] = {0x1301, 0x1302, 0x1303};
	static const uint8_t secret[TLS_SECRET_MAX] = {1, 2, 3};
	for (size_t i = 0; i < 3; i++) {
		struct tls_direction from, to;
		uint8_t record[64], plain[64], type;
		size_t len;
		assert_int_equal(tls_direction_init(&from, suites[i], secret, 7, true), 0);
		assert_int_equal(tls_direction_init(&to, suites[i], secret, 7, false), 0);
		for (int round = 0; round < 3; round++) {
			struct iovec piece = {(void *)"round", 5}, body = {record + TLS_RECORD_HEADER, 22};
			assert_int_equal(tls_record_seal(&from, TLS_RECORD_DATA, &piece, 1, 5, record), 0);
			assert_int_equal(tls_record_open(&to, record, &body, 1, 22, plain, &len, &type), 0);
			assert_memory_equal(plain, "round", 5);
			assert_int_equal(tls_direction_update(&from), 0);
			assert_int_equal(tls_direction_update(&to), 0);
			assert_int_equal(from.sequence, 0);
		}
		tls_direction_done(&from);
		tls_direction_done(&to);
	}
}

static void knows_its_suites(void **state)
{
	(void)state;
	struct tls_direction direction;
	assert_int_equal(tls_direction_init(&direction, 0x1304, client_secret, 0, true), ERR_UNSUPPORTED);
	assert_int_equal(tls_direction_init(&direction, 0xc02b, client_secret, 0, true), ERR_UNSUPPORTED);
	memset(&direction, 0, sizeof direction);
	tls_direction_done(&direction);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(seals_as_in_the_rfc),   cmocka_unit_test(seals_in_place),
	    cmocka_unit_test(opens_in_any_pieces),   cmocka_unit_test(refuses_each_changed_bit),
	    cmocka_unit_test(limits_padded_records), cmocka_unit_test(updates_keys_on_both_sides),
	    cmocka_unit_test(knows_its_suites),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
