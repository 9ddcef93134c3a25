// SPDX-License-Identifier: Apache-2.0
#include "intercept/routes.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/route_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <unistd.h>

enum { ANSWER_MAX = 32 * 1024, LOOPBACK_INDEX = 1 };

struct route_list {
	struct vip_route *routes;
	size_t count, cap;
	int err;
};

int route_say(struct strbuf *error, int err, const char *what)
{
	if (err == -EPERM)
		strbuf_printf(
		    error,
		    "%s: not permitted; it needs the capability CAP_NET_ADMIN in this network namespace",
		    what);
	else if (err == -EEXIST)
		strbuf_printf(error, "%s: there is another route for it, which does not reach anything",
			      what);
	else if (err == -ENETDOWN)
		strbuf_printf(error, "%s: the loopback interface is down (ip link set lo up)", what);
	else
		strbuf_printf(error, "%s: %s", what, err_text(err));
	return err;
}

// --- netlink -----------------------------------------------------------------------------------------------
int route_open(struct mnl_socket **ret_socket, struct strbuf *error)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
	if (!nl) {
		int err = -errno;
		route_say(error, err, "cannot reach the kernel's routing tables");
		if (err == -EAFNOSUPPORT)
			strbuf_add_text(error, "; AF_NETLINK has to be in RestrictAddressFamilies of its unit");
		return err;
	}
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
		int err = -errno;
		mnl_socket_close(nl);
		return route_say(error, err, "cannot reach the kernel's routing tables");
	}
	*ret_socket = nl;
	return 0;
}

int route_talk(struct mnl_socket *nl, struct nlmsghdr *request, mnl_cb_t fn, void *arg)
{
	char answer[ANSWER_MAX];
	int done = MNL_CB_OK;
	request->nlmsg_seq = 1;
	if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
		return -errno;
	while (done == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, sizeof answer);
		done = n < 0 ? MNL_CB_ERROR
			     : mnl_cb_run(answer, (size_t)n, 1, mnl_socket_get_portid(nl), fn, arg);
	}
	return done == MNL_CB_ERROR ? -errno : 0;
}

static size_t ip_len(const struct ip *ip)
{
	return ip->family == AF_INET6 ? 16 : 4;
}

static struct rtmsg *begin(char *buf, uint16_t type, uint16_t flags, uint8_t family)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof *rtm);
	rtm->rtm_family = family;
	return rtm;
}

// --- looking up --------------------------------------------------------------------------------------------
struct path {
	struct ip source;
	uint32_t interface; // index
	uint8_t type;	    // RTN_*
};

static int take_path(const struct nlmsghdr *nlh, void *arg)
{
	struct path *path = arg;
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attribute;
	path->type = rtm->rtm_type;
	mnl_attr_for_each(attribute, nlh, sizeof *rtm)
	{
		if (mnl_attr_get_type(attribute) == RTA_OIF)
			path->interface = mnl_attr_get_u32(attribute);
		if (mnl_attr_get_type(attribute) != RTA_PREFSRC)
			continue;
		path->source.family = rtm->rtm_family;
		memcpy(path->source.bytes, mnl_attr_get_payload(attribute), ip_len(&path->source));
	}
	return MNL_CB_OK;
}

// How the kernel would reach the address. 0 with the interface and the source that it would take;
// -ENETUNREACH if it would not.
static int lookup(struct mnl_socket *nl, const struct ip *ip, struct path *ret_path)
{
	char buf[256];
	struct path path = {0};
	struct rtmsg *rtm = begin(buf, RTM_GETROUTE, NLM_F_ACK, ip->family);
	rtm->rtm_dst_len = (uint8_t)(ip_len(ip) * 8);
	mnl_attr_put((struct nlmsghdr *)buf, RTA_DST, ip_len(ip), ip->bytes);
	int err = route_talk(nl, (struct nlmsghdr *)buf, take_path, &path);
	// What "unreachable", "prohibit" and "blackhole" routes answer; for our purpose it is the same.
	if (err == -EHOSTUNREACH || err == -EACCES || err == -EINVAL)
		err = -ENETUNREACH;
	if (err == 0)
		*ret_path = path;
	return err;
}

