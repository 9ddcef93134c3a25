// SPDX-License-Identifier: Apache-2.0
// The head of a message, the same for every protocol: what routing, policy, logs and conversion between
// protocols read. Views into memory that somebody else owns (the receive buffer, an arena). Plain data, no
// I/O.
#pragma once

#include "base/str.h"
#include "codecs/field_names.h"

#include <stdbool.h>
#include <stdint.h>

enum protocol {
	PROTOCOL_UNKNOWN, // not found out yet
	PROTOCOL_TCP,	  // none of the others: bytes
	PROTOCOL_TLS,	  // an application's own TLS, passed through
	PROTOCOL_HTTP1,
	PROTOCOL_HTTP2,
	PROTOCOL_BOLT,
	PROTOCOL_DUBBO,
	PROTOCOL_DUBBO_THRIFT,
	PROTOCOL_TARS,
	PROTOCOL_PLUGIN, // of a shared object; its codec has the name
};

// "tcp", "tls", "http1", "http2", "bolt", "dubbo", "dubbo-thrift", "tars", "plugin"; "-" for the unknown one.
const char *protocol_name(enum protocol protocol);

// A header field. For HTTP/1 the views lie in the received head.
struct field {
	struct str name, value;
	bool never_indexed; // HTTP/2: in no table of compression, here and further on (RFC 7541 7.1.3)
	uint8_t known;	    // HTTP/2: which name it is (enum field_name); above FIELD_OTHER it is constant
	bool clean_name;    // HTTP/2: its name has been found to be clean, whatever its value is
	bool checked;	    // HTTP/2: http2_field_is_clean
	uint64_t origin;    // HTTP/2: the entry of HPACK's tables it was read from (codecs/hpack.h); 0: none
};

static inline enum field_name field_known(const struct field *field)
{
	return field->known ? (enum field_name)field->known : field_name_find(field->name);
}

struct head {
	struct str method;    // request; empty in a response
	struct str path;      // of a request, with the query: what routes match (up to '?' for paths)
	struct str authority; // of a request: Host or :authority, with its port if it has one; may be empty
	uint16_t status;      // response; 0 in a request
	uint16_t field_count;
	struct field *fields; // in order, hop-by-hop ones included (HTTP/1)
};

// The first field of that name, case-insensitive; NULL if there is none.
const struct field *head_find(const struct head *head, struct str name);
// "/service/method" of an RPC call, for routes that match paths. Service and method are LIMIT_RPC_NAME long
// at most; `room` has LIMIT_RPC_NAME * 2 + 2 bytes, and the result lies there.
struct str head_rpc_path(const struct head *head, char *room);
