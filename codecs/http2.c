// SPDX-License-Identifier: Apache-2.0
#include "codecs/http2.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/chars.h"
#include "codecs/grpc.h"
#include "codecs/http1_authority.h"

#include <errno.h>

int http2_preface(struct str bytes)
{
	size_t n = MIN(bytes.len, (size_t)HTTP2_PREFACE_BYTES);
	if (n && memcmp(bytes.p, HTTP2_PREFACE, n) != 0)
		return 0;
	return n == HTTP2_PREFACE_BYTES ? 1 : ERR_NEED_MORE;
}

bool http2_is_server_preface(struct str bytes)
{
	static const uint8_t shape[] = {0, 0, 0, 4, 0, 0, 0, 0, 0}, fixed[] = {1, 0, 0, 1, 1, 1, 1, 1, 1};
	for (size_t i = 0; i < bytes.len && i < sizeof shape; i++)
		if (fixed[i] && (uint8_t)bytes.p[i] != shape[i])
			return false;
	if (bytes.len < 3)
		return bytes.len > 0;
	return (((unsigned)(uint8_t)bytes.p[1] << 8) | (uint8_t)bytes.p[2]) % 6 == 0;
}

// --- single fields ------------------------------------------------------------------------------------------
static bool all_are(struct str text, uint8_t class)
{
	return chars_scan(text.p, text.p + text.len, class) == text.p + text.len;
}

static bool is_target(struct str text)
{
	return text.len <= LIMIT_HTTP_TARGET &&
	       chars_scan_target(text.p, text.p + text.len) == text.p + text.len;
}

