// SPDX-License-Identifier: Apache-2.0
// The nftables back end: everything is in one table, `inet weir`, changed in one transaction, so it takes
// effect as a whole or not at all. Speaks netlink itself; no program is executed.
#include "intercept/backend.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "intercept/nft_rule.h"
#include "intercept/nft_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <libnftnl/batch.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	MESSAGE_MAX = 80 * 1024,  // one message: a list of elements is at most 64 KiB
	BATCH_PAGE = MESSAGE_MAX, // libnftnl loses a message that is longer than a page
	ANSWER_MAX = 64 * 1024,
	DUMP_RETRIES = 8,
	LAST_FD = 16383,
};

static int say(struct strbuf *error, int err, const char *format, ...) __attribute__((format(printf, 3, 4)));
static int say(struct strbuf *error, int err, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(error, format, args);
	va_end(args);
	return err;
}

// What holds for every request, whatever it is about.
static int say_request(struct strbuf *error, int err, const char *what)
{
	if (err == -EPERM)
		return say(
		    error, err,
		    "%s: not permitted; it needs the capability CAP_NET_ADMIN in this network namespace",
		    what);
	if (err == -EINVAL || err == -EOPNOTSUPP || err == -EPROTONOSUPPORT)
		return say(error, err,
			   "%s: this kernel has no nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET; module "
			   "nf_tables)",
			   what);
	if (err == -EMSGSIZE)
		return say(
		    error, err,
		    "%s: there are more rules than this process may send at once; shorten the lists, raise "
		    "net.core.wmem_max, or run with CAP_NET_ADMIN in the host's user namespace",
		    what);
	return say(error, err, "%s: %s", what, err_text(err));
}

// --- asking ------------------------------------------------------------------------------------------------
int nft_open(struct mnl_socket **ret_socket, struct strbuf *error)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	if (!nl)
		return say_request(error, -errno, "cannot reach the kernel's packet filter");
	if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
		int err = -errno;
		mnl_socket_close(nl);
		return say_request(error, err, "cannot reach the kernel's packet filter");
	}
	*ret_socket = nl;
	return 0;
}

// Sends one request and hands every answer to fn. 0 or a negative errno; -EINTR: the table changed meanwhile.
int nft_query(struct mnl_socket *nl, const struct nlmsghdr *request, mnl_cb_t fn, void *arg)
{
	char *answer = mem_alloc(ANSWER_MAX);
	int done = MNL_CB_OK;
	if (!answer)
		return -ENOMEM;
	if (mnl_socket_sendto(nl, request, request->nlmsg_len) < 0)
		done = MNL_CB_ERROR;
	while (done == MNL_CB_OK) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, ANSWER_MAX);
		done = n < 0 ? MNL_CB_ERROR
			     : mnl_cb_run(answer, (size_t)n, request->nlmsg_seq, mnl_socket_get_portid(nl),
					  fn, arg);
	}
	int err = done == MNL_CB_ERROR ? -errno : 0;
	mem_free(answer);
	return err;
}

static uint32_t next_sequence(void)
{
	return (uint32_t)random_u64() | 1;
}

// --- reading -----------------------------------------------------------------------------------------------
struct reading {
	struct mnl_socket *nl;
	struct ruleset *ruleset;
	bool dormant, held;
	unsigned chains; // of ours that are there: bits
	int err;
};

static struct nlmsghdr *begin_query(char *buf, uint16_t type, uint16_t flags)
{
	return nftnl_nlmsg_build_hdr(buf, type, NFPROTO_INET, flags, next_sequence());
}

static int take_table(const struct nlmsghdr *nlh, void *arg)
{
	struct reading *reading = arg;
	struct nftnl_table *table = nftnl_table_alloc();
	if (table && nftnl_table_nlmsg_parse(nlh, table) == 0) {
		uint32_t flags = nftnl_table_get_u32(table, NFTNL_TABLE_FLAGS);
		reading->dormant = flags & NFT_TABLE_F_DORMANT;
		reading->held = flags & NFT_TABLE_F_OWNER;
	}
	if (table)
		nftnl_table_free(table);
	return MNL_CB_OK;
}

static int read_table(struct reading *reading)
{
	char buf[MNL_NLMSG_HDRLEN + 256];
	struct nlmsghdr *nlh = begin_query(buf, NFT_MSG_GETTABLE, NLM_F_ACK);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, NFT_TABLE);
	return nft_query(reading->nl, nlh, take_table, reading);
}

