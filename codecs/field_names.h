// SPDX-License-Identifier: Apache-2.0
// Names of header fields that are known here: those of HPACK's static table and what the proxy looks for. A
// field of HTTP/2 carries the number of its name, so that nobody has to compare texts again. Pure.
#pragma once

#include "base/str.h"

// RFC 7541 A in its order, then others. No name is longer than FIELD_NAME_MAX.
#define FIELD_NAME_LIST(X)                                                                                   \
	X(AUTHORITY, ":authority")                                                                           \
	X(METHOD, ":method")                                                                                 \
	X(PATH, ":path")                                                                                     \
	X(SCHEME, ":scheme")                                                                                 \
	X(STATUS, ":status")                                                                                 \
	X(ACCEPT_CHARSET, "accept-charset")                                                                  \
	X(ACCEPT_ENCODING, "accept-encoding")                                                                \
	X(ACCEPT_LANGUAGE, "accept-language")                                                                \
	X(ACCEPT_RANGES, "accept-ranges")                                                                    \
	X(ACCEPT, "accept")                                                                                  \
	X(ALLOW_ORIGIN, "access-control-allow-origin")                                                       \
	X(AGE, "age")                                                                                        \
	X(ALLOW, "allow")                                                                                    \
	X(AUTHORIZATION, "authorization")                                                                    \
	X(CACHE_CONTROL, "cache-control")                                                                    \
	X(CONTENT_DISPOSITION, "content-disposition")                                                        \
	X(CONTENT_ENCODING, "content-encoding")                                                              \
	X(CONTENT_LANGUAGE, "content-language")                                                              \
	X(CONTENT_LENGTH, "content-length")                                                                  \
	X(CONTENT_LOCATION, "content-location")                                                              \
	X(CONTENT_RANGE, "content-range")                                                                    \
	X(CONTENT_TYPE, "content-type")                                                                      \
	X(COOKIE, "cookie")                                                                                  \
	X(DATE, "date")                                                                                      \
	X(ETAG, "etag")                                                                                      \
	X(EXPECT, "expect")                                                                                  \
	X(EXPIRES, "expires")                                                                                \
	X(FROM, "from")                                                                                      \
	X(HOST, "host")                                                                                      \
	X(IF_MATCH, "if-match")                                                                              \
	X(IF_MODIFIED_SINCE, "if-modified-since")                                                            \
	X(IF_NONE_MATCH, "if-none-match")                                                                    \
	X(IF_RANGE, "if-range")                                                                              \
	X(IF_UNMODIFIED_SINCE, "if-unmodified-since")                                                        \
	X(LAST_MODIFIED, "last-modified")                                                                    \
	X(LINK, "link")                                                                                      \
	X(LOCATION, "location")                                                                              \
	X(MAX_FORWARDS, "max-forwards")                                                                      \
	X(PROXY_AUTHENTICATE, "proxy-authenticate")                                                          \
	X(PROXY_AUTHORIZATION, "proxy-authorization")                                                        \
	X(RANGE, "range")                                                                                    \
	X(REFERER, "referer")                                                                                \
	X(REFRESH, "refresh")                                                                                \
	X(RETRY_AFTER, "retry-after")                                                                        \
	X(SERVER, "server")                                                                                  \
	X(SET_COOKIE, "set-cookie")                                                                          \
	X(STRICT_TRANSPORT_SECURITY, "strict-transport-security")                                            \
	X(TRANSFER_ENCODING, "transfer-encoding")                                                            \
	X(USER_AGENT, "user-agent")                                                                          \
	X(VARY, "vary")                                                                                      \
	X(VIA, "via")                                                                                        \
	X(WWW_AUTHENTICATE, "www-authenticate")                                                              \
	X(PROTOCOL, ":protocol")                                                                             \
	X(CONNECTION, "connection")                                                                          \
	X(KEEP_ALIVE, "keep-alive")                                                                          \
	X(PROXY_CONNECTION, "proxy-connection")                                                              \
	X(UPGRADE, "upgrade")                                                                                \
	X(HTTP2_SETTINGS, "http2-settings")                                                                  \
	X(TE, "te")                                                                                          \
	X(TRAILER, "trailer")                                                                                \
	X(WEBSOCKET_KEY, "sec-websocket-key")                                                                \
	X(WEBSOCKET_ACCEPT, "sec-websocket-accept")                                                          \
	X(GRPC_TIMEOUT, "grpc-timeout")                                                                      \
	X(GRPC_STATUS, "grpc-status")                                                                        \
	X(GRPC_MESSAGE, "grpc-message")                                                                      \
	X(GRPC_ENCODING, "grpc-encoding")                                                                    \
	X(GRPC_ACCEPT_ENCODING, "grpc-accept-encoding")                                                      \
	X(X_REQUEST_ID, "x-request-id")                                                                      \
	X(X_FORWARDED_FOR, "x-forwarded-for")                                                                \
	X(X_FORWARDED_PROTO, "x-forwarded-proto")                                                            \
	X(TRACEPARENT, "traceparent")                                                                        \
	X(TRACESTATE, "tracestate")

enum field_name {
	FIELD_UNSEEN, // nobody has looked yet
	FIELD_OTHER,  // none of the others
#define X(id, text) FIELD_##id,
	FIELD_NAME_LIST(X)
#undef X
	    FIELD_NAME_COUNT,
	FIELD_NAME_MAX = 27,
};

// Empty for the first two.
extern const struct str field_names[FIELD_NAME_COUNT];

// In lower case. Never FIELD_UNSEEN.
enum field_name field_name_find(struct str name);
