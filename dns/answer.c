// SPDX-License-Identifier: Apache-2.0
#include "dns/answer.h"

#include "base/error.h"
#include "base/mem.h"
#include "dns/lookup.h"

enum { SPECIAL_TTL = 86400, SOA_REFRESH = 3600, SOA_RETRY = 600, SOA_EXPIRE = 86400 };

// One answer under way.
struct answering {
	struct dns_reply reply;
	const struct dns_query *query;
	uint32_t ttl;
	size_t apex; // where the zone's name begins in the query's
};

static bool asks(const struct dns_query *query, enum dns_type type)
{
	return query->type == type;
}

// --- records ------------------------------------------------------------------------------------------------
static void put_address(struct answering *a, const uint8_t *owner, size_t len, const struct ip *ip,
			enum dns_section section)
{
	bool v6 = ip->family == AF_INET6;
	struct dns_mark mark =
	    dns_reply_record(&a->reply, owner, len, v6 ? DNS_TYPE_AAAA : DNS_TYPE_A, a->ttl);
	writer_bytes(&a->reply.w, ip->bytes, v6 ? 16 : 4);
	dns_reply_record_end(&a->reply, mark, section);
}

static void put_own_address(struct answering *a, const struct ip *ip)
{
	put_address(a, a->query->name.bytes, a->query->name.len, ip, DNS_ANSWER);
}

// The zone's own record; its last field is how long an absence may be remembered (RFC 2308 5).
static void put_soa(struct answering *a, enum dns_section section)
{
	const uint8_t *apex = a->query->name.bytes + a->apex;
	size_t len = a->query->name.len - a->apex;
	struct writer *w = &a->reply.w;
	struct dns_mark mark = dns_reply_record(&a->reply, apex, len, DNS_TYPE_SOA, a->ttl);
	dns_reply_name(&a->reply, apex, len);
	writer_bytes(w, "\12hostmaster", 11);
	dns_reply_name(&a->reply, apex, len);
	writer_u32(w, 1);
	writer_u32(w, SOA_REFRESH);
	writer_u32(w, SOA_RETRY);
	writer_u32(w, SOA_EXPIRE);
	writer_u32(w, a->ttl);
	dns_reply_record_end(&a->reply, mark, section);
}

// ANY gets one small record instead of everything (RFC 8482 4.2).
static void put_minimal(struct answering *a)
{
	static const char rfc[] = "\7RFC8482\0";
	struct dns_mark mark =
	    dns_reply_record(&a->reply, a->query->name.bytes, a->query->name.len, DNS_TYPE_HINFO, a->ttl);
	writer_bytes(&a->reply.w, rfc, 9);
	dns_reply_record_end(&a->reply, mark, DNS_ANSWER);
}

static bool label_is(const uint8_t *label, struct str text)
{
	return str_eq_nocase((struct str){(const char *)label + 1, label[0]}, text);
}

// The ports whose service and protocol are the name's first two labels (RFC 2782), with the addresses beside
// them.
static void put_services(struct answering *a, const struct dns_host *host)
{
	const uint8_t *service = a->query->name.bytes, *proto = service + service[0] + 1;
	for (size_t i = 0; i < host->entry.port_count; i++) {
		const struct dns_port *port = &host->entry.ports[i];
		if (!label_is(service, port->service) || !label_is(proto, port->proto))
			continue;
		struct dns_mark mark = dns_reply_record(&a->reply, a->query->name.bytes, a->query->name.len,
							DNS_TYPE_SRV, a->ttl);
		writer_u16(&a->reply.w, 0); // priority
		writer_u16(&a->reply.w, 0); // weight
		writer_u16(&a->reply.w, port->port);
		writer_bytes(&a->reply.w, host->name.bytes, host->name.len); // never compressed (RFC 2782)
		dns_reply_record_end(&a->reply, mark, DNS_ANSWER);
	}
	if (host->entry.v4.family)
		put_address(a, host->name.bytes, host->name.len, &host->entry.v4, DNS_ADDITIONAL);
	if (host->entry.v6.family)
		put_address(a, host->name.bytes, host->name.len, &host->entry.v6, DNS_ADDITIONAL);
}

