// SPDX-License-Identifier: Apache-2.0
// Error codes. Every fallible function returns 0 or one negative value: an errno negated (-EPERM), or a code
// of the enum below, which lies outside errno's range. One table gives the texts.
#pragma once

#define ERR_TABLE(X)                                                                                         \
	X(ERR_NEED_MORE, "more bytes are needed")                                                            \
	X(ERR_MALFORMED, "malformed input")                                                                  \
	X(ERR_LIMIT, "a limit was exceeded")                                                                 \
	X(ERR_UNSUPPORTED, "not supported")                                                                  \
	X(ERR_NOT_FOUND, "not found")                                                                        \
	X(ERR_EOF, "end of stream")                                                                          \
	X(ERR_CONFIG, "invalid configuration")                                                               \
	X(ERR_TLS, "TLS failure")                                                                            \
	X(ERR_TLS_PEER, "the peer's certificate was not accepted")                                           \
	X(ERR_DNS, "name resolution failed")                                                                 \
	X(ERR_NO_ENDPOINT, "no endpoint is available")                                                       \
	X(ERR_EXHAUSTED, "the range is exhausted")                                                           \
	X(ERR_CLOSED, "already closed")

enum err {
	ERR_OK = 0,
	_ERR_BASE = -10000,
#define ERR_ENUM(name, text) name,
	ERR_TABLE(ERR_ENUM)
#undef ERR_ENUM
	    _ERR_LAST,
};

// The text of an error as returned by any function here; never NULL. For an errno it is strerror's,
// thread-safe.
const char *err_text(int err);

// The symbolic name ("ERR_LIMIT", "ECONNREFUSED"); never NULL. For logs and JSON.
const char *err_name(int err);
