// SPDX-License-Identifier: Apache-2.0
#include "dns/cache.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>

enum {
	BUCKETS = 4096,
	TTL_LONGEST = 86400,
	NEGATIVE_LONGEST = 3600, // RFC 2308 5: one to three hours at most
	STALE_TTL = 30,		 // RFC 8767 4
	STALE_LONGEST_S = 86400,
	UNANSWERED_S = 30, // RFC 8767 5
	RECORDS_MAX = 4096,
};

struct cache_entry {
	struct cache_entry *next; // in its bucket
	struct list used;	  // most recently first
	struct dns_key key;
	uint64_t stored_ns;
	uint64_t stale_until_ns; // good until then though it has expired
	uint32_t ttl;
	size_t len;
	uint8_t answer[]; // as it came
};

struct dns_cache {
	struct cache_entry *buckets[BUCKETS];
	struct list used;
	size_t count, bytes;
};

// --- keys ---------------------------------------------------------------------------------------------------
void dns_key_of(const struct dns_query *query, struct dns_key *ret_key)
{
	memset(ret_key, 0, sizeof *ret_key);
	ret_key->type = query->type;
	ret_key->qclass = query->qclass;
	ret_key->edns = query->edns;
	ret_key->dnssec_ok = query->dnssec_ok;
	ret_key->checking_disabled = (query->flags & DNS_FLAG_CD) != 0;
	ret_key->recursion = (query->flags & DNS_FLAG_RD) != 0;
	ret_key->name.len = query->name.len;
	ret_key->name.labels = query->name.labels;
	memcpy(ret_key->name.bytes, query->name.bytes, query->name.len);
}

static struct str key_bytes(const struct dns_key *key)
{
	return (struct str){(const char *)key, offsetof(struct dns_key, name.bytes) + key->name.len};
}

uint64_t dns_key_hash(const struct dns_key *key)
{
	return str_hash(key_bytes(key));
}

bool dns_key_eq(const struct dns_key *a, const struct dns_key *b)
{
	return str_eq(key_bytes(a), key_bytes(b));
}

// --- what an answer's records say ---------------------------------------------------------------------------
struct message_walk {
	struct reader r;
	uint16_t flags, answers, records;
};

static bool walk_begin(struct message_walk *walk, const uint8_t *answer, size_t len)
{
	reader_init(&walk->r, answer, len);
	reader_u16(&walk->r);
	walk->flags = reader_u16(&walk->r);
	uint16_t questions = reader_u16(&walk->r);
	walk->answers = reader_u16(&walk->r);
	uint16_t authority = reader_u16(&walk->r);
	uint16_t additional = reader_u16(&walk->r);
	unsigned records = (unsigned)walk->answers + authority + additional;
	for (unsigned i = 0; i < questions && !walk->r.err && i < 2; i++) {
		dns_name_skip(&walk->r);
		reader_skip(&walk->r, 4);
	}
	walk->records = (uint16_t)records;
	return !walk->r.err && questions == 1 && records <= RECORDS_MAX;
}

// The last four bytes of an SOA record's data (RFC 1035 3.3.13).
static uint32_t soa_minimum(const struct dns_record *record)
{
	struct reader r;
	if (record->data.len < 22)
		return 0;
	reader_init(&r, record->data.p + record->data.len - 4, 4);
	return reader_u32(&r);
}

// A TTL with the highest bit set counts as zero (RFC 2181 8).
static uint32_t record_ttl(const struct dns_record *record)
{
	return record->ttl >> 31 ? 0 : record->ttl;
}

// Seconds that the answer may be kept; 0: not at all. An absence is what the SOA says even behind an alias,
// which is an answer by itself (RFC 2308 2.2).
static uint32_t answer_ttl(const uint8_t *answer, size_t len)
{
	struct message_walk walk;
	uint32_t least = UINT32_MAX, soa = 0;
	bool has_soa = false;
	if (!walk_begin(&walk, answer, len) || (walk.flags & DNS_FLAG_TC))
		return 0;
	unsigned rcode = walk.flags & DNS_RCODE_MASK;
	if (rcode != DNS_NOERROR && rcode != DNS_NXDOMAIN)
		return 0;
	for (unsigned i = 0; i < walk.records; i++) {
		struct dns_record record;
		dns_record_read(&walk.r, &record);
		if (walk.r.err)
			return 0;
		if (record.type == DNS_TYPE_OPT)
			continue;
		least = MIN(least, record_ttl(&record));
		if (record.type != DNS_TYPE_SOA || i < walk.answers)
			continue;
		has_soa = true;
		soa = MIN(record_ttl(&record), soa_minimum(&record));
	}
	if (rcode == DNS_NXDOMAIN || walk.answers == 0 || has_soa)
		return MIN(MIN(soa, least), (uint32_t)NEGATIVE_LONGEST);
	return least == UINT32_MAX ? 0 : MIN(least, (uint32_t)TTL_LONGEST);
}

