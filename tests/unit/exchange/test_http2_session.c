// SPDX-License-Identifier: Apache-2.0
// Two sessions of HTTP/2 that speak to each other over a socket pair: an echo server and its client.
#include "test.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http2.h"
#include "codecs/http2_codes.h"
#include "exchange/http2_session.h"

#include <endian.h>
#include <errno.h>
#include <sys/socket.h>

#define F(n, v)                                                                                              \
	{                                                                                                    \
		.name = STR(n), .value = STR(v)                                                              \
	}

// One end.
struct end {
	struct stream stream;
	struct http2_session session;
	int over, pongs, drained;
};

// A stream of either end.
struct half {
	struct http2_stream stream;
	struct arena arena;
	char status[4];
	size_t received, field_count;
	int heads, ends, ends_with_data, closed;
	uint32_t code;
	int too_large;
	bool grpc;
	bool hold; // gives no credit
	bool trailers_seen;
};

static struct loop *loop;
static struct end server, client;
static struct half halves[4]; // of the server, by stream
static unsigned opened;
static bool refuse_streams;
static bool answer_heads_only;
static const struct field *path_wanted; // NULL: none, or it was there

static struct half *of(struct http2_stream *stream)
{
	return container_of(stream, struct half, stream);
}

// --- operations ---------------------------------------------------------------------------------------------
static struct http2_stream *on_open(struct http2_session *session, int32_t id)
{
	(void)session, (void)id;
	if (refuse_streams || opened == ARRAY_SIZE(halves))
		return NULL;
	struct half *half = &halves[opened++];
	*half = (struct half){.hold = half->hold};
	return &half->stream;
}

static struct arena *arena_of(struct http2_stream *stream)
{
	return &of(stream)->arena;
}

static void on_server_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	static const struct field head[] = {F(":status", "200"), F("x-answer", "yes")};
	struct half *half = of(stream);
	half->field_count = count;
	half->ends += end;
	if (path_wanted && count == 5 && str_eq(fields[2].value, path_wanted->value) &&
	    str_eq(fields[4].value, STR("value")) && fields[2].never_indexed == path_wanted->never_indexed)
		path_wanted = NULL;
	if (half->heads++)
		return; // trailers
	if (http2_stream_respond(stream, head, 2, end && answer_heads_only))
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
	else if (end)
		http2_stream_end(stream, NULL, 0);
}

static void on_server_end(struct http2_stream *stream)
{
	static const struct field trailers[] = {F("x-sum", "1")};
	of(stream)->ends++;
	http2_stream_end(stream, trailers, 1);
}

static void on_server_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct half *half = of(stream);
	struct bufq out = {0};
	half->received += bytes.len;
	half->ends_with_data += end;
	if (bufq_add_slice(&out, bytes)) {
		http2_stream_reset(stream, HTTP2_INTERNAL_ERROR);
		return;
	}
	http2_stream_write(stream, &out);
	if (end)
		on_server_end(stream);
	else if (!half->hold)
		http2_stream_consume(stream);
}

static void on_client_fields(struct http2_stream *stream, struct field *fields, size_t count, bool end)
{
	struct half *half = of(stream);
	if (half->heads++ == 0)
		memcpy(half->status, fields[0].value.p, 3);
	else
		half->trailers_seen = str_eq(fields[0].name, STR("x-sum"));
	half->field_count = count;
	half->ends += end;
}

static void on_client_data(struct http2_stream *stream, struct slice bytes, bool end)
{
	struct half *half = of(stream);
	half->received += bytes.len;
	half->ends += end;
	if (!half->hold)
		http2_stream_consume(stream);
}

static void on_client_end(struct http2_stream *stream)
{
	of(stream)->ends++;
}

static void on_too_large(struct http2_stream *stream, bool grpc, bool end)
{
	struct half *half = of(stream);
	half->too_large++;
	half->grpc = grpc;
	half->ends += end;
}

static void on_end_sent(struct http2_stream *stream)
{
	(void)stream;
}

static void on_closed(struct http2_stream *stream, uint32_t code)
{
	of(stream)->closed++;
	of(stream)->code = code;
}

static void on_stream_drained(struct http2_stream *stream)
{
	container_of(stream->session, struct end, session)->drained++;
}

static void on_pong(struct http2_session *session)
{
	container_of(session, struct end, session)->pongs++;
}

static void on_settled(struct http2_session *session)
{
	(void)session;
}

static void on_over(struct http2_session *session)
{
	container_of(session, struct end, session)->over++;
}

static const struct http2_session_ops server_ops = {.open = on_open,
						    .arena = arena_of,
						    .fields = on_server_fields,
						    .too_large = on_too_large,
						    .data = on_server_data,
						    .end = on_server_end,
						    .end_sent = on_end_sent,
						    .closed = on_closed,
						    .drained = on_stream_drained,
						    .pong = on_pong,
						    .settled = on_settled,
						    .over = on_over};
static const struct http2_session_ops client_ops = {.arena = arena_of,
						    .fields = on_client_fields,
						    .too_large = on_too_large,
						    .data = on_client_data,
						    .end = on_client_end,
						    .end_sent = on_end_sent,
						    .closed = on_closed,
						    .drained = on_stream_drained,
						    .pong = on_pong,
						    .settled = on_settled,
						    .over = on_over};

