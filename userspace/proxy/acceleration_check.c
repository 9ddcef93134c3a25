// SPDX-License-Identifier: Apache-2.0
#include "proxy/acceleration_check.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "net/bypass.h"
#include "proxy/acceleration_join_check.h"
#include "proxy/acceleration_peers.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	TRANSFER = 1024 * 1024, // each way
	SMALL = 1000,
	SLOW_MAX = 4 * 1024 * 1024, // what fits into buffers, those of the bypass included, is far less
};

// Sends in pieces of many sizes and receives at the same time.
static int transfer_both_ways(struct peers *peers)
{
	size_t sent[2] = {0}, received[2] = {0};
	while (received[PEER_APPLICATION] < TRANSFER || received[PEER_PROXY] < TRANSFER) {
		bool moved = false;
		for (int from = 0; from < 2; from++) {
			size_t size =
			    MIN(1 + sent[from] * 7 % PEERS_PIECE_MAX, (size_t)TRANSFER - sent[from]);
			ssize_t n = size ? peers_send(peers, from, sent[from], size) : 0;
			ssize_t m =
			    n < 0 ? n : peers_receive(peers, peers_other(from), from, received[from], 0);
			if (m < 0)
				return (int)m;
			sent[from] += (size_t)n;
			received[from] += (size_t)m;
			moved |= n > 0 || m > 0;
		}
		int err = moved ? 0 : peers_pause(peers);
		if (err)
			return err;
	}
	return 0;
}

// --- steps ---------------------------------------------------------------------------------------------------
static int check_found(struct peers *peers)
{
	struct weir_bypass_counts before, after;
	if (!bypass_has(peers->fds[PEER_APPLICATION]) || !bypass_has(peers->fds[PEER_PROXY]))
		return ERR_NOT_FOUND;
	for (int from = 0; from < 2; from++) {
		bypass_read_counts(&before);
		if (peers_send(peers, from, 0, SMALL) != SMALL)
			return -EIO;
		bypass_read_counts(&after);
		if (after.bytes - before.bytes != SMALL)
			return ERR_NOT_FOUND;
		int err = peers_receive_all(peers, peers_other(from), from, 0, SMALL);
		if (err)
			return err;
	}
	return 0;
}

static int check_peek(struct peers *peers)
{
	for (int from = 0; from < 2; from++) {
		int waiting = 0;
		if (peers_send(peers, from, 0, SMALL) != SMALL ||
		    peers_receive(peers, peers_other(from), from, 0, MSG_PEEK) != SMALL ||
		    ioctl(peers->fds[peers_other(from)], FIONREAD, &waiting) < 0 || waiting != SMALL ||
		    peers_receive(peers, peers_other(from), from, 0, 0) != SMALL)
			return ERR_MALFORMED;
	}
	return 0;
}

static int check_edge(struct peers *peers)
{
	for (int from = 0; from < 2; from++) {
		struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
		autoclose int epoll = epoll_create1(EPOLL_CLOEXEC);
		if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, peers->fds[peers_other(from)], &event) < 0)
			return -errno;
		for (size_t place = 0; place < 2 * SMALL; place += SMALL) {
			if (epoll_wait(epoll, &event, 1, 0) != 0 ||
			    peers_send(peers, from, place, SMALL) != SMALL ||
			    epoll_wait(epoll, &event, 1, ACCELERATION_CHECK_MS) != 1 ||
			    peers_receive(peers, peers_other(from), from, place, 0) != SMALL)
				return ERR_MALFORMED;
		}
	}
	return 0;
}

// The last bytes, the end right behind them, and the other way goes on.
static int end_of(struct peers *peers, int from)
{
	if (peers_send(peers, from, 0, SMALL) != SMALL || shutdown(peers->fds[from], SHUT_WR) < 0)
		return -EIO;
	int err = peers_receive_all(peers, peers_other(from), from, 0, SMALL);
	if (!err)
		err = peers_expect(peers, peers_other(from), from, ERR_EOF);
	if (!err && peers_send(peers, from, SMALL, SMALL) != -EPIPE)
		err = ERR_MALFORMED; // something follows the end
	if (!err && peers_send(peers, peers_other(from), 0, SMALL) != SMALL)
		err = -EIO;
	peers_close(peers, peers_other(from));
	if (!err)
		err = peers_receive_all(peers, from, peers_other(from), 0, SMALL);
	return err ? err : peers_expect(peers, from, peers_other(from), ERR_EOF);
}

static int check_end_of_application(struct peers *peers)
{
	return end_of(peers, PEER_APPLICATION);
}

static int check_end_of_proxy(struct peers *peers)
{
	return end_of(peers, PEER_PROXY);
}

