// SPDX-License-Identifier: Apache-2.0
// What the UDP and the TCP listener share: from a query to an answer, or to the forwarder.
#pragma once

#include "dns/answer.h"
#include "dns/forward.h"

struct dns_resolver {
	struct dns_names *names; // one reference; NULL: none yet
	struct dns_forwarder *forwarder;
};

// Answers from own names or the cache (DNS_VERDICT_ANSWER, `ret_answer` as for dns_answer), or says that it
// is to be forwarded or dropped. Counts.
enum dns_verdict dns_resolve(struct dns_resolver *resolver, const uint8_t *bytes, size_t len, bool tcp,
			     struct dns_query *ret_query, uint8_t *ret_answer, size_t *ret_len);
// SERVFAIL for a query that could not be forwarded; its length.
size_t dns_resolve_failed(const struct dns_query *query, uint8_t *ret_answer);
