// SPDX-License-Identifier: Apache-2.0
// What the admin shows of one downstream connection. Views are valid during the call that hands it out.
#pragma once

#include "base/addr.h"
#include "codecs/head.h"

struct conn_info {
	uint64_t id; // unique over all workers in the life of the process
	bool inbound;
	struct addr peer, destination;	  // destination: the original one
	struct addr endpoint;		  // absent: none chosen yet
	struct str virtual_host, cluster; // empty: none
	const char *protocol;		  // a literal, or a codec's name; NULL: not known yet
	struct str service, method; // RPC: of the oldest call under way, else of the last one; empty: none
	uint32_t calls;		    // under way
	const char *transport;	    // "h2": in streams between two proxies, on either side; NULL: none
	const char *tls_version;    // "TLSv1.3"; NULL: none
	struct str tls_peer;	    // identity of the downstream peer, a SPIFFE id; empty: none
	const char *upstream_tls_version;
	struct str upstream_tls_peer;
	uint64_t bytes_received, bytes_sent; // downstream
	uint64_t requests;
	uint64_t opened_ns; // CLOCK_MONOTONIC
	const char *state;  // "detecting", "open", "draining", ...: a literal
};

typedef void (*conn_info_fn)(const struct conn_info *info, void *arg);
