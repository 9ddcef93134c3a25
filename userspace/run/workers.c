// SPDX-License-Identifier: Apache-2.0
#include "run/workers.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/pool.h"
#include "run/stats.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>

struct thread {
	struct worker worker;
	struct workers *workers;
	pthread_t id;
	int err;      // of init
	bool stopped; // its loop has ended: what is still queued finds nothing to work on
};

struct workers {
	unsigned count; // threads that run
	struct worker_ops ops;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned pending; // workers that still owe an answer, under the lock
	struct thread threads[];
};

// What travels to the workers: one block for all of them, freed by the last.
struct call {
	struct workers *workers;
	void (*fn)(struct worker *worker, void *arg);
	void *arg;
	bool wait;
	unsigned refs; // under workers->lock
	struct call_entry {
		struct loop_message message;
		struct call *call;
		struct thread *thread;
	} entries[];
};

static void answer(struct workers *workers)
{
	pthread_mutex_lock(&workers->lock);
	if (--workers->pending == 0)
		pthread_cond_signal(&workers->changed);
	pthread_mutex_unlock(&workers->lock);
}

static void await_answers(struct workers *workers)
{
	pthread_mutex_lock(&workers->lock);
	while (workers->pending)
		pthread_cond_wait(&workers->changed, &workers->lock);
	pthread_mutex_unlock(&workers->lock);
}

// --- life -------------------------------------------------------------------------------------------------
static void *thread_main(void *arg)
{
	struct thread *thread = arg;
	struct worker *worker = &thread->worker;
	struct workers *workers = thread->workers;
	char name[16];
	snprintf(name, sizeof name, "weir-worker-%u", worker->index);
	pthread_setname_np(pthread_self(), name);
	stats_use_slot(worker->index + 1);
	thread->err = workers->ops.init ? workers->ops.init(worker, workers->ops.arg) : 0;
	bool ready = thread->err == 0;
	answer(workers);
	if (ready) {
		loop_run(worker->loop);
		thread->stopped = true;
		if (workers->ops.done)
			workers->ops.done(worker, workers->ops.arg);
	}
	buf_thread_done();
	arena_thread_done();
	return NULL;
}

// The thread inherits a mask in which everything is blocked: signals are the control thread's.
static int thread_start(struct thread *thread)
{
	sigset_t all, before;
	int err = loop_new(&thread->worker.loop);
	if (err)
		return err;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = -pthread_create(&thread->id, NULL, thread_main, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err) {
		loop_free(thread->worker.loop);
		thread->worker.loop = NULL;
	}
	return err;
}

int workers_start(unsigned count, const struct worker_ops *ops, struct workers **ret_workers)
{
	struct workers *workers = mem_zalloc(sizeof *workers + count * sizeof(struct thread));
	int err = 0;
	if (!workers)
		return -ENOMEM;
	workers->ops = *ops;
	pthread_mutex_init(&workers->lock, NULL);
	pthread_cond_init(&workers->changed, NULL);
	workers->pending = count;
	for (unsigned i = 0; i < count && err == 0; i++) {
		workers->threads[i] = (struct thread){.worker = {.index = i}, .workers = workers};
		err = thread_start(&workers->threads[i]);
		workers->count += err == 0;
	}
	for (unsigned i = workers->count; i < count; i++)
		answer(workers);
	await_answers(workers);
	for (unsigned i = 0; i < workers->count && err == 0; i++)
		err = workers->threads[i].err;
	if (err) {
		workers_stop(workers);
		return err;
	}
	*ret_workers = workers;
	return 0;
}

unsigned workers_count(const struct workers *workers)
{
	return workers->count;
}

void workers_stop(struct workers *workers)
{
	if (!workers)
		return;
	for (unsigned i = 0; i < workers->count; i++)
		loop_stop(workers->threads[i].worker.loop);
	for (unsigned i = 0; i < workers->count; i++) {
		pthread_join(workers->threads[i].id, NULL);
		loop_free(workers->threads[i].worker.loop);
	}
	pthread_cond_destroy(&workers->changed);
	pthread_mutex_destroy(&workers->lock);
	mem_free(workers);
}

// --- calls ------------------------------------------------------------------------------------------------
static void call_unref(struct call *call)
{
	struct workers *workers = call->workers;
	pthread_mutex_lock(&workers->lock);
	bool last = --call->refs == 0;
	pthread_mutex_unlock(&workers->lock);
	if (last)
		mem_free(call);
}

static void call_run(void *arg)
{
	struct call_entry *entry = arg;
	struct call *call = entry->call;
	struct workers *workers = call->workers;
	bool wait = call->wait;
	if (!entry->thread->stopped)
		call->fn(&entry->thread->worker, call->arg);
	call_unref(call);
	if (wait)
		answer(workers);
}

static int call_send(struct workers *workers, void (*fn)(struct worker *worker, void *arg), void *arg,
		     bool wait)
{
	struct call *call = mem_zalloc(sizeof *call + workers->count * sizeof(struct call_entry));
	if (!call)
		return -ENOMEM;
	call->workers = workers;
	call->fn = fn;
	call->arg = arg;
	call->wait = wait;
	call->refs = workers->count;
	for (unsigned i = 0; i < workers->count; i++) {
		struct call_entry *entry = &call->entries[i];
		*entry = (struct call_entry){{.fn = call_run, .arg = entry}, call, &workers->threads[i]};
	}
	for (unsigned i = 0, count = workers->count; i < count; i++)
		loop_post_message(workers->threads[i].worker.loop, &call->entries[i].message);
	return 0;
}

int workers_call(struct workers *workers, void (*fn)(struct worker *worker, void *arg), void *arg)
{
	pthread_mutex_lock(&workers->lock);
	workers->pending = workers->count;
	pthread_mutex_unlock(&workers->lock);
	int err = call_send(workers, fn, arg, true);
	if (err)
		return err;
	await_answers(workers);
	return 0;
}

int workers_post(struct workers *workers, void (*fn)(struct worker *worker, void *arg), void *arg)
{
	return call_send(workers, fn, arg, false);
}
