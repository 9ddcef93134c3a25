// SPDX-License-Identifier: Apache-2.0
#include "proxy/acceleration_join_check.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "net/bypass.h"
#include "proxy/acceleration_check.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum {
	TRANSFER = 1024 * 1024, // each way
	SMALL = 1000,
	SLOW_MAX = 8 * 1024 * 1024, // what fits into the buffers of both connections is far less
	SLOW_TURNS = 3,
};

// One direction, as a tunnel has it.
struct passing {
	int from, to; // enum peer
	size_t read, written, waiting;
	uint8_t bytes[PEERS_PIECE_MAX];
};

struct line {
	struct peers *peers;
	struct passing up, down;
	uint64_t join;
	size_t sent, received; // by the application, and somewhere else
};

// --- the proxy ------------------------------------------------------------------------------------------------
// How many bytes went on, 0: none; ERR_EOF; or another negative error.
static ssize_t pass(const struct peers *peers, struct passing *passing)
{
	if (!passing->waiting) {
		ssize_t n =
		    recv(peers->fds[passing->from], passing->bytes, sizeof passing->bytes, MSG_DONTWAIT);
		if (n <= 0)
			return n == 0 ? ERR_EOF : errno == EAGAIN ? 0 : -errno;
		passing->waiting = (size_t)n;
		passing->read += (size_t)n;
	}
	uint32_t refusals = bypass_refusals();
	ssize_t n =
	    send(peers->fds[passing->to], passing->bytes, passing->waiting, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || bypass_refusals() != refusals ? 0 : -errno;
	passing->waiting -= (size_t)n;
	passing->written += (size_t)n;
	memmove(passing->bytes, passing->bytes + n, passing->waiting);
	return n;
}

// --- the ends -------------------------------------------------------------------------------------------------
// Until all that the application has sent has come.
static int receive_all(struct line *line)
{
	while (line->received < line->sent) {
		ssize_t n = pass(line->peers, &line->up);
		ssize_t m =
		    n < 0 ? n : peers_receive(line->peers, PEER_FAR, PEER_APPLICATION, line->received, 0);
		int err = m < 0 ? (int)m : n == 0 && m == 0 ? peers_pause(line->peers) : 0;
		if (err)
			return err;
		line->received += (size_t)m;
	}
	return 0;
}

// 1: all went; 0: there was no room; or a negative error.
static int send_some(struct line *line, size_t len)
{
	ssize_t n = peers_send(line->peers, PEER_APPLICATION, line->sent, len);
	if (n < 0)
		return (int)n;
	line->sent += (size_t)n;
	return (size_t)n == len;
}

// A message that the proxy does not see.
static int send_past(struct line *line)
{
	struct weir_bypass_counts before, after;
	bypass_read_counts(&before);
	if (send_some(line, SMALL) != 1)
		return -EIO;
	bypass_read_counts(&after);
	if (after.joined_messages != before.joined_messages + 1 ||
	    after.joined_bytes != before.joined_bytes + SMALL)
		return ERR_NOT_FOUND;
	line->received += SMALL;
	return peers_receive_all(line->peers, PEER_FAR, PEER_APPLICATION, line->received - SMALL, SMALL);
}

// Both connections, used once and then joined.
static int begin(struct line *line)
{
	const int *fds = line->peers->fds;
	int err = peers_connect(line->peers);
	if (!err)
		err = peers_connect_far(line->peers);
	if (!err && send_some(line, SMALL) != 1)
		err = -EIO;
	if (!err)
		err = receive_all(line);
	if (err)
		return err;
	line->join = bypass_join(fds[PEER_PROXY], fds[PEER_OUTLET], line->up.read, line->up.written);
	return line->join ? send_past(line) : ERR_NOT_FOUND;
}

// --- steps ----------------------------------------------------------------------------------------------------
// More than fits: it goes to the proxy, and at last the application is told to wait. When all was passed on,
// messages go past it again.
static int check_slow(struct line *line)
{
	for (int turn = 0; turn < SLOW_TURNS; turn++) {
		size_t limit = line->sent + SLOW_MAX;
		int went = 1;
		while (went > 0 && line->sent < limit)
			went = send_some(line, PEERS_PIECE_MAX);
		int err = went < 0 ? went : line->sent < limit ? receive_all(line) : ERR_LIMIT;
		// After one without room the kernel asks nobody about the next message.
		if (!err && send_some(line, SMALL) != 1)
			err = -EIO;
		if (!err)
			err = receive_all(line);
		if (!err)
			err = send_past(line);
		if (err)
			return err;
	}
	return 0;
}

static int check_both_ways(struct line *line)
{
	struct peers *peers = line->peers;
	size_t limit = line->sent + TRANSFER, back_sent = 0, back = 0;
	while (line->received < limit || back < TRANSFER) {
		int err = send_some(line, MIN(1 + line->sent * 7 % PEERS_PIECE_MAX, limit - line->sent));
		ssize_t n = peers_send(peers, PEER_FAR, back_sent,
				       MIN((size_t)PEERS_PIECE_MAX, TRANSFER - back_sent));
		ssize_t up = pass(peers, &line->up), down = pass(peers, &line->down);
		ssize_t m = peers_receive(peers, PEER_FAR, PEER_APPLICATION, line->received, 0);
		ssize_t k = peers_receive(peers, PEER_APPLICATION, PEER_FAR, back, 0);
		if (err < 0 || n < 0 || up < 0 || down < 0 || m < 0 || k < 0)
			return ERR_MALFORMED;
		back_sent += (size_t)n;
		line->received += (size_t)m;
		back += (size_t)k;
		err = n + up + down + m + k ? 0 : peers_pause(peers);
		if (err)
			return err;
	}
	return 0;
}

// The last bytes are there before the proxy hears of the end, and the other way goes on.
static int check_end(struct line *line)
{
	struct peers *peers = line->peers;
	if (send_some(line, SMALL) != 1 || shutdown(peers->fds[PEER_APPLICATION], SHUT_WR) < 0)
		return -EIO;
	int err = peers_expect(peers, PEER_PROXY, PEER_APPLICATION, ERR_EOF);
	if (!err && shutdown(peers->fds[PEER_OUTLET], SHUT_WR) < 0)
		err = -errno;
	if (!err)
		err = peers_receive_all(peers, PEER_FAR, PEER_APPLICATION, line->received,
					line->sent - line->received);
	if (!err)
		err = peers_expect(peers, PEER_FAR, PEER_APPLICATION, ERR_EOF);
	if (!err && peers_send(peers, PEER_FAR, 0, SMALL) != SMALL)
		err = -EIO;
	for (ssize_t n = 0; !err && n == 0;) {
		n = pass(peers, &line->down);
		err = n < 0 ? (int)n : n == 0 ? peers_pause(peers) : 0;
	}
	return err ? err : peers_receive_all(peers, PEER_APPLICATION, PEER_FAR, 0, SMALL);
}

static void reset(struct peers *peers, int peer)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	setsockopt(peers->fds[peer], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	peers_close(peers, peer);
}

static int check_reset(struct line *line)
{
	reset(line->peers, PEER_APPLICATION);
	return peers_expect(line->peers, PEER_PROXY, PEER_APPLICATION, -ECONNRESET);
}

// It is the proxy that hears of it, not the application that sends next.
static int check_reset_elsewhere(struct line *line)
{
	struct peers *peers = line->peers;
	struct pollfd outlet = {.fd = peers->fds[PEER_OUTLET]};
	reset(peers, PEER_FAR);
	if (poll(&outlet, 1, ACCELERATION_CHECK_MS) != 1)
		return -ETIMEDOUT;
	size_t place = line->sent;
	int err = send_some(line, SMALL) == 1
		      ? peers_receive_all(peers, PEER_PROXY, PEER_APPLICATION, place, SMALL)
		      : -EIO;
	return err ? err : peers_expect(peers, PEER_OUTLET, PEER_FAR, -ECONNRESET);
}

static const struct step {
	const char *what;
	int (*fn)(struct line *line);
} steps[] = {
    {"a receiver that is slow", check_slow},
    {"a transfer both ways", check_both_ways},
    {"half-close", check_end},
    {"reset by the application", check_reset},
    {"reset from elsewhere", check_reset_elsewhere},
};

static int run_step(struct line *line, const struct step *step)
{
	line->up = (struct passing){.from = PEER_PROXY, .to = PEER_OUTLET};
	line->down = (struct passing){.from = PEER_OUTLET, .to = PEER_PROXY};
	line->sent = line->received = line->join = 0;
	int err = begin(line);
	if (!err)
		err = step->fn(line);
	if (line->join)
		bypass_part(line->join);
	peers_close_all(line->peers);
	return err;
}

int acceleration_join_check(struct peers *peers, const char **ret_step)
{
	struct line *line = mem_zalloc(sizeof *line);
	int err = line ? 0 : -ENOMEM;
	*ret_step = "";
	if (!line)
		return err;
	line->peers = peers;
	for (size_t i = 0; !err && i < ARRAY_SIZE(steps); i++) {
		*ret_step = steps[i].what;
		err = run_step(line, &steps[i]);
	}
	mem_free(line);
	if (!err && bypass_sockets()) {
		*ret_step = "nothing is left of what was closed";
		err = ERR_MALFORMED;
	}
	return err;
}