static int take_set(const struct nlmsghdr *nlh, void *arg)
{
	struct reading *reading = arg;
	struct nftnl_set *set = nftnl_set_alloc();
	if (!set)
		reading->err = -ENOMEM;
	else if (nftnl_set_nlmsg_parse(nlh, set) < 0)
		reading->err = ERR_MALFORMED;
	else {
		int index = nft_set_decode(set, reading->ruleset);
		reading->err = index == -ENOMEM ? index : 0;
		if (index == ERR_UNSUPPORTED)
			reading->ruleset->altered = true;
	}
	if (set)
		nftnl_set_free(set);
	return reading->err ? MNL_CB_STOP : MNL_CB_OK;
}

static int take_elements(const struct nlmsghdr *nlh, void *arg)
{
	struct nftnl_set *set = arg;
	return nftnl_set_elems_nlmsg_parse(nlh, set) < 0 ? MNL_CB_ERROR : MNL_CB_OK;
}

static int read_elements(struct reading *reading, struct rule_set *set)
{
	char buf[MNL_NLMSG_HDRLEN + 256];
	struct nlmsghdr *nlh = begin_query(buf, NFT_MSG_GETSETELEM, NLM_F_DUMP);
	struct nftnl_set *nls = nftnl_set_alloc();
	if (!nls)
		return -ENOMEM;
	mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_TABLE, NFT_TABLE);
	mnl_attr_put_strz(nlh, NFTA_SET_ELEM_LIST_SET, set->name);
	int err = nft_query(reading->nl, nlh, take_elements, nls);
	if (err == 0)
		err = nft_set_decode_elements(nls, set);
	nftnl_set_free(nls);
	return err;
}

// Which of our chains it is, unchanged; CHAIN_COUNT: none.
static enum rule_chain identify_chain(const struct nftnl_chain *chain)
{
	const char *name = nftnl_chain_get_str(chain, NFTNL_CHAIN_NAME);
	enum rule_chain i = 0;
	while (i < CHAIN_COUNT && name && strcmp(rule_chains[i].name, name) != 0)
		i++;
	if (i == CHAIN_COUNT || !name)
		return CHAIN_COUNT;
	const struct rule_chain_info *info = &rule_chains[i];
	const char *type = nftnl_chain_get_str(chain, NFTNL_CHAIN_TYPE);
	if (!type || !info->type)
		return !type && !info->type ? i : CHAIN_COUNT;
	bool same = strcmp(type, info->type) == 0 &&
		    nftnl_chain_get_u32(chain, NFTNL_CHAIN_HOOKNUM) == (uint32_t)info->hook_number &&
		    nftnl_chain_get_s32(chain, NFTNL_CHAIN_PRIO) == info->priority &&
		    nftnl_chain_get_u32(chain, NFTNL_CHAIN_POLICY) == NF_ACCEPT;
	return same ? i : CHAIN_COUNT;
}

static int take_chain(const struct nlmsghdr *nlh, void *arg)
{
	struct reading *reading = arg;
	struct nftnl_chain *chain = nftnl_chain_alloc();
	if (!chain)
		reading->err = -ENOMEM;
	else if (nftnl_chain_nlmsg_parse(nlh, chain) < 0)
		reading->err = ERR_MALFORMED;
	else if (strcmp(nftnl_chain_get_str(chain, NFTNL_CHAIN_TABLE), NFT_TABLE) == 0) { // all tables' come
		enum rule_chain which = identify_chain(chain);
		if (which == CHAIN_COUNT)
			reading->ruleset->altered = true;
		else
			reading->chains |= 1u << which;
	}
	if (chain)
		nftnl_chain_free(chain);
	return reading->err ? MNL_CB_STOP : MNL_CB_OK;
}

static int take_rule(const struct nlmsghdr *nlh, void *arg)
{
	struct reading *reading = arg;
	struct nftnl_rule *rule = nftnl_rule_alloc();
	if (!rule)
		reading->err = -ENOMEM;
	else if (nftnl_rule_nlmsg_parse(nlh, rule) < 0)
		reading->err = ERR_MALFORMED;
	else if (strcmp(nftnl_rule_get_str(rule, NFTNL_RULE_TABLE), NFT_TABLE) == 0) // old kernels dump all
		reading->err = nft_rule_decode(rule, reading->ruleset);
	if (rule)
		nftnl_rule_free(rule);
	return reading->err ? MNL_CB_STOP : MNL_CB_OK;
}

