// SPDX-License-Identifier: Apache-2.0
// The nftables back end: everything is in one table, `inet weir`. Speaks netlink itself; no program is
// executed.
//
// What is installed takes effect in one transaction, as a whole or not at all, and what was there before acts
// until then. Sets come in a transaction of their own, ahead of it: the kernel (6.18) shows rules some
// microseconds before the elements of sets that came with them. For the same reason chains are kept and only
// their rules replaced: of two chains at one hook, a packet may come by each before its rules are there.
#include "intercept/backend.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "intercept/nft_batch.h"
#include "intercept/nft_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/gen.h>
#include <libnftnl/table.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
	ANSWER_MAX = 64 * 1024,
	DUMP_RETRIES = 8,
	REPLACE_TRIES = 32,
	SET_NAMES = 4, // of each set: one or two are taken, and one more if a change was cut short
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
	if (err == -ERESTART || err == -EINTR)
		return say(error, err, "%s: somebody else is changing the packet filter all the time", what);
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

// Takes what is left of answers that were not read to their end: the next request's would be behind it.
static void drop_answers(const struct mnl_socket *nl, char *room)
{
	while (recv(mnl_socket_get_fd(nl), room, ANSWER_MAX, MSG_DONTWAIT) > 0)
		continue;
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
	if (err)
		drop_answers(nl, answer);
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
	uint32_t generation; // of all that the kernel's packet filter has
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

static int take_generation(const struct nlmsghdr *nlh, void *arg)
{
	struct reading *reading = arg;
	struct nftnl_gen *generation = nftnl_gen_alloc();
	if (generation && nftnl_gen_nlmsg_parse(nlh, generation) == 0)
		reading->generation = nftnl_gen_get_u32(generation, NFTNL_GEN_ID);
	if (generation)
		nftnl_gen_free(generation);
	return MNL_CB_OK;
}

static int read_generation(struct reading *reading)
{
	char buf[MNL_NLMSG_HDRLEN + 256];
	struct nlmsghdr *nlh = begin_query(buf, NFT_MSG_GETGEN, NLM_F_ACK);
	return nft_query(reading->nl, nlh, take_generation, reading);
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
	int err = read_generation(reading);
	if (err == 0)
		err = read_table(reading);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETSET, NFTA_SET_TABLE, take_set);
	for (size_t i = 0; i < reading->ruleset->set_count && err == 0; i++)
		if (!reading->ruleset->sets[i].timeout_ms) // what rules put there is not part of them
			err = read_elements(reading, &reading->ruleset->sets[i]);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE, take_chain);
	if (err == 0)
		err = dump(reading, NFT_MSG_GETRULE, NFTA_RULE_TABLE, take_rule);
	for (enum rule_chain i = 0; i < CHAIN_COUNT; i++)
		if (reading->chains >> i & 1 && !ruleset_has_chain(reading->ruleset, i))
			reading->ruleset->altered = true; // an empty one
	// A table that sleeps does nothing of what its rules say.
	reading->ruleset->altered |= reading->dormant;
	for (size_t i = 0; i < reading->ruleset->rule_count && reading->dormant; i++)
		reading->ruleset->rules[i].foreign = true;
	return err;
}

// What the table has, and of which generation that is (in any case). 0; ERR_NOT_FOUND; or a negative error
// with a sentence. On 0 the caller calls ruleset_done.
static int read_present(struct mnl_socket *nl, struct ruleset *ret_ruleset, uint32_t *ret_generation,
			struct strbuf *ret_error)
{
	struct ruleset ruleset = {0};
	struct reading reading;
	int err = -EINTR;
	for (int i = 0; i < DUMP_RETRIES && err == -EINTR; i++) {
		ruleset_done(&ruleset);
		reading = (struct reading){.nl = nl, .ruleset = &ruleset};
		err = read_all(&reading);
	}
	*ret_generation = reading.generation;
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

static int nft_read(struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	uint32_t generation;
	int err = nft_open(&nl, ret_error);
	if (err)
		return err;
	err = read_present(nl, ret_ruleset, &generation, ret_error);
	mnl_socket_close(nl);
	return err;
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
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == RULE_CGROUP)
			return "Linux 5.13 with CONFIG_NFT_SOCKET (module nft_socket) and "
			       "CONFIG_SOCK_CGROUP_DATA";
	if (rule->action == RULE_TPROXY)
		return "CONFIG_NFT_TPROXY (module nft_tproxy)";
	if (rule->action == RULE_REJECT)
		return "CONFIG_NFT_REJECT_INET (module nft_reject_inet)";
	if (rule->action == RULE_ZONE || rule->action == RULE_ZONE_ORIGINAL)
		return "CONFIG_NFT_CT with CONFIG_NF_CONNTRACK_ZONES (module nft_ct)";
	return "nftables expressions for it";
}

