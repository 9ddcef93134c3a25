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
	DNS_OPT_BYTES = 11, // an OPT record without options
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

// --- queries ------------------------------------------------------------------------------------------------
struct dns_query {
	uint16_t id;
	uint16_t flags;
	enum dns_rcode rcode; // what is wrong with it: FORMERR, NOTIMP, BADVERS; NOERROR: nothing
	uint16_t type, qclass;
	struct dns_name name; // folded; len 0 if it could not be read
	struct str question;  // the question section as it came, for its case; empty if it could not be read
	bool edns, dnssec_ok;
	bool nsid;	  // asks who it is that answers
	uint16_t payload; // what the client takes over UDP: 512 at least
};

// Reads a query. 0, or ERR_MALFORMED for what must not be answered at all: no header, or an answer. A query
// that is wrong otherwise is read as far as that is possible, and `rcode` says with what to answer. Borrows
// the bytes.
int dns_query_parse(const void *bytes, size_t len, struct dns_query *ret_query);
// How long the answer may be.
size_t dns_query_limit(const struct dns_query *query, bool tcp);

// --- records ------------------------------------------------------------------------------------------------
struct dns_record {
	size_t start; // offset of its owner name
	size_t ttl_at;
	uint16_t type, rclass;
	uint32_t ttl;
	struct str data;
};

// Reads the fixed part of a record and passes over its name and data.
void dns_record_read(struct reader *r, struct dns_record *ret_record);

// Writes OPT (RFC 6891 6.1.2) for `options_len` bytes of options, which follow. `rcode`: all 12 bits.
void dns_opt_write(struct writer *w, uint16_t rcode, bool dnssec_ok, uint16_t options_len);

// What weir says of itself there: from own names, the cache, an expired entry of it, or a server (whose
// address follows).
#define DNS_NSID_NAMES	  "weir names"
#define DNS_NSID_CACHE	  "weir cache"
#define DNS_NSID_STALE	  "weir stale"
#define DNS_NSID_UPSTREAM "weir upstream "
// Says in a whole answer who answers (NSID, RFC 5001), in so far as it ends in OPT and `limit` allows.
// Returns how long it is then. `bytes` has room for `limit`.
size_t dns_nsid_add(uint8_t *bytes, size_t len, size_t limit, struct str who);
// What it says there; p is NULL if it says nothing.
struct str dns_nsid_find(const uint8_t *bytes, size_t len);

// --- answers ------------------------------------------------------------------------------------------------
enum dns_section { DNS_ANSWER, DNS_AUTHORITY, DNS_ADDITIONAL };

// An answer being written. Names are compressed against the question's. What does not fit is left out; in the
// answer and authority sections that sets TC (RFC 2181 9).
struct dns_reply {
	struct writer w; // without the room for OPT
	const struct dns_query *query;
	size_t _cap;
	uint16_t flags; // besides QR, RA and what is copied from the query
	uint16_t rcode; // 12 bits
	uint16_t counts[3];
	enum dns_ede ede;
};

// `cap` is at least DNS_UDP_PLAIN.
void dns_reply_begin(struct dns_reply *reply, const struct dns_query *query, void *bytes, size_t cap);
// Begins a record. The data is written to reply->w next, then comes dns_reply_record_end. Returns a mark for
// that.
struct dns_mark {
	size_t start, data;
} dns_reply_record(struct dns_reply *reply, const uint8_t *owner, size_t len, enum dns_type type,
		   uint32_t ttl);
// False if the record did not fit (then nothing of it is there).
bool dns_reply_record_end(struct dns_reply *reply, struct dns_mark mark, enum dns_section section);
void dns_reply_name(struct dns_reply *reply, const uint8_t *name, size_t len);
// Adds OPT if the client sent one, completes the header, returns the length.
size_t dns_reply_end(struct dns_reply *reply);
