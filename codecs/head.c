// SPDX-License-Identifier: Apache-2.0
#include "codecs/head.h"

#include "base/cursor.h"
#include "base/limits.h"
#include "base/mem.h"

static const char *const PROTOCOL_NAMES[] = {
    [PROTOCOL_UNKNOWN] = "-",	[PROTOCOL_TCP] = "tcp",
    [PROTOCOL_TLS] = "tls",	[PROTOCOL_HTTP1] = "http1",
    [PROTOCOL_HTTP2] = "http2", [PROTOCOL_BOLT] = "bolt",
    [PROTOCOL_DUBBO] = "dubbo", [PROTOCOL_DUBBO_THRIFT] = "dubbo-thrift",
    [PROTOCOL_TARS] = "tars",	[PROTOCOL_PLUGIN] = "plugin",
};

const char *protocol_name(enum protocol protocol)
{
	return (unsigned)protocol < ARRAY_SIZE(PROTOCOL_NAMES) ? PROTOCOL_NAMES[protocol] : "-";
}

const struct field *head_find(const struct head *head, struct str name)
{
	for (unsigned i = 0; i < head->field_count; i++)
		if (head->fields[i].name.len == name.len && str_eq_nocase(head->fields[i].name, name))
			return &head->fields[i];
	return NULL;
}

struct str head_rpc_path(const struct head *head, char *room)
{
	struct writer w;
	writer_init(&w, room, LIMIT_RPC_NAME * 2 + 2);
	writer_u8(&w, '/');
	writer_bytes(&w, head->authority.p, head->authority.len);
	writer_u8(&w, '/');
	writer_bytes(&w, head->method.p, head->method.len);
	return (struct str){room, w.len};
}
