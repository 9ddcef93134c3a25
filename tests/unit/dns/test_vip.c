// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "dns/vip.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], path[96];

static int setup(void **state)
{
	(void)state;
	snprintf(folder, sizeof folder, "/tmp/weir-vip-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof path, "%s/vips", folder);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	mem_fail_set(-1);
	unlink(path);
	return rmdir(folder);
}

static struct cidr range(const char *text)
{
	struct cidr cidr;
	assert_int_equal(cidr_parse(str_from(text), &cidr), 0);
	return cidr;
}

static struct vip_pool *open_ranges(const char *state_path, const char *first, const char *second)
{
	struct vip_pool *pool;
	char *error = NULL;
	struct cidr ranges[2] = {range(first)};
	if (second)
		ranges[1] = range(second);
	int err = vip_pool_open(state_path, ranges, second ? 2 : 1, &pool, &error);
	if (err)
		print_error("%s\n", error);
	assert_int_equal(err, 0);
	return pool;
}

static const char *assigned(struct vip_pool *pool, const char *name, int family)
{
	static char text[ADDR_TEXT_MAX];
	struct ip v4, v6;
	assert_int_equal(vip_pool_assign(pool, str_from(name), &v4, &v6), 0);
	return ip_format(family == AF_INET ? &v4 : &v6, text);
}

static void write_state(const char *text)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void read_state(char *ret_text, size_t size)
{
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	ret_text[fread(ret_text, 1, size - 1, file)] = 0;
	fclose(file);
}

// The exact addresses: every proxy of every version must come to the same ones.
static void test_deterministic(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(NULL, "240.240.0.0/16", "fd77:65:6972::/112");
	char first[ADDR_TEXT_MAX];
	strcpy(first, assigned(pool, "reviews.mesh", AF_INET));
	assert_string_equal(first, "240.240.210.161");
	assert_string_equal(assigned(pool, "reviews.mesh", AF_INET), first);
	assert_string_equal(assigned(pool, "reviews.mesh", AF_INET6), "fd77:65:6972::d2a1");
	assert_string_not_equal(assigned(pool, "ratings.mesh", AF_INET), first);
	vip_pool_free(pool);
}

static void test_family_without_range(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(NULL, "240.240.0.0/16", NULL);
	struct ip v4, v6;
	uint64_t used, size;
	assert_int_equal(vip_pool_assign(pool, STR("a"), &v4, &v6), 0);
	assert_int_equal(v4.family, AF_INET);
	assert_int_equal(v6.family, 0);
	vip_pool_usage(pool, AF_INET, &used, &size);
	assert_int_equal(used, 1);
	assert_int_equal(size, 65534);
	vip_pool_usage(pool, AF_INET6, &used, &size);
	assert_int_equal(used, 0);
	assert_int_equal(size, 0);
	vip_pool_free(pool);
}

// A /29 has six addresses: all are given, none twice, neither the first nor the last of the range, then no
// more.
static void test_exhaustion(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(NULL, "10.0.0.0/29", NULL);
	bool seen[8] = {false};
	struct ip v4 = {0}, v6;
	for (char name[2] = "a"; name[0] < 'g'; name[0]++) {
		assert_int_equal(vip_pool_assign(pool, str_from(name), &v4, &v6), 0);
		assert_int_equal(v4.bytes[3] & ~7, 0);
		assert_false(seen[v4.bytes[3]]);
		seen[v4.bytes[3]] = true;
	}
	assert_false(seen[0] || seen[7]);
	v4.family = 99;
	assert_int_equal(vip_pool_assign(pool, STR("g"), &v4, &v6), ERR_EXHAUSTED);
	assert_int_equal(v4.family, 99);
	assert_int_equal(vip_pool_assign(pool, STR("a"), &v4, &v6), 0);
	vip_pool_free(pool);
}

static uint64_t used(const struct vip_pool *pool)
{
	uint64_t count, size;
	vip_pool_usage(pool, AF_INET, &count, &size);
	return count;
}

// What nobody was told of can go to another name; what was saved cannot, be it that the file was not written.
static void test_revert(void **state)
{
	char before[256], after[256];
	struct ip v4, v6;
	(void)state;
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/29", NULL);
	autofree char *first = mem_strdup(assigned(pool, "first", AF_INET));
	assert_int_equal(vip_pool_save(pool), 0);
	read_state(before, sizeof before);
	for (int round = 0; round < 3; round++) {
		for (char name[3] = "a"; name[0] < 'f'; name[0]++) {
			name[1] = (char)('0' + round);
			assert_int_equal(vip_pool_assign(pool, str_from(name), &v4, &v6), 0);
		}
		assert_int_equal(vip_pool_assign(pool, STR("f"), &v4, &v6), ERR_EXHAUSTED);
		vip_pool_revert(pool);
		assert_int_equal(used(pool), 1);
		assert_int_equal(vip_pool_save(pool), 0);
		read_state(after, sizeof after);
		assert_string_equal(after, before);
	}
	assert_string_equal(assigned(pool, "first", AF_INET), first);
	assigned(pool, "a0", AF_INET);
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_revert(pool);
	assert_int_equal(used(pool), 2);
	read_state(after, sizeof after);
	assert_non_null(strstr(after, "\na0 10.0.0."));
	vip_pool_free(pool);
}

// A new range, and a configuration that is rejected: the old address comes back with the old range.
static void test_revert_of_a_new_range(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/24", NULL);
	autofree char *old = mem_strdup(assigned(pool, "a", AF_INET));
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);
	pool = open_ranges(path, "10.9.0.0/24", NULL);
	assert_string_not_equal(assigned(pool, "a", AF_INET), old);
	vip_pool_revert(pool);
	assert_int_equal(used(pool), 0);
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);
	pool = open_ranges(path, "10.0.0.0/24", NULL);
	assert_string_equal(assigned(pool, "a", AF_INET), old);
	vip_pool_free(pool);
}

