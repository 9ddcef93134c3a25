// SPDX-License-Identifier: Apache-2.0
// A name keeps every address it ever had, so that none of them goes to another name even if the ranges change
// and change back; the one that lies in the present range is its VIP. The state file has one line a name:
//
//     weir-vips 1
//     reviews.mesh 240.240.3.7 fd77:65:6972::1a2b
//     #checksum 0123456789abcdef
#include "dns/vip.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "dns/table.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_LINE "weir-vips 1"
#define CHECKSUM    "#checksum " // no name begins like that

struct vip_record {
	struct dns_link link; // by name
	struct str name;      // behind the record
	struct vip *vips;     // newest first
};

struct vip {
	struct dns_link link; // by address
	struct vip *next;
	struct ip ip;
	bool fresh; // assigned since the last save: nobody knows of it
};

struct vip_range {
	struct cidr cidr; // family 0: there is none
	uint64_t size;	  // without the first and the last address
	uint64_t used;
};

struct vip_pool {
	struct dns_table names, addresses;
	struct vip_range v4, v6;
	char *path;   // NULL: nothing is kept
	bool fresh;   // there are such addresses
	bool changed; // and the file does not have all others
};

static struct vip_range *pool_range(struct vip_pool *pool, int family)
{
	return family == AF_INET6 ? &pool->v6 : &pool->v4;
}

// --- records ------------------------------------------------------------------------------------------------
static struct vip_record *pool_record(const struct vip_pool *pool, struct str name)
{
	struct dns_link *link = dns_table_first(&pool->names, str_hash(name));
	for (; link; link = dns_table_next(link)) {
		struct vip_record *record = container_of(link, struct vip_record, link);
		if (str_eq(record->name, name))
			return record;
	}
	return NULL;
}

static bool pool_taken(const struct vip_pool *pool, const struct ip *ip)
{
	struct dns_link *link = dns_table_first(&pool->addresses, ip_hash(ip));
	for (; link; link = dns_table_next(link))
		if (ip_eq(&container_of(link, struct vip, link)->ip, ip))
			return true;
	return false;
}

static int pool_record_add(struct vip_pool *pool, struct str name, struct vip_record **ret_record)
{
	struct vip_record *record = mem_alloc(sizeof *record + name.len);
	if (!record)
		return -ENOMEM;
	*record = (struct vip_record){.name = {(char *)(record + 1), name.len}};
	memcpy(record + 1, name.p, name.len);
	int err = dns_table_insert(&pool->names, &record->link, str_hash(name));
	if (err) {
		mem_free(record);
		return err;
	}
	*ret_record = record;
	return 0;
}

static int record_vip_add(struct vip_pool *pool, struct vip_record *record, const struct ip *ip)
{
	struct vip *vip = mem_alloc(sizeof *vip);
	if (!vip)
		return -ENOMEM;
	*vip = (struct vip){.next = record->vips, .ip = *ip};
	int err = dns_table_insert(&pool->addresses, &vip->link, ip_hash(ip));
	if (err) {
		mem_free(vip);
		return err;
	}
	record->vips = vip;
	if (cidr_contains(&pool_range(pool, ip->family)->cidr, ip))
		pool_range(pool, ip->family)->used++;
	return 0;
}

// Takes back the newest address.
static void record_vip_drop(struct vip_pool *pool, struct vip_record *record)
{
	struct vip *vip = record->vips;
	struct vip_range *range = pool_range(pool, vip->ip.family);
	record->vips = vip->next;
	dns_table_remove(&pool->addresses, &vip->link);
	range->used -= cidr_contains(&range->cidr, &vip->ip);
	mem_free(vip);
}

static bool name_is_valid(struct str name)
{
	if (name.len == 0 || name.len > LIMIT_DNS_NAME || name.p[0] == '#')
		return false;
	for (size_t i = 0; i < name.len; i++)
		if ((uint8_t)name.p[i] <= ' ' || name.p[i] == 0x7f)
			return false;
	return true;
}

// --- choosing -----------------------------------------------------------------------------------------------
// The address that is `offset` behind the range's first.
static struct ip range_address(const struct vip_range *range, uint64_t offset)
{
	struct ip ip = range->cidr.ip;
	for (size_t at = ip.family == AF_INET6 ? 16 : 4; at-- > 0 && offset; offset >>= 8)
		ip.bytes[at] |= (uint8_t)offset;
	return ip;
}

