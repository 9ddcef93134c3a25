// SPDX-License-Identifier: Apache-2.0
// The way back of connections that the proxy makes to the application from its client's address.
#include "intercept/routes.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/route_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <unistd.h>

enum {
	LOOPBACK_INDEX = 1,
	// Of our rules; added to it is, by bits, which settings were 0 before.
	PROTOCOL_FIRST = ROUTE_PROTOCOL_WEIR,
	PROTOCOL_LAST = ROUTE_PROTOCOL_WEIR + 7,
};

// Sockets take over the mark of what they accept; refusals carry that of what they refuse.
static const char *const settings[] = {"net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect",
				       "net/ipv6/fwmark_reflect"};

// What is there in one family.
struct laid {
	bool rule, other;  // of ours, with this mark; of ours, with another
	unsigned were_off; // settings, by bits
	uint32_t mark, mask;
};

// --- settings ----------------------------------------------------------------------------------------------
static int open_setting(size_t i, int flags)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/sys/%s", settings[i]);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int write_setting(size_t i, bool on)
{
	autoclose int fd = open_setting(i, O_WRONLY);
	if (fd < 0)
		return fd;
	return write(fd, on ? "1" : "0", 1) == 1 ? 0 : -errno;
}

// *ret_was_off: it was 0 before. A family that is not there needs none.
static int switch_on(size_t i, bool *ret_was_off)
{
	char value = '1';
	autoclose int fd = open_setting(i, O_RDONLY);
	*ret_was_off = false;
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	if (read(fd, &value, 1) != 1)
		return -EIO;
	*ret_was_off = value == '0';
	return *ret_was_off ? write_setting(i, true) : 0;
}

static void switch_off(unsigned which)
{
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++)
		if (which >> i & 1)
			write_setting(i, false);
}

static int switch_all_on(unsigned *ret_were_off, struct strbuf *error)
{
	unsigned were_off = 0;
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		bool off;
		int err = switch_on(i, &off);
		if (err) {
			switch_off(were_off);
			strbuf_printf(
			    error,
			    "inbound source client needs net.ipv4.tcp_fwmark_accept=1, "
			    "net.ipv4.fwmark_reflect=1 and net.ipv6.fwmark_reflect=1 in this network "
			    "namespace, and they cannot be set here: %s (in Kubernetes: "
			    "securityContext.sysctls of the pod)",
			    err_text(err));
			return err;
		}
		were_off |= (unsigned)off << i;
	}
	*ret_were_off = were_off;
	return 0;
}

// --- rules and routes --------------------------------------------------------------------------------------
static int change_rule(struct mnl_socket *nl, uint16_t type, uint16_t flags, uint8_t family,
		       const struct return_way *way, uint8_t protocol)
{
	char buf[256];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(nlh, sizeof *rule);
	rule->family = family;
	rule->action = FR_ACT_TO_TBL;
	mnl_attr_put_u32(nlh, FRA_TABLE, RETURN_TABLE);
	mnl_attr_put_u32(nlh, FRA_PRIORITY, RETURN_PRIORITY);
	mnl_attr_put_u32(nlh, FRA_FWMARK, way->mark);
	mnl_attr_put_u32(nlh, FRA_FWMASK, way->mask);
	mnl_attr_put_u8(nlh, FRA_PROTOCOL, protocol);
	return route_talk(nl, nlh, NULL, NULL);
}

// All addresses are this host's.
static int change_route(struct mnl_socket *nl, uint16_t type, uint16_t flags, uint8_t family)
{
	char buf[256];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof *rtm);
	rtm->rtm_family = family;
	rtm->rtm_protocol = ROUTE_PROTOCOL_WEIR;
	rtm->rtm_scope = RT_SCOPE_HOST;
	rtm->rtm_type = RTN_LOCAL;
	mnl_attr_put_u32(nlh, RTA_TABLE, RETURN_TABLE);
	mnl_attr_put_u32(nlh, RTA_OIF, LOOPBACK_INDEX);
	return route_talk(nl, nlh, NULL, NULL);
}

static int take_rule(const struct nlmsghdr *nlh, void *arg)
{
	struct laid *laid = arg, found = {.mask = UINT32_MAX};
	const struct nlattr *attribute;
	uint32_t table = 0;
	uint8_t protocol = 0;
	mnl_attr_for_each(attribute, nlh, sizeof(struct fib_rule_hdr))
	{
		uint16_t type = mnl_attr_get_type(attribute);
		if (type == FRA_TABLE)
			table = mnl_attr_get_u32(attribute);
		else if (type == FRA_FWMARK)
			found.mark = mnl_attr_get_u32(attribute);
		else if (type == FRA_FWMASK)
			found.mask = mnl_attr_get_u32(attribute);
		else if (type == FRA_PROTOCOL)
			protocol = mnl_attr_get_u8(attribute);
	}
	if (table != RETURN_TABLE || protocol < PROTOCOL_FIRST || protocol > PROTOCOL_LAST)
		return MNL_CB_OK;
	*laid = (struct laid){.rule = true,
			      .other = laid->rule,
			      .were_off = protocol - PROTOCOL_FIRST,
			      .mark = found.mark,
			      .mask = found.mask};
	return MNL_CB_OK;
}

static int read_family(struct mnl_socket *nl, uint8_t family, struct laid *ret_laid)
{
	char buf[256];
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	*ret_laid = (struct laid){0};
	nlh->nlmsg_type = RTM_GETRULE;
	nlh->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	struct fib_rule_hdr *rule = mnl_nlmsg_put_extra_header(nlh, sizeof *rule);
	rule->family = family;
	int err = route_talk(nl, nlh, take_rule, ret_laid);
	return err == -EAFNOSUPPORT || err == -EOPNOTSUPP ? 0 : err; // a kernel without IPv6
}

