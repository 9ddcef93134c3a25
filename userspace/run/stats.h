// SPDX-License-Identifier: Apache-2.0
// Counters. One table declares them all; each worker has a slot of its own in shared memory and adds without
// atomics or locks; readers sum the slots. Gauges are sums too: a worker adds 1 and -1 to its own slot.
#pragma once

#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>

enum stat_kind { STAT_COUNTER, STAT_GAUGE };

// clang-format off
// X(symbol, kind, name (Prometheus, without the prefix weir_), labels or "", help)
#define STAT_TABLE(X)                                                                                                  \
	X(STAT_OUTBOUND_CONNECTIONS, STAT_COUNTER, "downstream_connections_total", "direction=\"outbound\"",            \
	  "Connections accepted")                                                                                      \
	X(STAT_INBOUND_CONNECTIONS, STAT_COUNTER, "downstream_connections_total", "direction=\"inbound\"",              \
	  "Connections accepted")                                                                                      \
	X(STAT_OUTBOUND_ACTIVE, STAT_GAUGE, "downstream_connections_active", "direction=\"outbound\"",                  \
	  "Connections open now")                                                                                      \
	X(STAT_INBOUND_ACTIVE, STAT_GAUGE, "downstream_connections_active", "direction=\"inbound\"",                    \
	  "Connections open now")                                                                                      \
	X(STAT_LOST_DESTINATION, STAT_COUNTER, "original_destination_lost_total", "",                                  \
	  "Connections whose original destination could not be recovered")                                             \
	X(STAT_LOOP_REFUSED, STAT_COUNTER, "loops_refused_total", "", "Connections made to the proxy itself")           \
	X(STAT_UNSERVED, STAT_COUNTER, "virtual_ip_refused_total", "",                                                 \
	  "Connections to a virtual IP on a port that no service has")                                                 \
	X(STAT_ACCEPT_FAILED, STAT_COUNTER, "accept_failures_total", "", "Failures of accept (file descriptors)")       \
	X(STAT_PASSTHROUGH, STAT_COUNTER, "passthrough_connections_total", "",                                         \
	  "Connections passed through to their original destination")                                                  \
	X(STAT_HTTP_REQUESTS, STAT_COUNTER, "http_requests_total", "", "HTTP requests received")                        \
	X(STAT_HTTP_2XX, STAT_COUNTER, "http_responses_total", "class=\"2xx\"", "HTTP responses sent, by class")         \
	X(STAT_HTTP_3XX, STAT_COUNTER, "http_responses_total", "class=\"3xx\"", "HTTP responses sent, by class")         \
	X(STAT_HTTP_4XX, STAT_COUNTER, "http_responses_total", "class=\"4xx\"", "HTTP responses sent, by class")         \
	X(STAT_HTTP_5XX, STAT_COUNTER, "http_responses_total", "class=\"5xx\"", "HTTP responses sent, by class")         \
	X(STAT_HTTP_REFUSED, STAT_COUNTER, "http_requests_refused_total", "",                                          \
	  "HTTP requests refused as malformed, ambiguous or too large")                                                \
	X(STAT_HTTP_NO_ROUTE, STAT_COUNTER, "http_no_route_total", "", "HTTP requests that no route matched")           \
	X(STAT_HTTP_RETRIES, STAT_COUNTER, "http_retries_total", "", "HTTP requests sent again")                        \
	X(STAT_HTTP2_CONNECTIONS, STAT_COUNTER, "http2_connections_total", "", "Downstream connections that spoke HTTP/2") \
	X(STAT_HTTP2_STREAMS_REFUSED, STAT_COUNTER, "http2_streams_refused_total", "", "HTTP/2 streams refused")         \
	X(STAT_HTTP2_RESET_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"reset\"",                                 \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_CONTINUATION_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"continuation\"",                   \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_SETTINGS_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"settings\"",                           \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_PING_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"ping\"",                                   \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_EMPTY_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"empty\"",                                 \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_CLOSED_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"closed\"",                               \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_OTHER_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"other\"",                                 \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_HEADER_FLOOD, STAT_COUNTER, "http2_floods_total", "kind=\"headers\"",                              \
	  "HTTP/2 connections closed because the peer overdid something")                                              \
	X(STAT_HTTP2_STALLED, STAT_COUNTER, "http2_streams_stalled_total", "",                                         \
	  "HTTP/2 streams reset because their reader made no progress")                                                \
	X(STAT_HTTP2_PING_TIMEOUTS, STAT_COUNTER, "http2_ping_timeouts_total", "",                                     \
	  "Upstream HTTP/2 connections closed because the endpoint did not answer a PING")                              \
	X(STAT_TRANSPORT_REFUSED, STAT_COUNTER, "transport_refused_total", "",                                         \
	  "Connections to a peer that did not take transport h2")                                                      \
	X(STAT_GRPC_OK, STAT_COUNTER, "grpc_responses_total", "class=\"ok\"", "gRPC responses, by status")              \
	X(STAT_GRPC_CANCELLED, STAT_COUNTER, "grpc_responses_total", "class=\"cancelled\"",                             \
	  "gRPC responses, by status")                                                                                 \
	X(STAT_GRPC_DEADLINE, STAT_COUNTER, "grpc_responses_total", "class=\"deadline_exceeded\"",                      \
	  "gRPC responses, by status")                                                                                 \
	X(STAT_GRPC_UNAVAILABLE, STAT_COUNTER, "grpc_responses_total", "class=\"unavailable\"",                         \
	  "gRPC responses, by status")                                                                                 \
	X(STAT_GRPC_ERROR, STAT_COUNTER, "grpc_responses_total", "class=\"error\"", "gRPC responses, by status")        \
	X(STAT_GRPC_NONE, STAT_COUNTER, "grpc_responses_total", "class=\"none\"", "gRPC responses, by status")          \
	X(STAT_RPC_REQUESTS, STAT_COUNTER, "rpc_requests_total", "", "RPC requests received, one-way ones included")     \
	X(STAT_RPC_OK, STAT_COUNTER, "rpc_responses_total", "result=\"success\"", "RPC responses passed on")             \
	X(STAT_RPC_ERROR, STAT_COUNTER, "rpc_responses_total", "result=\"error\"", "RPC responses passed on")            \
	X(STAT_RPC_FAILED, STAT_COUNTER, "rpc_failures_total", "", "RPC requests answered by the proxy itself")          \
	X(STAT_RPC_TIMEOUTS, STAT_COUNTER, "rpc_timeouts_total", "", "RPC requests that were not answered in time")      \
	X(STAT_RPC_LATE, STAT_COUNTER, "rpc_late_responses_total", "", "RPC responses that nobody waited for any more")  \
	X(STAT_RPC_RETRIES, STAT_COUNTER, "rpc_retries_total", "", "RPC requests taken to another endpoint, unsent")     \
	X(STAT_RPC_REFUSED, STAT_COUNTER, "rpc_frames_refused_total", "",                                              \
	  "RPC frames refused as malformed or too large")                                                              \
	X(STAT_RPC_HEARTBEATS_IN, STAT_COUNTER, "rpc_heartbeats_total", "side=\"answered\"",                             \
	  "RPC heartbeats answered and sent")                                                                          \
	X(STAT_RPC_HEARTBEATS_OUT, STAT_COUNTER, "rpc_heartbeats_total", "side=\"sent\"",                                \
	  "RPC heartbeats answered and sent")                                                                          \
	X(STAT_PLUGIN_FAULTS, STAT_COUNTER, "plugin_faults_total", "",                                                  \
	  "Plug-ins that said what cannot be")                                                                         \
	X(STAT_PLUGIN_REFUSED, STAT_COUNTER, "plugin_refused_connections_total", "",                                    \
	  "Connections refused because their plug-in had misbehaved")                                                  \
	X(STAT_UPSTREAM_CONNECTIONS, STAT_COUNTER, "upstream_connections_total", "", "Upstream connections opened")     \
	X(STAT_UPSTREAM_FAILED, STAT_COUNTER, "upstream_connect_failures_total", "",                                   \
	  "Upstream connections that could not be made")                                                               \
	X(STAT_UPSTREAM_REUSED, STAT_COUNTER, "upstream_reuses_total", "", "Requests sent on a pooled connection")      \
	X(STAT_UPSTREAM_SILENT, STAT_COUNTER, "upstream_silent_total", "",                                             \
	  "Connections for further requests given up because the other host acknowledged nothing")                      \
	X(STAT_UPSTREAM_ACTIVE, STAT_GAUGE, "upstream_connections_active", "", "Upstream connections open now")         \
	X(STAT_TLS_SERVER_HANDSHAKES, STAT_COUNTER, "tls_handshakes_total", "side=\"server\"", "TLS handshakes done")    \
	X(STAT_TLS_CLIENT_HANDSHAKES, STAT_COUNTER, "tls_handshakes_total", "side=\"client\"", "TLS handshakes done")    \
	X(STAT_TLS_RESUMED, STAT_COUNTER, "tls_sessions_resumed_total", "", "TLS handshakes that resumed a session")    \
	X(STAT_TLS_FAILED, STAT_COUNTER, "tls_handshake_failures_total", "", "TLS handshakes that failed")              \
	X(STAT_TLS_BROKEN, STAT_COUNTER, "tls_connection_failures_total", "",                                          \
	  "TLS connections that failed after the handshake")                                                           \
	X(STAT_TLS_REFUSED_PLAINTEXT, STAT_COUNTER, "tls_plaintext_refused_total", "",                                 \
	  "Plaintext connections refused by strict mode")                                                              \
	X(STAT_RECEIVED_BYTES, STAT_COUNTER, "downstream_received_bytes_total", "", "Bytes received from downstream")   \
	X(STAT_SENT_BYTES, STAT_COUNTER, "downstream_sent_bytes_total", "", "Bytes sent downstream")                    \
	X(STAT_ACCELERATED_CONNECTIONS, STAT_COUNTER, "accelerated_connections_total", "",                             \
	  "Connections within this host whose bytes may go past TCP")                                                  \
	X(STAT_ACCELERATED_MESSAGES, STAT_COUNTER, "accelerated_messages_total", "", "Messages that went past TCP")     \
	X(STAT_ACCELERATED_BYTES, STAT_COUNTER, "accelerated_bytes_total", "", "Bytes that went past TCP")              \
	X(STAT_ACCELERATED_FALLBACKS, STAT_COUNTER, "accelerated_fallbacks_total", "",                                 \
	  "Directions of such connections that went over to TCP")                                                      \
	X(STAT_JOINED_MESSAGES, STAT_COUNTER, "accelerated_joined_messages_total", "",                                 \
	  "Messages of local applications that passed the proxy by")                                                   \
	X(STAT_JOINED_BYTES, STAT_COUNTER, "accelerated_joined_bytes_total", "",                                       \
	  "Bytes of local applications that passed the proxy by")                                                      \
	X(STAT_RELAYED_MESSAGES, STAT_COUNTER, "accelerated_relayed_messages_total", "",                               \
	  "Buffers that the kernel relayed from one connection to another")                                            \
	X(STAT_RELAYED_BYTES, STAT_COUNTER, "accelerated_relayed_bytes_total", "",                                     \
	  "Bytes that the kernel relayed from one connection to another")                                              \
	X(STAT_RELAYED_FALLBACKS, STAT_COUNTER, "accelerated_relayed_fallbacks_total", "",                             \
	  "Times that a relayed direction went over to the proxy")                                                     \
	X(STAT_DNS_QUERIES, STAT_COUNTER, "dns_queries_total", "", "DNS queries received")                              \
	X(STAT_DNS_ANSWERED, STAT_COUNTER, "dns_answers_total", "source=\"own\"", "DNS answers, by source")              \
	X(STAT_DNS_CACHED, STAT_COUNTER, "dns_answers_total", "source=\"cache\"", "DNS answers, by source")              \
	X(STAT_DNS_FORWARDED, STAT_COUNTER, "dns_answers_total", "source=\"upstream\"", "DNS answers, by source")        \
	X(STAT_DNS_STALE, STAT_COUNTER, "dns_answers_total", "source=\"stale\"", "DNS answers, by source")               \
	X(STAT_DNS_FAILED, STAT_COUNTER, "dns_failures_total", "", "DNS queries answered SERVFAIL")                     \
	X(STAT_DNS_MALFORMED, STAT_COUNTER, "dns_malformed_total", "", "DNS messages that could not be read")           \
	X(STAT_CONFIG_RELOADS, STAT_COUNTER, "config_reloads_total", "result=\"applied\"", "Configurations loaded")      \
	X(STAT_CONFIG_REJECTED, STAT_COUNTER, "config_reloads_total", "result=\"rejected\"", "Configurations loaded")