static int say_rule_refusal(const struct ruleset *ruleset, const struct refusal *refusal,
			    struct strbuf *error)
{
	const struct rule *rule = &ruleset->rules[refusal->index];
	autostrbuf struct strbuf text = {0};
	rule_print(ruleset, rule, &text);
	return say(
	    error, refusal->err,
	    "the kernel refuses the rule \"%s\": %s; it needs %s and, before Linux 5.17, CONFIG_NFT_COUNTER "
	    "(module nft_counter)",
	    text.p ? text.p : "", err_text(refusal->err), rule_needs(rule));
}

static int say_refusal(const struct ruleset *ruleset, const struct refusal *refusal, struct strbuf *error)
{
	if (refusal->part == BATCH_TABLE && refusal->index && refusal->err == -EOPNOTSUPP)
		return say(error, refusal->err,
			   "the kernel refuses a table that goes with its process; it needs Linux 5.12");
	if (refusal->err == -EPERM || !ruleset || refusal->part == BATCH_TABLE)
		return say_request(error, refusal->err, "cannot change the rules");
	if (refusal->part == BATCH_SETS)
		return say(error, refusal->err,
			   "the kernel refuses a set of ranges: %s; it needs CONFIG_NF_TABLES_SET ("
			   "module nf_tables_set, part of nf_tables in newer kernels)",
			   err_text(refusal->err));
	if (refusal->part == BATCH_CHAINS)
		return say(error, refusal->err,
			   "the kernel refuses chains for address translation: %s; it needs CONFIG_NFT_NAT "
			   "in tables of the "
			   "family inet (Linux 5.2; modules nft_chain_nat, nf_nat)",
			   err_text(refusal->err));
	if (refusal->index >= ruleset->rule_count)
		return say_request(error, refusal->err, "cannot change the rules");
	return say_rule_refusal(ruleset, refusal, error);
}

// --- transactions ------------------------------------------------------------------------------------------
struct transaction {
	void (*fill)(struct batch *batch, const struct ruleset *present);
	const struct ruleset *ruleset; // what is to be there
	const struct ruleset *present; // what is there
	uint32_t generation;	       // that the change is for; 0: any
};

static int transact(struct mnl_socket *nl, const struct transaction *transaction, struct strbuf *error)
{
	struct batch batch = {.ruleset = transaction->ruleset};
	struct refusal refusal;
	int err = batch_begin(&batch, transaction->generation);
	if (err)
		return say_request(error, err, "cannot change the rules");
	transaction->fill(&batch, transaction->present);
	err = batch_commit(&batch, nl, &refusal);
	batch_done(&batch);
	if (err && refusal.err)
		return say_refusal(transaction->ruleset, &refusal, error);
	return err ? say_request(error, err, "cannot change the rules") : 0;
}

// One after the other, until one fails. ret_fd (NULL: not asked for): a descriptor of the socket that they
// were made by.
static int transact_all(const struct transaction *list, size_t count, int *ret_fd, struct strbuf *error)
{
	struct mnl_socket *nl;
	int err = nft_open(&nl, error);
	if (err)
		return err;
	for (size_t i = 0; i < count && !err; i++)
		err = transact(nl, &list[i], error);
	if (!err && ret_fd) {
		*ret_fd = fcntl(mnl_socket_get_fd(nl), F_DUPFD_CLOEXEC, 0);
		err = *ret_fd < 0 ? -errno : 0;
	}
	mnl_socket_close(nl);
	return err;
}

static void fill_sets(struct batch *batch, const struct ruleset *present)
{
	(void)present;
	batch_table(batch);
	batch_sets(batch);
}

// The rules that use them, in place of those that are there, and away with what nothing uses any more.
static void fill_rules(struct batch *batch, const struct ruleset *present)
{
	batch_delete_rules(batch);
	batch_delete_sets(batch, present);
	batch_chains(batch, present);
	batch_rules(batch);
}

