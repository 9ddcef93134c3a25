// SPDX-License-Identifier: Apache-2.0
#include "exchange/connection.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "codecs/http1.h"
#include "codecs/http2.h"
#include "codecs/tls_hello.h"
#include "exchange/exchange.h"
#include "exchange/framed_server.h"
#include "exchange/http1_server.h"
#include "exchange/http2_server.h"
#include "exchange/streamed_server.h"
#include "exchange/tcp_server.h"
#include "exchange/tunnel.h"
#include "exchange/upstream.h"
#include "intercept/origdst.h"
#include "net/bypass.h"
#include "net/tls.h"
#include "run/stats.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
	LINGER_MS = 2000, // after the last byte either way, for the client to read the answer and close
	STALL_MS = 1000,  // the first bytes stay ambiguous so long: then they are just bytes
	STALL_FRAME_MS =
	    100,	     // the same where they could only begin a frame, which programs send as one piece
	EARLY_PAUSE_MS = 10, // before dialling an endpoint to which pooled connections wait for requests
	EARLY_ATTEMPTS = 3,  // endpoints that are tried while the client is silent
	EARLY_FAILURE_MS = 1000, // all refused while the client is silent: a request may still come
	GREETING_MIN_MS = 20, // an application's greeting waits for the client's TLS hello: four round trips,
	GREETING_MAX_MS = 500, // within these bounds
};

static const struct stream_ops detect_ops;

static struct connection *from_stream(struct stream *stream)
{
	return container_of(stream, struct connection, stream);
}

// --- end of life --------------------------------------------------------------------------------------------
static void connection_free(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, free_task);
	struct dataplane *dataplane = connection->dataplane;
	http2_server_free(connection);
	framed_server_free(connection);
	streamed_server_free(connection);
	pool_put(&dataplane->connection_pool, connection);
	dataplane_connection_gone(dataplane);
}

// A failure after the handshake; those of the handshake are told where it ends.
static void report_tls_failure(const struct connection *connection)
{
	const struct tls_conn *tls = connection->stream.tls;
	if (!tls || !tls_conn_handshake_done(tls) || !tls_conn_error(tls)[0])
		return;
	stats_inc(STAT_TLS_BROKEN);
	log_info("TLS connection failed", LOG_ADDR("peer", &connection->peer),
		 LOG_ADDR("destination", &connection->destination), LOG_TEXT("reason", tls_conn_error(tls)));
}

void connection_close(struct connection *connection)
{
	if (connection->closed)
		return;
	connection->closed = true;
	report_tls_failure(connection);
	if (connection->tunnel)
		tunnel_count(connection->tunnel);
	stats_add(STAT_RECEIVED_BYTES, connection->stream.received);
	stats_add(STAT_SENT_BYTES, connection->stream.sent);
	stats_dec(connection->inbound ? STAT_INBOUND_ACTIVE : STAT_OUTBOUND_ACTIVE);
	loop_timer_stop(&connection->timer);
	list_del(&connection->node);
	http1_server_abort(connection);
	tcp_server_drop_probe(connection);
	http2_server_abort(connection);
	framed_server_stop(connection);
	streamed_server_stop(connection);
	tunnel_free(connection);
	upstream_close(connection->early);
	connection->early = NULL;
	bufq_clear(&connection->in);
	connection_set_endpoint(connection, NULL);
	stream_close(&connection->stream);
	loop_defer(connection->dataplane->loop, &connection->free_task, connection_free);
}

void connection_reset(struct connection *connection)
{
	stream_set_reset(&connection->stream);
	connection_close(connection);
}

static void on_timeout(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	if (connection->tunnel && tunnel_count(connection->tunnel))
		connection_idle(connection);
	else
		connection_close(connection);
}

static void connection_timer(struct connection *connection, loop_timer_fn fn, uint64_t delay_ms)
{
	connection->timer.fn = fn;
	loop_timer_start(connection->dataplane->loop, &connection->timer, delay_ms);
}

void connection_idle(struct connection *connection)
{
	connection_timer(connection, on_timeout, dataplane_model(connection->dataplane)->timeouts.idle_ms);
}

// Reads and drops what the client still sends, so that closing does not reset what it has not read yet. While
// the answer is not sent, a slow client has the time of an idle connection to take it.
static void linger_read(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	int n = ERR_LIMIT;
	while (connection->linger_bytes < LIMIT_LINGER_BYTES && (n = stream_discard(stream)) > 0)
		connection->linger_bytes += (uint32_t)n;
	if (!stream_is_flushed(stream))
		return;
	if (n == ERR_NEED_MORE)
		connection_timer(connection, on_timeout, LINGER_MS);
	else
		connection_close(connection);
}

