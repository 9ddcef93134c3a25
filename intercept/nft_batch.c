// SPDX-License-Identifier: Apache-2.0
#include "intercept/nft_batch.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/expr.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

enum {
	MESSAGE_MAX = 80 * 1024,  // one message: a list of elements is at most 64 KiB
	BATCH_PAGE = MESSAGE_MAX, // libnftnl loses a message that is longer than a page
};

static char *room_of(struct batch *batch)
{
	return nftnl_batch_buffer(batch->_nlb);
}

static void next_message(struct batch *batch)
{
	batch->_next++;
	if (nftnl_batch_update(batch->_nlb) < 0)
		batch->_err = -ENOMEM;
}

int batch_begin(struct batch *batch, uint32_t generation)
{
	*batch = (struct batch){.ruleset = batch->ruleset};
	batch->_nlb = nftnl_batch_alloc(BATCH_PAGE, MESSAGE_MAX);
	if (!batch->_nlb)
		return -ENOMEM;
	batch->_next = ((uint32_t)random_u64() | 1) & 0x7fffffff;
	struct nlmsghdr *nlh = nftnl_batch_begin(room_of(batch), batch->_next);
	if (generation)
		mnl_attr_put_u32(nlh, NFNL_BATCH_GENID, htonl(generation));
	next_message(batch);
	return 0;
}

void batch_done(struct batch *batch)
{
	nftnl_batch_free(batch->_nlb);
	batch->_nlb = NULL;
}

// --- messages ----------------------------------------------------------------------------------------------
static struct nlmsghdr *begin_message(struct batch *batch, enum batch_part part, uint16_t type,
				      uint16_t flags)
{
	if (!batch->_part[part])
		batch->_part[part] = batch->_next;
	return nftnl_nlmsg_build_hdr(room_of(batch), type, NFPROTO_INET, flags, batch->_next);
}

void batch_table(struct batch *batch)
{
	struct nlmsghdr *nlh = begin_message(batch, BATCH_TABLE, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, NFT_TABLE);
	next_message(batch);
}

void batch_owned_table(struct batch *batch, const char *name)
{
	struct nlmsghdr *nlh = begin_message(batch, BATCH_TABLE, NFT_MSG_NEWTABLE, NLM_F_CREATE);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	mnl_attr_put_u32(nlh, NFTA_TABLE_FLAGS, htonl(NFT_TABLE_F_OWNER));
	next_message(batch);
}

void batch_delete_table(struct batch *batch, const char *name)
{
	struct nlmsghdr *nlh = begin_message(batch, BATCH_TABLE, NFT_MSG_DELTABLE, 0);
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	next_message(batch);
}

void batch_chain(struct batch *batch, const char *table, const struct rule_chain_info *info)
{
	struct nftnl_chain *chain = nftnl_chain_alloc();
	if (!chain) {
		batch->_err = -ENOMEM;
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
	struct nlmsghdr *nlh = begin_message(batch, BATCH_CHAINS, NFT_MSG_NEWCHAIN, NLM_F_CREATE);
	nftnl_chain_nlmsg_build_payload(nlh, chain);
	nftnl_chain_free(chain);
	next_message(batch);
}

static void delete_chain(struct batch *batch, const char *name)
{
	struct nlmsghdr *nlh = begin_message(batch, BATCH_CHAINS, NFT_MSG_DELCHAIN, 0);
	mnl_attr_put_strz(nlh, NFTA_CHAIN_TABLE, NFT_TABLE);
	mnl_attr_put_strz(nlh, NFTA_CHAIN_NAME, name);
	next_message(batch);
}

void batch_chains(struct batch *batch, const struct ruleset *present)
{
	for (enum rule_chain chain = 0; chain < CHAIN_COUNT && !batch->_err; chain++) {
		bool is = present && ruleset_has_chain(present, chain);
		bool wanted = ruleset_has_chain(batch->ruleset, chain);
		if (wanted && !is)
			batch_chain(batch, NFT_TABLE, &rule_chains[chain]);
		else if (is && !wanted)
			delete_chain(batch, rule_chains[chain].name);
	}
}

// Elements go in several messages if they are too many for one.
static void add_elements(struct batch *batch, struct nftnl_set *set)
{
	struct nftnl_set_elems_iter *iter = nftnl_set_elems_iter_create(set);
	if (!iter) {
		batch->_err = -ENOMEM;
		return;
	}
	int more = 1;
	while (more > 0 && !batch->_err) {
		struct nlmsghdr *nlh = begin_message(batch, BATCH_SETS, NFT_MSG_NEWSETELEM, NLM_F_CREATE);
		more = nftnl_set_elems_nlmsg_build_payload_iter(nlh, iter);
		next_message(batch);
	}
	nftnl_set_elems_iter_destroy(iter);
}

static void add_set(struct batch *batch, const struct rule_set *set, uint32_t id)
{
	struct nftnl_set *nls;
	batch->_err = nft_set_encode(set, id, &nls);
	if (batch->_err)
		return;
	struct nlmsghdr *nlh = begin_message(batch, BATCH_SETS, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL);
	nftnl_set_nlmsg_build_payload(nlh, nls);
	next_message(batch);
	if (!set->timeout_ms)
		add_elements(batch, nls);
	nftnl_set_free(nls);
}

void batch_sets(struct batch *batch)
{
	const struct ruleset *ruleset = batch->ruleset;
	for (size_t i = 0; i < ruleset->set_count && !batch->_err; i++)
		add_set(batch, &ruleset->sets[i], (uint32_t)i + 1);
}

void batch_delete_sets(struct batch *batch, const struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->set_count && !batch->_err; i++) {
		struct nlmsghdr *nlh = begin_message(batch, BATCH_SETS, NFT_MSG_DELSET, 0);
		mnl_attr_put_strz(nlh, NFTA_SET_TABLE, NFT_TABLE);
		mnl_attr_put_strz(nlh, NFTA_SET_NAME, ruleset->sets[i].name);
		next_message(batch);
	}
}