// Whether the loopback interface does without the family: there is nothing that routes could use.
static bool family_is_off(uint8_t family)
{
	autoclose int fd =
	    family == AF_INET6 ? open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", O_RDONLY | O_CLOEXEC) : -1;
	char off;
	return fd >= 0 && read(fd, &off, 1) == 1 && off == '1';
}

// --- changing ----------------------------------------------------------------------------------------------
static int change(struct mnl_socket *nl, uint16_t type, uint16_t flags, const struct vip_route *route)
{
	char buf[256];
	struct nlmsghdr *nlh = (struct nlmsghdr *)buf;
	const struct cidr *to = &route->destination;
	struct rtmsg *rtm = begin(buf, type, (uint16_t)(flags | NLM_F_ACK), to->ip.family);
	rtm->rtm_dst_len = to->bits;
	rtm->rtm_table = RT_TABLE_MAIN;
	rtm->rtm_protocol = ROUTE_PROTOCOL_WEIR;
	rtm->rtm_scope = RT_SCOPE_UNIVERSE;
	rtm->rtm_type = RTN_UNICAST;
	mnl_attr_put(nlh, RTA_DST, ip_len(&to->ip), to->ip.bytes);
	mnl_attr_put_u32(nlh, RTA_OIF, LOOPBACK_INDEX);
	if (route->source.family)
		mnl_attr_put(nlh, RTA_PREFSRC, ip_len(&route->source), route->source.bytes);
	return route_talk(nl, nlh, NULL, NULL);
}

static bool source_is_usable(const struct ip *source)
{
	bool link_local =
	    source->family == AF_INET6 && source->bytes[0] == 0xfe && (source->bytes[1] & 0xc0) == 0x80;
	return source->family && !ip_is_any(source) && !link_local;
}

// Leaves the choice of the source to the kernel, which takes the pod's address. With no address but those of
// the loopback interface and link-local ones it finds none that works across interfaces: then it is the
// loopback address.
static int add_route(struct mnl_socket *nl, const struct cidr *vips)
{
	struct vip_route route = {.destination = *vips};
	struct path path = {0};
	int err = change(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route);
	if (err)
		return err;
	if (lookup(nl, &vips->ip, &path) == 0 && source_is_usable(&path.source))
		return 0;
	route.source = vips->ip.family == AF_INET ? (struct ip){AF_INET, {127, 0, 0, 1}}
						  : (struct ip){AF_INET6, {[15] = 1}};
	change(nl, RTM_DELROUTE, 0, &(struct vip_route){.destination = *vips});
	return change(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route);
}

// --- listing -----------------------------------------------------------------------------------------------
static int take_route(const struct nlmsghdr *nlh, void *arg)
{
	struct route_list *list = arg;
	const struct rtmsg *rtm = mnl_nlmsg_get_payload(nlh);
	const struct nlattr *attribute;
	struct vip_route route = {0};
	if (nlh->nlmsg_type != RTM_NEWROUTE || rtm->rtm_protocol != ROUTE_PROTOCOL_WEIR ||
	    rtm->rtm_table != RT_TABLE_MAIN)
		return MNL_CB_OK;
	route.destination = (struct cidr){.ip.family = rtm->rtm_family, .bits = rtm->rtm_dst_len};
	mnl_attr_for_each(attribute, nlh, sizeof *rtm)
	{
		struct ip *ip = mnl_attr_get_type(attribute) == RTA_DST	      ? &route.destination.ip
				: mnl_attr_get_type(attribute) == RTA_PREFSRC ? &route.source
									      : NULL;
		if (!ip)
			continue;
		ip->family = rtm->rtm_family;
		memcpy(ip->bytes, mnl_attr_get_payload(attribute), ip_len(ip));
	}
	list->err = mem_grow((void **)&list->routes, &list->cap, list->count + 1, sizeof *list->routes);
	if (list->err)
		return MNL_CB_STOP;
	list->routes[list->count++] = route;
	return MNL_CB_OK;
}

