// SPDX-License-Identifier: Apache-2.0
#include "dns/forward.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "dns/cache.h"
#include "dns/upstreams.h"
#include "dns/zoned.h"
#include "run/stats.h"

#include <ares.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>

enum {
	TRIES = 2,	  // rounds over the servers; c-ares doubles the time in the second
	ROUNDS_MS = 4200, // for both rounds: one and two shares for each server
	TRY_SHORTEST_MS = 300,
	TRY_LONGEST_MS = 1400,
	SOCKETS_MAX = 64,
	FLIGHT_BUCKETS = 1024,
	CONF_MS = 1000, // between two looks at resolv.conf
	QUERY_BYTES = DNS_HEADER_BYTES + LIMIT_DNS_NAME + 4 + DNS_OPT_BYTES,
};

// One upstream query, with all who wait for its answer.
struct dns_flight {
	struct dns_forwarder *forwarder;
	struct dns_flight *next; // in its bucket
	struct list waiters;
	struct loop_timer deadline;
	struct dns_key key;
	struct dns_channel *channel; // once asked
	uint16_t id;		     // of the query upstream
	bool landed;		     // answered for the waiters; c-ares may still have it
	bool asked;		     // c-ares has it, and will call on_answer once
};

struct dns_channel;
struct dns_socket {
	struct loop_io io;
	struct dns_channel *channel;
};

// c-ares takes an answer for cut off when it is longer than its channel's EDNS size allows, so queries with
// and without EDNS go by channels of their own.
enum { CHANNEL_PLAIN, CHANNEL_EDNS, CHANNELS };

struct dns_channel {
	struct dns_forwarder *forwarder;
	ares_channel ares;
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	struct loop_timer timer;
	struct list node; // of a retired one
	unsigned asked;	  // queries under way
	bool retired;	  // its servers are those of before: it goes with its last query
};

struct dns_forwarder {
	struct loop *loop;
	struct dns_channel *channels[CHANNELS];
	struct list retired;
	struct dns_forward_options options;
	struct dns_upstreams_seen seen;
	uint64_t look_ns; // when resolv.conf is looked at next
	struct dns_cache *cache;
	struct dns_socket sockets[SOCKETS_MAX];
	struct dns_flight *flights[FLIGHT_BUCKETS];
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	size_t flight_count, waiter_count, server_count;
	int answering; // the socket that c-ares has read from last
	bool sending, closing;
	uint8_t cached[DNS_MESSAGE_MAX], stale[DNS_MESSAGE_MAX], fitted[DNS_MESSAGE_MAX]; // for a moment each
};

// --- answers for one waiter ---------------------------------------------------------------------------------
// Whoever is answered.
struct asker {
	uint16_t id;
	const uint8_t *question;
	size_t question_len, limit;
	bool edns, dnssec_ok;
};

// Only the question, with TC, and OPT for who sent one (RFC 6891 7).
static size_t fit_cut(const uint8_t *answer, const struct asker *asker, uint8_t *ret_answer)
{
	struct writer w;
	writer_init(&w, ret_answer, asker->limit);
	writer_bytes(&w, answer, DNS_HEADER_BYTES);
	writer_bytes(&w, asker->question, asker->question_len);
	if (asker->edns)
		dns_opt_write(&w, 0, asker->dnssec_ok, 0);
	for (size_t at = 6; at < 10; at += 2)
		writer_patch_u16(&w, at, 0); // no records
	writer_patch_u16(&w, 10, asker->edns);
	ret_answer[2] |= DNS_FLAG_TC >> 8;
	return w.err ? 0 : w.len;
}