static void test_bad_names(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(NULL, "10.0.0.0/24", NULL);
	struct ip v4, v6;
	char longest[257];
	memset(longest, 'a', sizeof longest);
	assert_int_equal(vip_pool_assign(pool, STR(""), &v4, &v6), ERR_MALFORMED);
	assert_int_equal(vip_pool_assign(pool, STR("a b"), &v4, &v6), ERR_MALFORMED);
	assert_int_equal(vip_pool_assign(pool, STR("a\nb"), &v4, &v6), ERR_MALFORMED);
	assert_int_equal(vip_pool_assign(pool, STR("#checksum"), &v4, &v6), ERR_MALFORMED);
	assert_int_equal(vip_pool_assign(pool, (struct str){longest, 256}, &v4, &v6), ERR_MALFORMED);
	vip_pool_free(pool);
}

static void test_bad_ranges(void **state)
{
	(void)state;
	struct vip_pool *pool = NULL;
	char *error = NULL;
	struct cidr two[] = {range("10.0.0.0/24"), range("10.1.0.0/24")};
	assert_int_equal(vip_pool_open(NULL, two, 2, &pool, &error), ERR_CONFIG);
	assert_string_equal(error, "10.1.0.0/24: only one range of virtual IPs is possible for a family");
	mem_free(error);
	struct cidr small = range("10.0.0.0/31");
	assert_int_equal(vip_pool_open(NULL, &small, 1, &pool, NULL), ERR_CONFIG);
	struct cidr least = range("10.0.0.0/30");
	assert_int_equal(vip_pool_open(NULL, &least, 1, &pool, NULL), 0);
	vip_pool_free(pool);
}

// Names come and go, in another order; whoever had an address has it again, and nobody else.
static void test_persistence(void **state)
{
	(void)state;
	char a[ADDR_TEXT_MAX], b[ADDR_TEXT_MAX], b6[ADDR_TEXT_MAX];
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/30", "fd00::/64");
	strcpy(a, assigned(pool, "a.mesh", AF_INET));
	strcpy(b, assigned(pool, "b.mesh", AF_INET));
	strcpy(b6, assigned(pool, "b.mesh", AF_INET6));
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);

	pool = open_ranges(path, "10.0.0.0/30", "fd00::/64");
	struct ip v4, v6;
	uint64_t used, size;
	vip_pool_usage(pool, AF_INET, &used, &size);
	assert_int_equal(used, 2);
	assert_int_equal(vip_pool_assign(pool, STR("c.mesh"), &v4, &v6), ERR_EXHAUSTED);
	assert_string_equal(assigned(pool, "b.mesh", AF_INET), b);
	assert_string_equal(assigned(pool, "b.mesh", AF_INET6), b6);
	assert_string_equal(assigned(pool, "a.mesh", AF_INET), a);
	vip_pool_free(pool);
}

