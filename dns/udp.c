// SPDX-License-Identifier: Apache-2.0
#include "dns/udp.h"

#include "base/mem.h"

#include <errno.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 32, BATCHES_PER_TURN = 8, QUERY_MAX = LIMIT_DNS_UDP_PAYLOAD };

// A client whose query is under way upstream.
struct udp_waiter {
	struct dns_waiter waiter;
	struct list node;
	struct dns_udp *udp;
	struct sockaddr_storage client;
	socklen_t client_len;
	struct dns_query query; // its question points into the waiter
};

struct dns_udp {
	struct loop_io io;
	struct loop *loop;
	struct dns_resolver *resolver;
	struct list waiters;
	struct loop_timer again; // more was there than one turn takes
	struct mmsghdr in[BATCH], out[BATCH];
	struct iovec in_iov[BATCH], out_iov[BATCH];
	struct sockaddr_storage clients[BATCH];
	uint8_t queries[BATCH][QUERY_MAX];
	uint8_t answers[BATCH][LIMIT_DNS_UDP_PAYLOAD];
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
	// A datagram that cannot be sent is lost, as datagrams are: the client asks again.
	sendto(waiter->udp->io.fd, answer, len, MSG_DONTWAIT, (struct sockaddr *)&waiter->client, waiter->client_len);
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
static int answer_one(struct dns_udp *udp, int i, int queued)
{
	struct dns_query query;
	size_t len;
	enum dns_verdict verdict = dns_resolve(udp->resolver, udp->queries[i], udp->in[i].msg_len, false, &query,
					       udp->answers[queued], &len);
	if (verdict == DNS_VERDICT_DROP || (verdict == DNS_VERDICT_FORWARD && forward(udp, &query, i)))
		return queued;
	if (verdict == DNS_VERDICT_FORWARD)
		len = dns_resolve_failed(&query, udp->answers[queued]);
	udp->out_iov[queued] = (struct iovec){udp->answers[queued], len};
	udp->out[queued].msg_hdr = (struct msghdr){.msg_name = &udp->clients[i],
						   .msg_namelen = udp->in[i].msg_hdr.msg_namelen,
						   .msg_iov = &udp->out_iov[queued],
						   .msg_iovlen = 1};
	return queued + 1;
}

static void send_answers(struct dns_udp *udp, int count)
{
	for (int sent = 0; sent < count;) {
		int n = sendmmsg(udp->io.fd, udp->out + sent, (unsigned)(count - sent), MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		sent += n > 0 ? n : 1; // one that cannot be sent must not hold up the others
	}
}

// One batch; whether it was full.
static bool serve_batch(struct dns_udp *udp)
{
	int queued = 0;
	for (int i = 0; i < BATCH; i++) {
		udp->in_iov[i] = (struct iovec){udp->queries[i], QUERY_MAX};
		udp->in[i].msg_hdr = (struct msghdr){.msg_name = &udp->clients[i],
						     .msg_namelen = sizeof udp->clients[i],
						     .msg_iov = &udp->in_iov[i],
						     .msg_iovlen = 1};
	}
	int n = recvmmsg(udp->io.fd, udp->in, BATCH, MSG_DONTWAIT, NULL);
	for (int i = 0; i < n; i++)
		queued = answer_one(udp, i, queued);
	send_answers(udp, queued);
	return n == BATCH;
}

static void serve(struct dns_udp *udp)
{
	for (int i = 0; i < BATCHES_PER_TURN; i++)
		if (!serve_batch(udp))
			return;
	loop_timer_start(udp->loop, &udp->again, 1);
}

static void on_event(struct loop_io *io, uint32_t events)
{
	(void)events;
	serve(container_of(io, struct dns_udp, io));
}

static void on_again(struct loop_timer *timer)
{
	serve(container_of(timer, struct dns_udp, again));
}

static int open_socket(const struct addr *addr, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	int on = 1, fd = socket(addr->ip.family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0 ||
	    (addr->ip.family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on) < 0) ||
	    bind(fd, (struct sockaddr *)&sa, len) < 0) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

int dns_udp_new(struct loop *loop, const struct addr *addr, struct dns_resolver *resolver, struct dns_udp **ret_udp)
{
	int fd = -1, err = open_socket(addr, &fd);
	if (err)
		return err;
	struct dns_udp *udp = mem_zalloc(sizeof *udp);
	err = udp ? loop_io_add(loop, &udp->io, fd, EPOLLIN, on_event) : -ENOMEM;
	if (err) {
		close(fd);
		mem_free(udp);
		return err;
	}
	udp->loop = loop;
	udp->resolver = resolver;
	list_init(&udp->waiters);
	loop_timer_init(&udp->again, on_again);
	*ret_udp = udp;
	return 0;
}

void dns_udp_free(struct dns_udp *udp)
{
	if (!udp)
		return;
	list_for_each_safe(node, &udp->waiters) waiter_free(container_of(node, struct udp_waiter, node));
	int fd = udp->io.fd;
	loop_timer_stop(&udp->again);
	loop_io_del(udp->loop, &udp->io);
	close(fd);
	mem_free(udp);
}
