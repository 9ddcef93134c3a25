// SPDX-License-Identifier: Apache-2.0
#include "run/loop.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	EVENTS_PER_TURN = 256,
	WHEEL_BITS = 6,
	WHEEL_SLOTS = 1 << WHEEL_BITS,
	WHEEL_LEVELS = 6, // 64^6 ms: two years
};

#define WHEEL_ROUND (1ULL << (WHEEL_LEVELS * WHEEL_BITS))

struct loop {
	int epoll_fd;
	uint64_t now_ns;
	atomic_bool stop;

	uint64_t wheel_ms;		 // everything before this has fired
	uint64_t occupied[WHEEL_LEVELS]; // a bit a slot that may hold timers
	struct list wheel[WHEEL_LEVELS][WHEEL_SLOTS];
	struct list beyond; // of this round of the highest level

	struct loop_task *tasks, **tasks_end;

	struct loop_io wake;
	pthread_mutex_t lock; // guards the messages
	struct loop_message *messages, **messages_end;
};

uint64_t loop_now(const struct loop *loop)
{
	return loop->now_ns;
}

// --- messages from other threads ----------------------------------------------------------------------------
static void loop_wake(struct loop *loop)
{
	uint64_t one = 1;
	// A full counter means that the loop is awake already.
	if (write(loop->wake.fd, &one, sizeof one) < 0)
		return;
}

static void message_queue(struct loop *loop, struct loop_message *message)
{
	pthread_mutex_lock(&loop->lock);
	bool first = !loop->messages;
	*loop->messages_end = message;
	loop->messages_end = &message->_next;
	pthread_mutex_unlock(&loop->lock);
	if (first)
		loop_wake(loop);
}

int loop_post(struct loop *loop, void (*fn)(void *arg), void *arg)
{
	struct loop_message *message = mem_alloc(sizeof *message);
	if (!message)
		return -ENOMEM;
	*message = (struct loop_message){NULL, fn, arg, true};
	message_queue(loop, message);
	return 0;
}

void loop_post_message(struct loop *loop, struct loop_message *message)
{
	message->_next = NULL;
	message->_owned = false;
	message_queue(loop, message);
}

static void on_wake(struct loop_io *io, uint32_t events)
{
	struct loop *loop = container_of(io, struct loop, wake);
	uint64_t count;
	(void)events;
	if (read(io->fd, &count, sizeof count) < 0 && errno != EAGAIN)
		return;
	pthread_mutex_lock(&loop->lock);
	struct loop_message *message = loop->messages;
	loop->messages = NULL;
	loop->messages_end = &loop->messages;
	pthread_mutex_unlock(&loop->lock);
	while (message) {
		struct loop_message *next = message->_next;
		bool owned = message->_owned;
		message->fn(message->arg);
		if (owned)
			mem_free(message);
		message = next;
	}
}

void loop_stop(struct loop *loop)
{
	atomic_store(&loop->stop, true);
	loop_wake(loop);
}

// --- tasks --------------------------------------------------------------------------------------------------
void loop_defer(struct loop *loop, struct loop_task *task, loop_task_fn fn)
{
	if (task->_queued)
		return;
	*task = (struct loop_task){NULL, fn, true};
	*loop->tasks_end = task;
	loop->tasks_end = &task->_next;
}

static void run_tasks(struct loop *loop)
{
	for (struct loop_task *task; (task = loop->tasks);) {
		loop->tasks = task->_next;
		if (!loop->tasks)
			loop->tasks_end = &loop->tasks;
		task->_queued = false;
		task->fn(task);
	}
}

// --- life ---------------------------------------------------------------------------------------------------
int loop_new(struct loop **ret_loop)
{
	int err;
	struct loop *loop = mem_zalloc(sizeof *loop);
	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->epoll_fd < 0 || loop->wake.fd < 0) {
		err = -errno;
		goto fail;
	}
	for (int level = 0; level < WHEEL_LEVELS; level++)
		for (int slot = 0; slot < WHEEL_SLOTS; slot++)
			list_init(&loop->wheel[level][slot]);
	list_init(&loop->beyond);
	loop->tasks_end = &loop->tasks;
	loop->messages_end = &loop->messages;
	pthread_mutex_init(&loop->lock, NULL);
	loop->now_ns = clock_mono_ns();
	loop->wheel_ms = loop->now_ns / NS_PER_MS;
	err = loop_io_add(loop, &loop->wake, loop->wake.fd, EPOLLIN, on_wake);
	if (err)
		goto fail;
	*ret_loop = loop;
	return 0;
fail:
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->wake.fd >= 0)
		close(loop->wake.fd);
	mem_free(loop);
	return err;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	on_wake(&loop->wake, 0);
	run_tasks(loop); // what was freed last is waiting there
	close(loop->wake.fd);
	close(loop->epoll_fd);
	pthread_mutex_destroy(&loop->lock);
	mem_free(loop);
}

// --- descriptors --------------------------------------------------------------------------------------------
int loop_io_add(struct loop *loop, struct loop_io *io, int fd, uint32_t events, loop_io_fn fn)
{
	struct epoll_event event = {.events = events | EPOLLET, .data.ptr = io};
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		return -errno;
	*io = (struct loop_io){fd, fn};
	return 0;
}

int loop_io_set(struct loop *loop, struct loop_io *io, uint32_t events)
{
	struct epoll_event event = {.events = events | EPOLLET, .data.ptr = io};
	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &event) < 0 ? -errno : 0;
}

void loop_io_del(struct loop *loop, struct loop_io *io)
{
	if (io->fd < 0)
		return;
	epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
	*io = (struct loop_io){.fd = -1};
}

