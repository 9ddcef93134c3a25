// SPDX-License-Identifier: Apache-2.0
#include "cli/reply.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/options.h"

#include <errno.h>
#include <stdlib.h>

enum { KEY_MAX = 64, DEPTH_MAX = EMIT_DEPTH_MAX - 4 };

struct reply {
	struct json_value *values;
	char *text; // that they point into
};

int reply_parse(struct str text, struct reply **ret_reply)
{
	struct reply *reply = mem_zalloc(sizeof *reply);
	int err = reply ? 0 : -ENOMEM;
	if (!err)
		reply->text = mem_strndup(text.p, text.len);
	if (!err && !reply->text)
		err = -ENOMEM;
	if (!err)
		err = json_read(reply->text, text.len, &reply->values);
	if (!err && reply->values->type != JSON_OBJECT)
		err = ERR_MALFORMED;
	if (err)
		reply_free(reply);
	else
		*ret_reply = reply;
	return err;
}

void reply_free(struct reply *reply)
{
	if (!reply)
		return;
	mem_free(reply->values);
	mem_free(reply->text);
	mem_free(reply);
}

// --- values -----------------------------------------------------------------------------------------------
const struct json_value *reply_root(const struct reply *reply)
{
	return reply->values;
}

struct str reply_text(const struct json_value *object, const char *key)
{
	const struct json_value *value = json_member(object, key);
	bool is_text = value && (value->type == JSON_STRING || value->type == JSON_NUMBER);
	return is_text ? json_str_of(value) : (struct str){NULL, 0};
}

bool reply_addr(const struct json_value *object, const char *key, struct addr *ret_addr)
{
	struct str text = reply_text(object, key);
	return text.p && addr_parse(text, ret_addr) == 0;
}

bool reply_ip(const struct json_value *object, const char *key, struct ip *ret_ip)
{
	struct str text = reply_text(object, key);
	return text.p && ip_parse(text, ret_ip) == 0;
}

// --- emitting ---------------------------------------------------------------------------------------------
static void emit_value(const char *key, const struct json_value *value, struct emit *emit, unsigned depth);

static void emit_members(const struct json_value *object, struct emit *emit, unsigned depth)
{
	const struct json_value *at = NULL;
	while ((at = json_next(object, at))) {
		char key[KEY_MAX];
		if (at->len >= sizeof key)
			continue;
		memcpy(key, at->p, at->len);
		key[at->len] = 0;
		emit_value(key, at + 1, emit, depth);
	}
}

// What a number means shows in its key: the emitter puts "_ms" behind those of durations.
static void emit_number(const char *key, struct str text, struct emit *emit)
{
	char name[KEY_MAX];
	uint64_t value = strtoull(text.p, NULL, 10); // ends where the number does: JSON goes on behind it
	size_t len = key ? strlen(key) : 0;
	if (text.p[0] == '-') {
		emit_int(emit, key, strtoll(text.p, NULL, 10));
	} else if (len > 3 && strcmp(key + len - 3, "_ms") == 0) {
		memcpy(name, key, len - 3);
		name[len - 3] = 0;
		emit_duration(emit, name, value * NS_PER_MS);
	} else if (key && (strcmp(key, "received") == 0 || strcmp(key, "sent") == 0)) {
		emit_bytes(emit, key, value);
	} else {
		emit_uint(emit, key, value);
	}
}

static void emit_array(const char *key, const struct json_value *array, struct emit *emit, unsigned depth)
{
	const struct json_value *at = json_next(array, NULL);
	bool rows = at && at->type == JSON_OBJECT;
	(rows ? emit_table_begin : emit_list_begin)(emit, key);
	for (; at; at = json_next(array, at)) {
		if (!rows) {
			emit_value(NULL, at, emit, depth);
			continue;
		}
		emit_row_begin(emit);
		emit_members(at, emit, depth);
		emit_row_end(emit);
	}
	(rows ? emit_table_end : emit_list_end)(emit);
}

static void emit_value(const char *key, const struct json_value *value, struct emit *emit, unsigned depth)
{
	if (depth > DEPTH_MAX)
		return;
	switch ((enum json_type)value->type) {
	case JSON_OBJECT:
		emit_record_begin(emit, key);
		emit_members(value, emit, depth + 1);
		emit_record_end(emit);
		break;
	case JSON_ARRAY:
		emit_array(key, value, emit, depth + 1);
		break;
	case JSON_STRING:
		emit_str(emit, key, json_str_of(value));
		break;
	case JSON_NUMBER:
		emit_number(key, json_str_of(value), emit);
		break;
	case JSON_BOOL:
		emit_bool(emit, key, value->p[0] == 't');
		break;
	case JSON_NULL:
		emit_text(emit, key, NULL);
		break;
	}
}

void reply_emit(const struct json_value *object, struct emit *emit)
{
	emit_members(object, emit, 0);
}

// --- asking -----------------------------------------------------------------------------------------------
int reply_ask(const struct cli *cli, const char *object, const char *verb, const struct command_value *values,
	      size_t count, struct reply **ret_reply, struct strbuf *ret_error)
{
	autostrbuf struct strbuf text = {0};
	int status = cli_ask(cli, object, verb, EMIT_JSON, values, count, &text);
	struct str said = strbuf_str(&text);
	if (status == CLI_DONE && reply_parse(said, ret_reply)) {
		strbuf_add_text(ret_error, "the proxy's answer cannot be understood");
		return CLI_FAILED;
	}
	if (status != CLI_DONE) {
		said.len -= str_ends(said, STR("\n"));
		strbuf_add_str(ret_error, said);
	}
	return status;
}
