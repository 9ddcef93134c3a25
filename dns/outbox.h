// SPDX-License-Identifier: Apache-2.0
// The answers to one batch of UDP queries on their way out. Those to the same client leave in one send of
// several datagrams (UDP_SEGMENT): passing through the kernel is most of what an answer costs, and a client
// that asks much, or for A and AAAA at once, has several answers coming. One thread. Embedded;
// zero-initialise.
#pragma once

#include "base/limits.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { DNS_OUTBOX_ANSWERS = 64 };

union dns_client {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct dns_outbox_answer {
	const union dns_client *client;
	socklen_t client_len;
	uint16_t at, len; // in _bytes
	uint8_t next;	  // of the same send, plus one; 0: the last
};

// Datagrams that leave together: all of the first one's length, but for the last, which may be shorter.
struct dns_outbox_send {
	uint8_t first, last, count; // answers
	uint16_t size;		    // of the first
	bool full;
};

// Room for what a send tells the kernel: from where it comes, and where its datagrams end.
union dns_outbox_control {
	struct cmsghdr align;
	uint8_t bytes[CMSG_SPACE(sizeof(struct in_pktinfo)) + CMSG_SPACE(sizeof(uint16_t))];
};

struct dns_outbox {
	// Clients are this host's own programs, which asked it at the address that they have themselves: from
	// there the answers come. (Of IPv4 the kernel would take the first address of the same network.)
	bool to_itself;
	uint8_t _answer_count, _send_count;
	uint16_t _used;
	uint8_t _sends_by_port[256]; // plus one
	struct dns_outbox_answer _answers[DNS_OUTBOX_ANSWERS];
	struct dns_outbox_send _sends[DNS_OUTBOX_ANSWERS];
	struct mmsghdr _messages[DNS_OUTBOX_ANSWERS];
	struct iovec _parts[DNS_OUTBOX_ANSWERS];
	union dns_outbox_control _controls[DNS_OUTBOX_ANSWERS];
	uint8_t _bytes[48 * 1024];
};

// Room for one more answer of LIMIT_DNS_UDP_PAYLOAD bytes; NULL: it is to be sent first.
uint8_t *dns_outbox_room(struct dns_outbox *box);
// What was written there is an answer. The client's address is borrowed until dns_outbox_flush.
void dns_outbox_add(struct dns_outbox *box, const union dns_client *client, socklen_t client_len, size_t len);
// Sends all. What cannot be sent is lost, as datagrams are: clients ask again.
void dns_outbox_flush(struct dns_outbox *box, int fd);
// Sends one answer by itself, whatever waits in the box. Likewise lost if it cannot be sent.
void dns_outbox_send(const struct dns_outbox *box, int fd, struct iovec answer,
		     const union dns_client *client, socklen_t client_len);
