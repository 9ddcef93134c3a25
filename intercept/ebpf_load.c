// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_load.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/ebpf_place.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bpf/hold.skel.h"
#include "bpf/lookup.skel.h"
#include "bpf/names.skel.h"
#include "bpf/outbound.skel.h"
#include "bpf/stream.skel.h"

static const char maps_of_plans[] = "weir_plans", map_of_versions[] = "weir_versions", map_of_shares[] = "weir_shares";
static const char *const hold_programs[] = {"weir_hold_in", "weir_hold_out"};

// --- what libbpf says ----------------------------------------------------------------------------------------
// The first warning while something was tried: the others follow from it.
static char first_warning[256];

static int keep_warning(enum libbpf_print_level level, const char *format, va_list args)
{
	if (level == LIBBPF_WARN && !first_warning[0]) {
		vsnprintf(first_warning, sizeof first_warning, format, args);
		first_warning[strcspn(first_warning, "\n")] = 0;
	}
	return 0;
}

static void hush(void)
{
	libbpf_set_print(keep_warning);
	first_warning[0] = 0;
}

static int say(struct strbuf *error, int err, const char *what)
{
	strbuf_printf(error, "%s: %s%s%s", what, err_text(err), first_warning[0] ? "; " : "", first_warning);
	return err;
}

// --- whether the kernel can ----------------------------------------------------------------------------------
int ebpf_probe_kernel(struct strbuf *ret_why)
{
	static const struct {
		enum bpf_prog_type type;
		enum bpf_func_id helper;
		const char *what;
	} needs[] = {
	    {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval,
	     "programs for connect() that set its result (Linux 5.18, CONFIG_CGROUP_BPF)"},
	    {BPF_PROG_TYPE_CGROUP_SOCKOPT, BPF_FUNC_get_netns_cookie,
	     "programs for getsockopt() that know their network namespace (Linux 5.15)"},
	    {BPF_PROG_TYPE_SOCK_OPS, BPF_FUNC_get_netns_cookie,
	     "programs for TCP events that know their network namespace (Linux 5.14)"},
	    {BPF_PROG_TYPE_SK_LOOKUP, BPF_FUNC_loop,
	     "programs for socket lookup (sk_lookup, Linux 5.9) with loops (5.17)"},
	};
	hush();
	if (access("/sys/kernel/btf/vmlinux", R_OK) < 0) {
		strbuf_add_text(ret_why,
				"this kernel does not describe its types: /sys/kernel/btf/vmlinux is missing "
				"(CONFIG_DEBUG_INFO_BTF)");
		return ERR_UNSUPPORTED;
	}
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++) {
		int found = libbpf_probe_bpf_helper(needs[i].type, needs[i].helper, NULL);
		if (found > 0)
			continue;
		strbuf_printf(ret_why, "this kernel has no %s", needs[i].what);
		return found < 0 ? found : ERR_UNSUPPORTED;
	}
	return 0;
}

uint32_t ebpf_checksum(void)
{
	const void *(*const elves[])(size_t *) = {ebpf_outbound__elf_bytes, ebpf_names__elf_bytes,
						  ebpf_stream__elf_bytes, ebpf_lookup__elf_bytes,
						  ebpf_hold__elf_bytes};
	uint64_t hash = 0;
	for (size_t i = 0; i < ARRAY_SIZE(elves); i++) {
		size_t size;
		const char *bytes = elves[i](&size);
		hash = hash * 31 + str_hash((struct str){bytes, size});
	}
	return (uint32_t)(hash ^ hash >> 32);
}

// --- loading -------------------------------------------------------------------------------------------------
// Maps are pinned, and found there by the objects that are loaded later. (Those of constants are the object's
// own.)
static int load_object(struct bpf_object *object, const char *folder)
{
	struct bpf_map *map;
	int err = 0;
	bpf_object__for_each_map(map, object)
	{
		char path[EBPF_PATH_MAX];
		ebpf_path(path, folder, bpf_map__name(map));
		if (!bpf_map__is_internal(map) && err == 0)
			err = bpf_map__set_pin_path(map, path);
	}
	return err ? err : bpf_object__load(object);
}

