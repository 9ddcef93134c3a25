// SPDX-License-Identifier: Apache-2.0
// The local bypass (bpf/bypass.bpf.c) as streams see it: what is different about a socket whose other end is on this
// host when `acceleration` is on. Loading and testing it is the proxy's (proxy/acceleration.h); off, nothing here costs
// more than a look at memory. Set up before threads start; then any thread.
//
//  - A short read does not say that the socket is empty when the sender has gone over to TCP in between: ask
//    bypass_turns.
//  - A send may fail with EPIPE though the connection is well: the other end has to read first, and no event will tell
//    that it has. Ask bypass_refusals before and after.
//  - splice() does not see what was bypassed.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct weir_bypass_counts;

// What the loader hands over; the descriptors stay its own.
struct bypass_handles {
	int sockets; // the map of all ends, by cookie
	int ends;    // what is known of sockets
	int leaving;
	int joins, outlets;
	int counts;
	const volatile uint32_t *turns, *refusals; // in memory shared with the kernel
};
// NULL: the bypass is off again. What was counted so far is not published.
void bypass_set(const struct bypass_handles *handles);
bool bypass_is_on(void);

// Whether the socket is one end of a bypassed connection; three system calls.
bool bypass_has(int fd);
// Whether all that this end of one will ever send goes by TCP.
bool bypass_is_over(int fd);
// After the first bytes have come: takes both ends out of the map if the other end is an application whose socket blocks, so
// that they are as any others. 0: they were taken out; ERR_NEED_MORE: that has to wait until more has been sent; or
// another negative error: it stays so.
int bypass_leave(int fd);
// How many sockets and joins are in the maps, counted one by one.
size_t bypass_sockets(void);
// What the kernel counted so far, on all CPUs; zeros if it is off.
void bypass_read_counts(struct weir_bypass_counts *ret_counts);
// Brings the counters of run/stats.h up to date. Always by the same thread.
void bypass_publish_counts(void);

// --- directions that are joined ------------------------------------------------------------------------------
// What the application at the other end of socket `from` sends goes out of socket `to`, and does not come to `from`,
// unless there is no room: then it does, and is to be written to `to` as ever. `received` and `sent` are the bytes
// that were read from `from` and written to `to` since both began; nothing is under way between the two. Returns the
// number of the join, for those below, or 0: it cannot be.
uint64_t bypass_join(int from, int to, uint64_t received, uint64_t sent);
// How many bytes went so.
uint64_t bypass_joined_bytes(uint64_t join);
// Before either socket is closed.
void bypass_part(uint64_t join);

extern const volatile uint32_t *_bypass_turns, *_bypass_refusals;
// How many messages of this process were refused so far, on all threads: if a send failed and this has grown, it may be
// one of them, and is to be tried again.
static inline uint32_t bypass_refusals(void)
{
	return *_bypass_refusals;
}
// How often a direction towards the proxy has gone over to TCP so far, on all threads, in 30 bits. A reader that asks
// after each read, and when it has grown reads until nothing is there, misses nothing.
static inline uint32_t bypass_turns(void)
{
	return *_bypass_turns & 0x3fffffff;
}
