// SPDX-License-Identifier: Apache-2.0
// Batches of answers to real sockets on the loopback: what each client receives, and in how many sends it
// came.
#include "test.h"

#include "base/clock.h"
#include "base/mem.h"
#include "dns/outbox.h"

#include <netinet/udp.h>
#include <unistd.h>

enum { CLIENTS = 3 };

static struct dns_outbox box;
static int server, receivers[CLIENTS];
static union dns_client clients[CLIENTS];

static int bound(int family, union dns_client *ret_address, socklen_t *ret_len)
{
	union dns_client address = {.any.sa_family = (sa_family_t)family};
	socklen_t len = family == AF_INET6 ? sizeof address.v6 : sizeof address.v4;
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (family == AF_INET6)
		address.v6.sin6_addr = in6addr_loopback;
	else
		address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, &address.any, len), 0);
	assert_int_equal(getsockname(fd, &address.any, &len), 0);
	*ret_address = address;
	*ret_len = len;
	return fd;
}

static unsigned port_slot(int client)
{
	// The port has the same place in both families.
	return ntohs(clients[client].v4.sin_port) % ARRAY_SIZE(box._sends_by_port);
}

static bool slot_is_taken(int client)
{
	for (int i = 0; i < client; i++)
		if (port_slot(i) == port_slot(client))
			return true;
	return false;
}

// Clients whose ports share a slot may get separate sends: these do not.
static void open_all(int family)
{
	union dns_client unused;
	socklen_t len;
	memset(&box, 0, sizeof box);
	server = bound(family, &unused, &len);
	for (int i = 0; i < CLIENTS; i++) {
		receivers[i] = bound(family, &clients[i], &len);
		while (slot_is_taken(i)) {
			close(receivers[i]);
			receivers[i] = bound(family, &clients[i], &len);
		}
	}
}

static void close_all(void)
{
	close(server);
	for (int i = 0; i < CLIENTS; i++)
		close(receivers[i]);
}

static void add(int client, uint8_t fill, size_t len)
{
	uint8_t *room = dns_outbox_room(&box);
	assert_non_null(room);
	memset(room, fill, len);
	socklen_t address_len =
	    clients[client].any.sa_family == AF_INET6 ? sizeof clients[0].v6 : sizeof clients[0].v4;
	dns_outbox_add(&box, &clients[client], address_len, len);
}

// The next datagram's length, -1 if there is none; every byte of it is the same, *ret_fill.
static ssize_t receive(int client, uint8_t *ret_fill)
{
	uint8_t bytes[4096];
	ssize_t n = recv(receivers[client], bytes, sizeof bytes, 0);
	for (ssize_t i = 1; i < n; i++)
		assert_int_equal(bytes[i], bytes[0]);
	if (n > 0)
		*ret_fill = bytes[0];
	return n;
}

static void expect(int client, uint8_t fill, ssize_t len)
{
	uint8_t got = 0;
	assert_int_equal(receive(client, &got), len);
	assert_int_equal(got, fill);
}

static void expect_nothing_more(void)
{
	uint8_t fill;
	for (int i = 0; i < CLIENTS; i++)
		assert_int_equal(receive(i, &fill), -1);
}

static void each_client_gets_its_answers(void **state)
{
	(void)state;
	for (int family = AF_INET; family <= AF_INET6; family += AF_INET6 - AF_INET) {
		open_all(family);
		add(0, 'a', 60);
		add(1, 'b', 60);
		add(0, 'c', 60);
		add(2, 'd', 72);
		add(0, 'e', 60);
		dns_outbox_flush(&box, server);
		expect(0, 'a', 60);
		expect(0, 'c', 60);
		expect(0, 'e', 60);
		expect(1, 'b', 60);
		expect(2, 'd', 72);
		expect_nothing_more();
		close_all();
	}
}

// How many bytes come in the next send, and of how many each datagram in it is: what a receiver sees that
// takes them together (UDP_GRO).
static void expect_send(int client, ssize_t len, int size)
{
	uint8_t bytes[8192], control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {bytes, sizeof bytes};
	struct msghdr message = {
	    .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	assert_int_equal(recvmsg(receivers[client], &message, 0), len);
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&message);
	int got = (int)len;
	if (cmsg && cmsg->cmsg_type == UDP_GRO)
		memcpy(&got, CMSG_DATA(cmsg), sizeof got);
	assert_int_equal(got, size);
}

static void answers_to_one_client_leave_together(void **state)
{
	int on = 1;
	(void)state;
	open_all(AF_INET);
	for (int i = 0; i < CLIENTS; i++)
		assert_int_equal(setsockopt(receivers[i], SOL_UDP, UDP_GRO, &on, sizeof on), 0);
	for (int i = 0; i < 3; i++) {
		add(0, 'a', 60);
		add(1, 'b', i == 1 ? 40 : 60); // a shorter one is the last
	}
	add(2, 'c', 44); // A, then AAAA, which is longer: it goes first
	add(2, 'd', 56);
	add(2, 'e', 56);
	dns_outbox_flush(&box, server);
	expect_send(0, 180, 60);
	expect_send(1, 100, 60);
	expect_send(1, 60, 60);
	expect_send(2, 100, 56);
	expect_send(2, 56, 56);
	expect_nothing_more();
	close_all();
}

static void a_longer_one_goes_before(void **state)
{
	(void)state;
	open_all(AF_INET);
	add(2, 'c', 44);
	add(2, 'd', 56);
	dns_outbox_flush(&box, server);
	expect(2, 'd', 56);
	expect(2, 'c', 44);
	expect_nothing_more();
	close_all();
}