static void add_rule(struct batch *batch, const struct rule *rule)
{
	struct nftnl_rule *nlr;
	batch->_err = nft_rule_encode(batch->ruleset, rule, &nlr);
	if (batch->_err)
		return;
	struct nlmsghdr *nlh =
	    begin_message(batch, BATCH_RULES, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
	nftnl_rule_nlmsg_build_payload(nlh, nlr);
	nftnl_rule_free(nlr);
	next_message(batch);
}

void batch_rules(struct batch *batch)
{
	const struct ruleset *ruleset = batch->ruleset;
	for (size_t i = 0; i < ruleset->rule_count && !batch->_err; i++)
		add_rule(batch, &ruleset->rules[i]);
}

void batch_tracking(struct batch *batch, const char *table, const char *chain)
{
	struct nftnl_rule *rule = nftnl_rule_alloc();
	struct nftnl_expr *state = nftnl_expr_alloc("ct");
	if (!rule || !state || nftnl_rule_set_str(rule, NFTNL_RULE_TABLE, table) < 0 ||
	    nftnl_rule_set_str(rule, NFTNL_RULE_CHAIN, chain) < 0) {
		batch->_err = -ENOMEM;
		if (state)
			nftnl_expr_free(state);
	} else {
		nftnl_expr_set_u32(state, NFTNL_EXPR_CT_KEY, NFT_CT_STATE);
		nftnl_expr_set_u32(state, NFTNL_EXPR_CT_DREG, NFT_REG_1);
		nftnl_rule_add_expr(rule, state);
		struct nlmsghdr *nlh =
		    begin_message(batch, BATCH_RULES, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
		nftnl_rule_nlmsg_build_payload(nlh, rule);
		next_message(batch);
	}
	if (rule)
		nftnl_rule_free(rule);
}

void batch_delete_rules(struct batch *batch)
{
	struct nlmsghdr *nlh = begin_message(batch, BATCH_TABLE, NFT_MSG_DELRULE, 0);
	mnl_attr_put_strz(nlh, NFTA_RULE_TABLE, NFT_TABLE);
	next_message(batch);
}

// --- sending -----------------------------------------------------------------------------------------------
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

// The part that a message belongs to is the last one that begins at it or before.
static struct refusal place_refusal(const struct batch *batch, int err, uint32_t sequence)
{
	struct refusal refusal = {.err = err};
	for (enum batch_part i = 0; i < BATCH_PARTS; i++)
		if (batch->_part[i] && batch->_part[i] <= sequence) {
			refusal.part = i;
			refusal.index = sequence - batch->_part[i];
		}
	return refusal;
}

static void take_refusals(const struct batch *batch, const char *bytes, size_t len,
			  struct refusal *ret_refusal)
{
	int left = (int)len;
	for (const struct nlmsghdr *nlh = (const void *)bytes; mnl_nlmsg_ok(nlh, left);
	     nlh = mnl_nlmsg_next(nlh, &left)) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(nlh);
		if (nlh->nlmsg_type == NLMSG_ERROR && e->error && !ret_refusal->err)
			*ret_refusal = place_refusal(batch, e->error, e->msg.nlmsg_seq);
	}
}

// The kernel has answered by the time that sendmsg returns; it answers refusals alone. The first one counts.
// 0, or a negative error: what it said is not known.
static int read_refusals(const struct batch *batch, struct mnl_socket *nl, struct refusal *ret_refusal)
{
	union {
		struct nlmsghdr header;
		char bytes[8192];
	} answer;
	ssize_t n;
	do {
		n = recv(mnl_socket_get_fd(nl), &answer, sizeof answer, MSG_DONTWAIT);
		if (n > 0)
			take_refusals(batch, answer.bytes, (size_t)n, ret_refusal);
	} while (n > 0 || (n < 0 && errno == EINTR));
	return n < 0 && errno != EAGAIN ? -errno : 0;
}

int batch_commit(struct batch *batch, struct mnl_socket *nl, struct refusal *ret_refusal)
{
	*ret_refusal = (struct refusal){0};
	if (batch->_err)
		return batch->_err;
	nftnl_batch_end(room_of(batch), batch->_next);
	next_message(batch);
	if (batch->_err)
		return batch->_err;
	int err = send_batch(nl, batch->_nlb);
	if (err)
		return err;
	err = read_refusals(batch, nl, ret_refusal);
	return ret_refusal->err ? ret_refusal->err : err;
}