static void linger_failed(struct stream *stream, int err)
{
	(void)err;
	connection_close(from_stream(stream));
}

static const struct stream_ops linger_ops = {
    .on_readable = linger_read, .on_drained = linger_read, .on_write_error = linger_failed};

void connection_linger(struct connection *connection)
{
	if (connection->closed)
		return;
	connection->stream.ops = &linger_ops;
	connection->closing = true;
	bufq_clear(&connection->in);
	stream_shutdown(&connection->stream);
	stream_want_drained(&connection->stream);
	connection_idle(connection);
}

void connection_set_endpoint(struct connection *connection, struct endpoint_state *endpoint)
{
	if (connection->endpoint == endpoint)
		return;
	if (connection->endpoint)
		endpoint_state_unref(connection->endpoint);
	connection->endpoint = endpoint ? endpoint_state_ref(endpoint) : NULL;
}

// --- what holds for it --------------------------------------------------------------------------------------
const struct virtual_host *connection_host(const struct connection *connection, const struct model *model)
{
	return connection->inbound ? NULL : model_host_by_address(model, &connection->destination);
}

int connection_keep(struct connection *connection, struct slice bytes)
{
	return bufq_append_flat(&connection->in, bytes);
}

static struct str first_bytes(const struct connection *connection)
{
	struct slice slice = bufq_first(&connection->in);
	return (struct str){(const char *)slice.p, slice.len};
}

static const struct virtual_host *current_host(const struct connection *connection)
{
	return connection_host(connection, dataplane_model(connection->dataplane));
}

static const struct inbound_port *inbound_policy(const struct connection *connection)
{
	return model_inbound(dataplane_model(connection->dataplane), connection->destination.port);
}

// The mode that is still to be satisfied: off once TLS is there. Permissive without a certificate is
// plaintext.
static enum tls_mode pending_tls(const struct connection *connection)
{
	if (!connection->inbound || connection->stream.tls)
		return TLS_MODE_OFF;
	enum tls_mode mode = inbound_policy(connection)->tls;
	return mode == TLS_MODE_PERMISSIVE && !connection->dataplane->tls ? TLS_MODE_OFF : mode;
}

// What the configuration says of the port; never NULL.
static const struct port_rule *port_rule(const struct connection *connection)
{
	static const struct port_rule any = {.protocol = PORT_AUTO};
	const struct virtual_host *host = connection->inbound ? NULL : current_host(connection);
	if (connection->inbound)
		return &inbound_policy(connection)->rule;
	return host ? &host->rule : &any;
}

static enum port_protocol declared_protocol(const struct connection *connection)
{
	return port_rule(connection)->protocol;
}

void connection_decided(struct connection *connection, enum decided_by by)
{
	uint64_t us = (loop_now(connection->dataplane->loop) - connection->opened_ns) / 1000;
	connection->decided_by = by;
	connection->decided_us = us < DECIDED_US_MAX ? (uint32_t)us : DECIDED_US_MAX;
}

// --- handing over -------------------------------------------------------------------------------------------
static void spare_lost(struct upstream *upstream)
{
	struct connection *connection = upstream->owner;
	connection->early = NULL;
	upstream_close(upstream);
}

static void spare_ready(struct upstream *upstream, int err)
{
	if (err)
		spare_lost(upstream);
}

static void spare_error(struct upstream *upstream, int err)
{
	(void)err;
	spare_lost(upstream);
}

// A server of HTTP/2 sends its settings unasked: that says nothing about who speaks first.
static bool sent_settings(struct upstream *upstream)
{
	char bytes[9];
	int n = stream_peek_bytes(&upstream->stream, bytes, sizeof bytes);
	return n > 0 && http2_is_server_preface((struct str){bytes, (size_t)n});
}

static void spare_readable(struct upstream *upstream)
{
	if (!sent_settings(upstream) && stream_peek(&upstream->stream) != ERR_NEED_MORE)
		spare_lost(upstream);
}

static void spare_drained(struct upstream *upstream)
{
	(void)upstream;
}

// Dialled early, and now it waits whether the first request can use it. Bytes that nobody asked for, or the
// end, make it useless.
static const struct upstream_ops spare_ops = {spare_ready, spare_readable, spare_drained, spare_error};

