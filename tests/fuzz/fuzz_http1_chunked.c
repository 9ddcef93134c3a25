// SPDX-License-Identifier: Apache-2.0
// Any bytes as a body. The first two bytes choose the framing and a cut; decoding and walking, whole, in two
// pieces and byte by byte agree on where it ends, on the payload, on the trailers and on the fault.
#include "check.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http1.h"

struct walked {
	size_t used, payload_len;
	uint64_t payload_hash, trailer_hash;
	bool done;
	enum http1_fault fault;
};

static void mix(uint64_t *hash, struct str bytes)
{
	for (size_t i = 0; i < bytes.len; i++)
		*hash = (*hash ^ (uint8_t)bytes.p[i]) * 0x100000001b3ULL;
}

static void decode(struct http1_body *body, struct str piece, struct walked *to)
{
	for (size_t at = 0; at < piece.len && !to->done && !to->fault;) {
		struct str rest = {piece.p + at, piece.len - at}, payload, trailer;
		ptrdiff_t n = http1_body_decode(body, rest, &payload, &trailer, &to->done, &to->fault);
		if (n <= 0)
			break;
		CHECK((size_t)n <= rest.len && payload.len <= (size_t)n && trailer.len <= (size_t)n);
		mix(&to->payload_hash, payload);
		mix(&to->trailer_hash, trailer);
		to->payload_len += payload.len;
		to->used += (size_t)n;
		at += (size_t)n;
	}
}

static void walk(struct http1_body *body, struct str piece, struct walked *to)
{
	ptrdiff_t n = http1_body_walk(body, piece, &to->done, &to->fault);
	CHECK(n == ERR_MALFORMED ? to->fault : n >= 0 && (size_t)n <= piece.len);
	to->used += n > 0 ? (size_t)n : 0;
}

typedef void (*piece_fn)(struct http1_body *body, struct str piece, struct walked *to);

static struct walked in_pieces(const struct http1_head *head, struct str bytes, size_t first, size_t step,
			       piece_fn fn)
{
	struct walked to = {0};
	struct http1_body body;
	http1_body_init(&body, head);
	to.done = http1_body_done(&body);
	for (size_t at = 0, len = first; at < bytes.len && !to.done && !to.fault; at += len, len = step) {
		len = MIN(len, bytes.len - at);
		char *copy = exact_copy(bytes.p + at, len);
		fn(&body, (struct str){copy, len}, &to);
		free(copy);
	}
	return to;
}

static void check_same(struct walked got, struct walked whole, bool decoded)
{
	CHECK(got.fault == whole.fault && got.done == whole.done);
	CHECK(got.fault || got.used == whole.used);
	CHECK(got.fault || !decoded ||
	      (got.payload_len == whole.payload_len && got.payload_hash == whole.payload_hash &&
	       got.trailer_hash == whole.trailer_hash));
}

// What was collected of the trailers parses as such, or is refused for its size.
static void check_trailers(struct str body)
{
	static struct field fields[LIMIT_HTTP_HEADERS];
	enum http1_fault fault;
	int count = http1_trailers_parse(body, LIMIT_HTTP_HEADERS, fields, &fault);
	CHECK(count >= 0 || count == ERR_NEED_MORE || (count == ERR_MALFORMED && fault));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	struct http1_head head = {.framing = data[0] % 5, .length = data[0]};
	struct str bytes = {(const char *)data + 2, size - 2};
	size_t cut = data[1] % (bytes.len + 1);
	struct walked whole = in_pieces(&head, bytes, bytes.len, bytes.len, decode);
	check_same(in_pieces(&head, bytes, bytes.len, bytes.len, walk), whole, false);
	check_same(in_pieces(&head, bytes, cut ? cut : 1, bytes.len, decode), whole, true);
	check_same(in_pieces(&head, bytes, cut ? cut : 1, bytes.len, walk), whole, false);
	check_same(in_pieces(&head, bytes, 1, 1, decode), whole, true);
	check_same(in_pieces(&head, bytes, 1, 1, walk), whole, false);
	check_trailers(bytes);
	return 0;
}
