// SPDX-License-Identifier: Apache-2.0
#include "dns/text.h"

#include "base/error.h"
#include "base/mem.h"

#include <stdio.h>

// What the data consists of, a letter each: n a name, 2 and 4 numbers of so many bytes, a and A addresses, t
// texts up to the end.
struct type_row {
	uint16_t type;
	const char *name, *data; // NULL: by its bytes
};

static const struct type_row type_rows[] = {
    {DNS_TYPE_A, "A", "a"},
    {DNS_TYPE_NS, "NS", "n"},
    {DNS_TYPE_CNAME, "CNAME", "n"},
    {DNS_TYPE_SOA, "SOA", "nn44444"},
    {DNS_TYPE_PTR, "PTR", "n"},
    {DNS_TYPE_HINFO, "HINFO", "t"},
    {15, "MX", "2n"},
    {16, "TXT", "t"},
    {DNS_TYPE_AAAA, "AAAA", "A"},
    {DNS_TYPE_SRV, "SRV", "222n"},
    {35, "NAPTR", NULL},
    {39, "DNAME", "n"},
    {43, "DS", NULL},
    {46, "RRSIG", NULL},
    {48, "DNSKEY", NULL},
    {DNS_TYPE_SVCB, "SVCB", NULL},
    {DNS_TYPE_HTTPS, "HTTPS", NULL},
    {DNS_TYPE_ANY, "ANY", NULL},
    {257, "CAA", NULL},
};

static const char *const rcode_names[] = {
    [DNS_NOERROR] = "NOERROR",	 [DNS_FORMERR] = "FORMERR", [DNS_SERVFAIL] = "SERVFAIL",
    [DNS_NXDOMAIN] = "NXDOMAIN", [DNS_NOTIMP] = "NOTIMP",   [DNS_REFUSED] = "REFUSED",
    [DNS_BADVERS] = "BADVERS",
};

static const struct type_row *find_type(uint16_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(type_rows); i++)
		if (type_rows[i].type == type)
			return &type_rows[i];
	return NULL;
}

const char *dns_type_format(uint16_t type, char text[DNS_WORD_MAX])
{
	const struct type_row *row = find_type(type);
	if (row)
		return row->name;
	snprintf(text, DNS_WORD_MAX, "TYPE%u", type);
	return text;
}

int dns_type_from_text(struct str text, uint16_t *ret_type)
{
	uint64_t number;
	for (size_t i = 0; i < ARRAY_SIZE(type_rows); i++) {
		if (str_eq_nocase(text, str_from(type_rows[i].name))) {
			*ret_type = type_rows[i].type;
			return 0;
		}
	}
	if (text.len > 4 && str_eq_nocase((struct str){text.p, 4}, STR("TYPE")))
		text = (struct str){text.p + 4, text.len - 4};
	if (str_to_u64(text, &number) || number == 0 || number > UINT16_MAX)
		return ERR_MALFORMED;
	*ret_type = (uint16_t)number;
	return 0;
}

const char *dns_rcode_format(uint16_t rcode, char text[DNS_WORD_MAX])
{
	if (rcode < ARRAY_SIZE(rcode_names) && rcode_names[rcode])
		return rcode_names[rcode];
	snprintf(text, DNS_WORD_MAX, "RCODE%u", rcode);
	return text;
}

// --- data ---------------------------------------------------------------------------------------------------
static void put_text(struct reader *r, struct strbuf *out)
{
	struct str text = reader_bytes(r, reader_u8(r));
	strbuf_add_char(out, '"');
	for (size_t i = 0; i < text.len; i++) {
		uint8_t c = (uint8_t)text.p[i];
		if (c < ' ' || c >= 0x7f)
			strbuf_printf(out, "\\%03u", c);
		else
			strbuf_printf(out, "%s%c", c == '"' || c == '\\' ? "\\" : "", c);
	}
	strbuf_add_char(out, '"');
}

static void put_name(struct reader *r, struct strbuf *out)
{
	struct dns_name name = {.len = 1, .bytes = {0}};
	char text[DNS_NAME_TEXT_MAX];
	dns_name_read(r, &name);
	strbuf_add_text(out, dns_name_format(name.bytes, text));
}

static void put_address(struct reader *r, uint8_t family, struct strbuf *out)
{
	struct ip ip = {.family = family};
	char text[ADDR_TEXT_MAX];
	reader_copy(r, ip.bytes, family == AF_INET6 ? 16 : 4);
	strbuf_add_text(out, ip_format(&ip, text));
}

static void put_part(struct reader *r, char part, size_t end, struct strbuf *out)
{
	switch (part) {
	case 'n':
		put_name(r, out);
		break;
	case '2':
		strbuf_printf(out, "%u", reader_u16(r));
		break;
	case '4':
		strbuf_printf(out, "%u", reader_u32(r));
		break;
	case 't':
		put_text(r, out);
		while (!r->err && reader_tell(r) < end) {
			strbuf_add_char(out, ' ');
			put_text(r, out);
		}
		break;
	default:
		put_address(r, part == 'A' ? AF_INET6 : AF_INET, out);
	}
}

static void put_bytes(struct str data, struct strbuf *out)
{
	strbuf_printf(out, "\\# %zu%s", data.len, data.len ? " " : "");
	for (size_t i = 0; i < data.len; i++)
		strbuf_printf(out, "%02x", (uint8_t)data.p[i]);
}

void dns_data_format(const uint8_t *message, size_t len, const struct dns_record *record, struct strbuf *out)
{
	const struct type_row *row = find_type(record->type);
	autostrbuf struct strbuf text = {0};
	size_t at = (size_t)((const uint8_t *)record->data.p - message), end = at + record->data.len;
	struct reader r;
	reader_init(&r, message, len);
	reader_seek(&r, at);
	for (const char *part = row && row->data ? row->data : ""; *part; part++) {
		if (text.len)
			strbuf_add_char(&text, ' ');
		put_part(&r, *part, end, &text);
	}
	if (r.err || reader_tell(&r) != end || !record->data.len)
		put_bytes(record->data, out);
	else
		strbuf_add_str(out, strbuf_str(&text));
}
