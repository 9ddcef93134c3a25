// SPDX-License-Identifier: Apache-2.0
// Each scenario runs in a child of its own, which ends with 0 if all held. As another user than root the
// process cannot become anybody: then only what holds for unprivileged starts is looked at.
#include "base/error.h"
#include "base/mem.h"
#include "proxy/privileges.h"

#include <grp.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define CHECK(condition)                                                                                     \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                              \
			_exit(1);                                                                            \
		}                                                                                            \
	} while (0)

static void run_child(void (*scenario)(void))
{
	int status;
	pid_t child = fork();
	if (child == 0) {
		scenario();
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static uint64_t status_mask(const char *key)
{
	char line[256];
	unsigned long long value = UINT64_MAX;
	FILE *file = fopen("/proc/self/status", "r");
	while (file && fgets(line, sizeof line, file))
		if (strncmp(line, key, strlen(key)) == 0)
			value = strtoull(line + strlen(key) + 1, NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static void becomes_nobody(void)
{
	struct privileges privileges;
	autostrbuf struct strbuf error = {0};
	uint64_t before = status_mask("CapPrm");
	CHECK(privileges_drop("nobody", true, &privileges, &error) == 0);
	CHECK(privileges.dropped && privileges.uid == getuid() && getuid() != 0 && getgid() != 0);
	uint64_t keep = (1ULL << 13 | 1ULL << 10) & before; // CAP_NET_RAW, CAP_NET_BIND_SERVICE
	CHECK((status_mask("CapPrm") & ~(keep | 1ULL << 12)) == 0);
	CHECK(status_mask("CapEff") == status_mask("CapPrm"));
	CHECK(status_mask("CapInh") == 0 && status_mask("CapAmb") == 0);
	CHECK(setuid(0) < 0 && seteuid(0) < 0);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
	CHECK(getgroups(0, NULL) <= 1);
	CHECK(privileges.mark == (keep >> 13 & 1));
	CHECK(privileges.low_ports == (keep >> 10 & 1));
}

static void drops_to_a_user(void **state)
{
	(void)state;
	if (geteuid() == 0)
		run_child(becomes_nobody);
}

static void stays_root_confined(void)
{
	struct privileges privileges;
	autostrbuf struct strbuf error = {0};
	CHECK(privileges_drop("", false, &privileges, &error) == 0);
	CHECK(getuid() == 0 && !privileges.low_ports);
	CHECK((status_mask("CapPrm") & ~(1ULL << 13 | 1ULL << 12)) == 0);
}

static void keeps_the_user_without_one(void **state)
{
	(void)state;
	if (geteuid() == 0)
		run_child(stays_root_confined);
}

static void unprivileged(void)
{
	struct privileges privileges;
	autostrbuf struct strbuf error = {0};
	if (geteuid() == 0) {
		CHECK(setgroups(0, NULL) == 0);
		CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	}
	CHECK(privileges_drop("root", true, &privileges, &error) == 0);
	CHECK(!privileges.dropped && !privileges.mark && !privileges.low_ports);
	CHECK(privileges.uid == geteuid());
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
}

// As a service manager starts it: another user, with more capabilities than it wants, ambient ones.
static void keeps_what_it_wants(void)
{
	struct privileges privileges;
	autostrbuf struct strbuf error = {0};
	const uint64_t given = status_mask("CapPrm") & (1ULL << 13 | 1ULL << 12 | 1ULL << 10);
	CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
	CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
	    {.permitted = (uint32_t)given, .effective = (uint32_t)given, .inheritable = (uint32_t)given}};
	CHECK(syscall(SYS_capset, &header, data) == 0);
	for (unsigned capability = 10; capability < 14; capability++)
		if (given >> capability & 1)
			CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0);
	CHECK(status_mask("CapAmb") == given);
	CHECK(privileges_drop("", false, &privileges, &error) == 0);
	CHECK(!privileges.dropped && !privileges.low_ports && privileges.uid == 65534);
	const uint64_t kept = status_mask("CapPrm");
	CHECK((kept & ~given) == 0 && (kept & (kept - 1)) == 0); // at most one: that for marks
	CHECK(privileges.mark == (kept != 0) && status_mask("CapEff") == kept);
	CHECK(status_mask("CapInh") == 0 && status_mask("CapAmb") == 0);
}

static void gives_up_what_it_was_given(void **state)
{
	(void)state;
	if (geteuid() == 0)
		run_child(keeps_what_it_wants);
}

static void stays_what_it_is(void **state)
{
	(void)state;
	run_child(unprivileged);
}

// As a program's file with CAP_NET_RAW, not effective, leaves it: permitted and not in use.
static void allowed_by_its_file(void)
{
	struct privileges privileges;
	autostrbuf struct strbuf error = {0};
	uint64_t may = status_mask("CapPrm") & (1ULL << 13 | 1ULL << 12);
	CHECK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
	CHECK(setresgid(65534, 65534, 65534) == 0 && setresuid(65534, 65534, 65534) == 0);
	CHECK(status_mask("CapEff") == 0);
	CHECK(privileges_drop(NULL, false, &privileges, &error) == 0);
	CHECK(!privileges.dropped && privileges.mark == (may != 0) && !privileges.low_ports);
	CHECK((status_mask("CapEff") & ~may) == 0);
}

static void uses_what_its_file_allows(void **state)
{
	(void)state;
	if (geteuid() == 0)
		run_child(allowed_by_its_file);
}

static void names_the_missing_user(void **state)
{
	uid_t uid = 7;
	gid_t gid = 7;
	autostrbuf struct strbuf error = {0};
	(void)state;
	assert_int_equal(privileges_user("no-such-user", &uid, &gid, &error), ERR_NOT_FOUND);
	assert_string_equal(error.p, "user 'no-such-user' does not exist");
	assert_int_equal(uid, 7);
}

static void raises_open_files(void **state)
{
	struct rlimit limit;
	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	rlim_t before = limit.rlim_cur;
	limit.rlim_cur = 100;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(privileges_raise_files(), limit.rlim_max);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(limit.rlim_cur, limit.rlim_max);
	limit.rlim_cur = before;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(drops_to_a_user),
	    cmocka_unit_test(keeps_the_user_without_one),
	    cmocka_unit_test(gives_up_what_it_was_given),
	    cmocka_unit_test(stays_what_it_is),
	    cmocka_unit_test(names_the_missing_user),
	    cmocka_unit_test(raises_open_files),
	    cmocka_unit_test(uses_what_its_file_allows),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
