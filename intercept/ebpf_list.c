// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_list.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/ebpf_entries.h"
#include "intercept/ebpf_held.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OURS "weir_"

enum { FILEID_CGROUP = 0xfe, LINE_MAX_LEN = 256, QUERIED_MAX = 8 };

static int say(struct strbuf *error, int err)
{
	strbuf_printf(error, "what is loaded into the kernel cannot be listed: %s%s", err_text(err),
		      err == -EPERM ? "; it needs the capability CAP_SYS_ADMIN (root on the host)" : "");
	return err;
}

static bool is_ours(const char *name)
{
	return strncmp(name, OURS, strlen(OURS)) == 0;
}

// --- what the kernel tells besides --------------------------------------------------------------------------
// The bytes that the kernel accounts to a program or map.
static uint64_t memory_of(int fd)
{
	char path[64], line[LINE_MAX_LEN];
	unsigned long long bytes = 0;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file) && sscanf(line, "memlock: %llu", &bytes) != 1)
		;
	if (file)
		fclose(file);
	return bytes;
}

static bool counts_runs(void)
{
	char word[8] = "";
	FILE *file = fopen("/proc/sys/kernel/bpf_stats_enabled", "re");
	bool on = file && fgets(word, sizeof word, file) && word[0] == '1';
	if (file)
		fclose(file);
	return on;
}

static int64_t wall_time(uint64_t since_boot_ns)
{
	struct timespec now, since_boot;
	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &since_boot);
	return (int64_t)now.tv_sec - (int64_t)since_boot.tv_sec + (int64_t)(since_boot_ns / 1000000000);
}

// The whole name is that of the program's function in its types; the kernel's own is cut.
static void name_program(int fd, const struct bpf_prog_info *info, char ret_name[EBPF_NAME_MAX])
{
	struct bpf_func_info function = {0};
	struct bpf_prog_info query = {
	    .nr_func_info = 1, .func_info_rec_size = sizeof function, .func_info = (uintptr_t)&function};
	uint32_t len = sizeof query;
	snprintf(ret_name, EBPF_NAME_MAX, "%.16s", info->name);
	struct btf *types = info->btf_id ? btf__load_from_kernel_by_id(info->btf_id) : NULL;
	if (types && bpf_obj_get_info_by_fd(fd, &query, &len) == 0) {
		const struct btf_type *type = btf__type_by_id(types, function.type_id);
		const char *name = type ? btf__name_by_offset(types, type->name_off) : NULL;
		if (name && name[0])
			snprintf(ret_name, EBPF_NAME_MAX, "%s", name);
	}
	btf__free(types);
}

// --- programs ------------------------------------------------------------------------------------------------
static struct ebpf_program *add_program(struct ebpf_list *list)
{
	if (mem_grow((void **)&list->programs, &list->_program_cap, list->program_count + 1,
		     sizeof *list->programs))
		return NULL;
	struct ebpf_program *program = &list->programs[list->program_count++];
	*program = (struct ebpf_program){0};
	return program;
}

static int take_program(struct ebpf_list *list, int fd)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof info, maps[EBPF_USED_MAX] = {0};
	info.map_ids = (uintptr_t)maps;
	info.nr_map_ids = EBPF_USED_MAX;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	if (!is_ours(info.name))
		return 0;
	struct ebpf_program *program = add_program(list);
	if (!program)
		return -ENOMEM;
	program->id = info.id;
	program->type = libbpf_bpf_prog_type_str((enum bpf_prog_type)info.type);
	program->loaded_at = wall_time(info.load_time);
	program->runs = info.run_cnt;
	program->run_ns = info.run_time_ns;
	program->verified = info.verified_insns;
	program->memory = memory_of(fd);
	program->map_count = MIN(info.nr_map_ids, (uint32_t)EBPF_USED_MAX);
	memcpy(program->maps, maps, sizeof maps);
	for (size_t i = 0; i < sizeof info.tag; i++)
		snprintf(&program->tag[2 * i], 3, "%02x", info.tag[i]);
	name_program(fd, &info, program->name);
	return 0;
}

// Of an object that has ended meanwhile, or that is just being made.
static bool is_passing(int error)
{
	return error == ENOENT || error == EAGAIN;
}

// Calls fn for every object of a kind.
static int each_object(struct ebpf_list *list, int (*next)(__u32, __u32 *), int (*open)(__u32),
		       int (*fn)(struct ebpf_list *list, int fd))
{
	uint32_t id = 0;
	int err = 0;
	while (err == 0 && next(id, &id) == 0) {
		autoclose int fd = open(id);
		err = fd >= 0 ? fn(list, fd) : is_passing(errno) ? 0 : -errno;
	}
	return err ? err : errno == ENOENT ? 0 : -errno;
}