static void on_readable(struct stream *stream)
{
	struct end *end = container_of(stream, struct end, stream);
	if (end->session.decoder)
		http2_session_read(&end->session);
}

static void on_drained(struct stream *stream)
{
	struct end *end = container_of(stream, struct end, stream);
	if (!end->session.decoder)
		return;
	http2_session_wake(&end->session);
	http2_session_read(&end->session);
}

static void on_write_error(struct stream *stream, int err)
{
	(void)stream, (void)err;
}

static const struct stream_ops stream_ops = {
    .on_readable = on_readable, .on_drained = on_drained, .on_write_error = on_write_error};

// --- the pair -----------------------------------------------------------------------------------------------
static int begin(void)
{
	int fds[2];
	server = client = (struct end){.stream._io.fd = -1};
	opened = 0;
	refuse_streams = answer_heads_only = false;
	memset(halves, 0, sizeof halves);
	if (loop_new(&loop))
		return -ENOMEM;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	stream_init(&server.stream, loop, &stream_ops);
	stream_init(&client.stream, loop, &stream_ops);
	int err = stream_accept(&server.stream, fds[0]);
	int other = stream_accept(&client.stream, fds[1]);
	if (!err && !other)
		err = http2_session_init(&server.session, &server.stream, true, &server_ops);
	if (!err && !other)
		err = http2_session_init(&client.session, &client.stream, false, &client_ops);
	if (err || other)
		return err ? err : other;
	http2_session_wake(&server.session);
	http2_session_wake(&client.session);
	return 0;
}

static void finish(struct half *half, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		http2_stream_detach(&half[i].stream);
		bufq_clear(&half[i].stream.out);
		arena_done(&half[i].arena);
	}
}

static void end(void)
{
	finish(halves, ARRAY_SIZE(halves));
	client.session.over = server.session.over = true;
	stream_close(&server.stream);
	stream_close(&client.stream);
	if (loop) {
		loop_turn(loop, 0);
		http2_session_done(&server.session);
		http2_session_done(&client.session);
		loop_free(loop);
	}
	loop = NULL;
	arena_thread_done();
	buf_thread_done();
}

static void on_deaf(struct stream *stream)
{
	(void)stream;
}

static void turns(int count)
{
	for (int i = 0; i < count; i++)
		loop_turn(loop, 1);
}

static const struct field GET[] = {F(":method", "GET"), F(":scheme", "http"), F(":path", "/"),
				   F(":authority", "a"), F("x-own", "value")};

static const char zeros[65536];

static void write_bytes(struct http2_stream *stream, size_t len)
{
	struct bufq out = {0};
	for (size_t n; len; len -= n) {
		n = MIN(len, sizeof zeros);
		bufq_add_static(&out, (struct str){zeros, n});
	}
	http2_stream_write(stream, &out);
}

// --- tests --------------------------------------------------------------------------------------------------
static void test_a_request(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, true), 0);
	turns(20);
	assert_string_equal(half.status, "200");
	assert_int_equal(half.ends, 1);
	assert_int_equal(half.closed, 1);
	assert_int_equal(half.code, 0);
	assert_int_equal(halves[0].field_count, 5);
	assert_int_equal(halves[0].closed, 1);
	assert_int_equal(client.session.open_count + server.session.open_count, 0);
	assert_true(client.session.has_settings && http2_session_takes_connect(&client.session));
	assert_int_equal(http2_session_max_streams(&client.session), LIMIT_HTTP2_STREAMS);
	finish(&half, 1);
	end();
}

static void test_a_big_body_and_trailers(void **state)
{
	(void)state;
	struct half half = {0};
	const size_t len = 3000000;
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	write_bytes(&half.stream, len);
	assert_true(http2_stream_congested(&half.stream));
	http2_stream_end(&half.stream, NULL, 0);
	for (int i = 0; i < 2000 && !half.closed; i++)
		turns(1);
	assert_int_equal(halves[0].received, len);
	assert_int_equal(half.received, len);
	assert_true(half.trailers_seen);
	assert_int_equal(half.ends, 1);
	assert_true(client.drained > 0);
	finish(&half, 1);
	end();
}

// Who gives no credit gets a window's worth, and other streams go on.
static void test_one_slow_stream(void **state)
{
	(void)state;
	struct half slow = {0}, quick = {0};
	assert_int_equal(begin(), 0);
	halves[0].hold = true;
	assert_int_equal(http2_stream_open(&client.session, &slow.stream, GET, 5, false), 0);
	write_bytes(&slow.stream, 2000000);
	turns(100);
	assert_int_equal(halves[0].received, LIMIT_HTTP2_STREAM_WINDOW);
	assert_int_equal(http2_stream_open(&client.session, &quick.stream, GET, 5, false), 0);
	write_bytes(&quick.stream, 2000000);
	http2_stream_end(&quick.stream, NULL, 0);
	for (int i = 0; i < 2000 && !quick.closed; i++)
		turns(1);
	assert_int_equal(quick.received, 2000000);
	halves[0].hold = false;
	http2_stream_consume(&halves[0].stream);
	http2_stream_end(&slow.stream, NULL, 0);
	for (int i = 0; i < 2000 && !slow.closed; i++)
		turns(1);
	assert_int_equal(slow.received, 2000000);
	finish(&slow, 1);
	finish(&quick, 1);
	end();
}

