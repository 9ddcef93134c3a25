// SPDX-License-Identifier: Apache-2.0
// The forwarder in virtual time: what servers do, and when the client hears of it.
#include "upstream.h"

#include "base/error.h"
#include "dns/answer.h"
#include "dns/upstreams.h"

#include <ares.h>

enum { ASKERS = 8 };

struct asker {
	struct dns_waiter waiter;
	struct message query, answer;
	bool done;
	uint64_t at_ms; // after the start
};

static struct loop *loop;
static struct dns_forwarder *forwarder;
static struct asker askers[ASKERS];
static uint16_t flags; // of the answers
static uint32_t ttl;
static size_t filler; // bytes of a TXT record

static void on_answered(struct dns_waiter *waiter, const uint8_t *answer, size_t len)
{
	struct asker *asker = container_of(waiter, struct asker, waiter);
	assert_false(asker->done);
	asker->done = true;
	asker->at_ms = elapsed_ms();
	asker->answer.len = len;
	if (len)
		memcpy(asker->answer.bytes, answer, len);
}

// --- what servers do ----------------------------------------------------------------------------------------
static void silent(const struct message *query, bool tcp, struct message *ret_answer)
{
	(void)query;
	(void)tcp;
	(void)ret_answer;
}

static void address(const struct message *query, bool tcp, struct message *ret_answer)
{
	struct writer w;
	(void)tcp;
	begin_answer(&w, ret_answer, query, flags, 1, 0);
	put_record(&w, DNS_TYPE_A, ttl, (uint8_t[]){192, 0, 2, 1}, 4);
	ret_answer->len = w.len;
}

static void failing(const struct message *query, bool tcp, struct message *ret_answer)
{
	struct writer w;
	(void)tcp;
	begin_answer(&w, ret_answer, query, DNS_SERVFAIL, 0, 0);
	ret_answer->len = w.len;
}

// An absence, for 5 s.
static void absent(const struct message *query, bool tcp, struct message *ret_answer)
{
	struct writer w;
	(void)tcp;
	begin_answer(&w, ret_answer, query, flags, 0, 1);
	put_soa(&w, 300, 5);
	ret_answer->len = w.len;
}

static void alias_of_nothing(const struct message *query, bool tcp, struct message *ret_answer)
{
	struct writer w;
	(void)tcp;
	begin_answer(&w, ret_answer, query, 0, 1, 1);
	put_record(&w, DNS_TYPE_CNAME, 600, "\1b", 3);
	put_soa(&w, 300, 5);
	ret_answer->len = w.len;
}

static void text(const struct message *query, bool tcp, struct message *ret_answer)
{
	static const uint8_t bytes[4096];
	struct writer w;
	(void)tcp;
	begin_answer(&w, ret_answer, query, 0, 1, 0);
	put_record(&w, 16, ttl, bytes, (uint16_t)filler);
	ret_answer->len = w.len;
}

static void cut_over_udp(const struct message *query, bool tcp, struct message *ret_answer)
{
	struct writer w;
	if (tcp) {
		text(query, tcp, ret_answer);
		return;
	}
	begin_answer(&w, ret_answer, query, DNS_FLAG_TC, 0, 0);
	ret_answer->len = w.len;
}

// Another's answer, with the right id.
static void lying(const struct message *query, bool tcp, struct message *ret_answer)
{
	address(query, tcp, ret_answer);
	ret_answer->bytes[DNS_HEADER_BYTES + 1] ^= 1;
}

// --- the test's hands ---------------------------------------------------------------------------------------
static int setup(void **state)
{
	(void)state;
	set_time(START_S * NS_PER_S);
	flags = 0;
	ttl = 10;
	filler = 0;
	memset(askers, 0, sizeof askers);
	for (int i = 0; i < UPSTREAMS_MAX; i++)
		upstreams[i].udp = upstreams[i].tcp = upstreams[i].conn = -1;
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < ASKERS; i++)
		dns_forward_cancel(&askers[i].waiter);
	dns_forwarder_free(forwarder);
	forwarder = NULL;
	loop_free(loop);
	for (int i = 0; i < UPSTREAMS_MAX; i++)
		upstream_close(i);
	set_time(0);
	return 0;
}

