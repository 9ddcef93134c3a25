// SPDX-License-Identifier: Apache-2.0
#include "exchange/flow.h"

#include "base/error.h"
#include "base/mem.h"
#include "net/bypass.h"
#include "net/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum {
	SPLICE_FROM = 16 * 1024, // a read of this size starts splicing
	SPLICE_MAX = 256 * 1024,
	TURN_BYTES = 1024 * 1024, // moved in one go; then other connections get their turn
	SPARE_PIPES = 8,
	CONVERSATION = 3, // so many messages each way: before, it may be a short one
	WAIT_MIN_MS = 1, // for the kernel, doubled each time
	WAIT_MAX_MS = 128,
};

struct pipe {
	struct list node; // among the spare ones
	int read_fd, write_fd;
	size_t bytes;
};

// --- pipes --------------------------------------------------------------------------------------------------
static struct pipe *pipe_get(struct flow_pipes *pipes)
{
	int fds[2];
	if (!list_empty(&pipes->spare)) {
		struct pipe *pipe = container_of(pipes->spare.next, struct pipe, node);
		list_del(&pipe->node);
		pipes->count--;
		return pipe;
	}
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0)
		return NULL;
	struct pipe *pipe = mem_zalloc(sizeof *pipe);
	if (!pipe) {
		close(fds[0]);
		close(fds[1]);
		return NULL;
	}
	list_init(&pipe->node);
	pipe->read_fd = fds[0];
	pipe->write_fd = fds[1];
	// More than the default of 64 KiB where the limits allow; it works without, too.
	fcntl(fds[1], F_SETPIPE_SZ, SPLICE_MAX);
	return pipe;
}

static void pipe_free(struct pipe *pipe)
{
	close(pipe->read_fd);
	close(pipe->write_fd);
	mem_free(pipe);
}

// A pipe that still holds bytes must never serve another connection.
static void pipe_put(struct flow_pipes *pipes, struct pipe *pipe)
{
	if (!pipe)
		return;
	if (pipe->bytes || pipes->count >= SPARE_PIPES) {
		pipe_free(pipe);
		return;
	}
	list_prepend(&pipes->spare, &pipe->node);
	pipes->count++;
}

void flow_pipes_init(struct flow_pipes *pipes)
{
	list_init(&pipes->spare);
	pipes->count = 0;
}

void flow_pipes_done(struct flow_pipes *pipes)
{
	list_for_each_safe (node, &pipes->spare) {
		list_del(node);
		pipe_free(container_of(node, struct pipe, node));
	}
	pipes->count = 0;
}

static void end_pipe(struct flow *flow)
{
	pipe_put(flow->pipes, flow->pipe);
	flow->pipe = NULL;
}

// --- one direction ------------------------------------------------------------------------------------------
static int drain_pipe(struct flow *flow)
{
	while (flow->pipe->bytes) {
		int n = stream_splice_out(flow->to, flow->pipe->read_fd, flow->pipe->bytes);
		if (n < 0)
			return n;
		flow->pipe->bytes -= (size_t)n;
	}
	return 0;
}

// Both ends plain and nothing in the queue: then bytes may go around it without overtaking any.
static bool may_splice(const struct flow *flow)
{
	return flow->bulk && stream_can_splice(flow->from) && stream_can_splice(flow->to);
}

static int move_spliced(struct flow *flow)
{
	if (!flow->pipe)
		flow->pipe = pipe_get(flow->pipes);
	if (!flow->pipe) {
		flow->bulk = false;
		return 0;
	}
	int n = stream_splice_in(flow->from, flow->pipe->write_fd, SPLICE_MAX);
	if (n < 0)
		return n;
	flow->pipe->bytes += (size_t)n;
	flow->bulk = n >= SPLICE_FROM / 4;
	return drain_pipe(flow);
}

static int pass_slice(struct flow *flow, struct slice slice)
{
	struct bufq bytes = {0};
	int err = bufq_add_slice(&bytes, slice);
	stream_write(flow->to, &bytes);
	return err;
}

