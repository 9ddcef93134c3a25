// SPDX-License-Identifier: Apache-2.0
// DNS messages (RFC 1035) as bytes: names, queries, records, and the writing of answers. All reading goes
// through base/cursor.h. Pure: no I/O, no clock, no globals; any thread.
//
// A name here is in wire form (length-prefixed labels, the root label at the end), folded to lower case where
// said. Compression pointers are followed only backwards, each farther back than the one before, so reading
// always ends.
#pragma once

#include "base/addr.h"
#include "base/cursor.h"
#include "base/limits.h"

enum {
	DNS_HEADER_BYTES = 12,
	DNS_NAME_TEXT_MAX = 4 * LIMIT_DNS_NAME + 1, // every byte as \DDD, and the NUL
	DNS_UDP_PLAIN = 512,			    // payload of a client without EDNS
	DNS_MESSAGE_MAX = 65535,
};

// Flags of the header (RFC 1035 4.1.1, RFC 4035 3.1.6).
enum {
	DNS_FLAG_QR = 0x8000,
	DNS_FLAG_AA = 0x0400,
	DNS_FLAG_TC = 0x0200,
	DNS_FLAG_RD = 0x0100,
	DNS_FLAG_RA = 0x0080,
	DNS_FLAG_AD = 0x0020,
	DNS_FLAG_CD = 0x0010,
	DNS_OPCODE_MASK = 0x7800,
	DNS_RCODE_MASK = 0x000f,
};

enum dns_rcode {
	DNS_NOERROR = 0,
	DNS_FORMERR = 1,
	DNS_SERVFAIL = 2,
	DNS_NXDOMAIN = 3,
	DNS_NOTIMP = 4,
	DNS_REFUSED = 5,
	DNS_BADVERS = 16,
};

enum dns_type {
	DNS_TYPE_A = 1,
	DNS_TYPE_NS = 2,
	DNS_TYPE_CNAME = 5,
	DNS_TYPE_SOA = 6,
	DNS_TYPE_PTR = 12,
	DNS_TYPE_HINFO = 13,
	DNS_TYPE_AAAA = 28,
	DNS_TYPE_SRV = 33,
	DNS_TYPE_OPT = 41,
	DNS_TYPE_SVCB = 64,
	DNS_TYPE_HTTPS = 65,
	DNS_TYPE_IXFR = 251,
	DNS_TYPE_AXFR = 252,
	DNS_TYPE_MAILB = 253,
	DNS_TYPE_MAILA = 254,
	DNS_TYPE_ANY = 255,
};

enum { DNS_CLASS_IN = 1, DNS_CLASS_ANY = 255 };

// Extended errors (RFC 8914, as registered).
enum dns_ede {
	DNS_EDE_NONE = -1,
	DNS_EDE_OTHER = 0,
	DNS_EDE_STALE = 3,
	DNS_EDE_NOT_READY = 14,
	DNS_EDE_STALE_NXDOMAIN = 19,
	DNS_EDE_NOT_SUPPORTED = 21,
	DNS_EDE_NO_REACHABLE_AUTHORITY = 22,
};

// --- names --------------------------------------------------------------------------------------------------
struct dns_name {
	uint8_t len;	// bytes with the root label: 1..255
	uint8_t labels; // without the root label: 0..127
	uint8_t bytes[LIMIT_DNS_NAME];
};

// "reviews.mesh" or "reviews.mesh."; "." is the root. Any byte but NUL may stand in a label, without escapes.
// Folded. 0, or ERR_MALFORMED: an empty or too long label or name.
int dns_name_from_text(struct str text, struct dns_name *ret_name);
// Without a final dot (the root: "."); dots and bytes that do not print are escaped. Returns `text`.
const char *dns_name_format(const uint8_t *wire, char text[DNS_NAME_TEXT_MAX]);
// Folds ASCII letters; length bytes are no letters.
void dns_name_fold(uint8_t *wire, size_t len);
// Whether `name` is `suffix` or below it; both folded, both with the root label.
bool dns_name_is_below(const uint8_t *name, size_t len, const uint8_t *suffix, size_t suffix_len);
// Reads a name, following compression; folded. On error (r->err) *ret_name is untouched.
void dns_name_read(struct reader *r, struct dns_name *ret_name);
// Passes over a name.
void dns_name_skip(struct reader *r);
