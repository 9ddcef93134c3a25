// SPDX-License-Identifier: Apache-2.0
#include "dns/message.h"

#include "base/mem.h"

enum { POINTER = 0xc0, POINTER_MASK = 0x3fff };
enum { OPTION_NSID = 3, OPTION_EDE = 15, OPTION_HEAD = 4, EDE_BYTES = OPTION_HEAD + 2 };

// --- names --------------------------------------------------------------------------------------------------
void dns_name_fold(uint8_t *wire, size_t len)
{
	for (size_t i = 0; i < len; i++)
		wire[i] = (uint8_t)(wire[i] | ((uint8_t)(wire[i] - 'A') < 26) << 5);
}

static int name_add_label(struct dns_name *name, struct str label)
{
	if (label.len == 0 || label.len > LIMIT_DNS_LABEL || name->len + label.len + 2 > LIMIT_DNS_NAME ||
	    memchr(label.p, 0, label.len))
		return ERR_MALFORMED;
	name->bytes[name->len] = (uint8_t)label.len;
	memcpy(&name->bytes[name->len + 1], label.p, label.len);
	name->len = (uint8_t)(name->len + label.len + 1);
	name->labels++;
	return 0;
}

int dns_name_from_text(struct str text, struct dns_name *ret_name)
{
	struct dns_name name = {0};
	if (text.len == 0)
		return ERR_MALFORMED;
	if (text.p[text.len - 1] == '.')
		text.len--;
	for (struct str rest = text; text.len && rest.p;)
		if (name_add_label(&name, str_split(&rest, '.')) != 0)
			return ERR_MALFORMED;
	name.bytes[name.len++] = 0;
	dns_name_fold(name.bytes, name.len);
	*ret_name = name;
	return 0;
}

static char *label_format(const uint8_t *label, size_t len, char *at)
{
	for (size_t i = 0; i < len; i++) {
		uint8_t c = label[i];
		if (c <= ' ' || c >= 0x7f) {
			*at++ = '\\';
			*at++ = (char)('0' + c / 100);
			*at++ = (char)('0' + c / 10 % 10);
			*at++ = (char)('0' + c % 10);
			continue;
		}
		if (c == '.' || c == '\\')
			*at++ = '\\';
		*at++ = (char)c;
	}
	return at;
}

const char *dns_name_format(const uint8_t *wire, char text[DNS_NAME_TEXT_MAX])
{
	char *at = text;
	for (; *wire; wire += *wire + 1) {
		if (at != text)
			*at++ = '.';
		at = label_format(wire + 1, *wire, at);
	}
	if (at == text)
		*at++ = '.';
	*at = 0;
	return text;
}

bool dns_name_is_below(const uint8_t *name, size_t len, const uint8_t *suffix, size_t suffix_len)
{
	size_t at = 0;
	while (len - at > suffix_len)
		at += name[at] + 1u;
	return len - at == suffix_len && memcmp(name + at, suffix, suffix_len) == 0;
}

// Moves the cursor to where a pointer leads: before `limit`, which falls with every jump.
static void name_jump(struct reader *r, uint8_t first, size_t *limit)
{
	size_t target = ((size_t)first << 8 | reader_u8(r)) & POINTER_MASK;
	if (target >= *limit || target < DNS_HEADER_BYTES)
		reader_fail(r, ERR_MALFORMED);
	*limit = target;
	reader_seek(r, target);
}

void dns_name_read(struct reader *r, struct dns_name *ret_name)
{
	struct dns_name name = {0};
	struct reader at = *r;
	size_t limit = reader_tell(r);
	bool jumped = false;
	for (;;) {
		uint8_t len = reader_u8(&at);
		if (at.err || len == 0)
			break;
		if ((len & POINTER) == POINTER) {
			if (!jumped)
				dns_name_skip(r);
			jumped = true;
			name_jump(&at, len, &limit);
		} else if (len & POINTER || name.len + len + 2 > LIMIT_DNS_NAME) {
			reader_fail(&at, ERR_MALFORMED);
		} else {
			name.bytes[name.len] = len;
			reader_copy(&at, &name.bytes[name.len + 1], len);
			name.len = (uint8_t)(name.len + len + 1);
			name.labels++;
		}
	}
	if (at.err)
		reader_fail(r, at.err);
	else if (!jumped)
		*r = at;
	if (r->err)
		return;
	name.bytes[name.len++] = 0;
	dns_name_fold(name.bytes, name.len);
	*ret_name = name;
}