static int dump(struct reading *reading, uint16_t type, uint16_t table_attribute, mnl_cb_t fn)
{
	char buf[MNL_NLMSG_HDRLEN + 256];
	struct nlmsghdr *nlh = begin_query(buf, type, NLM_F_DUMP);
	mnl_attr_put_strz(nlh, table_attribute, NFT_TABLE);
	int err = nft_query(reading->nl, nlh, fn, reading);
	return err ? err : reading->err;
}

static int read_all(struct reading *reading)
{
	int err = read_table(reading);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETSET, NFTA_SET_TABLE, take_set);
	for (size_t i = 0; i < reading->ruleset->set_count && err == 0; i++)
		err = read_elements(reading, &reading->ruleset->sets[i]);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE, take_chain);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETRULE, NFTA_RULE_TABLE, take_rule);
	for (enum rule_chain i = 0; i < CHAIN_COUNT; i++)
		if (reading->chains >> i & 1 && !ruleset_has_chain(reading->ruleset, i))
			reading->ruleset->altered = true; // an empty one
	// A table that sleeps does nothing of what its rules say.
	for (size_t i = 0; i < reading->ruleset->rule_count && reading->dormant; i++)
		reading->ruleset->rules[i].foreign = true;
	return err;
}

static int nft_read(struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct ruleset ruleset = {0};
	struct reading reading = {.ruleset = &ruleset};
	int err = nft_open(&reading.nl, ret_error);
	if (err)
		return err;
	for (int i = 0; i < DUMP_RETRIES; i++) {
		ruleset_done(&ruleset);
		reading.err = 0;
		reading.chains = 0;
		err = read_all(&reading);
		if (err != -EINTR)
			break;
	}
	mnl_socket_close(reading.nl);
	ruleset.held = reading.held;
	if (err)
		ruleset_done(&ruleset);
	if (err == -ENOENT)
		return ERR_NOT_FOUND;
	if (err)
		return say_request(ret_error, err, "cannot read the rules");
	*ret_ruleset = ruleset;
	return 0;
}

// --- writing -----------------------------------------------------------------------------------------------
// A transaction under construction. Every message is known by its sequence number: first + index.
struct batch {
	struct nftnl_batch *nlb;
	uint32_t first, next;
	const struct ruleset *ruleset;
	uint32_t first_set, first_rule; // sequence numbers of set 0 and rule 0
	int err;
};

static char *batch_room(struct batch *batch)
{
	return nftnl_batch_buffer(batch->nlb);
}

static void batch_next(struct batch *batch)
{
	batch->next++;
	if (nftnl_batch_update(batch->nlb) < 0)
		batch->err = -ENOMEM;
}

static int batch_begin(struct batch *batch)
{
	batch->nlb = nftnl_batch_alloc(BATCH_PAGE, MESSAGE_MAX);
	if (!batch->nlb)
		return -ENOMEM;
	batch->first = batch->next = next_sequence() & 0x7fffffff;
	nftnl_batch_begin(batch_room(batch), batch->next);
	batch_next(batch);
	return 0;
}

static struct nlmsghdr *batch_message(struct batch *batch, uint16_t type, uint16_t flags)
{
	return nftnl_nlmsg_build_hdr(batch_room(batch), type, NFPROTO_INET, flags, batch->next);
}

static void batch_table(struct batch *batch, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = batch_message(batch, type, flags);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, NFT_TABLE);
	batch_next(batch);
}

static void batch_chain_in(struct batch *batch, const char *table, const struct rule_chain_info *info)
{
	struct nftnl_chain *chain = nftnl_chain_alloc();
	if (!chain) {
		batch->err = -ENOMEM;
		return;
	}
	nftnl_chain_set_str(chain, NFTNL_CHAIN_TABLE, table);
	nftnl_chain_set_str(chain, NFTNL_CHAIN_NAME, info->name);
	if (info->type) {
		nftnl_chain_set_str(chain, NFTNL_CHAIN_TYPE, info->type);
		nftnl_chain_set_u32(chain, NFTNL_CHAIN_HOOKNUM, (uint32_t)info->hook_number);
		nftnl_chain_set_s32(chain, NFTNL_CHAIN_PRIO, info->priority);
		nftnl_chain_set_u32(chain, NFTNL_CHAIN_POLICY, NF_ACCEPT);
	}
	struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
	nftnl_chain_nlmsg_build_payload(nlh, chain);
	nftnl_chain_free(chain);
	batch_next(batch);
}

