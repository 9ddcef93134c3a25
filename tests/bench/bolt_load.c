// SPDX-License-Identifier: Apache-2.0
// Bolt requests of 1 KiB, so many at a time on each of some connections, for a time; prints how many were
// answered and the percentiles of the time that each took, in nanoseconds. Every answer has to be that of a
// request under way on this connection, of the right size, and with the content that this request had; at the
// end all have come.
#include "bolt.h"
#include "client.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/epoll.h>

#define SERVICE "com.alipay.test.TestService:1.0"

enum { CONTENT = 1024, CONNECTIONS = 256, IN_FLIGHT = 256, SAMPLES = 1 << 24, PATIENCE_MS = 5000 };
enum {
	KEY_VALUE = 4 + sizeof("service") - 1 + 4 + sizeof(SERVICE) - 1,
	REQUEST = BOLT_REQUEST_HEAD + sizeof(BOLT_REQUEST_CLASS) - 1 + KEY_VALUE + CONTENT,
	RESPONSE = BOLT_RESPONSE_HEAD + sizeof(BOLT_RESPONSE_CLASS) - 1 + CONTENT,
};

// What stands at the start of a content.
struct mark {
	uint32_t connection, id;
};

struct slot {
	uint32_t id;
	bool under_way;
	uint64_t sent_ns;
};

struct connection {
	int fd;
	uint32_t number;
	struct slot slots[IN_FLIGHT]; // a request has the slot of its id, modulo how many may be under way
	size_t out_start, out_end, in_end;
	char out[IN_FLIGHT * REQUEST], in[IN_FLIGHT * RESPONSE];
};

static char request[REQUEST];
static uint32_t *samples, in_flight;
static size_t count, under_way;
static uint64_t now_ns, end_ns;

static char *put(char *at, const void *data, size_t len)
{
	memcpy(at, data, len);
	return at + len;
}

static char *put_text(char *at, const char *text)
{
	uint32_t len = (uint32_t)strlen(text), len_be = htobe32(len);
	return put(put(at, &len_be, sizeof len_be), text, len);
}

static void request_build(void)
{
	struct bolt_request head = {
	    .version = BOLT_VERSION,
	    .type = BOLT_REQUEST,
	    .command = htobe16(BOLT_RPC_REQUEST),
	    .command_version = 1,
	    .serializer = BOLT_HESSIAN,
	    .timeout_ms = htobe32(3000),
	    .class_len = htobe16(sizeof(BOLT_REQUEST_CLASS) - 1),
	    .header_len = htobe16(KEY_VALUE),
	    .content_len = htobe32(CONTENT),
	};
	char *at = put(request, &head, sizeof head);
	at = put(at, BOLT_REQUEST_CLASS, sizeof(BOLT_REQUEST_CLASS) - 1);
	at = put_text(put_text(at, "service"), SERVICE);
	memset(at, 'x', CONTENT);
}

static void request_queue(struct connection *connection, uint32_t id)
{
	char *frame = connection->out + connection->out_end;
	struct mark mark = {connection->number, id};
	memcpy(frame, request, REQUEST);
	((struct bolt_request *)frame)->id = htobe32(id);
	memcpy(frame + REQUEST - CONTENT, &mark, sizeof mark);
	connection->slots[id % in_flight] = (struct slot){.id = id, .under_way = true, .sent_ns = now_ns};
	connection->out_end += REQUEST;
	under_way++;
}

