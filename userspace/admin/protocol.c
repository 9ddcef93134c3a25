// SPDX-License-Identifier: Apache-2.0
#include "admin/protocol.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

enum { STATUS_LINE_MAX = 32 };

static const char *const format_words[] = {
    [EMIT_PLAIN] = "plain", [EMIT_JSON] = "json", [EMIT_JSON_PRETTY] = "pretty"};
static const char *const status_words[] = {
    [ADMIN_OK] = "ok", [ADMIN_FAILED] = "failed", [ADMIN_USAGE] = "usage"};

static int word_index(const char *const *words, size_t count, struct str word)
{
	for (size_t i = 0; i < count; i++)
		if (str_eq(str_from(words[i]), word))
			return (int)i;
	return ERR_MALFORMED;
}

static bool is_word_char(char c)
{
	return c > 0x20 && c < 0x7f;
}

// --- requests ---------------------------------------------------------------------------------------------
static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = ascii_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Decodes %XX in place; the result is never longer.
static int value_decode(char *bytes, size_t len, struct str *ret_value)
{
	size_t to = 0;
	for (size_t i = 0; i < len; i++) {
		char c = bytes[i];
		if (c == '%') {
			int high = i + 2 < len ? hex_digit(bytes[i + 1]) : -1;
			int low = high >= 0 ? hex_digit(bytes[i + 2]) : -1;
			if (low < 0)
				return ERR_MALFORMED;
			c = (char)(high << 4 | low);
			i += 2;
		}
		bytes[to++] = c;
	}
	*ret_value = (struct str){bytes, to};
	return 0;
}

static int param_parse(struct str word, char *bytes, struct admin_request *request)
{
	ptrdiff_t equals = str_find(word, '=');
	if (equals <= 0)
		return ERR_MALFORMED;
	if (request->param_count == ADMIN_PARAMS_MAX)
		return ERR_LIMIT;
	struct admin_param *param = &request->params[request->param_count];
	param->name = (struct str){word.p, (size_t)equals};
	int err = value_decode(bytes + equals + 1, word.len - (size_t)equals - 1, &param->value);
	request->param_count += err == 0;
	return err;
}

static bool line_is_clean(struct str line)
{
	for (size_t i = 0; i < line.len; i++)
		if (line.p[i] != ' ' && !is_word_char(line.p[i]))
			return false;
	return true;
}

int admin_request_parse(char *bytes, size_t len, struct admin_request *ret_request)
{
	char *newline = memchr(bytes, '\n', MIN(len, LIMIT_ADMIN_REQUEST));
	if (!newline)
		return len < LIMIT_ADMIN_REQUEST ? ERR_NEED_MORE : ERR_LIMIT;
	struct str rest = {bytes, (size_t)(newline - bytes)};
	if (!line_is_clean(rest))
		return ERR_MALFORMED;
	struct admin_request request;
	request.param_count = 0;
	request.object = str_split(&rest, ' ');
	request.verb = rest.p ? str_split(&rest, ' ') : STR("");
	int format = rest.p ? word_index(format_words, ARRAY_SIZE(format_words), str_split(&rest, ' '))
			    : ERR_MALFORMED;
	if (request.object.len == 0 || request.verb.len == 0 || format < 0)
		return ERR_MALFORMED;
	request.format = (enum emit_format)format;
	while (rest.p) {
		struct str word = str_split(&rest, ' ');
		int err = param_parse(word, bytes + (word.p - bytes), &request);
		if (err)
			return err;
	}
	*ret_request = request;
	return (int)(newline - bytes) + 1;
}

void admin_request_begin(struct strbuf *out, const char *object, const char *verb, enum emit_format format)
{
	strbuf_printf(out, "%s %s %s", object, verb, format_words[format]);
}

void admin_request_add(struct strbuf *out, const char *name, struct str value)
{
	strbuf_printf(out, " %s=", name);
	for (size_t i = 0; i < value.len; i++) {
		if (is_word_char(value.p[i]) && value.p[i] != '%')
			strbuf_add_char(out, value.p[i]);
		else
			strbuf_printf(out, "%%%02x", (unsigned char)value.p[i]);
	}
}

void admin_request_end(struct strbuf *out)
{
	strbuf_add_char(out, '\n');
}

// --- responses --------------------------------------------------------------------------------------------
void admin_response_write(struct strbuf *out, enum admin_status status, struct str body)
{
	strbuf_printf(out, "%s %zu\n", status_words[status], body.len);
	strbuf_add_str(out, body);
}

int admin_response_parse(struct str bytes, enum admin_status *ret_status, uint64_t *ret_length)
{
	struct str head = {bytes.p, MIN(bytes.len, STATUS_LINE_MAX)};
	ptrdiff_t end = str_find(head, '\n');
	if (end < 0)
		return bytes.len < STATUS_LINE_MAX ? ERR_NEED_MORE : ERR_MALFORMED;
	struct str rest = {head.p, (size_t)end};
	int status = word_index(status_words, ARRAY_SIZE(status_words), str_split(&rest, ' '));
	if (status < 0 || !rest.p || str_to_u64(rest, ret_length))
		return ERR_MALFORMED;
	*ret_status = (enum admin_status)status;
	return (int)end + 1;
}
