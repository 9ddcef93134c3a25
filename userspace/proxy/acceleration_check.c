// SPDX-License-Identifier: Apache-2.0
#include "proxy/acceleration_check.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "net/bypass.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	TRANSFER = 1024 * 1024, // each way
	PIECE_MAX = 40000,
	SMALL = 1000,
	SEND_BUFFER = 65536,
	SLOW_MAX = 4 * 1024 * 1024, // what fits into buffers, those of the bypass included, is far less
};

// One connection; one end as an application has it, which opens it, the other as the proxy does.
enum { APPLICATION, PROXY, ENDS };

struct check {
	int listener;
	int fds[ENDS];
	uint64_t deadline_ms;
	uint8_t buffer[PIECE_MAX];
};

static uint64_t now_ms(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000 + (uint64_t)time.tv_nsec / 1000000;
}

// --- connections ---------------------------------------------------------------------------------------------
static int open_listener(struct check *check, uint16_t *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof address;
	check->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (check->listener < 0 || bind(check->listener, (struct sockaddr *)&address, len) < 0 ||
	    listen(check->listener, 1) < 0 ||
	    getsockname(check->listener, (struct sockaddr *)&address, &len) < 0)
		return -errno;
	*port = ntohs(address.sin_port);
	return 0;
}

static void close_end(struct check *check, int end)
{
	if (check->fds[end] >= 0)
		close(check->fds[end]);
	check->fds[end] = -1;
}

static int connect_ends(struct check *check)
{
	struct sockaddr_in address;
	socklen_t len = sizeof address;
	int size = SEND_BUFFER, *fds = check->fds;
	fds[APPLICATION] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
	if (fds[APPLICATION] < 0 || getsockname(check->listener, (struct sockaddr *)&address, &len) < 0 ||
	    (connect(fds[APPLICATION], (struct sockaddr *)&address, len) < 0 && errno != EINPROGRESS))
		return -errno;
	fds[PROXY] = accept4(check->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fds[PROXY] < 0)
		return -errno;
	for (int end = 0; end < ENDS; end++)
		setsockopt(fds[end], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	return 0;
}

// --- bytes ---------------------------------------------------------------------------------------------------
static uint8_t byte_at(int from, size_t place)
{
	return (uint8_t)(place * 131 + (place >> 8) * 7 + (size_t)from * 17);
}

// How many bytes went, 0: no room; or a negative error.
static ssize_t send_piece(struct check *check, int from, size_t place, size_t len)
{
	for (size_t i = 0; i < len; i++)
		check->buffer[i] = byte_at(from, place + i);
	uint32_t refusals = bypass_refusals();
	ssize_t n = send(check->fds[from], check->buffer, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || bypass_refusals() != refusals ? 0 : -errno;
	return n;
}

// How many bytes came, as they were sent; 0: none; ERR_EOF; or another negative error.
static ssize_t receive_piece(struct check *check, int from, size_t place, int flags)
{
	ssize_t n = recv(check->fds[!from], check->buffer, sizeof check->buffer, MSG_DONTWAIT | flags);
	if (n <= 0)
		return n == 0 ? ERR_EOF : errno == EAGAIN ? 0 : -errno;
	for (ssize_t i = 0; i < n; i++)
		if (check->buffer[i] != byte_at(from, place + (size_t)i))
			return ERR_MALFORMED;
	return n;
}

static int wait_a_little(const struct check *check)
{
	if (now_ms() >= check->deadline_ms)
		return -ETIMEDOUT;
	poll(NULL, 0, 1);
	return 0;
}

static int receive_all(struct check *check, int from, size_t place, size_t len)
{
	for (size_t end = place + len; place < end;) {
		ssize_t n = receive_piece(check, from, place, 0);
		int err = n < 0 ? (int)n : n == 0 ? wait_a_little(check) : 0;
		if (err)
			return err;
		place += (size_t)n;
	}
	return 0;
}

static int expect_end(struct check *check, int from, int expected)
{
	ssize_t n;
	while ((n = receive_piece(check, from, 0, 0)) == 0)
		if (wait_a_little(check))
			return -ETIMEDOUT;
	return n == expected ? 0 : ERR_MALFORMED;
}

// Sends in pieces of many sizes and receives at the same time.
static int transfer_both_ways(struct check *check)
{
	size_t sent[ENDS] = {0}, received[ENDS] = {0};
	while (received[APPLICATION] < TRANSFER || received[PROXY] < TRANSFER) {
		bool moved = false;
		for (int from = 0; from < ENDS; from++) {
			size_t size = MIN(1 + sent[from] * 7 % PIECE_MAX, (size_t)TRANSFER - sent[from]);
			ssize_t n = size ? send_piece(check, from, sent[from], size) : 0;
			ssize_t m = n < 0 ? n : receive_piece(check, from, received[from], 0);
			if (m < 0)
				return (int)m;
			sent[from] += (size_t)n;
			received[from] += (size_t)m;
			moved |= n > 0 || m > 0;
		}
		int err = moved ? 0 : wait_a_little(check);
		if (err)
			return err;
	}
	return 0;
}

// --- steps ---------------------------------------------------------------------------------------------------
static int check_found(struct check *check)
{
	struct weir_bypass_counts before, after;
	if (!bypass_has(check->fds[APPLICATION]) || !bypass_has(check->fds[PROXY]))
		return ERR_NOT_FOUND;
	bypass_read_counts(&before);
	for (int from = 0; from < ENDS; from++) {
		int err =
		    send_piece(check, from, 0, SMALL) == SMALL ? receive_all(check, from, 0, SMALL) : -EIO;
		if (err)
			return err;
	}
	bypass_read_counts(&after);
	return after.bytes - before.bytes == ENDS * SMALL ? 0 : ERR_NOT_FOUND;
}

static int check_peek(struct check *check)
{
	for (int from = 0; from < ENDS; from++) {
		int waiting = 0;
		if (send_piece(check, from, 0, SMALL) != SMALL ||
		    receive_piece(check, from, 0, MSG_PEEK) != SMALL ||
		    ioctl(check->fds[!from], FIONREAD, &waiting) < 0 || waiting != SMALL ||
		    receive_piece(check, from, 0, 0) != SMALL)
			return ERR_MALFORMED;
	}
	return 0;
}

static int check_edge(struct check *check)
{
	for (int from = 0; from < ENDS; from++) {
		struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET};
		autoclose int epoll = epoll_create1(EPOLL_CLOEXEC);
		if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, check->fds[!from], &event) < 0)
			return -errno;
		for (size_t place = 0; place < 2 * SMALL; place += SMALL) {
			if (epoll_wait(epoll, &event, 1, 0) != 0 ||
			    send_piece(check, from, place, SMALL) != SMALL ||
			    epoll_wait(epoll, &event, 1, ACCELERATION_CHECK_MS) != 1 ||
			    receive_piece(check, from, place, 0) != SMALL)
				return ERR_MALFORMED;
		}
	}
	return 0;
}