void dns_name_skip(struct reader *r)
{
	size_t start = reader_tell(r);
	for (;;) {
		uint8_t len = reader_u8(r);
		if (r->err || len == 0)
			return;
		if ((len & POINTER) == POINTER) {
			reader_u8(r);
			return;
		}
		if (len & POINTER || reader_tell(r) + len - start >= LIMIT_DNS_NAME)
			reader_fail(r, ERR_MALFORMED);
		reader_skip(r, len);
	}
}

// --- records ------------------------------------------------------------------------------------------------
void dns_record_read(struct reader *r, struct dns_record *ret_record)
{
	struct dns_record record = {.start = reader_tell(r)};
	dns_name_skip(r);
	record.type = reader_u16(r);
	record.rclass = reader_u16(r);
	record.ttl_at = reader_tell(r);
	record.ttl = reader_u32(r);
	record.data = reader_bytes(r, reader_u16(r));
	if (!r->err)
		*ret_record = record;
}

// The options of an OPT record; *ret_nsid is the first NSID (p is NULL: none). False: one is cut off. Behind
// such a one nothing may be added: it would be read as its rest.
static bool read_options(struct str data, struct str *ret_nsid)
{
	struct reader options;
	*ret_nsid = (struct str){NULL, 0};
	reader_init(&options, data.p, data.len);
	while (reader_remaining(&options) && !options.err) {
		uint16_t code = reader_u16(&options);
		struct str value = reader_bytes(&options, reader_u16(&options));
		if (code == OPTION_NSID && !options.err && !ret_nsid->p)
			*ret_nsid = value;
	}
	return !options.err;
}

// --- queries ------------------------------------------------------------------------------------------------
// RFC 6891: OPT belongs to the root and stands in the additional section, once.
static void query_read_opt(struct reader *r, const struct dns_record *opt, bool root, struct dns_query *query)
{
	struct str nsid = {NULL, 0};
	if (!root || query->edns || !read_options(opt->data, &nsid))
		reader_fail(r, ERR_MALFORMED);
	query->nsid = nsid.p;
	query->edns = true;
	query->dnssec_ok = opt->ttl & 0x8000;
	query->payload = MAX(opt->rclass, (uint16_t)DNS_UDP_PLAIN);
	if ((opt->ttl >> 16 & 0xff) != 0)
		query->rcode = DNS_BADVERS;
}

static void query_read_records(struct reader *r, const uint16_t counts[3], struct dns_query *query)
{
	struct dns_record record;
	for (int section = DNS_ANSWER; section <= DNS_ADDITIONAL; section++) {
		for (unsigned i = 0; i < counts[section] && !r->err; i++) {
			bool root = reader_remaining(r) && reader_peek_u8(r) == 0;
			dns_record_read(r, &record);
			if (r->err || record.type != DNS_TYPE_OPT)
				continue;
			if (section != DNS_ADDITIONAL)
				reader_fail(r, ERR_MALFORMED);
			query_read_opt(r, &record, root, query);
		}
	}
}

static void query_read_question(struct reader *r, struct dns_query *query)
{
	struct reader_tag start = reader_tag(r);
	size_t at = reader_tell(r);
	dns_name_read(r, &query->name);
	query->type = reader_u16(r);
	query->qclass = reader_u16(r);
	size_t len = reader_tell(r) - at;
	if (r->err)
		return;
	struct reader_tag end = reader_tag(r);
	reader_rollback(r, start);
	query->question = reader_bytes(r, len);
	reader_rollback(r, end);
}