// Pins the attachment; without a pin it would end here.
static int pin_link(struct bpf_link *link, const char *path)
{
	int err = link ? bpf_link__pin(link, path) : -errno;
	bpf_link__destroy(link);
	return err;
}

// Replaces the program of an attachment that is pinned already. 0; -ENOENT if it is not (or was ended by
// somebody: that one cannot be used any more); or a negative error.
static int replace(const struct bpf_program *program, const char *path)
{
	int fd = bpf_obj_get(path);
	if (fd < 0)
		return -errno;
	int err = bpf_link_update(fd, bpf_program__fd(program), NULL) < 0 ? -errno : 0;
	close(fd);
	return err == -ENOLINK && unlink(path) == 0 ? -ENOENT : err;
}

static int attach_all(struct bpf_object *object, const char *folder, int cgroup)
{
	struct bpf_program *program;
	bpf_object__for_each_program(program, object)
	{
		char path[EBPF_PATH_MAX];
		ebpf_path(path, folder, bpf_program__name(program));
		int err = replace(program, path);
		if (err == -ENOENT)
			err = pin_link(bpf_program__attach_cgroup(program, cgroup), path);
		if (err == -E2BIG)
			snprintf(first_warning, sizeof first_warning,
				 "%s: this control group has 64 programs on that hook, which is all that it may",
				 bpf_program__name(program));
		if (err)
			return err;
	}
	return 0;
}

// Not 0: the programs of that checksum are all there.
static uint32_t version_of(const char *folder, uint32_t kind)
{
	char path[EBPF_PATH_MAX];
	uint32_t version;
	ebpf_path(path, folder, map_of_versions);
	autoclose int fd = bpf_obj_get(path);
	return fd >= 0 && bpf_map_lookup_elem(fd, &kind, &version) == 0 ? version : 0;
}

static int set_version(const char *folder, uint32_t kind, uint32_t version)
{
	char path[EBPF_PATH_MAX];
	ebpf_path(path, folder, map_of_versions);
	autoclose int fd = bpf_obj_get(path);
	return fd < 0 || bpf_map_update_elem(fd, &kind, &version, BPF_ANY) < 0 ? -errno : 0;
}

static bool is_attached(const char *path)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof info;
	autoclose int fd = bpf_obj_get(path);
	return fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.cgroup.cgroup_id != 0;
}

static bool is_in_place(const char *folder, const struct bpf_object *object)
{
	struct bpf_program *program;
	bpf_object__for_each_program(program, object)
	{
		char path[EBPF_PATH_MAX];
		ebpf_path(path, folder, bpf_program__name(program));
		if (!is_attached(path))
			return false;
	}
	return true;
}

// Attaches the objects' programs, in that order, unless they are there: to have them verified takes its time.
static int install_objects(const char *folder, int cgroup, uint32_t kind, struct bpf_object *const *objects,
			   size_t count)
{
	uint32_t version = ebpf_checksum();
	bool there = version_of(folder, kind) == version;
	int err = 0;
	for (size_t i = 0; i < count && there; i++)
		there = is_in_place(folder, objects[i]);
	if (there)
		return 0;
	for (size_t i = 0; i < count && err == 0; i++)
		err = load_object(objects[i], folder);
	if (err == 0)
		err = set_version(folder, kind, 0);
	for (size_t i = 0; i < count && err == 0; i++)
		err = attach_all(objects[i], folder, cgroup);
	return err ? err : set_version(folder, kind, version);
}

// The programs that are always there.
enum { SHARED_OBJECTS = 3 };
struct shared {
	struct ebpf_stream *stream;
	struct ebpf_names *names;
	struct ebpf_outbound *outbound;
	struct bpf_object *objects[SHARED_OBJECTS]; // what takes connections before what sends them there
};