static int lay(struct mnl_socket *nl, uint8_t family, const struct return_way *way, unsigned were_off)
{
	int err = change_route(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, family);
	if (err == 0)
		err = change_rule(nl, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, family, way,
				  (uint8_t)(PROTOCOL_FIRST + were_off));
	return err == -EEXIST ? 0 : err;
}

// Takes away all that is ours in a family.
static int take_away(struct mnl_socket *nl, uint8_t family, struct laid *laid)
{
	int err = 0;
	unsigned were_off = laid->were_off;
	while (laid->rule && err == 0) {
		struct return_way way = {.mark = laid->mark, .mask = laid->mask};
		err =
		    change_rule(nl, RTM_DELRULE, 0, family, &way, (uint8_t)(PROTOCOL_FIRST + laid->were_off));
		if (err == 0)
			err = read_family(nl, family, laid);
		were_off |= laid->were_off;
	}
	if (err == 0)
		err = change_route(nl, RTM_DELROUTE, 0, family);
	laid->were_off = were_off;
	return err == -ESRCH || err == -ENETDOWN ? 0 : err;
}

static bool is_right(const struct laid *laid, bool wanted, const struct return_way *way)
{
	return laid->rule == wanted &&
	       (!wanted || (!laid->other && laid->mark == way->mark && laid->mask == way->mask));
}

static const uint8_t families[] = {AF_INET, AF_INET6};

static int apply(struct mnl_socket *nl, struct laid laid[2], const struct return_way *way,
		 struct strbuf *error)
{
	bool wanted[] = {way->ipv4, way->ipv6};
	unsigned now_off = 0, were_off = laid[0].were_off | laid[1].were_off;
	int err = 0;
	if (way->ipv4 || way->ipv6)
		err = switch_all_on(&now_off, error);
	for (size_t i = 0; i < 2 && err == 0; i++) {
		if (laid[i].rule)
			err = take_away(nl, families[i], &laid[i]);
		if (err == 0 && wanted[i])
			err = lay(nl, families[i], way, now_off | were_off);
		if (err)
			route_say(error, err,
				  "cannot lay the way back of connections from clients' addresses");
	}
	if (err == 0 && !way->ipv4 && !way->ipv6)
		switch_off(were_off);
	return err;
}

// The rules stand, and remember what was off before them: whatever somebody has turned off since is turned on,
// and a route that is gone laid.
static int mend(struct mnl_socket *nl, const struct return_way *way, bool *ret_changed, struct strbuf *error)
{
	unsigned were_off = 0;
	int err = switch_all_on(&were_off, error);
	*ret_changed |= were_off != 0;
	for (size_t i = 0; i < ARRAY_SIZE(families) && err == 0; i++) {
		if (!(families[i] == AF_INET6 ? way->ipv6 : way->ipv4))
			continue;
		err = change_route(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, families[i]);
		*ret_changed |= err == 0;
		err = err == -EEXIST ? 0 : err;
		if (err)
			route_say(error, err, "cannot lay the way back of connections from clients' addresses");
	}
	return err;
}

int returns_apply(const struct return_way *way, bool *ret_changed, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct laid laid[2];
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	for (size_t i = 0; i < 2 && err == 0; i++)
		err = read_family(nl, families[i], &laid[i]);
	if (err)
		route_say(ret_error, err, "cannot list routing rules");
	else if (!is_right(&laid[0], way->ipv4, way) || !is_right(&laid[1], way->ipv6, way)) {
		err = apply(nl, laid, way, ret_error);
		*ret_changed |= err == 0;
	} else if (way->ipv4 || way->ipv6) {
		err = mend(nl, way, ret_changed, ret_error);
	}
	mnl_socket_close(nl);
	return err;
}

int returns_read(struct return_way *ret_way, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	struct laid laid[2];
	int err = route_open(&nl, ret_error);
	if (err)
		return err;
	for (size_t i = 0; i < 2 && err == 0; i++)
		err = read_family(nl, families[i], &laid[i]);
	mnl_socket_close(nl);
	if (err)
		return route_say(ret_error, err, "cannot list routing rules");
	const struct laid *either = laid[0].rule ? &laid[0] : &laid[1];
	*ret_way = (struct return_way){laid[0].rule, laid[1].rule, either->mark, either->mask};
	return 0;
}

void returns_print(const struct return_way *way, struct strbuf *out)
{
	if (!way->ipv4 && !way->ipv6)
		return;
	strbuf_add_text(out, "sysctl -w");
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		strbuf_add_char(out, ' ');
		for (const char *c = settings[i]; *c; c++)
			strbuf_add_char(out, *c == '/' ? '.' : *c);
		strbuf_add_text(out, "=1");
	}
	strbuf_add_char(out, '\n');
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		bool six = families[i] == AF_INET6;
		const char *ip = six ? "ip -6" : "ip";
		if (!(six ? way->ipv6 : way->ipv4))
			continue;
		strbuf_printf(out, "%s route add local default dev lo table %d proto %d\n", ip, RETURN_TABLE,
			      ROUTE_PROTOCOL_WEIR);
		strbuf_printf(out, "%s rule add fwmark 0x%x/0x%x lookup %d pref %d protocol %d\n", ip, way->mark,
			      way->mask, RETURN_TABLE, RETURN_PRIORITY, PROTOCOL_FIRST);
	}
}
