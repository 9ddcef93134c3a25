// SPDX-License-Identifier: Apache-2.0
#include "intercept/nft_rule.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <stdlib.h>

// nft's numbers of the types, by which it prints elements.
enum { TYPE_IPV4 = 7, TYPE_IPV6 = 8, TYPE_PORT = 13, TYPE_BITS = 6 };
static const uint32_t key_types[SET_TYPE_COUNT] = {
    [SET_IPV4] = TYPE_IPV4,
    [SET_IPV6] = TYPE_IPV6,
    [SET_PORT] = TYPE_PORT,
    [SET_USER] = 24,
    [SET_GROUP] = 25,
    [SET_SEQUENCE] = 4,
    [SET_QUERY4] = (TYPE_IPV4 << TYPE_BITS | TYPE_PORT) << TYPE_BITS | TYPE_IPV4,
    [SET_QUERY6] = (TYPE_IPV6 << TYPE_BITS | TYPE_PORT) << TYPE_BITS | TYPE_IPV6,
};

// nft keeps the byte order of keys in its own data, as 1 (host's) or 2 (network's).
enum { KEY_ORDER_HOST = 1, KEY_ORDER_NETWORK = 2 };

static bool add_element(struct nftnl_set *nls, const uint8_t *key, size_t len, bool end)
{
	struct nftnl_set_elem *element = nftnl_set_elem_alloc();
	if (!element)
		return false;
	if (nftnl_set_elem_set(element, NFTNL_SET_ELEM_KEY, key, (uint32_t)len) < 0) {
		nftnl_set_elem_free(element);
		return false;
	}
	if (end)
		nftnl_set_elem_set_u32(element, NFTNL_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
	nftnl_set_elem_add(nls, element);
	return true;
}

// The key behind `last`; false if that was the highest.
static bool next_key(const uint8_t *last, size_t len, uint8_t ret_next[16])
{
	memcpy(ret_next, last, len);
	for (size_t i = len; i-- > 0;)
		if (++ret_next[i])
			return true;
	return false;
}

// An interval is the element that begins it and one, marked, that follows its last. nft wants to find the
// lowest key marked if no interval begins there.
static bool encode_elements(const struct rule_set *set, struct nftnl_set *nls)
{
	static const uint8_t lowest[16];
	size_t len = rule_set_key_len(set->type);
	uint8_t next[16];
	bool ok = !set->count || memcmp(set->ranges[0].first, lowest, len) == 0 ||
		  add_element(nls, lowest, len, true);
	for (size_t i = 0; ok && i < set->count; i++) {
		ok = add_element(nls, set->ranges[i].first, len, false);
		if (ok && next_key(set->ranges[i].last, len, next))
			ok = add_element(nls, next, len, true);
	}
	return ok;
}

// In nft's words: `typeof tcp sequence`, by its numbers of the kind of expression, the protocol and its
// field, and that field's bits.
static bool encode_typeof(struct nftnl_udata_buf *data)
{
	enum { TYPEOF_EXPR, TYPEOF_DATA, PAYLOAD = 7 };
	enum { DESC, FIELD, LEN = 4, TCP = 8, SEQUENCE = 3, BITS = 32 };
	struct nftnl_udata *outer = nftnl_udata_nest_start(data, NFTNL_UDATA_SET_KEY_TYPEOF);
	bool ok = outer && nftnl_udata_put_u32(data, TYPEOF_EXPR, PAYLOAD);
	struct nftnl_udata *inner = ok ? nftnl_udata_nest_start(data, TYPEOF_DATA) : NULL;
	ok = inner && nftnl_udata_put_u32(data, DESC, TCP) && nftnl_udata_put_u32(data, FIELD, SEQUENCE) &&
	     nftnl_udata_put_u32(data, LEN, BITS);
	if (ok) {
		nftnl_udata_nest_end(data, inner);
		nftnl_udata_nest_end(data, outer);
	}
	return ok;
}

static bool encode_userdata(const struct rule_set *set, struct nftnl_set *nls)
{
	bool host_order = set->type == SET_USER || set->type == SET_GROUP;
	struct nftnl_udata_buf *data = nftnl_udata_buf_alloc(NFT_USERDATA_MAXLEN);
	bool ok = data &&
		  nftnl_udata_put_u32(data, NFTNL_UDATA_SET_KEYBYTEORDER,
				      host_order ? KEY_ORDER_HOST : KEY_ORDER_NETWORK) &&
		  (set->type != SET_SEQUENCE || encode_typeof(data)) &&
		  nftnl_set_set_data(nls, NFTNL_SET_USERDATA, nftnl_udata_buf_data(data),
				     nftnl_udata_buf_len(data)) == 0;
	if (data)
		nftnl_udata_buf_free(data);
	return ok;
}

int nft_set_encode(const struct rule_set *set, uint32_t id, struct nftnl_set **ret_set)
{
	struct nftnl_set *nls = nftnl_set_alloc();
	if (!nls)
		return -ENOMEM;
	nftnl_set_set_u32(nls, NFTNL_SET_FAMILY, NFPROTO_INET);
	nftnl_set_set_u32(nls, NFTNL_SET_ID, id);
	nftnl_set_set_u32(nls, NFTNL_SET_FLAGS,
			  set->timeout_ms ? NFT_SET_EVAL | NFT_SET_TIMEOUT : NFT_SET_INTERVAL);
	if (set->timeout_ms) {
		nftnl_set_set_u64(nls, NFTNL_SET_TIMEOUT, set->timeout_ms);
		nftnl_set_set_u32(nls, NFTNL_SET_DESC_SIZE, LIMIT_HELD);
	}
	nftnl_set_set_u32(nls, NFTNL_SET_KEY_TYPE, key_types[set->type]);
	nftnl_set_set_u32(nls, NFTNL_SET_KEY_LEN, (uint32_t)rule_set_key_len(set->type));
	if (nftnl_set_set_str(nls, NFTNL_SET_TABLE, NFT_TABLE) < 0 ||
	    nftnl_set_set_str(nls, NFTNL_SET_NAME, set->name) < 0 || !encode_userdata(set, nls) ||
	    !encode_elements(set, nls)) {
		nftnl_set_free(nls);
		return -ENOMEM;
	}
	*ret_set = nls;
	return 0;
}

int nft_set_decode(const struct nftnl_set *nls, struct ruleset *ruleset)
{
	uint32_t type = nftnl_set_get_u32(nls, NFTNL_SET_KEY_TYPE);
	const char *name = nftnl_set_get_str(nls, NFTNL_SET_NAME);
	uint64_t timeout_ms = nftnl_set_get_u64(nls, NFTNL_SET_TIMEOUT);
	enum rule_set_type i = 0;
	while (i < SET_TYPE_COUNT && key_types[i] != type)
		i++;
	if (i == SET_TYPE_COUNT || !name || strlen(name) >= sizeof ruleset->sets->name ||
	    timeout_ms > UINT32_MAX || (i >= SET_SEQUENCE && !timeout_ms))
		return ERR_UNSUPPORTED;
	int index = ruleset_add_set(ruleset, name, i);
	if (index >= 0)
		ruleset->sets[index].timeout_ms = (uint32_t)timeout_ms;
	return index;
}

// --- elements ----------------------------------------------------------------------------------------------
struct edge {
	uint8_t key[16];
	bool end;
};

struct edges {
	struct edge *list;
	size_t count, cap, key_len;
	int err;
};

static int collect_edge(struct nftnl_set_elem *element, void *arg)
{
	struct edges *edges = arg;
	uint32_t len;
	const void *key = nftnl_set_elem_get(element, NFTNL_SET_ELEM_KEY, &len);
	if (!key || len != edges->key_len)
		edges->err = ERR_UNSUPPORTED;
	else
		edges->err =
		    mem_grow((void **)&edges->list, &edges->cap, edges->count + 1, sizeof *edges->list);
	if (edges->err)
		return -1;
	struct edge *edge = &edges->list[edges->count++];
	*edge = (struct edge){0};
	memcpy(edge->key, key, len);
	edge->end = nftnl_set_elem_is_set(element, NFTNL_SET_ELEM_FLAGS) &&
		    nftnl_set_elem_get_u32(element, NFTNL_SET_ELEM_FLAGS) & NFT_SET_ELEM_INTERVAL_END;
	return 0;
}

// An interval may begin where another one ends: the end comes first then.
static int compare_edges(const void *a, const void *b)
{
	const struct edge *x = a, *y = b;
	int order = memcmp(x->key, y->key, sizeof x->key);
	return order ? order : (int)y->end - (int)x->end;
}

static void previous_key(const uint8_t *key, size_t len, uint8_t *ret_previous)
{
	memcpy(ret_previous, key, len);
	for (size_t i = len; i-- > 0 && ret_previous[i]-- == 0;)
		;
}

static int add_ranges(const struct edges *edges, struct rule_set *set)
{
	size_t len = edges->key_len;
	int err = 0;
	for (size_t i = 0; i < edges->count && err == 0; i++) {
		struct rule_range range = {0};
		if (edges->list[i].end)
			continue;
		memcpy(range.first, edges->list[i].key, len);
		if (i + 1 < edges->count)
			previous_key(edges->list[i + 1].key, len, range.last);
		else
			memset(range.last, 0xff, len);
		err = rule_set_add(set, &range);
	}
	return err;
}

int nft_set_decode_elements(struct nftnl_set *nls, struct rule_set *set)
{
	struct edges edges = {.key_len = rule_set_key_len(set->type)};
	nftnl_set_elem_foreach(nls, collect_edge, &edges);
	if (edges.err == 0 && edges.count)
		qsort(edges.list, edges.count, sizeof *edges.list, compare_edges);
	if (edges.err == 0)
		edges.err = add_ranges(&edges, set);
	mem_free(edges.list);
	if (edges.err == 0)
		rule_set_normalise(set);
	return edges.err;
}
