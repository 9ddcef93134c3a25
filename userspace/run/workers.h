// SPDX-License-Identifier: Apache-2.0
// Worker threads: each has a loop and a counter slot of its own, shares nothing, and is spoken to by messages
// only. All functions are for the control thread that started them, except where said. CPU affinity is left
// alone.
//
// Start: every worker runs `init` on its own thread; workers_start returns when all have, or, if one fails,
// after the others were ended again. Stop: each loop ends, `done` runs on the thread, then the thread is
// joined.
#pragma once

#include "run/loop.h"

struct workers;

struct worker {
	unsigned index; // 0, 1, ...; counters go to slot index + 1 (slot 0 is the control thread's)
	struct loop *loop;
	void *data; // the owner's; set by init
};

struct worker_ops {
	int (*init)(struct worker *worker, void *arg);	// 0 or a negative error; may be NULL
	void (*done)(struct worker *worker, void *arg); // after a successful init only; may be NULL
	void *arg;
};

// Starts `count` (> 0) threads named "weir-worker-0", ... Signals are blocked in them. 0 or a negative error
// (the first worker's that failed).
int workers_start(unsigned count, const struct worker_ops *ops, struct workers **ret_workers);
unsigned workers_count(const struct workers *workers);

// Runs fn(worker, arg) on the thread of every worker and returns when all have done so. 0, or -ENOMEM: then
// nothing ran anywhere. Must not be called by a worker.
int workers_call(struct workers *workers, void (*fn)(struct worker *worker, void *arg), void *arg);
// The same without waiting: `arg` must live until the last worker is through, and each call happens exactly
// once unless the worker is stopped before.
int workers_post(struct workers *workers, void (*fn)(struct worker *worker, void *arg), void *arg);

// Ends the loops, joins the threads, frees. NULL is fine.
void workers_stop(struct workers *workers);