static int range_choose(const struct vip_pool *pool, const struct vip_range *range, struct str name,
			struct ip *ret_ip)
{
	if (range->used >= range->size)
		return ERR_EXHAUSTED;
	uint64_t start = str_hash(name) % range->size;
	for (uint64_t i = 0; i < range->size; i++) {
		struct ip ip = range_address(range, 1 + (start + i) % range->size);
		if (!pool_taken(pool, &ip)) {
			*ret_ip = ip;
			return 0;
		}
	}
	return ERR_EXHAUSTED;
}

static int record_vip(struct vip_pool *pool, struct vip_record *record, struct vip_range *range,
		      struct ip *ret_ip)
{
	struct ip ip = {0};
	if (range->cidr.ip.family == 0) {
		*ret_ip = ip;
		return 0;
	}
	for (const struct vip *vip = record->vips; vip; vip = vip->next) {
		if (cidr_contains(&range->cidr, &vip->ip)) {
			*ret_ip = vip->ip;
			return 0;
		}
	}
	int err = range_choose(pool, range, record->name, &ip);
	if (!err)
		err = record_vip_add(pool, record, &ip);
	if (err)
		return err;
	record->vips->fresh = pool->fresh = true;
	*ret_ip = ip;
	return 0;
}

int vip_pool_assign(struct vip_pool *pool, struct str name, struct ip *ret_v4, struct ip *ret_v6)
{
	struct ip v4, v6;
	int err = 0;
	if (!name_is_valid(name))
		return ERR_MALFORMED;
	struct vip_record *record = pool_record(pool, name);
	if (!record)
		err = pool_record_add(pool, name, &record);
	if (!err)
		err = record_vip(pool, record, &pool->v4, &v4);
	if (!err)
		err = record_vip(pool, record, &pool->v6, &v6);
	if (err)
		return err;
	*ret_v4 = v4;
	*ret_v6 = v6;
	return 0;
}

// The name stays, without an address.
static void record_revert(struct dns_link *link, void *arg)
{
	struct vip_record *record = container_of(link, struct vip_record, link);
	while (record->vips && record->vips->fresh)
		record_vip_drop(arg, record);
}

void vip_pool_revert(struct vip_pool *pool)
{
	if (pool->fresh)
		dns_table_each(&pool->names, record_revert, pool);
	pool->fresh = false;
}

size_t vip_pool_ranges(const struct vip_pool *pool, struct cidr ret_ranges[VIP_RANGES_MAX])
{
	const struct cidr *ranges[] = {&pool->v4.cidr, &pool->v6.cidr};
	size_t count = 0;
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		if (ranges[i]->ip.family)
			ret_ranges[count++] = *ranges[i];
	return count;
}

void vip_pool_usage(const struct vip_pool *pool, int family, uint64_t *ret_used, uint64_t *ret_size)
{
	const struct vip_range *range = family == AF_INET6 ? &pool->v6 : &pool->v4;
	*ret_used = range->used;
	*ret_size = range->size;
}

// --- reading the state file ---------------------------------------------------------------------------------
struct state_file {
	struct vip_pool *pool;
	struct str text, rest;
	unsigned line;
	struct strbuf error; // a sentence, if something was found
};

static int state_error(struct state_file *file, const char *what)
{
	strbuf_printf(
	    &file->error,
	    "%s:%u: %s; restore the file from a backup, or remove it to have all addresses chosen afresh",
	    file->pool->path, file->line, what);
	return ERR_MALFORMED;
}

static int state_read_address(struct state_file *file, struct vip_record *record, struct str word)
{
	struct ip ip;
	if (ip_parse(word, &ip) != 0)
		return state_error(file, "an address is malformed");
	if (pool_taken(file->pool, &ip))
		return state_error(file, "an address is given twice");
	return record_vip_add(file->pool, record, &ip);
}

// The newest address comes first in the line, as in the record: the words are taken from the end.
static int state_read_name(struct state_file *file, struct str line)
{
	struct vip_record *record;
	struct str name = line;
	ptrdiff_t blank = str_find(line, ' ');
	if (blank < 0)
		return state_error(file, "a name has no address");
	name.len = (size_t)blank;
	if (!name_is_valid(name))
		return state_error(file, "a name is malformed");
	if (pool_record(file->pool, name))
		return state_error(file, "a name is given twice");
	int err = pool_record_add(file->pool, name, &record);
	while (!err && line.len > name.len) {
		size_t at = line.len;
		while (line.p[at - 1] != ' ')
			at--;
		err = state_read_address(file, record, (struct str){line.p + at, line.len - at});
		line.len = at - 1;
	}
	return err;
}

