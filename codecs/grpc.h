// SPDX-License-Identifier: Apache-2.0
// What a proxy has to know of gRPC over HTTP/2: which requests it is, their deadline, status codes. Pure.
#pragma once

#include "base/str.h"

enum grpc_status {
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_UNAUTHENTICATED = 16,
	GRPC_STATUS_MAX = 16,
};

// Whether a Content-Type is gRPC's: "application/grpc", then the end, "+proto", ";...".
bool grpc_is_type(struct str content_type);
// The value of grpc-timeout ("100m", "5S"; at most eight digits) in milliseconds, rounded up. 0 or
// ERR_MALFORMED.
int grpc_timeout_parse(struct str value, uint64_t *ret_ms);
// The value of grpc-status: 0..., or -1 if it is none.
int grpc_status_parse(struct str value);
// The status that a proxy's own answer of HTTP means to a caller of gRPC.
enum grpc_status grpc_status_of_http(unsigned status);
// The status that RST_STREAM with that code (HTTP2_*) means to a caller of gRPC.
enum grpc_status grpc_status_of_reset(uint32_t code);
// grpc-message: percent-encodes what is no printable ASCII, and '%'. `room` >= 3 * length is always enough;
// what does not fit is cut off. Returns the length.
size_t grpc_message_encode(const char *text, char *ret_bytes, size_t room);