static void write_ttls(uint8_t *answer, size_t len, uint32_t age, uint32_t fixed)
{
	struct message_walk walk;
	if (!walk_begin(&walk, answer, len))
		return;
	for (unsigned i = 0; i < walk.records; i++) {
		struct dns_record record;
		dns_record_read(&walk.r, &record);
		if (walk.r.err)
			return;
		if (record.type == DNS_TYPE_OPT)
			continue;
		uint32_t left = record_ttl(&record) > age ? record_ttl(&record) - age : 0,
			 ttl = fixed ? fixed : left;
		for (int byte = 0; byte < 4; byte++)
			answer[record.ttl_at + (size_t)byte] = (uint8_t)(ttl >> (24 - 8 * byte));
	}
}

// --- entries ------------------------------------------------------------------------------------------------
int dns_cache_new(struct dns_cache **ret_cache)
{
	struct dns_cache *cache = mem_zalloc(sizeof *cache);
	if (!cache)
		return -ENOMEM;
	list_init(&cache->used);
	*ret_cache = cache;
	return 0;
}

static struct cache_entry **cache_slot(struct dns_cache *cache, const struct dns_key *key)
{
	struct cache_entry **slot = &cache->buckets[dns_key_hash(key) % BUCKETS];
	while (*slot && !dns_key_eq(&(*slot)->key, key))
		slot = &(*slot)->next;
	return slot;
}

static size_t entry_bytes(size_t answer_len)
{
	return sizeof(struct cache_entry) + answer_len;
}

static void cache_remove(struct dns_cache *cache, struct cache_entry **slot)
{
	struct cache_entry *entry = *slot;
	*slot = entry->next;
	list_del(&entry->used);
	cache->count--;
	cache->bytes -= entry_bytes(entry->len);
	mem_free(entry);
}

size_t dns_cache_flush(struct dns_cache *cache)
{
	size_t count = cache->count;
	for (size_t i = 0; i < BUCKETS; i++)
		while (cache->buckets[i])
			cache_remove(cache, &cache->buckets[i]);
	return count;
}

void dns_cache_free(struct dns_cache *cache)
{
	if (!cache)
		return;
	dns_cache_flush(cache);
	mem_free(cache);
}

static void cache_make_room(struct dns_cache *cache, size_t bytes)
{
	while (cache->count >= LIMIT_DNS_CACHE_ENTRIES ||
	       (cache->count && cache->bytes + bytes > LIMIT_DNS_CACHE_BYTES)) {
		struct cache_entry *oldest = container_of(cache->used.prev, struct cache_entry, used);
		cache_remove(cache, cache_slot(cache, &oldest->key));
	}
}

void dns_cache_put(struct dns_cache *cache, const struct dns_key *key, const uint8_t *answer, size_t len,
		   uint64_t now_ns)
{
	uint32_t ttl = answer_ttl(answer, len);
	struct cache_entry *entry = ttl ? mem_alloc(entry_bytes(len)) : NULL, **slot = cache_slot(cache, key);
	if (*slot)
		cache_remove(cache, slot);
	if (!entry)
		return;
	cache_make_room(cache, entry_bytes(len));
	slot = &cache->buckets[dns_key_hash(key) % BUCKETS];
	*entry =
	    (struct cache_entry){.next = *slot, .key = *key, .stored_ns = now_ns, .ttl = ttl, .len = len};
	memcpy(entry->answer, answer, len);
	*slot = entry;
	list_prepend(&cache->used, &entry->used);
	cache->count++;
	cache->bytes += entry_bytes(len);
}

enum entry_state { ENTRY_FRESH, ENTRY_STALE, ENTRY_GONE };

static enum entry_state entry_state(const struct cache_entry *entry, uint64_t now_ns)
{
	uint64_t age = (now_ns - entry->stored_ns) / NS_PER_S;
	if (age < entry->ttl)
		return ENTRY_FRESH;
	return age < (uint64_t)entry->ttl + STALE_LONGEST_S ? ENTRY_STALE : ENTRY_GONE;
}

size_t dns_cache_get(struct dns_cache *cache, const struct dns_key *key, bool stale, uint64_t now_ns,
		     uint8_t *ret_answer)
{
	struct cache_entry **slot = cache_slot(cache, key), *entry = *slot;
	if (!entry)
		return 0;
	enum entry_state state = entry_state(entry, now_ns);
	if (state == ENTRY_GONE) {
		cache_remove(cache, slot);
		return 0;
	}
	if (state == ENTRY_STALE && !stale && now_ns >= entry->stale_until_ns)
		return 0;
	list_del(&entry->used);
	list_prepend(&cache->used, &entry->used);
	memcpy(ret_answer, entry->answer, entry->len);
	uint32_t age = (uint32_t)((now_ns - entry->stored_ns) / NS_PER_S);
	write_ttls(ret_answer, entry->len, age, state == ENTRY_STALE ? STALE_TTL : 0);
	return entry->len;
}

bool dns_cache_has_stale(const struct dns_cache *cache, const struct dns_key *key, uint64_t now_ns)
{
	const struct cache_entry *entry = *cache_slot((struct dns_cache *)cache, key);
	return entry && entry_state(entry, now_ns) == ENTRY_STALE;
}

void dns_cache_set_unanswered(struct dns_cache *cache, const struct dns_key *key, uint64_t now_ns)
{
	struct cache_entry *entry = *cache_slot(cache, key);
	if (entry)
		entry->stale_until_ns = now_ns + UNANSWERED_S * NS_PER_S;
}
