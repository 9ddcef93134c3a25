// SPDX-License-Identifier: Apache-2.0
#include "dns/forward.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "dns/cache.h"
#include "run/stats.h"

#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>

enum {
	TRIES = 2,		// rounds over the servers; c-ares doubles the time in the second
	ROUNDS_MS = 4200,	// for both rounds: one and two shares for each server
	TRY_SHORTEST_MS = 300,
	TRY_LONGEST_MS = 1400,
	SOCKETS_MAX = 64,
	FLIGHT_BUCKETS = 1024,
	QUERY_BYTES = DNS_HEADER_BYTES + LIMIT_DNS_NAME + 4 + DNS_OPT_BYTES,
	SERVERS_MAX = 8,
};

// One upstream query, with all who wait for its answer.
struct dns_flight {
	struct dns_forwarder *forwarder;
	struct dns_flight *next; // in its bucket
	struct list waiters;
	struct loop_timer deadline;
	struct dns_key key;
	bool landed; // answered for the waiters; c-ares may still have it
	bool asked;  // c-ares has it, and will call on_answer once
};

struct dns_socket {
	struct loop_io io;
	struct dns_forwarder *forwarder;
};

struct dns_forwarder {
	struct loop *loop;
	ares_channel channel;
	struct dns_forward_options options;
	struct dns_cache *cache;
	struct loop_timer timer;
	struct dns_socket sockets[SOCKETS_MAX];
	struct dns_flight *flights[FLIGHT_BUCKETS];
	size_t flight_count, server_count;
	bool sending, closing;
};

// --- answers for one waiter ---------------------------------------------------------------------------------
// Fits an answer to who asked: its id, the case of its question, its limit. A longer one is cut to the question, with TC.
static size_t fit(const uint8_t *answer, size_t len, uint16_t id, const uint8_t *question, size_t question_len,
		  size_t limit, uint8_t *ret_answer)
{
	bool cut = len > limit;
	size_t n = cut ? DNS_HEADER_BYTES + question_len : len;
	if (n > limit || len < DNS_HEADER_BYTES + question_len)
		return 0;
	memcpy(ret_answer, answer, n);
	memcpy(ret_answer + DNS_HEADER_BYTES, question, question_len);
	ret_answer[0] = (uint8_t)(id >> 8);
	ret_answer[1] = (uint8_t)id;
	ret_answer[3] |= DNS_FLAG_RA;
	if (cut) {
		ret_answer[2] |= DNS_FLAG_TC >> 8;
		memset(ret_answer + 6, 0, 6); // no records
	}
	return n;
}

static void answer_waiter(struct dns_waiter *waiter, const uint8_t *answer, size_t len)
{
	static __thread uint8_t fitted[DNS_MESSAGE_MAX];
	size_t n = answer ? fit(answer, len, waiter->id, waiter->question, waiter->question_len, waiter->limit, fitted) : 0;
	list_del(&waiter->_node);
	waiter->answered(waiter, n ? fitted : NULL, n);
}

// --- flights ------------------------------------------------------------------------------------------------
static struct dns_flight **flight_slot(struct dns_forwarder *forwarder, const struct dns_key *key)
{
	struct dns_flight **slot = &forwarder->flights[dns_key_hash(key) % FLIGHT_BUCKETS];
	while (*slot && !dns_key_eq(&(*slot)->key, key))
		slot = &(*slot)->next;
	return slot;
}

// Answers all who wait (NULL: from what is stale, or not at all). The flight lives on while c-ares has it.
static void flight_land(struct dns_flight *flight, const uint8_t *answer, size_t len)
{
	struct dns_forwarder *forwarder = flight->forwarder;
	if (flight->landed)
		return;
	flight->landed = true;
	*flight_slot(forwarder, &flight->key) = flight->next;
	loop_timer_stop(&flight->deadline);
	if (!answer && !forwarder->closing) {
		answer = dns_cache_get(forwarder->cache, &flight->key, true, loop_now(forwarder->loop), &len);
		if (answer)
			stats_inc(STAT_DNS_STALE);
	}
	while (!list_empty(&flight->waiters))
		answer_waiter(container_of(flight->waiters.next, struct dns_waiter, _node), answer, len);
}

static void flight_free(struct dns_flight *flight)
{
	flight->forwarder->flight_count--;
	mem_free(flight);
}