static void put_pointer(struct answering *a, const struct dns_name *name)
{
	struct dns_mark mark =
	    dns_reply_record(&a->reply, a->query->name.bytes, a->query->name.len, DNS_TYPE_PTR, a->ttl);
	dns_reply_name(&a->reply, name->bytes, name->len);
	dns_reply_record_end(&a->reply, mark, DNS_ANSWER);
}

// --- nodes --------------------------------------------------------------------------------------------------
// Of names outside our zones only what concerns the VIP is answered here; their other data is upstream's.
static bool concerns_vip(const struct dns_query *query)
{
	return asks(query, DNS_TYPE_A) || asks(query, DNS_TYPE_AAAA) || asks(query, DNS_TYPE_CNAME) ||
	       asks(query, DNS_TYPE_HTTPS) || asks(query, DNS_TYPE_SVCB) || asks(query, DNS_TYPE_ANY);
}

static void answer_host(struct answering *a, const struct dns_entry *entry)
{
	if (asks(a->query, DNS_TYPE_A) && entry->v4.family)
		put_own_address(a, &entry->v4);
	else if (asks(a->query, DNS_TYPE_AAAA) && entry->v6.family)
		put_own_address(a, &entry->v6);
	else if (asks(a->query, DNS_TYPE_ANY))
		put_minimal(a);
}

static void answer_node(struct answering *a, const struct dns_node *node)
{
	switch (node->kind) {
	case DNS_NODE_HOST:
		answer_host(a, &node->host->entry);
		break;
	case DNS_NODE_SRV:
		if (asks(a->query, DNS_TYPE_SRV))
			put_services(a, node->host);
		else if (asks(a->query, DNS_TYPE_ANY))
			put_minimal(a);
		break;
	case DNS_NODE_PTR:
		if (asks(a->query, DNS_TYPE_PTR))
			put_pointer(a, &node->host->name);
		else if (asks(a->query, DNS_TYPE_ANY))
			put_minimal(a);
		break;
	case DNS_NODE_EMPTY:
		break;
	}
}

// --- special names ------------------------------------------------------------------------------------------
enum special_kind {
	SPECIAL_LOCALHOST, // it and all below it is the loopback address (RFC 6761 6.3)
	SPECIAL_NOTHING,   // there is no such name (RFC 6761 6.4, RFC 7686 2)
	SPECIAL_LOOPBACK,  // reverse names: of the zone there is one host, localhost (RFC 6303 4.2, 4.3)
};

struct special {
	const uint8_t *suffix;
	size_t len;
	enum special_kind kind;
	const uint8_t *host; // of SPECIAL_LOOPBACK
	size_t host_len;
};

// Seven labels of the reverse name of ::1.
#define ZEROS                                                                                                \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"                                                                                                  \
	"\1"                                                                                                 \
	"0"
static const uint8_t LOCALHOST[] = "\11localhost", INVALID[] = "\7invalid", ONION[] = "\5onion";
static const uint8_t LOOPBACK4[] = "\3"
				   "127\7in-addr\4arpa",
		     HOST4[] = "\1"
			       "1\1"
			       "0\1"
			       "0\3"
			       "127\7in-addr\4arpa";
static const uint8_t LOOPBACK6[] = "\1"
				   "1" ZEROS ZEROS ZEROS ZEROS "\1"
				   "0\1"
				   "0\1"
				   "0\3"
				   "ip6\4arpa";

static const struct special specials[] = {
    {LOCALHOST, sizeof LOCALHOST, SPECIAL_LOCALHOST, NULL, 0},
    {INVALID, sizeof INVALID, SPECIAL_NOTHING, NULL, 0},
    {ONION, sizeof ONION, SPECIAL_NOTHING, NULL, 0},
    {LOOPBACK4, sizeof LOOPBACK4, SPECIAL_LOOPBACK, HOST4, sizeof HOST4},
    {LOOPBACK6, sizeof LOOPBACK6, SPECIAL_LOOPBACK, LOOPBACK6, sizeof LOOPBACK6},
};

static void answer_loopback(struct answering *a, const struct special *special)
{
	const struct dns_name *name = &a->query->name;
	static const struct dns_name localhost = {sizeof LOCALHOST, 1, "\11localhost"};
	if (!dns_name_is_below(special->host, special->host_len, name->bytes, name->len))
		a->reply.rcode = DNS_NXDOMAIN;
	else if (name->len == special->host_len && asks(a->query, DNS_TYPE_PTR))
		put_pointer(a, &localhost);
}

