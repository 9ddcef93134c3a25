// SPDX-License-Identifier: Apache-2.0
#include "dns/outbox.h"

#include "base/mem.h"

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

enum {
	DATAGRAMS_MAX = 32, // in one send: 64 are possible since Linux 4.18, and 64 KiB in all
};

uint8_t *dns_outbox_room(struct dns_outbox *box)
{
	bool full = box->_answer_count == DNS_OUTBOX_ANSWERS ||
		    box->_used + LIMIT_DNS_UDP_PAYLOAD > (int)sizeof box->_bytes;
	return full ? NULL : box->_bytes + box->_used;
}

// --- which leave together -----------------------------------------------------------------------------------
static bool same_client(const struct dns_outbox_answer *a, const struct dns_outbox_answer *b)
{
	return a->client_len == b->client_len && memcmp(a->client, b->client, a->client_len) == 0;
}

static uint8_t *send_of_port(struct dns_outbox *box, const union dns_client *client)
{
	uint16_t port = ntohs(client->any.sa_family == AF_INET6 ? client->v6.sin6_port : client->v4.sin_port);
	return &box->_sends_by_port[port % ARRAY_SIZE(box->_sends_by_port)];
}

// Adds an answer to a send, if it may join. A shorter one is the last, and so is a single one before a longer
// one.
static bool send_join(struct dns_outbox *box, struct dns_outbox_send *send, uint8_t index)
{
	struct dns_outbox_answer *answer = &box->_answers[index];
	if (send->full || !same_client(&box->_answers[send->first], answer) ||
	    (answer->len > send->size && send->count > 1))
		return false;
	send->full = answer->len != send->size || send->count + 1 == DATAGRAMS_MAX;
	send->count++;
	if (answer->len > send->size) {
		answer->next = (uint8_t)(send->first + 1);
		send->first = index;
		send->size = answer->len;
		return true;
	}
	box->_answers[send->last].next = (uint8_t)(index + 1);
	send->last = index;
	return true;
}

void dns_outbox_add(struct dns_outbox *box, const union dns_client *client, socklen_t client_len, size_t len)
{
	uint8_t index = box->_answer_count++, *known = send_of_port(box, client);
	box->_answers[index] = (struct dns_outbox_answer){client, client_len, box->_used, (uint16_t)len, 0};
	box->_used = (uint16_t)(box->_used + len);
	if (*known && send_join(box, &box->_sends[*known - 1], index))
		return;
	box->_sends[box->_send_count++] = (struct dns_outbox_send){index, index, 1, (uint16_t)len, false};
	*known = box->_send_count;
}

// --- sending ------------------------------------------------------------------------------------------------
static size_t lay_out_parts(struct dns_outbox *box, const struct dns_outbox_send *send, struct iovec *parts)
{
	size_t count = 0;
	for (unsigned next = send->first + 1u; next; next = box->_answers[next - 1].next) {
		struct dns_outbox_answer *answer = &box->_answers[next - 1];
		parts[count++] = (struct iovec){box->_bytes + answer->at, answer->len};
	}
	return count;
}

// Adds to what the message tells the kernel, for which its control has room.
static void *add_control(struct msghdr *message, int level, int type, size_t len)
{
	struct cmsghdr *cmsg = (void *)((uint8_t *)message->msg_control + message->msg_controllen);
	*cmsg = (struct cmsghdr){.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
	message->msg_controllen += CMSG_SPACE(len);
	return CMSG_DATA(cmsg);
}

// The source that the client expects, unless the kernel takes that by itself.
static void set_source(const struct dns_outbox *box, struct msghdr *message, const union dns_client *client)
{
	if (!box->to_itself || client->any.sa_family != AF_INET)
		return;
	struct in_pktinfo info = {.ipi_spec_dst = client->v4.sin_addr};
	memcpy(add_control(message, IPPROTO_IP, IP_PKTINFO, sizeof info), &info, sizeof info);
}

static void set_datagram_size(struct msghdr *message, uint16_t size)
{
	memcpy(add_control(message, SOL_UDP, UDP_SEGMENT, sizeof size), &size, sizeof size);
}

static void lay_out(struct dns_outbox *box)
{
	size_t parts = 0;
	for (unsigned i = 0; i < box->_send_count; i++) {
		const struct dns_outbox_send *send = &box->_sends[i];
		const struct dns_outbox_answer *first = &box->_answers[send->first];
		struct msghdr *message = &box->_messages[i].msg_hdr;
		*message = (struct msghdr){.msg_name = (void *)first->client,
					   .msg_namelen = first->client_len,
					   .msg_iov = &box->_parts[parts],
					   .msg_iovlen = send->count,
					   .msg_control = &box->_controls[i]};
		parts += lay_out_parts(box, send, message->msg_iov);
		set_source(box, message, first->client);
		if (send->count > 1)
			set_datagram_size(message, send->size);
	}
}

void dns_outbox_send(const struct dns_outbox *box, int fd, struct iovec answer,
		     const union dns_client *client, socklen_t client_len)
{
	union dns_outbox_control control;
	struct msghdr message = {.msg_name = (void *)client,
				 .msg_namelen = client_len,
				 .msg_iov = &answer,
				 .msg_iovlen = 1,
				 .msg_control = &control};
	set_source(box, &message, client);
	sendmsg(fd, &message, MSG_DONTWAIT);
}

// A send that failed as one: the way to this client may not take several at once (IPsec, a small MTU), or may
// not be at all (port 0). Nothing is learnt from that for others.
static void send_one_by_one(const struct dns_outbox *box, int fd, const struct msghdr *message)
{
	for (size_t i = 0; i < message->msg_iovlen; i++)
		dns_outbox_send(box, fd, message->msg_iov[i], message->msg_name, message->msg_namelen);
}

void dns_outbox_flush(struct dns_outbox *box, int fd)
{
	unsigned sent = 0;
	lay_out(box);
	while (sent < box->_send_count) {
		int n = sendmmsg(fd, box->_messages + sent, box->_send_count - sent, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && box->_sends[sent].count > 1)
			send_one_by_one(box, fd, &box->_messages[sent].msg_hdr);
		sent += n > 0 ? (unsigned)n : 1; // one that cannot be sent must not hold up the others
	}
	box->_answer_count = box->_send_count = 0;
	box->_used = 0;
	memset(box->_sends_by_port, 0, sizeof box->_sends_by_port);
}