int dns_query_parse(const void *bytes, size_t len, struct dns_query *ret_query)
{
	struct reader r;
	uint16_t counts[3];
	reader_init(&r, bytes, len);
	ret_query->id = reader_u16(&r);
	ret_query->flags = reader_u16(&r);
	uint16_t questions = reader_u16(&r);
	for (int i = 0; i < 3; i++)
		counts[i] = reader_u16(&r);
	if (r.err || ret_query->flags & DNS_FLAG_QR)
		return ERR_MALFORMED;
	ret_query->rcode = DNS_NOERROR;
	ret_query->type = ret_query->qclass = 0;
	ret_query->name.len = 0;
	ret_query->question = (struct str){NULL, 0};
	ret_query->edns = ret_query->dnssec_ok = ret_query->nsid = false;
	ret_query->payload = DNS_UDP_PLAIN;
	if (ret_query->flags & DNS_OPCODE_MASK) {
		ret_query->rcode = DNS_NOTIMP;
		return 0;
	}
	if (questions == 1)
		query_read_question(&r, ret_query);
	query_read_records(&r, counts, ret_query);
	if (questions != 1 || reader_finish(&r) != 0)
		ret_query->rcode = DNS_FORMERR;
	return 0;
}

size_t dns_query_limit(const struct dns_query *query, bool tcp)
{
	return tcp ? DNS_MESSAGE_MAX : MIN(query->payload, (uint16_t)LIMIT_DNS_UDP_PAYLOAD);
}

// --- who answers --------------------------------------------------------------------------------------------
// The OPT record of an answer, if it is the last one and sound.
static bool find_opt(const uint8_t *bytes, size_t len, struct dns_record *ret_opt)
{
	struct dns_record record = {0};
	struct reader r;
	unsigned questions, records = 0;
	reader_init(&r, bytes, len);
	reader_skip(&r, 4);
	questions = reader_u16(&r);
	for (int i = 0; i < 3; i++)
		records += reader_u16(&r);
	for (; questions && !r.err; questions--) {
		dns_name_skip(&r);
		reader_skip(&r, 4);
	}
	for (; records && !r.err; records--)
		dns_record_read(&r, &record);
	if (reader_finish(&r) || record.type != DNS_TYPE_OPT || !read_options(record.data, &(struct str){0}))
		return false;
	*ret_opt = record;
	return true;
}

size_t dns_nsid_add(uint8_t *bytes, size_t len, size_t limit, struct str who)
{
	struct dns_record opt;
	struct writer w;
	size_t more = OPTION_HEAD + who.len;
	if (!find_opt(bytes, len, &opt) || len + more > limit || opt.data.len + more > UINT16_MAX)
		return len;
	writer_init(&w, bytes, limit);
	writer_reserve(&w, len);
	writer_patch_u16(&w, len - opt.data.len - 2, (uint16_t)(opt.data.len + more));
	writer_u16(&w, OPTION_NSID);
	writer_u16(&w, (uint16_t)who.len);
	writer_bytes(&w, who.p, who.len);
	return w.len;
}

struct str dns_nsid_find(const uint8_t *bytes, size_t len)
{
	struct dns_record opt;
	struct str nsid = {NULL, 0};
	if (find_opt(bytes, len, &opt))
		(void)read_options(opt.data, &nsid);
	return nsid;
}

// --- answers ------------------------------------------------------------------------------------------------
enum { COPIED_FLAGS = DNS_OPCODE_MASK | DNS_FLAG_RD | DNS_FLAG_CD };

void dns_reply_begin(struct dns_reply *reply, const struct dns_query *query, void *bytes, size_t cap)
{
	size_t reserved = query->edns ? DNS_OPT_BYTES + EDE_BYTES : 0;
	*reply = (struct dns_reply){.query = query, ._cap = cap, .ede = DNS_EDE_NONE};
	writer_init(&reply->w, bytes, cap - reserved);
	writer_reserve(&reply->w, DNS_HEADER_BYTES);
	writer_bytes(&reply->w, query->question.p, query->question.len);
}