// RFC 9113 8.2.1: a token in lower case.
bool http2_name_is_clean(struct str name)
{
	return name.len && all_are(name, CHAR_LOWER_TOKEN);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

bool http2_value_is_clean(struct str value)
{
	if (value.len && (is_blank(value.p[0]) || is_blank(value.p[value.len - 1])))
		return false;
	return chars_scan_text(value.p, value.p + value.len) == value.p + value.len;
}

static bool is(struct str name, const char *known, size_t len)
{
	return name.len == len && memcmp(name.p, known, len) == 0;
}
#define IS(name, known) is(name, known, sizeof(known) - 1)

// A pseudo-field, or one of the connection (RFC 9113 8.2.2).
static bool is_misplaced(const struct field *field)
{
	switch (field_known(field)) {
	case FIELD_AUTHORITY:
	case FIELD_METHOD:
	case FIELD_PATH:
	case FIELD_SCHEME:
	case FIELD_STATUS:
	case FIELD_PROTOCOL:
	case FIELD_UPGRADE:
	case FIELD_CONNECTION:
	case FIELD_KEEP_ALIVE:
	case FIELD_HTTP2_SETTINGS:
	case FIELD_PROXY_CONNECTION:
	case FIELD_TRANSFER_ENCODING:
		return true;
	case FIELD_TE:
		return !IS(field->value, "trailers") && !str_eq_nocase(field->value, STR("trailers"));
	default:
		return false;
	}
}

bool http2_field_is_clean(const struct field *field)
{
	return (field->known > FIELD_OTHER || http2_name_is_clean(field->name)) &&
	       http2_value_is_clean(field->value);
}

bool http2_field_is_legal(const struct field *field)
{
	return (field->checked || http2_field_is_clean(field)) && !is_misplaced(field);
}

static int take_length(struct message *message, struct str value)
{
	if (message->has_length || str_to_u64(value, &message->length) || message->length > INT64_MAX)
		return ERR_MALFORMED;
	message->has_length = true;
	return 0;
}

// --- heads --------------------------------------------------------------------------------------------------
struct pseudo {
	struct str method, scheme, authority, path, protocol, status;
	bool path_never_indexed, authority_never_indexed; // the others hold no secrets
};

// Where the value of a pseudo-field goes; NULL: there is none of that name.
static struct str *pseudo_find(struct pseudo *pseudo, enum field_name name)
{
	switch (name) {
	case FIELD_PATH:
		return &pseudo->path;
	case FIELD_METHOD:
		return &pseudo->method;
	case FIELD_SCHEME:
		return &pseudo->scheme;
	case FIELD_STATUS:
		return &pseudo->status;
	case FIELD_PROTOCOL:
		return &pseudo->protocol;
	case FIELD_AUTHORITY:
		return &pseudo->authority;
	default:
		return NULL;
	}
}

static int take_pseudo(struct pseudo *pseudo, const struct field *field)
{
	struct str *value = pseudo_find(pseudo, field_known(field));
	if (!value || value->p || !(field->checked || http2_value_is_clean(field->value)))
		return ERR_MALFORMED;
	*value = (struct str){field->value.p ? field->value.p : "", field->value.len};
	return 0;
}

static void note_secret(struct pseudo *pseudo, enum field_name name)
{
	pseudo->path_never_indexed |= name == FIELD_PATH;
	pseudo->authority_never_indexed |= name == FIELD_AUTHORITY;
}

// Takes the pseudo-fields off the front; `fields` and `count` are what follows.
static int split_pseudo(struct field **fields, size_t *count, struct pseudo *ret_pseudo)
{
	while (*count && (*fields)->name.len && (*fields)->name.p[0] == ':') {
		if (take_pseudo(ret_pseudo, *fields))
			return ERR_MALFORMED;
		if ((*fields)->never_indexed)
			note_secret(ret_pseudo, field_known(*fields));
		(*fields)++;
		(*count)--;
	}
	return 0;
}

static int take_host(struct str *host, struct str value)
{
	if (host->p)
		return ERR_MALFORMED;
	*host = (struct str){value.p ? value.p : "", value.len};
	return 0;
}

static void note_grpc(struct message *message, enum field_name name, struct str value)
{
	if (name == FIELD_CONTENT_TYPE)
		message->grpc |= grpc_is_type(value);
	else if (name == FIELD_GRPC_TIMEOUT && !message->grpc_timeout.len)
		message->grpc_timeout = value;
}

// The other fields: checked, noted, and Host (`ret_host` in a request, else NULL) taken out.
static int read_fields(struct message *message, struct field *fields, size_t count, struct str *ret_host)
{
	size_t kept = 0;
	unsigned cookies = 0;
	for (size_t i = 0; i < count; i++) {
		const struct field *field = &fields[i];
		enum field_name known = field_known(field);
		if (!http2_field_is_legal(field))
			return ERR_MALFORMED;
		if (known == FIELD_CONTENT_LENGTH && take_length(message, field->value))
			return ERR_MALFORMED;
		cookies += known == FIELD_COOKIE;
		if (known == FIELD_HOST && ret_host) {
			if (take_host(ret_host, field->value))
				return ERR_MALFORMED;
			continue;
		}
		if (ret_host)
			note_grpc(message, known, field->value);
		if (kept != i)
			fields[kept] = *field;
		kept++;
	}
	message->has_cookies = cookies > 1;
	message->head.fields = fields;
	message->head.field_count = (uint16_t)kept;
	return 0;
}

// RFC 9113 8.3.1: :authority is what counts; Host must not say other things.
static int read_authority(struct message *message, struct str authority, struct str host)
{
	if (authority.p && host.p && !str_eq_nocase(authority, host))
		return ERR_MALFORMED;
	struct str said = authority.p ? authority : host;
	if (said.len && !http1_authority_valid(said))
		return ERR_MALFORMED;
	message->head.authority = said.p ? said : STR("");
	return 0;
}

static bool has_port(struct str authority)
{
	char last = authority.len ? authority.p[authority.len - 1] : 0;
	return last >= '0' && last <= '9' && str_find(authority, ':') >= 0;
}

// RFC 9113 8.3.1: what may follow the scheme and the authority.
static bool is_path(struct str path, struct str method)
{
	if (!path.len || !is_target(path))
		return false;
	return path.p[0] == '/' || (str_eq(path, STR("*")) && str_eq(method, STR("OPTIONS")));
}

// RFC 8441 4: it becomes the GET that HTTP/1 upgrades.
static int read_upgrade(struct message *message, struct str protocol)
{
	if (!str_eq(message->head.method, STR("CONNECT")) || !protocol.len ||
	    !all_are(protocol, CHAR_TOKEN) || !message->head.authority.len)
		return ERR_MALFORMED;
	message->upgrade = protocol;
	message->head.method = STR("GET");
	return 0;
}

// RFC 9113 8.3.1, 8.5.
static int read_target(struct message *message, const struct pseudo *pseudo)
{
	message->head.method = pseudo->method;
	message->scheme = pseudo->scheme.p ? pseudo->scheme : STR("");
	message->head.path = pseudo->path.p ? pseudo->path : STR("");
	if (pseudo->protocol.p && read_upgrade(message, pseudo->protocol))
		return ERR_MALFORMED;
	if (str_eq(message->head.method, STR("CONNECT")))
		return pseudo->path.p || pseudo->scheme.p || !has_port(message->head.authority)
			   ? ERR_MALFORMED
			   : 0;
	bool scheme = pseudo->scheme.len && all_are(pseudo->scheme, CHAR_HOST);
	return scheme && is_path(pseudo->path, pseudo->method) ? 0 : ERR_MALFORMED;
}

void http2_length_drop(struct message *message)
{
	struct head *head = &message->head;
	unsigned kept = 0;
	for (unsigned i = 0; i < head->field_count; i++)
		if (field_known(&head->fields[i]) != FIELD_CONTENT_LENGTH)
			head->fields[kept++] = head->fields[i];
	head->field_count = (uint16_t)kept;
	message->has_length = false;
}

int http2_request_read(struct field *fields, size_t count, struct message *ret_message)
{
	struct message message = {0};
	struct pseudo pseudo = {0};
	struct str host = {NULL, 0};
	if (split_pseudo(&fields, &count, &pseudo) || pseudo.status.p || !pseudo.method.len ||
	    pseudo.method.len > LIMIT_HTTP_METHOD || !all_are(pseudo.method, CHAR_TOKEN))
		return ERR_MALFORMED;
	if (read_fields(&message, fields, count, &host) || read_authority(&message, pseudo.authority, host) ||
	    read_target(&message, &pseudo))
		return ERR_MALFORMED;
	if (str_eq(pseudo.method, STR("CONNECT")))
		http2_length_drop(&message); // what follows is no content, and not to be taken for it
	message.path_never_indexed = pseudo.path_never_indexed;
	message.authority_never_indexed = pseudo.authority_never_indexed;
	*ret_message = message;
	return 0;
}

static int read_status(struct str text, uint16_t *ret_status)
{
	uint64_t status;
	if (text.len != 3 || str_to_u64(text, &status) || status < 100)
		return ERR_MALFORMED;
	*ret_status = (uint16_t)status;
	return 0;
}

// RFC 9110 8.6: no Content-Length with 1xx and 204; of the latter, 0 is let pass, but not on.
static int check_length(struct message *message)
{
	if (!message->has_length || (message->head.status >= 200 && message->head.status != 204))
		return 0;
	if (message->head.status < 200 || message->length)
		return ERR_MALFORMED;
	http2_length_drop(message);
	return 0;
}

// 101 does not exist here (RFC 9113 8.6).
int http2_response_read(struct field *fields, size_t count, bool connect, struct message *ret_message)
{
	struct message message = {0};
	struct pseudo pseudo = {0};
	if (split_pseudo(&fields, &count, &pseudo) || pseudo.method.p || pseudo.scheme.p ||
	    pseudo.authority.p || pseudo.path.p || pseudo.protocol.p ||
	    read_status(pseudo.status, &message.head.status) || message.head.status == 101 ||
	    read_fields(&message, fields, count, NULL) || check_length(&message))
		return ERR_MALFORMED;
	if (connect && message.head.status / 100 == 2)
		message.head.status = 101;
	*ret_message = message;
	return 0;
}

int http2_trailers_check(const struct field *fields, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!http2_field_is_legal(&fields[i]) || field_known(&fields[i]) == FIELD_CONTENT_LENGTH ||
		    field_known(&fields[i]) == FIELD_HOST)
			return ERR_MALFORMED;
	return 0;
}

