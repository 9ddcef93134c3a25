// SPDX-License-Identifier: Apache-2.0
// What the kernel relays (bpf/relay.bpf.c) as streams see it: what comes on one socket goes out of another
// one, and does not come to this process, as long as there is room. Loading and testing it is the proxy's
// (proxy/relaying.h). Set up before threads start; then any thread.
//
// Of a socket from which the kernel relays:
//  - What it left to this process is read as ever, and written to the other socket, and nothing else is. Before
//    that, all that the kernel relayed must be in the other socket's queue (sock_written() tells), or it would be
//    overtaken. When all is written, relay_tell() has the kernel relay again.
//  - An end may be read before the last bytes: relay_state.passed says how many there are.
//  - splice() does not see what was left to this process.
//  - Each message is an event: epoll wakes the thread and finds nothing, unless EPOLLOUT is asked for.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct weir_relay_counts;

// What the loader hands over; the descriptors stay its own.
struct relay_handles {
	int sources, sinks; // maps of sockets, by cookie
	int relays, done;
	int counts;
	int guard; // a program
};
// NULL: nothing is relayed any more. What was counted so far is not published.
void relay_set(const struct relay_handles *handles);
bool relay_is_on(void);

// What comes on socket `from` goes out of socket `to` from now on; nothing is under way between the two. What
// has come and was not read yet goes with the next read. Returns the number of the relay, for those below, or
// 0: it cannot be (an end was already received, there are too many).
uint64_t relay_start(int from, int to);

struct relay_state {
	uint64_t bytes;	 // that the kernel relayed
	uint64_t passed; // bytes that it left to this process
	bool broken;	 // it could not keep bytes in order: the connection is to be reset
};
struct relay_state relay_state(uint64_t relay);
// `written`: how many of the bytes that were left to this process it has written.
void relay_tell(uint64_t relay, uint64_t written);
// Before either socket is closed.
void relay_stop(uint64_t relay);

// How many sockets and relays are in the maps, counted one by one.
size_t relay_sockets(void);
// What the kernel counted so far, on all CPUs; zeros if it is off.
void relay_read_counts(struct weir_relay_counts *ret_counts);
// Brings the counters of run/stats.h up to date. Always by the same thread.
void relay_publish_counts(void);
