// SPDX-License-Identifier: Apache-2.0
// Shared by the tests of HTTP/1: every head is parsed whole and as each of its prefixes, from memory of
// exactly that size, so that AddressSanitizer sees a byte read too far.
#pragma once

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

struct parsed {
	int result;
	enum http1_fault fault;
	struct http1_head head;
	struct field fields[LIMIT_HTTP_HEADERS];
};

// What is parsed: a request, or the response to a request of `method`.
struct parse_as {
	bool response;
	struct str method;
	size_t limit;
	uint16_t max_fields;
};

static const struct parse_as AS_REQUEST = {.limit = LIMIT_HTTP_HEAD, .max_fields = LIMIT_HTTP_HEADERS};

static void parse_once(const struct parse_as *as, struct str bytes, struct parsed *ret)
{
	*ret = (struct parsed){.head.head.fields = ret->fields};
	if (as->response)
		ret->result = http1_response_parse(bytes, as->limit, as->max_fields, as->method, &ret->head,
						   &ret->fault);
	else
		ret->result = http1_request_parse(bytes, as->limit, as->max_fields, &ret->head, &ret->fault);
}

static bool same_shape(const struct http1_head *a, const struct http1_head *b)
{
	if (!str_eq(a->head.method, b->head.method) || !str_eq(a->head.path, b->head.path) ||
	    !str_eq(a->head.authority, b->head.authority) || !str_eq(a->raw, b->raw) ||
	    a->head.field_count != b->head.field_count || a->head.status != b->head.status ||
	    a->flags != b->flags || a->framing != b->framing || a->length != b->length ||
	    a->persistent != b->persistent)
		return false;
	for (unsigned i = 0; i < a->head.field_count; i++)
		if (!str_eq(a->head.fields[i].name, b->head.fields[i].name) ||
		    !str_eq(a->head.fields[i].value, b->head.fields[i].value))
			return false;
	return true;
}

static void check_prefix(const struct parse_as *as, struct str whole, size_t len,
			 const struct parsed *expected)
{
	static struct parsed got;
	char *copy = malloc(len ? len : 1);
	memcpy(copy, whole.p, len);
	parse_once(as, (struct str){copy, len}, &got);
	if (expected->result > 0 && len < (size_t)expected->result)
		assert_int_equal(got.result, ERR_NEED_MORE);
	else if (expected->result == ERR_NEED_MORE)
		assert_int_equal(got.result, ERR_NEED_MORE);
	else if (expected->result > 0 || got.result != ERR_NEED_MORE) {
		assert_int_equal(got.result, expected->result);
		assert_int_equal(got.fault, expected->fault);
		assert_true(got.result < 0 || same_shape(&got.head, &expected->head));
	}
	free(copy);
}

static struct parsed *parse_every_way(const struct parse_as *as, struct str bytes)
{
	static struct parsed parsed;
	parse_once(as, bytes, &parsed);
	for (size_t len = 0; len <= bytes.len; len++)
		check_prefix(as, bytes, len, &parsed);
	return &parsed;
}

// A text may hold NUL: use STR.
static inline const struct http1_head *request_ok(struct str text)
{
	struct parsed *parsed = parse_every_way(&AS_REQUEST, text);
	if (parsed->result != (int)text.len)
		print_error("result %d fault %d for %.*s\n", parsed->result, parsed->fault, STR_ARG(text));
	assert_int_equal(parsed->result, text.len);
	return &parsed->head;
}

static inline void request_refused(struct str text, enum http1_fault fault)
{
	struct parsed *parsed = parse_every_way(&AS_REQUEST, text);
	if (parsed->result != ERR_MALFORMED || parsed->fault != fault)
		print_error("result %d fault %d for %.*s\n", parsed->result, parsed->fault, STR_ARG(text));
	assert_int_equal(parsed->result, ERR_MALFORMED);
	assert_int_equal(parsed->fault, fault);
}

static inline const struct http1_head *response_ok(struct str text, const char *method)
{
	struct parse_as as = {true, str_from(method), LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS};
	struct parsed *parsed = parse_every_way(&as, text);
	assert_int_equal(parsed->result, text.len);
	return &parsed->head;
}

static inline void response_refused(struct str text, enum http1_fault fault)
{
	struct parse_as as = {true, STR("GET"), LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS};
	struct parsed *parsed = parse_every_way(&as, text);
	assert_int_equal(parsed->result, ERR_MALFORMED);
	assert_int_equal(parsed->fault, fault);
}

#define assert_str(actual, expected)                                                                         \
	do {                                                                                                 \
		struct str _a = (actual), _e = STR(expected);                                                \
		if (!str_eq(_a, _e))                                                                         \
			print_error("got \"%.*s\", expected \"%s\"\n", STR_ARG(_a), expected);               \
		assert_true(str_eq(_a, _e));                                                                 \
	} while (0)
