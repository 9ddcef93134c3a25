// SPDX-License-Identifier: Apache-2.0
// One direction of a tunnel: the bytes of one stream go to another one. Between plain sockets big transfers go through a
// pipe by splice, without a copy; TLS and small messages go through buffers; and where the kernel can pass bytes on by
// itself (net/bypass.h) it does.
#pragma once

#include "exchange/dataplane.h"
#include "net/stream.h"

// The pipe is there only while it is of use.
struct flow {
	struct dataplane *dataplane;
	struct stream *from, *to; // borrowed
	struct pipe *pipe;
	uint64_t join, joined; // past this process: its number (0: none), bytes counted so far
	uint8_t turns;	       // in which bytes came, up to a few; more: a join was tried
	bool bulk;	       // reads were big: splice
	bool ended;	       // the end was passed on
};

void flow_init(struct flow *flow, struct dataplane *dataplane, struct stream *from, struct stream *to);
// Moves what can be moved now, a turn's worth, and passes the end on. 0: there is more, and an event will come;
// ERR_NEED_MORE; ERR_EOF: the end has just been passed on; or another negative error of either stream.
int flow_pump(struct flow *flow);
// Takes into the counts of both streams what the kernel has passed on by itself since. Whether that was anything.
bool flow_count(struct flow *flow);
// Before either stream is closed. May be called again.
void flow_done(struct flow *flow);
// Closes the pipes that the worker keeps for later.
void flow_pipes_free(struct dataplane *dataplane);
