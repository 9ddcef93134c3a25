// SPDX-License-Identifier: Apache-2.0
#include "exchange/flow.h"

#include "base/error.h"
#include "base/mem.h"
#include "net/bypass.h"

#include <fcntl.h>
#include <unistd.h>

enum {
	SPLICE_FROM = 16 * 1024, // a read of this size starts splicing
	SPLICE_MAX = 256 * 1024,
	TURN_BYTES = 1024 * 1024, // moved in one go; then other connections get their turn
	SPARE_PIPES = 8,
	JOIN_TURN = 2, // after so many times that bytes came: before, it may be a short conversation
};

struct pipe {
	struct list node; // among the spare ones
	int read_fd, write_fd;
	size_t bytes;
};

// --- pipes --------------------------------------------------------------------------------------------------
static struct pipe *pipe_get(struct dataplane *dataplane)
{
	int fds[2];
	if (!list_empty(&dataplane->spare_pipes)) {
		struct pipe *pipe = container_of(dataplane->spare_pipes.next, struct pipe, node);
		list_del(&pipe->node);
		dataplane->spare_pipe_count--;
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
static void pipe_put(struct dataplane *dataplane, struct pipe *pipe)
{
	if (!pipe)
		return;
	if (pipe->bytes || dataplane->spare_pipe_count >= SPARE_PIPES) {
		pipe_free(pipe);
		return;
	}
	list_prepend(&dataplane->spare_pipes, &pipe->node);
	dataplane->spare_pipe_count++;
}

void flow_pipes_free(struct dataplane *dataplane)
{
	list_for_each_safe (node, &dataplane->spare_pipes) {
		list_del(node);
		pipe_free(container_of(node, struct pipe, node));
	}
	dataplane->spare_pipe_count = 0;
}

static void end_pipe(struct flow *flow)
{
	pipe_put(flow->dataplane, flow->pipe);
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
		flow->pipe = pipe_get(flow->dataplane);
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

static int move_buffered(struct flow *flow)
{
	struct slice slice;
	struct bufq bytes = {0};
	int n = stream_read(flow->from, &slice);
	if (n < 0)
		return n;
	flow->bulk = n >= SPLICE_FROM;
	int err = bufq_add_slice(&bytes, slice);
	stream_write(flow->to, &bytes);
	return err;
}

static int move(struct flow *flow)
{
	if (flow->pipe && flow->pipe->bytes)
		return drain_pipe(flow);
	if (may_splice(flow))
		return move_spliced(flow);
	return move_buffered(flow);
}

// Once, at a moment when nothing is under way.
static void flow_join(struct flow *flow)
{
	if (flow->turns != JOIN_TURN || !bypass_is_on() || stream_queued(flow->to))
		return;
	flow->turns++;
	flow->join = stream_join(flow->from, flow->to);
}

// Takes what went past this process into the counts of the streams. Whether that was anything.
bool flow_count(struct flow *flow)
{
	uint64_t bytes = flow->join ? bypass_joined_bytes(flow->join) : 0, more = bytes - flow->joined;
	if (!flow->join || !more)
		return false;
	flow->joined = bytes;
	flow->from->received += more;
	flow->to->sent += more;
	return true;
}

static void flow_part(struct flow *flow)
{
	flow_count(flow);
	if (flow->join)
		bypass_part(flow->join);
	flow->join = 0;
}

void flow_done(struct flow *flow)
{
	end_pipe(flow);
	flow_part(flow);
}

void flow_init(struct flow *flow, struct dataplane *dataplane, struct stream *from, struct stream *to)
{
	*flow = (struct flow){.dataplane = dataplane, .from = from, .to = to};
}

int flow_pump(struct flow *flow)
{
	int err = 0;
	uint64_t before = flow->from->received, limit = before + TURN_BYTES;
	flow_join(flow);
	while (!err && !stream_congested(flow->to) &&
	       (flow->from->received < limit || !stream_yield(flow->from)))
		err = move(flow);
	flow->turns += flow->turns < JOIN_TURN && flow->from->received != before;
	if (err == ERR_EOF) {
		flow->ended = true;
		stream_shutdown(flow->to);
		end_pipe(flow);
	}
	return err;
}