// Elements go in several messages if they are too many for one.
static void batch_elements(struct batch *batch, struct nftnl_set *set)
{
	struct nftnl_set_elems_iter *iter = nftnl_set_elems_iter_create(set);
	if (!iter) {
		batch->err = -ENOMEM;
		return;
	}
	int more = 1;
	while (more > 0 && !batch->err) {
		struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
		more = nftnl_set_elems_nlmsg_build_payload_iter(nlh, iter);
		batch_next(batch);
	}
	nftnl_set_elems_iter_destroy(iter);
}

static void batch_set(struct batch *batch, const struct rule_set *set, uint32_t id)
{
	struct nftnl_set *nls;
	batch->err = nft_set_encode(set, id, &nls);
	if (batch->err)
		return;
	struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_NEWSET, NLM_F_CREATE);
	nftnl_set_nlmsg_build_payload(nlh, nls);
	batch_next(batch);
	batch_elements(batch, nls);
	nftnl_set_free(nls);
}

static void batch_rule(struct batch *batch, const struct rule *rule)
{
	struct nftnl_rule *nlr;
	batch->err = nft_rule_encode(batch->ruleset, rule, &nlr);
	if (batch->err)
		return;
	struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	nftnl_rule_nlmsg_build_payload(nlh, nlr);
	nftnl_rule_free(nlr);
	batch_next(batch);
}

static void batch_ruleset(struct batch *batch)
{
	const struct ruleset *ruleset = batch->ruleset;
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT && !batch->err; chain++)
		if (ruleset_has_chain(ruleset, chain))
			batch_chain_in(batch, NFT_TABLE, &rule_chains[chain]);
	batch->first_set = batch->next;
	for (size_t i = 0; i < ruleset->set_count && !batch->err; i++)
		batch_set(batch, &ruleset->sets[i], (uint32_t)i + 1);
	batch->first_rule = batch->next;
	for (size_t i = 0; i < ruleset->rule_count && !batch->err; i++)
		batch_rule(batch, &ruleset->rules[i]);
}

// --- committing --------------------------------------------------------------------------------------------
struct refusal {
	int err;
	uint32_t sequence; // of the message that was refused
};

static int send_batch(struct mnl_socket *nl, struct nftnl_batch *nlb)
{
	int count = nftnl_batch_iovec_len(nlb), size = 0;
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	struct iovec *iov = mem_array((size_t)count, sizeof *iov);
	if (!iov)
		return -ENOMEM;
	nftnl_batch_iovec(nlb, iov, (uint32_t)count);
	for (int i = 0; i < count; i++)
		size += (int)iov[i].iov_len;
	// A transaction is one datagram. Where that much is not granted, sending says so.
	setsockopt(mnl_socket_get_fd(nl), SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
	// A refusal names the message by its header: with the whole of it, it could be longer than what is
	// read.
	int on = 1;
	mnl_socket_setsockopt(nl, NETLINK_CAP_ACK, &on, sizeof on);
	struct msghdr msg = {
	    .msg_name = &kernel, .msg_namelen = sizeof kernel, .msg_iov = iov, .msg_iovlen = (size_t)count};
	int err = sendmsg(mnl_socket_get_fd(nl), &msg, 0) < 0 ? -errno : 0;
	mem_free(iov);
	return err;
}

static void take_refusals(const char *bytes, size_t len, struct refusal *ret_refusal)
{
	int left = (int)len;
	for (const struct nlmsghdr *nlh = (const void *)bytes; mnl_nlmsg_ok(nlh, left);
	     nlh = mnl_nlmsg_next(nlh, &left)) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);
		if (nlh->nlmsg_type == NLMSG_ERROR && e->error && !ret_refusal->err)
			*ret_refusal = (struct refusal){e->error, e->msg.nlmsg_seq};
	}
}

