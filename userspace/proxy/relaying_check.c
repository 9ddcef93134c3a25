// SPDX-License-Identifier: Apache-2.0
#include "proxy/relaying_check.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/relay.h"
#include "exchange/flow.h"
#include "net/relay.h"
#include "proxy/acceleration_peers.h"

#include <errno.h>
#include <sys/socket.h>

enum {
	TRANSFER = 1024 * 1024, // each way
	SMALL = 1000,
	TURNS = 5,		     // of a conversation, after which it is relayed
	SLOW_MAX = 32 * 1024 * 1024, // what fits into the buffers of both connections is far less
	SLOW_TURNS = 3,
	PART = 100, // of bytes that are read before
};

enum way { UP, DOWN, WAYS };
static const int senders[WAYS] = {PEER_APPLICATION, PEER_FAR};
static const int receivers[WAYS] = {PEER_FAR, PEER_APPLICATION};
static const int sources[WAYS] = {PEER_PROXY, PEER_OUTLET};

struct side {
	struct rig *rig;
	struct stream stream;
};

// The proxy between two peers, as a tunnel has it; both ways are relayed.
struct rig {
	struct peers peers;
	struct loop *loop;
	struct flow_pipes pipes;
	struct side sides[WAYS]; // from which that way comes
	struct flow flows[WAYS];
	size_t sent[WAYS], received[WAYS];
	int err; // of a flow
};

// --- the proxy ------------------------------------------------------------------------------------------------
static void pump(struct rig *rig)
{
	for (int way = 0; way < WAYS && !rig->err; way++) {
		int err = rig->flows[way].ended ? 0 : flow_pump(&rig->flows[way]);
		rig->err = err == ERR_NEED_MORE || err == ERR_EOF ? 0 : err;
	}
}

static void on_stream(struct stream *stream)
{
	pump(container_of(stream, struct side, stream)->rig);
}

static void on_write_error(struct stream *stream, int err)
{
	container_of(stream, struct side, stream)->rig->err = err;
}

static void on_ready(struct flow *flow)
{
	pump(flow->owner);
}

static const struct stream_ops ops = {
    .on_readable = on_stream, .on_drained = on_stream, .on_write_error = on_write_error};

// Both connections, and the proxy between them.
static int connect_all(struct rig *rig)
{
	struct peers *peers = &rig->peers;
	int err = peers_connect(peers);
	if (!err)
		err = peers_connect_far(peers);
	for (int way = 0; !err && way < WAYS; way++) {
		struct side *side = &rig->sides[way];
		side->rig = rig;
		stream_init(&side->stream, rig->loop, &ops);
		err = stream_accept(&side->stream, peers->fds[sources[way]]);
		peers->fds[sources[way]] = -1; // the stream's
	}
	for (int way = 0; way < WAYS; way++)
		flow_init(&rig->flows[way], &rig->pipes, &rig->sides[way].stream, &rig->sides[!way].stream,
			  on_ready, rig);
	flow_pair(&rig->flows[UP], &rig->flows[DOWN]);
	return err;
}

static void close_all(struct rig *rig)
{
	for (int way = 0; way < WAYS; way++)
		flow_done(&rig->flows[way]);
	for (int way = 0; way < WAYS; way++)
		if (rig->sides[way].rig)
			stream_close(&rig->sides[way].stream);
	peers_close_all(&rig->peers);
	loop_turn(rig->loop, 0); // what was deferred
	for (int way = 0; way < WAYS; way++)
		rig->sides[way].rig = NULL;
}

// --- the peers ------------------------------------------------------------------------------------------------
// A turn of all: the proxy's, and what has come. How many bytes, or a negative error.
static ssize_t turn(struct rig *rig)
{
	ssize_t came = 0;
	int err = loop_turn(rig->loop, 0);
	for (int way = 0; !err && way < WAYS; way++) {
		ssize_t n = peers_receive(&rig->peers, receivers[way], senders[way], rig->received[way], 0);
		if (n < 0)
			return n;
		rig->received[way] += (size_t)n;
		came += n;
	}
	return err ? err : rig->err ? rig->err : came;
}

// 1: all went; 0: there was no room; or a negative error.
static int send_some(struct rig *rig, enum way way, size_t len)
{
	ssize_t n = peers_send(&rig->peers, senders[way], rig->sent[way], len);
	if (n < 0)
		return (int)n;
	rig->sent[way] += (size_t)n;
	return (size_t)n == len;
}

