// SPDX-License-Identifier: Apache-2.0
#include "mesh/balance.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/table.h"

#include <errno.h>

enum { DOWN_FIRST_S = 1, DOWN_LONGEST_S = 32, OTHER_BUCKETS = 1024 };

// The endpoints of one cluster, in the order of the model.
struct group {
	const struct cluster *cluster;
	struct endpoint_state **states;
	size_t count;
};

struct balancer {
	struct model *model;
	struct group *groups; // as many as the model has clusters
	size_t group_count;
	struct table addresses;		   // of group states, to find them again: hash of cluster and address
	struct list others[OTHER_BUCKETS]; // made by balancer_address: by hash of the address
};

// --- states -------------------------------------------------------------------------------------------------
static struct endpoint_state *state_new(const struct addr *addr, uint32_t weight, struct str cluster_name)
{
	struct endpoint_state *state = mem_zalloc(sizeof *state);
	char *name = state ? mem_strndup(cluster_name.p ? cluster_name.p : "", cluster_name.len) : NULL;
	if (!name) {
		mem_free(state);
		return NULL;
	}
	state->refs = 1;
	state->addr = *addr;
	state->weight = weight;
	state->cluster_name = (struct str){name, cluster_name.len};
	list_init(&state->idle);
	list_init(&state->shared);
	list_init(&state->framed);
	list_init(&state->_node);
	return state;
}

struct endpoint_state *endpoint_state_ref(struct endpoint_state *state)
{
	state->refs++;
	return state;
}

void endpoint_state_unref(struct endpoint_state *state)
{
	if (!state || --state->refs)
		return;
	list_del(&state->_node);
	mem_free((char *)state->cluster_name.p);
	mem_free(state);
}

void endpoint_mark_failure(struct endpoint_state *state, uint64_t now_ns)
{
	if (now_ns < state->down_until_ns)
		return; // the same outage, met by several connections at once
	uint64_t seconds = state->failures < 6 ? (uint64_t)DOWN_FIRST_S << state->failures : DOWN_LONGEST_S;
	seconds = MIN(seconds, (uint64_t)DOWN_LONGEST_S);
	state->failures++;
	// A tenth more or less, so that many proxies do not come back at one moment.
	state->down_until_ns = now_ns + seconds * NS_PER_S * (900 + random_below(200)) / 1000;
}

void endpoint_mark_success(struct endpoint_state *state)
{
	state->failures = 0;
	state->down_until_ns = 0;
}

// --- snapshots ----------------------------------------------------------------------------------------------
int balancer_new(struct balancer **ret_balancer)
{
	struct balancer *balancer = mem_zalloc(sizeof *balancer);
	if (!balancer)
		return -ENOMEM;
	for (size_t i = 0; i < OTHER_BUCKETS; i++)
		list_init(&balancer->others[i]);
	*ret_balancer = balancer;
	return 0;
}

static void groups_free(struct group *groups, size_t count)
{
	for (size_t g = 0; groups && g < count; g++) {
		for (size_t i = 0; groups[g].states && i < groups[g].count; i++)
			endpoint_state_unref(groups[g].states[i]);
		mem_free(groups[g].states);
	}
	mem_free(groups);
}

void balancer_free(struct balancer *balancer)
{
	if (!balancer)
		return;
	groups_free(balancer->groups, balancer->group_count);
	table_done(&balancer->addresses);
	model_unref(balancer->model);
	mem_free(balancer);
}

struct model *balancer_model(const struct balancer *balancer)
{
	return balancer->model;
}

// TLS is part of the key: a connection made without, or to an identity that was allowed then, must not serve
// where something else is asked for now.
static uint64_t state_key(const struct cluster *cluster, const struct addr *addr)
{
	uint64_t key = str_hash(cluster->name) * 31 + addr_hash(addr) + (uint64_t)cluster->tls;
	for (size_t i = 0; i < cluster->tls_allow_count; i++)
		key = key * 31 + str_hash(cluster->tls_allow[i]);
	return key;
}

static struct endpoint_state *find_state(const struct balancer *balancer, const struct cluster *cluster,
					 const struct addr *addr)
{
	struct endpoint_state *state;
	size_t cursor = 0;
	while ((state = table_find(&balancer->addresses, state_key(cluster, addr), &cursor)))
		if (addr_eq(&state->addr, addr) && str_eq(state->cluster_name, cluster->name))
			return state;
	return NULL;
}

static int group_fill(const struct balancer *balancer, struct table *addresses, const struct cluster *cluster,
		      struct group *group)
{
	group->cluster = cluster;
	group->states = mem_array(cluster->endpoint_count, sizeof *group->states);
	if (!group->states)
		return -ENOMEM;
	for (size_t i = 0; i < cluster->endpoint_count; i++) {
		const struct endpoint *endpoint = &cluster->endpoints[i];
		struct endpoint_state *state = find_state(balancer, cluster, &endpoint->addr);
		state = state ? endpoint_state_ref(state)
			      : state_new(&endpoint->addr, endpoint->weight, cluster->name);
		if (!state)
			return -ENOMEM;
		group->states[group->count++] = state;
		if (table_add(addresses, state_key(cluster, &endpoint->addr), state))
			return -ENOMEM;
	}
	return 0;
}

static void adopt_weights(struct group *groups, size_t count)
{
	for (size_t g = 0; g < count; g++) {
		for (size_t i = 0; i < groups[g].count; i++) {
			groups[g].states[i]->weight = groups[g].cluster->endpoints[i].weight;
			groups[g].states[i]->retired = false;
		}
	}
}

