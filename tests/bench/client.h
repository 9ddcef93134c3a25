// SPDX-License-Identifier: Apache-2.0
// What the load generators share: connecting, and one HTTP/1.1 request with its response. Every failure ends
// the program: a measurement with errors in it is worth nothing.
#pragma once

#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct request {
	char text[512];
	size_t len;
};

static inline struct sockaddr_in client_address(const char *ip, const char *port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	if (inet_pton(AF_INET, ip, &address.sin_addr) != 1)
		errx(2, "'%s' is no IPv4 address", ip);
	return address;
}

static inline uint32_t client_number(const char *text, uint32_t most)
{
	long number = strtol(text, NULL, 10);
	if (number < 1 || number > most)
		errx(2, "'%s' is not between 1 and %u", text, most);
	return (uint32_t)number;
}

static inline int client_connect(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		err(1, "socket");
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0)
		err(1, "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	return fd;
}

static inline struct request client_request(const char *host)
{
	struct request request;
	int n = snprintf(request.text, sizeof request.text, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host);
	if (n < 0 || (size_t)n >= sizeof request.text)
		errx(2, "'%s' is too long for a host", host);
	request.len = (size_t)n;
	return request;
}

// The length of the response whose head is at the start of the text; 0: the head is not complete yet.
static inline size_t client_response_length(const char *text)
{
	const char *end = strstr(text, "\r\n\r\n");
	if (!end)
		return 0;
	const char *length = strcasestr(text, "\r\ncontent-length:");
	if (strncmp(text, "HTTP/1.1 200", 12) != 0 || !length || length > end)
		errx(1, "unexpected response: %.60s", text);
	return (size_t)(end + 4 - text) + strtoul(length + 17, NULL, 10);
}

static inline void client_exchange(int fd, const struct request *request)
{
	char text[8192];
	size_t len = 0, expected = 0;
	if (write(fd, request->text, request->len) != (ssize_t)request->len)
		err(1, "write");
	while (expected == 0 || len < expected) {
		ssize_t n = read(fd, text + len, sizeof text - 1 - len);
		if (n <= 0)
			errx(1, "the connection ended within a response");
		len += (size_t)n;
		text[len] = '\0';
		if (expected == 0)
			expected = client_response_length(text);
	}
}

static inline uint64_t client_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