static void test_state_text(void **state)
{
	(void)state;
	char text[512], expected[512];
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/24", "fd00::/120");
	int len =
	    snprintf(expected, sizeof expected, "weir-vips 1\na.mesh %s", assigned(pool, "a.mesh", AF_INET6));
	len += snprintf(expected + len, sizeof expected - (size_t)len, " %s\n",
			assigned(pool, "a.mesh", AF_INET));
	len += snprintf(expected + len, sizeof expected - (size_t)len, "b.mesh %s",
			assigned(pool, "b.mesh", AF_INET6));
	len += snprintf(expected + len, sizeof expected - (size_t)len, " %s\n",
			assigned(pool, "b.mesh", AF_INET));
	assert_int_equal(vip_pool_save(pool), 0);
	read_state(text, sizeof text);
	assert_memory_equal(text, expected, (size_t)len);
	assert_int_equal(strncmp(text + len, "#checksum ", 10), 0);
	assert_int_equal(strlen(text), len + 27);
	vip_pool_free(pool);
}

static ino_t state_inode(void)
{
	struct stat status;
	assert_int_equal(stat(path, &status), 0);
	return status.st_ino;
}

// Replaced as a whole, and left alone if nothing changed.
static void test_save_is_atomic(void **state)
{
	(void)state;
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/24", NULL);
	assert_int_equal(vip_pool_save(pool), 0);
	assert_int_equal(access(path, F_OK), -1);
	assigned(pool, "a", AF_INET);
	assert_int_equal(vip_pool_save(pool), 0);
	int held = open(path, O_RDONLY); // keeps the inode from being used again
	ino_t first = state_inode();
	assert_int_equal(vip_pool_save(pool), 0);
	assert_true(state_inode() == first);
	assigned(pool, "b", AF_INET);
	assert_int_equal(vip_pool_save(pool), 0);
	assert_true(state_inode() != first);
	close(held);
	vip_pool_free(pool);
}

static void test_save_fails(void **state)
{
	(void)state;
	struct cidr cidr = range("10.0.0.0/24");
	struct vip_pool *pool;
	struct ip v4, v6;
	assert_int_equal(vip_pool_open("/nonexistent/vips", &cidr, 1, &pool, NULL), 0);
	assert_int_equal(vip_pool_assign(pool, STR("a"), &v4, &v6), 0);
	assert_int_equal(vip_pool_save(pool), -ENOENT);
	vip_pool_free(pool);
}

// In another range the name gets another address; the old one stays its own, for when the range comes back.
static void test_range_changes(void **state)
{
	(void)state;
	char old[ADDR_TEXT_MAX], new[ADDR_TEXT_MAX];
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/24", NULL);
	strcpy(old, assigned(pool, "a", AF_INET));
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);

	pool = open_ranges(path, "10.9.0.0/24", NULL);
	strcpy(new, assigned(pool, "a", AF_INET));
	assert_int_equal(strncmp(new, "10.9.0.", 7), 0);
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);

	pool = open_ranges(path, "10.0.0.0/24", NULL);
	assert_string_equal(assigned(pool, "a", AF_INET), old);
	vip_pool_free(pool);
	pool = open_ranges(path, "10.0.0.0/8", NULL); // both fit: the newer one
	assert_string_equal(assigned(pool, "a", AF_INET), new);
	vip_pool_free(pool);
}

static void assert_damaged(const char *text, const char *where)
{
	struct vip_pool *pool = NULL;
	char *error = NULL, expected[256];
	struct cidr cidr = range("10.0.0.0/24");
	write_state(text);
	assert_int_equal(vip_pool_open(path, &cidr, 1, &pool, &error), ERR_MALFORMED);
	assert_null(pool);
	snprintf(expected, sizeof expected, "%s:%s", path, where);
	error[strlen(expected)] = 0;
	assert_string_equal(error, expected);
	mem_free(error);
}

