// SPDX-License-Identifier: Apache-2.0
// Control groups (version 2) by their names: paths or systemd's units, found in the file system that shows
// them, and the numbers by which the kernel's rules know them. A number belongs to one control group as long
// as that exists: one that is made anew under the same path has another. Nothing is cached. Blocking, walks
// folders; for start-up and the command line, not for the loop.
#pragma once

#include "base/limits.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ruleset;

struct cgroup {
	char path[LIMIT_CGROUP_PATH]; // from the root of our namespace: "system.slice/nginx.service"
	uint64_t id;
	uint32_t level; // how many names the path has
};

// The numbers of a control group and of those that it is in, from the outermost one on; without the root.
struct cgroup_line {
	uint64_t ids[LIMIT_CGROUP_DEPTH];
	size_t count;
	char path[LIMIT_CGROUP_PATH]; // "/" for the root
};

// Why a text can be no name of a control group ("ends in ..."), or NULL.
const char *cgroup_name_fault(const char *name);
// Finds a control group. `name` is a path with or without the leading slash or the folder of the hierarchy
// (/sys/fs/cgroup), or one name without a slash: that of a unit, looked for in all slices. 0; ERR_NOT_FOUND,
// ERR_UNSUPPORTED or another negative error, each with a sentence.
int cgroup_find(const char *name, struct cgroup *ret_cgroup, struct strbuf *ret_error);
// The line that a process in that control group has; `path` is as in /proc/PID/cgroup. 0, ERR_NOT_FOUND or
// ERR_LIMIT.
int cgroup_line_of(const char *path, struct cgroup_line *ret_line);
// The line of the calling process. The same errors.
int cgroup_line_own(struct cgroup_line *ret_line);

// The folder of the hierarchy, as seen from here; false: it is mounted nowhere.
bool cgroup_folder(char *ret_path, size_t size);

// Looks up what the rules' matches on control groups name, and adds the paths to the rules' comments. 0 or a
// negative error with a sentence.
int ruleset_find_cgroups(struct ruleset *ruleset, struct strbuf *ret_error);
// The other way round: the paths of those of which rules know the numbers alone. What is gone stays without.
void ruleset_name_cgroups(struct ruleset *ruleset);
// Whether a control group of that number is there, at that path if it is not NULL.
bool cgroup_exists(const char *path, uint64_t id, uint32_t level);