// Created if it is not there, so that it can be deleted in any case.
static void fill_removal(struct batch *batch)
{
	batch_table(batch);
	batch_delete_table(batch, NFT_TABLE);
}

static void fill_whole(struct batch *batch, const struct ruleset *present)
{
	(void)present;
	fill_removal(batch);
	batch_table(batch);
	batch_sets(batch);
	batch_chains(batch, NULL);
	batch_rules(batch);
}

// All of it, and a last message that must fail: the kernel looks at everything and then takes it back.
static void fill_trial(struct batch *batch, const struct ruleset *present)
{
	fill_whole(batch, present);
	batch_delete_table(batch, NFT_TABLE "_trial");
}

static void fill_held_sets(struct batch *batch, const struct ruleset *present)
{
	(void)present;
	fill_removal(batch);
	batch_owned_table(batch, NFT_TABLE);
	batch_sets(batch);
}

static void fill_held_trial(struct batch *batch, const struct ruleset *present)
{
	fill_held_sets(batch, present);
	batch_chains(batch, NULL);
	batch_rules(batch);
	batch_delete_table(batch, NFT_TABLE "_trial");
}

// The kernel translates addresses as long as there is a chain for that, be it empty, and connections are
// tracked.
static void fill_translation(struct batch *batch, const struct ruleset *present)
{
	static const struct rule_chain_info keep = {"keep", "nat", "output", NF_INET_LOCAL_OUT, -100};
	char table[32];
	(void)present;
	snprintf(table, sizeof table, NFT_TABLE "_nat_%d", getpid());
	batch_owned_table(batch, table);
	batch_chain(batch, table, &keep);
	batch_tracking(batch, table, keep.name);
}

static void fill_remove(struct batch *batch, const struct ruleset *present)
{
	(void)present;
	batch_delete_table(batch, NFT_TABLE);
}

// The sets alone.
static void fill_forget(struct batch *batch, const struct ruleset *present)
{
	batch_delete_sets(batch, present);
}

// --- replacing ---------------------------------------------------------------------------------------------
// A change in steps. Sets that rules use keep their names, so new ones get others at first: each has its own
// (0) and some that are made from it.
struct replacement {
	struct mnl_socket *nl;
	const struct ruleset *wanted;
	struct ruleset present;
	bool missing; // there is no table
	uint32_t generation;
	struct ruleset named; // what is wanted, with those names for its sets; the rest is shared
	unsigned names;
};

static int choose_names(struct replacement *r, unsigned names)
{
	size_t count = r->wanted->set_count;
	struct rule_set *sets = mem_array(count + 1, sizeof *sets);
	if (!sets)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(r->wanted->sets[i].name);
		sets[i] = r->wanted->sets[i];
		if (names)
			snprintf(sets[i].name + len, sizeof sets[i].name - len, "_%u", names + 1);
	}
	mem_free(r->named.sets);
	r->named = *r->wanted;
	r->named.sets = sets;
	r->names = names;
	return 0;
}

// Adds the new sets, by the first names that are free.
static int add_sets(struct replacement *r, struct strbuf *error)
{
	int err = -EEXIST;
	for (unsigned names = 0; names < SET_NAMES && err == -EEXIST; names++) {
		strbuf_clear(error);
		err = choose_names(r, names);
		struct transaction add = {fill_sets, &r->named, NULL, r->generation};
		if (!err)
			err = transact(r->nl, &add, error);
	}
	return err;
}

// The sets are taken back; the table, too, if it came with them and nobody else has changed anything since.
static void undo_sets(const struct replacement *r, uint32_t generation)
{
	const struct transaction no_table = {fill_remove, NULL, NULL, generation};
	const struct transaction no_sets = {fill_forget, NULL, &r->named, 0};
	autostrbuf struct strbuf ignored = {0};
	if (!r->missing || transact(r->nl, &no_table, &ignored))
		transact(r->nl, &no_sets, &ignored);
}

static int change_rules(const struct replacement *r, struct strbuf *error)
{
	// Our own sets have made it the next one.
	uint32_t generation = r->generation + 1 ? r->generation + 1 : 1;
	const struct transaction change = {fill_rules, &r->named, &r->present, generation};
	int err = transact(r->nl, &change, error);
	if (err)
		undo_sets(r, generation);
	return err;
}

