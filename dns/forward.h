// SPDX-License-Identifier: Apache-2.0
// Forwarding what is not ours to the resolvers upstream, by c-ares on the worker's loop: several servers with
// failover within LIMIT_DNS_DEADLINE_MS, TCP when an answer was truncated, a cache of answers and of their
// absence (RFC 2308) with expired ones served when no server answers (RFC 8767), and one upstream query for
// identical ones under way. Answers pass through as they came, but for the id, the case of the question and
// the TTLs of cached ones. A resolv.conf that changes is read again, and what other servers said is
// forgotten; who was asked before may still answer those who waited then. One thread.
#pragma once

#include "base/list.h"
#include "dns/message.h"
#include "run/loop.h"

struct dns_forwarder;
struct dns_flight;

struct dns_forward_options {
	const struct addr *servers; // none: those of resolv.conf, or those behind systemd-resolved
	size_t server_count;
	const struct addr *own; // where we listen ourselves: never an upstream
	size_t own_count;
	const char *resolv_conf, *resolved_conf; // for tests: in place of the system's
	uint16_t conf_port;			 // likewise: where their servers listen, in place of 53
	int (*prepare)(int fd, void *arg);	 // called for every upstream socket (to mark it); may be NULL
	// Called for a server that cannot be used, whenever the servers are read; may be NULL.
	void (*unusable)(struct str server, const char *why, void *arg);
	void *arg;
};

// Somebody who waits for an answer; embedded in the caller's object.
struct dns_waiter {
	struct list _node;
	struct dns_forwarder *_forwarder; // NULL: it does not wait
	// The answer for this waiter, complete; or NULL: nothing can be had (SERVFAIL). Called once, never
	// from inside dns_forward.
	void (*answered)(struct dns_waiter *waiter, const uint8_t *answer, size_t len);
	uint16_t id;
	uint16_t question_len;
	uint16_t limit; // longest answer
	bool edns, dnssec_ok, nsid;
	uint8_t question[LIMIT_DNS_NAME + 4];
};

// 0; -ENOMEM; or ERR_DNS: c-ares could not be initialised.
int dns_forwarder_new(struct loop *loop, const struct dns_forward_options *options,
		      struct dns_forwarder **ret_forwarder);
// Nobody may wait any more. NULL is fine.
void dns_forwarder_free(struct dns_forwarder *forwarder);

// Answers from the cache into `ret_answer` (room for `limit` bytes): its length (> 0), or 0: not there, or
// expired.
size_t dns_forward_cached(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit,
			  uint8_t *ret_answer);
// Asks upstream; the waiter is called when there is an answer. 0, or -ENOMEM, ERR_LIMIT (too many under way),
// ERR_DNS: it is our own query that came back, so the server leads to ourselves.
int dns_forward(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit,
		struct dns_waiter *waiter);
// The waiter goes away. Safe when it does not wait.
void dns_forward_cancel(struct dns_waiter *waiter);
// Empties the cache; how many entries went.
size_t dns_forward_flush(struct dns_forwarder *forwarder);
size_t dns_forward_server_count(const struct dns_forwarder *forwarder);