static void test_damaged_state(void **state)
{
	(void)state;
	assert_damaged("", "1: the file is cut off");
	assert_damaged("something else\n", "1: this is no list of virtual IPs");
	assert_damaged("weir-vips 2\n", "1: this is no list of virtual IPs");
	assert_damaged("weir-vips 1\n", "2: the file is cut off");
	assert_damaged("weir-vips 1\na 10.0.0.1", "2: the file is cut off");
	assert_damaged("weir-vips 1\na 10.0.0.1\n", "3: the file is cut off");
	assert_damaged("weir-vips 1\na\n", "2: a name has no address");
	assert_damaged("weir-vips 1\n 10.0.0.1\n", "2: a name is malformed");
	assert_damaged("weir-vips 1\na 10.0.0.1\nb 10.0.0.300\n", "3: an address is malformed");
	assert_damaged("weir-vips 1\na 10.0.0.1 \n", "2: an address is malformed");
	assert_damaged("weir-vips 1\na 10.0.0.1\na 10.0.0.2\n", "3: a name is given twice");
	assert_damaged("weir-vips 1\na 10.0.0.1\nb 10.0.0.1\n", "3: an address is given twice");
	assert_damaged("weir-vips 1\na 10.0.0.1\n#checksum 0000000000000000\n",
		       "3: the checksum does not match");
}

// Any byte of a good file changed, and any end cut off, is noticed.
static void test_every_damage_is_noticed(void **state)
{
	(void)state;
	char text[512], bad[512];
	struct cidr cidr = range("10.0.0.0/24");
	struct vip_pool *pool = open_ranges(path, "10.0.0.0/24", NULL), *again = NULL;
	assigned(pool, "a.mesh", AF_INET);
	assigned(pool, "b.mesh", AF_INET);
	assert_int_equal(vip_pool_save(pool), 0);
	vip_pool_free(pool);
	read_state(text, sizeof text);
	for (size_t i = 0; text[i]; i++) {
		strcpy(bad, text);
		bad[i] ^= 1;
		write_state(bad);
		assert_int_equal(vip_pool_open(path, &cidr, 1, &again, NULL), ERR_MALFORMED);
		strcpy(bad, text);
		bad[i] = 0;
		write_state(bad);
		assert_int_equal(vip_pool_open(path, &cidr, 1, &again, NULL), ERR_MALFORMED);
	}
	strcat(strcpy(bad, text), "x\n");
	write_state(bad);
	assert_int_equal(vip_pool_open(path, &cidr, 1, &again, NULL), ERR_MALFORMED);
}

static int scenario(void)
{
	struct vip_pool *pool = NULL;
	struct ip v4, v6;
	char *error = NULL;
	struct cidr ranges[] = {range("10.0.0.0/24"), range("fd00::/64")};
	int err = vip_pool_open(path, ranges, 2, &pool, &error);
	if (!err)
		err = vip_pool_assign(pool, STR("a.mesh"), &v4, &v6);
	if (!err)
		err = vip_pool_assign(pool, STR("b.mesh"), &v4, &v6);
	if (!err)
		err = vip_pool_save(pool);
	vip_pool_free(pool);
	mem_free(error);
	return err;
}

static void test_allocation_failures(void **state)
{
	(void)state;
	for (int round = 0; round < 2; round++) {
		for (long n = 0;; n++) {
			mem_fail_set(n);
			int err = scenario();
			bool failed = mem_fail_count() > n;
			mem_fail_set(-1);
			assert_true(err == 0 || err == -ENOMEM);
			if (!failed)
				break;
		}
	}
	assert_int_equal(scenario(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_deterministic, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_family_without_range, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_exhaustion, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_revert, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_revert_of_a_new_range, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_bad_names, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_bad_ranges, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_persistence, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_state_text, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_save_is_atomic, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_save_fails, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_range_changes, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_damaged_state, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_every_damage_is_noticed, setup, teardown),
	    cmocka_unit_test_setup_teardown(test_allocation_failures, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