// The caller calls shared_close in any case.
static int shared_open(struct shared *shared)
{
	*shared = (struct shared){ebpf_stream__open(), ebpf_names__open(), ebpf_outbound__open(), {NULL}};
	if (!shared->stream || !shared->names || !shared->outbound)
		return -errno;
	shared->objects[0] = shared->stream->obj;
	shared->objects[1] = shared->names->obj;
	shared->objects[2] = shared->outbound->obj;
	return 0;
}

static void shared_close(struct shared *shared)
{
	ebpf_stream__destroy(shared->stream);
	ebpf_names__destroy(shared->names);
	ebpf_outbound__destroy(shared->outbound);
}

static int install_shared(const char *folder, int cgroup)
{
	struct shared shared;
	int err = shared_open(&shared);
	if (err == 0)
		err = install_objects(folder, cgroup, WEIR_PROGRAMS_ALWAYS, shared.objects, SHARED_OBJECTS);
	shared_close(&shared);
	return err;
}

// What lets connections wait sees every packet: it is there only while a plan asks for it.
static int install_hold(const char *folder, int cgroup)
{
	struct ebpf_hold *hold = ebpf_hold__open();
	int err = hold ? install_objects(folder, cgroup, WEIR_PROGRAMS_HOLD,
					 (struct bpf_object *const[]){hold->obj}, 1)
		       : -errno;
	ebpf_hold__destroy(hold);
	return err;
}

static bool plan_holds(uint32_t id)
{
	uint32_t header = WEIR_CELL_HEADER;
	union weir_cell cell = {0};
	autoclose int fd = bpf_map_get_fd_by_id(id);
	return fd >= 0 && bpf_map_lookup_elem(fd, &header, &cell) == 0 && cell.header.chains[WEIR_CHAIN_HOLD];
}

static bool any_plan_holds(const char *folder)
{
	char path[EBPF_PATH_MAX];
	uint64_t netns;
	uint32_t id;
	ebpf_path(path, folder, maps_of_plans);
	autoclose int plans = bpf_obj_get(path);
	int more = plans < 0 ? -1 : bpf_map_get_next_key(plans, NULL, &netns);
	for (; more == 0; more = bpf_map_get_next_key(plans, &netns, &netns))
		if (bpf_map_lookup_elem(plans, &netns, &id) == 0 && plan_holds(id))
			return true;
	return false;
}

static void release_hold(const char *folder)
{
	char path[EBPF_PATH_MAX];
	if (any_plan_holds(folder))
		return;
	for (size_t i = 0; i < ARRAY_SIZE(hold_programs); i++) {
		ebpf_path(path, folder, hold_programs[i]);
		unlink(path);
	}
}

// --- the namespace's own -------------------------------------------------------------------------------------
// The program goes through the sockets of this namespace; at least one is there.
static int find_listeners(const struct ebpf_lookup *lookup)
{
	struct sockaddr_in any = {.sin_family = AF_INET};
	char ignored[64];
	autoclose int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (socket_fd < 0 || bind(socket_fd, (struct sockaddr *)&any, sizeof any) < 0 ||
	    listen(socket_fd, 1) < 0)
		return -errno;
	struct bpf_link *link = bpf_program__attach_iter(lookup->progs.weir_find_listeners, NULL);
	autoclose int fd = link ? bpf_iter_create(bpf_link__fd(link)) : -1;
	int err = fd < 0 ? -errno : 0;
	while (err == 0) {
		ssize_t n = read(fd, ignored, sizeof ignored);
		if (n == 0)
			break;
		err = n < 0 ? -errno : 0;
	}
	bpf_link__destroy(link);
	return err;
}

static int attach_lookup(const struct ebpf_lookup *lookup, const char *path)
{
	int err = replace(lookup->progs.weir_lookup, path);
	if (err != -ENOENT)
		return err;
	autoclose int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : pin_link(bpf_program__attach_netns(lookup->progs.weir_lookup, fd), path);
}

