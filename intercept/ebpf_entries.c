// SPDX-License-Identifier: Apache-2.0
#include "intercept/ebpf_entries.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/storage.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <unistd.h>

#include "bpf/storage.skel.h"

typedef int (*entry_fn)(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg);

static bool is_per_cpu(const struct ebpf_map *map)
{
	return map->kind == BPF_MAP_TYPE_PERCPU_ARRAY || map->kind == BPF_MAP_TYPE_PERCPU_HASH ||
	       map->kind == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static bool is_array(const struct ebpf_map *map)
{
	return map->kind == BPF_MAP_TYPE_ARRAY || map->kind == BPF_MAP_TYPE_PERCPU_ARRAY;
}

// --- by key --------------------------------------------------------------------------------------------------
// Room for a key, the one behind it, and a value.
struct cursor {
	int fd;
	char *key, *next, *value;
	size_t value_len;
};

static void close_cursor(struct cursor *cursor)
{
	if (cursor->fd >= 0)
		close(cursor->fd);
	mem_free(cursor->key);
	mem_free(cursor->next);
	mem_free(cursor->value);
}

static int open_cursor(const struct ebpf_map *map, struct cursor *ret_cursor)
{
	int cpus = is_per_cpu(map) ? libbpf_num_possible_cpus() : 1;
	struct cursor cursor = {.fd = bpf_map_get_fd_by_id(map->id), .value_len = map->value_size};
	int err = cursor.fd < 0 ? -errno : cpus < 0 ? cpus : 0;
	if (is_per_cpu(map) && err == 0)
		cursor.value_len = (size_t)cpus * ((map->value_size + 7u) & ~7u);
	cursor.key = mem_zalloc(map->key_size + 1u);
	cursor.next = mem_zalloc(map->key_size + 1u);
	cursor.value = mem_zalloc(cursor.value_len + 1);
	if (err == 0 && (!cursor.key || !cursor.next || !cursor.value))
		err = -ENOMEM;
	if (err)
		close_cursor(&cursor);
	else
		*ret_cursor = cursor;
	return err;
}

// One key after the other; a key that goes away meanwhile starts the kernel's search anew, so their number is
// bounded. Without `values` none are read.
static int each_key(const struct ebpf_map *map, struct cursor *cursor, bool values, entry_fn fn, void *arg)
{
	const struct ebpf_entry entry = {cursor->key, cursor->value, map->key_size, cursor->value_len};
	const char *key = NULL;
	int err = 0;
	for (uint64_t i = 0; i < map->entries_max && err == 0; i++) {
		if (bpf_map_get_next_key(cursor->fd, key, cursor->next) < 0)
			return errno == ENOENT ? 0 : -errno;
		memcpy(cursor->key, cursor->next, map->key_size);
		key = cursor->key;
		if (!values || bpf_map_lookup_elem(cursor->fd, key, cursor->value) == 0)
			err = fn(map, &entry, arg); // else it is gone
	}
	return err;
}

// --- kept with sockets ---------------------------------------------------------------------------------------
static int read_all(int fd, struct strbuf *out)
{
	for (;;) {
		char *room = strbuf_reserve(out, 16384);
		ssize_t n = room ? read(fd, room, 16384) : -1;
		if (n < 0)
			return room ? -errno : -ENOMEM;
		if (n == 0)
			return 0;
		out->len += (size_t)n;
	}
}

// An attachment of the reader's program to the map, or NULL with errno.
static struct bpf_link *attach_reader(const struct ebpf_storage *reader, int map)
{
	union bpf_iter_link_info info;
	struct bpf_iter_attach_opts options; // libbpf looks at its padding, too
	memset(&info, 0, sizeof info);
	memset(&options, 0, sizeof options);
	info.map.map_fd = (uint32_t)map;
	options.sz = sizeof options;
	options.link_info = &info;
	options.link_info_len = sizeof info;
	return bpf_program__attach_iter(reader->progs.weir_read_storage, &options);
}

static int run_reader(const struct ebpf_map *map, int fd, struct strbuf *out)
{
	struct ebpf_storage *reader = ebpf_storage__open();
	if (!reader)
		return -errno;
	reader->rodata->weir_value_size = map->value_size;
	int err = ebpf_storage__load(reader);
	struct bpf_link *link = err ? NULL : attach_reader(reader, fd);
	if (err == 0 && !link)
		err = -errno;
	int iterator = err ? -1 : bpf_iter_create(bpf_link__fd(link));
	if (err == 0)
		err = iterator < 0 ? -errno : read_all(iterator, out);
	if (iterator >= 0)
		close(iterator);
	bpf_link__destroy(link);
	ebpf_storage__destroy(reader);
	return err;
}

static int each_stored(const struct ebpf_map *map, entry_fn fn, void *arg)
{
	autostrbuf struct strbuf all = {0};
	autoclose int fd = bpf_map_get_fd_by_id(map->id);
	size_t step = sizeof(struct weir_stored) + map->value_size;
	int err = fd < 0 ? -errno : run_reader(map, fd, &all);
	for (size_t at = 0; err == 0 && at + step <= all.len; at += step) {
		const char *value = &all.p[at + sizeof(struct weir_stored)];
		const struct ebpf_entry entry = {&all.p[at], value, sizeof(struct weir_stored),
						 map->value_size};
		err = fn(map, &entry, arg);
	}
	return err;
}

// --- both ----------------------------------------------------------------------------------------------------
static int each(const struct ebpf_map *map, bool values, entry_fn fn, void *arg)
{
	struct cursor cursor;
	int err = open_cursor(map, &cursor);
	if (err)
		return err;
	err = each_key(map, &cursor, values, fn, arg);
	close_cursor(&cursor);
	return err;
}

static int count_one(const struct ebpf_map *map, const struct ebpf_entry *entry, void *arg)
{
	(void)map;
	(void)entry;
	++*(uint64_t *)arg;
	return 0;
}

int ebpf_entries_count(const struct ebpf_map *map, uint64_t *ret_count)
{
	uint64_t count = map->entries_max;
	if (map->kind == BPF_MAP_TYPE_SK_STORAGE)
		return ERR_UNSUPPORTED;
	if (!is_array(map)) {
		count = 0;
		int err = each(map, false, count_one, &count);
		if (err)
			return err;
	}
	*ret_count = count;
	return 0;
}

int ebpf_entries_each(const struct ebpf_map *map, entry_fn fn, void *arg)
{
	libbpf_set_print(NULL);
	return map->kind == BPF_MAP_TYPE_SK_STORAGE ? each_stored(map, fn, arg) : each(map, true, fn, arg);
}

// --- types ---------------------------------------------------------------------------------------------------
static void take_text(void *arg, const char *format, va_list args)
{
	strbuf_vprintf(arg, format, args);
}

// Without the type in front, "(__u64)5".
static int print_value(const struct btf *types, uint32_t type, const void *data, size_t len,
		       struct strbuf *out)
{
	struct btf_dump_type_data_opts options; // as above
	memset(&options, 0, sizeof options);
	options.sz = sizeof options;
	options.compact = options.emit_zeroes = true;
	autostrbuf struct strbuf text = {0};
	struct btf_dump *dump = btf_dump__new(types, take_text, &text, NULL);
	int err = dump ? btf_dump__dump_type_data(dump, type, data, len, &options) : -errno;
	btf_dump__free(dump);
	struct str said = strbuf_str(&text);
	ptrdiff_t end = str_starts(said, STR("(")) ? str_find(said, ')') : -1;
	strbuf_add_str(out, (struct str){said.p + end + 1, said.len - (size_t)(end + 1)});
	return err < 0 ? err : 0;
}

static int print_variable(const struct btf *types, const struct btf_type *section, size_t number,
			  const struct ebpf_entry *entry, struct strbuf *ret_key, struct strbuf *ret_value)
{
	if (number >= btf_vlen(section))
		return ERR_NOT_FOUND;
	const struct btf_var_secinfo *place = &btf_var_secinfos(section)[number];
	const struct btf_type *variable = btf__type_by_id(types, place->type);
	if (!variable || !btf_is_var(variable) || place->offset > entry->value_len ||
	    place->size > entry->value_len - place->offset)
		return ERR_MALFORMED;
	strbuf_add_text(ret_key, btf__name_by_offset(types, variable->name_off));
	return print_value(types, variable->type, (const char *)entry->value + place->offset, place->size,
			   ret_value);
}

static int print_key(const struct ebpf_map *map, const struct btf *types, const struct ebpf_entry *entry,
		     struct strbuf *out)
{
	if (map->kind != BPF_MAP_TYPE_SK_STORAGE)
		return print_value(types, map->key_type, entry->key, entry->key_len, out);
	const struct weir_stored *stored = entry->key;
	strbuf_printf(out, "socket %llu", (unsigned long long)stored->socket);
	return 0;
}

struct btf *ebpf_types_load(const struct ebpf_map *map)
{
	return map->types ? btf__load_from_kernel_by_id(map->types) : NULL;
}

void ebpf_types_free(struct btf *types)
{
	btf__free(types);
}

int ebpf_entry_print(const struct ebpf_map *map, const struct btf *types, const struct ebpf_entry *entry,
		     size_t variable, struct strbuf *ret_key, struct strbuf *ret_value)
{
	const struct btf_type *value = btf__type_by_id(types, map->value_type);
	if (!value)
		return ERR_NOT_FOUND;
	if (btf_is_datasec(value))
		return print_variable(types, value, variable, entry, ret_key, ret_value);
	if (variable > 0)
		return ERR_NOT_FOUND;
	int err = print_key(map, types, entry, ret_key);
	return err ? err : print_value(types, map->value_type, entry->value, map->value_size, ret_value);
}