// clang-format on

enum counter {
#define STAT_ENUM(symbol, ...) symbol,
	STAT_TABLE(STAT_ENUM)
#undef STAT_ENUM
	    STAT_COUNT
};

struct stat_row {
	enum stat_kind kind;
	const char *name, *labels, *help;
};
extern const struct stat_row stat_rows[STAT_COUNT];

// Makes the shared memory with `slots` slots (a memfd, sealed against shrinking). 0 or a negative error. Call
// once, before threads start. Without it stats_add counts into a slot that nobody reads (unit tests).
int stats_init(unsigned slots);
// The calling thread adds to this slot from now on.
void stats_use_slot(unsigned slot);
// The descriptor of the shared memory, for readers in other processes; borrowed; -1 before stats_init.
int stats_fd(void);
// Sum over all slots; any thread.
uint64_t stats_read(enum counter counter);

extern __thread uint64_t *_stats_slot;
// A slot has one writer, so no atomic addition is needed: only loads and stores that readers may cross.
static inline void stats_add(enum counter counter, uint64_t n)
{
	uint64_t value = __atomic_load_n(&_stats_slot[counter], __ATOMIC_RELAXED);
	__atomic_store_n(&_stats_slot[counter], value + n, __ATOMIC_RELAXED);
}
static inline void stats_inc(enum counter counter)
{
	stats_add(counter, 1);
}
static inline void stats_dec(enum counter counter)
{
	stats_add(counter, (uint64_t)-1);
}
