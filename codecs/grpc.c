// SPDX-License-Identifier: Apache-2.0
#include "codecs/grpc.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/http2_codes.h"

bool grpc_is_type(struct str content_type)
{
	static const struct str PREFIX = STR("application/grpc");
	const struct str begin = {content_type.p, PREFIX.len};
	if (content_type.len < PREFIX.len || (!str_eq(begin, PREFIX) && !str_eq_nocase(begin, PREFIX)))
		return false;
	char next = content_type.len > PREFIX.len ? content_type.p[PREFIX.len] : ';';
	return next == ';' || next == '+' || next == ' ';
}

int grpc_timeout_parse(struct str value, uint64_t *ret_ms)
{
	static const struct {
		char unit;
		uint32_t times, parts; // milliseconds are number * times / parts
	} units[] = {{'H', 3600000, 1}, {'M', 60000, 1}, {'S', 1000, 1},
		     {'m', 1, 1},	{'u', 1, 1000},	 {'n', 1, 1000000}};
	uint64_t number;
	if (value.len < 2 || value.len > 9 || str_to_u64((struct str){value.p, value.len - 1}, &number))
		return ERR_MALFORMED;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
		if (units[i].unit != value.p[value.len - 1])
			continue;
		*ret_ms = (number * units[i].times + units[i].parts - 1) / units[i].parts;
		return 0;
	}
	return ERR_MALFORMED;
}

int grpc_status_parse(struct str value)
{
	uint64_t status;
	return value.len <= 3 && str_to_u64(value, &status) == 0 ? (int)status : -1;
}

// As gRPC's own table for answers that are no gRPC has it; but 404 of ours says that nothing serves the
// method, and 504 that the deadline is over.
enum grpc_status grpc_status_of_http(unsigned status)
{
	switch (status) {
	case 400:
	case 502:
		return status == 400 ? GRPC_INTERNAL : GRPC_UNAVAILABLE;
	case 401:
		return GRPC_UNAUTHENTICATED;
	case 403:
		return GRPC_PERMISSION_DENIED;
	case 404:
	case 501:
		return GRPC_UNIMPLEMENTED;
	case 413:
	case 431:
		return GRPC_RESOURCE_EXHAUSTED;
	case 429:
	case 503:
		return GRPC_UNAVAILABLE;
	case 408:
	case 504:
		return GRPC_DEADLINE_EXCEEDED;
	default:
		return GRPC_UNKNOWN;
	}
}

// "Errors" in gRPC's PROTOCOL-HTTP2. What that table has no row for is taken for INTERNAL_ERROR (RFC 9113 7).
enum grpc_status grpc_status_of_reset(uint32_t code)
{
	switch (code) {
	case HTTP2_REFUSED_STREAM:
		return GRPC_UNAVAILABLE;
	case HTTP2_CANCEL:
		return GRPC_CANCELLED;
	case HTTP2_ENHANCE_YOUR_CALM:
		return GRPC_RESOURCE_EXHAUSTED;
	case HTTP2_INADEQUATE_SECURITY:
		return GRPC_PERMISSION_DENIED;
	default:
		return GRPC_INTERNAL;
	}
}

size_t grpc_message_encode(const char *text, char *ret_bytes, size_t room)
{
	static const char HEX[] = "0123456789ABCDEF";
	size_t len = 0;
	for (; *text; text++) {
		uint8_t c = (uint8_t)*text;
		bool plain = c >= 0x20 && c <= 0x7e && c != '%';
		if (len + (plain ? 1 : 3) > room)
			break;
		if (plain) {
			ret_bytes[len++] = (char)c;
			continue;
		}
		ret_bytes[len++] = '%';
		ret_bytes[len++] = HEX[c >> 4];
		ret_bytes[len++] = HEX[c & 15];
	}
	return len;
}