static void answer_special(struct answering *a, const struct special *special)
{
	static const struct ip v4 = {AF_INET, {127, 0, 0, 1}}, v6 = {AF_INET6, {[15] = 1}};
	a->apex = a->query->name.len - special->len;
	a->ttl = SPECIAL_TTL;
	if (special->kind == SPECIAL_LOOPBACK)
		answer_loopback(a, special);
	else if (special->kind == SPECIAL_NOTHING)
		a->reply.rcode = DNS_NXDOMAIN;
	else if (asks(a->query, DNS_TYPE_A))
		put_own_address(a, &v4);
	else if (asks(a->query, DNS_TYPE_AAAA))
		put_own_address(a, &v6);
	if (!a->reply.counts[DNS_ANSWER])
		put_soa(a, DNS_AUTHORITY);
}

static const struct special *find_special(const struct dns_name *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(specials); i++)
		if (dns_name_is_below(name->bytes, name->len, specials[i].suffix, specials[i].len))
			return &specials[i];
	return NULL;
}

// --- queries ------------------------------------------------------------------------------------------------
static void answer_ours(struct answering *a, const struct dns_match *match)
{
	bool at_apex = match->apex == 0 && match->in_zone;
	a->apex = match->apex;
	if (match->found == DNS_MISSING)
		a->reply.rcode = DNS_NXDOMAIN;
	else if (match->found == DNS_OURS)
		answer_node(a, match->node);
	if (at_apex && asks(a->query, DNS_TYPE_SOA))
		put_soa(a, DNS_ANSWER);
	if (!a->reply.counts[DNS_ANSWER] && !(a->reply.flags & DNS_FLAG_TC))
		put_soa(a, DNS_AUTHORITY);
}

// What is refused whatever the name: zone transfers (RFC 5936), and classes that are not the Internet's.
static bool is_refused(const struct dns_query *query)
{
	return asks(query, DNS_TYPE_AXFR) || asks(query, DNS_TYPE_IXFR) ||
	       (query->qclass != DNS_CLASS_IN && query->qclass != DNS_CLASS_ANY);
}

size_t dns_answer_empty(const struct dns_query *query, uint16_t rcode, enum dns_ede ede, void *ret_answer)
{
	struct dns_reply reply;
	dns_reply_begin(&reply, query, ret_answer, dns_query_limit(query, false));
	reply.rcode = rcode;
	reply.ede = ede;
	return dns_reply_end(&reply);
}

enum dns_verdict dns_answer(const struct dns_names *names, const void *bytes, size_t len, bool tcp,
			    struct dns_query *ret_query, void *ret_answer, size_t *ret_answer_len)
{
	struct dns_match match = {.found = DNS_OUTSIDE};
	if (dns_query_parse(bytes, len, ret_query))
		return DNS_VERDICT_DROP;
	if (ret_query->rcode || is_refused(ret_query)) {
		uint16_t rcode = ret_query->rcode ? (uint16_t)ret_query->rcode : DNS_REFUSED;
		*ret_answer_len = dns_answer_empty(ret_query, rcode, DNS_EDE_NONE, ret_answer);
		return DNS_VERDICT_ANSWER;
	}
	const struct special *special = find_special(&ret_query->name);
	if (!special && names)
		dns_names_find(names, &ret_query->name, &match);
	if (!special && (match.found == DNS_OUTSIDE ||
			 (!match.in_zone && match.node->kind == DNS_NODE_HOST && !concerns_vip(ret_query))))
		return DNS_VERDICT_FORWARD;
	struct answering a = {.query = ret_query, .ttl = names ? dns_names_ttl(names) : 0};
	dns_reply_begin(&a.reply, ret_query, ret_answer, dns_query_limit(ret_query, tcp));
	a.reply.flags = DNS_FLAG_AA;
	if (special)
		answer_special(&a, special);
	else
		answer_ours(&a, &match);
	*ret_answer_len = dns_reply_end(&a.reply);
	return DNS_VERDICT_ANSWER;
}
