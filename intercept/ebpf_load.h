// SPDX-License-Identifier: Apache-2.0
// Getting the programs of bpf/ into the kernel and out of it. A folder (ebpf_place.h) holds the pins of the
// shared programs' attachments, of the maps, and of one attachment for each captured namespace. The caller
// has the lock. Errors come with a sentence where there is a strbuf for it.
#pragma once

#include "base/str.h"
#include "bpf/shared.h"

#include <stdbool.h>
#include <stdint.h>

// Whether this kernel has what the programs need: 0, or a negative error and what is missing.
int ebpf_probe_kernel(struct strbuf *ret_why);
// Tells these programs from those of other versions.
uint32_t ebpf_checksum(void);

// Installs the programs, in place of those of another version unless they are there, and makes the cells
// the plan of the namespace (the calling thread's), all at once. On failure, whatever the plan was before
// still holds.
int ebpf_install(const char *folder, int cgroup, uint64_t netns, const union weir_cell *cells, uint32_t count,
		 struct strbuf *ret_error);
// Whether all programs that the namespace needs are attached; `holds`: those that let wait among them.
bool ebpf_is_in_place(const char *folder, uint64_t netns, bool holds);
// The plan of a namespace, which the caller frees with mem_free. 0; ERR_NOT_FOUND; or a negative error.
int ebpf_plan_read(const char *folder, uint64_t netns, union weir_cell **ret_cells, uint32_t *ret_count);
// The same of the plan that is the map of that number.
int ebpf_plan_read_map(uint32_t id, union weir_cell **ret_cells, uint32_t *ret_count);
// Descriptors by which a process lets its own plan end later, without privileges (Linux 5.19; before, with
// kernel.unprivileged_bpf_disabled, nothing happens then). 0 or a negative error.
int ebpf_plan_open(const char *folder, uint64_t netns, int *ret_plan, int *ret_shares);
// From now on what begins is not captured; what was captured goes on. Waits as the following does.
void ebpf_plan_end(int plan, int shares, uint64_t netns);
// Takes the namespace out: from now on nothing of it is captured. Waits for connections that are on their way to the
// proxy, a second and a half at most. 0; ERR_NOT_FOUND if it has nothing there; or a negative error.
int ebpf_namespace_remove(const char *folder, uint64_t netns);
// Removes what namespaces that are gone have left; without any namespace, the whole folder.
void ebpf_folder_sweep(const char *folder);
