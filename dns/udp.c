// SPDX-License-Identifier: Apache-2.0
#include "dns/udp.h"

#include "base/mem.h"
#include "dns/outbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

// Under load the socket is looked at every PAUSE_US instead of waking the worker for each query: then batches
// are worth their name, and a query costs half. BUSY queries in one turn begin that, fewer than CALM end it,
// which is 20,000 a second.
enum { BATCH = DNS_OUTBOX_ANSWERS, TURN_MAX = 8 * BATCH, BUSY = 8, CALM = 4, PAUSE_US = 200 };
enum { QUERY_MAX = LIMIT_DNS_UDP_PAYLOAD };

// A client whose query is under way upstream.
struct udp_waiter {
	struct dns_waiter waiter;
	struct list node;
	struct dns_udp *udp;
	union dns_client client;
	socklen_t client_len;
	struct dns_query query; // its question points into the waiter
};

struct dns_udp {
	struct loop_io io, pause;
	struct loop *loop;
	struct dns_resolver *resolver;
	struct list waiters;
	bool pausing; // until `pause` fires the socket is not looked at
	struct mmsghdr in[BATCH];
	struct iovec in_iov[BATCH];
	union dns_client clients[BATCH];
	struct dns_outbox out;
	uint8_t queries[BATCH][QUERY_MAX];
};

static void waiter_free(struct udp_waiter *waiter)
{
	dns_forward_cancel(&waiter->waiter);
	list_del(&waiter->node);
	mem_free(waiter);
}

static void on_answered(struct dns_waiter *base, const uint8_t *answer, size_t len)
{
	struct udp_waiter *waiter = container_of(base, struct udp_waiter, waiter);
	uint8_t failed[LIMIT_DNS_UDP_PAYLOAD];
	if (!answer) {
		waiter->query.question = (struct str){(const char *)base->question, base->question_len};
		len = dns_resolve_failed(&waiter->query, failed);
		answer = failed;
	}
	struct dns_udp *udp = waiter->udp;
	dns_outbox_send(&udp->out, udp->io.fd, (struct iovec){(void *)answer, len}, &waiter->client,
			waiter->client_len);
	waiter_free(waiter);
}

// Hands the query on. False: that failed, and there is to be an answer at once.
static bool forward(struct dns_udp *udp, const struct dns_query *query, int i)
{
	struct udp_waiter *waiter = mem_zalloc(sizeof *waiter);
	if (!waiter)
		return false;
	waiter->waiter.answered = on_answered;
	list_init(&waiter->waiter._node);
	waiter->udp = udp;
	waiter->client = udp->clients[i];
	waiter->client_len = udp->in[i].msg_hdr.msg_namelen;
	waiter->query = *query;
	list_append(&udp->waiters, &waiter->node);
	if (dns_forward(udp->resolver->forwarder, query, dns_query_limit(query, false), &waiter->waiter) == 0)
		return true;
	waiter_free(waiter);
	return false;
}

// Queues the answer to query number i of the batch, if there is one now.
static void answer_one(struct dns_udp *udp, int i)
{
	struct dns_query query;
	size_t len;
	uint8_t *answer = dns_outbox_room(&udp->out);
	if (!answer) {
		dns_outbox_flush(&udp->out, udp->io.fd);
		answer = dns_outbox_room(&udp->out);
	}
	enum dns_verdict verdict =
	    dns_resolve(udp->resolver, udp->queries[i], udp->in[i].msg_len, false, &query, answer, &len);
	if (verdict == DNS_VERDICT_DROP || (verdict == DNS_VERDICT_FORWARD && forward(udp, &query, i)))
		return;
	if (verdict == DNS_VERDICT_FORWARD)
		len = dns_resolve_failed(&query, answer);
	dns_outbox_add(&udp->out, &udp->clients[i], udp->in[i].msg_hdr.msg_namelen, len);
}

static void prepare_batch(struct dns_udp *udp)
{
	for (int i = 0; i < BATCH; i++) {
		udp->in_iov[i] = (struct iovec){udp->queries[i], QUERY_MAX};
		udp->in[i].msg_hdr = (struct msghdr){.msg_name = &udp->clients[i],
						     .msg_namelen = sizeof udp->clients[i],
						     .msg_iov = &udp->in_iov[i],
						     .msg_iovlen = 1};
	}
}

// One batch; how many queries there were.
static int serve_batch(struct dns_udp *udp)
{
	int n = recvmmsg(udp->io.fd, udp->in, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++)
		answer_one(udp, i);
	dns_outbox_flush(&udp->out, udp->io.fd);
	for (int i = 0; i < n; i++) // the kernel has set it to what it needed
		udp->in[i].msg_hdr.msg_namelen = sizeof udp->clients[i];
	return MAX(n, 0);
}