// The last bytes, the end right behind them, and the other way goes on.
static int end_of(struct check *check, int from)
{
	if (send_piece(check, from, 0, SMALL) != SMALL || shutdown(check->fds[from], SHUT_WR) < 0)
		return -EIO;
	int err = receive_all(check, from, 0, SMALL);
	if (!err)
		err = expect_end(check, from, ERR_EOF);
	if (!err && send_piece(check, from, SMALL, SMALL) != -EPIPE)
		err = ERR_MALFORMED; // something follows the end
	if (!err && send_piece(check, !from, 0, SMALL) != SMALL)
		err = -EIO;
	close_end(check, !from);
	if (!err)
		err = receive_all(check, !from, 0, SMALL);
	return err ? err : expect_end(check, !from, ERR_EOF);
}

static int check_end_of_application(struct check *check)
{
	return end_of(check, APPLICATION);
}

static int check_end_of_proxy(struct check *check)
{
	return end_of(check, PROXY);
}

static int reset_of(struct check *check, int from)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 0};
	if (send_piece(check, from, 0, SMALL) != SMALL || receive_all(check, from, 0, SMALL))
		return -EIO;
	setsockopt(check->fds[from], SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
	close_end(check, from);
	int err = expect_end(check, from, -ECONNRESET);
	if (!err && send_piece(check, !from, 0, SMALL) != -EPIPE)
		err = ERR_MALFORMED;
	return err;
}

static int check_reset_of_application(struct check *check)
{
	return reset_of(check, APPLICATION);
}

static int check_reset_of_proxy(struct check *check)
{
	return reset_of(check, PROXY);
}

static int slow_reader(struct check *check, int from)
{
	size_t sent = 0;
	ssize_t n;
	while (sent < SLOW_MAX && (n = send_piece(check, from, sent, PIECE_MAX)) != 0) {
		if (n < 0)
			return (int)n;
		sent += (size_t)n;
	}
	int err = sent < SLOW_MAX ? receive_all(check, from, 0, sent) : ERR_LIMIT;
	if (!err && send_piece(check, from, sent, SMALL) != SMALL)
		err = -EIO;
	return err ? err : receive_all(check, from, sent, SMALL);
}

static int check_slow_proxy(struct check *check)
{
	return slow_reader(check, APPLICATION);
}

static int check_slow_application(struct check *check)
{
	return slow_reader(check, PROXY);
}

static const struct step {
	const char *what;
	int (*fn)(struct check *check);
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
};

static int run_step(struct check *check, const struct step *step)
{
	int err = connect_ends(check);
	if (!err)
		err = step->fn(check);
	for (int end = 0; end < ENDS; end++)
		close_end(check, end);
	return err;
}

static int run_steps(struct check *check, struct strbuf *why)
{
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		int err = run_step(check, &steps[i]);
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

int acceleration_check(uint16_t *port, struct strbuf *ret_why)
{
	struct check *check = mem_zalloc(sizeof *check);
	if (!check)
		return -ENOMEM;
	check->fds[APPLICATION] = check->fds[PROXY] = -1;
	check->deadline_ms = now_ms() + ACCELERATION_CHECK_MS;
	int err = open_listener(check, port);
	if (err)
		strbuf_printf(ret_why, "the local bypass cannot be tested: %s", err_text(err));
	else
		err = run_steps(check, ret_why);
	if (check->listener >= 0)
		close(check->listener);
	mem_free(check);
	return err;
}
