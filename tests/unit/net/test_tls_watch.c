// SPDX-License-Identifier: Apache-2.0
#include "net/tls_watch.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t START = 1000 * NS_PER_S;
static uint64_t now_ms;
static struct loop *loop;
static struct tls_watch *watch;
static unsigned calls;
static char dir[64];

static void on_change(void *arg)
{
	assert_ptr_equal(arg, &calls);
	calls++;
}

static char *path_of(const char *name)
{
	static char paths[8][128];
	static unsigned at;
	char *path = paths[at++ % 8];
	snprintf(path, sizeof paths[0], "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const char *text)
{
	int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void begin_watch(void)
{
	struct str files[] = {str_from(path_of("cert.pem")), str_from(path_of("key.pem"))};
	calls = 0;
	assert_int_equal(tls_watch_new(loop, files, 2, on_change, &calls, &watch), 0);
}

// Lets time pass in steps of 10 ms; inotify's hints are there as soon as the change is made.
static void pass(uint64_t ms)
{
	for (uint64_t end = now_ms + ms; now_ms < end; now_ms += 10) {
		clock_fake_set(START + now_ms * NS_PER_MS);
		assert_int_equal(loop_turn(loop, 0), 0);
	}
}

static int setup(void **state)
{
	(void)state;
	now_ms = 0;
	clock_fake_set(START);
	snprintf(dir, sizeof dir, "/tmp/weir-test-watch-XXXXXX");
	assert_non_null(mkdtemp(dir));
	return loop_new(&loop);
}

static int teardown(void **state)
{
	(void)state;
	char command[128];
	tls_watch_free(watch);
	watch = NULL;
	assert_int_equal(loop_turn(loop, 0), 0);
	loop_free(loop);
	clock_fake_set(0);
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

static void several_changes_are_one_call(void **state)
{
	(void)state;
	put("cert.pem", "a");
	put("key.pem", "a");
	begin_watch();
	pass(1000);
	assert_int_equal(calls, 0);
	put("cert.pem", "bb");
	pass(150);
	put("key.pem", "bb");
	pass(100);
	assert_int_equal(calls, 0);
	pass(500);
	assert_int_equal(calls, 1);
	pass(30000);
	assert_int_equal(calls, 1);
}

static void rename_and_removal_are_changes(void **state)
{
	(void)state;
	put("cert.pem", "a");
	begin_watch();
	put("new", "a");
	assert_int_equal(rename(path_of("new"), path_of("cert.pem")), 0);
	pass(1000);
	assert_int_equal(calls, 1);
	assert_int_equal(unlink(path_of("cert.pem")), 0);
	pass(1000);
	assert_int_equal(calls, 2);
	put("other", "is not ours");
	pass(1000);
	assert_int_equal(calls, 2);
	put("key.pem", "comes late");
	pass(1000);
	assert_int_equal(calls, 3);
}

// As kubelet does it: cert.pem -> ..data/cert.pem, ..data -> ..1, and then ..data is renamed over.
static void swapped_link_is_a_change(void **state)
{
	(void)state;
	for (int i = 1; i <= 2; i++) {
		char name[32];
		snprintf(name, sizeof name, "..%d", i);
		mkdir(path_of(name), 0700);
		snprintf(name, sizeof name, "..%d/cert.pem", i);
		put(name, "x");
	}
	assert_int_equal(symlink("..1", path_of("..data")), 0);
	assert_int_equal(symlink("..data/cert.pem", path_of("cert.pem")), 0);
	begin_watch();
	assert_int_equal(symlink("..2", path_of("..data_tmp")), 0);
	assert_int_equal(rename(path_of("..data_tmp"), path_of("..data")), 0);
	pass(1000);
	assert_int_equal(calls, 1);
}

// A link into a folder that is not watched, and a folder that does not exist at first.
static void poll_finds_the_rest(void **state)
{
	(void)state;
	mkdir(path_of("elsewhere"), 0700);
	put("elsewhere/cert.pem", "a");
	assert_int_equal(symlink("elsewhere/cert.pem", path_of("cert.pem")), 0);
	begin_watch();
	put("elsewhere/cert.pem", "bb");
	pass(TLS_WATCH_POLL_MS - 100);
	assert_int_equal(calls, 0);
	pass(1000);
	assert_int_equal(calls, 1);
	tls_watch_free(watch);
	struct str late = str_from(path_of("late/cert.pem"));
	assert_int_equal(tls_watch_new(loop, &late, 1, on_change, &calls, &watch), 0);
	mkdir(path_of("late"), 0700);
	put("late/cert.pem", "a");
	pass(TLS_WATCH_POLL_MS + 1000);
	assert_int_equal(calls, 2);
	put("late/cert.pem", "bb");
	pass(1000);
	assert_int_equal(calls, 3);
}

static void restless_file_is_reported_in_the_end(void **state)
{
	(void)state;
	put("cert.pem", "a");
	begin_watch();
	for (int i = 0; i < 60; i++) {
		put("new", i % 2 ? "odd" : "even");
		assert_int_equal(rename(path_of("new"), path_of("cert.pem")), 0);
		pass(100);
	}
	assert_in_range(calls, 1, 2);
}

static void on_change_free(void *arg)
{
	(void)arg;
	calls++;
	tls_watch_free(watch);
	watch = NULL;
}

static void may_be_freed_in_its_callback(void **state)
{
	(void)state;
	struct str file = str_from(path_of("cert.pem"));
	calls = 0;
	assert_int_equal(tls_watch_new(loop, &file, 1, on_change_free, NULL, &watch), 0);
	put("cert.pem", "a");
	pass(1000);
	assert_int_equal(calls, 1);
	tls_watch_free(NULL);
}

static void out_of_memory(void **state)
{
	(void)state;
	struct str files[] = {STR("/a/b"), STR("/a/c"), STR("/a/d"), STR("/a/e")};
	assert_int_equal(tls_watch_new(loop, files, 4, on_change, &calls, &watch), -EINVAL);
	for (long after = 0; after < 3; after++) {
		mem_fail_set(after);
		assert_int_equal(tls_watch_new(loop, files, 2, on_change, &calls, &watch), -ENOMEM);
		mem_fail_set(-1);
	}
	assert_null(watch);
}

#define WATCH_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    WATCH_TEST(several_changes_are_one_call),
	    WATCH_TEST(rename_and_removal_are_changes),
	    WATCH_TEST(swapped_link_is_a_change),
	    WATCH_TEST(poll_finds_the_rest),
	    WATCH_TEST(restless_file_is_reported_in_the_end),
	    WATCH_TEST(may_be_freed_in_its_callback),
	    WATCH_TEST(out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
