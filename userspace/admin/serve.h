// SPDX-License-Identifier: Apache-2.0
// A small server for the control loop, below the admin socket and the metrics: accepts, collects one request,
// sends one answer, closes. Nothing blocks: a slow or silent client costs its memory until its time is up.
// Clients above the limit wait in the backlog.
#pragma once

#include "base/str.h"
#include "run/loop.h"

#include <stddef.h>

struct serve;

struct serve_ops {
	// Whether the client may talk (NULL: everybody). If not, *ret_answer is what it is told.
	bool (*admit)(void *arg, int fd, struct strbuf *ret_answer);
	// Looks at the request so far, which it may change. 0 with an answer, ERR_NEED_MORE, or another
	// error: the client is dropped. `len` never exceeds request_max.
	int (*answer)(void *arg, char *bytes, size_t len, struct strbuf *ret_answer);
	void *arg;
	unsigned clients_max;
	size_t request_max;
	uint32_t idle_ms; // without progress
};

// Serves a listening, non-blocking socket, which it owns from now on if it succeeds. 0 or a negative error.
int serve_new(struct loop *loop, int fd, const struct serve_ops *ops, struct serve **ret_serve);
// Drops all clients and closes the listener. Not from within a callback of the loop. NULL is fine.
void serve_free(struct serve *serve);