void connection_drop_early(struct connection *connection)
{
	struct upstream *early = connection->early;
	connection->early = NULL;
	if (early && early->ready)
		upstream_release(early, NULL);
	else
		upstream_close(early);
}

struct upstream *connection_take_early(struct connection *connection, const struct cluster *cluster)
{
	struct upstream *early = connection->early;
	if (!early || early->endpoint->retired ||
	    !str_eq(early->endpoint->cluster_name, cluster ? cluster->name : STR("")))
		return NULL;
	connection->early = NULL;
	return early;
}

static void become_http(struct connection *connection)
{
	tcp_server_drop_probe(connection);
	if (connection->early)
		upstream_adopt(connection->early, &spare_ops, connection);
	connection->protocol = PROTOCOL_HTTP1;
	http1_server_start(connection);
}

static void become_http2(struct connection *connection)
{
	tcp_server_drop_probe(connection);
	if (connection->early)
		upstream_adopt(connection->early, &spare_ops, connection);
	http2_server_start(connection);
}

static void become_tunnel(struct connection *connection, enum protocol protocol,
			  const struct virtual_host *host)
{
	if (host != current_host(connection))
		connection_drop_early(connection); // a name in the bytes leads elsewhere than the address
	connection->protocol = (uint8_t)protocol;
	tunnel_start(connection, host);
}

static void become_framed(struct connection *connection, const struct framed_codec *codec)
{
	tcp_server_drop_probe(connection);
	connection_drop_early(connection); // to the pool, where calls look first
	if (!codec_is_usable(codec)) {
		stats_inc(STAT_PLUGIN_REFUSED);
		connection_reset(connection);
		return;
	}
	if (codec->streamed)
		streamed_server_start(connection, codec);
	else
		framed_server_start(connection, codec);
}

static void refuse_plaintext(struct connection *connection)
{
	stats_inc(STAT_TLS_REFUSED_PLAINTEXT);
	log_info("plaintext refused by strict TLS mode", LOG_ADDR("peer", &connection->peer),
		 LOG_ADDR("destination", &connection->destination));
	connection_linger(connection);
}

static void become_tls(struct connection *connection)
{
	struct tls_conn *tls;
	enum port_protocol declared = declared_protocol(connection);
	struct tls_peer_rules rules = {.alpn = declared == PORT_HTTP2  ? STR("h2")
					       : declared == PORT_HTTP ? STR("http/1.1")
								       : STR("")};
	int err = connection->dataplane->tls
		      ? tls_conn_new(connection->dataplane->tls, TLS_SERVER, &rules, &tls)
		      : ERR_TLS;
	if (!err)
		err = stream_accept_tls(&connection->stream, tls, &connection->in);
	if (err)
		connection_close(connection);
	else
		connection_timer(connection, on_timeout, LIMIT_TLS_HANDSHAKE_MS);
	connection->stalling = false; // that was about the hello; now it is about what comes inside
}

// The server spoke first.
static void become_greeted(struct connection *connection, const struct virtual_host *host)
{
	connection_decided(connection, DECIDED_GREETING);
	become_tunnel(connection, PROTOCOL_TCP, host);
}

// Each stream dials for itself.
static void become_transport(struct connection *connection)
{
	connection_decided(connection, DECIDED_ALPN);
	upstream_close(connection->early);
	connection->early = NULL;
	connection->transport = true;
	http2_server_start(connection);
}

static void on_tls_done(struct stream *stream, int err)
{
	struct connection *connection = from_stream(stream);
	if (!err) {
		stats_inc(STAT_TLS_SERVER_HANDSHAKES);
		if (tls_conn_resumed(stream->tls))
			stats_inc(STAT_TLS_RESUMED);
		connection_idle(connection);
		if (str_eq(tls_conn_alpn(stream->tls), STR(TLS_ALPN_TRANSPORT)))
			become_transport(connection);
		else if (connection->greeting)
			become_greeted(connection, NULL);
		return; // on_readable follows
	}
	stats_inc(STAT_TLS_FAILED);
	log_info("TLS handshake failed", LOG_ADDR("peer", &connection->peer),
		 LOG_ADDR("destination", &connection->destination),
		 LOG_TEXT("reason", tls_conn_error(stream->tls)), LOG_ERR(err));
	connection_linger(connection); // lets the alert out
}

// --- dialling early: whoever speaks first decides -----------------------------------------------------------
static void early_greeted(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	become_greeted(connection, current_host(connection));
}