static void pause_begin(struct dns_udp *udp)
{
	struct itimerspec once = {.it_value.tv_nsec = PAUSE_US * 1000};
	if (!udp->pausing)
		(void)loop_io_set(udp->loop, &udp->io, 0); // else it is looked at more often than need be
	udp->pausing = true;
	timerfd_settime(udp->pause.fd, 0, &once, NULL);
}

// Queries that came in between are told of at once: epoll looks when the events change.
static void pause_end(struct dns_udp *udp)
{
	if (loop_io_set(udp->loop, &udp->io, EPOLLIN) < 0)
		pause_begin(udp);
	else
		udp->pausing = false;
}

static void serve(struct dns_udp *udp)
{
	int taken = 0, n;
	do {
		n = serve_batch(udp);
		taken += n;
	} while (n == BATCH && taken < TURN_MAX);
	if (taken >= (udp->pausing ? CALM : BUSY))
		pause_begin(udp);
	else if (udp->pausing)
		pause_end(udp);
}

static void on_event(struct loop_io *io, uint32_t events)
{
	(void)events;
	serve(container_of(io, struct dns_udp, io));
}

static void on_pause_over(struct loop_io *io, uint32_t events)
{
	(void)events;
	serve(container_of(io, struct dns_udp, pause));
}

enum { LOOPBACK_INDEX = 1 }; // in every network namespace

// Takes only what comes from the address to which it goes: this host's own programs that ask it under its own
// address. The answer goes to this host, whoever claims that address.
static int filter_own(int fd, uint8_t family)
{
	bool v6 = family == AF_INET6;
	uint32_t source = SKF_NET_OFF + (v6 ? 8 : 12), len = v6 ? 16 : 4;
	struct sock_filter code[2 + 4 * 4 + 2];
	uint16_t n = 0;
	// By the loopback interface: of IPv6 nobody else looks whether an address of this host comes from
	// outside.
	code[n++] =
	    (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_IFINDEX));
	code[n++] =
	    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, LOOPBACK_INDEX, 0, (uint8_t)(len + 1));
	for (uint32_t at = 0; at < len; at += 4) {
		uint8_t behind = (uint8_t)(len - at - 4); // instructions up to the one that takes
		code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, source + at);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_MISC | BPF_TAX, 0);
		code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, source + len + at);
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_X, 0, 0, behind + 1u);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = n, .filter = code};
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

static int open_socket(const struct addr *addr, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	int on = 1, fd = socket(addr->ip.family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	bool v6 = addr->ip.family == AF_INET6;
	// An address may become this host's only when interception is installed.
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0 ||
	    (v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
	    (v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_FREEBIND, &on, sizeof on) < 0) ||
	    (ip_is_any(&addr->ip) && filter_own(fd, addr->ip.family) < 0) ||
	    bind(fd, (struct sockaddr *)&sa, len) < 0) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

static int listen_on(struct dns_udp *udp, int fd)
{
	int pause_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	int err =
	    pause_fd < 0 ? -errno : loop_io_add(udp->loop, &udp->pause, pause_fd, EPOLLIN, on_pause_over);
	if (!err && (err = loop_io_add(udp->loop, &udp->io, fd, EPOLLIN, on_event)))
		loop_io_del(udp->loop, &udp->pause);
	if (err && pause_fd >= 0)
		close(pause_fd);
	return err;
}

int dns_udp_new(struct loop *loop, const struct addr *addr, struct dns_resolver *resolver,
		struct dns_udp **ret_udp)
{
	int fd = -1, err = open_socket(addr, &fd);
	if (err)
		return err;
	struct dns_udp *udp = mem_zalloc(sizeof *udp);
	if (udp) {
		udp->loop = loop;
		udp->resolver = resolver;
		udp->out.to_itself = ip_is_any(&addr->ip); // all that filter_own lets in
		list_init(&udp->waiters);
		prepare_batch(udp);
	}
	err = udp ? listen_on(udp, fd) : -ENOMEM;
	if (err) {
		close(fd);
		mem_free(udp);
		return err;
	}
	*ret_udp = udp;
	return 0;
}

static void close_io(struct dns_udp *udp, struct loop_io *io)
{
	int fd = io->fd;
	loop_io_del(udp->loop, io);
	close(fd);
}

void dns_udp_free(struct dns_udp *udp)
{
	if (!udp)
		return;
	list_for_each_safe (node, &udp->waiters)
		waiter_free(container_of(node, struct udp_waiter, node));
	close_io(udp, &udp->pause);
	close_io(udp, &udp->io);
	mem_free(udp);
}
