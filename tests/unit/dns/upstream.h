// SPDX-License-Identifier: Apache-2.0
// Scripted servers for tests of the forwarder, on loopback addresses of this process alone, and time that
// only the test moves: c-ares reads its clock by clock_gettime, which the program that includes this
// replaces.
#pragma once

#include "test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "dns/forward.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { START_S = 1000, STEP_MS = 20, UPSTREAMS_MAX = 8, UPSTREAM_PORT = 15353 };

static uint64_t now_ns;

int clock_gettime(clockid_t id, struct timespec *ts)
{
	if (!now_ns)
		return (int)syscall(SYS_clock_gettime, id, ts);
	*ts = (struct timespec){(time_t)(now_ns / NS_PER_S), (long)(now_ns % NS_PER_S)};
	return 0;
}

static inline void set_time(uint64_t ns)
{
	now_ns = ns;
	clock_fake_set(ns);
}

static inline uint64_t elapsed_ms(void)
{
	return (now_ns - START_S * NS_PER_S) / NS_PER_MS;
}

// --- messages -----------------------------------------------------------------------------------------------
struct message {
	uint8_t bytes[DNS_MESSAGE_MAX];
	size_t len;
};

// A query in wire form; `edns` is the payload size, 0: none.
static inline void make_query(struct message *query, uint16_t id, const char *name, uint16_t type,
			      uint16_t edns)
{
	struct writer w;
	struct str rest = str_from(name);
	writer_init(&w, query->bytes, sizeof query->bytes);
	writer_u16(&w, id);
	writer_u16(&w, DNS_FLAG_RD);
	writer_u16(&w, 1);
	writer_u32(&w, 0);
	writer_u16(&w, edns != 0);
	while (rest.len) {
		struct str label = str_split(&rest, '.');
		writer_u8(&w, (uint8_t)label.len);
		writer_bytes(&w, label.p, label.len);
	}
	writer_u8(&w, 0);
	writer_u16(&w, type);
	writer_u16(&w, DNS_CLASS_IN);
	if (edns) {
		writer_u8(&w, 0);
		writer_u16(&w, DNS_TYPE_OPT);
		writer_u16(&w, edns);
		writer_u32(&w, 0);
		writer_u16(&w, 0);
	}
	assert_int_equal(w.err, 0);
	query->len = w.len;
}

// Begins an answer to a query that is well-formed, with the counts of its sections.
static inline void begin_answer(struct writer *w, struct message *answer, const struct message *query,
				uint16_t flags, uint16_t answers, uint16_t authority)
{
	struct reader r;
	reader_init(&r, query->bytes, query->len);
	reader_skip(&r, DNS_HEADER_BYTES);
	dns_name_skip(&r);
	reader_skip(&r, 4);
	assert_int_equal(r.err, 0);
	writer_init(w, answer->bytes, sizeof answer->bytes);
	writer_bytes(w, query->bytes, reader_tell(&r));
	writer_patch_u16(w, 2, DNS_FLAG_QR | DNS_FLAG_RD | DNS_FLAG_RA | flags);
	writer_patch_u16(w, 6, answers);
	writer_patch_u16(w, 8, authority);
	writer_patch_u16(w, 10, 0);
}

// A record of the question's name.
static inline void put_record(struct writer *w, uint16_t type, uint32_t ttl, const void *data, uint16_t len)
{
	writer_u16(w, 0xc00c);
	writer_u16(w, type);
	writer_u16(w, DNS_CLASS_IN);
	writer_u32(w, ttl);
	writer_u16(w, len);
	writer_bytes(w, data, len);
}

static inline void put_soa(struct writer *w, uint32_t ttl, uint8_t minimum)
{
	put_record(w, DNS_TYPE_SOA, ttl, (uint8_t[22]){[21] = minimum}, 22);
}

// --- servers ------------------------------------------------------------------------------------------------
// Writes an answer; len 0: silence.
typedef void (*upstream_fn)(const struct message *query, bool tcp, struct message *ret_answer);

struct upstream {
	struct addr addr;
	upstream_fn answer;
	int udp, tcp, conn; // -1: closed
	unsigned asked, asked_tcp;
	struct message last;
};

static struct upstream upstreams[UPSTREAMS_MAX];
static struct addr upstream_addrs[UPSTREAMS_MAX];

static inline int upstream_socket(const struct addr *addr, int type)
{
	struct sockaddr_storage sa;
	int on = 1, fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t len = addr_to_sockaddr(addr, &sa);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

static inline struct addr own_addr(uint16_t port)
{
	unsigned pid = (unsigned)getpid();
	struct ip ip = {AF_INET, {127, (uint8_t)(64 + pid / 65536 % 64), (uint8_t)(pid / 256), (uint8_t)pid}};
	return (struct addr){.ip = ip, .port = port};
}

static inline void upstream_open_at(int i, const struct addr *addr, upstream_fn answer)
{
	struct upstream *up = &upstreams[i];
	up->addr = upstream_addrs[i] = *addr;
	*up = (struct upstream){up->addr,
				answer,
				upstream_socket(&up->addr, SOCK_DGRAM),
				upstream_socket(&up->addr, SOCK_STREAM),
				-1,
				0,
				0,
				{{0}, 0}};
	assert_int_equal(listen(up->tcp, 4), 0);
}

static inline void upstream_open(int i, upstream_fn answer)
{
	struct addr addr = own_addr((uint16_t)(UPSTREAM_PORT + i));
	upstream_open_at(i, &addr, answer);
}

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static inline void upstream_close(int i)
{
	close_fd(&upstreams[i].udp);
	close_fd(&upstreams[i].tcp);
	close_fd(&upstreams[i].conn);
}

static inline void upstream_serve_udp(struct upstream *up)
{
	static struct message query, answer;
	struct sockaddr_storage peer;
	socklen_t peer_len = sizeof peer;
	ssize_t n;
	while ((n = recvfrom(up->udp, query.bytes, sizeof query.bytes, 0, (struct sockaddr *)&peer,
			     &peer_len)) > 0) {
		query.len = (size_t)n;
		up->last = query;
		up->asked++;
		answer.len = 0;
		up->answer(&query, false, &answer);
		if (answer.len)
			sendto(up->udp, answer.bytes, answer.len, 0, (struct sockaddr *)&peer, peer_len);
	}
}

static inline void upstream_serve_tcp(struct upstream *up)
{
	static struct message query, answer;
	uint8_t frame[2];
	if (up->conn < 0)
		up->conn = accept4(up->tcp, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (up->conn < 0 || recv(up->conn, frame, 2, MSG_PEEK) < 2)
		return;
	size_t len = (size_t)frame[0] << 8 | frame[1];
	assert_int_equal(recv(up->conn, frame, 2, 0), 2);
	assert_int_equal(recv(up->conn, query.bytes, len, 0), len);
	query.len = len;
	up->asked_tcp++;
	answer.len = 0;
	up->answer(&query, true, &answer);
	if (!answer.len)
		return;
	assert_int_equal(send(up->conn, (uint8_t[]){(uint8_t)(answer.len >> 8), (uint8_t)answer.len}, 2, 0),
			 2);
	assert_int_equal(send(up->conn, answer.bytes, answer.len, 0), answer.len);
}

static inline void upstreams_serve(void)
{
	for (int i = 0; i < UPSTREAMS_MAX; i++) {
		if (upstreams[i].udp >= 0)
			upstream_serve_udp(&upstreams[i]);
		if (upstreams[i].tcp >= 0)
			upstream_serve_tcp(&upstreams[i]);
	}
}
