// SPDX-License-Identifier: Apache-2.0
#include "exchange/transport.h"

#include "exchange/exchange.h"

#include <errno.h>

static const struct str NAME = STR("weir-protocol");

bool transport_is_http(enum protocol protocol)
{
	return protocol == PROTOCOL_HTTP1 || protocol == PROTOCOL_HTTP2;
}

struct field transport_field(enum protocol inner)
{
	return (struct field){.name = NAME, .value = str_from(protocol_name(inner))};
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

bool transport_unwrap(struct exchange *exchange)
{
	char text[ADDR_TEXT_MAX];
	struct message *message = &exchange->message;
	enum protocol inner = protocol_of(take_field(&message->head));
	if (inner == PROTOCOL_UNKNOWN)
		return false;
	exchange->inner = (uint8_t)inner;
	return transport_is_http(inner) ||
	       (str_eq(message->head.method, STR("CONNECT")) && !message->upgrade.len &&
		str_eq(message->head.authority,
		       str_from(addr_format(&exchange->connection->destination, text))));
}
