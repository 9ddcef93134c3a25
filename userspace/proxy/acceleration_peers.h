// SPDX-License-Identifier: Apache-2.0
// The connections on which acceleration is tried at the start: over loopback, with sockets that do not block,
// the ends of which stand for an application, the proxy and somebody elsewhere. All bytes come from a
// formula, so that a receiver knows them. Errors are negative; a test that comes to no end ends with
// -ETIMEDOUT.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	PEERS_PIECE_MAX = 40000,
	PEERS_SEND_BUFFER = 65536,
};

// An application opens a connection to the proxy, and the proxy one to somebody elsewhere, with its mark and
// to a listener that blocks, so that the other end is not bypassed.
enum peer { PEER_APPLICATION, PEER_PROXY, PEER_OUTLET, PEER_FAR, PEERS };

struct peers {
	int listener, far_listener;
	int fds[PEERS];
	uint64_t deadline_ms;
	uint8_t buffer[PEERS_PIECE_MAX];
};

// 0 or a negative error. *port: of the listener for applications. After both, also when they failed:
// peers_done.
int peers_open(struct peers *peers, uint64_t wait_ms, uint16_t *port);
void peers_done(struct peers *peers);
// The first two; the other two.
int peers_connect(struct peers *peers);
int peers_connect_far(struct peers *peers);
void peers_close(struct peers *peers, int peer);
void peers_close_all(struct peers *peers);

// The other end of the same connection.
static inline int peers_other(int peer)
{
	return peer ^ 1;
}
// How many bytes of those of `from` at `place` went, 0: no room; or a negative error.
ssize_t peers_send(struct peers *peers, int from, size_t place, size_t len);
// How many bytes came at `at`, all as `from` has sent them; 0: none; ERR_EOF, ERR_MALFORMED; or another
// negative error.
ssize_t peers_receive(struct peers *peers, int at, int from, size_t place, int flags);
// The same until `len` have come: 0 or a negative error.
int peers_receive_all(struct peers *peers, int at, int from, size_t place, size_t len);
// Takes and compares what still comes. 0: then it was this error; or another negative error.
int peers_expect(struct peers *peers, int at, int from, int expected);
// A millisecond. 0 or -ETIMEDOUT.
int peers_pause(const struct peers *peers);