// --- attachments ---------------------------------------------------------------------------------------------
// Opens a control group by its number. A descriptor or a negative error.
static int open_cgroup(int top, uint64_t id)
{
	union {
		struct file_handle head;
		char bytes[sizeof(struct file_handle) + sizeof id];
	} handle = {.head = {.handle_bytes = sizeof id, .handle_type = FILEID_CGROUP}};
	memcpy(&handle.bytes[offsetof(struct file_handle, f_handle)], &id, sizeof id);
	int fd = open_by_handle_at(top, &handle.head, O_PATH | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static bool path_of(int fd, char ret_path[EBPF_PATH_MAX])
{
	char link[40];
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t len = fd < 0 ? -1 : readlink(link, ret_path, EBPF_PATH_MAX - 1);
	ret_path[len < 0 ? 0 : len] = '\0';
	return len > 0;
}

// The path of a control group within its hierarchy; "?" if it cannot be found.
static void name_cgroup(uint64_t id, char ret_where[EBPF_PATH_MAX])
{
	static const struct ebpf_place anywhere;
	char unused[EBPF_PATH_MAX], top_path[EBPF_PATH_MAX], path[EBPF_PATH_MAX];
	autostrbuf struct strbuf ignored = {0};
	struct stat status;
	int top;
	snprintf(ret_where, EBPF_PATH_MAX, "cgroup:?");
	if (ebpf_place_cgroup(&anywhere, NULL, &top, unused, &ignored))
		return;
	autoclose int fd = open_cgroup(top, id);
	if (fstat(top, &status) == 0 && status.st_ino == id)
		snprintf(ret_where, EBPF_PATH_MAX, "cgroup:/");
	else if (path_of(top, top_path) && path_of(fd, path) &&
		 str_starts(str_from(path), str_from(top_path)))
		snprintf(ret_where, EBPF_PATH_MAX, "cgroup:%.480s", &path[strlen(top_path)]);
	close(top);
}

static const char *hook_name(uint32_t attach_type)
{
	const char *name = libbpf_bpf_attach_type_str((enum bpf_attach_type)attach_type);
	return name ? name : "unknown";
}

static void describe_link(const struct bpf_link_info *info, struct ebpf_program *program)
{
	program->link = info->id;
	if (info->type == BPF_LINK_TYPE_CGROUP) {
		program->hook = hook_name(info->cgroup.attach_type);
		name_cgroup(info->cgroup.cgroup_id, program->where);
	} else if (info->type == BPF_LINK_TYPE_NETNS) {
		program->hook = hook_name(info->netns.attach_type);
		snprintf(program->where, sizeof program->where, "net:[%u]", info->netns.netns_ino);
	} else {
		const char *name = libbpf_bpf_link_type_str((enum bpf_link_type)info->type);
		program->hook = name ? name : "unknown";
	}
}

// The entry of a program that has no attachment yet, or else a copy of it. *ret_program NULL: it is none of
// weir's.
static int unattached(struct ebpf_list *list, uint32_t id, struct ebpf_program **ret_program)
{
	size_t i = 0;
	*ret_program = NULL;
	while (i < list->program_count && list->programs[i].id != id)
		i++;
	if (i == list->program_count)
		return 0;
	if (list->programs[i].hook) {
		struct ebpf_program *copy = add_program(list);
		if (!copy)
			return -ENOMEM;
		*copy = list->programs[i];
		copy->where[0] = copy->pin[0] = '\0';
		copy->link = 0;
		i = list->program_count - 1;
	}
	*ret_program = &list->programs[i];
	return 0;
}

static int take_link(struct ebpf_list *list, int fd)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof info;
	struct ebpf_program *program;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	int err = unattached(list, info.prog_id, &program);
	if (program)
		describe_link(&info, program);
	return err;
}

static int take_of_map(struct ebpf_list *list, int map, uint32_t map_id, enum bpf_attach_type hook)
{
	uint32_t ids[QUERIED_MAX] = {0}, count = QUERIED_MAX, flags = 0;
	struct ebpf_program *program;
	int err = 0;
	if (bpf_prog_query(map, hook, 0, &flags, ids, &count) < 0)
		return 0; // before Linux 5.19 it cannot be asked
	for (uint32_t i = 0; i < count && err == 0; i++) {
		err = unattached(list, ids[i], &program);
		if (!program)
			continue;
		program->hook = hook_name(hook);
		snprintf(program->where, sizeof program->where, "map:%u", map_id);
	}
	return err;
}

// Programs for what sockets send and receive belong to a map of them, without a link.
static int take_sockets(struct ebpf_list *list, int map, uint32_t map_id)
{
	int err = take_of_map(list, map, map_id, BPF_SK_MSG_VERDICT);
	return err ? err : take_of_map(list, map, map_id, BPF_SK_SKB_STREAM_VERDICT);
}

// --- maps ----------------------------------------------------------------------------------------------------
static bool is_used(const struct ebpf_list *list, uint32_t map)
{
	for (size_t i = 0; i < list->program_count; i++)
		for (uint32_t k = 0; k < list->programs[i].map_count; k++)
			if (list->programs[i].maps[k] == map)
				return true;
	return false;
}

static int take_map(struct ebpf_list *list, int fd)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof info;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	if (!is_ours(info.name) && !is_used(list, info.id))
		return 0;
	if (mem_grow((void **)&list->maps, &list->_map_cap, list->map_count + 1, sizeof *list->maps))
		return -ENOMEM;
	struct ebpf_map *map = &list->maps[list->map_count++];
	*map = (struct ebpf_map){.id = info.id,
				 .kind = info.type,
				 .type = libbpf_bpf_map_type_str((enum bpf_map_type)info.type),
				 .key_size = info.key_size,
				 .value_size = info.value_size,
				 .entries_max = info.max_entries,
				 .memory = memory_of(fd),
				 .types = info.btf_id,
				 .key_type = info.btf_key_type_id,
				 .value_type = info.btf_value_type_id};
	snprintf(map->name, sizeof map->name, "%.16s", info.name);
	map->countable = ebpf_entries_count(map, &map->entries) == 0;
	bool sockets = info.type == BPF_MAP_TYPE_SOCKHASH || info.type == BPF_MAP_TYPE_SOCKMAP;
	return sockets ? take_sockets(list, fd, info.id) : 0;
}