// The kernel has answered by the time that sendmsg returns; it answers refusals alone. The first one counts.
// 0, or a negative error: what it said is not known.
static int read_refusals(struct mnl_socket *nl, struct refusal *ret_refusal)
{
	union {
		struct nlmsghdr header;
		char bytes[8192];
	} answer;
	ssize_t n;
	do {
		n = recv(mnl_socket_get_fd(nl), &answer, sizeof answer, MSG_DONTWAIT);
		if (n > 0)
			take_refusals(answer.bytes, (size_t)n, ret_refusal);
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 && errno != EAGAIN ? -errno : 0;
}

static int commit(struct mnl_socket *nl, struct batch *batch, struct refusal *ret_refusal)
{
	*ret_refusal = (struct refusal){0};
	if (batch->err)
		return batch->err;
	nftnl_batch_end(batch_room(batch), batch->next);
	batch_next(batch);
	if (batch->err)
		return batch->err;
	int err = send_batch(nl, batch->nlb);
	if (err)
		return err;
	err = read_refusals(nl, ret_refusal);
	return ret_refusal->err ? ret_refusal->err : err;
}

// --- what was refused, in words ----------------------------------------------------------------------------
static const char *rule_needs(const struct rule *rule)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == RULE_DEST_TYPE)
			return "CONFIG_NFT_FIB_INET (module nft_fib_inet)";
	if (rule->action == RULE_REDIRECT)
		return "CONFIG_NFT_REDIR (module nft_redir)";
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == RULE_LISTENS)
			return "CONFIG_NFT_SOCKET (module nft_socket)";
	if (rule->action == RULE_TPROXY)
		return "CONFIG_NFT_TPROXY (module nft_tproxy)";
	if (rule->action == RULE_ZONE)
		return "CONFIG_NFT_CT with CONFIG_NF_CONNTRACK_ZONES (module nft_ct)";
	return "nftables expressions for it";
}

static bool is_held(void)
{
	autostrbuf struct strbuf ignored = {0};
	struct ruleset ruleset;
	if (nft_read(&ruleset, &ignored))
		return false;
	bool held = ruleset.held;
	ruleset_done(&ruleset);
	return held;
}

static int say_refusal(const struct batch *batch, const struct refusal *refusal, struct strbuf *error)
{
	const struct ruleset *ruleset = batch->ruleset;
	uint32_t index = refusal->sequence - batch->first_rule;
	if (refusal->err == -EPERM && is_held())
		return say(error, -EPERM,
			   "the rules belong to a proxy that runs (intercept.capture.fail: open): they go "
			   "when it ends");
	if (refusal->err == -EPERM || !ruleset || refusal->sequence <= batch->first + 1)
		return say_request(error, refusal->err, "cannot change the rules");
	if (refusal->sequence >= batch->first_set && refusal->sequence < batch->first_rule)
		return say(error, refusal->err,
			   "the kernel refuses a set of ranges: %s; it needs CONFIG_NF_TABLES_SET ("
			   "module nf_tables_set, part of nf_tables in newer kernels)",
			   err_text(refusal->err));
	if (refusal->sequence < batch->first_rule)
		return say(error, refusal->err,
			   "the kernel refuses chains for address translation: %s; it needs CONFIG_NFT_NAT "
			   "in tables of the "
			   "family inet (Linux 5.2; modules nft_chain_nat, nf_nat)",
			   err_text(refusal->err));
	if (index >= ruleset->rule_count)
		return say_request(error, refusal->err, "cannot change the rules");
	autostrbuf struct strbuf text = {0};
	rule_print(ruleset, &ruleset->rules[index], &text);
	return say(
	    error, refusal->err,
	    "the kernel refuses the rule \"%s\": %s; it needs %s and, before Linux 5.17, CONFIG_NFT_COUNTER "
	    "(module nft_counter)",
	    text.p ? text.p : "", err_text(refusal->err), rule_needs(&ruleset->rules[index]));
}

// ret_fd (NULL: not asked for): a descriptor of the socket that the transaction was made by.
static int transact(struct batch *batch, void (*fill)(struct batch *batch), int *ret_fd, struct strbuf *error)
{
	struct mnl_socket *nl;
	struct refusal refusal;
	int err = nft_open(&nl, error);
	if (err)
		return err;
	err = batch_begin(batch);
	if (err == 0) {
		fill(batch);
		err = commit(nl, batch, &refusal);
		if (err && refusal.err)
			say_refusal(batch, &refusal, error);
		else if (err)
			say_request(error, err, "cannot change the rules");
		nftnl_batch_free(batch->nlb);
	}
	if (err == 0 && ret_fd) {
		*ret_fd = fcntl(mnl_socket_get_fd(nl), F_DUPFD_CLOEXEC, 0);
		err = *ret_fd < 0 ? -errno : 0;
	}
	mnl_socket_close(nl);
	return err;
}