static void test_resets(void **state)
{
	(void)state;
	struct half half = {0}, refused = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	http2_stream_reset(&half.stream, HTTP2_CANCEL);
	http2_stream_reset(&half.stream, HTTP2_CANCEL); // safe
	turns(10);
	assert_int_equal(half.closed, 0); // it was let go
	assert_int_equal(halves[0].closed, 1);
	assert_int_equal(halves[0].code, HTTP2_CANCEL);
	refuse_streams = true;
	assert_int_equal(http2_stream_open(&client.session, &refused.stream, GET, 5, true), 0);
	turns(10);
	assert_int_equal(refused.closed, 1);
	assert_int_not_equal(refused.code, 0);
	finish(&half, 1);
	finish(&refused, 1);
	end();
}

// Each reset costs, a sidecar's (to which more are allowed), too.
static void check_reset_cost(bool trusted, enum http2_flood kind)
{
	struct half half = {0};
	assert_int_equal(begin(), 0);
	server.session.trusted = trusted;
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	uint32_t before = server.session.buckets[kind].tokens;
	http2_stream_reset(&half.stream, HTTP2_CANCEL);
	turns(10);
	assert_int_equal(halves[0].closed, 1);
	assert_int_equal(server.session.buckets[kind].tokens, before - 1);
	finish(&half, 1);
	end();
}

static void test_cost_of_resets(void **state)
{
	(void)state;
	check_reset_cost(false, HTTP2_FLOOD_RESET);
	check_reset_cost(true, HTTP2_FLOOD_OTHER);
}

// Frames on a stream that is over cost something, too: from clients more than from endpoints.
static void test_cost_of_closed_streams(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	struct http2_bucket *at_server = server.session.buckets, *at_client = client.session.buckets;
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	assert_int_equal(at_server[HTTP2_FLOOD_CLOSED].tokens, LIMIT_HTTP2_CLOSED);
	uint32_t others = at_client[HTTP2_FLOOD_OTHER].tokens;
	http2_stream_reset(&half.stream, HTTP2_CANCEL); // both at once: for either side it is over
	http2_stream_reset(&halves[0].stream, HTTP2_CANCEL);
	turns(10);
	assert_int_equal(at_server[HTTP2_FLOOD_CLOSED].tokens, LIMIT_HTTP2_CLOSED - 1);
	assert_int_equal(at_client[HTTP2_FLOOD_OTHER].tokens, others - 1);
	// A stream brings some.
	at_server[HTTP2_FLOOD_CLOSED].tokens = 0;
	struct half next = {0};
	assert_int_equal(http2_stream_open(&client.session, &next.stream, GET, 5, false), 0);
	turns(10);
	assert_int_equal(at_server[HTTP2_FLOOD_CLOSED].tokens, LIMIT_HTTP2_CLOSED_PER_STREAM);
	finish(&half, 1);
	finish(&next, 1);
	end();
}

static void check_ping_cost(struct end *from, struct end *to, uint32_t cost)
{
	uint32_t before = to->session.buckets[HTTP2_FLOOD_PING].tokens;
	int pongs = from->pongs;
	http2_session_ping(&from->session);
	turns(10);
	assert_int_equal(from->pongs, pongs + 1);
	assert_int_equal(to->session.buckets[HTTP2_FLOOD_PING].tokens, before - cost);
}

// One for each time that HEADERS or DATA went either way costs nothing.
static void test_cost_of_pings(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	turns(10);
	check_ping_cost(&client, &server, 1);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	check_ping_cost(&client, &server, 0);
	check_ping_cost(&client, &server, 1);
	check_ping_cost(&server, &client, 0);
	check_ping_cost(&server, &client, 1);
	write_bytes(&half.stream, 1); // and back
	turns(10);
	check_ping_cost(&client, &server, 0);
	check_ping_cost(&client, &server, 1);
	write_bytes(&halves[0].stream, 1); // sent by the server alone
	turns(10);
	check_ping_cost(&client, &server, 0);
	check_ping_cost(&client, &server, 1);
	finish(&half, 1);
	end();
}

// What is queued arrives in front of RST_STREAM, also where it waits for credit.
static void check_break(size_t len, bool hold)
{
	struct half half = {.hold = hold};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	assert_false(http2_stream_break(&halves[0].stream, HTTP2_CONNECT_ERROR)); // nothing is queued
	write_bytes(&halves[0].stream, len);
	assert_true(http2_stream_break(&halves[0].stream, HTTP2_CONNECT_ERROR));
	turns(50);
	if (hold) {
		assert_int_equal(half.received, LIMIT_HTTP2_STREAM_WINDOW);
		assert_int_equal(half.closed, len == LIMIT_HTTP2_STREAM_WINDOW);
		half.hold = false;
		http2_stream_consume(&half.stream);
		turns(50);
	}
	assert_int_equal(half.received, len);
	assert_int_equal(half.closed, 1);
	assert_int_equal(half.code, HTTP2_CONNECT_ERROR);
	assert_int_equal(half.ends, 0);
	assert_int_equal(halves[0].closed, 1);
	finish(&half, 1);
	end();
}

