// SPDX-License-Identifier: Apache-2.0
// A downstream connection: from accept to close, on one worker. It recovers the original destination, finds
// the virtual host, tells TLS from plaintext and one protocol from another, and hands the stream to what
// speaks it: the HTTP/1 server (exchange/http1_server.h), the HTTP/2 server (exchange/http2_server.h) or a
// tunnel (exchange/tunnel.h). The state is stream.ops: whoever owns the stream now.
#pragma once

#include "base/buf.h"
#include "exchange/upstream.h"
#include "exchange/conn_info.h"
#include "net/stream.h"

struct exchange;
struct http2_server;
struct framed_server;
struct streamed_server;
struct tunnel;
struct upstream;

// What told how a connection is spoken to.
enum decided_by {
	DECIDED_NOT_YET,
	DECIDED_DECLARED, // the configuration, without a look at the bytes
	DECIDED_BYTES,	  // the client's first bytes
	DECIDED_GREETING, // the server spoke first
	DECIDED_STALL,	  // the first bytes stayed ambiguous
	DECIDED_END,	  // the client sent its end before
	DECIDED_ALPN,	  // what was agreed upon in the TLS handshake
};
enum { DECIDED_US_MAX = (1 << 28) - 1 };

struct connection {
	struct stream stream;
	struct dataplane *dataplane;
	struct list node; // dataplane.connections
	struct loop_timer timer;
	struct loop_task task; // the first look, the next request
	struct loop_task free_task;
	struct bufq in;			  // bytes read and not used yet
	struct exchange *exchange;	  // the request under way (HTTP), or what carries TCP
	struct exchange *probe;		  // begun before the protocol was known, to be carried
	struct http2_server *http2;	  // its streams (HTTP/2)
	struct tunnel *tunnel;		  // the other half (TCP)
	struct framed_server *framed;	  // the calls under way (RPC)
	struct streamed_server *streamed; // the request under way (in order, by a plug-in)
	struct upstream *early;		  // dialled before the protocol was known
	struct endpoint_state *endpoint;  // the last one used; a reference
	struct addr peer, destination;
	uint64_t id, opened_ns;
	uint32_t requests;
	uint32_t linger_bytes;
	uint8_t protocol; // enum protocol
	uint8_t refusals; // answered by the proxy itself without a pause
	uint8_t early_failures;
	bool inbound : 1;
	bool closing : 1; // no further request
	bool closed : 1;
	bool stalling : 1;  // the first bytes did not tell the protocol yet
	bool dialled : 1;   // an early upstream connection was begun
	bool transport : 1; // a sidecar's: streams that carry what its applications sent
	bool greeting : 1;  // the application spoke first, and the client may still be about to start TLS
	uint32_t decided_by : 4;  // enum decided_by
	uint32_t decided_us : 28; // after it was accepted, at most DECIDED_US_MAX
};

// Its client is to go elsewhere after the answer under way.
static inline bool connection_is_draining(const struct connection *connection)
{
	return connection->dataplane->draining || (connection->dataplane->retiring && connection->inbound);
}

// Takes over an accepted socket: from here on all is automatic.
void connection_accept(struct dataplane *dataplane, int fd, const struct addr *peer, bool inbound);
// Whom its upstream connections serve.
struct upstream_side connection_side(const struct connection *connection);
// Closes both halves at once and frees at the end of the turn. Safe to call again.
void connection_close(struct connection *connection);
// The same with RST to the client.
void connection_reset(struct connection *connection);
// Sends what is queued and our end, however slowly the client reads; then waits a little for the client's
// end, so that it gets to read the answer (RFC 9112 9.6); then closes.
void connection_linger(struct connection *connection);
// (Re)starts the idle timer; it closes the connection.
void connection_idle(struct connection *connection);
// The virtual host that the original destination names in the model; NULL if none.
const struct virtual_host *connection_host(const struct connection *connection, const struct model *model);
// Adds to connection.in, in one piece: what a parser that wanted more gets to see next. 0 or -ENOMEM.
int connection_keep(struct connection *connection, struct slice bytes);
// The upstream connection that was dialled before the protocol was known, if it leads into this cluster
// (NULL: to the original destination); the caller adopts it. NULL: there is none.
struct upstream *connection_take_early(struct connection *connection, const struct cluster *cluster);
// There is no use for it: to the pool if it is ready, else closed.
void connection_drop_early(struct connection *connection);
// What was begun to carry it while the client is silent came to nothing.
void connection_probe_failed(struct connection *connection);
// Notes what told how to speak, and when; the last time counts (TLS, then what is in it).
void connection_decided(struct connection *connection, enum decided_by by);
// Remembers the endpoint that serves it.
void connection_set_endpoint(struct connection *connection, struct endpoint_state *endpoint);

// Calls fn for each connection of the worker.
void connection_each(struct dataplane *dataplane, conn_info_fn fn, void *arg);
// 0 or ERR_NOT_FOUND.
int connection_kill(struct dataplane *dataplane, uint64_t id);
// Version ("TLSv1.3") and peer identity of a TLS connection; both stay as they are for NULL.
void connection_describe_tls(const struct tls_conn *tls, const char **ret_version, struct str *ret_peer);