int balancer_update(struct balancer *balancer, struct model *model,
		    void (*on_retire)(struct endpoint_state *, void *), void *arg)
{
	struct table addresses = {0};
	struct group *groups = mem_array(model->cluster_count, sizeof *groups);
	int err = groups ? 0 : -ENOMEM;
	for (size_t g = 0; g < model->cluster_count && !err; g++)
		err = group_fill(balancer, &addresses, &model->clusters[g], &groups[g]);
	if (err) {
		groups_free(groups, model->cluster_count);
		table_done(&addresses);
		return err;
	}
	for (size_t g = 0; g < balancer->group_count; g++)
		for (size_t i = 0; i < balancer->groups[g].count; i++)
			balancer->groups[g].states[i]->retired = true;
	adopt_weights(groups, model->cluster_count);
	for (size_t g = 0; g < balancer->group_count; g++)
		for (size_t i = 0; i < balancer->groups[g].count; i++)
			if (balancer->groups[g].states[i]->retired)
				on_retire(balancer->groups[g].states[i], arg);
	groups_free(balancer->groups, balancer->group_count);
	table_done(&balancer->addresses);
	model_unref(balancer->model);
	balancer->groups = groups;
	balancer->group_count = model->cluster_count;
	balancer->addresses = addresses;
	balancer->model = model_ref(model);
	return 0;
}

// --- picking ------------------------------------------------------------------------------------------------
struct choice {
	const struct group *group;
	const struct endpoint_state *except;
	uint64_t now_ns;
	bool any; // also those marked down
};

static bool eligible(const struct choice *choice, const struct endpoint_state *state)
{
	return state != choice->except && (choice->any || state->down_until_ns <= choice->now_ns);
}

// Smooth weighted round robin, as nginx has it: over a cycle each is taken as often as its weight says,
// spread evenly.
static struct endpoint_state *pick_round_robin(const struct choice *choice)
{
	struct endpoint_state *best = NULL;
	int64_t total = 0;
	for (size_t i = 0; i < choice->group->count; i++) {
		struct endpoint_state *state = choice->group->states[i];
		if (!eligible(choice, state))
			continue;
		total += state->weight;
		state->_current += state->weight;
		if (!best || state->_current > best->_current)
			best = state;
	}
	if (best)
		best->_current -= total;
	return best;
}

static struct endpoint_state *pick_random(const struct choice *choice)
{
	uint64_t total = 0;
	for (size_t i = 0; i < choice->group->count; i++)
		if (eligible(choice, choice->group->states[i]))
			total += choice->group->states[i]->weight;
	if (!total)
		return NULL;
	uint64_t at = random_below(total), below = 0;
	for (size_t i = 0; i < choice->group->count; i++) {
		struct endpoint_state *state = choice->group->states[i];
		if (!eligible(choice, state))
			continue;
		below += state->weight;
		if (at < below)
			return state;
	}
	return NULL;
}

// The less loaded of two random ones, by active requests for their weight.
static struct endpoint_state *pick_least_request(const struct choice *choice)
{
	struct endpoint_state *a = pick_random(choice), *b = pick_random(choice);
	if (!a)
		return NULL;
	uint64_t load_a = ((uint64_t)a->active + 1) * b->weight,
		 load_b = ((uint64_t)b->active + 1) * a->weight;
	return load_b < load_a ? b : a;
}

static struct endpoint_state *pick(const struct choice *choice)
{
	switch (choice->group->cluster->balance) {
	case BALANCE_ROUND_ROBIN:
		return pick_round_robin(choice);
	case BALANCE_RANDOM:
		return pick_random(choice);
	case BALANCE_LEAST_REQUEST:
		return pick_least_request(choice);
	}
	return NULL;
}

static const struct group *find_group(const struct balancer *balancer, const struct cluster *cluster)
{
	if (cluster->index < balancer->group_count && balancer->groups[cluster->index].cluster == cluster)
		return &balancer->groups[cluster->index];
	const struct cluster *current = model_cluster(balancer->model, cluster->name);
	return current ? &balancer->groups[current->index] : NULL;
}

struct endpoint_state *balancer_pick(struct balancer *balancer, const struct cluster *cluster,
				     const struct endpoint_state *except, uint64_t now_ns)
{
	struct choice choice = {find_group(balancer, cluster), except, now_ns, false};
	if (!choice.group || !choice.group->count)
		return NULL;
	if (choice.group->count == 1)
		return choice.group->states[0];
	struct endpoint_state *state = pick(&choice);
	choice.any = true;
	if (!state)
		state = pick(&choice);
	return state;
}

struct endpoint_state *balancer_address(struct balancer *balancer, const struct addr *addr)
{
	struct list *bucket = &balancer->others[addr_hash(addr) % OTHER_BUCKETS];
	list_for_each (node, bucket) {
		struct endpoint_state *state = container_of(node, struct endpoint_state, _node);
		if (addr_eq(&state->addr, addr))
			return endpoint_state_ref(state);
	}
	struct endpoint_state *state = state_new(addr, 1, STR(""));
	if (state)
		list_append(bucket, &state->_node);
	return state;
}

void balancer_each(struct balancer *balancer,
		   void (*fn)(const struct cluster *, struct endpoint_state *, void *), void *arg)
{
	for (size_t g = 0; g < balancer->group_count; g++)
		for (size_t i = 0; i < balancer->groups[g].count; i++)
			fn(balancer->groups[g].cluster, balancer->groups[g].states[i], arg);
}

void balancer_each_address(struct balancer *balancer, void (*fn)(struct endpoint_state *, void *), void *arg)
{
	for (size_t i = 0; i < OTHER_BUCKETS; i++)
		list_for_each_safe (node, &balancer->others[i])
			fn(container_of(node, struct endpoint_state, _node), arg);
}