static void early_refused(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	tunnel_refuse(connection, current_host(connection));
}

static uint64_t greeting_wait_ms(const struct connection *connection)
{
	struct tcp_info info;
	socklen_t len = sizeof info;
	if (getsockopt(stream_fd(&connection->stream), IPPROTO_TCP, TCP_INFO, &info, &len) < 0)
		return GREETING_MIN_MS;
	uint64_t wait_ms = (uint64_t)info.tcpi_rtt * 4 / 1000;
	return MIN(MAX(wait_ms, (uint64_t)GREETING_MIN_MS), (uint64_t)GREETING_MAX_MS);
}

static bool begins_like_tls(const struct connection *connection)
{
	struct str bytes = first_bytes(connection);
	return bytes.len && bytes.p[0] == 0x16;
}

static void early_ready(struct upstream *upstream, int err);

// The application spoke first. In permissive mode the client may be a mesh peer whose TLS hello is still on
// its way (it is sent right behind the handshake of TCP): the greeting waits for it a few round trips, for
// plaintext would break that peer. If it comes later still, the peer fails its handshake before any payload
// and dials again. A hello that has begun is waited for as long as any hello.
static void early_readable(struct upstream *upstream)
{
	struct connection *connection = upstream->owner;
	int n = stream_peek(&upstream->stream);
	if (n == ERR_NEED_MORE || (n > 0 && sent_settings(upstream)))
		return;
	if (n < 0 && n != ERR_EOF) {
		early_ready(upstream, n);
		return;
	}
	if (stream_is_connecting(&connection->stream) || connection->greeting) {
		connection->greeting = true;
		return;
	}
	if (pending_tls(connection) == TLS_MODE_OFF) {
		become_greeted(connection, current_host(connection));
		return;
	}
	connection->greeting = true;
	if (!begins_like_tls(connection))
		connection_timer(connection, early_greeted, greeting_wait_ms(connection));
}

static void dial_again(struct connection *connection);

static void early_ready(struct upstream *upstream, int err)
{
	struct connection *connection = upstream->owner;
	if (!err)
		return;
	connection->early = NULL;
	upstream_close(upstream);
	dial_again(connection);
}

static void early_drained(struct upstream *upstream)
{
	(void)upstream;
}

static void early_error(struct upstream *upstream, int err)
{
	early_ready(upstream, err);
}

static const struct upstream_ops early_ops = {early_ready, early_readable, early_drained, early_error};

struct upstream_side connection_side(const struct connection *connection)
{
	struct upstream_side side = {.inbound = connection->inbound};
	const struct ip *client = &connection->peer.ip;
	bool link_local =
	    client->family == AF_INET6 && client->bytes[0] == 0xfe; // means nothing without its link
	if (connection->inbound && connection->dataplane->settings.client_mark && !link_local)
		side.client = *client;
	return side;
}

// Where a connection goes whose client says nothing: a reference to the endpoint, and the cluster. Endpoint
// NULL: nowhere.
static struct upstream_target early_target(const struct connection *connection)
{
	struct dataplane *dataplane = connection->dataplane;
	const struct virtual_host *host = current_host(connection);
	if (host && !host->default_route)
		return (struct upstream_target){0};
	if (!host)
		return upstream_target(balancer_address(dataplane->balancer, &connection->destination), NULL,
				       connection_side(connection));
	const struct cluster *cluster = route_pick(host->default_route, random_u64());
	struct endpoint_state *endpoint =
	    balancer_pick(dataplane->balancer, cluster, NULL, loop_now(dataplane->loop));
	return upstream_target(endpoint ? endpoint_state_ref(endpoint) : NULL, cluster,
			       connection_side(connection));
}

static void dial(struct connection *connection, const struct upstream_target *target)
{
	if (target->transport)
		tcp_server_probe(connection, current_host(connection), target->cluster);
	else if (upstream_connect(connection->dataplane, target, &early_ops, connection, &connection->early))
		connection_timer(connection, early_refused, EARLY_FAILURE_MS);
}

void connection_probe_failed(struct connection *connection)
{
	connection_timer(connection, early_refused, EARLY_FAILURE_MS);
}

static void dial_after_pause(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	struct upstream_target target = early_target(connection);
	connection_idle(connection);
	if (!target.endpoint)
		return;
	dial(connection, &target);
	endpoint_state_unref(target.endpoint);
}