// The plan as a map of its own; its descriptor, or a negative error.
static int make_plan(const union weir_cell *cells, uint32_t count)
{
	LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = BPF_F_INNER_MAP);
	int fd =
	    bpf_map_create(BPF_MAP_TYPE_ARRAY, "weir_plan", sizeof(uint32_t), sizeof *cells, count, &options);
	for (uint32_t i = 0; fd >= 0 && i < count; i++) {
		if (bpf_map_update_elem(fd, &i, &cells[i], BPF_ANY) == 0)
			continue;
		int err = -errno;
		close(fd);
		return err;
	}
	return fd < 0 ? -errno : fd;
}

static int set_plan(const char *folder, uint64_t netns, int plan)
{
	char path[EBPF_PATH_MAX];
	ebpf_path(path, folder, maps_of_plans);
	autoclose int plans = bpf_obj_get(path);
	ebpf_path(path, folder, map_of_shares);
	autoclose int shares = bpf_obj_get(path);
	struct weir_share none = {0};
	if (plans < 0 || shares < 0 ||
	    (bpf_map_update_elem(shares, &netns, &none, BPF_NOEXIST) < 0 && errno != EEXIST))
		return -errno;
	return bpf_map_update_elem(plans, &netns, &plan, BPF_ANY) < 0 ? -errno : 0;
}

// The plan comes last: from then on connections are captured.
static int install_own(struct ebpf_lookup *lookup, const char *folder, uint64_t netns,
		       const union weir_cell *cells, uint32_t count)
{
	char path[EBPF_PATH_MAX];
	ebpf_place_namespace(folder, netns, path);
	bool fresh = access(path, F_OK) < 0;
	lookup->rodata->weir_netns = netns;
	for (int role = 0; role < WEIR_ROLES; role++)
		lookup->rodata->weir_ports[role] = cells[WEIR_CELL_HEADER].header.ports[role];
	autoclose int plan = make_plan(cells, count);
	int err = plan < 0 ? plan : load_object(lookup->obj, folder);
	if (err == 0)
		err = find_listeners(lookup);
	if (err == 0)
		err = attach_lookup(lookup, path);
	if (err == 0)
		err = set_plan(folder, netns, plan);
	if (err == 0)
		err = find_listeners(lookup); // those that came meanwhile
	if (err && fresh)
		ebpf_namespace_remove(folder, netns);
	return err;
}

int ebpf_install(const char *folder, int cgroup, uint64_t netns, const union weir_cell *cells, uint32_t count,
		 struct strbuf *ret_error)
{
	hush();
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return say(ret_error, -errno, folder);
	int err = install_shared(folder, cgroup);
	if (err == 0 && cells[WEIR_CELL_HEADER].header.chains[WEIR_CHAIN_HOLD])
		err = install_hold(folder, cgroup);
	if (err)
		return say(ret_error, err, "the kernel refuses the eBPF programs");
	struct ebpf_lookup *lookup = ebpf_lookup__open();
	err = lookup ? install_own(lookup, folder, netns, cells, count) : -errno;
	ebpf_lookup__destroy(lookup);
	release_hold(folder);
	return err ? say(ret_error, err, "the kernel refuses the eBPF program for this network namespace")
		   : 0;
}

static bool is_attached_to_namespace(const char *path)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof info;
	autoclose int fd = bpf_obj_get(path);
	return fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.netns.netns_ino != 0;
}

bool ebpf_is_in_place(const char *folder, uint64_t netns, bool holds)
{
	char path[EBPF_PATH_MAX];
	hush();
	struct shared shared;
	struct ebpf_hold *hold = holds ? ebpf_hold__open() : NULL;
	bool there = shared_open(&shared) == 0 && (!holds || (hold && is_in_place(folder, hold->obj)));
	for (size_t i = 0; i < SHARED_OBJECTS && there; i++)
		there = is_in_place(folder, shared.objects[i]);
	ebpf_hold__destroy(hold);
	shared_close(&shared);
	ebpf_place_namespace(folder, netns, path);
	return there && is_attached_to_namespace(path);
}