static int move_buffered(struct flow *flow)
{
	struct slice slice;
	int n = stream_read(flow->from, &slice);
	if (n < 0)
		return n;
	flow->bulk = n >= SPLICE_FROM;
	return pass_slice(flow, slice);
}

// --- relayed by the kernel ------------------------------------------------------------------------------------
static uint64_t left_to_us(const struct flow *flow)
{
	return flow->from->received - flow->past - flow->begun_at;
}

// Whether all that the kernel relayed is in the queue of the socket.
static bool is_sent(const struct flow *flow, const struct relay_state *state)
{
	uint64_t written, ours = flow->to->sent - flow->past;
	return sock_written(stream_fd(flow->to), &written) && written == flow->offset + ours + state->bytes;
}

static int wait_for_kernel(struct flow *flow)
{
	if (loop_timer_running(&flow->timer)) // an event came before; the delay is not to grow with each
		return ERR_NEED_MORE;
	flow->delay_ms = (uint16_t)MIN(MAX(WAIT_MIN_MS, 2 * flow->delay_ms), WAIT_MAX_MS);
	loop_timer_start(flow->from->loop, &flow->timer, flow->delay_ms);
	return ERR_NEED_MORE;
}

// While bytes wait for us they are in no queue of TCP, which else resets when the process is killed: a peer that waits for
// room would hear nothing.
static void set_waiting(struct flow *flow, bool waiting)
{
	if (flow->waiting != waiting)
		sock_set_reset(stream_fd(flow->from), waiting);
	flow->waiting = waiting;
}

// 0: what can be read now, bytes or the end, comes next in the stream; else a negative error.
static int await_order(struct flow *flow)
{
	char byte;
	int n = stream_peek_bytes(flow->from, &byte, 1);
	set_waiting(flow, n > 0 || flow->left_to_us);
	if ((n < 0 && n != ERR_EOF) || (n > 0 && flow->left_to_us))
		return MIN(n, 0);
	struct relay_state state = relay_state(flow->relay);
	if (!is_sent(flow, &state) || (n == ERR_EOF && state.passed != left_to_us(flow)))
		return stream_has_failed(flow->to) ? -ECONNRESET : wait_for_kernel(flow);
	loop_timer_stop(&flow->timer);
	flow->delay_ms = 0;
	flow->left_to_us = true;
	return 0;
}

static void on_timer(struct loop_timer *timer)
{
	struct flow *flow = container_of(timer, struct flow, timer);
	if (await_order(flow) != ERR_NEED_MORE)
		flow->on_ready(flow);
}

// When all that was left to us is written.
static void let_relay(struct flow *flow)
{
	if (!flow->left_to_us || stream_queued(flow->to))
		return;
	relay_tell(flow->relay, left_to_us(flow));
	flow->left_to_us = false;
}

static int move_relayed(struct flow *flow)
{
	struct slice slice;
	int err = await_order(flow);
	if (err == ERR_NEED_MORE && flow->left_to_us)
		stream_want_drained(flow->to);
	if (err)
		return err;
	int n = stream_read(flow->from, &slice);
	if (n < 0)
		return n;
	return relay_state(flow->relay).broken ? -EIO : pass_slice(flow, slice);
}

// --- past this process ----------------------------------------------------------------------------------------
static void try_join(struct flow *flow)
{
	bool plain = !flow->from->tls && !flow->to->tls;
	flow->join = stream_join(flow->from, flow->to);
	flow->attempt = !flow->join && relay_is_on() && plain ? FLOW_RELAY : FLOW_NONE;
}

// When all that has come was read: of a buffer that was read in part the program would have to cut off much.
static void try_relay(struct flow *flow)
{
	char byte;
	uint64_t written;
	if (flow->bulk || stream_peek_bytes(flow->from, &byte, 1) != ERR_NEED_MORE ||
	    !sock_written(stream_fd(flow->to), &written))
		return;
	flow->attempt = FLOW_NONE;
	flow->relay = stream_relay(flow->from, flow->to);
	flow->begun_at = flow->from->received;
	flow->offset = written - flow->to->sent;
}

