// SPDX-License-Identifier: Apache-2.0
// Bytes over a non-blocking socket, plain or in ordinary TLS: for what is no part of the mesh (a webhook's
// clients, an application's own HTTPS). Mutual TLS between proxies is net/tls.h. One thread; the socket is
// registered edge-triggered for reading and writing, and its owner calls again after each event.
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct ssl_st;
struct ssl_ctx_st;

struct wire {
	int fd; // the owner's
	struct ssl_st *_ssl;
};

// Plain if `context` is NULL; otherwise TLS as `server` or as client. 0 or -ENOMEM.
int wire_init(struct wire *wire, int fd, struct ssl_ctx_st *context, bool server);
// Frees; the socket stays open.
void wire_done(struct wire *wire);
// Bytes (> 0), ERR_NEED_MORE, ERR_EOF, or another negative error. The handshake is done on the way.
int wire_read(struct wire *wire, void *bytes, size_t len);
int wire_write(struct wire *wire, const void *bytes, size_t len);
// Says that nothing more will be written.
void wire_shutdown(struct wire *wire);
