// SPDX-License-Identifier: Apache-2.0
#include "intercept/sockets.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/redirect.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>

enum { ANSWER_MAX = 32 * 1024 };

static void take_address(uint8_t family, const uint32_t words[4], uint16_t port, struct addr *ret_addr)
{
	struct sockaddr_storage sa = {.ss_family = family};
	if (family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&sa;
		memcpy(&in6->sin6_addr, words, 16);
		in6->sin6_port = port;
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)&sa;
		memcpy(&in->sin_addr, words, 4);
		in->sin_port = port;
	}
	addr_from_sockaddr(&sa, ret_addr);
}

static int take_socket(const struct nlmsghdr *nlh, void *arg)
{
	struct socket_list *list = arg;
	const struct inet_diag_msg *diag = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attribute;
	struct socket_info info = {
	    .state = diag->idiag_state, .inode = diag->idiag_inode, .user = diag->idiag_uid,
	    .cookie = diag->id.idiag_cookie[0] | (uint64_t)diag->id.idiag_cookie[1] << 32};
	list->err = mem_grow((void **)&list->sockets, &list->_cap, list->count + 1, sizeof *list->sockets);
	if (list->err)
		return MNL_CB_STOP;
	take_address(diag->idiag_family, diag->id.idiag_src, diag->id.idiag_sport, &info.local);
	take_address(diag->idiag_family, diag->id.idiag_dst, diag->id.idiag_dport, &info.remote);
	mnl_attr_for_each(attribute, nlh, sizeof *diag)
	{
		if (mnl_attr_get_type(attribute) != INET_DIAG_MARK)
			continue;
		info.marks_visible = true;
		info.mark = mnl_attr_get_u32(attribute);
	}
	list->sockets[list->count++] = info;
	return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint8_t family, uint32_t states, struct socket_list *list)
{
	char buf[256], answer[ANSWER_MAX];
	int done = MNL_CB_OK;
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = family;
	struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(nlh, sizeof *request);
	request->sdiag_family = family;
	request->sdiag_protocol = IPPROTO_TCP;
	request->idiag_states = states;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (done == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, sizeof answer);
		done = n < 0 ? MNL_CB_ERROR
			     : mnl_cb_run(answer, (size_t)n, family, mnl_socket_get_portid(nl), take_socket,
					  list);
	}
	return list->err ? list->err : done == MNL_CB_ERROR ? -errno : 0;
}

int socket_list_read(uint32_t states, struct socket_list *ret_list, struct strbuf *ret_error)
{
	struct socket_list list = {0};
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	int err = nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0 ? 0 : -errno;
	if (!err)
		err = dump(nl, AF_INET, states, &list);
	if (!err)
		err = dump(nl, AF_INET6, states, &list);
	if (nl)
		mnl_socket_close(nl);
	if (err) {
		strbuf_printf(ret_error, "the kernel does not list sockets: %s", err_text(err));
		socket_list_done(&list);
		return err;
	}
	*ret_list = list;
	return 0;
}

void socket_list_done(struct socket_list *list)
{
	mem_free(list->sockets);
	*list = (struct socket_list){0};
}

bool socket_is_between(const struct socket_info *info, const struct addr *local, const struct addr *remote)
{
	return addr_eq(&info->local, local) && addr_eq(&info->remote, remote);
}

// As far as a socket tells that goes to the proxy, of which nothing was revealed (ebpf_sockets.h). The proxy is on the loopback
// interface: the kernel has taken an address of that, or the program one of its own.
static bool may_be_between(const struct socket_info *info, const struct addr *local, const struct addr *remote)
{
	return redirect_has(&info->remote.ip) && info->remote.ip.family == remote->ip.family &&
	       info->local.port == local->port &&
	       (ip_is_loopback(&info->local.ip) || ip_eq(&info->local.ip, &local->ip));
}

const struct socket_info *socket_list_find(const struct socket_list *list, const struct addr *local,
					   const struct addr *remote)
{
	const struct socket_info *guess = NULL;
	size_t guesses = 0;
	for (size_t i = 0; i < list->count; i++) {
		const struct socket_info *info = &list->sockets[i];
		if (info->state == TCP_LISTEN)
			continue;
		if (socket_is_between(info, local, remote))
			return info;
		if (may_be_between(info, local, remote)) {
			guess = info;
			guesses++;
		}
	}
	return guesses == 1 ? guess : NULL;
}

// One on "::" takes IPv4 as well, unless told otherwise; that does not show, and is rare.
const struct socket_info *socket_list_listener(const struct socket_list *list, uint8_t family, uint16_t port)
{
	for (size_t i = 0; i < list->count; i++) {
		const struct socket_info *info = &list->sockets[i];
		bool reached = info->local.ip.family == family || ip_is_any(&info->local.ip);
		if (info->state == TCP_LISTEN && info->local.port == port && reached)
			return info;
	}
	return NULL;
}

const char *socket_state_name(uint8_t state)
{
	static const char *const names[] = {[TCP_ESTABLISHED] = "ESTABLISHED",
					    [TCP_SYN_SENT] = "SYN_SENT",
					    [TCP_SYN_RECV] = "SYN_RECV",
					    [TCP_FIN_WAIT1] = "FIN_WAIT1",
					    [TCP_FIN_WAIT2] = "FIN_WAIT2",
					    [TCP_TIME_WAIT] = "TIME_WAIT",
					    [TCP_CLOSE] = "CLOSE",
					    [TCP_CLOSE_WAIT] = "CLOSE_WAIT",
					    [TCP_LAST_ACK] = "LAST_ACK",
					    [TCP_LISTEN] = "LISTEN",
					    [TCP_CLOSING] = "CLOSING"};
	return state < ARRAY_SIZE(names) && names[state] ? names[state] : "-";
}
