// SPDX-License-Identifier: Apache-2.0
// What the fuzz targets of both kinds of heads check: the same answer at every way of arriving, views inside
// the input, and a head that is parsed, passed on and parsed again says the same.
#pragma once

#include "check.h"

#include "base/buf.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1.h"
#include "exchange/http1_message.h"

struct parsed {
	int result;
	enum http1_fault fault;
	struct http1_head head;
	struct field fields[LIMIT_HTTP_HEADERS];
	char *bytes; // the views lie here
};

// Parses a copy; free parsed.bytes.
typedef void (*parse_fn)(struct str bytes, struct parsed *ret_parsed);

static inline void parse_copy(parse_fn parse, struct str bytes, struct parsed *ret)
{
	memset(&ret->head, 0, sizeof ret->head);
	ret->head.head.fields = ret->fields;
	ret->fault = HTTP1_OK;
	ret->bytes = exact_copy(bytes.p, bytes.len);
	parse((struct str){ret->bytes, bytes.len}, ret);
}

static inline bool lies_in(struct str part, struct str whole)
{
	return part.len == 0 || (part.p >= whole.p && part.p + part.len <= whole.p + whole.len);
}

static inline void check_views(const struct parsed *parsed, size_t size)
{
	const struct http1_head *h = &parsed->head;
	struct str whole = {parsed->bytes, size};
	CHECK((size_t)parsed->result <= size && lies_in(h->raw, whole) && lies_in(h->target, whole));
	CHECK(h->head.field_count <= LIMIT_HTTP_HEADERS);
	for (unsigned i = 0; i < h->head.field_count; i++) {
		CHECK(h->head.fields[i].name.len && lies_in(h->head.fields[i].name, h->raw));
		CHECK(lies_in(h->head.fields[i].value, h->raw));
		bool hop = http1_field_is_hop(h, &h->head.fields[i]);
		CHECK(!hop || (h->flags & (HTTP1_HAS_HOP_FIELDS | HTTP1_HAS_CONNECTION)));
	}
}

// The prefixes of a head: more is wanted, until the byte that decides.
static inline void check_prefixes(parse_fn parse, struct str bytes, const struct parsed *whole)
{
	static struct parsed part;
	size_t step = bytes.len < 512 ? 1 : bytes.len / 256;
	for (size_t len = 0; len < bytes.len; len += step) {
		parse_copy(parse, (struct str){bytes.p, len}, &part);
		if (whole->result > 0 && len < (size_t)whole->result)
			CHECK(part.result == ERR_NEED_MORE);
		else if (part.result != ERR_NEED_MORE)
			CHECK(part.result == whole->result && part.fault == whole->fault);
		else
			CHECK(whole->result < 0);
		free(part.bytes);
	}
}

static inline bool keeps_upgrade(unsigned status)
{
	return status == 0 || status == 101 || status == 426;
}

// Puts the head into a chunk of its own, forwards it, and parses what came out.
typedef int (*forward_fn)(struct bufq *out, const struct http1_head *head, struct slice raw);

static inline void check_forwarded(parse_fn parse, forward_fn forward, struct str bytes)
{
	static struct parsed parsed, again;
	struct bufq out = {0};
	struct slice flat;
	struct chunk *chunk = chunk_new(bytes.len);
	CHECK(chunk);
	memcpy(chunk->data, bytes.p, bytes.len);
	chunk->used = (uint32_t)bytes.len;
	memset(&parsed, 0, sizeof parsed);
	parsed.head.head.fields = parsed.fields;
	parse((struct str){(const char *)chunk->data, bytes.len}, &parsed);
	CHECK(forward(&out, &parsed.head, (struct slice){chunk, chunk->data, bytes.len}) == 0);
	CHECK(bufq_flatten(&out, &flat) == 0);
	parse_copy(parse, (struct str){(const char *)flat.p, flat.len}, &again);
	const struct http1_head *a = &parsed.head, *b = &again.head;
	// A Host that was put in may be one byte more than the limit allows, nothing else.
	if (again.result < 0)
		CHECK(again.fault == HTTP1_FAULT_HEAD_LARGE);
	else
		CHECK((size_t)again.result == flat.len && a->framing == b->framing &&
		      a->length == b->length && str_eq(a->head.method, b->head.method) &&
		      str_eq(a->head.path, b->head.path) && str_eq(a->head.authority, b->head.authority) &&
		      a->head.status == b->head.status &&
		      str_eq_nocase(keeps_upgrade(a->head.status) ? a->upgrade : STR(""), b->upgrade));
	free(again.bytes);
	bufq_clear(&out);
	chunk_unref(chunk);
}

static inline void check_head(parse_fn parse, forward_fn forward, const uint8_t *data, size_t size)
{
	static struct parsed parsed;
	struct str bytes = {(const char *)data, size};
	parse_copy(parse, bytes, &parsed);
	if (parsed.result > 0)
		check_views(&parsed, size);
	else
		CHECK(parsed.result == ERR_NEED_MORE || (parsed.result == ERR_MALFORMED && parsed.fault));
	check_prefixes(parse, bytes, &parsed);
	if (parsed.result > 0)
		check_forwarded(parse, forward, (struct str){(const char *)data, (size_t)parsed.result});
	free(parsed.bytes);
}
