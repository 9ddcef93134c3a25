// SPDX-License-Identifier: Apache-2.0
#include "net/tls_internal.h"

#include "base/limits.h"
#include "base/list.h"
#include "base/mem.h"

#include <time.h>

enum { BUCKETS = 256 };

struct entry {
	struct list by_endpoint; // newest first, within a bucket
	struct list by_age;	 // newest first
	struct addr endpoint;
	SSL_SESSION *session;
};

// The thread's sessions, all of the newest context that the thread has used.
struct cache {
	uint64_t serial;
	unsigned count;
	struct list by_age;
	struct list buckets[BUCKETS];
};

static __thread struct cache *cache;

static void entry_free(struct entry *entry)
{
	list_del(&entry->by_endpoint);
	list_del(&entry->by_age);
	SSL_SESSION_free(entry->session);
	mem_free(entry);
	cache->count--;
}

static void cache_clear(void)
{
	while (!list_empty(&cache->by_age))
		entry_free(container_of(cache->by_age.next, struct entry, by_age));
}

static struct cache *cache_new(void)
{
	struct cache *fresh = mem_zalloc(sizeof *fresh);
	if (!fresh)
		return NULL;
	list_init(&fresh->by_age);
	for (size_t i = 0; i < BUCKETS; i++)
		list_init(&fresh->buckets[i]);
	return fresh;
}

// The cache, if it is there for this context: a newer one empties it, an older one has lost it.
static struct cache *cache_for(const struct tls_context *context)
{
	if (!cache)
		cache = cache_new();
	if (!cache || context->serial < cache->serial)
		return NULL;
	if (context->serial > cache->serial) {
		cache_clear();
		cache->serial = context->serial;
	}
	return cache;
}

static struct list *bucket_of(const struct addr *endpoint)
{
	return &cache->buckets[addr_hash(endpoint) % BUCKETS];
}

// Makes room: at most so many for one endpoint, and in all; the oldest goes.
static void make_room(struct list *bucket, const struct addr *endpoint)
{
	struct entry *oldest = NULL;
	unsigned same = 0;
	list_for_each (node, bucket) {
		struct entry *entry = container_of(node, struct entry, by_endpoint);
		if (addr_eq(&entry->endpoint, endpoint)) {
			oldest = entry;
			same++;
		}
	}
	if (same >= LIMIT_TLS_ENDPOINT_SESSIONS)
		entry_free(oldest);
	else if (cache->count >= LIMIT_TLS_SESSIONS)
		entry_free(container_of(cache->by_age.prev, struct entry, by_age));
}

void tls_session_put(const struct tls_context *context, const struct addr *endpoint, SSL_SESSION *session)
{
	struct entry *entry = cache_for(context) ? mem_alloc(sizeof *entry) : NULL;
	if (!entry) {
		SSL_SESSION_free(session);
		return;
	}
	struct list *bucket = bucket_of(endpoint);
	make_room(bucket, endpoint);
	entry->endpoint = *endpoint;
	entry->session = session;
	list_prepend(bucket, &entry->by_endpoint);
	list_prepend(&cache->by_age, &entry->by_age);
	cache->count++;
}

static bool is_fresh(const SSL_SESSION *session)
{
	long age = time(NULL) - SSL_SESSION_get_time(session);
	return age >= 0 && age < SSL_SESSION_get_timeout(session) && SSL_SESSION_is_resumable(session);
}

SSL_SESSION *tls_session_take(const struct tls_context *context, const struct addr *endpoint)
{
	if (!cache_for(context))
		return NULL;
	list_for_each_safe (node, bucket_of(endpoint)) {
		struct entry *entry = container_of(node, struct entry, by_endpoint);
		if (!addr_eq(&entry->endpoint, endpoint))
			continue;
		SSL_SESSION *session = is_fresh(entry->session) ? entry->session : NULL;
		if (session)
			SSL_SESSION_up_ref(session);
		entry_free(entry);
		if (session)
			return session;
	}
	return NULL;
}

void tls_session_thread_done(void)
{
	if (cache)
		cache_clear();
	mem_free(cache);
	cache = NULL;
}