// Where in the question's name the longest suffix that both have begins; its length without it: none but the
// root.
static size_t common_suffix(const struct dns_name *question, const uint8_t *name, size_t len, size_t *ret_at)
{
	for (size_t at = 0; name[at]; at += name[at] + 1u) {
		size_t suffix_len = len - at;
		if (suffix_len <= question->len &&
		    dns_name_is_below(question->bytes, question->len, name + at, suffix_len)) {
			*ret_at = question->len - suffix_len;
			return at;
		}
	}
	*ret_at = question->len;
	return len;
}

void dns_reply_name(struct dns_reply *reply, const uint8_t *name, size_t len)
{
	size_t at = reply->query->name.len, own = len;
	if (reply->query->question.len)
		own = common_suffix(&reply->query->name, name, len, &at);
	writer_bytes(&reply->w, name, own);
	if (own < len)
		writer_u16(&reply->w, (uint16_t)(POINTER << 8 | (DNS_HEADER_BYTES + at)));
}

struct dns_mark dns_reply_record(struct dns_reply *reply, const uint8_t *owner, size_t len,
				 enum dns_type type, uint32_t ttl)
{
	struct dns_mark mark = {.start = reply->w.len};
	dns_reply_name(reply, owner, len);
	writer_u16(&reply->w, (uint16_t)type);
	writer_u16(&reply->w, DNS_CLASS_IN);
	writer_u32(&reply->w, ttl);
	writer_u16(&reply->w, 0);
	mark.data = reply->w.len;
	return mark;
}

bool dns_reply_record_end(struct dns_reply *reply, struct dns_mark mark, enum dns_section section)
{
	bool truncated = reply->flags & DNS_FLAG_TC;
	if (reply->w.err || truncated) {
		writer_truncate(&reply->w, mark.start);
		reply->flags |= section == DNS_ADDITIONAL ? 0 : DNS_FLAG_TC;
		return false;
	}
	writer_patch_u16(&reply->w, mark.data - 2, (uint16_t)(reply->w.len - mark.data));
	reply->counts[section]++;
	return true;
}

void dns_opt_write(struct writer *w, uint16_t rcode, bool dnssec_ok, uint16_t options_len)
{
	writer_u8(w, 0); // the root
	writer_u16(w, DNS_TYPE_OPT);
	writer_u16(w, LIMIT_DNS_UDP_PAYLOAD);
	writer_u8(w, (uint8_t)(rcode >> 4));
	writer_u8(w, 0); // version
	writer_u16(w, dnssec_ok ? 0x8000 : 0);
	writer_u16(w, options_len);
}

static void reply_put_opt(struct dns_reply *reply)
{
	struct writer *w = &reply->w;
	bool explained = reply->ede != DNS_EDE_NONE;
	dns_opt_write(w, reply->rcode, reply->query->dnssec_ok, explained ? EDE_BYTES : 0);
	reply->counts[DNS_ADDITIONAL]++;
	if (!explained)
		return;
	writer_u16(w, OPTION_EDE);
	writer_u16(w, 2);
	writer_u16(w, (uint16_t)reply->ede);
}

size_t dns_reply_end(struct dns_reply *reply)
{
	const struct dns_query *query = reply->query;
	reply->w._cap = reply->_cap;
	if (query->edns)
		reply_put_opt(reply);
	else if (reply->rcode > DNS_RCODE_MASK)
		reply->rcode = DNS_SERVFAIL;
	struct writer header;
	writer_init(&header, reply->w._start, DNS_HEADER_BYTES);
	writer_u16(&header, query->id);
	writer_u16(&header, (uint16_t)(DNS_FLAG_QR | DNS_FLAG_RA | (query->flags & COPIED_FLAGS) |
				       reply->flags | (reply->rcode & DNS_RCODE_MASK)));
	writer_u16(&header, query->question.len ? 1 : 0);
	for (int i = 0; i < 3; i++)
		writer_u16(&header, reply->counts[i]);
	return reply->w.len;
}