// Until all that was sent has come.
static int receive_all(struct rig *rig)
{
	while (rig->received[UP] < rig->sent[UP] || rig->received[DOWN] < rig->sent[DOWN]) {
		ssize_t n = turn(rig);
		int err = n < 0 ? (int)n : n == 0 ? peers_pause(&rig->peers) : 0;
		if (err)
			return err;
	}
	return 0;
}

static int send_all(struct rig *rig, enum way way)
{
	return send_some(rig, way, SMALL) == 1 ? receive_all(rig) : -EIO;
}

static int converse(struct rig *rig)
{
	int err = 0;
	for (int i = 0; i < 2 * TURNS && !err; i++)
		err = send_all(rig, i % WAYS);
	return err ? err : rig->flows[UP].relay ? 0 : ERR_NOT_FOUND;
}

// A message that the proxy does not see.
static int send_past(struct rig *rig)
{
	struct weir_relay_counts before, after;
	relay_read_counts(&before);
	int err = send_all(rig, UP);
	relay_read_counts(&after);
	if (!err && (after.messages != before.messages + 1 || after.bytes != before.bytes + SMALL))
		err = ERR_NOT_FOUND;
	return err;
}

// Until the proxy has passed on the end of that way, behind all that was sent.
static int expect_end(struct rig *rig, enum way way)
{
	ssize_t n;
	while ((n = turn(rig)) >= 0)
		if (n == 0 && peers_pause(&rig->peers))
			return -ETIMEDOUT;
	return n == ERR_EOF && rig->received[way] == rig->sent[way] ? 0 : ERR_MALFORMED;
}

// --- steps ----------------------------------------------------------------------------------------------------
static int check_messages(struct rig *rig)
{
	int err = 0;
	for (int i = 0; i < TURNS && !err; i++) {
		err = send_past(rig);
		if (!err)
			err = send_all(rig, DOWN);
	}
	return err;
}

static int check_both_ways(struct rig *rig)
{
	const size_t limits[WAYS] = {rig->sent[UP] + TRANSFER, rig->sent[DOWN] + TRANSFER};
	while (rig->received[UP] < limits[UP] || rig->received[DOWN] < limits[DOWN]) {
		size_t sent = rig->sent[UP] + rig->sent[DOWN];
		for (int way = 0; way < WAYS; way++) {
			size_t size =
			    MIN(1 + rig->sent[way] * 7 % PEERS_PIECE_MAX, limits[way] - rig->sent[way]);
			int err = size ? send_some(rig, way, size) : 0;
			if (err < 0)
				return err;
		}
		ssize_t n = turn(rig);
		int err = n < 0 ? (int)n : 0;
		if (n == 0 && rig->sent[UP] + rig->sent[DOWN] == sent)
			err = peers_pause(&rig->peers);
		if (err)
			return err;
	}
	return 0;
}

// More than fits: it goes to the proxy, and at last the sender has to wait. When all has come it is relayed
// again.
static int check_slow(struct rig *rig)
{
	int went, err = 0;
	for (int i = 0; i < SLOW_TURNS * WAYS && !err; i++) {
		enum way way = i % WAYS;
		size_t limit = rig->sent[way] + SLOW_MAX, before;
		do {
			before = rig->sent[way];
			while ((went = send_some(rig, way, PEERS_PIECE_MAX)) > 0 && rig->sent[way] < limit)
				;
			err = went < 0 ? went : loop_turn(rig->loop, 0);
			if (!err)
				err = peers_pause(&rig->peers);
		} while (!err && rig->sent[way] != before && rig->sent[way] < limit);
		if (!err)
			err = rig->sent[way] < limit ? receive_all(rig) : ERR_LIMIT;
		if (!err)
			err = send_all(rig, way); // the proxy has seen that all is written
		if (!err)
			err = send_past(rig);
	}
	return err;
}