// --- reading -------------------------------------------------------------------------------------------------
// The descriptor of a namespace's plan, or a negative error.
static int open_plan(const char *folder, uint64_t netns)
{
	char path[EBPF_PATH_MAX];
	uint32_t id;
	ebpf_path(path, folder, maps_of_plans);
	autoclose int plans = bpf_obj_get(path);
	if (plans < 0 || bpf_map_lookup_elem(plans, &netns, &id) < 0)
		return errno == ENOENT ? ERR_NOT_FOUND : -errno;
	int fd = bpf_map_get_fd_by_id(id);
	return fd < 0 ? -errno : fd;
}

static int read_cells(int fd, union weir_cell **ret_cells, uint32_t *ret_count)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof info;
	int err = bpf_obj_get_info_by_fd(fd, &info, &len) < 0 ? -errno : 0;
	union weir_cell *cells = err ? NULL : mem_array(info.max_entries, sizeof *cells);
	if (err == 0 && (!cells || info.value_size != sizeof *cells))
		err = cells ? ERR_MALFORMED : -ENOMEM;
	for (uint32_t i = 0; err == 0 && i < info.max_entries; i++)
		if (bpf_map_lookup_elem(fd, &i, &cells[i]) < 0)
			err = -errno;
	if (err) {
		mem_free(cells);
		return err;
	}
	*ret_cells = cells;
	*ret_count = info.max_entries;
	return 0;
}

int ebpf_plan_read(const char *folder, uint64_t netns, union weir_cell **ret_cells, uint32_t *ret_count)
{
	autoclose int fd = open_plan(folder, netns);
	return fd < 0 ? fd : read_cells(fd, ret_cells, ret_count);
}

int ebpf_plan_read_map(uint32_t id, union weir_cell **ret_cells, uint32_t *ret_count)
{
	autoclose int fd = bpf_map_get_fd_by_id(id);
	return fd < 0 ? -errno : read_cells(fd, ret_cells, ret_count);
}

// --- removing ------------------------------------------------------------------------------------------------
// Deletes the entries whose keys begin with the namespace's cookie.
static void delete_entries(const char *folder, const char *map, uint64_t netns)
{
	union {
		uint64_t netns;
		struct weir_pending_key pending;
		struct weir_listener_key listener;
		struct weir_held_key held;
		struct weir_call_key call;
	} key, next;
	char path[EBPF_PATH_MAX];
	ebpf_path(path, folder, map);
	autoclose int fd = bpf_obj_get(path);
	int more = fd < 0 ? -1 : bpf_map_get_next_key(fd, NULL, &next);
	while (more == 0) {
		key = next;
		more = bpf_map_get_next_key(fd, &key, &next);
		if (key.netns == netns)
			bpf_map_delete_elem(fd, &key);
	}
}

// On return no program has the plan in hand any more. 0 or a negative error.
static int delete_plan(const char *folder, uint64_t netns)
{
	char path[EBPF_PATH_MAX];
	ebpf_path(path, folder, maps_of_plans);
	autoclose int plans = bpf_obj_get(path);
	return plans < 0 || bpf_map_delete_elem(plans, &netns) < 0 ? -errno : 0;
}

// Until what was sent to the proxy before has come there, or is given up: it may be anywhere between connect()
// and the proxy's socket. If the proxy has no place for it, the kernel tries again after a second.
static void wait_for_arrivals(int shares, uint64_t netns)
{
	enum { WAIT_MS = 1500 };
	static const struct timespec moment = {.tv_nsec = 1000000};
	struct weir_share share;
	for (int i = 0; i < WAIT_MS && shares >= 0; i++) {
		if (bpf_map_lookup_elem(shares, &netns, &share) < 0 || share.pending <= 0)
			return;
		nanosleep(&moment, NULL);
	}
}

