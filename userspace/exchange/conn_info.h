// SPDX-License-Identifier: Apache-2.0
// What the admin shows of one downstream connection. Views are valid during the call that hands it out.
#pragma once

#include "base/addr.h"
#include "codecs/head.h"

struct connection;
struct conn_info;

// A request of HTTP, or a call of an RPC protocol, under way on a downstream connection.
struct stream_info {
	uint64_t id;	      // of the stream; which one of the connection (HTTP/1); what the caller gave
	const char *protocol; // "http1", "grpc", a codec's name, ...; of what rides in a stream between proxies
	struct str authority; // HTTP
	struct str service;   // RPC, gRPC; empty: none
	struct str method;    // likewise, else HTTP's
	struct str path;      // HTTP
	bool answered;	      // an answer has begun, with `status` in the protocol's own numbers
	unsigned status;
	int grpc_status;		  // -1: none
	struct str virtual_host, cluster; // empty: none
	struct addr endpoint;		  // absent: none chosen yet
	uint64_t started_ns;		  // CLOCK_MONOTONIC
};

typedef void (*stream_info_fn)(const struct stream_info *info, void *arg);

struct conn_info {
	uint64_t id; // unique over all workers in the life of the process
	bool inbound;
	struct addr peer, destination;	  // destination: the original one
	struct addr local;		  // where it came to: with redirection, the proxy's own end
	struct addr endpoint;		  // absent: none chosen yet
	struct str virtual_host, cluster; // empty: none
	const char *protocol;		  // a literal, or a codec's name; NULL: not known yet
	struct str service, method; // RPC: of the oldest call under way, else of the last one; empty: none
	uint32_t calls;		    // under way
	uint32_t streams;	    // of HTTP/2, open
	const char *transport;	    // "h2": in streams between two proxies, on either side; NULL: none
	const char *tls_version;    // "TLSv1.3"; NULL: none
	struct str tls_peer;	    // identity of the downstream peer, a SPIFFE id; empty: none
	const char *upstream_tls_version;
	struct str upstream_tls_peer;
	uint64_t bytes_received, bytes_sent; // downstream
	uint64_t requests;
	uint64_t opened_ns; // CLOCK_MONOTONIC
	bool accelerated;   // its bytes may go past TCP
	const char *decided_by; // what told the protocol, in words: a literal; NULL: nothing yet
	uint32_t decided_us;	// and how long that took, from accepting on
	const char *state;  // "detecting", "open", "draining", ...: a literal
	const struct connection *connection;
	// Calls fn for each stream or call of the connection, oldest first. NULL: its protocol has none.
	void (*each_stream)(const struct connection *connection, stream_info_fn fn, void *arg);
};

typedef void (*conn_info_fn)(const struct conn_info *info, void *arg);
