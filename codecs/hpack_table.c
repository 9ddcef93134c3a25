// SPDX-License-Identifier: Apache-2.0
#include "codecs/hpack_table.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>

#define ENTRY(index, id, name_, value_)                                                                      \
	[index] = {.name = {name_, sizeof(name_) - 1},                                                       \
		   .value = {value_, sizeof(value_) - 1},                                                    \
		   .known = FIELD_##id,                                                                      \
		   .clean_name = true,                                                                       \
		   .checked = true,                                                                          \
		   .origin = (index)}

const struct field hpack_static[HPACK_STATIC + 2] = {
    ENTRY(1, AUTHORITY, ":authority", ""),
    ENTRY(2, METHOD, ":method", "GET"),
    ENTRY(3, METHOD, ":method", "POST"),
    ENTRY(4, PATH, ":path", "/"),
    ENTRY(5, PATH, ":path", "/index.html"),
    ENTRY(6, SCHEME, ":scheme", "http"),
    ENTRY(7, SCHEME, ":scheme", "https"),
    ENTRY(8, STATUS, ":status", "200"),
    ENTRY(9, STATUS, ":status", "204"),
    ENTRY(10, STATUS, ":status", "206"),
    ENTRY(11, STATUS, ":status", "304"),
    ENTRY(12, STATUS, ":status", "400"),
    ENTRY(13, STATUS, ":status", "404"),
    ENTRY(14, STATUS, ":status", "500"),
    ENTRY(15, ACCEPT_CHARSET, "accept-charset", ""),
    ENTRY(16, ACCEPT_ENCODING, "accept-encoding", "gzip, deflate"),
    ENTRY(17, ACCEPT_LANGUAGE, "accept-language", ""),
    ENTRY(18, ACCEPT_RANGES, "accept-ranges", ""),
    ENTRY(19, ACCEPT, "accept", ""),
    ENTRY(20, ALLOW_ORIGIN, "access-control-allow-origin", ""),
    ENTRY(21, AGE, "age", ""),
    ENTRY(22, ALLOW, "allow", ""),
    ENTRY(23, AUTHORIZATION, "authorization", ""),
    ENTRY(24, CACHE_CONTROL, "cache-control", ""),
    ENTRY(25, CONTENT_DISPOSITION, "content-disposition", ""),
    ENTRY(26, CONTENT_ENCODING, "content-encoding", ""),
    ENTRY(27, CONTENT_LANGUAGE, "content-language", ""),
    ENTRY(28, CONTENT_LENGTH, "content-length", ""),
    ENTRY(29, CONTENT_LOCATION, "content-location", ""),
    ENTRY(30, CONTENT_RANGE, "content-range", ""),
    ENTRY(31, CONTENT_TYPE, "content-type", ""),
    ENTRY(32, COOKIE, "cookie", ""),
    ENTRY(33, DATE, "date", ""),
    ENTRY(34, ETAG, "etag", ""),
    ENTRY(35, EXPECT, "expect", ""),
    ENTRY(36, EXPIRES, "expires", ""),
    ENTRY(37, FROM, "from", ""),
    ENTRY(38, HOST, "host", ""),
    ENTRY(39, IF_MATCH, "if-match", ""),
    ENTRY(40, IF_MODIFIED_SINCE, "if-modified-since", ""),
    ENTRY(41, IF_NONE_MATCH, "if-none-match", ""),
    ENTRY(42, IF_RANGE, "if-range", ""),
    ENTRY(43, IF_UNMODIFIED_SINCE, "if-unmodified-since", ""),
    ENTRY(44, LAST_MODIFIED, "last-modified", ""),
    ENTRY(45, LINK, "link", ""),
    ENTRY(46, LOCATION, "location", ""),
    ENTRY(47, MAX_FORWARDS, "max-forwards", ""),
    ENTRY(48, PROXY_AUTHENTICATE, "proxy-authenticate", ""),
    ENTRY(49, PROXY_AUTHORIZATION, "proxy-authorization", ""),
    ENTRY(50, RANGE, "range", ""),
    ENTRY(51, REFERER, "referer", ""),
    ENTRY(52, REFRESH, "refresh", ""),
    ENTRY(53, RETRY_AFTER, "retry-after", ""),
    ENTRY(54, SERVER, "server", ""),
    ENTRY(55, SET_COOKIE, "set-cookie", ""),
    ENTRY(56, STRICT_TRANSPORT_SECURITY, "strict-transport-security", ""),
    ENTRY(57, TRANSFER_ENCODING, "transfer-encoding", ""),
    ENTRY(58, USER_AGENT, "user-agent", ""),
    ENTRY(59, VARY, "vary", ""),
    ENTRY(60, VIA, "via", ""),
    ENTRY(61, WWW_AUTHENTICATE, "www-authenticate", ""),
};