// An endpoint failed while the client is silent: there may be another, unless it is an original destination.
static void dial_again(struct connection *connection)
{
	struct upstream_target target = {0};
	if (current_host(connection) && ++connection->early_failures < EARLY_ATTEMPTS)
		target = early_target(connection);
	if (!target.endpoint) {
		connection_timer(connection, early_refused, EARLY_FAILURE_MS);
		return;
	}
	dial(connection, &target);
	endpoint_state_unref(target.endpoint);
}

// Where connections are pooled, requests are what is spoken, and one is likely under way: a moment's pause
// saves a connection that nobody needs. A server that speaks first is waited for that much longer there, no
// more.
static void dial_early(struct connection *connection)
{
	if (connection->dialled || pending_tls(connection) == TLS_MODE_STRICT)
		return;
	connection->dialled = true;
	struct upstream_target target = early_target(connection);
	if (!target.endpoint)
		return;
	bool pooled = !list_empty(&target.endpoint->idle) || !list_empty(&target.endpoint->shared) ||
		      !list_empty(&target.endpoint->framed);
	if (!pooled || connection->in.bytes)
		dial(connection, &target);
	else
		connection_timer(connection, dial_after_pause, EARLY_PAUSE_MS);
	endpoint_state_unref(target.endpoint);
}

// --- detection ----------------------------------------------------------------------------------------------
static bool undecided(const struct connection *connection)
{
	return !connection->closed && connection->stream.ops == &detect_ops &&
	       !stream_is_connecting(&connection->stream);
}

// Whether this HTTP request names a virtual host: 1, 0 (no, or it is no proper head: then it is not for us to
// judge), or ERR_NEED_MORE.
static int names_host(const struct connection *connection)
{
	static __thread struct field fields[LIMIT_HTTP_HEADERS];
	const struct model *model = dataplane_model(connection->dataplane);
	struct http1_head head = {.head.fields = fields};
	enum http1_fault fault;
	int n = http1_request_parse(first_bytes(connection), model->max_head_bytes, LIMIT_HTTP_HEADERS, &head,
				    &fault);
	if (n == ERR_NEED_MORE)
		return n;
	return n > 0 && model_host_by_name(model, head.head.authority, connection->destination.port) != NULL;
}

static void wait_for_more(struct connection *connection, uint64_t limit_ms);

static void decide_http(struct connection *connection)
{
	int named = connection->inbound || current_host(connection) ? 1 : names_host(connection);
	if (named == 1)
		become_http(connection);
	else if (named == 0)
		become_tunnel(connection, PROTOCOL_HTTP1, NULL);
	else
		wait_for_more(connection, dataplane_model(connection->dataplane)->timeouts.head_ms);
}

// An application's own TLS: passed through, by VIP or by the name it asks for.
static void decide_app_tls(struct connection *connection)
{
	const struct virtual_host *host = current_host(connection);
	struct tls_hello hello;
	if (!host && !connection->inbound) {
		int err = tls_hello_parse(first_bytes(connection), &hello);
		if (err == ERR_NEED_MORE) {
			wait_for_more(connection, LIMIT_TLS_HANDSHAKE_MS);
			return;
		}
		if (!err && hello.sni.len)
			host = model_host_by_name(dataplane_model(connection->dataplane), hello.sni,
						  connection->destination.port);
	}
	become_tunnel(connection, PROTOCOL_TLS, host);
}

static void decide_protocol(struct connection *connection, enum protocol protocol)
{
	if (protocol == PROTOCOL_HTTP1)
		decide_http(connection);
	else if (protocol == PROTOCOL_HTTP2)
		become_http2(connection);
	else if (protocol == PROTOCOL_TLS)
		decide_app_tls(connection);
	else
		become_tunnel(connection, protocol, current_host(connection));
}

// In permissive mode TLS that does not offer the mesh's protocol is the application's own.
static void decide_mesh_tls(struct connection *connection, enum tls_mode mode)
{
	struct tls_hello hello;
	int err = mode == TLS_MODE_STRICT ? 0 : tls_hello_parse(first_bytes(connection), &hello);
	if (err == ERR_NEED_MORE) {
		wait_for_more(connection, LIMIT_TLS_HANDSHAKE_MS);
		return;
	}
	if (mode == TLS_MODE_STRICT || (!err && tls_hello_offers(&hello, STR(TLS_ALPN_MESH))))
		become_tls(connection);
	else
		decide_protocol(connection, PROTOCOL_TLS);
}