static void start(const upstream_fn *answers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		upstream_open((int)i, answers[i]);
	struct dns_forward_options options = {.servers = upstream_addrs, .server_count = count};
	assert_int_equal(dns_forwarder_new(loop, &options, &forwarder), 0);
}

static void start_one(upstream_fn answer)
{
	start(&answer, 1);
}

static int forward(struct asker *asker, uint16_t id, const char *name, uint16_t edns, size_t limit)
{
	struct dns_query query;
	asker->done = false;
	asker->waiter = (struct dns_waiter){.answered = on_answered};
	list_init(&asker->waiter._node);
	make_query(&asker->query, id, name, DNS_TYPE_A, edns);
	assert_int_equal(dns_query_parse(asker->query.bytes, asker->query.len, &query), 0);
	return dns_forward(forwarder, &query, limit, &asker->waiter);
}

static void turn(void)
{
	assert_int_equal(loop_turn(loop, 0), 0);
	upstreams_serve();
	assert_int_equal(loop_turn(loop, 0), 0);
}

static void advance(uint64_t ms)
{
	for (; ms; ms -= MIN(ms, (uint64_t)STEP_MS)) {
		turn();
		set_time(now_ns + MIN(ms, (uint64_t)STEP_MS) * NS_PER_MS);
	}
	turn();
}

// Asks, and lets time pass until there is an answer: how long that took, in milliseconds.
static uint64_t ask(struct asker *asker, const char *name, uint16_t edns)
{
	uint64_t start_ms = elapsed_ms();
	assert_int_equal(forward(asker, 0x1234, name, edns, edns ? edns : DNS_UDP_PLAIN), 0);
	assert_false(asker->done); // never from inside
	for (int i = 0; i < 20 && !asker->done; i++)
		turn();
	while (!asker->done && elapsed_ms() - start_ms < 10000)
		advance(STEP_MS);
	assert_true(asker->done);
	return asker->at_ms - start_ms;
}

static size_t cached(const char *name, uint16_t edns, struct message *ret_answer)
{
	static struct message bytes;
	struct dns_query query;
	make_query(&bytes, 7, name, DNS_TYPE_A, edns);
	assert_int_equal(dns_query_parse(bytes.bytes, bytes.len, &query), 0);
	assert_int_equal(loop_turn(loop, 0), 0);
	ret_answer->len =
	    dns_forward_cached(forwarder, &query, dns_query_limit(&query, false), ret_answer->bytes);
	return ret_answer->len;
}

// The TTL of the first record.
static uint32_t first_ttl(const struct message *message)
{
	struct reader r;
	struct dns_record record = {0};
	reader_init(&r, message->bytes, message->len);
	reader_skip(&r, DNS_HEADER_BYTES);
	dns_name_skip(&r);
	reader_skip(&r, 4);
	dns_record_read(&r, &record);
	assert_int_equal(r.err, 0);
	return record.ttl;
}

static unsigned u16_at(const struct message *message, size_t at)
{
	return (unsigned)message->bytes[at] << 8 | message->bytes[at + 1];
}

// --- answers and the cache ----------------------------------------------------------------------------------
static void an_answer_is_the_askers_own(void **state)
{
	struct message answer;
	(void)state;
	start_one(address);
	assert_int_equal(ask(&askers[0], "WwW.Example", 0), 0);
	assert_int_equal(u16_at(&askers[0].answer, 0), 0x1234);
	assert_memory_equal(askers[0].answer.bytes + DNS_HEADER_BYTES, "\3WwW\7Example", 12);
	assert_int_equal(first_ttl(&askers[0].answer), 10);
	advance(3000);
	assert_true(cached("www.EXAMPLE", 0, &answer));
	assert_memory_equal(answer.bytes + DNS_HEADER_BYTES, "\3www\7EXAMPLE", 12);
	assert_int_equal(u16_at(&answer, 0), 7);
	assert_int_equal(first_ttl(&answer), 7);
	assert_int_equal(upstreams[0].asked, 1);
	advance(7000);
	assert_false(cached("www.example", 0, &answer));
}