static int state_read_checksum(struct state_file *file, struct str line)
{
	char expected[sizeof CHECKSUM + 16];
	struct str before = {file->text.p, (size_t)(line.p - file->text.p)};
	snprintf(expected, sizeof expected, CHECKSUM "%016" PRIx64, str_hash(before));
	if (!str_eq(line, str_from(expected)))
		return state_error(file, "the checksum does not match, so the file is damaged or was edited");
	if (file->rest.len)
		return state_error(file, "something follows the checksum");
	return 0;
}

static int state_read(struct state_file *file)
{
	file->rest = file->text;
	for (;;) {
		file->line++;
		if (str_find(file->rest, '\n') < 0)
			return state_error(file, "the file is cut off");
		struct str line = str_split(&file->rest, '\n');
		int err = 0;
		if (str_starts(line, STR(CHECKSUM)) && file->line > 1)
			return state_read_checksum(file, line);
		if (file->line > 1)
			err = state_read_name(file, line);
		else if (!str_eq(line, STR(HEADER_LINE)))
			err = state_error(file, "this is no list of virtual IPs, or one of a newer version");
		if (err)
			return err;
	}
}

static int read_fd(int fd, struct strbuf *text)
{
	for (;;) {
		enum { PIECE = 16384 };
		char *at = strbuf_reserve(text, PIECE);
		if (!at)
			return -ENOMEM;
		ssize_t got = read(fd, at, PIECE);
		if (got < 0 && errno != EINTR)
			return -errno;
		if (got == 0)
			return 0;
		text->len += got > 0 ? (size_t)got : 0;
		if (text->len > LIMIT_VIP_STATE_BYTES)
			return -EFBIG;
	}
}