// --- making pseudo-fields -----------------------------------------------------------------------------------
#define PSEUDO(id, name_, value_) ((struct field){.name = STR(name_), .value = (value_), .known = FIELD_##id})

size_t http2_request_pseudo(const struct message *message, struct field *ret_fields)
{
	const struct head *head = &message->head;
	size_t n = 0;
	bool extended = message->upgrade.len > 0;
	ret_fields[n++] = PSEUDO(METHOD, ":method", extended ? STR("CONNECT") : head->method);
	if (extended || !str_eq(head->method, STR("CONNECT"))) {
		ret_fields[n++] =
		    PSEUDO(SCHEME, ":scheme", message->scheme.len ? message->scheme : STR("http"));
		ret_fields[n] = PSEUDO(PATH, ":path", head->path);
		ret_fields[n++].never_indexed = message->path_never_indexed;
	}
	if (extended)
		ret_fields[n++] = PSEUDO(PROTOCOL, ":protocol", message->upgrade);
	if (head->authority.len) {
		ret_fields[n] = PSEUDO(AUTHORITY, ":authority", head->authority);
		ret_fields[n++].never_indexed = message->authority_never_indexed;
	}
	return n;
}

size_t http2_response_pseudo(const struct message *message, char status[3], struct field *ret_fields)
{
	unsigned code = message->head.status == 101 ? 200 : message->head.status;
	status[0] = (char)('0' + code / 100);
	status[1] = (char)('0' + code / 10 % 10);
	status[2] = (char)('0' + code % 10);
	ret_fields[0] = PSEUDO(STATUS, ":status", ((struct str){status, 3}));
	return 1;
}

static bool is_of_upgrade(const struct field *field)
{
	return IS(field->name, "sec-websocket-key") || IS(field->name, "sec-websocket-accept") ||
	       IS(field->name, "upgrade") || IS(field->name, "content-length");
}

size_t http2_message_fields(const struct message *message, struct field *ret_fields, size_t room)
{
	const struct head *head = &message->head;
	bool upgrade = message->upgrade.len || head->status == 101;
	size_t n = 0;
	for (unsigned i = 0; i < head->field_count && n < room; i++)
		if (!upgrade || !is_of_upgrade(&head->fields[i]))
			ret_fields[n++] = head->fields[i];
	return n;
}

// --- the upgrade of HTTP/1 ----------------------------------------------------------------------------------
static int sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

int http2_settings_decode(struct str text, uint8_t *ret_bytes, size_t room)
{
	uint32_t bits = 0;
	unsigned have = 0;
	size_t len = 0;
	while (text.len && text.p[text.len - 1] == '=')
		text.len--;
	for (size_t i = 0; i < text.len; i++) {
		int value = sextet(text.p[i]);
		if (value < 0)
			return ERR_MALFORMED;
		bits = bits << 6 | (uint32_t)value;
		have += 6;
		if (have < 8)
			continue;
		have -= 8;
		if (len == room)
			return ERR_MALFORMED;
		ret_bytes[len++] = (uint8_t)(bits >> have);
	}
	return have >= 6 || len % 6 ? ERR_MALFORMED : (int)len;
}