// --- pins ----------------------------------------------------------------------------------------------------
// The path as the host has it: without the way by which another root is seen.
static const char *host_path(const char *path)
{
	int len = 0;
	return sscanf(path, "/proc/%*d/root%n", &len) == 0 ? path + len : path;
}

static bool is_map(int fd)
{
	char path[40], kind[40] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return readlink(path, kind, sizeof kind - 1) > 0 && strstr(kind, "bpf-map");
}

// A map, or a link.
static void take_pin(struct ebpf_list *list, const char *path)
{
	autoclose int fd = bpf_obj_get(path);
	union {
		struct bpf_link_info link;
		struct bpf_map_info map;
	} info = {0};
	bool map = is_map(fd);
	uint32_t len = map ? sizeof info.map : sizeof info.link;
	if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return;
	for (size_t i = 0; i < list->program_count && !map; i++)
		if (list->programs[i].link == info.link.id)
			snprintf(list->programs[i].pin, EBPF_PATH_MAX, "%s", host_path(path));
	for (size_t i = 0; i < list->map_count && map; i++)
		if (list->maps[i].id == info.map.id)
			snprintf(list->maps[i].pin, EBPF_PATH_MAX, "%s", host_path(path));
}

static int take_folder(const struct ebpf_place *place, const char *folder, void *arg)
{
	DIR *dir = opendir(folder);
	const struct dirent *entry;
	(void)place;
	while (dir && (entry = readdir(dir))) {
		char path[EBPF_PATH_MAX];
		ebpf_path(path, folder, entry->d_name);
		if (entry->d_name[0] != '.')
			take_pin(arg, path);
	}
	if (dir)
		closedir(dir);
	return 0;
}

static int take_pins(struct ebpf_list *list, struct strbuf *error)
{
	struct ebpf_place place;
	int err = ebpf_place_open(false, &place, error);
	if (err && err != ERR_NOT_FOUND)
		return err;
	if (err == 0) {
		ebpf_place_each(&place, take_folder, list);
		ebpf_place_close(&place);
	}
	ebpf_held_each(false, take_folder, list);
	return 0;
}

// --- all -----------------------------------------------------------------------------------------------------
static int by_id(const void *a, const void *b)
{
	const struct ebpf_program *first = a, *second = b;
	if (first->id != second->id)
		return first->id < second->id ? -1 : 1;
	return first->link < second->link ? -1 : first->link > second->link;
}

int ebpf_list_read(struct ebpf_list *ret_list, struct strbuf *ret_error)
{
	struct ebpf_list list = {.counts_runs = counts_runs()};
	libbpf_set_print(NULL);
	int err = each_object(&list, bpf_prog_get_next_id, bpf_prog_get_fd_by_id, take_program);
	if (err == 0)
		err = each_object(&list, bpf_link_get_next_id, bpf_link_get_fd_by_id, take_link);
	if (err == 0)
		err = each_object(&list, bpf_map_get_next_id, bpf_map_get_fd_by_id, take_map);
	if (err)
		say(ret_error, err);
	else
		err = take_pins(&list, ret_error);
	if (err) {
		ebpf_list_done(&list);
		return err;
	}
	if (list.program_count)
		qsort(list.programs, list.program_count, sizeof *list.programs, by_id);
	*ret_list = list;
	return 0;
}

void ebpf_list_done(struct ebpf_list *list)
{
	mem_free(list->programs);
	mem_free(list->maps);
	*list = (struct ebpf_list){0};
}

uint32_t ebpf_list_namespace(const struct ebpf_list *list, uint64_t cookie)
{
	for (size_t i = 0; i < list->program_count; i++) {
		const struct ebpf_program *program = &list->programs[i];
		const char *name = strrchr(program->pin, '/');
		unsigned long long number;
		unsigned namespace;
		if (name && sscanf(name, "/netns-%llu", &number) == 1 && number == cookie &&
		    sscanf(program->where, "net:[%u]", &namespace) == 1)
			return namespace;
	}
	return 0;
}