// Fits an answer to who asked: its id, the case of its question, its limit. 0: it cannot be.
static size_t fit(const uint8_t *answer, size_t len, const struct asker *asker, uint8_t *ret_answer)
{
	size_t n = len;
	if (len < DNS_HEADER_BYTES + asker->question_len || asker->limit < DNS_UDP_PLAIN)
		return 0;
	if (len > asker->limit)
		n = fit_cut(answer, asker, ret_answer);
	else
		memcpy(ret_answer, answer, n);
	memcpy(ret_answer + DNS_HEADER_BYTES, asker->question, asker->question_len);
	ret_answer[0] = (uint8_t)(asker->id >> 8);
	ret_answer[1] = (uint8_t)asker->id;
	ret_answer[3] |= DNS_FLAG_RA;
	return n;
}

// "weir upstream 10.0.0.2:53"
static const char *describe_upstream(int fd, char text[sizeof DNS_NSID_UPSTREAM + ADDR_TEXT_MAX])
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	struct addr addr = {0};
	char address[ADDR_TEXT_MAX];
	if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
		(void)addr_from_sockaddr(&sa, &addr);
	stpcpy(stpcpy(text, DNS_NSID_UPSTREAM), addr_format(&addr, address));
	return text;
}

static size_t add_source(struct dns_forwarder *forwarder, const struct dns_waiter *waiter, bool stale,
			 size_t len)
{
	char text[sizeof DNS_NSID_UPSTREAM + ADDR_TEXT_MAX];
	if (!waiter->nsid || !len)
		return len;
	const char *who = stale ? DNS_NSID_STALE : describe_upstream(forwarder->answering, text);
	return dns_nsid_add(forwarder->fitted, len, waiter->limit, str_from(who));
}

static void waiter_remove(struct dns_waiter *waiter)
{
	list_del(&waiter->_node);
	waiter->_forwarder->waiter_count--;
	waiter->_forwarder = NULL;
}

static void answer_waiter(struct dns_forwarder *forwarder, struct dns_waiter *waiter, const uint8_t *answer,
			  size_t len)
{
	struct asker asker = {waiter->id,    waiter->question, waiter->question_len,
			      waiter->limit, waiter->edns,     waiter->dnssec_ok};
	size_t n = answer ? fit(answer, len, &asker, forwarder->fitted) : 0;
	n = add_source(forwarder, waiter, answer == forwarder->stale, n);
	waiter_remove(waiter);
	waiter->answered(waiter, n ? forwarder->fitted : NULL, n);
}

// --- flights ------------------------------------------------------------------------------------------------
// One that asks the servers of now: the answer of others is for those who asked them.
static struct dns_flight *flight_find(const struct dns_forwarder *forwarder, const struct dns_key *key)
{
	struct dns_flight *flight = forwarder->flights[dns_key_hash(key) % FLIGHT_BUCKETS];
	while (flight && (!dns_key_eq(&flight->key, key) || (flight->asked && flight->channel->retired)))
		flight = flight->next;
	return flight;
}

static void flight_unlink(struct dns_flight *flight)
{
	struct dns_flight **slot = &flight->forwarder->flights[dns_key_hash(&flight->key) % FLIGHT_BUCKETS];
	while (*slot != flight)
		slot = &(*slot)->next;
	*slot = flight->next;
}

// Answers all who wait (NULL: from what is stale, or not at all). The flight lives on while c-ares has it.
static void flight_land(struct dns_flight *flight, const uint8_t *answer, size_t len)
{
	struct dns_forwarder *forwarder = flight->forwarder;
	if (flight->landed)
		return;
	flight->landed = true;
	flight_unlink(flight);
	loop_timer_stop(&flight->deadline);
	if (!answer && !forwarder->closing) {
		uint64_t now = loop_now(forwarder->loop);
		len = dns_cache_get(forwarder->cache, &flight->key, true, now, forwarder->stale);
		answer = len ? forwarder->stale : NULL;
		dns_cache_set_unanswered(forwarder->cache, &flight->key, now);
		stats_add(STAT_DNS_STALE, len ? 1 : 0);
	}
	while (!list_empty(&flight->waiters))
		answer_waiter(forwarder, container_of(flight->waiters.next, struct dns_waiter, _node), answer,
			      len);
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
	bool good = status == ARES_SUCCESS && len >= DNS_HEADER_BYTES &&
		    same_question(&flight->key, answer, (size_t)len);
	(void)timeouts;
	if (forwarder->sending) { // it failed at once: the waiter hears of it in the next turn
		flight->channel->asked--;
		flight->asked = false;
		loop_timer_start(forwarder->loop, &flight->deadline, 1);
		return;
	}
	if (good && !forwarder->closing) {
		if (!flight->channel->retired)
			dns_cache_put(forwarder->cache, &flight->key, answer, (size_t)len,
				      loop_now(forwarder->loop));
		stats_inc(STAT_DNS_FORWARDED);
	}
	flight_land(flight, good ? answer : NULL, good ? (size_t)len : 0);
	flight->channel->asked--; // last: waiters may ask for more
	flight_free(flight);
}

