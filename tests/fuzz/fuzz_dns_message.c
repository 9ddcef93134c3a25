// SPDX-License-Identifier: Apache-2.0
// A client sends any bytes as a query, an upstream server any bytes as an answer: the first byte says which.
#include "base/clock.h"
#include "base/mem.h"
#include "dns/answer.h"
#include "dns/cache.h"
#include "dns/names.h"
#include "dns/text.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dns_names *make_names(void)
{
	const struct dns_port ports[] = {{80, STR("_http"), STR("_tcp")}};
	static const struct cidr ranges[] = {{{AF_INET, {240, 240}}, 16}, {{AF_INET6, {0xfd, 0x77}}, 112}};
	struct dns_entry entry = {.name = STR("web.mesh"),
				  .v4 = {AF_INET, {240, 240, 0, 1}},
				  .v6 = {AF_INET6, {0xfd, 0x77, [15] = 1}},
				  .ports = ports,
				  .port_count = 1};
	struct dns_names *names;
	if (dns_names_new(STR("mesh"), 10, ranges, 2, &names) || dns_names_add(names, &entry))
		abort();
	entry.name = STR("*.example.com");
	if (dns_names_add(names, &entry))
		abort();
	return names;
}

// Whatever the message: what is added is found, and nothing is written behind the limit.
static void who(const uint8_t *bytes, size_t len, size_t limit)
{
	uint8_t *copy = mem_alloc(limit);
	if (!copy)
		abort();
	memcpy(copy, bytes, len);
	size_t before = dns_nsid_find(bytes, len).p ? len : 0,
	       n = dns_nsid_add(copy, len, limit, STR("weir"));
	if (n != len && (n != len + 8 || (!before && !str_eq(dns_nsid_find(copy, n), STR("weir")))))
		abort();
	mem_free(copy);
}

static void text(const uint8_t *bytes, size_t len)
{
	struct dns_record record = {.data = {(const char *)bytes, 0}};
	struct strbuf out = {0};
	struct reader r;
	reader_init(&r, bytes, len);
	reader_skip(&r, DNS_HEADER_BYTES);
	while (!r.err && reader_remaining(&r)) {
		dns_record_read(&r, &record);
		if (!r.err)
			dns_data_format(bytes, len, &record, &out);
		strbuf_clear(&out);
	}
	strbuf_done(&out);
}

static void query(const struct dns_names *names, const uint8_t *bytes, size_t len)
{
	for (int tcp = 0; tcp <= 1; tcp++) {
		static uint8_t answer[DNS_MESSAGE_MAX];
		struct dns_query got;
		size_t answer_len = 0;
		if (dns_answer(names, bytes, len, tcp, &got, answer, &answer_len) != DNS_VERDICT_ANSWER)
			continue;
		// What we write is well-formed, and not longer than the client takes.
		struct reader r;
		struct dns_record record;
		reader_init(&r, answer, answer_len);
		reader_skip(&r, 4);
		unsigned questions = reader_u16(&r), records = reader_u16(&r);
		records += reader_u16(&r);
		records += reader_u16(&r);
		for (; questions; questions--) {
			dns_name_skip(&r);
			reader_skip(&r, 4);
		}
		for (; records; records--)
			dns_record_read(&r, &record);
		if (reader_finish(&r) || answer_len > dns_query_limit(&got, tcp))
			abort();
		who(answer, answer_len, dns_query_limit(&got, tcp));
	}
}

static void answer(const uint8_t *bytes, size_t len)
{
	static uint8_t got[DNS_MESSAGE_MAX];
	struct dns_key key = {.type = DNS_TYPE_A, .qclass = DNS_CLASS_IN};
	struct dns_cache *cache;
	if (len > DNS_MESSAGE_MAX || dns_name_from_text(STR("a.example"), &key.name) || dns_cache_new(&cache))
		return;
	who(bytes, len, len + 7);
	who(bytes, len, len + 8);
	text(bytes, len);
	dns_cache_put(cache, &key, bytes, len, NS_PER_S);
	for (uint64_t seconds = 1; seconds < 200000; seconds *= 7) {
		size_t n = dns_cache_get(cache, &key, true, seconds * NS_PER_S, got);
		if (n && n != len)
			abort();
	}
	dns_cache_free(cache);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct dns_names *names;
	if (!names)
		names = make_names();
	if (size == 0)
		return 0;
	// A copy that ends where its memory does, so that the sanitizer sees each byte too many.
	uint8_t *copy = mem_alloc(size);
	if (!copy)
		abort();
	memcpy(copy, data, size);
	if (data[0] & 1)
		answer(copy + 1, size - 1);
	else
		query(names, copy + 1, size - 1);
	mem_free(copy);
	return 0;
}
