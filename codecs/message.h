// SPDX-License-Identifier: Apache-2.0
// The head of an HTTP message between two versions of the protocol: what both have in common. HTTP/1
// (codecs/http1_convert.h) and HTTP/2 (codecs/http2.h) are each turned into it and made from it; the exchange
// routes, retries and answers with it. Views into memory of the owner's. Plain data.
//
// A change of protocols (Upgrade of HTTP/1, extended CONNECT of RFC 8441) is here what it is in HTTP/1: GET
// with `upgrade`, answered 101. Field names are in lower case, as HTTP/2 wants them.
#pragma once

#include "codecs/head.h"

struct message {
	struct head head;	 // fields: those meant for the other end, without Host and pseudo-fields
	struct str scheme;	 // of a request; empty: not said
	struct str upgrade;	 // the protocol a request asks for, "websocket"; empty: none
	struct str grpc_timeout; // of a request of HTTP/2; empty: none
	uint64_t length;	 // of the body, if has_length
	bool has_length : 1;	 // Content-Length is there, and stands among the fields
	bool end : 1;		 // no body follows
	bool has_cookies : 1;	 // more than one Cookie field (RFC 9113 8.2.3)
	bool grpc : 1;		 // a request of HTTP/2 whose Content-Type is gRPC's
	// As any field may be (codecs/head.h).
	bool path_never_indexed : 1;
	bool authority_never_indexed : 1;
};