static void test_breaking_off(void **state)
{
	(void)state;
	check_break(1, false);
	check_break(500000, false);
	check_break(LIMIT_HTTP2_STREAM_WINDOW, true);
	check_break(LIMIT_HTTP2_STREAM_WINDOW + 10000, true);
}

// A drain: the warning, the confirmation, the end; what the server has not seen is refused.
static void test_goaway(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	http2_session_warn(&server.session);
	turns(10);
	assert_int_equal(server.pongs, 1);
	assert_false(http2_session_usable(&client.session));
	http2_session_goaway(&server.session);
	turns(10);
	assert_int_equal(server.over, 0); // a stream is open
	http2_stream_end(&half.stream, NULL, 0);
	turns(20);
	assert_int_equal(half.closed, 1);
	assert_int_equal(half.code, 0);
	assert_int_equal(server.over, 1);
	finish(&half, 1);
	end();
}

static void test_terminate(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	http2_session_terminate(&server.session, HTTP2_ENHANCE_YOUR_CALM);
	turns(10);
	assert_int_equal(server.over, 1);
	assert_int_equal(http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)"x", 1}),
			 ERR_CLOSED);
	finish(&half, 1);
	end();
}

static void test_ping(void **state)
{
	(void)state;
	assert_int_equal(begin(), 0);
	http2_session_ping(&client.session);
	turns(10);
	assert_int_equal(client.pongs, 1);
	end();
}

// Frames as a peer of the server's may send them, behind a preface and SETTINGS.
static int feed_frames(const char *frames, size_t len)
{
	static const char start[] = HTTP2_PREFACE "\0\0\0\4\0\0\0\0\0";
	assert_int_equal(http2_session_feed(&server.session,
					    (struct slice){NULL, (const uint8_t *)start, sizeof start - 1}),
			 0);
	return http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)frames, len});
}

// What the server queued for its peer.
static size_t take_wire(uint8_t *bytes, size_t room)
{
	size_t len = bufq_peek(&server.session.wire, 0, bytes, room);
	bufq_clear(&server.session.wire);
	return len;
}

// A stream that came behind GOAWAY is nobody's: no later GOAWAY says anything else (RFC 9113 6.8).
static void test_goaway_is_kept(void **state)
{
	static const char late[] = "\0\0\3\1\5\0\0\0\1\202\206\204"  // HEADERS
				   "\0\0\3\1\5\0\0\0\7\202\206\204"; // and of another
	uint8_t wire[256];
	(void)state;
	assert_int_equal(begin(), 0);
	assert_int_equal(feed_frames(late, 12), 0);
	http2_session_goaway(&server.session);
	assert_int_equal(
	    http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)late + 12, 12}), 0);
	assert_int_equal(opened, 1);
	take_wire(wire, sizeof wire);
	http2_session_terminate(&server.session, HTTP2_NO_ERROR);
	assert_int_equal(take_wire(wire, sizeof wire), 17);
	assert_memory_equal(wire, "\0\0\10\7\0\0\0\0\0\0\0\0\1\0\0\0", 17);
	end();
}

// How many streams are borne that come behind GOAWAY, while one before it goes on.
static unsigned streams_behind_goaway(bool trusted)
{
	char frame[] = "\0\0\3\1\5\0\0\0\0\202\206\204"; // HEADERS
	const size_t len = sizeof frame - 1;
	unsigned count = 0;
	assert_int_equal(begin(), 0);
	server.session.trusted = trusted;
	frame[8] = 1;
	assert_int_equal(feed_frames(frame, len), 0);
	http2_session_goaway(&server.session);
	for (uint32_t id = 3; count <= LIMIT_HTTP2_OTHER; id += 2, count++) {
		const uint32_t wire = htobe32(id);
		memcpy(frame + 5, &wire, sizeof wire);
		if (http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)frame, len}))
			break;
	}
	assert_int_equal(server.session.fault, HTTP2_ENHANCE_YOUR_CALM);
	assert_int_equal(opened, 1);
	end();
	return count;
}

// More than a client has under way, but not for ever.
static void test_late_clients(void **state)
{
	(void)state;
	assert_int_equal(streams_behind_goaway(false), LIMIT_HTTP2_CLOSED);
}

static void test_late_sidecars(void **state)
{
	(void)state;
	assert_int_equal(streams_behind_goaway(true), LIMIT_HTTP2_OTHER);
}

// Nor is the end of a connection followed by the warning of a drain.
static void test_no_warning_behind_the_end(void **state)
{
	uint8_t wire[256];
	(void)state;
	assert_int_equal(begin(), 0);
	take_wire(wire, sizeof wire);
	http2_session_terminate(&server.session, HTTP2_PROTOCOL_ERROR);
	http2_session_warn(&server.session);
	assert_int_equal(take_wire(wire, sizeof wire), 17);
	end();
}

// The last stream that there can be is answered like any other.
static void test_the_last_id(void **state)
{
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	client.session.next_id = INT32_MAX;
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	assert_false(http2_session_usable(&client.session));
	write_bytes(&half.stream, 300000);
	http2_stream_end(&half.stream, NULL, 0);
	turns(50);
	assert_int_equal(half.received, 300000);
	assert_int_equal(half.closed, 1);
	assert_int_equal(half.code, 0);
	finish(&half, 1);
	end();
}