static void an_absence_is_kept_as_long_as_its_soa_says(void **state)
{
	static const upstream_fn kinds[] = {absent, absent, alias_of_nothing};
	static const uint16_t rcodes[] = {DNS_NXDOMAIN, DNS_NOERROR, DNS_NOERROR};
	struct message answer;
	(void)state;
	start_one(absent);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		upstreams[0].answer = kinds[i];
		flags = rcodes[i];
		dns_forward_flush(forwarder);
		ask(&askers[0], "no.example", 0);
		assert_int_equal(askers[0].answer.bytes[3] & 15, rcodes[i]);
		advance(4900);
		assert_true(cached("no.example", 0, &answer));
		advance(200);
		assert_false(cached("no.example", 0, &answer));
	}
}

static void what_must_not_be_kept_is_not(void **state)
{
	static const uint32_t ttls[] = {0, 0x80000000u, UINT32_MAX}; // RFC 2181 8
	struct message answer;
	(void)state;
	start_one(address);
	for (size_t i = 0; i < ARRAY_SIZE(ttls); i++) {
		ttl = ttls[i];
		ask(&askers[0], "www.example", 0);
		assert_true(askers[0].answer.len);
		assert_false(cached("www.example", 0, &answer));
	}
	ttl = 10;
	flags = DNS_NXDOMAIN; // without SOA
	ask(&askers[0], "www.example", 0);
	assert_false(cached("www.example", 0, &answer));
}

static void the_cache_is_bounded(void **state)
{
	struct message answer;
	char name[32];
	(void)state;
	start_one(text);
	ttl = 3600;
	filler = 1000;
	for (int i = 0; i < 8000; i++) {
		snprintf(name, sizeof name, "n%d.example", i);
		ask(&askers[0], name, 1232);
	}
	assert_true(cached("n7999.example", 1232, &answer));
	assert_false(cached("n0.example", 1232, &answer));
	size_t kept = dns_forward_flush(forwarder);
	assert_in_range(kept, 1000, LIMIT_DNS_CACHE_BYTES / 1000);
}

static void identical_queries_share_one(void **state)
{
	(void)state;
	start_one(text);
	filler = 400;
	for (int i = 0; i < ASKERS; i++)
		assert_int_equal(
		    forward(&askers[i], (uint16_t)i, i % 2 ? "a.example" : "A.EXAMPLE", 0, DNS_UDP_PLAIN), 0);
	advance(100);
	assert_int_equal(upstreams[0].asked, 1);
	for (int i = 0; i < ASKERS; i++) {
		assert_true(askers[i].done);
		assert_int_equal(u16_at(&askers[i].answer, 0), i);
		assert_memory_equal(askers[i].answer.bytes + 12, i % 2 ? "\1a\7example" : "\1A\7EXAMPLE", 10);
	}
}

static void too_long_for_the_asker_is_cut(void **state)
{
	(void)state;
	start_one(text);
	filler = 900;
	assert_int_equal(forward(&askers[0], 1, "a.example", 1232, 600), 0);
	assert_int_equal(forward(&askers[1], 2, "a.example", 1232, 1232), 0);
	advance(100);
	assert_true(askers[0].answer.bytes[2] & 2);
	assert_int_equal(askers[0].answer.len, 12 + 11 + 4 + DNS_OPT_BYTES);
	assert_int_equal(u16_at(&askers[0].answer, 6), 0);
	assert_int_equal(u16_at(&askers[0].answer, 10), 1);
	assert_false(askers[1].answer.bytes[2] & 2);
	assert_true(askers[1].answer.len > 900);
	assert_int_equal(upstreams[0].asked_tcp, 0); // EDNS has room for it
}

static void tcp_when_cut(void **state)
{
	(void)state;
	start_one(cut_over_udp);
	filler = 3000;
	assert_int_equal(forward(&askers[0], 1, "a.example", 0, DNS_MESSAGE_MAX), 0);
	advance(200);
	assert_true(askers[0].done);
	assert_true(askers[0].answer.len > 3000);
	assert_int_equal(upstreams[0].asked_tcp, 1);
}

