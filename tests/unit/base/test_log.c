// SPDX-License-Identifier: Apache-2.0
#include "test.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int fds[2];
static char line[4096];

static int setup(void **state)
{
	(void)state;
	assert_int_equal(pipe(fds), 0);
	log_set_fd(fds[1]);
	log_set_format(LOG_LOGFMT);
	log_set_level(LOG_INFO);
	clock_fake_set(1500 * NS_PER_MS);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(fds[0]);
	close(fds[1]);
	clock_fake_set(0);
	return 0;
}

static const char *written(void)
{
	ssize_t n = read(fds[0], line, sizeof line - 1);
	line[n > 0 ? n : 0] = 0;
	return line;
}

static void logfmt(void **state)
{
	(void)state;
	log_warn("two words", LOG_STR("plain", STR("a.b")), LOG_INT("n", -5), LOG_ERR(-ECONNREFUSED));
	assert_string_equal(written(),
			    "time=2023-11-14T22:13:21.500Z level=warn msg=\"two words\" plain=a.b n=-5 "
			    "error=\"Connection refused\"\n");
}

static void json(void **state)
{
	(void)state;
	log_set_format(LOG_JSON);
	log_error("x", LOG_STR("k", STR("v\"\n")), LOG_UINT("n", 7));
	assert_string_equal(written(),
			    "{\"time\":\"2023-11-14T22:13:21.500Z\",\"level\":\"error\",\"msg\":\"x\","
			    "\"k\":\"v\\\"\\n\",\"n\":7}\n");
}

// Blocking descriptors, as standard error is one: a call that waits for a reader never returns here.
static void nobody_is_waited_for(void **state)
{
	(void)state;
	enum { PIPE = 8192, TORN = 9000 };
	static char bytes[TORN + PIPE];
	struct str text = {bytes, TORN};
	memset(bytes, 'a', sizeof bytes);
	assert_int_equal(fcntl(fds[1], F_SETPIPE_SZ, PIPE), PIPE);
	log_warn("long", LOG_STR("text", text)); // what has room of it
	log_warn("lost");
	log_warn("lost, too");
	assert_int_equal(read(fds[0], bytes, sizeof bytes), PIPE);
	log_warn("seen");
	assert_string_equal(written(),
			    "\ntime=2023-11-14T22:13:21.500Z level=warn msg=\"lines of the log were dropped: "
			    "nobody read them in time\" lines=3\n"
			    "time=2023-11-14T22:13:21.500Z level=warn msg=seen\n");
	log_warn("whole", LOG_STR("text", ((struct str){bytes + TORN, 5000})));
	assert_int_equal(read(fds[0], bytes, sizeof bytes), 5000 + 55 + 2);
}

static void a_peer_cannot_forge_a_line(void **state)
{
	(void)state;
	log_info("request", LOG_STR("path", STR("/a\nlevel=error msg=forged\x1b[2J")));
	const char *text = written();
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	assert_null(strchr(text, 0x1b));
}

static void levels(void **state)
{
	(void)state;
	enum log_level level;
	log_debug("hidden");
	log_info("seen");
	assert_non_null(strstr(written(), "msg=seen"));
	assert_int_equal(log_level_parse(STR("debug"), &level), 0);
	log_set_level(level);
	log_debug("now");
	assert_non_null(strstr(written(), "level=debug msg=now"));
	assert_int_equal(log_level_parse(STR("loud"), &level), ERR_NOT_FOUND);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(logfmt, setup, teardown),
	    cmocka_unit_test_setup_teardown(json, setup, teardown),
	    cmocka_unit_test_setup_teardown(nobody_is_waited_for, setup, teardown),
	    cmocka_unit_test_setup_teardown(a_peer_cannot_forge_a_line, setup, teardown),
	    cmocka_unit_test_setup_teardown(levels, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
