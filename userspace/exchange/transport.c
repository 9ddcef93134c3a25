// SPDX-License-Identifier: Apache-2.0
#include "exchange/transport.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/http2.h"
#include "codecs/registry.h"
#include "exchange/call.h"

#include <errno.h>
#include <stdio.h>

static const struct str NAME = STR("weir-protocol"), OWN = STR("weir-"), KIND = STR("weir-kind"),
			TIMEOUT = STR("weir-timeout"), SERVICE = STR("weir-service"),
			METHOD = STR("weir-method"), STATUS = STR("weir-status");

bool transport_is_http(enum protocol protocol)
{
	return protocol == PROTOCOL_HTTP1 || protocol == PROTOCOL_HTTP2;
}

struct field transport_field(const struct exchange *exchange)
{
	const char *name = exchange->codec ? exchange->codec->name : protocol_name(exchange->inner);
	return (struct field){.name = NAME, .value = str_from(name)};
}

bool transport_owns(const struct field *field)
{
	return str_eq_nocase(field->name, NAME);
}

int transport_address(struct exchange *exchange)
{
	char text[ADDR_TEXT_MAX];
	if (transport_is_http(exchange->inner))
		return 0;
	struct str address = str_from(addr_format(&exchange->endpoint->addr, text));
	const char *kept = arena_strdup(&exchange->arena, address.p, address.len);
	if (!kept)
		return -ENOMEM;
	exchange->authority = exchange->message.head.authority = (struct str){kept, address.len};
	return 0;
}

// --- a call's head ------------------------------------------------------------------------------------------
static const struct str KINDS[] = {[FRAME_REQUEST] = STR("request"), [FRAME_ONEWAY] = STR("oneway")};

// Copies, the name in lower case. 0, ERR_UNSUPPORTED (HTTP cannot say it, or would take it for something else)
// or -ENOMEM.
static int copy_field(struct arena *arena, const struct field *field, struct field *ret_field)
{
	char *name = arena_strdup(arena, field->name.p, field->name.len);
	const char *value = arena_strdup(arena, field->value.p, field->value.len);
	if (!name || !value)
		return -ENOMEM;
	for (size_t i = 0; i < field->name.len; i++)
		name[i] = ascii_lower(name[i]);
	struct field copy = {.name = {name, field->name.len}, .value = {value, field->value.len}};
	if (!http2_field_is_legal(&copy) || str_starts(copy.name, OWN) ||
	    str_eq(copy.name, STR("content-length")) || str_eq(copy.name, STR("host")))
		return ERR_UNSUPPORTED;
	*ret_field = copy;
	return 0;
}

// As many as fit within the limits.
static int add_header_map(struct exchange *exchange, const struct head *from, struct head *to)
{
	size_t left = LIMIT_TRANSPORT_CALL_BYTES, count = 0;
	for (unsigned i = 0; i < from->field_count && count < LIMIT_TRANSPORT_CALL_FIELDS; i++) {
		const struct field *field = &from->fields[i];
		if (field->name.len + field->value.len > left)
			continue;
		int err = copy_field(&exchange->arena, field, &to->fields[to->field_count]);
		if (err == -ENOMEM)
			return err;
		if (err)
			continue;
		left -= field->name.len + field->value.len;
		to->field_count++;
		count++;
	}
	return 0;
}

static int add_own(struct exchange *exchange, struct str name, struct str value, struct head *to)
{
	const char *copy = arena_strdup(&exchange->arena, value.p, value.len);
	struct field field = {.name = name, .value = {copy, value.len}};
	if (!copy)
		return -ENOMEM;
	if (value.len && http2_field_is_legal(&field))
		to->fields[to->field_count++] = field;
	return 0;
}