// Neither side waits for the other to read first, however little lies between them.
static void test_much_both_ways(void **state)
{
	(void)state;
	const size_t len = 2000000;
	const int small = 4096;
	struct half half[4] = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(setsockopt(stream_fd(&server.stream), SOL_SOCKET, SO_SNDBUF, &small, sizeof small),
			 0);
	assert_int_equal(setsockopt(stream_fd(&client.stream), SOL_SOCKET, SO_SNDBUF, &small, sizeof small),
			 0);
	for (size_t i = 0; i < ARRAY_SIZE(half); i++)
		assert_int_equal(http2_stream_open(&client.session, &half[i].stream, GET, 5, false), 0);
	turns(20);
	for (size_t i = 0; i < ARRAY_SIZE(half); i++) {
		write_bytes(&half[i].stream, len);
		write_bytes(&halves[i].stream, len);
		http2_stream_end(&half[i].stream, NULL, 0);
	}
	for (int i = 0; i < 100000 && client.session.open_count; i++)
		turns(1);
	for (size_t i = 0; i < ARRAY_SIZE(half); i++)
		assert_int_equal(half[i].received, 2 * len);
	finish(half, ARRAY_SIZE(half));
	end();
}

// A response without content frees its stream's place, also while much else waits to be sent.
static void test_a_head_behind_much(void **state)
{
	static const char request[] = "\0\0\3\1\5\0\0\0\3\202\206\204";
	static const struct stream_ops deaf_ops = {
	    .on_readable = on_deaf, .on_drained = on_deaf, .on_write_error = on_write_error};
	(void)state;
	struct half half = {0};
	assert_int_equal(begin(), 0);
	answer_heads_only = true;
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	client.stream.ops = &deaf_ops;
	write_bytes(&halves[0].stream, LIMIT_HTTP2_STREAM_WINDOW - 1);
	for (int i = 0; i < 100 && !http2_session_congested(&server.session); i++) {
		bufq_add_packed(&server.session.wire, zeros, sizeof zeros);
		http2_session_wake(&server.session);
		turns(1);
	}
	assert_true(http2_session_congested(&server.session) && halves[0].stream.out.bytes);
	assert_int_equal(http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)request,
									    sizeof request - 1}),
			 0);
	assert_int_equal(server.session.open_count, 2);
	turns(1);
	assert_true(http2_session_congested(&server.session));
	assert_int_equal(halves[1].closed, 1);
	assert_int_equal(server.session.open_count, 1);
	finish(&half, 1);
	end();
}

// Paths of all lengths arrive as they are, whatever stands in front of them and behind.
static void test_paths(void **state)
{
	static char text[20000];
	const size_t lengths[] = {1, 2, 126, 127, 128, 254, 255, 256, 16383, 16510, 16511, sizeof text};
	(void)state;
	memset(text, 'p', sizeof text);
	assert_int_equal(begin(), 0);
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct half half = {0};
		struct field fields[] = {GET[0], GET[1], GET[2], GET[3], GET[4]};
		fields[2].value = (struct str){text, lengths[i]};
		fields[2].never_indexed = i % 2;
		opened = 0;
		finish(halves, 1);
		path_wanted = &fields[2];
		assert_int_equal(http2_stream_open(&client.session, &half.stream, fields, 5, true), 0);
		turns(10);
		assert_null(path_wanted); // it was there
		assert_string_equal(half.status, "200");
		finish(&half, 1);
	}
	end();
}

// A head of which there is too much: instead of its fields it is told whether it is gRPC's, wherever
// Content-Type stands in it.
static void check_too_large(struct field type, size_t at, struct str value, size_t count, bool grpc)
{
	struct field fields[4 + LIMIT_HTTP_HEADERS + 10];
	struct half half = {0}, other = {0};
	const bool end_too = at % 2;
	for (size_t i = 0; i < count; i++)
		fields[i] = i < 4 ? GET[i] : (struct field){.name = STR("x-much"), .value = value};
	fields[at] = type;
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, fields, count, end_too), 0);
	turns(10);
	assert_int_equal(halves[0].heads, 0);
	assert_int_equal(halves[0].too_large, 1);
	assert_int_equal(halves[0].grpc, grpc);
	assert_int_equal(halves[0].ends, end_too);
	assert_int_equal(http2_stream_open(&client.session, &other.stream, GET, 5, true), 0);
	turns(10);
	assert_int_equal(halves[1].heads, 1);
	assert_int_equal(halves[1].too_large, 0);
	finish(&half, 1);
	finish(&other, 1);
	end();
}

static void test_too_large_a_head(void **state)
{
	static const struct {
		struct field type;
		bool grpc;
	} rows[] = {
	    {F("content-type", "application/grpc"), true},
	    {F("content-type", "application/grpc+proto"), true},
	    {F("content-type", "application/grpc-web"), false},
	    {F("content-type", "text/plain"), false},
	    {F("x-content-type", "application/grpc"), false},
	};
	static char text[LIMIT_HTTP_HEAD / 4];
	const struct str much = {text, sizeof text};
	(void)state;
	memset(text, 'v', sizeof text);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		check_too_large(rows[i].type, 4, much, 9, rows[i].grpc); // before the limit, and behind it
		check_too_large(rows[i].type, 8, much, 9, rows[i].grpc);
		const size_t last = LIMIT_HTTP_HEADERS + 9;
		check_too_large(rows[i].type, 5, STR("v"), last + 1, rows[i].grpc);
		check_too_large(rows[i].type, last, STR("v"), last + 1, rows[i].grpc);
	}
}

