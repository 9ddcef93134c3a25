// SPDX-License-Identifier: Apache-2.0
// Programs that go with a process. Their pins are in a BPF file system of its own, which is mounted nowhere:
// a descriptor is all that keeps it. When that is closed, at the latest with the process, all attachments
// end, however the process ends; nothing is left to be swept. Others find it in /proc. Blocking; for start-up
// and the command line.
#pragma once

#include "intercept/ebpf_place.h"

// Makes one: a folder for ebpf_load.h, as this process sees it, and the descriptor, which is the caller's.
// Needs CAP_SYS_ADMIN now, and nothing later. 0 or a negative error with a sentence.
int ebpf_held_make(int *ret_fd, char ret_folder[EBPF_PATH_MAX], struct strbuf *ret_error);

// Calls fn for every such folder of the processes that can be seen, root's only; `here`: of those in the
// calling thread's network namespace. `place` has no more than the netns of the latter. Stops at the first
// result that is not 0, and returns it.
int ebpf_held_each(bool here, int (*fn)(const struct ebpf_place *place, const char *folder, void *arg),
		   void *arg);
