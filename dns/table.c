// SPDX-License-Identifier: Apache-2.0
#include "dns/table.h"

#include <errno.h>

enum { FIRST_BUCKETS = 64 };

static void table_put(struct dns_table *table, struct dns_link *link)
{
	struct dns_link **bucket = &table->_buckets[link->hash & table->_mask];
	link->_next = *bucket;
	*bucket = link;
}

static int table_resize(struct dns_table *table, size_t buckets)
{
	struct dns_table bigger = {mem_array(buckets, sizeof(struct dns_link *)), buckets - 1, table->count};
	if (!bigger._buckets)
		return -ENOMEM;
	for (size_t i = 0; table->_buckets && i <= table->_mask; i++) {
		for (struct dns_link *link = table->_buckets[i], *next; link; link = next) {
			next = link->_next;
			table_put(&bigger, link);
		}
	}
	mem_free(table->_buckets);
	*table = bigger;
	return 0;
}

int dns_table_insert(struct dns_table *table, struct dns_link *link, uint64_t hash)
{
	int err = 0;
	if (!table->_buckets)
		err = table_resize(table, FIRST_BUCKETS);
	else if (table->count > table->_mask)
		(void)table_resize(table, (table->_mask + 1) * 2); // longer chains will do
	if (err)
		return err;
	link->hash = hash;
	table_put(table, link);
	table->count++;
	return 0;
}

void dns_table_remove(struct dns_table *table, struct dns_link *link)
{
	struct dns_link **at = &table->_buckets[link->hash & table->_mask];
	while (*at != link)
		at = &(*at)->_next;
	*at = link->_next;
	table->count--;
}

void dns_table_each(const struct dns_table *table, void (*fn)(struct dns_link *link, void *arg), void *arg)
{
	for (size_t i = 0; table->_buckets && i <= table->_mask; i++)
		for (struct dns_link *link = table->_buckets[i]; link; link = link->_next)
			fn(link, arg);
}

void dns_table_clear(struct dns_table *table, void (*fn)(struct dns_link *link, void *arg), void *arg)
{
	for (size_t i = 0; table->_buckets && i <= table->_mask; i++) {
		struct dns_link *link = table->_buckets[i];
		table->_buckets[i] = NULL;
		while (link) {
			struct dns_link *next = link->_next;
			fn(link, arg);
			link = next;
		}
	}
	table->count = 0;
}

void dns_table_done(struct dns_table *table)
{
	mem_free(table->_buckets);
	*table = (struct dns_table){0};
}