// Content that is longer or shorter than was said breaks its stream off, and no other.
static void check_length(size_t said, size_t sent, uint32_t code)
{
	struct half half = {0}, other = {0};
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	http2_stream_expect(&halves[0].stream, said);
	write_bytes(&half.stream, sent);
	http2_stream_end(&half.stream, NULL, 0);
	turns(20);
	assert_int_equal(half.closed, 1);
	assert_int_equal(half.code, code);
	assert_int_equal(halves[0].code, code);
	assert_int_equal(halves[0].ends, code == HTTP2_NO_ERROR);
	assert_int_equal(halves[0].ends_with_data, code == HTTP2_NO_ERROR && said);
	assert_in_range(halves[0].received, 0, said);
	assert_int_equal(http2_stream_open(&client.session, &other.stream, GET, 5, true), 0);
	turns(20);
	assert_int_equal(other.ends, 1);
	finish(&half, 1);
	finish(&other, 1);
	end();
}

static void test_length_of_content(void **state)
{
	(void)state;
	check_length(0, 0, HTTP2_NO_ERROR);
	check_length(40000, 40000, HTTP2_NO_ERROR);
	check_length(0, 1, HTTP2_PROTOCOL_ERROR);
	check_length(40000, 40001, HTTP2_PROTOCOL_ERROR);
	check_length(40000, 39999, HTTP2_PROTOCOL_ERROR);
}

// --- bytes of a client's, as they may be cut ----------------------------------------------------------------
static const uint8_t CONVERSATION[] =
    HTTP2_PREFACE "\0\0\6\4\0\0\0\0\0\0\3\0\0\0\12"		    // SETTINGS: 10 streams
		  "\0\0\0\4\1\0\0\0\0"				    // its acknowledgement
		  "\0\0\2\372\0\0\0\0\0hi"			    // of no known type
		  "\0\0\5\2\0\0\0\0\1\0\0\0\0\1"		    // PRIORITY
		  "\0\0\13\1\50\0\0\0\1\3\0\0\0\0\17\203\206\0\0\0" // HEADERS, padded, with a priority
		  "\0\0\1\11\0\0\0\0\1\204"			    // CONTINUATION
		  "\0\0\3\11\4\0\0\0\1\1\1a"			    // the last one
		  "\0\0\6\0\10\0\0\0\1\2one\0\0"		    // DATA, padded
		  "\0\0\4\10\0\0\0\0\1\0\0\0\7"			    // WINDOW_UPDATE
		  "\0\0\3\0\0\0\0\0\1two"			    // DATA
		  "\0\0\5\1\5\0\0\0\1\0\1x\1y"			    // trailers
		  "\0\0\10\6\1\0\0\0\0question";		    // PING, confirmed

static void feed(size_t from, size_t to)
{
	const struct slice bytes = {NULL, CONVERSATION + from, to - from};
	assert_int_equal(http2_session_feed(&server.session, bytes), 0);
}

static void check_conversation(void)
{
	assert_int_equal(server.session.fault, 0);
	assert_int_equal(server.session.peer.max_streams, 10);
	assert_int_equal(halves[0].heads, 2);
	assert_int_equal(halves[0].field_count, 1); // the trailers'
	assert_int_equal(halves[0].received, 6);
	assert_int_equal(halves[0].ends, 1);
	assert_int_equal(halves[0].stream.send_window, 65535 + 7);
	assert_int_equal(server.pongs, 1);
	assert_int_equal(http2_session_block(&server.session), 0);
}

static void test_every_split(void **state)
{
	const size_t len = sizeof CONVERSATION - 1;
	(void)state;
	for (size_t cut = 0; cut <= len; cut++) {
		assert_int_equal(begin(), 0);
		feed(0, cut);
		feed(cut, len);
		check_conversation();
		end();
	}
	assert_int_equal(begin(), 0);
	for (size_t at = 0; at < len; at++)
		feed(at, at + 1);
	check_conversation();
	end();
}

// A field block may be cut anywhere, into as many frames as are borne.
static size_t write_part(uint8_t *at, bool first, bool last, const char *part, size_t len)
{
	const uint8_t flags = (first ? HTTP2_FLAG_END_STREAM : 0) | (last ? HTTP2_FLAG_END_HEADERS : 0);
	const uint8_t type = first ? HTTP2_HEADERS : HTTP2_CONTINUATION;
	memcpy(at, (const uint8_t[]){0, 0, (uint8_t)len, type, flags, 0, 0, 0, 1}, HTTP2_FRAME_HEAD);
	memcpy(at + HTTP2_FRAME_HEAD, part, len);
	return HTTP2_FRAME_HEAD + len;
}

static void check_parts(struct str block, size_t first, size_t others)
{
	uint8_t frames[512];
	size_t len = write_part(frames, true, first == block.len, block.p, first);
	for (size_t at = first; at < block.len; at += others) {
		size_t n = MIN(others, block.len - at);
		len += write_part(frames + len, false, at + n == block.len, block.p + at, n);
	}
	assert_int_equal(begin(), 0);
	assert_int_equal(feed_frames((const char *)frames, len), 0);
	assert_int_equal(halves[0].heads, 1);
	assert_int_equal(halves[0].field_count, 5);
	assert_int_equal(halves[0].ends, 1);
	end();
}

