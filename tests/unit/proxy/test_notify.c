// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "proxy/notify.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static int receiver(const char *name)
{
	struct sockaddr_un where = {.sun_family = AF_UNIX};
	size_t len = strlen(name);
	memcpy(where.sun_path, name, len);
	if (name[0] == '@')
		where.sun_path[0] = 0;
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	assert_int_equal(bind(fd, (struct sockaddr *)&where, size), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	return fd;
}

static void expect_received(int fd, const char *prefix)
{
	char text[200] = "";
	assert_true(recv(fd, text, sizeof text - 1, 0) > 0);
	assert_memory_equal(text, prefix, strlen(prefix));
}

static void without_a_manager(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_send("READY=1"), 0);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(notify_send("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "/nonexistent/socket", 1);
	assert_int_equal(notify_send("READY=1"), -ENOENT);
}

static void abstract_name(void **state)
{
	char name[64];
	(void)state;
	snprintf(name, sizeof name, "@weir-test-notify-%d", (int)getpid());
	autoclose int fd = receiver(name);
	assert_int_equal(notify_send("READY=1\nSTATUS=serving"), 0);
	expect_received(fd, "READY=1\nSTATUS=serving");
	assert_int_equal(notify_reloading(), 0);
	expect_received(fd, "RELOADING=1\nMONOTONIC_USEC=");
}

static void path_name(void **state)
{
	char name[] = "/tmp/weir-test-XXXXXX", path[64];
	(void)state;
	assert_non_null(mkdtemp(name));
	snprintf(path, sizeof path, "%s/notify", name);
	autoclose int fd = receiver(path);
	assert_int_equal(notify_send("STOPPING=1"), 0);
	expect_received(fd, "STOPPING=1");
	unlink(path);
	rmdir(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(without_a_manager),
	    cmocka_unit_test(abstract_name),
	    cmocka_unit_test(path_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
