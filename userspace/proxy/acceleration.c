// SPDX-License-Identifier: Apache-2.0
#include "proxy/acceleration.h"

#include "base/error.h"
#include "base/mem.h"
#include "bpf/bypass.h"
#include "intercept/ebpf_place.h"
#include "net/bypass.h"
#include "proxy/acceleration_check.h"

#include <errno.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf/bypass.lskel.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

enum { LINKS = 3 };

struct acceleration {
	struct bypass *skeleton;
	int dead_end[2];  // a connection of which the first end can send nothing
	int links[LINKS]; // of programs to the control group
};

int acceleration_say(struct strbuf *why, int err, const char *what)
{
	strbuf_printf(why, "%s: %s%s", what, err_text(err),
		      err == -EPERM || err == -EACCES
			  ? "; it needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or to be started as root"
			  : "");
	return err;
}

static int own_netns(uint64_t *ret_cookie)
{
	autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof *ret_cookie;
	return fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret_cookie, &len) == 0 ? 0 : -errno;
}

static int load(struct acceleration *acceleration, uint16_t outbound_port, uint16_t inbound_port,
		struct strbuf *why)
{
	uint64_t netns;
	int err = own_netns(&netns);
	if (err)
		return acceleration_say(why, err, "the kernel does not tell network namespaces apart");
	struct bypass *skeleton = acceleration->skeleton = bypass__open();
	if (!skeleton)
		return -ENOMEM;
	skeleton->rodata->weir_netns = netns;
	skeleton->bss->weir_ports[BYPASS_OUTBOUND] = outbound_port;
	skeleton->bss->weir_ports[BYPASS_INBOUND] = inbound_port;
	err = bypass__load(skeleton);
	return err ? acceleration_say(why, err, "the kernel refuses the programs of the local bypass") : 0;
}

int acceleration_attach(int map, int program, enum bpf_attach_type hook)
{
	union bpf_attr attr = {
	    .target_fd = (uint32_t)map, .attach_bpf_fd = (uint32_t)program, .attach_type = hook};
	return syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) < 0 ? -errno : 0;
}

// The hierarchy of control groups mounted for us alone and nowhere: where it is mounted may be hidden (ip
// netns exec).
static int mount_cgroups(void)
{
	autoclose int context = fsopen("cgroup2", FSOPEN_CLOEXEC);
	if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	int fd = fsmount(context, FSMOUNT_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int attach_to_group(struct acceleration *acceleration, int cgroup)
{
	const struct {
		int program;
		enum bpf_attach_type hook;
	} rows[LINKS] = {
	    {acceleration->skeleton->progs.weir_meet.prog_fd, BPF_CGROUP_SOCK_OPS},
	    {acceleration->skeleton->progs.weir_dial4.prog_fd, BPF_CGROUP_INET4_CONNECT},
	    {acceleration->skeleton->progs.weir_dial6.prog_fd, BPF_CGROUP_INET6_CONNECT},
	};
	for (size_t i = 0; i < LINKS; i++) {
		acceleration->links[i] = skel_link_create(rows[i].program, cgroup, rows[i].hook);
		if (acceleration->links[i] < 0)
			return -errno;
	}
	return 0;
}

static int attach(struct acceleration *acceleration, struct strbuf *why)
{
	const struct ebpf_place nowhere = {0};
	char unused[EBPF_PATH_MAX];
	int cgroup = mount_cgroups();
	int err = cgroup < 0 ? ebpf_place_cgroup(&nowhere, NULL, &cgroup, unused, why) : 0;
	if (err)
		return err;
	err = acceleration_attach(acceleration->skeleton->maps.weir_bypassed.map_fd,
				  acceleration->skeleton->progs.weir_bypass.prog_fd, BPF_SK_MSG_VERDICT);
	if (!err)
		err = attach_to_group(acceleration, cgroup);
	close(cgroup);
	return err ? acceleration_say(why, err, "the programs of the local bypass cannot be attached") : 0;
}

// Two ends of a connection over loopback. 0 or a negative error.
static int connect_pair(int ret_fds[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof address;
	autoclose int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	ret_fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	if (listener < 0 || ret_fds[0] < 0 || bind(listener, (struct sockaddr *)&address, len) < 0 ||
	    listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &len) < 0 ||
	    connect(ret_fds[0], (struct sockaddr *)&address, len) < 0)
		return -errno;
	ret_fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return ret_fds[1] < 0 ? -errno : 0;
}

static int make_dead_end(struct acceleration *acceleration, struct strbuf *why)
{
	uint64_t key = BYPASS_DEAD_END, value;
	int err = connect_pair(acceleration->dead_end);
	value = (uint64_t)acceleration->dead_end[0];
	if (!err && (skel_map_update_elem(acceleration->skeleton->maps.weir_bypassed.map_fd, &key, &value,
					  BPF_ANY) < 0 ||
		     shutdown(acceleration->dead_end[0], SHUT_WR) < 0))
		err = -errno;
	return err ? acceleration_say(why, err, "the local bypass cannot be set up") : 0;
}

// The test's connections are bypassed as those to the proxy are.
static int check(const struct acceleration *acceleration, struct strbuf *why)
{
	struct bypass *skeleton = acceleration->skeleton;
	struct bypass_handles handles = {.sockets = skeleton->maps.weir_bypassed.map_fd,
					 .ends = skeleton->maps.weir_ends.map_fd,
					 .leaving = skeleton->maps.weir_leaving.map_fd,
					 .joins = skeleton->maps.weir_joins.map_fd,
					 .outlets = skeleton->maps.weir_outlets.map_fd,
					 .counts = skeleton->maps.weir_counts.map_fd,
					 .turns = &skeleton->bss->weir_turns,
					 .refusals = &skeleton->bss->weir_refusals};
	bypass_set(&handles);
	int err = acceleration_check(&skeleton->bss->weir_ports[BYPASS_TEST], why);
	skeleton->bss->weir_ports[BYPASS_TEST] = 0;
	bypass_set(&handles); // without what the test counted
	return err;
}

int acceleration_start(uint16_t outbound_port, uint16_t inbound_port, struct acceleration **ret_acceleration,
		       struct strbuf *ret_why)
{
	struct acceleration *acceleration = mem_zalloc(sizeof *acceleration);
	if (!acceleration)
		return -ENOMEM;
	acceleration->dead_end[0] = acceleration->dead_end[1] = -1;
	for (size_t i = 0; i < LINKS; i++)
		acceleration->links[i] = -1;
	int err = load(acceleration, outbound_port, inbound_port, ret_why);
	if (!err)
		err = attach(acceleration, ret_why);
	if (!err)
		err = make_dead_end(acceleration, ret_why);
	if (!err)
		err = check(acceleration, ret_why);
	if (err) {
		acceleration_stop(acceleration);
		return err;
	}
	*ret_acceleration = acceleration;
	return 0;
}

void acceleration_stop(struct acceleration *acceleration)
{
	if (!acceleration)
		return;
	bypass_set(NULL);
	for (int i = 0; i < 2; i++)
		if (acceleration->dead_end[i] >= 0)
			close(acceleration->dead_end[i]);
	for (size_t i = 0; i < LINKS; i++)
		if (acceleration->links[i] >= 0)
			close(acceleration->links[i]);
	bypass__destroy(acceleration->skeleton);
	mem_free(acceleration);
}
