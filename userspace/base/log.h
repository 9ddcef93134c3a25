// SPDX-License-Identifier: Apache-2.0
// Structured log: a level, an event text that never varies, and key-value fields, as one line of logfmt or
// JSON in a single write to standard error (several, if it is longer than PIPE_BUF). Nobody is waited for: a
// line for which there is no room is dropped, and the next one that has room is preceded by one that says how
// many were. Library code does not log; whoever decides does, once. Any thread may call. Never pass a secret:
// nothing is masked here. Values are escaped, so a peer's bytes cannot forge a line.
//
//     log_warn("endpoint refused the connection", LOG_STR("cluster", name), LOG_ADDR("endpoint", &addr),
//     LOG_ERR(err));
#pragma once

#include "base/addr.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_format { LOG_LOGFMT, LOG_JSON };

struct log_field {
	const char *key; // NULL ends the list
	enum { LOG_FIELD_STR, LOG_FIELD_INT, LOG_FIELD_UINT, LOG_FIELD_ADDR, LOG_FIELD_ERR } kind;
	union {
		struct str str;
		int64_t i;
		uint64_t u;
		const struct addr *addr;
	};
};

#define LOG_STR(k, v)  ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .str = (v)})
#define LOG_TEXT(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .str = str_from(v)})
#define LOG_INT(k, v)  ((struct log_field){.key = (k), .kind = LOG_FIELD_INT, .i = (v)})
#define LOG_UINT(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_UINT, .u = (v)})
#define LOG_ADDR(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_ADDR, .addr = (v)})
// Written as error="text".
#define LOG_ERR(v) ((struct log_field){.key = "error", .kind = LOG_FIELD_ERR, .i = (v)})
#define LOG_END	   ((struct log_field){.key = NULL})

// Level and format may be changed at any time, from any thread.
void log_set_level(enum log_level level);
enum log_level log_get_level(void);
void log_set_format(enum log_format format);
// The name of this node, which then stands in every line; empty: none. Call it before threads start. At most
// 255 bytes are kept.
void log_set_node(struct str name);
// Where lines go; standard error at first. The descriptor is borrowed.
void log_set_fd(int fd);
// "debug" | "info" | "warn" | "error"; 0 or ERR_NOT_FOUND.
int log_level_parse(struct str text, enum log_level *ret_level);
const char *log_level_name(enum log_level level);

bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *event, const struct log_field *fields);

#define LOG_AT(level, event, ...)                                                                            \
	do {                                                                                                 \
		if (log_enabled(level))                                                                      \
			log_write(level, event,                                                              \
				  (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ) LOG_END});           \
	} while (0)
#define log_debug(event, ...) LOG_AT(LOG_DEBUG, event __VA_OPT__(, ) __VA_ARGS__)
#define log_info(event, ...)  LOG_AT(LOG_INFO, event __VA_OPT__(, ) __VA_ARGS__)
#define log_warn(event, ...)  LOG_AT(LOG_WARN, event __VA_OPT__(, ) __VA_ARGS__)
#define log_error(event, ...) LOG_AT(LOG_ERROR, event __VA_OPT__(, ) __VA_ARGS__)
