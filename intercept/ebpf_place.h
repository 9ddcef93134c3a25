// SPDX-License-Identifier: Apache-2.0
// Where the eBPF back end keeps what it has installed: programs, their attachments and maps are pinned in the
// BPF file system, under /sys/fs/bpf/weir, one folder for each control group that they are attached to. All
// captured namespaces below it share them; a pin netns-COOKIE, the attachment of its own program, stands for
// each. All changes are made under one lock. Blocking; for the command line.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum { EBPF_PATH_MAX = 512 };

struct ebpf_place {
	char root[EBPF_PATH_MAX]; // .../weir; "": there is no BPF file system
	uint64_t netns;		  // cookie of the calling thread's network namespace
	int _lock;
};

// Whether there is a place, or can be: 0, or a negative error with a sentence. Changes nothing.
int ebpf_place_probe(struct strbuf *ret_why);

// Finds the place and locks it; `create`: mounts the BPF file system if there is none. 0; ERR_NOT_FOUND (no
// sentence): nothing was ever installed here; or a negative error with a sentence. On 0 the caller calls
// ebpf_place_close.
int ebpf_place_open(bool create, struct ebpf_place *ret_place, struct strbuf *ret_error);
void ebpf_place_close(struct ebpf_place *place);
// The folder at which the BPF file system is mounted; false: it is not.
bool ebpf_place_mounted(char ret_path[EBPF_PATH_MAX]);

// The control group to attach to: `path`, or the root of the hierarchy if NULL. An open folder in *ret_fd and
// the folder of its pins in ret_folder. 0 or a negative error with a sentence.
int ebpf_place_cgroup(const struct ebpf_place *place, const char *path, int *ret_fd,
		      char ret_folder[EBPF_PATH_MAX], struct strbuf *ret_error);

// Calls fn for every folder of pins. Stops at the first result that is not 0, and returns it.
int ebpf_place_each(const struct ebpf_place *place,
		    int (*fn)(const struct ebpf_place *place, const char *folder, void *arg), void *arg);
// The cookie of the calling thread's network namespace. 0 or a negative error with a sentence.
int ebpf_place_netns(uint64_t *ret_cookie, struct strbuf *ret_error);
// The path of a namespace's pin.
void ebpf_place_namespace(const char *folder, uint64_t netns, char ret_path[EBPF_PATH_MAX]);
// "folder/name", shortened if too long (no such file exists then).
void ebpf_path(char ret_path[EBPF_PATH_MAX], const char *folder, const char *name);