const uint8_t hpack_static_names[FIELD_NAME_COUNT] = {
    [FIELD_AUTHORITY] = 1,
    [FIELD_METHOD] = 2,
    [FIELD_PATH] = 4,
    [FIELD_SCHEME] = 6,
    [FIELD_STATUS] = 8,
    [FIELD_ACCEPT_CHARSET] = 15,
    [FIELD_ACCEPT_ENCODING] = 16,
    [FIELD_ACCEPT_LANGUAGE] = 17,
    [FIELD_ACCEPT_RANGES] = 18,
    [FIELD_ACCEPT] = 19,
    [FIELD_ALLOW_ORIGIN] = 20,
    [FIELD_AGE] = 21,
    [FIELD_ALLOW] = 22,
    [FIELD_AUTHORIZATION] = 23,
    [FIELD_CACHE_CONTROL] = 24,
    [FIELD_CONTENT_DISPOSITION] = 25,
    [FIELD_CONTENT_ENCODING] = 26,
    [FIELD_CONTENT_LANGUAGE] = 27,
    [FIELD_CONTENT_LENGTH] = 28,
    [FIELD_CONTENT_LOCATION] = 29,
    [FIELD_CONTENT_RANGE] = 30,
    [FIELD_CONTENT_TYPE] = 31,
    [FIELD_COOKIE] = 32,
    [FIELD_DATE] = 33,
    [FIELD_ETAG] = 34,
    [FIELD_EXPECT] = 35,
    [FIELD_EXPIRES] = 36,
    [FIELD_FROM] = 37,
    [FIELD_HOST] = 38,
    [FIELD_IF_MATCH] = 39,
    [FIELD_IF_MODIFIED_SINCE] = 40,
    [FIELD_IF_NONE_MATCH] = 41,
    [FIELD_IF_RANGE] = 42,
    [FIELD_IF_UNMODIFIED_SINCE] = 43,
    [FIELD_LAST_MODIFIED] = 44,
    [FIELD_LINK] = 45,
    [FIELD_LOCATION] = 46,
    [FIELD_MAX_FORWARDS] = 47,
    [FIELD_PROXY_AUTHENTICATE] = 48,
    [FIELD_PROXY_AUTHORIZATION] = 49,
    [FIELD_RANGE] = 50,
    [FIELD_REFERER] = 51,
    [FIELD_REFRESH] = 52,
    [FIELD_RETRY_AFTER] = 53,
    [FIELD_SERVER] = 54,
    [FIELD_SET_COOKIE] = 55,
    [FIELD_STRICT_TRANSPORT_SECURITY] = 56,
    [FIELD_TRANSFER_ENCODING] = 57,
    [FIELD_USER_AGENT] = 58,
    [FIELD_VARY] = 59,
    [FIELD_VIA] = 60,
    [FIELD_WWW_AUTHENTICATE] = 61,
};

// Twice what can be in it: a text is never torn, and never overtakes the oldest one.
enum { RING = 2 * HPACK_TABLE_MAX };

int hpack_table_init(struct hpack_table *table)
{
	table->added = table->count = table->size = table->end = 0;
	table->limit = HPACK_TABLE_MAX;
	table->texts = chunk_new(RING);
	return table->texts ? 0 : -ENOMEM;
}

void hpack_table_done(struct hpack_table *table)
{
	chunk_unref(table->texts);
}

static void evict_until(struct hpack_table *table, uint32_t size)
{
	while (table->size > size) {
		const struct field *oldest = hpack_table_get(table, table->count);
		table->size -= (uint32_t)(oldest->name.len + oldest->value.len + HPACK_OVERHEAD);
		table->count--;
	}
}

void hpack_table_limit(struct hpack_table *table, uint32_t limit)
{
	table->limit = limit;
	evict_until(table, limit);
}

// Copies a text to where the ring has room for it.
static void put(struct hpack_table *table, struct str *text)
{
	char *at = (char *)table->texts->data + table->end;
	if (text->len)
		memcpy(at, text->p, text->len);
	text->p = at;
	table->end += (uint32_t)text->len;
	table->texts->used = MAX(table->texts->used, table->end);
}

static void put_field(struct hpack_table *table, struct field *field)
{
	if (field->known <= FIELD_OTHER)
		put(table, &field->name);
	put(table, &field->value);
}

// Moves all texts to another ring: somebody refers to this one.
static int renew(struct hpack_table *table)
{
	struct chunk *old = table->texts, *fresh = chunk_new(RING);
	if (!fresh)
		return -ENOMEM;
	table->texts = fresh;
	table->end = 0;
	for (uint32_t age = table->count; age; age--)
		put_field(table, &table->entries[(table->added - age) % HPACK_ENTRIES]);
	chunk_unref(old);
	return 0;
}

// Makes room at table->end.
static int make_room(struct hpack_table *table, size_t len)
{
	if (len > RING - table->end)
		table->end = 0;
	return table->end < table->texts->used && table->texts->refs > 1 ? renew(table) : 0;
}

int hpack_table_add(struct hpack_table *table, const struct field *field)
{
	size_t len = field->name.len + field->value.len, size = len + HPACK_OVERHEAD;
	evict_until(table, size > table->limit ? 0 : table->limit - (uint32_t)size);
	if (size > table->limit)
		return ERR_LIMIT;
	if (make_room(table, len))
		return -ENOMEM;
	struct field *entry = &table->entries[table->added % HPACK_ENTRIES];
	*entry = *field;
	if (entry->known > FIELD_OTHER)
		entry->name = field_names[entry->known];
	put_field(table, entry);
	table->added++;
	table->count++;
	table->size += (uint32_t)size;
	return 0;
}