static int list_routes(struct mnl_socket *nl, struct route_list *list)
{
	static const uint8_t families[] = {AF_INET, AF_INET6};
	int err = 0;
	for (size_t i = 0; i < ARRAY_SIZE(families) && err == 0; i++) {
		char buf[256];
		begin(buf, RTM_GETROUTE, NLM_F_DUMP, families[i]);
		err = route_talk(nl, (struct nlmsghdr *)buf, take_route, list);
		// A kernel without IPv6.
		if (err == -EOPNOTSUPP || err == -EAFNOSUPPORT)
			err = 0;
		if (err == 0)
			err = list->err;
	}
	return err;
}

static bool cidr_eq(const struct cidr *a, const struct cidr *b)
{
	return a->bits == b->bits && ip_eq(&a->ip, &b->ip);
}

static bool is_listed(const struct route_list *list, const struct cidr *cidr)
{
	for (size_t i = 0; i < list->count; i++)
		if (cidr_eq(&list->routes[i].destination, cidr))
			return true;
	return false;
}

static bool is_among(const struct cidr *cidrs, size_t count, const struct cidr *cidr)
{
	for (size_t i = 0; i < count; i++)
		if (cidr_eq(&cidrs[i], cidr))
			return true;
	return false;
}

// --- the public ones ---------------------------------------------------------------------------------------
// Removes routes of
// ours that are for none of the ranges.
static int remove_others(struct mnl_socket *nl, const struct route_list *list, const struct cidr *vips,
			 size_t count)
{
	for (size_t i = 0; i < list->count; i++) {
		if (is_among(vips, count, &list->routes[i].destination))
			continue;
		int err = change(nl, RTM_DELROUTE, 0, &list->routes[i]);
		if (err && err != -ESRCH)
			return err;
	}
	return 0;
}

static bool is_needed(struct mnl_socket *nl, const struct cidr *vips)
{
	struct path path;
	return !family_is_off(vips->ip.family) && lookup(nl, &vips->ip, &path) == -ENETUNREACH;
}

// On failure *ret_failed is the range that it is about.
static int add_missing(struct mnl_socket *nl, const struct route_list *list, const struct cidr *vips,
		       size_t count, const struct cidr **ret_failed)
{
	int err = 0;
	for (size_t i = 0; i < count && err == 0; i++) {
		if (!is_listed(list, &vips[i]) && is_needed(nl, &vips[i]))
			err = add_route(nl, &vips[i]);
		if (err)
			*ret_failed = &vips[i];
	}
	return err;
}

int routes_needed(const struct cidr *vips, size_t count, bool *ret_needed, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct route_list list = {0};
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	err = list_routes(nl, &list);
	for (size_t i = 0; i < count && err == 0; i++)
		ret_needed[i] = is_listed(&list, &vips[i]) || is_needed(nl, &vips[i]);
	mem_free(list.routes);
	mnl_socket_close(nl);
	return err ? route_say(ret_error, err, "cannot list routes") : 0;
}

static int lookup_once(const struct ip *ip, struct path *ret_path)
{
	autostrbuf struct strbuf ignored = {0};
	struct mnl_socket *nl;
	int err = route_open(&nl, &ignored);
	if (err)
		return err;
	err = lookup(nl, ip, ret_path);
	mnl_socket_close(nl);
	return err;
}

int routes_interface(const struct ip *ip, char ret_name[IFNAMSIZ])
{
	struct path path;
	int err = lookup_once(ip, &path);
	if (err == 0 && !if_indextoname(path.interface, ret_name))
		err = -errno;
	return err;
}

bool routes_is_local(const struct ip *ip)
{
	struct path path;
	return lookup_once(ip, &path) == 0 && path.type == RTN_LOCAL;
}

static int say_routes(struct strbuf *error, int err, const struct cidr *vips)
{
	char what[64 + ADDR_TEXT_MAX], text[ADDR_TEXT_MAX];
	snprintf(what, sizeof what, "cannot lay a route for the virtual IPs %s", cidr_format(vips, text));
	return route_say(error, err, what);
}

