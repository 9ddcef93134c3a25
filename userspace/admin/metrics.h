// SPDX-License-Identifier: Apache-2.0
// Metrics for Prometheus over HTTP/1.1, on the control loop: GET /metrics (text format 0.0.4), /healthz (the
// process lives), /readyz (it serves; 503 while it does not). One request a connection.
#pragma once

#include "admin/backend.h"

struct metrics_server;

// A listening socket; call it while ports below 1024 may still be bound. 0, or a negative error with a
// sentence in ret_error.
int metrics_listen(const struct addr *addr, int *ret_fd, struct strbuf *ret_error);
// Serves; owns the socket if it succeeds. `backend` is copied. 0 or a negative error.
int metrics_server_new(struct loop *loop, int fd, const struct admin_backend *backend,
		       struct metrics_server **ret_server);
// Not from within a callback of the loop. NULL is fine.
void metrics_server_free(struct metrics_server *server);

// --- parts, for tests -------------------------------------------------------------------------------------
// All metrics as text.
void metrics_render(const struct admin_backend *backend, struct strbuf *out);
// Answers the HTTP request at the start of `bytes`: 0 with the response appended, or ERR_NEED_MORE.
int metrics_answer(const struct admin_backend *backend, struct str bytes, struct strbuf *ret_answer);
