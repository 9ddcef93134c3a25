// SPDX-License-Identifier: Apache-2.0
// The ClientHello at the start of a TLS connection (RFC 8446 4.1.2), as far as routing reads it: the server
// name and the offered application protocols. Pure; nothing is checked that the TLS library would check.
#pragma once

#include "base/limits.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct tls_hello {
	struct str sni; // host name (RFC 6066 3); empty: none
	struct str
	    alpn; // the list of protocols as on the wire (RFC 7301 3.1): each with a length byte; empty: none
	uint8_t _bytes[LIMIT_TLS_HELLO]; // the message, put together from its records
};

// 0, ERR_NEED_MORE, ERR_MALFORMED, or ERR_LIMIT (longer than LIMIT_TLS_HELLO). The views lie in *ret_hello.
int tls_hello_parse(struct str bytes, struct tls_hello *ret_hello);
// Whether the protocol is among the offered ones.
bool tls_hello_offers(const struct tls_hello *hello, struct str protocol);
