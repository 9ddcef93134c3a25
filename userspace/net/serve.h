// SPDX-License-Identifier: Apache-2.0
// A small server for the control loop, below the admin socket, the metrics, probes and the webhook: accepts,
// collects one request, sends one answer, closes. Nothing blocks: a slow or silent client costs its memory
// until its time is up. Clients above the limit wait in the backlog, or make the longest silent one go; those
// whose requests together are too long make the one go that has been sending longest.
#pragma once

#include "base/str.h"
#include "run/loop.h"

#include <stddef.h>

struct serve;
struct serve_client;
struct ssl_ctx_st;

struct serve_ops {
	// Whether the client may talk (NULL: everybody). If not, *ret_answer is what it is told.
	bool (*admit)(void *arg, int fd, struct strbuf *ret_answer);
	// Looks at the request so far, which it may change; once for all that has come, however finely it is
	// cut. 0 with an answer, ERR_NEED_MORE, or another error: the client is dropped. `len` never exceeds
	// request_max.
	int (*answer)(void *arg, char *bytes, size_t len, struct strbuf *ret_answer);
	// In place of `answer`, where it takes time: after 0 serve_answer follows, unless `cancel` says that
	// the client has gone.
	int (*start)(void *arg, struct serve_client *client, char *bytes, size_t len);
	void (*cancel)(void *arg, struct serve_client *client);
	void *arg;
	unsigned clients_max;
	size_t request_max;
	size_t requests_max;	// bytes of all requests under way; 0: no such limit
	uint32_t idle_ms;	// for a whole request; then without progress; not while an answer is awaited
	bool evict;		// a new client above the limit takes the place of one that has asked nothing
	struct ssl_ctx_st *tls; // NULL: none; see serve_set_tls
};

// Serves a listening, non-blocking socket, which it owns from now on if it succeeds. 0 or a negative error.
int serve_new(struct loop *loop, int fd, const struct serve_ops *ops, struct serve **ret_serve);
// Drops all clients and closes the listener. Not from within a callback of the loop. NULL is fine.
void serve_free(struct serve *serve);
// From now on new clients get this context, which is the caller's.
void serve_set_tls(struct serve *serve, struct ssl_ctx_st *tls);

// --- for `start` ------------------------------------------------------------------------------------------
int serve_client_fd(const struct serve_client *client);
// What the caller keeps of the client.
void serve_client_set(struct serve_client *client, void *data);
void *serve_client_get(const struct serve_client *client);
// Sends the answer (moved; empty afterwards). Legal within `start`, too.
void serve_answer(struct serve_client *client, struct strbuf *answer);
