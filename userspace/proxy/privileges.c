// SPDX-License-Identifier: Apache-2.0
#include "proxy/privileges.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

enum { GROUPS_MAX = 256, PASSWD_BUFFER = 16384 };

static uint64_t bit(unsigned capability)
{
	return 1ULL << capability;
}

// --- system calls that glibc has no wrapper for -----------------------------------------------------------
static int caps_get(uint64_t *ret_permitted, uint64_t *ret_effective)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	*ret_permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	*ret_effective = data[0].effective | (uint64_t)data[1].effective << 32;
	return 0;
}

static int caps_set(uint64_t caps)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
	    {.permitted = (uint32_t)caps, .effective = (uint32_t)caps},
	    {.permitted = (uint32_t)(caps >> 32), .effective = (uint32_t)(caps >> 32)}};
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

// --- what to keep -----------------------------------------------------------------------------------------
// CAP_NET_RAW suffices for SO_MARK since Linux 5.17.
static unsigned mark_capability(void)
{
	struct utsname name;
	unsigned major = 0, minor = 0;
	if (uname(&name) == 0 && sscanf(name.release, "%u.%u", &major, &minor) == 2 &&
	    (major > 5 || (major == 5 && minor >= 17)))
		return CAP_NET_RAW;
	return CAP_NET_ADMIN;
}

// Not a look at the capabilities but an attempt: what counts is whether it works.
static bool can_mark(void)
{
	autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned mark = 1;
	return fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) == 0;
}

// --- the user ---------------------------------------------------------------------------------------------
int privileges_user(const char *user, uid_t *ret_uid, gid_t *ret_gid, struct strbuf *ret_error)
{
	struct passwd entry, *found = NULL;
	autofree char *buffer = mem_alloc(PASSWD_BUFFER);
	if (!buffer)
		return -ENOMEM;
	int error = getpwnam_r(user, &entry, buffer, PASSWD_BUFFER, &found);
	if (!found) {
		strbuf_printf(ret_error, "user '%s' does not exist", user);
		if (error)
			strbuf_printf(ret_error, ": %s", err_text(-error));
		return ERR_NOT_FOUND;
	}
	*ret_uid = entry.pw_uid;
	*ret_gid = entry.pw_gid;
	return 0;
}

static int fail(struct strbuf *ret_error, const char *what, int err)
{
	strbuf_printf(ret_error, "cannot give up privileges: %s: %s", what, err_text(err));
	return err;
}

static int become(const char *user, uid_t uid, gid_t gid, struct strbuf *ret_error)
{
	gid_t groups[GROUPS_MAX];
	int count = GROUPS_MAX;
	if (getgrouplist(user, gid, groups, &count) < 0)
		return fail(ret_error, "too many groups", -E2BIG);
	if (setgroups((size_t)count, groups) < 0)
		return fail(ret_error, "setgroups", -errno);
	if (setresgid(gid, gid, gid) < 0)
		return fail(ret_error, "setgid", -errno);
	if (setresuid(uid, uid, uid) < 0)
		return fail(ret_error, "setuid", -errno);
	return 0;
}

// --- capabilities -----------------------------------------------------------------------------------------
// Nothing outside `keep` can come back by an exec. Ends at the first number that this kernel does not know.
static int drop_bounding(uint64_t keep, struct strbuf *ret_error)
{
	for (unsigned capability = 0; capability < 64; capability++) {
		if (keep & bit(capability))
			continue;
		if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break;
			// Not to be allowed to drop is to be confined already.
			if (errno != EPERM)
				return fail(ret_error, "capability bounding set", -errno);
		}
	}
	return 0;
}

static int verify(uid_t uid, gid_t gid, uint64_t keep, struct strbuf *ret_error)
{
	uid_t uids[3];
	gid_t gids[3];
	uint64_t permitted, effective;
	int err = caps_get(&permitted, &effective);
	if (err)
		return fail(ret_error, "capget", err);
	if (permitted != keep || effective != keep)
		return fail(ret_error, "capabilities are not as asked for", -EPERM);
	getresuid(&uids[0], &uids[1], &uids[2]);
	getresgid(&gids[0], &gids[1], &gids[2]);
	for (int i = 0; i < 3; i++)
		if (uids[i] != uid || gids[i] != gid)
			return fail(ret_error, "user and group are not as asked for", -EPERM);
	if (uid != 0 && setresuid(-1, 0, -1) == 0)
		return fail(ret_error, "the way back to root is open", -EPERM);
	return 0;
}

// Ambient and inheritable ones go as well, so that no program executed later has any.
static int keep_only(uint64_t keep, struct strbuf *ret_error)
{
	int err = caps_set(keep);
	if (err)
		return fail(ret_error, "capset", err);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return 0;
}

static int drop_root(const char *user, uint64_t keep, struct privileges *privileges, struct strbuf *ret_error)
{
	int err = drop_bounding(keep, ret_error);
	if (err)
		return err;
	if (user && *user) {
		if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
			return fail(ret_error, "keepcaps", -errno);
		err = become(user, privileges->uid, privileges->gid, ret_error);
		if (err)
			return err;
	}
	err = keep_only(keep, ret_error);
	if (err)
		return err;
	prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	privileges->dropped = true;
	return verify(privileges->uid, privileges->gid, keep, ret_error);
}

int privileges_drop(const char *user, bool low_ports, struct privileges *ret_privileges,
		    struct strbuf *ret_error)
{
	struct privileges privileges = {.uid = geteuid(), .gid = getegid()};
	uint64_t permitted, effective,
	    keep = bit(mark_capability()) | (low_ports ? bit(CAP_NET_BIND_SERVICE) : 0);
	int err = caps_get(&permitted, &effective);
	if (err)
		return fail(ret_error, "capget", err);
	keep &= permitted;
	if (geteuid() != 0)
		err = keep_only(keep, ret_error);
	else if (user && *user)
		err = privileges_user(user, &privileges.uid, &privileges.gid, ret_error);
	if (geteuid() == 0 && err == 0)
		err = drop_root(user, keep, &privileges, ret_error);
	if (err)
		return err;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return fail(ret_error, "no_new_privs", -errno);
	privileges.mark = can_mark();
	privileges.low_ports = keep & bit(CAP_NET_BIND_SERVICE);
	*ret_privileges = privileges;
	return 0;
}

uint64_t privileges_raise_files(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	rlim_t before = limit.rlim_cur;
	limit.rlim_cur = limit.rlim_max;
	return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before;
}