static void test_parts_of_a_block(void **state)
{
	static const struct str block = STR("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4"
					    "\xff\x40\x01n\x01v");
	(void)state;
	for (size_t first = 0; first <= block.len; first++) {
		check_parts(block, first, block.len);
		for (size_t others = 1; others < block.len; others++)
			if (first + others * LIMIT_HTTP2_CONTINUATIONS >= block.len)
				check_parts(block, first, others);
	}
}

// Content may be cut anywhere, and ends once: with its last bytes, if they are the frame's last.
static void check_end(struct str data, size_t received, int ends_with_data)
{
	static const char head[] = "\0\0\3\1\4\0\0\0\1\202\206\204";
	const uint8_t *bytes = (const uint8_t *)data.p;
	for (size_t cut = 0; cut <= data.len; cut++) {
		assert_int_equal(begin(), 0);
		assert_int_equal(feed_frames(head, sizeof head - 1), 0);
		assert_int_equal(http2_session_feed(&server.session, (struct slice){NULL, bytes, cut}), 0);
		assert_int_equal(halves[0].ends, cut == data.len);
		assert_int_equal(
		    http2_session_feed(&server.session, (struct slice){NULL, bytes + cut, data.len - cut}),
		    0);
		assert_int_equal(halves[0].received, received);
		assert_int_equal(halves[0].ends, 1);
		assert_int_equal(halves[0].ends_with_data, ends_with_data);
		assert_true(halves[0].stream.end_received);
		end();
	}
}

static void test_the_end_of_content(void **state)
{
	(void)state;
	check_end(STR("\0\0\5\0\1\0\0\0\1hello"), 5, 1);
	check_end(STR("\0\0\2\0\0\0\0\0\1he\0\0\3\0\1\0\0\0\1llo"), 5, 1);
	check_end(STR("\0\0\5\0\11\0\0\0\1\0hell"), 4, 1);   // padded by nothing
	check_end(STR("\0\0\5\0\11\0\0\0\1\2he\0\0"), 2, 0); // by two bytes
	check_end(STR("\0\0\3\0\11\0\0\0\1\2\0\0"), 0, 0);   // and nothing else
	check_end(STR("\0\0\2\0\0\0\0\0\1he\0\0\0\0\1\0\0\0\1"), 2, 0);
	check_end(STR("\0\0\0\0\1\0\0\0\1"), 0, 0);
}

// Frames that are out of place are refused with this code, however open their stream is.
static void check_refused(struct end *end, struct str frames, uint32_t code)
{
	const struct slice bytes = {NULL, (const uint8_t *)frames.p, frames.len};
	assert_int_equal(http2_session_feed(&end->session, bytes), ERR_MALFORMED);
	assert_int_equal(end->session.fault, code);
}

static void test_frames_out_of_place(void **state)
{
	static const char head[] = "\0\0\3\1\4\0\0\0\1\202\206\204"; // of stream 1, which stays open
	static const struct {
		struct str frames;
		uint32_t code;
	} rows[] = {
	    {STR("\0\0\1\1\0\0\0\0\1\202\0\0\1\0\0\0\0\0\1d"), HTTP2_PROTOCOL_ERROR}, // within a block
	    {STR("\0\0\1\1\0\0\0\0\1\202\0\0\1\1\4\0\0\0\1\202"), HTTP2_PROTOCOL_ERROR},
	    {STR("\0\0\1\1\0\0\0\0\3\202\0\0\1\0\0\0\0\0\1d"), HTTP2_PROTOCOL_ERROR},
	    {STR("\0\100\1\0\0\0\0\0\1"), HTTP2_FRAME_SIZE_ERROR}, // a byte too long
	    {STR("\0\100\1\1\4\0\0\0\1"), HTTP2_FRAME_SIZE_ERROR},
	    {STR("\0\0\0\0\10\0\0\0\1"), HTTP2_FRAME_SIZE_ERROR}, // padded, and empty
	    {STR("\0\0\1\0\0\0\0\0\0d"), HTTP2_PROTOCOL_ERROR},	  // on no stream, or an idle one
	    {STR("\0\0\1\0\0\0\0\0\2d"), HTTP2_PROTOCOL_ERROR},
	    {STR("\0\0\1\0\0\0\0\0\3d"), HTTP2_PROTOCOL_ERROR},
	    {STR("\0\0\1\1\4\0\0\0\0\202"), HTTP2_PROTOCOL_ERROR},
	    {STR("\0\0\1\1\4\0\0\0\2\202"), HTTP2_PROTOCOL_ERROR},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(begin(), 0);
		assert_int_equal(feed_frames(head, sizeof head - 1), 0);
		check_refused(&server, rows[i].frames, rows[i].code);
		end();
	}
}

// An answer in front of the server's SETTINGS is none (RFC 9113 3.4).
static void test_an_answer_before_settings(void **state)
{
	struct half half = {0};
	(void)state;
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, true), 0);
	check_refused(&client, STR("\0\0\1\1\5\0\0\0\1\210"), HTTP2_PROTOCOL_ERROR);
	assert_int_equal(half.heads, 0);
	finish(&half, 1);
	end();
}