static bool may_relay(const struct flow *flow)
{
	return flow->attempt == FLOW_RELAY && flow->small_messages >= CONVERSATION;
}

// At a moment when nothing is under way.
static void try_past(struct flow *flow)
{
	if (flow->attempt == FLOW_NONE || flow->messages < CONVERSATION || stream_queued(flow->to) ||
	    (flow->pipe && flow->pipe->bytes))
		return;
	if (flow->attempt == FLOW_JOIN)
		try_join(flow);
	if (may_relay(flow))
		try_relay(flow);
}

bool flow_count(struct flow *flow)
{
	if (!flow->join && !flow->relay)
		return false;
	uint64_t bytes = flow->join ? bypass_joined_bytes(flow->join) : relay_state(flow->relay).bytes;
	uint64_t more = bytes > flow->past ? bytes - flow->past : 0;
	flow->past += more;
	flow->from->received += more;
	flow->to->sent += more;
	return more != 0;
}

// What goes one way without answers stays with us: the kernel's ways past us take more time for it than we do. So does, rather
// than being relayed, much at a time: for that there is splice(2). Of a transfer that comes in bursts single reads may be
// small, so all that a turn has moved counts.
static void count_message(struct flow *flow, uint64_t moved)
{
	if (flow->attempt != FLOW_NONE)
		flow_count(flow->other); // which may be past us already
	bool answers = flow->to->received != flow->answered_at;
	flow->answered_at = flow->to->received;
	if (moved >= SPLICE_FROM)
		flow->small_messages = 0;
	else if (answers && flow->small_messages < CONVERSATION)
		flow->small_messages++;
	if (answers && flow->messages < CONVERSATION)
		flow->messages++;
}

// Nothing of it is under way, or it does not matter any more.
static void end(struct flow *flow)
{
	end_pipe(flow);
	loop_timer_stop(&flow->timer);
	flow_count(flow);
	if (flow->join)
		bypass_part(flow->join);
	if (flow->relay)
		relay_stop(flow->relay);
	set_waiting(flow, false);
	flow->join = flow->relay = 0;
}

void flow_done(struct flow *flow)
{
	if (flow->pipes) // it has begun
		end(flow);
}

// --- all together ---------------------------------------------------------------------------------------------
void flow_init(struct flow *flow, struct flow_pipes *pipes, struct stream *from, struct stream *to,
	       flow_fn on_ready, void *owner)
{
	*flow = (struct flow){
	    .pipes = pipes, .from = from, .to = to, .on_ready = on_ready, .owner = owner};
	loop_timer_init(&flow->timer, on_timer);
}

void flow_pair(struct flow *flow, struct flow *other)
{
	flow->other = other;
	other->other = flow;
}

static int move(struct flow *flow)
{
	if (flow->pipe && flow->pipe->bytes)
		return drain_pipe(flow);
	if (flow->relay)
		return move_relayed(flow);
	if (may_splice(flow))
		return move_spliced(flow);
	return move_buffered(flow);
}

int flow_pump(struct flow *flow)
{
	int err = 0;
	uint64_t before = flow->from->received, limit = before + TURN_BYTES;
	try_past(flow);
	let_relay(flow);
	while (!err && !stream_congested(flow->to) &&
	       (flow->from->received < limit || !stream_yield(flow->from)))
		err = move(flow);
	uint64_t moved = flow->from->received - before;
	if (moved)
		count_message(flow, moved);
	if (moved && err == ERR_NEED_MORE && may_relay(flow))
		stream_want_drained(flow->to);
	if (err == ERR_EOF) {
		flow->ended = true;
		stream_shutdown(flow->to);
		end(flow);
	}
	return err;
}