static int reset_of(struct peers *peers, int from)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	if (peers_send(peers, from, 0, SMALL) != SMALL ||
	    peers_receive_all(peers, peers_other(from), from, 0, SMALL))
		return -EIO;
	setsockopt(peers->fds[from], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	peers_close(peers, from);
	int err = peers_expect(peers, peers_other(from), from, -ECONNRESET);
	if (!err && peers_send(peers, peers_other(from), 0, SMALL) != -EPIPE)
		err = ERR_MALFORMED;
	return err;
}

static int check_reset_of_application(struct peers *peers)
{
	return reset_of(peers, PEER_APPLICATION);
}

static int check_reset_of_proxy(struct peers *peers)
{
	return reset_of(peers, PEER_PROXY);
}

static int slow_reader(struct peers *peers, int from)
{
	size_t sent = 0;
	ssize_t n;
	while (sent < SLOW_MAX && (n = peers_send(peers, from, sent, PEERS_PIECE_MAX)) != 0) {
		if (n < 0)
			return (int)n;
		sent += (size_t)n;
	}
	int err = sent < SLOW_MAX ? peers_receive_all(peers, peers_other(from), from, 0, sent) : ERR_LIMIT;
	if (!err && peers_send(peers, from, sent, SMALL) != SMALL)
		err = -EIO;
	return err ? err : peers_receive_all(peers, peers_other(from), from, sent, SMALL);
}

static int check_slow_proxy(struct peers *peers)
{
	return slow_reader(peers, PEER_APPLICATION);
}

static int check_slow_application(struct peers *peers)
{
	return slow_reader(peers, PEER_PROXY);
}

// Its ends are as any others afterwards.
static int check_leaving(struct peers *peers)
{
	struct weir_bypass_counts before, after;
	int application = peers->fds[PEER_APPLICATION], proxy = peers->fds[PEER_PROXY];
	bypass_read_counts(&before);
	if (fcntl(application, F_SETFL, fcntl(application, F_GETFL) & ~O_NONBLOCK) < 0 ||
	    peers_send(peers, PEER_APPLICATION, 0, SMALL) != SMALL)
		return -EIO;
	bypass_read_counts(&after);
	int err = peers_receive_all(peers, PEER_PROXY, PEER_APPLICATION, 0, SMALL);
	if (!err)
		err = bypass_leave(proxy);
	if (!err && (bypass_has(application) || bypass_has(proxy) || after.bytes != before.bytes))
		err = ERR_MALFORMED;
	return err ? err : transfer_both_ways(peers);
}

static const struct step {
	const char *what;
	int (*fn)(struct peers *peers);
} steps[] = {
    {"the ends of a connection are found", check_found},
    {"a transfer both ways", transfer_both_ways},
    {"peeking, and asking how much is there", check_peek},
    {"edge-triggered events", check_edge},
    {"half-close by the application", check_end_of_application},
    {"half-close by the proxy", check_end_of_proxy},
    {"reset by the application", check_reset_of_application},
    {"reset by the proxy", check_reset_of_proxy},
    {"an application that reads slowly", check_slow_application},
    {"a proxy that reads slowly", check_slow_proxy},
    {"an application that blocks", check_leaving},
};

static int run_step(struct peers *peers, const struct step *step)
{
	int err = peers_connect(peers);
	if (!err)
		err = step->fn(peers);
	peers_close_all(peers);
	return err;
}

static int run_steps(struct peers *peers, struct strbuf *why)
{
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		int err = run_step(peers, &steps[i]);
		if (!err)
			continue;
		strbuf_printf(why, "the local bypass does not work on this kernel: %s: %s", steps[i].what,
			      err_text(err));
		return err;
	}
	if (bypass_sockets() == 0)
		return 0;
	strbuf_add_text(
	    why, "the local bypass does not work on this kernel: sockets are left after they were closed");
	return ERR_MALFORMED;
}

static int run_joined(struct peers *peers, struct strbuf *why)
{
	const char *step;
	int err = acceleration_join_check(peers, &step);
	if (err)
		strbuf_printf(why, "connections cannot be joined on this kernel: %s: %s", step,
			      err_text(err));
	return err;
}

int acceleration_check(uint16_t *port, struct strbuf *ret_why)
{
	struct peers *peers = mem_zalloc(sizeof *peers);
	if (!peers)
		return -ENOMEM;
	int err = peers_open(peers, ACCELERATION_CHECK_MS, port);
	if (err)
		strbuf_printf(ret_why, "the local bypass cannot be tested: %s", err_text(err));
	if (!err)
		err = run_steps(peers, ret_why);
	if (!err)
		err = run_joined(peers, ret_why);
	peers_done(peers);
	mem_free(peers);
	return err;
}