// Content that says nothing costs something on an open stream as well, unless it is the end.
static void test_cost_of_empty_content(void **state)
{
	static const char frames[] = "\0\0\3\1\4\0\0\0\1\202\206\204"
				     "\0\0\0\0\0\0\0\0\1\0\0\1\0\0\0\0\0\1d\0\0\0\0\1\0\0\0\1";
	(void)state;
	assert_int_equal(begin(), 0);
	assert_int_equal(feed_frames(frames, sizeof frames - 1), 0);
	assert_int_equal(server.session.buckets[HTTP2_FLOOD_EMPTY].tokens, LIMIT_HTTP2_EMPTY - 1);
	assert_int_equal(halves[0].received, 1);
	assert_int_equal(halves[0].ends, 1);
	end();
}

// What is queued behind the end is let go, and the trailers stay those that came with it.
static void test_content_behind_the_end(void **state)
{
	static const struct field sum[] = {F("x-sum", "1")}, other[] = {F("x-other", "1")};
	struct half half = {0};
	struct bufq first = {0}, late = {0};
	(void)state;
	assert_int_equal(begin(), 0);
	assert_int_equal(http2_stream_open(&client.session, &half.stream, GET, 5, false), 0);
	turns(10);
	assert_int_equal(bufq_add_copy(&first, zeros, 3) | bufq_add_copy(&late, zeros, 5), 0);
	http2_stream_finish(&halves[0].stream, &first, sum, 1);
	http2_stream_finish(&halves[0].stream, &late, other, 1);
	assert_true(bufq_empty(&first) && bufq_empty(&late));
	assert_int_equal(halves[0].stream.out.bytes, 3);
	turns(10);
	assert_int_equal(half.received, 3);
	assert_true(half.trailers_seen);
	http2_stream_detach(&halves[0].stream);
	assert_int_equal(bufq_add_copy(&late, zeros, 5), 0);
	http2_stream_finish(&halves[0].stream, &late, other, 1);
	assert_true(bufq_empty(&late));
	finish(&half, 1);
	end();
}

// Nothing looks at one again that was given up before it was to send anything.
static void test_given_up_at_once(void **state)
{
	struct stream stream;
	struct http2_session *session = mem_zalloc(sizeof *session);
	(void)state;
	assert_int_equal(loop_new(&loop), 0);
	stream_init(&stream, loop, NULL);
	assert_int_equal(http2_session_init(session, &stream, true, &server_ops), 0);
	assert_false(session->task._queued);
	http2_session_done(session);
	mem_free(session);
	loop_turn(loop, 0);
	loop_free(loop);
	loop = NULL;
}

static void test_no_preface(void **state)
{
	(void)state;
	static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
	assert_int_equal(begin(), 0);
	assert_int_equal(
	    http2_session_feed(&server.session, (struct slice){NULL, (const uint8_t *)text, sizeof text - 1}),
	    ERR_MALFORMED);
	turns(5);
	assert_int_equal(server.over, 1);
	end();
}

// Whatever allocation fails: no crash, no leak, and the end of a session at worst.
static void test_failing_allocations(void **state)
{
	(void)state;
	long count;
	for (long n = 0;; n++) {
		struct half half = {0};
		mem_fail_set(n);
		int err = begin();
		if (!err)
			err = http2_stream_open(&client.session, &half.stream, GET, 5, false);
		if (!err) {
			write_bytes(&half.stream, 5000);
			http2_stream_end(&half.stream, NULL, 0);
			turns(15);
		}
		count = mem_fail_count();
		mem_fail_set(-1);
		finish(&half, 1);
		end();
		if (n > count)
			break;
		assert_true(n < 2000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_request),
	    cmocka_unit_test(test_a_big_body_and_trailers),
	    cmocka_unit_test(test_one_slow_stream),
	    cmocka_unit_test(test_resets),
	    cmocka_unit_test(test_cost_of_resets),
	    cmocka_unit_test(test_cost_of_closed_streams),
	    cmocka_unit_test(test_cost_of_pings),
	    cmocka_unit_test(test_breaking_off),
	    cmocka_unit_test(test_goaway),
	    cmocka_unit_test(test_terminate),
	    cmocka_unit_test(test_ping),
	    cmocka_unit_test(test_goaway_is_kept),
	    cmocka_unit_test(test_no_warning_behind_the_end),
	    cmocka_unit_test(test_the_last_id),
	    cmocka_unit_test(test_much_both_ways),
	    cmocka_unit_test(test_a_head_behind_much),
	    cmocka_unit_test(test_paths),
	    cmocka_unit_test(test_length_of_content),
	    cmocka_unit_test(test_too_large_a_head),
	    cmocka_unit_test(test_every_split),
	    cmocka_unit_test(test_parts_of_a_block),
	    cmocka_unit_test(test_frames_out_of_place),
	    cmocka_unit_test(test_an_answer_before_settings),
	    cmocka_unit_test(test_cost_of_empty_content),
	    cmocka_unit_test(test_content_behind_the_end),
	    cmocka_unit_test(test_given_up_at_once),
	    cmocka_unit_test(test_no_preface),
	    cmocka_unit_test(test_failing_allocations),
	    cmocka_unit_test(test_late_clients),
	    cmocka_unit_test(test_late_sidecars),
	    cmocka_unit_test(test_the_end_of_content),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