// --- c-ares on the loop -------------------------------------------------------------------------------------
static void channel_free(struct dns_channel *channel)
{
	if (!channel)
		return;
	if (channel->ares)
		ares_destroy(channel->ares); // calls on_answer for what is under way
	loop_timer_stop(&channel->timer);
	list_del(&channel->node);
	mem_free(channel);
}

// After whatever c-ares has done, and not from within: the channel may be gone then.
static void rearm(struct dns_channel *channel)
{
	struct timeval tv;
	if (channel->retired && !channel->asked) {
		channel_free(channel);
		return;
	}
	if (!ares_timeout(channel->ares, NULL, &tv)) {
		loop_timer_stop(&channel->timer);
		return;
	}
	loop_timer_start(channel->forwarder->loop, &channel->timer,
			 (uint64_t)tv.tv_sec * 1000 + (uint64_t)tv.tv_usec / 1000 + 1);
}

static void on_timer(struct loop_timer *timer)
{
	struct dns_channel *channel = container_of(timer, struct dns_channel, timer);
	ares_process_fd(channel->ares, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	rearm(channel);
}

// c-ares may read less than there is, and the loop tells of new bytes only: so it is asked until nothing is
// left.
static void on_socket(struct loop_io *io, uint32_t events)
{
	struct dns_channel *channel = container_of(io, struct dns_socket, io)->channel;
	struct dns_forwarder *forwarder = channel->forwarder;
	for (int turn = 0; turn < 64 && io->fd >= 0; turn++) {
		struct pollfd ready = {io->fd, POLLIN, 0};
		int fd = io->fd;
		forwarder->answering = fd;
		ares_process_fd(channel->ares, fd, events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
		events = 0;
		if (io->fd < 0 || poll(&ready, 1, 0) <= 0)
			break;
	}
	rearm(channel);
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
	struct dns_channel *channel = arg;
	struct dns_forwarder *forwarder = channel->forwarder;
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
	if (!sock)
		return;
	sock->channel = channel;
	if (loop_io_add(forwarder->loop, &sock->io, fd, EPOLLIN | EPOLLOUT, on_socket))
		sock->io.fd = -1;
}

static int on_socket_made(ares_socket_t fd, int type, void *arg)
{
	const struct dns_forwarder *forwarder = ((struct dns_channel *)arg)->forwarder;
	(void)type;
	return forwarder->options.prepare && forwarder->options.prepare(fd, forwarder->options.arg) ? -1 : 0;
}

// --- life ---------------------------------------------------------------------------------------------------
static int open_ares(struct dns_channel *channel, int flags, size_t count)
{
	int share = ROUNDS_MS / 3 / (int)MAX(count, (size_t)1);
	struct ares_options options = {
	    .flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | flags,
	    .timeout = MIN(MAX(share, TRY_SHORTEST_MS), TRY_LONGEST_MS),
	    .tries = TRIES,
	    .ednspsz = LIMIT_DNS_UDP_PAYLOAD,
	    .sock_state_cb = on_socket_state,
	    .sock_state_cb_data = channel,
	};
	int mask =
	    ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_EDNSPSZ | ARES_OPT_SOCK_STATE_CB;
	if (ares_init_options(&channel->ares, &options, mask) != ARES_SUCCESS) {
		channel->ares = NULL;
		return ERR_DNS;
	}
	ares_set_socket_configure_callback(channel->ares, on_socket_made, channel);
	return dns_zoned_set_servers(channel->ares, channel->servers, count);
}

static int channel_new(struct dns_forwarder *forwarder, int flags,
		       const struct dns_upstream servers[DNS_UPSTREAMS_MAX], size_t count,
		       struct dns_channel **ret_channel)
{
	struct dns_channel *channel = mem_zalloc(sizeof *channel);
	if (!channel)
		return -ENOMEM;
	channel->forwarder = forwarder;
	memcpy(channel->servers, servers, sizeof channel->servers);
	list_init(&channel->node);
	loop_timer_init(&channel->timer, on_timer);
	int err = open_ares(channel, flags, count);
	if (err) {
		channel_free(channel);
		return err;
	}
	*ret_channel = channel;
	return 0;
}

static void channel_retire(struct dns_forwarder *forwarder, struct dns_channel *channel)
{
	channel->retired = true;
	list_append(&forwarder->retired, &channel->node);
	rearm(channel);
}

static bool same_servers(const struct dns_forwarder *forwarder, const struct dns_upstream *servers,
			 size_t count)
{
	bool same = count == forwarder->server_count;
	for (size_t i = 0; i < count && same; i++)
		same = addr_eq(&servers[i].addr, &forwarder->servers[i].addr) &&
		       strcmp(servers[i].zone, forwarder->servers[i].zone) == 0;
	return same;
}

// Channels to the servers of now. c-ares refuses to change those of a channel with queries under way, so it
// gets new ones, and the old ones end with their queries.
static int open_channels(struct dns_forwarder *forwarder)
{
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	struct dns_channel *channels[CHANNELS] = {0};
	size_t count;
	int err = 0;
	dns_upstreams_find(&forwarder->options, servers, &count);
	if (forwarder->channels[0] && same_servers(forwarder, servers, count))
		return 0;
	for (int i = 0; i < CHANNELS && !err; i++)
		err = channel_new(forwarder, i == CHANNEL_EDNS ? ARES_FLAG_EDNS : 0, servers, count,
				  &channels[i]);
	for (int i = 0; i < CHANNELS; i++) {
		struct dns_channel *leaves = err ? channels[i] : forwarder->channels[i];
		if (leaves)
			channel_retire(forwarder, leaves);
		if (!err)
			forwarder->channels[i] = channels[i];
	}
	if (err)
		return err;
	memcpy(forwarder->servers, servers, sizeof servers);
	forwarder->server_count = count;
	dns_cache_flush(forwarder->cache); // the same name may be another's with other servers
	return 0;
}

static void follow_conf(struct dns_forwarder *forwarder)
{
	uint64_t now = loop_now(forwarder->loop);
	if (now < forwarder->look_ns)
		return;
	forwarder->look_ns = now + CONF_MS * NS_PER_MS;
	if (dns_upstreams_changed(&forwarder->options, &forwarder->seen) && open_channels(forwarder))
		forwarder->seen = (struct dns_upstreams_seen){0}; // tried again
}

int dns_forwarder_new(struct loop *loop, const struct dns_forward_options *options,
		      struct dns_forwarder **ret_forwarder)
{
	struct dns_forwarder *forwarder = mem_zalloc(sizeof *forwarder);
	if (!forwarder)
		return -ENOMEM;
	forwarder->loop = loop;
	forwarder->options = *options;
	list_init(&forwarder->retired);
	for (size_t i = 0; i < SOCKETS_MAX; i++)
		forwarder->sockets[i].io.fd = -1;
	int err = dns_cache_new(&forwarder->cache);
	(void)dns_upstreams_changed(options, &forwarder->seen); // before they are read
	if (!err)
		err = open_channels(forwarder);
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
	for (int i = 0; i < CHANNELS; i++)
		channel_free(forwarder->channels[i]);
	while (!list_empty(&forwarder->retired))
		channel_free(container_of(forwarder->retired.next, struct dns_channel, node));
	for (size_t i = 0; i < FLIGHT_BUCKETS; i++) {
		while (forwarder->flights[i]) {
			struct dns_flight *flight = forwarder->flights[i];
			flight_land(flight, NULL, 0);
			flight_free(flight);
		}
	}
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
size_t dns_forward_cached(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit,
			  uint8_t *ret_answer)
{
	struct asker asker = {query->id,	   (const uint8_t *)query->question.p,
			      query->question.len, limit,
			      query->edns,	   query->dnssec_ok};
	struct dns_key key;
	follow_conf(forwarder);
	dns_key_of(query, &key);
	size_t len =
	    dns_cache_get(forwarder->cache, &key, false, loop_now(forwarder->loop), forwarder->cached);
	return len ? fit(forwarder->cached, len, &asker, ret_answer) : 0;
}

// The query as it goes upstream: our own id, and nothing of the client's options (RFC 7871: no client
// subnet).
static size_t write_query(const struct dns_query *query, uint16_t id, uint8_t bytes[QUERY_BYTES])
{
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
	if (query->edns)
		dns_opt_write(&w, 0, query->dnssec_ok, 0);
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

static void waiter_add(struct dns_flight *flight, const struct dns_query *query, size_t limit,
		       struct dns_waiter *waiter)
{
	waiter->id = query->id;
	waiter->limit = (uint16_t)limit;
	waiter->edns = query->edns;
	waiter->dnssec_ok = query->dnssec_ok;
	waiter->nsid = query->nsid;
	waiter->question_len = (uint16_t)query->question.len;
	memcpy(waiter->question, query->question.p, query->question.len);
	waiter->_forwarder = flight->forwarder;
	flight->forwarder->waiter_count++;
	list_append(&flight->waiters, &waiter->_node);
}

static void flight_begin(struct dns_flight *flight, const struct dns_query *query)
{
	struct dns_forwarder *forwarder = flight->forwarder;
	uint8_t bytes[QUERY_BYTES];
	struct dns_channel *channel = forwarder->channels[query->edns ? CHANNEL_EDNS : CHANNEL_PLAIN];
	if (!forwarder->server_count || random_secret(&flight->id, sizeof flight->id)) {
		loop_timer_start(forwarder->loop, &flight->deadline,
				 1); // stale, or SERVFAIL, in the next turn
		return;
	}
	bool stale = dns_cache_has_stale(forwarder->cache, &flight->key, loop_now(forwarder->loop));
	loop_timer_start(forwarder->loop, &flight->deadline,
			 stale ? LIMIT_DNS_STALE_MS : LIMIT_DNS_DEADLINE_MS);
	flight->asked = true;
	flight->channel = channel;
	channel->asked++;
	forwarder->sending = true;
	ares_send(channel->ares, bytes, (int)write_query(query, flight->id, bytes), on_answer, flight);
	forwarder->sending = false;
	rearm(channel);
}

int dns_forward(struct dns_forwarder *forwarder, const struct dns_query *query, size_t limit,
		struct dns_waiter *waiter)
{
	struct dns_key key;
	dns_key_of(query, &key);
	if (query->question.len > sizeof waiter->question || forwarder->waiter_count >= LIMIT_DNS_WAITERS)
		return ERR_LIMIT;
	follow_conf(forwarder);
	struct dns_flight *flight = flight_find(forwarder, &key);
	if (flight && flight->asked && flight->id == query->id)
		return ERR_DNS;
	bool first = !flight;
	if (first && forwarder->flight_count >= LIMIT_DNS_FORWARDS)
		return ERR_LIMIT;
	if (first && !(flight = flight_new(forwarder, &key)))
		return -ENOMEM;
	waiter_add(flight, query, limit, waiter);
	if (first)
		flight_begin(flight, query);
	return 0;
}

void dns_forward_cancel(struct dns_waiter *waiter)
{
	if (waiter->_forwarder)
		waiter_remove(waiter);
}
