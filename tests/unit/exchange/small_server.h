// SPDX-License-Identifier: Apache-2.0
// An endpoint in the test's own process, on the loopback address: it has its turn when the test says so, and answers
// message by message.
#pragma once

#include "small_proxy.h"

enum { SERVER_PEERS = 8, SERVER_ROOM = 512 * 1024 };

// Answers the message at the beginning of the bytes if it is whole: its length; 0: nothing is taken.
typedef size_t (*server_answer_fn)(int fd, const char *bytes, size_t len);

struct small_server {
	int listener, peers[SERVER_PEERS];
	size_t peer_count, held[SERVER_PEERS];
	server_answer_fn answer;
	char bytes[SERVER_PEERS][SERVER_ROOM];
};

// Its port.
static inline uint16_t server_open(struct small_server *server, server_answer_fn answer)
{
	uint16_t port;
	server->listener = listening(&port);
	server->answer = answer;
	return port;
}

static inline void server_close(struct small_server *server)
{
	for (size_t i = 0; i < server->peer_count; i++)
		close(server->peers[i]);
	server->peer_count = 0;
	memset(server->held, 0, sizeof server->held);
	close(server->listener);
}

static inline void server_serve_peer(struct small_server *server, size_t i)
{
	char *at = server->bytes[i];
	size_t len;
	ssize_t n = recv(server->peers[i], at + server->held[i], SERVER_ROOM - server->held[i], 0);
	server->held[i] += n > 0 ? (size_t)n : 0;
	while ((len = server->answer(server->peers[i], at, server->held[i]))) {
		server->held[i] -= len;
		memmove(at, at + len, server->held[i]);
	}
}

// Takes who has come, and answers what is there.
static inline void server_serve(struct small_server *server)
{
	int fd;
	while (server->peer_count < SERVER_PEERS &&
	       (fd = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
		server->peers[server->peer_count++] = fd;
	for (size_t i = 0; i < server->peer_count; i++)
		server_serve_peer(server, i);
}
