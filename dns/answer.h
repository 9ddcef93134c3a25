// SPDX-License-Identifier: Apache-2.0
// Answering from our own names: the bytes of a query in, the bytes of an answer out, or the word that it is
// to be forwarded. Pure: no I/O, no clock, no allocation; any thread that holds a reference to the names.
//
// Ours are: the zone and the reverse zones of the VIP ranges, whole; names added outside of them, as far as
// A, AAAA, CNAME, HTTPS, SVCB, ANY and SRV of their ports go (HTTPS has no data: its hints would lead around
// the VIP, RFC 9460); localhost, invalid and onion (RFC 6761, 7686) and the reverse names of the loopback
// addresses (RFC 6303).
#pragma once

#include "dns/message.h"

struct dns_names;

enum dns_verdict {
	DNS_VERDICT_ANSWER,
	DNS_VERDICT_FORWARD, // well-formed, and not ours
	DNS_VERDICT_DROP,    // no query
};

// Reads a query and answers it if that can be done from `names` (NULL: before there is a configuration) or if
// it is wrong. *ret_query is set unless the verdict is to drop; it borrows from `bytes`. `ret_answer` has
// room for what dns_query_limit allows: LIMIT_DNS_UDP_PAYLOAD bytes, or DNS_MESSAGE_MAX over TCP.
enum dns_verdict dns_answer(const struct dns_names *names, const void *bytes, size_t len, bool tcp,
			    struct dns_query *ret_query, void *ret_answer, size_t *ret_answer_len);
// An answer without records. Returns its length.
size_t dns_answer_empty(const struct dns_query *query, uint16_t rcode, enum dns_ede ede, void *ret_answer);
