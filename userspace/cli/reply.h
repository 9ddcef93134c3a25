// SPDX-License-Identifier: Apache-2.0
// A JSON document that a proxy wrote, as an answer or saved in a file: to take values from, and to describe
// to the emitter again as a part of a greater document.
#pragma once

#include "base/json_read.h"
#include "cli/cli.h"

struct reply;

// Parses a JSON object. 0, or what json_read returns.
int reply_parse(struct str text, struct reply **ret_reply);
// NULL is fine.
void reply_free(struct reply *reply);
const struct json_value *reply_root(const struct reply *reply);
// A text; p is NULL for null and what is no text or number. Valid as long as the document.
struct str reply_text(const struct json_value *object, const char *key);
// False if there is no such member, or no address in it.
bool reply_addr(const struct json_value *object, const char *key, struct addr *ret_addr);
bool reply_ip(const struct json_value *object, const char *key, struct ip *ret_ip);
// Describes the members of the object as fields, records, tables and lists.
void reply_emit(const struct json_value *object, struct emit *emit);

// Asks the proxy, as cli_ask does, for JSON. CLI_DONE with a reply, or a status with a sentence in ret_error.
int reply_ask(const struct cli *cli, const char *object, const char *verb, const struct command_value *values,
	      size_t count, struct reply **ret_reply, struct strbuf *ret_error);
