// SPDX-License-Identifier: Apache-2.0
// One direction of a tunnel: the bytes of one stream go to another one. Between plain sockets big transfers
// go through a pipe by splice, without a copy; TLS and small messages go through buffers; and where the
// kernel can pass bytes on by itself, past this process, it does (net/bypass.h: joined; net/relay.h:
// relayed).
#pragma once

#include "base/list.h"
#include "net/stream.h"

// A worker's pipes that wait to be used.
struct flow_pipes {
	struct list spare;
	unsigned count;
};
void flow_pipes_init(struct flow_pipes *pipes);
void flow_pipes_done(struct flow_pipes *pipes);

struct flow;
// It has waited for the kernel: call flow_pump.
typedef void (*flow_fn)(struct flow *flow);

// What is to be tried next to do without us.
enum flow_attempt { FLOW_JOIN, FLOW_RELAY, FLOW_NONE };

struct flow {
	struct flow_pipes *pipes; // borrowed
	struct stream *from, *to;
	struct flow *other; // the other way of the connection
	void *owner;
	flow_fn on_ready;
	struct pipe *pipe;	 // only while it is of use
	uint64_t join, relay;	 // their number; 0: none
	uint64_t past;		 // bytes of them that are counted
	uint64_t begun_at;	 // relayed: received when that began
	uint64_t offset;	 // relayed: what sock_written() has more than `sent`
	struct loop_timer timer; // until the kernel has sent what it relayed, asked anew each time
	uint16_t delay_ms;
	uint64_t answered_at;	// what had come the other way when bytes last came this way
	uint8_t messages;	// that came this way between others of the other way, up to a few
	uint8_t small_messages; // the last of them in a row
	uint8_t attempt;	// enum flow_attempt
	bool bulk;		// reads were big: splice
	bool left_to_us; // relayed: the kernel has left bytes to us, and was not told yet that they are
			 // written
	bool waiting;	 // relayed: bytes waited for us when we looked
	bool ended;	 // the end was passed on
};

// Both streams are of one loop, which calls on_ready; `owner` is the caller's.
void flow_init(struct flow *flow, struct flow_pipes *pipes, struct stream *from, struct stream *to,
	       flow_fn on_ready, void *owner);
// Makes them the two ways of one connection. After flow_init of both.
void flow_pair(struct flow *flow, struct flow *other);
// Moves what can be moved now, a turn's worth, and passes the end on. 0: there is more, and an event will
// come; ERR_NEED_MORE; ERR_EOF: the end has just been passed on; or another negative error of either stream.
int flow_pump(struct flow *flow);
// Takes into the counts of both streams what the kernel has passed on by itself since. Whether that was
// anything.
bool flow_count(struct flow *flow);
// Before either stream is closed. May be called again, and of one that is all zeros.
void flow_done(struct flow *flow);