static void a_full_box_says_so(void **state)
{
	(void)state;
	open_all(AF_INET);
	int count = 0;
	while (dns_outbox_room(&box)) {
		add(0, (uint8_t)count, 50);
		count++;
	}
	assert_int_equal(count, DNS_OUTBOX_ANSWERS);
	dns_outbox_flush(&box, server);
	for (int i = 0; i < count; i++)
		expect(0, (uint8_t)i, 50);
	for (count = 0; dns_outbox_room(&box); count++)
		add(0, (uint8_t)count, LIMIT_DNS_UDP_PAYLOAD);
	assert_in_range(count, 2, DNS_OUTBOX_ANSWERS - 1);
	dns_outbox_flush(&box, server);
	for (int i = 0; i < count; i++)
		expect(0, (uint8_t)i, LIMIT_DNS_UDP_PAYLOAD);
	expect_nothing_more();
	close_all();
}

// A socket without checksums cannot send several at once: stands for paths that cannot (IPsec), and older
// kernels.
static void one_by_one_where_it_must_be(void **state)
{
	int on = 1;
	(void)state;
	open_all(AF_INET);
	assert_int_equal(setsockopt(server, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on), 0);
	for (int round = 0; round < 2; round++) {
		add(0, 'a', 60);
		add(1, 'x', 30);
		add(0, 'b', 60);
		dns_outbox_flush(&box, server);
		expect(0, 'a', 60);
		expect(0, 'b', 60);
		expect(1, 'x', 30);
		expect_nothing_more();
	}
	close_all();
}

// Answers to port 0, from where a query can come, are refused whichever way they are sent.
static void what_cannot_be_sent_changes_nothing_for_others(void **state)
{
	int on = 1;
	(void)state;
	open_all(AF_INET);
	assert_int_equal(setsockopt(receivers[0], SOL_UDP, UDP_GRO, &on, sizeof on), 0);
	clients[1].v4.sin_port = 0; // EINVAL
	for (int round = 0; round < 2; round++) {
		add(1, 'b', 60);
		add(1, 'b', 60);
		add(0, 'a', 60);
		add(0, 'a', 60);
		add(2, 'c', 60);
		dns_outbox_flush(&box, server);
		expect_send(0, 120, 60);
		expect(2, 'c', 60);
		expect_nothing_more();
	}
	close_all();
}

// A client that takes answers only from the address that it has itself, which is not the first of its
// network.
static void open_second_address(void)
{
	socklen_t len = sizeof(struct sockaddr_in);
	union dns_client any = {.v4.sin_family = AF_INET}, second = any;
	open_all(AF_INET);
	close(server);
	close(receivers[0]);
	server = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(server, &any.any, len), 0);
	assert_int_equal(getsockname(server, &any.any, &len), 0);
	any.v4.sin_addr.s_addr = second.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 8);
	receivers[0] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(receivers[0], &second.any, len), 0);
	assert_int_equal(getsockname(receivers[0], &clients[0].any, &len), 0);
	assert_int_equal(connect(receivers[0], &any.any, len), 0);
	box.to_itself = true;
}

static void answers_come_from_where_was_asked(void **state)
{
	int on = 1;
	uint8_t alone[50];
	(void)state;
	open_second_address();
	for (int round = 0; round < 2; round++) {
		add(0, 'a', 60);
		dns_outbox_flush(&box, server);
		add(0, 'b', 60);
		add(0, 'c', 60); // in one send, and then one by one
		dns_outbox_flush(&box, server);
		memset(alone, 'd', sizeof alone);
		dns_outbox_send(&box, server, (struct iovec){alone, sizeof alone}, &clients[0],
				sizeof clients[0].v4);
		expect(0, 'a', 60);
		expect(0, 'b', 60);
		expect(0, 'c', 60);
		expect(0, 'd', sizeof alone);
		expect_nothing_more();
		assert_int_equal(setsockopt(server, SOL_SOCKET, SO_NO_CHECK, &on, sizeof on), 0);
	}
	close_all();
}

// Whatever the mixture, each client gets each of its answers once.
static void any_mixture(void **state)
{
	(void)state;
	random_seed(7);
	open_all(AF_INET);
	for (int round = 0; round < 200; round++) {
		static size_t lengths[CLIENTS][256];
		memset(lengths, 0, sizeof lengths);
		int count = 1 + (int)random_below(DNS_OUTBOX_ANSWERS);
		for (int i = 0; i < count; i++) {
			int client = (int)random_below(CLIENTS);
			size_t len = 30 + random_below(1 + random_below(8));
			lengths[client][i + 1] = len;
			add(client, (uint8_t)(i + 1), len);
		}
		dns_outbox_flush(&box, server);
		for (; count > 0; count--) {
			uint8_t fill = 0;
			int client = 0;
			ssize_t len = -1;
			while (client < CLIENTS && (len = receive(client, &fill)) < 0)
				client++;
			assert_in_range(client, 0, CLIENTS - 1);
			assert_int_equal(len, lengths[client][fill]);
			lengths[client][fill] = 0;
		}
		expect_nothing_more();
	}
	close_all();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_client_gets_its_answers),
	    cmocka_unit_test(answers_to_one_client_leave_together),
	    cmocka_unit_test(a_longer_one_goes_before),
	    cmocka_unit_test(a_full_box_says_so),
	    cmocka_unit_test(one_by_one_where_it_must_be),
	    cmocka_unit_test(what_cannot_be_sent_changes_nothing_for_others),
	    cmocka_unit_test(answers_come_from_where_was_asked),
	    cmocka_unit_test(any_mixture),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