// What somebody else made of the table goes with the table. Such a change is no smooth one.
static int replace_whole(struct replacement *r, struct strbuf *error)
{
	struct transaction change = {fill_whole, r->wanted, NULL, r->generation};
	r->names = 0;
	return transact(r->nl, &change, error);
}

// One round. *ret_names: which names the sets have now; untouched on failure.
static int replace(struct mnl_socket *nl, const struct ruleset *wanted, unsigned *ret_names,
		   struct strbuf *error)
{
	struct replacement r = {.nl = nl, .wanted = wanted};
	int err = read_present(nl, &r.present, &r.generation, error);
	r.missing = err == ERR_NOT_FOUND;
	if (err && !r.missing)
		return err;
	if (r.present.altered) {
		err = replace_whole(&r, error);
	} else {
		err = add_sets(&r, error);
		if (!err)
			err = change_rules(&r, error);
	}
	if (!err)
		*ret_names = r.names;
	mem_free(r.named.sets);
	ruleset_done(&r.present);
	return err;
}

static int say_no_hold(struct strbuf *error)
{
	return say(error, ERR_UNSUPPORTED,
		   "fail open: rules of nftables outlive the proxy unless it installs them itself, as it "
		   "does when its "
		   "configuration says intercept.capture.fail: open");
}

// In two rounds if the sets' own names are taken: then the rules use others for a moment.
static int nft_apply(const struct capture_plan *plan, const struct ruleset *ruleset, struct strbuf *ret_error)
{
	struct mnl_socket *nl;
	autostrbuf struct strbuf why = {0};
	unsigned names = 0;
	int tries = 0;
	if (plan->fail == FAIL_OPEN)
		return say_no_hold(ret_error);
	int err = nft_open(&nl, ret_error);
	if (err)
		return err;
	do {
		strbuf_clear(&why);
		err = replace(nl, ruleset, &names, &why);
	} while ((err ? err == -ERESTART : names > 0) && ++tries < REPLACE_TRIES);
	mnl_socket_close(nl);
	if (!err || names) // the plan is in force, whatever its sets are called
		return 0;
	strbuf_add_str(ret_error, strbuf_str(&why));
	return err;
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

static int try(void (*fill)(struct batch *batch, const struct ruleset *present),
	       const struct ruleset *ruleset, struct strbuf *ret_error)
{
	const struct transaction trial = {.fill = fill, .ruleset = ruleset};
	autostrbuf struct strbuf why = {0};
	int err = transact_all(&trial, 1, NULL, &why);
	if (err == -ENOENT)
		return 0;
	strbuf_add_str(ret_error, strbuf_str(&why));
	return err;
}

static int nft_try(const struct capture_plan *plan, const struct ruleset *ruleset, struct strbuf *ret_error)
{
	return try(plan->fail == FAIL_OPEN ? fill_held_trial : fill_trial, ruleset, ret_error);
}

// What is there goes first: until the proxy has its own rules, all is to be as if weir were absent.
static int nft_hold(const struct capture_plan *plan, const struct ruleset *ruleset,
		    struct held_rules *ret_held, struct strbuf *ret_error)
{
	(void)plan;
	static const struct ruleset nothing;
	const struct transaction steps[] = {{fill_held_sets, ruleset, NULL, 0},
					    {fill_rules, ruleset, &nothing, 0}};
	const struct transaction translate = {.fill = fill_translation};
	struct held_rules held = HELD_RULES_NONE;
	int err = try(fill_held_trial, ruleset, ret_error);
	if (!err)
		err = transact_all(&translate, 1, &held.translation, ret_error);
	if (err)
		return err;
	err = transact_all(steps, ARRAY_SIZE(steps), &held.rules, ret_error);
	if (err) {
		close(held.translation);
		return err;
	}
	held.translation = move_up(held.translation);
	*ret_held = held;
	return 0;
}

static int nft_remove(struct strbuf *ret_error)
{
	const struct transaction remove = {.fill = fill_remove};
	autostrbuf struct strbuf why = {0};
	int err = transact_all(&remove, 1, NULL, &why);
	if (err == -ENOENT)
		return ERR_NOT_FOUND;
	strbuf_add_str(ret_error, strbuf_str(&why));
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