int routes_apply(const struct cidr *vips, size_t count, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct route_list list = {0};
	const struct cidr *failed = NULL;
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	err = list_routes(nl, &list);
	if (err == 0)
		err = remove_others(nl, &list, vips, count);
	if (err == 0)
		err = add_missing(nl, &list, vips, count, &failed);
	mem_free(list.routes);
	mnl_socket_close(nl);
	if (failed)
		return say_routes(ret_error, err, failed);
	return err ? route_say(ret_error, err, "cannot change the routes of virtual IPs") : 0;
}

int routes_list(struct vip_route **ret_routes, size_t *ret_count, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct route_list list = {0};
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	err = list_routes(nl, &list);
	mnl_socket_close(nl);
	if (err) {
		mem_free(list.routes);
		return route_say(ret_error, err, "cannot list routes");
	}
	*ret_routes = list.routes;
	*ret_count = list.count;
	return 0;
}

int routes_remove(struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct route_list list = {0};
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	err = list_routes(nl, &list);
	if (err == 0)
		err = remove_others(nl, &list, NULL, 0);
	mem_free(list.routes);
	mnl_socket_close(nl);
	return err ? route_say(ret_error, err, "cannot remove routes") : 0;
}

// Connections to such a network have the loopback address for their own, whatever others the host has.
static int change_local(const struct cidr *network, uint16_t type, uint16_t flags)
{
	autostrbuf struct strbuf ignored = {0};
	char buf[256];
	struct nlmsghdr *nlh = (struct nlmsghdr *)buf;
	struct mnl_socket *nl;
	static const uint8_t loopback[16] = {[15] = 1};
	int err = route_open(&nl, &ignored);
	if (err)
		return err;
	struct rtmsg *rtm = begin(buf, type, (uint16_t)(flags | NLM_F_ACK), network->ip.family);
	rtm->rtm_dst_len = network->bits;
	rtm->rtm_table = RT_TABLE_LOCAL;
	rtm->rtm_protocol = ROUTE_PROTOCOL_WEIR;
	rtm->rtm_scope = RT_SCOPE_HOST;
	rtm->rtm_type = RTN_LOCAL;
	mnl_attr_put(nlh, RTA_DST, ip_len(&network->ip), network->ip.bytes);
	mnl_attr_put_u32(nlh, RTA_OIF, LOOPBACK_INDEX);
	if (network->ip.family == AF_INET6)
		mnl_attr_put(nlh, RTA_PREFSRC, sizeof loopback, loopback);
	err = route_talk(nl, nlh, NULL, NULL);
	mnl_socket_close(nl);
	return err;
}

int routes_local_add(const struct cidr *network, bool *ret_added, struct strbuf *ret_error)
{
	*ret_added = false;
	if (family_is_off(network->ip.family))
		return 0;
	int err = change_local(network, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
	*ret_added = err == 0;
	if (err == -EEXIST) // perhaps with another source
		err = change_local(network, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
	return err ? route_say(ret_error, err, "cannot make the network for redirected connections local")
		   : 0;
}

bool routes_local_is_there(const struct cidr *network)
{
	return family_is_off(network->ip.family) || routes_is_local(&network->ip);
}

void routes_local_print(const struct cidr *network, struct strbuf *out)
{
	char text[ADDR_TEXT_MAX];
	bool six = network->ip.family == AF_INET6;
	if (!family_is_off(network->ip.family))
		strbuf_printf(out, "ip%s route add local %s dev lo%s proto %d\n", six ? " -6" : "",
			      cidr_format(network, text), six ? " src ::1" : "", ROUTE_PROTOCOL_WEIR);
}

int routes_local_remove(const struct cidr *network, struct strbuf *ret_error)
{
	int err = change_local(network, RTM_DELROUTE, 0);
	if (err == -ESRCH || err == -EOPNOTSUPP || err == -EAFNOSUPPORT || err == -ENODEV)
		return ERR_NOT_FOUND;
	return err ? route_say(ret_error, err, "cannot remove the network for redirected connections") : 0;
}