static void requests_send(struct connection *connection)
{
	while (connection->out_start < connection->out_end) {
		const char *from = connection->out + connection->out_start;
		ssize_t n =
		    send(connection->fd, from, connection->out_end - connection->out_start, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			errx(1, "the connection ended");
		if (n < 0)
			break;
		connection->out_start += (size_t)n;
	}
	connection->out_end -= connection->out_start;
	memmove(connection->out, connection->out + connection->out_start, connection->out_end);
	connection->out_start = 0;
}

static void response_check(const struct connection *connection, const char *frame)
{
	const struct bolt_response *head = (const struct bolt_response *)frame;
	uint32_t id = be32toh(head->id);
	const struct slot *slot = &connection->slots[id % in_flight];
	struct mark mark = {connection->number, id};
	if (head->version != BOLT_VERSION || head->type != BOLT_RESPONSE ||
	    be16toh(head->command) != BOLT_RPC_RESPONSE || head->status != 0)
		errx(1, "no good response: type %u, command %u, status %u", head->type,
		     be16toh(head->command), be16toh(head->status));
	if (bolt_response_len(head) != RESPONSE || be32toh(head->content_len) != CONTENT)
		errx(1, "a response of %zu bytes instead of %d", bolt_response_len(head), RESPONSE);
	if (!slot->under_way || slot->id != id)
		errx(1, "a response to %u, which was not asked or was answered before", id);
	if (memcmp(frame + RESPONSE - CONTENT, &mark, sizeof mark) != 0 ||
	    memcmp(frame + RESPONSE - CONTENT + sizeof mark, request + REQUEST - CONTENT + sizeof mark,
		   CONTENT - sizeof mark) != 0)
		errx(1, "the response to %u has the content of another", id);
}

// Notes the answer, and asks anew as long as there is time.
static void response_take(struct connection *connection, const char *frame)
{
	response_check(connection, frame);
	uint32_t id = be32toh(((const struct bolt_response *)frame)->id);
	struct slot *slot = &connection->slots[id % in_flight];
	slot->under_way = false;
	under_way--;
	if (count < SAMPLES)
		samples[count++] = (uint32_t)(now_ns - slot->sent_ns);
	if (now_ns < end_ns && count < SAMPLES)
		request_queue(connection, id + in_flight);
}

// False: everything that has come is read.
static bool responses_read(struct connection *connection)
{
	size_t room = sizeof connection->in - connection->in_end, at = 0;
	ssize_t n = read(connection->fd, connection->in + connection->in_end, room);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0)
		errx(1, "the connection ended");
	connection->in_end += (size_t)n;
	for (; connection->in_end - at >= RESPONSE; at += RESPONSE)
		response_take(connection, connection->in + at);
	if (connection->in_end - at >= BOLT_RESPONSE_HEAD &&
	    bolt_response_len((const struct bolt_response *)(connection->in + at)) != RESPONSE)
		response_check(connection, connection->in + at);
	connection->in_end -= at;
	memmove(connection->in, connection->in + at, connection->in_end);
	return (size_t)n == room;
}

static struct connection *connection_open(int epoll, const struct sockaddr_in *address, uint32_t number)
{
	struct connection *connection = calloc(1, sizeof *connection);
	if (!connection)
		err(1, "connection");
	connection->fd = client_connect(address);
	connection->number = number;
	fcntl(connection->fd, F_SETFL, O_NONBLOCK);
	struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
				    .data.ptr = connection};
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event) != 0)
		err(1, "epoll_ctl");
	for (uint32_t id = 0; id < in_flight; id++)
		request_queue(connection, id);
	return connection;
}

static void connection_close(struct connection *connection)
{
	close(connection->fd);
	free(connection);
}

static void turn(int epoll)
{
	struct epoll_event events[CONNECTIONS];
	int ready = epoll_wait(epoll, events, CONNECTIONS, PATIENCE_MS);
	if (ready == 0)
		errx(1, "%zu requests are not answered", under_way);
	now_ns = client_now_ns();
	for (int i = 0; i < ready; i++) {
		while (responses_read(events[i].data.ptr) || events[i].events & EPOLLRDHUP)
			continue; // an end that has come with the last bytes is told of once
		requests_send(events[i].data.ptr);
	}
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		errx(2, "usage: bolt_load ADDRESS PORT CONNECTIONS IN-FLIGHT SECONDS");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct connection *connections[CONNECTIONS];
	uint32_t connection_count = client_number(argv[3], CONNECTIONS);
	in_flight = client_number(argv[4], IN_FLIGHT);
	samples = calloc(SAMPLES, sizeof *samples);
	if (!samples)
		err(1, "samples");
	request_build();
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	now_ns = client_now_ns();
	end_ns = now_ns + (uint64_t)(atof(argv[5]) * 1e9);
	for (uint32_t number = 0; number < connection_count; number++)
		connections[number] = connection_open(epoll, &address, number);
	while (under_way > 0)
		turn(epoll);
	qsort(samples, count, sizeof *samples, compare);
	printf("%zu %u %u\n", count, samples[count / 2], samples[count - 1 - count / 100]);
	for (uint32_t number = 0; number < connection_count; number++)
		connection_close(connections[number]);
	free(samples);
	close(epoll);
	return 0;
}
