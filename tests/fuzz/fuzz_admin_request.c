// SPDX-License-Identifier: Apache-2.0
// The admin request: never past the end, and the same at every way of arriving; what is parsed can be written
// again.
#include "admin/protocol.h"
#include "base/error.h"
#include "base/mem.h"

#include <stdint.h>
#include <stdlib.h>

// assert would be compiled out of the release build, which replays the seeds, too.
#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			abort();                                                                             \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse(const uint8_t *data, size_t size, struct admin_request *ret_request, char **ret_copy)
{
	*ret_copy = mem_alloc(size ? size : 1);
	memcpy(*ret_copy, data, size);
	return admin_request_parse(*ret_copy, size, ret_request);
}

// Writes the request and parses that: the same words come out.
static void check_round_trip(const struct admin_request *request)
{
	autostrbuf struct strbuf text = {0}, object = {0}, verb = {0};
	struct admin_request again;
	strbuf_add_str(&object, request->object);
	strbuf_add_str(&verb, request->verb);
	admin_request_begin(&text, object.p, verb.p, request->format);
	for (size_t i = 0; i < request->param_count; i++) {
		autostrbuf struct strbuf name = {0};
		strbuf_add_str(&name, request->params[i].name);
		admin_request_add(&text, name.p, request->params[i].value);
	}
	admin_request_end(&text);
	int taken = admin_request_parse(text.p, text.len, &again);
	// Escapes may be longer than what was sent.
	if (taken == ERR_LIMIT)
		return;
	CHECK(taken > 0 && again.param_count == request->param_count);
	CHECK(str_eq(again.object, request->object) && str_eq(again.verb, request->verb));
	for (size_t i = 0; i < again.param_count; i++)
		CHECK(str_eq(again.params[i].value, request->params[i].value));
}

static void check_shorter(const uint8_t *data, size_t size, int whole)
{
	size_t needed = whole > 0 ? (size_t)whole : size;
	for (size_t len = 0; len < needed && len < 256; len++) {
		struct admin_request request;
		char *copy;
		int part = parse(data, len, &request, &copy);
		CHECK(part == ERR_NEED_MORE || part == whole);
		mem_free(copy);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct admin_request request;
	enum admin_status status;
	uint64_t length;
	char *copy;
	int taken = parse(data, size, &request, &copy);
	CHECK(taken <= (int)size);
	if (taken > 0)
		check_round_trip(&request);
	check_shorter(data, size, taken);
	mem_free(copy);
	admin_response_parse((struct str){(const char *)data, size}, &status, &length);
	return 0;
}