// Created if it is not there, so that it can be deleted in any case.
static void fill_apply(struct batch *batch)
{
	batch_table(batch, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	batch_table(batch, NFT_MSG_DELTABLE, 0);
	batch_table(batch, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	batch_ruleset(batch);
}

// The kernel deletes such a table when the socket that made it is gone.
static void batch_owned_table(struct batch *batch, const char *name)
{
	struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	mnl_attr_put_u32(nlh, NFTA_TABLE_FLAGS, htonl(NFT_TABLE_F_OWNER));
	batch_next(batch);
}

static void fill_hold(struct batch *batch)
{
	batch_table(batch, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	batch_table(batch, NFT_MSG_DELTABLE, 0);
	batch_owned_table(batch, NFT_TABLE);
	batch_ruleset(batch);
}

// The kernel translates addresses as long as there is a chain for that, be it empty.
static void fill_translation(struct batch *batch)
{
	static const struct rule_chain_info keep = {"keep", "nat", "output", NF_INET_LOCAL_OUT, -100};
	char table[32];
	snprintf(table, sizeof table, NFT_TABLE "_nat_%d", getpid());
	batch_owned_table(batch, table);
	batch_chain_in(batch, table, &keep);
}

// All of it, and a last message that must fail: the kernel looks at everything and then takes it back.
static void fill_trial(struct batch *batch)
{
	fill_apply(batch);
	struct nlmsghdr *nlh = batch_message(batch, NFT_MSG_DELTABLE, 0);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, NFT_TABLE "_trial");
	batch_next(batch);
}

static void fill_remove(struct batch *batch)
{
	batch_table(batch, NFT_MSG_DELTABLE, 0);
}

static int say_no_hold(struct strbuf *error)
{
	return say(error, ERR_UNSUPPORTED,
		   "fail open: rules of nftables outlive the proxy unless it installs them itself, as it "
		   "does when its "
		   "configuration says intercept.capture.fail: open");
}

static int nft_apply(const struct capture_plan *plan, const struct ruleset *ruleset, struct strbuf *ret_error)
{
	struct batch batch = {.ruleset = ruleset};
	if (plan->fail == FAIL_OPEN)
		return say_no_hold(ret_error);
	return transact(&batch, fill_apply, NULL, ret_error);
}

// A process that dies closes its descriptors in their order: what translates goes behind the connections,
// whose clients then hear of their end. Returns the descriptor in any case.
static int move_up(int fd)
{
	struct rlimit limit = {0};
	getrlimit(RLIMIT_NOFILE, &limit);
	int up = fcntl(fd, F_DUPFD_CLOEXEC, (int)MIN(limit.rlim_cur / 2, (rlim_t)LAST_FD));
	if (up < 0)
		return fd;
	close(fd);
	return up;
}

static int nft_hold(const struct ruleset *ruleset, struct held_rules *ret_held, struct strbuf *ret_error)
{
	struct batch batch = {.ruleset = ruleset}, translation = {0};
	struct held_rules held;
	int err = transact(&translation, fill_translation, &held.translation, ret_error);
	if (err)
		return err;
	err = transact(&batch, fill_hold, &held.rules, ret_error);
	if (err) {
		close(held.translation);
		return err;
	}
	held.translation = move_up(held.translation);
	*ret_held = held;
	return 0;
}

static int nft_try(const struct ruleset *ruleset, struct strbuf *ret_error)
{
	struct batch batch = {.ruleset = ruleset};
	autostrbuf struct strbuf why = {0};
	int err = transact(&batch, fill_trial, NULL, &why);
	if (err == -ENOENT)
		return 0;
	strbuf_add_str(ret_error, strbuf_str(&why));
	return err;
}

static int nft_remove(struct strbuf *ret_error)
{
	struct batch batch = {0};
	autostrbuf struct strbuf error = {0};
	int err = transact(&batch, fill_remove, NULL, &error);
	if (err == -ENOENT)
		return ERR_NOT_FOUND;
	strbuf_add_str(ret_error, strbuf_str(&error));
	return err;
}

// The kernel's word on a request that changes nothing: whether it has nftables and permits their use.
static int nft_probe(const struct capture_plan *plan, struct strbuf *ret_why)
{
	struct ruleset ruleset;
	if (plan->fail == FAIL_OPEN)
		return say_no_hold(ret_why);
	int err = nft_read(&ruleset, ret_why);
	if (err == 0)
		ruleset_done(&ruleset);
	return err == ERR_NOT_FOUND ? 0 : err;
}

const struct backend backend_nft = {
    .name = "nft",
    .probe = nft_probe,
    .print = ruleset_print,
    .apply = nft_apply,
    .hold = nft_hold,
    .try = nft_try,
    .read = nft_read,
    .remove = nft_remove,
};
