// SPDX-License-Identifier: Apache-2.0
// Answers the probes of Kubernetes: those of the proxy itself (/healthz, /readyz), and in the application's
// place those that the kubelet could not ask in strict mutual TLS, or whose answer would come from the proxy
// (/weir/probe/CONTAINER/PROBE). What is asked of the application is fixed by the table: a client chooses
// nothing but the header fields. The application is asked on the address that the client connected to, as the
// kubelet would do. Control thread.
#pragma once

#include "admin/backend.h"
#include "base/str.h"
#include "run/loop.h"

enum probe_kind {
	PROBE_HTTP,
	PROBE_HTTPS, // the certificate is not checked: neither does the kubelet
	PROBE_TCP,   // fine if a connection can be made
	PROBE_GRPC,  // grpc.health.v1.Health/Check says SERVING
};

struct probe {
	enum probe_kind kind;
	struct str name;   // "app/liveness"
	uint16_t port;	   // of the application
	struct str target; // path with query, or the service of gRPC (may be empty)
};

// "app/liveness=http:8080/healthz", "https:8443/", "tcp:6379", "grpc:9000/my.Service". The views lie in
// `text`. 0, or ERR_CONFIG with a sentence in ret_error.
int probe_parse(const char *text, struct probe *ret_probe, struct strbuf *ret_error);

struct probe_server;

struct probe_options {
	uint16_t port;		    // listens on all addresses
	const struct probe *probes; // outlive the server
	size_t count;
	uint32_t mark; // of connections to the application
};

// 0, or a negative error with a sentence in ret_error.
int probe_server_new(struct loop *loop, const struct probe_options *options,
		     const struct admin_backend *backend, struct probe_server **ret_server,
		     struct strbuf *ret_error);
// NULL is fine. Not from within a callback of the loop.
void probe_server_free(struct probe_server *server);
