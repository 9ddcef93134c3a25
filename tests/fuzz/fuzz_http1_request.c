// SPDX-License-Identifier: Apache-2.0
// Any bytes as a request head: see http1_head.h.
#include "http1_head.h"

static void parse(struct str bytes, struct parsed *ret)
{
	ret->result =
	    http1_request_parse(bytes, LIMIT_HTTP_HEAD, LIMIT_HTTP_HEADERS, &ret->head, &ret->fault);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_head(parse, http1_forward_request, data, size);
	return 0;
}
