// SPDX-License-Identifier: Apache-2.0
// The event loop: epoll, edge-triggered, one loop a thread. A turn waits, reads the clock once, calls what is
// ready, fires timers, then runs the deferred tasks. Nothing is ever called from inside the call that caused
// it.
//
// Ownership: struct loop_io, loop_timer and loop_task are embedded in the caller's objects and linked here
// while active. An object may be taken out (and freed by a deferred task) in any callback, its own included.
// Everything but loop_post and loop_stop is for the loop's own thread.
#pragma once

#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;

// Allocates a loop; 0 or a negative error. loop_free wants everything taken out before;
// what was deferred or posted until then still runs.
int loop_new(struct loop **ret_loop);
void loop_free(struct loop *loop);
// Runs turns until loop_stop.
void loop_run(struct loop *loop);
// One turn, waiting at most `timeout_ms` (-1: until something happens; 0: not at all). For tests and for
// loops that are driven by others. 0 or a negative error.
int loop_turn(struct loop *loop, int timeout_ms);
// Ends loop_run after the turn in progress; from any thread.
void loop_stop(struct loop *loop);
// The time of this turn, CLOCK_MONOTONIC in nanoseconds.
uint64_t loop_now(const struct loop *loop);

// --- descriptors --------------------------------------------------------------------------------------------
struct loop_io;
// `events` are EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR as they came.
typedef void (*loop_io_fn)(struct loop_io *io, uint32_t events);

struct loop_io {
	int fd; // borrowed: the owner closes it after loop_io_del
	loop_io_fn fn;
};

// Registers for its life (EPOLLET is added), so `events` should name all that will ever matter. 0 or a
// negative error.
int loop_io_add(struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn fn);
// Changes the events after all (rare: listeners that pause).
int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events);
// Stops: `fn` is not called any more, not even for an event already fetched. io->fd becomes -1. The memory
// must live until the end of the turn (free it by loop_defer).
void loop_io_del(struct loop *loop, struct loop_io *io);

// --- timers -------------------------------------------------------------------------------------------------
// A hierarchical wheel of 1 ms slots: start and stop are O(1). A timer never fires early.
struct loop_timer;
typedef void (*loop_timer_fn)(struct loop_timer *timer);

struct loop_timer {
	struct list _node;
	uint64_t _expires_ms;
	loop_timer_fn fn;
};

void loop_timer_init(struct loop_timer *timer, loop_timer_fn fn);
// (Re)starts it, counted from this turn's time.
void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms);
// Safe when it is not running.
void loop_timer_stop(struct loop_timer *timer);
bool loop_timer_running(const struct loop_timer *timer);

// --- deferred work ------------------------------------------------------------------------------------------
struct loop_task;
typedef void (*loop_task_fn)(struct loop_task *task);

struct loop_task {
	struct loop_task *_next;
	loop_task_fn fn; // not NULL while it is queued by loop_defer
	bool _queued;
};

// Runs `fn` once at the end of this turn. Queueing a queued task again changes nothing. What a task defers
// runs in the same turn, too.
void loop_defer(struct loop *loop, struct loop_task *task, loop_task_fn fn);

// --- messages from other threads ----------------------------------------------------------------------------
// From any thread: calls fn(arg) in a later turn of the loop's thread. 0 or -ENOMEM.
int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg);

// The same with memory of the caller's, so that it cannot fail: it is the loop's until fn is called, which
// may free it. Set fn and arg.
struct loop_message {
	struct loop_message *_next;
	void (*fn)(void *arg);
	void *arg;
	bool _owned; // by the loop, which frees it
};
void loop_post_message(struct loop *loop, struct loop_message *message);
