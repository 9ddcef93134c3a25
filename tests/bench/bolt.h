// SPDX-License-Identifier: Apache-2.0
// Bolt as its two ends of the benchmark speak it: version 1, one class and one header in requests, a class in
// responses. Written apart from weir's codec, so that neither can hide what the other does wrong.
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

enum bolt_type { BOLT_RESPONSE, BOLT_REQUEST, BOLT_ONE_WAY };
enum bolt_command { BOLT_HEARTBEAT, BOLT_RPC_REQUEST, BOLT_RPC_RESPONSE };
enum { BOLT_VERSION = 1, BOLT_HESSIAN = 1, BOLT_REQUEST_HEAD = 22, BOLT_RESPONSE_HEAD = 20 };

#define BOLT_REQUEST_CLASS  "com.alipay.sofa.rpc.core.request.SofaRequest"
#define BOLT_RESPONSE_CLASS "com.alipay.sofa.rpc.core.response.SofaResponse"

struct bolt_request {
	uint8_t version, type;
	uint16_t command;
	uint8_t command_version;
	uint32_t id;
	uint8_t serializer;
	uint32_t timeout_ms;
	uint16_t class_len, header_len;
	uint32_t content_len;
} __attribute__((packed));

struct bolt_response {
	uint8_t version, type;
	uint16_t command;
	uint8_t command_version;
	uint32_t id;
	uint8_t serializer;
	uint16_t status;
	uint16_t class_len, header_len;
	uint32_t content_len;
} __attribute__((packed));

_Static_assert(sizeof(struct bolt_request) == BOLT_REQUEST_HEAD, "the head of a request");
_Static_assert(sizeof(struct bolt_response) == BOLT_RESPONSE_HEAD, "the head of a response");

// The length of a whole frame, from its head in network order.
static inline size_t bolt_request_len(const struct bolt_request *head)
{
	return sizeof *head + be16toh(head->class_len) + be16toh(head->header_len) +
	       be32toh(head->content_len);
}

static inline size_t bolt_response_len(const struct bolt_response *head)
{
	return sizeof *head + be16toh(head->class_len) + be16toh(head->header_len) +
	       be32toh(head->content_len);
}