// --- timers -------------------------------------------------------------------------------------------------
void loop_timer_init(struct loop_timer *timer, loop_timer_fn fn)
{
	list_init(&timer->_node);
	timer->_expires_ms = 0;
	timer->fn = fn;
}

bool loop_timer_running(const struct loop_timer *timer)
{
	return !list_empty(&timer->_node);
}

void loop_timer_stop(struct loop_timer *timer)
{
	list_del(&timer->_node);
}

// Puts a timer into the lowest level whose slots reach it. A slot of level n spans 64^n ms and is spread over
// the levels below when the wheel comes to it.
static void wheel_insert(struct loop *loop, struct loop_timer *timer)
{
	uint64_t at = MAX(timer->_expires_ms, loop->wheel_ms);
	uint64_t differing = at ^ loop->wheel_ms;
	int level = differing ? (63 - __builtin_clzll(differing)) / WHEEL_BITS : 0;
	if (level >= WHEEL_LEVELS) {
		list_append(&loop->beyond, &timer->_node);
		return;
	}
	unsigned slot = (at >> (level * WHEEL_BITS)) & (WHEEL_SLOTS - 1);
	list_append(&loop->wheel[level][slot], &timer->_node);
	loop->occupied[level] |= 1ULL << slot;
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms)
{
	list_del(&timer->_node);
	timer->_expires_ms = (loop->now_ns + NS_PER_MS - 1) / NS_PER_MS + MAX(delay_ms, 1);
	wheel_insert(loop, timer);
}

// The next moment at which a slot must be looked at, or UINT64_MAX. Occupied bits may be stale (timers that
// were stopped); they are cleared when met, which costs one empty look.
static uint64_t wheel_next(struct loop *loop)
{
	for (int level = 0; level < WHEEL_LEVELS; level++) {
		unsigned shift = (unsigned)level * WHEEL_BITS;
		unsigned current = (loop->wheel_ms >> shift) & (WHEEL_SLOTS - 1);
		uint64_t ahead = loop->occupied[level] >> current << current;
		while (ahead) {
			unsigned slot = (unsigned)__builtin_ctzll(ahead);
			if (!list_empty(&loop->wheel[level][slot])) {
				uint64_t base = loop->wheel_ms >> (shift + WHEEL_BITS)
								      << (shift + WHEEL_BITS);
				return MAX(base + ((uint64_t)slot << shift), loop->wheel_ms);
			}
			loop->occupied[level] &= ~(1ULL << slot);
			ahead &= ahead - 1;
		}
	}
	return list_empty(&loop->beyond) ? UINT64_MAX : (loop->wheel_ms / WHEEL_ROUND + 1) * WHEEL_ROUND;
}

static void wheel_spread(struct loop *loop, struct list *from)
{
	struct list moving;
	list_init(&moving);
	list_splice(&moving, from);
	list_for_each_safe (node, &moving) {
		list_del(node);
		wheel_insert(loop, container_of(node, struct loop_timer, _node));
	}
}

// Spreads what begins exactly at wheel_ms: a round of the wheel, slots of its higher levels.
static void wheel_cascade(struct loop *loop)
{
	if (loop->wheel_ms % WHEEL_ROUND == 0)
		wheel_spread(loop, &loop->beyond);
	for (int level = WHEEL_LEVELS - 1; level > 0; level--) {
		unsigned slot = (loop->wheel_ms >> (level * WHEEL_BITS)) & (WHEEL_SLOTS - 1);
		loop->occupied[level] &= ~(1ULL << slot);
		wheel_spread(loop, &loop->wheel[level][slot]);
	}
}

static void wheel_fire(struct loop *loop)
{
	uint64_t now_ms = loop->now_ns / NS_PER_MS;
	for (uint64_t next; (next = wheel_next(loop)) <= now_ms;) {
		loop->wheel_ms = next;
		wheel_cascade(loop);
		struct list due;
		list_init(&due);
		list_splice(&due, &loop->wheel[0][loop->wheel_ms & (WHEEL_SLOTS - 1)]);
		while (!list_empty(&due)) {
			struct loop_timer *timer = container_of(due.next, struct loop_timer, _node);
			list_del(&timer->_node);
			timer->fn(timer);
		}
	}
	// Slots that begin by now have been spread, so none is passed over.
	loop->wheel_ms = MAX(loop->wheel_ms, now_ms);
}

static int wheel_timeout(struct loop *loop, int timeout_ms)
{
	uint64_t next = wheel_next(loop), now_ms = loop->now_ns / NS_PER_MS;
	if (next == UINT64_MAX)
		return timeout_ms;
	uint64_t wait = next > now_ms ? next - now_ms : 0;
	wait = MIN(wait, (uint64_t)INT32_MAX);
	return timeout_ms < 0 ? (int)wait : MIN((int)wait, timeout_ms);
}

// --- turns --------------------------------------------------------------------------------------------------
int loop_turn(struct loop *loop, int timeout_ms)
{
	struct epoll_event events[EVENTS_PER_TURN];
	int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, wheel_timeout(loop, timeout_ms));
	if (count < 0 && errno != EINTR)
		return -errno;
	loop->now_ns = clock_mono_ns();
	for (int i = 0; i < count; i++) {
		struct loop_io *io = events[i].data.ptr;
		if (io->fd >= 0)
			io->fn(io, events[i].events);
	}
	wheel_fire(loop);
	run_tasks(loop);
	return 0;
}

void loop_run(struct loop *loop)
{
	while (!atomic_load_explicit(&loop->stop, memory_order_relaxed))
		if (loop_turn(loop, -1))
			break;
	atomic_store(&loop->stop, false);
}
