// SPDX-License-Identifier: Apache-2.0
// The forwarder's cache: answers by question, at most LIMIT_DNS_CACHE_ENTRIES of LIMIT_DNS_CACHE_BYTES
// together, the least recently used goes first. One thread.
#pragma once

#include "base/list.h"
#include "dns/message.h"

// What makes two queries the same: question, and what else changes the answer.
struct dns_key {
	uint16_t type, qclass;
	uint8_t edns, dnssec_ok, checking_disabled, recursion;
	struct dns_name name;
};
void dns_key_of(const struct dns_query *query, struct dns_key *ret_key);
uint64_t dns_key_hash(const struct dns_key *key);
bool dns_key_eq(const struct dns_key *a, const struct dns_key *b);

struct dns_cache;
int dns_cache_new(struct dns_cache **ret_cache);
void dns_cache_free(struct dns_cache *cache);

// Keeps a copy of the answer for as long as its records allow (RFC 2181 5.2: the least TTL; RFC 2308 5: SOA
// for what is not there). One that must not be kept takes the place of what was known, too.
void dns_cache_put(struct dns_cache *cache, const struct dns_key *key, const uint8_t *answer, size_t len,
		   uint64_t now_ns);
// Copies the answer, with its TTLs counted down, to `ret_answer` (DNS_MESSAGE_MAX bytes); its length, or 0:
// there is none. `stale`: one that has expired will do, with a TTL of 30 s (RFC 8767).
size_t dns_cache_get(struct dns_cache *cache, const struct dns_key *key, bool stale, uint64_t now_ns,
		     uint8_t *ret_answer);
// Whether there is an answer that has expired but would do.
bool dns_cache_has_stale(const struct dns_cache *cache, const struct dns_key *key, uint64_t now_ns);
// No server answers: an expired answer is good without asking for the next 30 s (RFC 8767 5).
void dns_cache_set_unanswered(struct dns_cache *cache, const struct dns_key *key, uint64_t now_ns);
size_t dns_cache_flush(struct dns_cache *cache);