int transport_describe_call(struct exchange *exchange, const struct call *call, const struct head *head)
{
	enum { OWN_FIELDS = 4 };
	char ms[16];
	struct head *to = &exchange->message.head;
	to->path = STR("/");
	to->field_count = 0;
	to->fields = arena_alloc(&exchange->arena,
				 (OWN_FIELDS + LIMIT_TRANSPORT_CALL_FIELDS) * sizeof(struct field));
	int err = to->fields ? add_own(exchange, KIND, KINDS[call->frame.kind], to) : -ENOMEM;
	int digits = snprintf(ms, sizeof ms, "%u", call->timeout_ms);
	if (!err && call->timeout_ms)
		err = add_own(exchange, TIMEOUT, (struct str){ms, (size_t)digits}, to);
	if (!err)
		err = add_own(exchange, SERVICE, head->authority, to);
	if (!err)
		err = add_own(exchange, METHOD, head->method, to);
	return err ? err : add_header_map(exchange, head, to);
}

int transport_read_call(const struct head *head, uint8_t *ret_kind, uint32_t *ret_timeout_ms)
{
	const struct field *kind = head_find(head, KIND), *timeout = head_find(head, TIMEOUT);
	uint64_t ms = 0;
	if (!kind || (timeout && (str_to_u64(timeout->value, &ms) || ms > UINT32_MAX)))
		return ERR_MALFORMED;
	for (size_t i = 0; i < ARRAY_SIZE(KINDS); i++) {
		if (!str_eq(kind->value, KINDS[i]))
			continue;
		*ret_kind = (uint8_t)i;
		*ret_timeout_ms = (uint32_t)ms;
		return 0;
	}
	return ERR_MALFORMED;
}

struct field transport_status(uint16_t status, char room[8])
{
	int digits = snprintf(room, 8, "%u", status);
	return (struct field){.name = STATUS, .value = {room, (size_t)digits}};
}

// --- the far end --------------------------------------------------------------------------------------------
// What may ride; PROTOCOL_UNKNOWN: nothing of that name.
static enum protocol protocol_of(struct str name)
{
	static const enum protocol RIDERS[] = {PROTOCOL_TCP, PROTOCOL_TLS, PROTOCOL_HTTP1, PROTOCOL_HTTP2};
	for (size_t i = 0; i < sizeof RIDERS / sizeof *RIDERS; i++)
		if (str_eq(name, str_from(protocol_name(RIDERS[i]))))
			return RIDERS[i];
	return PROTOCOL_UNKNOWN;
}

// The value of the field, which is taken out. Empty: it is not there, or more than once.
static struct str take_field(struct head *head)
{
	struct str value = STR("");
	unsigned kept = 0, found = 0;
	for (unsigned i = 0; i < head->field_count; i++) {
		if (!transport_owns(&head->fields[i])) {
			head->fields[kept++] = head->fields[i];
			continue;
		}
		value = head->fields[i].value;
		found++;
	}
	head->field_count = (uint16_t)kept;
	return found == 1 ? value : STR("");
}

// In order (codecs/streamed.h) is not in frames: that one keeps connections of its own.
static const struct framed_codec *codec_of(const struct exchange *exchange, struct str name)
{
	const struct model *model = exchange->snapshot->model;
	const struct framed_codec *codec = codec_find(model->codecs, model->codec_count, name);
	return codec && !codec->streamed && codec_is_usable(codec) ? codec : NULL;
}

bool transport_unwrap(struct exchange *exchange)
{
	char text[ADDR_TEXT_MAX];
	struct message *message = &exchange->message;
	struct str name = take_field(&message->head);
	exchange->inner = (uint8_t)protocol_of(name);
	if (exchange->inner == PROTOCOL_UNKNOWN) {
		exchange->codec = codec_of(exchange, name);
		exchange->inner = (uint8_t)(exchange->codec ? exchange->codec->protocol : PROTOCOL_UNKNOWN);
	}
	if (exchange->inner == PROTOCOL_UNKNOWN || transport_is_http(exchange->inner))
		return exchange->inner != PROTOCOL_UNKNOWN;
	return str_eq(message->head.method, exchange->codec ? STR("POST") : STR("CONNECT")) &&
	       !message->upgrade.len &&
	       str_eq(message->head.authority,
		      str_from(addr_format(&exchange->connection->destination, text)));
}