// A client that sent the start of what could be a request, and then waits: its protocol has short messages.
// Passing them on as they are is right for that, and does no harm to a request that is typed by hand.
static void on_stall(struct loop_timer *timer)
{
	struct connection *connection = container_of(timer, struct connection, timer);
	connection_decided(connection, DECIDED_STALL);
	if (pending_tls(connection) == TLS_MODE_STRICT)
		refuse_plaintext(connection);
	else
		become_tunnel(connection, PROTOCOL_TCP, current_host(connection));
}

static void wait_for_more(struct connection *connection, uint64_t limit_ms)
{
	dial_early(connection);
	if (connection->in.bytes && !connection->stalling && undecided(connection)) {
		connection->stalling = true;
		connection_timer(connection, on_stall, limit_ms);
	}
}

// What begins like TLS is never meant to stop there: a lost packet is likelier than a protocol of that kind.
static uint64_t stall_ms(const struct connection *connection)
{
	static const struct detect_set TEXT = {.http = true};
	const struct framed_codec *codec;
	enum protocol protocol;
	if (begins_like_tls(connection))
		return LIMIT_TLS_HANDSHAKE_MS;
	return detect(first_bytes(connection), &TEXT, &protocol, &codec) ? STALL_MS : STALL_FRAME_MS;
}

static const struct detect_set *looked_for(const struct connection *connection, const struct port_rule *rule)
{
	return rule->protocol == PORT_AUTO && rule->text.len
		   ? &rule->among
		   : &dataplane_model(connection->dataplane)->detect;
}

// One protocol is declared for the port: no look at the bytes.
static void become_declared(struct connection *connection, const struct port_rule *rule)
{
	connection_decided(connection, DECIDED_DECLARED);
	if (rule->protocol == PORT_RPC)
		become_framed(connection, rule->codec);
	else if (rule->protocol == PORT_HTTP)
		become_http(connection);
	else if (rule->protocol == PORT_HTTP2)
		become_http2(connection);
	else
		become_tunnel(connection, PROTOCOL_TCP, current_host(connection));
}

// Looks at what is there and acts, or waits for more.
static void decide(struct connection *connection)
{
	enum tls_mode tls = pending_tls(connection);
	const struct port_rule *rule = port_rule(connection);
	const struct framed_codec *codec = NULL;
	enum protocol protocol = PROTOCOL_UNKNOWN;
	if (tls == TLS_MODE_OFF && rule->protocol != PORT_AUTO) {
		become_declared(connection, rule);
		return;
	}
	int err = connection->in.bytes
		      ? detect(first_bytes(connection), looked_for(connection, rule), &protocol, &codec)
		      : ERR_NEED_MORE;
	if (err != ERR_NEED_MORE)
		connection_decided(connection, DECIDED_BYTES);
	if (err == ERR_NEED_MORE)
		wait_for_more(connection, stall_ms(connection));
	else if (tls != TLS_MODE_OFF && protocol == PROTOCOL_TLS)
		decide_mesh_tls(connection, tls);
	else if (tls == TLS_MODE_STRICT)
		refuse_plaintext(connection);
	else if (rule->protocol == PORT_TCP || rule->protocol == PORT_RPC)
		become_declared(connection, rule);
	else if (codec)
		become_framed(connection, codec);
	else
		decide_protocol(connection, protocol);
}

// The client sent its end before anything could be decided. What it sent, and the end, may still mean
// something to the application.
static void decide_at_end(struct connection *connection)
{
	connection_decided(connection, DECIDED_END);
	if (pending_tls(connection) == TLS_MODE_STRICT)
		connection_close(connection);
	else
		become_tunnel(connection, PROTOCOL_TCP, current_host(connection));
}

// Decides after every read, so that no more is taken than it needs: all parsers have their limits.
static void detect_readable(struct stream *stream)
{
	struct connection *connection = from_stream(stream);
	int n = 0;
	while (undecided(connection)) {
		struct slice slice;
		n = stream_read(stream, &slice);
		if (n > 0 && connection_keep(connection, slice))
			n = -ENOMEM;
		if (n <= 0)
			break;
		decide(connection);
	}
	if (!undecided(connection))
		return;
	if (n == ERR_NEED_MORE)
		decide(connection);
	else if (n == ERR_EOF)
		decide_at_end(connection);
	else
		connection_reset(connection);
}

static void detect_drained(struct stream *stream)
{
	(void)stream;
}

static void detect_failed(struct stream *stream, int err)
{
	(void)err;
	connection_reset(from_stream(stream));
}