// The kernel shows the program whole buffers: of one that was read in part, that part must not come again.
static int check_part(struct rig *rig)
{
	uint8_t bytes[PART];
	struct stream *from = &rig->sides[UP].stream, *to = &rig->sides[DOWN].stream;
	if (send_some(rig, UP, SMALL) != 1 || recv(stream_fd(from), bytes, PART, MSG_DONTWAIT) != PART ||
	    send(stream_fd(to), bytes, PART, MSG_DONTWAIT | MSG_NOSIGNAL) != PART)
		return -EIO;
	rig->flows[UP].relay = stream_relay(from, to);
	if (!rig->flows[UP].relay || recv(stream_fd(from), bytes, 1, MSG_DONTWAIT | MSG_PEEK) != -1)
		return ERR_NOT_FOUND;
	return peers_receive_all(&rig->peers, PEER_FAR, PEER_APPLICATION, 0, SMALL);
}

static int check_end(struct rig *rig, enum way way)
{
	if (send_some(rig, way, SMALL) != 1 || shutdown(rig->peers.fds[senders[way]], SHUT_WR) < 0)
		return -EIO;
	int err = expect_end(rig, way);
	if (err)
		return err;
	// The other way goes on.
	if (send_some(rig, !way, SMALL) != 1)
		return -EIO;
	while (rig->received[!way] < rig->sent[!way]) {
		ssize_t n =
		    peers_receive(&rig->peers, receivers[!way], senders[!way], rig->received[!way], 0);
		err = n < 0 ? (int)n : loop_turn(rig->loop, 0);
		if (!err && n == 0)
			err = peers_pause(&rig->peers);
		if (err)
			return err;
		rig->received[!way] += (size_t)n;
	}
	return 0;
}

static int check_end_up(struct rig *rig)
{
	return check_end(rig, UP);
}

static int check_end_down(struct rig *rig)
{
	return check_end(rig, DOWN);
}

// The proxy hears of it.
static int check_reset(struct rig *rig, enum way way)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	setsockopt(rig->peers.fds[senders[way]], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	peers_close(&rig->peers, senders[way]);
	while (!rig->err)
		if (loop_turn(rig->loop, 0) || peers_pause(&rig->peers))
			return -ETIMEDOUT;
	return rig->err == -ECONNRESET ? 0 : ERR_MALFORMED;
}

static int check_reset_up(struct rig *rig)
{
	return check_reset(rig, UP);
}

static int check_reset_down(struct rig *rig)
{
	return check_reset(rig, DOWN);
}

static const struct step {
	const char *what;
	int (*before)(struct rig *rig);
	int (*fn)(struct rig *rig);
} steps[] = {
    {"messages", converse, check_messages},
    {"a transfer both ways", converse, check_both_ways},
    {"receivers that are slow", converse, check_slow},
    {"bytes of which a part was read", NULL, check_part},
    {"half-close by who has connected", converse, check_end_up},
    {"half-close by who has accepted", converse, check_end_down},
    {"reset by who has connected", converse, check_reset_up},
    {"reset by who has accepted", converse, check_reset_down},
};

static int run_step(struct rig *rig, const struct step *step)
{
	rig->err = 0;
	for (int way = 0; way < WAYS; way++)
		rig->sent[way] = rig->received[way] = 0;
	int err = connect_all(rig);
	if (!err && step->before)
		err = step->before(rig);
	if (!err)
		err = step->fn(rig);
	close_all(rig);
	return err;
}

static int run_steps(struct rig *rig, const char **ret_step)
{
	int err = 0;
	for (size_t i = 0; !err && i < ARRAY_SIZE(steps); i++) {
		*ret_step = steps[i].what;
		err = run_step(rig, &steps[i]);
	}
	if (!err && relay_sockets()) {
		*ret_step = "nothing is left of what was closed";
		err = ERR_MALFORMED;
	}
	return err;
}

int relaying_check(struct strbuf *ret_why)
{
	uint16_t port;
	const char *step = "connections";
	struct rig *rig = mem_zalloc(sizeof *rig);
	if (!rig)
		return -ENOMEM;
	flow_pipes_init(&rig->pipes);
	int err = peers_open(&rig->peers, RELAYING_CHECK_MS, &port);
	if (!err)
		err = loop_new(&rig->loop);
	if (!err)
		err = run_steps(rig, &step);
	if (err)
		strbuf_printf(ret_why, "relaying does not work on this kernel: %s: %s", step, err_text(err));
	loop_free(rig->loop);
	flow_pipes_done(&rig->pipes);
	peers_done(&rig->peers);
	mem_free(rig);
	return err;
}