static void on_deadline(struct loop_timer *timer)
{
	struct dns_flight *flight = container_of(timer, struct dns_flight, deadline);
	flight_land(flight, NULL, 0);
	if (!flight->asked)
		flight_free(flight);
}

static bool same_question(const struct dns_key *key, const uint8_t *answer, size_t len)
{
	struct reader r;
	struct dns_name name = {0};
	reader_init(&r, answer, len);
	reader_skip(&r, DNS_HEADER_BYTES);
	dns_name_read(&r, &name);
	uint16_t type = reader_u16(&r), qclass = reader_u16(&r);
	return !r.err && type == key->type && qclass == key->qclass && name.len == key->name.len &&
	       memcmp(name.bytes, key->name.bytes, name.len) == 0;
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *answer, int len)
{
	struct dns_flight *flight = arg;
	struct dns_forwarder *forwarder = flight->forwarder;
	bool good = status == ARES_SUCCESS && len >= DNS_HEADER_BYTES && same_question(&flight->key, answer, (size_t)len);
	(void)timeouts;
	if (forwarder->sending) { // it failed at once: the waiter hears of it in the next turn
		flight->asked = false;
		loop_timer_start(forwarder->loop, &flight->deadline, 1);
		return;
	}
	if (good && !forwarder->closing) {
		dns_cache_put(forwarder->cache, &flight->key, answer, (size_t)len, loop_now(forwarder->loop));
		stats_inc(STAT_DNS_FORWARDED);
	}
	flight_land(flight, good ? answer : NULL, good ? (size_t)len : 0);
	flight_free(flight);
}

// --- c-ares on the loop -------------------------------------------------------------------------------------
static void rearm(struct dns_forwarder *forwarder);

