// SPDX-License-Identifier: Apache-2.0
// Signals as events of a loop (signalfd), so that a handler may do anything. The signals are blocked in the
// calling thread; call it before threads start, so that all inherit that.
#pragma once

#include "run/loop.h"

#include <stddef.h>

struct signals;

// Calls fn(number, arg) in the loop for each of the signals. 0 or a negative error.
int signals_new(struct loop *loop, const int *numbers, size_t count, void (*fn)(int number, void *arg),
		void *arg, struct signals **ret_signals);
// The signals stay blocked: one that comes while the process ends changes nothing. NULL is fine. Not from
// within fn.
void signals_free(struct signals *signals);