static const struct stream_ops detect_ops = {on_tls_done, detect_readable, detect_drained, detect_failed};

static void first_look(struct loop_task *task)
{
	struct connection *connection = container_of(task, struct connection, task);
	if (!undecided(connection) || connection->dialled)
		return;
	// What is declared needs no look at the bytes.
	if (pending_tls(connection) == TLS_MODE_OFF && declared_protocol(connection) != PORT_AUTO)
		decide(connection);
	else
		detect_readable(&connection->stream);
}

// --- acceptance ---------------------------------------------------------------------------------------------
static void log_lost_destination(const struct addr *peer, int err)
{
	static atomic_flag said = ATOMIC_FLAG_INIT;
	stats_inc(STAT_LOST_DESTINATION);
	if (!atomic_flag_test_and_set(&said))
		log_warn("the original destination of a connection is unknown; further ones are only counted",
			 LOG_ADDR("peer", peer), LOG_ERR(err));
}

// Recovers where the connection was going. 0, or a negative error: then it must be closed.
static int find_destination(const struct dataplane *dataplane, int fd, const struct addr *peer, bool inbound,
			    struct addr *ret_addr)
{
	struct addr local = {0};
	int err = sock_local_addr(fd, &local);
	if (err)
		return err;
	// Handed over as it is, a connection has its destination for its local address.
	bool handed = inbound && local.port != dataplane->settings.inbound_port;
	*ret_addr = local;
	if (!handed)
		err = original_destination(fd, ret_addr);
	// A client may use one port for several of ours. Redirected, its connections differ only by a port that the
	// kernel changes on the way in, after it has looked for the socket. It looks again unless what it found is
	// transparent, as an accepted socket is by its listener.
	if (inbound && !handed)
		sock_set_transparent(fd, local.ip.family, false);
	if (err) {
		log_lost_destination(peer, err);
		if (dataplane_model(dataplane)->lost_destination == LOST_DESTINATION_CLOSE)
			return err;
		*ret_addr = local;
	}
	bool own_port = ret_addr->port == dataplane->settings.outbound_port ||
			ret_addr->port == dataplane->settings.inbound_port;
	if (own_port && addr_eq(ret_addr, &local)) {
		stats_inc(STAT_LOOP_REFUSED);
		return ERR_UNSUPPORTED;
	}
	return 0;
}

// Nobody has a virtual IP: dialled as an original destination it would be tried in vain, or reach a stranger.
static bool is_unserved(const struct dataplane *dataplane, const struct addr *peer,
			const struct addr *destination)
{
	const struct model *model = dataplane_model(dataplane);
	if (!model_is_virtual(model, &destination->ip) || model_host_by_address(model, destination))
		return false;
	stats_inc(STAT_UNSERVED);
	log_info("no service has this port of a virtual IP", LOG_ADDR("peer", peer),
		 LOG_ADDR("destination", destination));
	return true;
}

void connection_accept(struct dataplane *dataplane, int fd, const struct addr *peer, bool inbound)
{
	struct addr destination;
	struct connection *connection = NULL;
	if (find_destination(dataplane, fd, peer, inbound, &destination) == 0 &&
	    (inbound || !is_unserved(dataplane, peer, &destination)))
		connection = pool_zget(&dataplane->connection_pool);
	if (!connection) {
		sock_set_reset(fd, true);
		close(fd);
		return;
	}
	stream_init(&connection->stream, dataplane->loop, &detect_ops);
	connection->dataplane = dataplane;
	connection->inbound = inbound;
	connection->peer = *peer;
	connection->destination = destination;
	// The worker is in the id, so that an id is enough to find a connection.
	connection->id = dataplane->next_id++ << 8 | dataplane->index;
	connection->opened_ns = loop_now(dataplane->loop);
	loop_timer_init(&connection->timer, on_timeout);
	list_append(&dataplane->connections, &connection->node);
	dataplane->connection_count++;
	stats_inc(inbound ? STAT_INBOUND_CONNECTIONS : STAT_OUTBOUND_CONNECTIONS);
	stats_inc(inbound ? STAT_INBOUND_ACTIVE : STAT_OUTBOUND_ACTIVE);
	if (stream_accept(&connection->stream, fd)) {
		connection_close(connection);
		return;
	}
	connection_idle(connection);
	loop_defer(dataplane->loop, &connection->task, first_look);
}