static int state_load(struct vip_pool *pool, struct strbuf *error)
{
	autostrbuf struct strbuf text = {0};
	autoclose int fd = open(pool->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0;
	int err = fd < 0 ? -errno : read_fd(fd, &text);
	if (err) {
		strbuf_printf(error, "%s: cannot be read: %s", pool->path, err_text(err));
		return err;
	}
	struct state_file file = {.pool = pool, .text = strbuf_str(&text), .error = *error};
	err = state_read(&file);
	*error = file.error;
	return err;
}

// --- writing the state file ---------------------------------------------------------------------------------
struct record_list {
	const struct vip_record **records;
	size_t count;
};

static int record_order(const void *a, const void *b)
{
	return str_cmp((*(const struct vip_record *const *)a)->name,
		       (*(const struct vip_record *const *)b)->name);
}

// A name without an address (its allocation failed, or was reverted) is left out.
static void list_add(struct dns_link *link, void *arg)
{
	struct record_list *list = arg;
	const struct vip_record *record = container_of(link, struct vip_record, link);
	if (record->vips)
		list->records[list->count++] = record;
}

static int pool_sorted(const struct vip_pool *pool, struct record_list *ret_list)
{
	struct record_list list = {mem_array(pool->names.count + 1, sizeof *list.records), 0};
	if (!list.records)
		return -ENOMEM;
	dns_table_each(&pool->names, list_add, &list);
	qsort(list.records, list.count, sizeof *list.records, record_order);
	*ret_list = list;
	return 0;
}

static int state_write(const struct vip_pool *pool, struct strbuf *out)
{
	struct record_list list;
	char text[ADDR_TEXT_MAX];
	int err = pool_sorted(pool, &list);
	if (err)
		return err;
	strbuf_add_text(out, HEADER_LINE "\n");
	for (size_t i = 0; i < list.count; i++) {
		strbuf_add_str(out, list.records[i]->name);
		for (const struct vip *vip = list.records[i]->vips; vip; vip = vip->next)
			strbuf_printf(out, " %s", ip_format(&vip->ip, text));
		strbuf_add_char(out, '\n');
	}
	mem_free(list.records);
	strbuf_printf(out, CHECKSUM "%016" PRIx64 "\n", str_hash(strbuf_str(out)));
	return out->failed ? -ENOMEM : 0;
}

static int write_all(int fd, struct str text)
{
	while (text.len) {
		ssize_t put = write(fd, text.p, text.len);
		if (put < 0 && errno != EINTR)
			return -errno;
		text.p += put > 0 ? put : 0;
		text.len -= put > 0 ? (size_t)put : 0;
	}
	return fsync(fd) < 0 ? -errno : 0;
}

// The rename itself must reach the disk, too.
static int sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	autofree char *folder = slash ? mem_strndup(path, (size_t)(slash - path) + 1) : mem_strdup(".");
	if (!folder)
		return -ENOMEM;
	autoclose int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int replace_file(const char *path, struct str text)
{
	autostrbuf struct strbuf temporary = {0};
	strbuf_printf(&temporary, "%s.new", path);
	if (temporary.failed)
		return -ENOMEM;
	autoclose int fd = open(temporary.p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	int err = write_all(fd, text);
	if (!err && rename(temporary.p, path) < 0)
		err = -errno;
	if (err)
		unlink(temporary.p);
	return err ? err : sync_folder(path);
}

static void record_settle(struct dns_link *link, void *arg)
{
	struct vip_record *record = container_of(link, struct vip_record, link);
	(void)arg;
	for (struct vip *vip = record->vips; vip && vip->fresh; vip = vip->next)
		vip->fresh = false;
}

int vip_pool_save(struct vip_pool *pool)
{
	autostrbuf struct strbuf text = {0};
	if (pool->fresh)
		dns_table_each(&pool->names, record_settle, NULL);
	pool->changed |= pool->fresh;
	pool->fresh = false;
	if (!pool->path || !pool->changed)
		return 0;
	int err = state_write(pool, &text);
	if (!err)
		err = replace_file(pool->path, strbuf_str(&text));
	if (!err)
		pool->changed = false;
	return err;
}

// --- life ---------------------------------------------------------------------------------------------------
static int pool_add_range(struct vip_pool *pool, const struct cidr *cidr, struct strbuf *error)
{
	char text[ADDR_TEXT_MAX];
	struct vip_range *range = pool_range(pool, cidr->ip.family);
	unsigned host_bits = (cidr->ip.family == AF_INET6 ? 128u : 32u) - cidr->bits;
	if (range->cidr.ip.family) {
		strbuf_printf(error, "%s: only one range of virtual IPs is possible for a family",
			      cidr_format(cidr, text));
		return ERR_CONFIG;
	}
	if (host_bits < 2) {
		strbuf_printf(error,
			      "%s: the range is too small, it has no address besides its first and last",
			      cidr_format(cidr, text));
		return ERR_CONFIG;
	}
	range->cidr = *cidr;
	range->size = (1ULL << MIN(host_bits, 63u)) - 2;
	return 0;
}

static int pool_fill(struct vip_pool *pool, const char *path, const struct cidr *ranges, size_t count,
		     struct strbuf *error)
{
	int err = 0;
	for (size_t i = 0; i < count && !err; i++)
		err = pool_add_range(pool, &ranges[i], error);
	if (err || !path)
		return err;
	pool->path = mem_strdup(path);
	return pool->path ? state_load(pool, error) : -ENOMEM;
}

int vip_pool_open(const char *state_path, const struct cidr *ranges, size_t range_count,
		  struct vip_pool **ret_pool, char **ret_error)
{
	autostrbuf struct strbuf error = {0};
	struct vip_pool *pool = mem_zalloc(sizeof *pool);
	if (!pool)
		return -ENOMEM;
	int err = pool_fill(pool, state_path, ranges, range_count, &error);
	if (err) {
		vip_pool_free(pool);
		if (ret_error)
			*ret_error = strbuf_take(&error);
		return err;
	}
	*ret_pool = pool;
	return 0;
}

static void record_free(struct dns_link *link, void *arg)
{
	struct vip_record *record = container_of(link, struct vip_record, link);
	(void)arg;
	for (struct vip *vip = record->vips, *next; vip; vip = next) {
		next = vip->next;
		mem_free(vip);
	}
	mem_free(record);
}

void vip_pool_free(struct vip_pool *pool)
{
	if (!pool)
		return;
	dns_table_clear(&pool->names, record_free, NULL);
	dns_table_done(&pool->names);
	dns_table_done(&pool->addresses);
	mem_free(pool->path);
	mem_free(pool);
}