// --- failure ------------------------------------------------------------------------------------------------
static void the_next_server_is_asked(void **state)
{
	static const upstream_fn firsts[] = {silent, failing, lying};
	(void)state;
	for (size_t kind = 0; kind < ARRAY_SIZE(firsts); kind++) {
		for (size_t count = 2; count <= 8; count += 3) {
			upstream_fn answers[8];
			for (size_t i = 0; i < count; i++)
				answers[i] = i + 1 < count ? firsts[kind] : address;
			start(answers, count);
			assert_in_range(ask(&askers[0], "a.example", 0), 0, LIMIT_DNS_DEADLINE_MS);
			assert_true(askers[0].answer.len);
			assert_int_equal(upstreams[count - 1].asked, 1);
			teardown(NULL);
			setup(NULL);
		}
	}
}

static void a_lost_query_is_asked_again(void **state)
{
	(void)state;
	start_one(silent);
	assert_int_equal(forward(&askers[0], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	advance(1000);
	assert_int_equal(upstreams[0].asked, 1);
	upstreams[0].answer = address;
	advance(1000);
	assert_true(askers[0].done && askers[0].answer.len);
	assert_int_equal(upstreams[0].asked, 2);
}

static void nobody_waits_longer_than_the_deadline(void **state)
{
	(void)state;
	for (size_t count = 1; count <= 8; count += 7) {
		upstream_fn answers[8] = {silent, silent, silent, silent, silent, silent, silent, silent};
		start(answers, count);
		assert_in_range(ask(&askers[0], "a.example", 0), 1, 4999); // clients give up after 5 s
		assert_int_equal(askers[0].answer.len, 0);
		teardown(NULL);
		setup(NULL);
	}
}

static void expired_answers_serve_when_nobody_answers(void **state)
{
	struct message answer;
	(void)state;
	start_one(address);
	ask(&askers[0], "a.example", 0);
	advance(20000);
	upstreams[0].answer = silent;
	assert_in_range(ask(&askers[0], "a.example", 0), LIMIT_DNS_STALE_MS, LIMIT_DNS_STALE_MS + STEP_MS);
	assert_int_equal(first_ttl(&askers[0].answer), 30);
	assert_true(cached("a.example", 0, &answer)); // at once, for a while
	assert_int_equal(first_ttl(&answer), 30);
	advance(31000);
	assert_false(cached("a.example", 0, &answer));
	upstreams[0].answer = address;
	assert_int_equal(ask(&askers[0], "a.example", 0), 0);
	assert_int_equal(first_ttl(&askers[0].answer), 10);
}

static void stale_is_not_for_ever(void **state)
{
	(void)state;
	start_one(address);
	ask(&askers[0], "a.example", 0);
	upstreams[0].answer = silent;
	set_time(now_ns + 90000 * NS_PER_S);
	ask(&askers[0], "a.example", 0);
	assert_int_equal(askers[0].answer.len, 0);
}

static void what_a_server_says_now_replaces_what_is_stale(void **state)
{
	(void)state;
	start_one(address);
	ask(&askers[0], "a.example", 0);
	advance(20000);
	flags = DNS_NXDOMAIN; // without SOA: not kept
	ask(&askers[0], "a.example", 0);
	upstreams[0].answer = silent;
	ask(&askers[0], "a.example", 0);
	assert_int_equal(askers[0].answer.len, 0);
}

// The query comes back to where it was sent from.
static void our_own_query_is_refused(void **state)
{
	(void)state;
	start_one(silent);
	assert_int_equal(forward(&askers[0], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	advance(40);
	assert_int_equal(upstreams[0].asked, 1);
	assert_int_equal(
	    forward(&askers[1], (uint16_t)u16_at(&upstreams[0].last, 0), "a.example", 0, DNS_UDP_PLAIN),
	    ERR_DNS);
	assert_int_equal(upstreams[0].asked, 1);
}

static void nobody_to_ask(void **state)
{
	struct addr own = own_addr(UPSTREAM_PORT);
	struct dns_forward_options options = {
	    .servers = &own, .server_count = 1, .own = &own, .own_count = 1};
	(void)state;
	upstream_open(0, address); // would answer
	assert_int_equal(dns_forwarder_new(loop, &options, &forwarder), 0);
	assert_int_equal(dns_forward_server_count(forwarder), 0);
	ask(&askers[0], "a.example", 0);
	assert_int_equal(askers[0].answer.len, 0);
	assert_int_equal(upstreams[0].asked, 0);
}

static void waiters_are_bounded(void **state)
{
	static struct asker many[LIMIT_DNS_WAITERS + 1];
	(void)state;
	start_one(silent);
	for (int i = 0; i < LIMIT_DNS_WAITERS; i++)
		assert_int_equal(forward(&many[i], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	assert_int_equal(forward(&many[LIMIT_DNS_WAITERS], 1, "a.example", 0, DNS_UDP_PLAIN), ERR_LIMIT);
	dns_forward_cancel(&many[0].waiter);
	assert_int_equal(forward(&many[0], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	for (int i = 0; i < LIMIT_DNS_WAITERS; i++)
		dns_forward_cancel(&many[i].waiter);
}

static void who_went_away_is_not_called(void **state)
{
	(void)state;
	start_one(address);
	assert_int_equal(forward(&askers[0], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	assert_int_equal(forward(&askers[1], 2, "a.example", 0, DNS_UDP_PLAIN), 0);
	dns_forward_cancel(&askers[0].waiter);
	advance(100);
	assert_false(askers[0].done);
	assert_true(askers[1].done);
}

// --- servers of files ---------------------------------------------------------------------------------------
static void servers_behind_the_stub(void **state)
{
	char conf[] = "/tmp/weir-test-conf-XXXXXX", real[] = "/tmp/weir-test-real-XXXXXX";
	int conf_fd = mkstemp(conf), real_fd = mkstemp(real);
	(void)state;
	assert_int_equal(write(conf_fd, "nameserver 127.0.0.53\n", 22), 22);
	assert_int_equal(write(real_fd, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n", 42), 42);
	struct dns_forward_options options = {.resolv_conf = conf, .resolved_conf = real};
	assert_int_equal(dns_forwarder_new(loop, &options, &forwarder), 0);
	assert_int_equal(dns_forward_server_count(forwarder), 2);
	dns_forwarder_free(forwarder);
	options.resolved_conf = "/nonexistent";
	assert_int_equal(dns_forwarder_new(loop, &options, &forwarder), 0);
	assert_int_equal(dns_forward_server_count(forwarder), 1);
	close(conf_fd);
	close(real_fd);
	unlink(conf);
	unlink(real);
}

static void on_unusable(struct str server, const char *why, void *arg)
{
	strbuf_printf(arg, "%.*s: %s\n", STR_ARG(server), why);
}

static void lines_of_resolv_conf(void **state)
{
	static const char text[] = "# nameserver 192.0.2.9\n; nameserver 192.0.2.9\n nameserver 192.0.2.9\n"
				   "nameservers 192.0.2.9\nnameserver\nsearch nameserver\r\n"
				   "nameserver fe80::1\nnameserver fe80::1%lo # by advertisement\n"
				   "nameserver none.example\nnameserver fe80::2%weir-none\n"
				   "nameserver\t2001:db8::1;\nnameserver 192.0.2.1, 192.0.2.2\r\n"
				   "nameserver fe80::3%a-name-that-is-too-long\nnameserver 192.0.2.3\n"
				   "nameserver fe80::4%1";
	static const char *const expected[] = {
	    "[fe80::1]:53 lo", "[fe80::2]:53 weir-none", "[2001:db8::1]:53 ", "192.0.2.1:53 ",
	    "192.0.2.2:53 ",   "192.0.2.3:53 ",		 "[fe80::4]:53 1"};
	char conf[] = "/tmp/weir-test-conf-XXXXXX";
	autostrbuf struct strbuf said = {0};
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	struct dns_forward_options options = {
	    .resolv_conf = conf, .resolved_conf = "/nonexistent", .unusable = on_unusable, .arg = &said};
	size_t count;
	int fd = mkstemp(conf);
	(void)state;
	assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
	close(fd);
	dns_upstreams_find(&options, servers, &count);
	unlink(conf);
	assert_int_equal(count, ARRAY_SIZE(expected));
	for (size_t i = 0; i < count; i++) {
		char address[ADDR_TEXT_MAX], line[ADDR_TEXT_MAX + IFNAMSIZ];
		snprintf(line, sizeof line, "%s %s", addr_format(&servers[i].addr, address), servers[i].zone);
		assert_string_equal(line, expected[i]);
	}
	assert_string_equal(said.p,
			    "fe80::1: a link-local address without its interface (fe80::1%eth0)\n"
			    "none.example: not an IP address\n"
			    "fe80::2%weir-none: there is no such interface now\n"
			    "fe80::3%a-name-that-is-too-long: a link-local address without its interface "
			    "(fe80::1%eth0)\n");
}

static void without_resolv_conf_the_server_is_here(void **state)
{
	struct dns_upstream servers[DNS_UPSTREAMS_MAX];
	struct dns_forward_options options = {.resolv_conf = "/nonexistent", .resolved_conf = "/nonexistent"};
	char text[ADDR_TEXT_MAX];
	size_t count;
	(void)state;
	dns_upstreams_find(&options, servers, &count);
	assert_int_equal(count, 1);
	assert_string_equal(addr_format(&servers[0].addr, text), "127.0.0.1:53");
}

// In place, as the kubelet and Docker do it.
static void write_conf(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void write_server(const char *path, int i)
{
	char line[128], text[ADDR_TEXT_MAX];
	snprintf(line, sizeof line, "nameserver %s\n", ip_format(&upstream_addrs[i].ip, text));
	write_conf(path, line);
}

// The files name no port: the servers differ in their addresses.
static void open_conf(const char *path, size_t count)
{
	struct dns_forward_options options = {
	    .resolv_conf = path, .resolved_conf = "/nonexistent", .conf_port = UPSTREAM_PORT};
	for (size_t i = 0; i < count; i++) {
		struct addr addr = own_addr(UPSTREAM_PORT);
		addr.ip.bytes[1] = (uint8_t)(addr.ip.bytes[1] + 64 * i);
		upstream_open_at((int)i, &addr, address);
	}
	write_server(path, 0);
	assert_int_equal(dns_forwarder_new(loop, &options, &forwarder), 0);
}

static unsigned asked_of(int i, const char *name)
{
	unsigned before = upstreams[i].asked;
	assert_int_equal(ask(&askers[1], name, 0), 0);
	assert_true(askers[1].answer.len);
	return upstreams[i].asked - before;
}

static void resolv_conf_is_followed(void **state)
{
	char conf[] = "/tmp/weir-test-conf-XXXXXX", next[] = "/tmp/weir-test-next-XXXXXX";
	int conf_fd = mkstemp(conf), next_fd = mkstemp(next);
	(void)state;
	close(conf_fd);
	close(next_fd);
	open_conf(conf, 3);
	upstreams[0].answer = silent;
	assert_int_equal(forward(&askers[0], 1, "slow.example", 0, DNS_UDP_PLAIN), 0);
	advance(1000);
	assert_int_equal(upstreams[0].asked, 1);
	write_server(conf, 1);
	assert_int_equal(asked_of(1, "a.example"), 1);
	upstreams[0].answer = address; // when it is asked again, it does
	advance(1000);
	assert_true(askers[0].done && askers[0].answer.len);
	assert_int_equal(upstreams[0].asked, 2);

	write_conf(conf, ""); // about to be written
	advance(1000);
	assert_int_equal(asked_of(1, "b.example"), 1);
	unlink(conf);
	advance(1000);
	assert_int_equal(asked_of(1, "c.example"), 1);
	write_server(next, 2);
	assert_int_equal(rename(next, conf), 0);
	advance(900);
	assert_int_equal(asked_of(1, "d.example"), 1); // looked at just now
	advance(100);
	assert_int_equal(asked_of(2, "e.example"), 1);
	unlink(conf);
}

// Neither what is cached nor what is on its way: the servers of now are asked.
static void what_other_servers_said_is_forgotten(void **state)
{
	char conf[] = "/tmp/weir-test-conf-XXXXXX";
	struct message answer;
	(void)state;
	close(mkstemp(conf));
	open_conf(conf, 2);
	assert_int_equal(ask(&askers[0], "a.example", 0), 0);
	assert_true(cached("a.example", 0, &answer));
	upstreams[0].answer = silent;
	assert_int_equal(forward(&askers[0], 1, "late.example", 0, DNS_UDP_PLAIN), 0);
	advance(1000);
	write_server(conf, 1);
	assert_false(cached("a.example", 0, &answer));
	assert_int_equal(asked_of(1, "late.example"), 1); // it does not wait for the other answer
	dns_forward_flush(forwarder);
	upstreams[0].answer = address; // when it is asked again
	advance(1000);
	assert_true(askers[0].done && askers[0].answer.len);
	assert_false(cached("late.example", 0, &answer));

	assert_int_equal(ask(&askers[1], "a.example", 0), 0);
	write_conf(conf, "# the same\n");
	write_server(conf, 1);
	advance(1000);
	assert_true(cached("a.example", 0, &answer));
	unlink(conf);
}

// The query that finds the file changed is asked from within the answer to another.
static void on_answered_ask(struct dns_waiter *waiter, const uint8_t *answer, size_t len)
{
	on_answered(waiter, answer, len);
	assert_int_equal(forward(&askers[1], 2, "b.example", 0, DNS_UDP_PLAIN), 0);
}

static void resolv_conf_changes_under_an_answer(void **state)
{
	char conf[] = "/tmp/weir-test-conf-XXXXXX";
	(void)state;
	close(mkstemp(conf));
	open_conf(conf, 2);
	assert_int_equal(forward(&askers[0], 1, "a.example", 0, DNS_UDP_PLAIN), 0);
	askers[0].waiter.answered = on_answered_ask;
	write_server(conf, 1);
	set_time(now_ns + 1000 * NS_PER_MS);
	advance(100);
	assert_true(askers[0].done && askers[0].answer.len && askers[1].done && askers[1].answer.len);
	assert_int_equal(upstreams[0].asked, 1);
	assert_int_equal(upstreams[1].asked, 1);
	unlink(conf);
}

// Whichever allocation fails: an answer or none, and nothing leaks.
static void allocation_failures(void **state)
{
	(void)state;
	for (long n = 0, failed = 1; failed && n < 50; n++) {
		upstream_open(0, address);
		struct dns_forward_options options = {.servers = upstream_addrs, .server_count = 1};
		mem_fail_set(n);
		int err = dns_forwarder_new(loop, &options, &forwarder);
		if (!err && forward(&askers[0], 1, "a.example", 0, DNS_UDP_PLAIN) == 0) {
			advance(100);
			assert_true(askers[0].done && askers[0].answer.len);
		}
		failed = mem_fail_count() > n;
		mem_fail_set(-1);
		dns_forwarder_free(forwarder);
		forwarder = NULL;
		upstream_close(0);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(an_answer_is_the_askers_own),
	    TEST(an_absence_is_kept_as_long_as_its_soa_says),
	    TEST(what_must_not_be_kept_is_not),
	    TEST(the_cache_is_bounded),
	    TEST(identical_queries_share_one),
	    TEST(too_long_for_the_asker_is_cut),
	    TEST(tcp_when_cut),
	    TEST(the_next_server_is_asked),
	    TEST(a_lost_query_is_asked_again),
	    TEST(nobody_waits_longer_than_the_deadline),
	    TEST(expired_answers_serve_when_nobody_answers),
	    TEST(stale_is_not_for_ever),
	    TEST(what_a_server_says_now_replaces_what_is_stale),
	    TEST(our_own_query_is_refused),
	    TEST(nobody_to_ask),
	    TEST(waiters_are_bounded),
	    TEST(who_went_away_is_not_called),
	    TEST(servers_behind_the_stub),
	    TEST(lines_of_resolv_conf),
	    TEST(without_resolv_conf_the_server_is_here),
	    TEST(resolv_conf_is_followed),
	    TEST(what_other_servers_said_is_forgotten),
	    TEST(resolv_conf_changes_under_an_answer),
	    TEST(allocation_failures),
	};
	ares_library_init(ARES_LIB_INIT_ALL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
