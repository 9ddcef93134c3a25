// SPDX-License-Identifier: Apache-2.0
// Interception from outside: a privileged program on a node lays it in the network namespaces of pods, so
// that no container of a pod needs a privilege. It finds the pods by their proxies: processes of the program
// weir-proxy in other network namespaces than its own and the host's, whose environment says in WEIR_CAPTURE
// what is to be captured (options as for `weir intercept apply`, separated by blanks). What a process says
// concerns its own namespace alone. When that is done, a file in the proxy's root tells those who wait, by
// the number of the namespace that was captured. Blocking; for a program of its own with one thread.
#pragma once

#include "base/str.h"

#include <stdint.h>

#define ATTEND_PROGRAM	"weir-proxy"
#define ATTEND_VARIABLE "WEIR_CAPTURE"
#define ATTEND_FILE	"/run/weir/captured"

struct attend;

// Called for each pod that was captured or could not be: `why` is empty, or a sentence.
typedef void (*attend_fn)(void *arg, int pid, uint64_t netns, bool changed, struct str why);

// 0 or a negative error. `proc` is where the processes are seen ("/proc"), `backend` the name of a back end
// or "auto" (backend.h), which is chosen for each pod; the text must outlive it.
int attend_new(const char *proc, struct str backend, attend_fn fn, void *arg, struct attend **ret_attend);
// Looks for proxies that are new since the last time, and captures their pods; one that failed is tried again
// at each call, and told of once. At every few calls, removes what pods have left that are gone. 0 or a negative error, after which the program must end: it may be in a
// pod's namespace.
int attend_scan(struct attend *attend);
// NULL is fine.
void attend_free(struct attend *attend);

// Whether the calling process's network namespace was captured, as `file` tells.
bool attend_is_captured(const char *file);