// --- for the admin ------------------------------------------------------------------------------------------
void connection_describe_tls(const struct tls_conn *tls, const char **ret_version, struct str *ret_peer)
{
	if (!tls)
		return;
	*ret_version = tls_conn_version(tls);
	*ret_peer = tls_conn_peer_id(tls);
}

// What the pool knows of the endpoint that served it last.
static void describe_idle(const struct connection *connection, struct conn_info *info)
{
	struct endpoint_state *endpoint = connection->endpoint;
	if (!endpoint)
		return;
	info->endpoint = endpoint->addr;
	info->cluster = endpoint->cluster_name;
	list_for_each (node, &endpoint->idle)
		connection_describe_tls(container_of(node, struct upstream, node)->stream.tls,
					&info->upstream_tls_version, &info->upstream_tls_peer);
}

static const char *decision_of(const struct connection *connection)
{
	static const char *const words[] = {[DECIDED_DECLARED] = "declared for the port",
					    [DECIDED_BYTES] = "the client's first bytes",
					    [DECIDED_GREETING] = "the server spoke first",
					    [DECIDED_STALL] = "the first bytes stayed ambiguous",
					    [DECIDED_END] = "the client sent its end",
					    [DECIDED_ALPN] = "the TLS handshake (ALPN)"};
	return words[connection->decided_by];
}

static const char *state_of(const struct connection *connection)
{
	if (connection->exchange && connection->exchange->inner && connection->exchange->wants_tunnel)
		return "tunnel";
	if (connection->framed)
		return framed_server_state(connection);
	if (connection->streamed)
		return streamed_server_state(connection);
	if (connection->tunnel)
		return "tunnel";
	if (connection->exchange || http2_server_streams(connection))
		return "request";
	if (connection->closing)
		return "closing";
	return connection->protocol ? "idle" : "detecting";
}

// In HTTP/1 there is one at a time.
static void each_request(const struct connection *connection, stream_info_fn fn, void *arg)
{
	struct stream_info info;
	exchange_describe_stream(connection->exchange, &info);
	fn(&info, arg);
}

static void describe(const struct connection *connection, struct conn_info *info)
{
	const struct virtual_host *host = current_host(connection);
	*info = (struct conn_info){
	    .id = connection->id,
	    .inbound = connection->inbound,
	    .peer = connection->peer,
	    .destination = connection->destination,
	    .virtual_host = host ? host->name : STR(""),
	    .cluster = STR(""),
	    .protocol = connection->protocol ? protocol_name(connection->protocol) : NULL,
	    .service = STR(""),
	    .method = STR(""),
	    .transport = connection->transport ? "h2" : NULL,
	    .tls_peer = STR(""),
	    .upstream_tls_peer = STR(""),
	    .bytes_received = connection->stream.received,
	    .bytes_sent = connection->stream.sent,
	    .requests = connection->requests,
	    .opened_ns = connection->opened_ns,
	    .accelerated = bypass_has(stream_fd(&connection->stream)),
	    .decided_by = decision_of(connection),
	    .decided_us = connection->decided_us,
	    .state = state_of(connection),
	    .connection = connection,
	};
	sock_local_addr(stream_fd(&connection->stream), &info->local);
	connection_describe_tls(connection->stream.tls, &info->tls_version, &info->tls_peer);
	describe_idle(connection, info);
	if (connection->tunnel)
		tunnel_describe(connection->tunnel, info);
	if (connection->exchange)
		exchange_describe(connection->exchange, info);
	if (connection->exchange && connection->protocol == PROTOCOL_HTTP1)
		info->each_stream = each_request;
	if (connection->http2)
		http2_server_describe(connection, info);
	if (connection->framed)
		framed_server_describe(connection->framed, info);
	if (connection->streamed)
		streamed_server_describe(connection, info);
}

void connection_each(struct dataplane *dataplane, conn_info_fn fn, void *arg)
{
	struct conn_info info;
	list_for_each (node, &dataplane->connections) {
		struct connection *connection = container_of(node, struct connection, node);
		if (connection->tunnel && tunnel_count(connection->tunnel))
			connection_idle(connection);
		describe(connection, &info);
		fn(&info, arg);
	}
}

int connection_kill(struct dataplane *dataplane, uint64_t id)
{
	list_for_each (node, &dataplane->connections) {
		struct connection *connection = container_of(node, struct connection, node);
		if (connection->id == id) {
			connection_reset(connection);
			return 0;
		}
	}
	return ERR_NOT_FOUND;
}
