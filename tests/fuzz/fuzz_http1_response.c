// SPDX-License-Identifier: Apache-2.0
// Any bytes as a response head; the first one chooses the method it answers and what the client is told. See
// http1_head.h.
#include "http1_head.h"

static struct str method;
static enum http1_connection tell;

static void parse(struct str bytes, struct parsed *ret)
{
	ret->result =
	    http1_response_parse(bytes, LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS, method, &ret->head, &ret->fault);
}

static int forward(struct bufq *out, const struct http1_head *head, struct slice raw)
{
	return http1_forward_response(out, head, raw, tell, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct str METHODS[] = {STR("GET"), STR("HEAD"), STR("CONNECT"), STR("POST")};
	if (size == 0)
		return 0;
	method = METHODS[data[0] % 4];
	tell = (enum http1_connection)(data[0] / 4 % 3);
	check_head(parse, forward, data + 1, size - 1);
	return 0;
}