static void on_timer(struct loop_timer *timer)
{
	struct dns_forwarder *forwarder = container_of(timer, struct dns_forwarder, timer);
	ares_process_fd(forwarder->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	rearm(forwarder);
}

static void rearm(struct dns_forwarder *forwarder)
{
	struct timeval tv;
	if (!ares_timeout(forwarder->channel, NULL, &tv)) {
		loop_timer_stop(&forwarder->timer);
		return;
	}
	loop_timer_start(forwarder->loop, &forwarder->timer, (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000 + 1);
}

// c-ares may read less than there is, and the loop tells of new bytes only: so it is asked until nothing is left.
static void on_socket(struct loop_io *io, uint32_t events)
{
	struct dns_socket *sock = container_of(io, struct dns_socket, io);
	struct dns_forwarder *forwarder = sock->forwarder;
	for (int turn = 0; turn < 64 && io->fd >= 0; turn++) {
		struct pollfd ready = {io->fd, POLLIN, 0};
		int fd = io->fd;
		ares_process_fd(forwarder->channel, fd, events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
		events = 0;
		if (io->fd < 0 || poll(&ready, 1, 0) <= 0)
			break;
	}
	rearm(forwarder);
}

static struct dns_socket *find_socket(struct dns_forwarder *forwarder, int fd)
{
	for (size_t i = 0; i < SOCKETS_MAX; i++)
		if (forwarder->sockets[i].io.fd == fd)
			return &forwarder->sockets[i];
	return NULL;
}

static void on_socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct dns_forwarder *forwarder = arg;
	struct dns_socket *sock = find_socket(forwarder, fd);
	if (!readable && !writable) {
		if (sock)
			loop_io_del(forwarder->loop, &sock->io);
		return;
	}
	if (sock)
		return;
	sock = find_socket(forwarder, -1);
	// Without a place, or without memory, its queries time out; the next ones use what is there.
	if (sock && loop_io_add(forwarder->loop, &sock->io, fd, EPOLLIN | EPOLLOUT, on_socket))
		sock->io.fd = -1;
}

static int on_socket_made(ares_socket_t fd, int type, void *arg)
{
	struct dns_forwarder *forwarder = arg;
	(void)type;
	return forwarder->options.prepare && forwarder->options.prepare(fd, forwarder->options.arg) ? -1 : 0;
}

// --- servers ------------------------------------------------------------------------------------------------
static bool is_own(const struct dns_forwarder *forwarder, const struct addr *addr)
{
	for (size_t i = 0; i < forwarder->options.own_count; i++)
		if (addr_eq(addr, &forwarder->options.own[i]))
			return true;
	return false;
}

static struct addr addr_of_node(const struct ares_addr_port_node *node)
{
	struct addr addr = {.ip.family = (uint8_t)node->family, .port = (uint16_t)(node->udp_port ? node->udp_port : 53)};
	memcpy(addr.ip.bytes, &node->addr, node->family == AF_INET6 ? 16 : 4);
	return addr;
}

static void node_of_addr(const struct addr *addr, struct ares_addr_port_node *ret_node)
{
	*ret_node = (struct ares_addr_port_node){
		.family = addr->ip.family, .udp_port = addr->port, .tcp_port = addr->port};
	memcpy(&ret_node->addr, addr->ip.bytes, addr->ip.family == AF_INET6 ? 16 : 4);
}

// The servers that were given, or those that c-ares found in resolv.conf; without ourselves.
static int set_servers(struct dns_forwarder *forwarder)
{
	struct ares_addr_port_node nodes[SERVERS_MAX], *found = NULL;
	size_t count = 0;
	if (!forwarder->options.server_count && ares_get_servers_ports(forwarder->channel, &found) != ARES_SUCCESS)
		return ERR_DNS;
	for (struct ares_addr_port_node *node = found; node && count < SERVERS_MAX; node = node->next) {
		struct addr addr = addr_of_node(node);
		if (!is_own(forwarder, &addr))
			node_of_addr(&addr, &nodes[count++]);
	}
	for (size_t i = 0; i < forwarder->options.server_count && count < SERVERS_MAX; i++)
		if (!is_own(forwarder, &forwarder->options.servers[i]))
			node_of_addr(&forwarder->options.servers[i], &nodes[count++]);
	for (size_t i = 0; i + 1 < count; i++)
		nodes[i].next = &nodes[i + 1];
	ares_free_data(found);
	forwarder->server_count = count;
	int status = ares_set_servers_ports(forwarder->channel, count ? nodes : NULL);
	return status == ARES_SUCCESS ? 0 : ERR_DNS;
}

static int open_channel(struct dns_forwarder *forwarder, size_t servers)
{
	int share = ROUNDS_MS / 3 / (int)MAX(servers, (size_t)1);
	struct ares_options options = {
		.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES,
		.timeout = MIN(MAX(share, TRY_SHORTEST_MS), TRY_LONGEST_MS),
		.tries = TRIES,
		.sock_state_cb = on_socket_state,
		.sock_state_cb_data = forwarder,
	};
	int status = ares_init_options(&forwarder->channel, &options,
				       ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
	if (status != ARES_SUCCESS) {
		forwarder->channel = NULL;
		return ERR_DNS;
	}
	ares_set_socket_configure_callback(forwarder->channel, on_socket_made, forwarder);
	return set_servers(forwarder);
}

// --- life ---------------------------------------------------------------------------------------------------
int dns_forwarder_new(struct loop *loop, const struct dns_forward_options *options, struct dns_forwarder **ret_forwarder)
{
	struct dns_forwarder *forwarder = mem_zalloc(sizeof *forwarder);
	if (!forwarder)
		return -ENOMEM;
	forwarder->loop = loop;
	forwarder->options = *options;
	loop_timer_init(&forwarder->timer, on_timer);
	for (size_t i = 0; i < SOCKETS_MAX; i++)
		forwarder->sockets[i] = (struct dns_socket){{.fd = -1}, forwarder};
	int err = dns_cache_new(&forwarder->cache);
	if (!err)
		err = open_channel(forwarder, options->server_count);
	// The times depend on how many servers there are, which only c-ares knows of resolv.conf.
	if (!err && !options->server_count && forwarder->server_count > 1) {
		ares_destroy(forwarder->channel);
		err = open_channel(forwarder, forwarder->server_count);
	}
	if (err) {
		dns_forwarder_free(forwarder);
		return err;
	}
	*ret_forwarder = forwarder;
	return 0;
}

void dns_forwarder_free(struct dns_forwarder *forwarder)
{
	if (!forwarder)
		return;
	forwarder->closing = true;
	if (forwarder->channel)
		ares_destroy(forwarder->channel); // calls on_answer for what is under way
	for (size_t i = 0; i < FLIGHT_BUCKETS; i++) {
		while (forwarder->flights[i]) {
			struct dns_flight *flight = forwarder->flights[i];
			flight_land(flight, NULL, 0);
			flight_free(flight);
		}
	}
	loop_timer_stop(&forwarder->timer);
	dns_cache_free(forwarder->cache);
	mem_free(forwarder);
}

size_t dns_forward_flush(struct dns_forwarder *forwarder)
{
	return dns_cache_flush(forwarder->cache);
}

size_t dns_forward_server_count(const struct dns_forwarder *forwarder)
{
	return forwarder->server_count;
}

// --- asking -------------------------------------------------------------------------------------------------
size_t dns_forward_cached(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit, uint8_t *ret_answer)
{
	struct dns_key key;
	size_t len;
	dns_key_of(query, &key);
	const uint8_t *answer = dns_cache_get(forwarder->cache, &key, false, loop_now(forwarder->loop), &len);
	return answer ? fit(answer, len, query->id, (const uint8_t *)query->question.p, query->question.len, limit, ret_answer)
		      : 0;
}

// The query as it goes upstream: our own id, and nothing of the client's options (RFC 7871: no client subnet).
static size_t write_query(const struct dns_query *query, uint8_t bytes[QUERY_BYTES])
{
	uint16_t id = 0;
	random_secret(&id, sizeof id);
	uint16_t flags = query->flags & (DNS_FLAG_RD | DNS_FLAG_CD | DNS_FLAG_AD);
	struct writer w;
	writer_init(&w, bytes, QUERY_BYTES);
	writer_u16(&w, id);
	writer_u16(&w, flags);
	writer_u16(&w, 1);
	writer_u16(&w, 0);
	writer_u16(&w, 0);
	writer_u16(&w, query->edns);
	writer_bytes(&w, query->question.p, query->question.len);
	if (query->edns) {
		writer_u8(&w, 0); // the root
		writer_u16(&w, DNS_TYPE_OPT);
		writer_u16(&w, LIMIT_DNS_UDP_PAYLOAD);
		writer_u32(&w, query->dnssec_ok ? 0x8000 : 0);
		writer_u16(&w, 0);
	}
	return w.len;
}

static struct dns_flight *flight_new(struct dns_forwarder *forwarder, const struct dns_key *key)
{
	struct dns_flight *flight = mem_zalloc(sizeof *flight);
	if (!flight)
		return NULL;
	flight->forwarder = forwarder;
	flight->key = *key;
	list_init(&flight->waiters);
	loop_timer_init(&flight->deadline, on_deadline);
	struct dns_flight **slot = &forwarder->flights[dns_key_hash(key) % FLIGHT_BUCKETS];
	flight->next = *slot;
	*slot = flight;
	forwarder->flight_count++;
	return flight;
}

int dns_forward(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit, struct dns_waiter *waiter)
{
	uint8_t bytes[QUERY_BYTES];
	struct dns_key key;
	dns_key_of(query, &key);
	if (query->question.len > sizeof waiter->question)
		return ERR_LIMIT;
	struct dns_flight *flight = *flight_slot(forwarder, &key);
	bool first = !flight;
	if (first && forwarder->flight_count >= LIMIT_DNS_FORWARDS)
		return ERR_LIMIT;
	if (first && !(flight = flight_new(forwarder, &key)))
		return -ENOMEM;
	waiter->id = query->id;
	waiter->limit = (uint16_t)limit;
	waiter->question_len = (uint16_t)query->question.len;
	memcpy(waiter->question, query->question.p, query->question.len);
	list_append(&flight->waiters, &waiter->_node);
	if (!first)
		return 0;
	if (!forwarder->server_count) {
		// Nobody to ask: stale, or SERVFAIL, in the next turn.
		loop_timer_start(forwarder->loop, &flight->deadline, 1);
		return 0;
	}
	loop_timer_start(forwarder->loop, &flight->deadline, LIMIT_DNS_DEADLINE_MS);
	flight->asked = true;
	forwarder->sending = true;
	ares_send(forwarder->channel, bytes, (int)write_query(query, bytes), on_answer, flight);
	forwarder->sending = false;
	rearm(forwarder);
	return 0;
}

void dns_forward_cancel(struct dns_waiter *waiter)
{
	if (waiter->_node.next)
		list_del(&waiter->_node);
}
