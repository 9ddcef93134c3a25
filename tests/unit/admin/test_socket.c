// SPDX-License-Identifier: Apache-2.0
#include "admin/socket.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static char folder[64], path[96];

static int set_up(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/weir-test-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	snprintf(path, sizeof path, "%s/run/admin.sock", folder);
	return 0;
}

static int tear_down(void **state)
{
	char inner[80];
	(void)state;
	snprintf(inner, sizeof inner, "%s/run", folder);
	unlink(path);
	rmdir(inner);
	return rmdir(folder);
}

static struct admin_socket *open_socket(void)
{
	struct admin_socket *opened = NULL;
	autostrbuf struct strbuf error = {0};
	int err = admin_socket_open(path, (uid_t)-1, (gid_t)-1, &opened, &error);
	if (err)
		fail_msg("%s", error.p);
	return opened;
}

static void refuse(int expected, const char *sentence)
{
	struct admin_socket *opened = NULL;
	autostrbuf struct strbuf error = {0};
	assert_int_equal(admin_socket_open(path, (uid_t)-1, (gid_t)-1, &opened, &error), expected);
	assert_null(opened);
	if (!strstr(error.p, sentence) || !strstr(error.p, path))
		fail_msg("'%s' is not in '%s'", sentence, error.p);
}

static void mode_and_removal(void **state)
{
	struct stat info;
	(void)state;
	struct admin_socket *opened = open_socket();
	assert_int_equal(stat(path, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0660);
	assert_true(S_ISSOCK(info.st_mode));
	admin_socket_close(opened);
	assert_int_equal(stat(path, &info), -1);
}

static void a_live_one_is_not_replaced(void **state)
{
	(void)state;
	struct admin_socket *opened = open_socket();
	refuse(-EADDRINUSE, "another proxy listens there");
	admin_socket_close(opened);
}

static void a_dead_one_is_replaced(void **state)
{
	(void)state;
	admin_socket_close(open_socket());
	struct sockaddr_un where = {.sun_family = AF_UNIX};
	strcpy(where.sun_path, path);
	int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(dead, (struct sockaddr *)&where, sizeof where), 0);
	close(dead);
	admin_socket_close(open_socket());
}

static void a_successor_keeps_its_name(void **state)
{
	struct stat info;
	(void)state;
	struct admin_socket *old = open_socket();
	unlink(path);
	struct admin_socket *next = open_socket();
	admin_socket_close(old);
	assert_int_equal(stat(path, &info), 0);
	admin_socket_close(next);
	assert_int_equal(stat(path, &info), -1);
}

static void other_files_are_left_alone(void **state)
{
	struct stat info;
	(void)state;
	admin_socket_close(open_socket());
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fclose(file);
	refuse(-EEXIST, "cannot be replaced");
	assert_int_equal(stat(path, &info), 0);
}

static void impossible_paths(void **state)
{
	char before[sizeof path];
	(void)state;
	strcpy(before, path);
	snprintf(path, sizeof path, "%s/no/such/folder", folder);
	refuse(-ENOENT, "No such file");
	strcpy(path, before);
	char longest[200];
	memset(longest, 'a', sizeof longest - 1);
	longest[sizeof longest - 1] = 0;
	struct admin_socket *opened = NULL;
	autostrbuf struct strbuf error = {0};
	assert_int_equal(admin_socket_open(longest, 0, 0, &opened, &error), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(mode_and_removal, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_live_one_is_not_replaced, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_dead_one_is_replaced, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(a_successor_keeps_its_name, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(other_files_are_left_alone, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(impossible_paths, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
