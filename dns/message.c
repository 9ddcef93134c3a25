// SPDX-License-Identifier: Apache-2.0
#include "dns/message.h"

#include "base/mem.h"

enum { POINTER = 0xc0, POINTER_MASK = 0x3fff };

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
