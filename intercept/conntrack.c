// SPDX-License-Identifier: Apache-2.0
#include "intercept/conntrack.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

enum { ANSWER_MAX = 64 * 1024 };

// One direction of an entry.
struct tuple {
	uint8_t protocol;
	struct addr source, dest;
};

static void take_ip(const struct nlattr *attribute, uint8_t family, struct ip *ret_ip)
{
	size_t len = family == AF_INET6 ? 16 : 4;
	if (mnl_attr_get_payload_len(attribute) < len)
		return;
	ret_ip->family = family;
	memcpy(ret_ip->bytes, mnl_attr_get_payload(attribute), len);
}

static int take_address(const struct nlattr *attribute, void *arg)
{
	struct tuple *tuple = arg;
	switch (mnl_attr_get_type(attribute)) {
	case CTA_IP_V4_SRC:
		take_ip(attribute, AF_INET, &tuple->source.ip);
		break;
	case CTA_IP_V4_DST:
		take_ip(attribute, AF_INET, &tuple->dest.ip);
		break;
	case CTA_IP_V6_SRC:
		take_ip(attribute, AF_INET6, &tuple->source.ip);
		break;
	case CTA_IP_V6_DST:
		take_ip(attribute, AF_INET6, &tuple->dest.ip);
		break;
	}
	return MNL_CB_OK;
}

static int take_ports(const struct nlattr *attribute, void *arg)
{
	struct tuple *tuple = arg;
	size_t len = mnl_attr_get_payload_len(attribute);
	if (mnl_attr_get_type(attribute) == CTA_PROTO_NUM && len >= 1)
		tuple->protocol = mnl_attr_get_u8(attribute);
	else if (mnl_attr_get_type(attribute) == CTA_PROTO_SRC_PORT && len >= 2)
		tuple->source.port = ntohs(mnl_attr_get_u16(attribute));
	else if (mnl_attr_get_type(attribute) == CTA_PROTO_DST_PORT && len >= 2)
		tuple->dest.port = ntohs(mnl_attr_get_u16(attribute));
	return MNL_CB_OK;
}

static int take_part(const struct nlattr *attribute, void *arg)
{
	if (mnl_attr_get_type(attribute) == CTA_TUPLE_IP)
		mnl_attr_parse_nested(attribute, take_address, arg);
	else if (mnl_attr_get_type(attribute) == CTA_TUPLE_PROTO)
		mnl_attr_parse_nested(attribute, take_ports, arg);
	return MNL_CB_OK;
}

// Kept if the answers come from elsewhere than where the connection went.
static int take_entry(const struct nlmsghdr *nlh, void *arg)
{
	struct redirected_list *list = arg;
	struct tuple there = {0}, back = {0};
	const struct nlattr *attribute;
	mnl_attr_for_each(attribute, nlh, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attribute) == CTA_TUPLE_ORIG)
			mnl_attr_parse_nested(attribute, take_part, &there);
		else if (mnl_attr_get_type(attribute) == CTA_TUPLE_REPLY)
			mnl_attr_parse_nested(attribute, take_part, &back);
	}
	bool flows = there.protocol == IPPROTO_TCP || there.protocol == IPPROTO_UDP;
	if (!flows || !back.dest.ip.family || addr_eq(&back.source, &there.dest))
		return MNL_CB_OK;
	list->err = mem_grow((void **)&list->entries, &list->_cap, list->count + 1, sizeof *list->entries);
	if (list->err)
		return MNL_CB_STOP;
	list->entries[list->count++] =
	    (struct redirected){there.protocol, back.dest, back.source, there.dest};
	return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, uint8_t family, struct redirected_list *list)
{
	char buf[256];
	int done = MNL_CB_OK;
	autofree char *answer = mem_alloc(ANSWER_MAX);
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	nlh->nlmsg_seq = family;
	struct nfgenmsg *head = mnl_nlmsg_put_extra_header(nlh, sizeof *head);
	head->nfgen_family = family;
	head->version = NFNETLINK_V0;
	if (!answer)
		return -ENOMEM;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -errno;
	while (done == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, ANSWER_MAX);
		done = n < 0 ? MNL_CB_ERROR
			     : mnl_cb_run(answer, (size_t)n, family, mnl_socket_get_portid(nl), take_entry,
					  list);
	}
	return list->err ? list->err : done == MNL_CB_ERROR ? -errno : 0;
}

int redirected_list_read(struct redirected_list *ret_list, struct strbuf *ret_error)
{
	struct redirected_list list = {0};
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	int err = nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0 ? 0 : -errno;
	if (!err)
		err = dump(nl, AF_INET, &list);
	if (!err)
		err = dump(nl, AF_INET6, &list);
	if (nl)
		mnl_socket_close(nl);
	if (err) {
		strbuf_printf(ret_error, "connection tracking cannot be read: %s%s", err_text(err),
			      err == -EPERM ? " (it takes CAP_NET_ADMIN)" : "");
		redirected_list_done(&list);
		return err;
	}
	*ret_list = list;
	return 0;
}

void redirected_list_done(struct redirected_list *list)
{
	mem_free(list->entries);
	*list = (struct redirected_list){0};
}