// All but the plan, which is deleted or was not there (its error). 0 or a negative error.
static int delete_rest(const char *folder, uint64_t netns, int plan_err)
{
	char path[EBPF_PATH_MAX];
	delete_entries(folder, "weir_listeners", netns);
	delete_entries(folder, "weir_pending", netns);
	delete_entries(folder, map_of_shares, netns);
	delete_entries(folder, "weir_held", netns);
	delete_entries(folder, "weir_calls", netns);
	release_hold(folder);
	ebpf_place_namespace(folder, netns, path);
	int unpinned = unlink(path) < 0 ? -errno : 0;
	if (plan_err == -ENOENT && unpinned == -ENOENT)
		return ERR_NOT_FOUND;
	return unpinned == -ENOENT ? 0 : unpinned;
}

int ebpf_namespace_remove(const char *folder, uint64_t netns)
{
	char path[EBPF_PATH_MAX];
	ebpf_path(path, folder, map_of_shares);
	autoclose int shares = bpf_obj_get(path);
	// Nothing is sent to the proxy any more before the way there ends.
	int err = delete_plan(folder, netns);
	if (err == 0)
		wait_for_arrivals(shares, netns);
	return delete_rest(folder, netns, err);
}

int ebpf_plan_open(const char *folder, uint64_t netns, int *ret_plan, int *ret_shares)
{
	char path[EBPF_PATH_MAX];
	int plan = open_plan(folder, netns);
	ebpf_path(path, folder, map_of_shares);
	int shares = plan < 0 ? -1 : bpf_obj_get(path);
	int err = plan < 0 ? plan : shares < 0 ? -errno : 0;
	if (err) {
		if (plan >= 0)
			close(plan);
		return err;
	}
	*ret_plan = plan;
	*ret_shares = shares;
	return 0;
}

// The chains that others do not lead to have no rules any more.
void ebpf_plan_end(int plan, int shares, uint64_t netns)
{
	uint32_t key = WEIR_CELL_HEADER;
	union weir_cell cell;
	if (bpf_map_lookup_elem(plan, &key, &cell) < 0)
		return;
	cell.header.chains[WEIR_CHAIN_OUTPUT] = cell.header.chains[WEIR_CHAIN_PREROUTING] = 0;
	if (bpf_map_update_elem(plan, &key, &cell, BPF_EXIST) == 0)
		wait_for_arrivals(shares, netns);
}

// The cookie in the name of a namespace's pin; 0: it is another file.
static uint64_t pinned_netns(const char *name)
{
	unsigned long long cookie;
	return sscanf(name, "netns-%llu", &cookie) == 1 ? cookie : 0;
}

// Whether the namespace that a program is attached to is gone.
static bool is_orphan(const char *path)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof info;
	autoclose int fd = bpf_obj_get(path);
	return fd >= 0 && bpf_obj_get_info_by_fd(fd, &info, &len) == 0 && info.netns.netns_ino == 0;
}

// How many namespaces there are, without those that are gone.
static size_t sweep_namespaces(const char *folder)
{
	DIR *dir = opendir(folder);
	const struct dirent *entry;
	size_t count = 0;
	while (dir && (entry = readdir(dir))) {
		char path[EBPF_PATH_MAX];
		uint64_t netns = pinned_netns(entry->d_name);
		ebpf_path(path, folder, entry->d_name);
		if (netns && is_orphan(path))
			delete_rest(folder, netns, delete_plan(folder, netns)); // nobody is on the way there
		else if (netns)
			count++;
	}
	if (dir)
		closedir(dir);
	return count;
}

void ebpf_folder_sweep(const char *folder)
{
	if (sweep_namespaces(folder) > 0)
		return;
	DIR *dir = opendir(folder);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(folder);
}
