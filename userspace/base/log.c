// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/mem.h"

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static atomic_int current_level = LOG_INFO;
static atomic_int current_format = LOG_LOGFMT;
static atomic_int current_fd = STDERR_FILENO;
static char node[256];
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER; // the three below, and the order of pieces
static uint64_t dropped;				    // lines, since one was written
static bool torn;					    // the last line lacks its end
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&current_level, level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&current_level, memory_order_relaxed);
}

void log_set_format(enum log_format format)
{
	atomic_store_explicit(&current_format, format, memory_order_relaxed);
}

void log_set_fd(int fd)
{
	atomic_store_explicit(&current_fd, fd, memory_order_relaxed);
}

void log_set_node(struct str name)
{
	size_t len = MIN(name.len, sizeof node - 1);
	if (len)
		memcpy(node, name.p, len);
	node[len] = 0;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

int log_level_parse(struct str text, enum log_level *ret_level)
{
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (str_eq(text, str_from(level_names[i]))) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return ERR_NOT_FOUND;
}

bool log_enabled(enum log_level level)
{
	return (int)level >= atomic_load_explicit(&current_level, memory_order_relaxed);
}

static struct str field_text(const struct log_field *field, char number[ADDR_TEXT_MAX])
{
	switch (field->kind) {
	case LOG_FIELD_STR:
		return field->str;
	case LOG_FIELD_INT:
		snprintf(number, ADDR_TEXT_MAX, "%lld", (long long)field->i);
		return str_from(number);
	case LOG_FIELD_UINT:
		snprintf(number, ADDR_TEXT_MAX, "%llu", (unsigned long long)field->u);
		return str_from(number);
	case LOG_FIELD_ADDR:
		return str_from(addr_format(field->addr, number));
	case LOG_FIELD_ERR:
		return str_from(err_text((int)field->i));
	}
	return STR("");
}

static bool needs_quotes(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.p[i] <= ' ' || s.p[i] == '"' || s.p[i] == '=' || s.p[i] == '\\' || s.p[i] == 0x7f)
			return true;
	return s.len == 0;
}

static void logfmt_value(struct strbuf *line, struct str value)
{
	if (needs_quotes(value))
		json_escape(line, value);
	else
		strbuf_add_str(line, value);
}

static void write_logfmt(struct strbuf *line, const char *time, enum log_level level, const char *event,
			 const struct log_field *fields)
{
	char number[ADDR_TEXT_MAX];
	strbuf_printf(line, "time=%s level=%s msg=", time, level_names[level]);
	logfmt_value(line, str_from(event));
	if (*node) {
		strbuf_add_text(line, " node=");
		logfmt_value(line, str_from(node));
	}
	for (; fields->key; fields++) {
		strbuf_printf(line, " %s=", fields->key);
		logfmt_value(line, field_text(fields, number));
	}
}

static void write_json(struct strbuf *line, const char *time, enum log_level level, const char *event,
		       const struct log_field *fields)
{
	char number[ADDR_TEXT_MAX];
	strbuf_printf(line, "{\"time\":\"%s\",\"level\":\"%s\",\"msg\":", time, level_names[level]);
	json_escape(line, str_from(event));
	if (*node) {
		strbuf_add_text(line, ",\"node\":");
		json_escape(line, str_from(node));
	}
	for (; fields->key; fields++) {
		struct str text = field_text(fields, number);
		strbuf_printf(line, ",\"%s\":", fields->key);
		if (fields->kind == LOG_FIELD_INT || fields->kind == LOG_FIELD_UINT)
			strbuf_add_str(line, text);
		else
			json_escape(line, text);
	}
	strbuf_add_char(line, '}');
}

static void write_line(struct strbuf *line, enum log_level level, const char *event,
		       const struct log_field *fields)
{
	char time[64], whole[80];
	uint64_t now = clock_real_ns();
	time_t seconds = (time_t)(now / NS_PER_S);
	struct tm tm;
	gmtime_r(&seconds, &tm);
	strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(whole, sizeof whole, "%s.%03uZ", time, (unsigned)(now / NS_PER_MS % 1000));
	if (atomic_load_explicit(&current_format, memory_order_relaxed) == LOG_JSON)
		write_json(line, whole, level, event, fields);
	else
		write_logfmt(line, whole, level, event, fields);
	strbuf_add_char(line, '\n');
}

// As much as there is room for: what is told to have room takes PIPE_BUF bytes at once. Whoever should read
// and does not must not stop the proxy.
static size_t put(int fd, struct str text)
{
	size_t at = 0;
	while (at < text.len) {
		struct pollfd room = {.fd = fd, .events = POLLOUT};
		if (poll(&room, 1, 0) != 1 || !(room.revents & POLLOUT))
			break;
		ssize_t n = write(fd, text.p + at, MIN(text.len - at, (size_t)PIPE_BUF));
		if (n <= 0)
			break;
		at += (size_t)n;
	}
	return at;
}

// Whether all of it is written.
static bool put_line(int fd, const struct strbuf *line)
{
	if (torn && put(fd, STR("\n")) == 0)
		return false;
	size_t n = put(fd, strbuf_str(line));
	torn = n > 0 && n < line->len;
	return n == line->len;
}

// What was dropped is told of in front of the next line that has room.
static void put_dropped(int fd)
{
	autostrbuf struct strbuf line = {0};
	const struct log_field fields[] = {LOG_UINT("lines", dropped), LOG_END};
	write_line(&line, LOG_WARN, "lines of the log were dropped: nobody read them in time", fields);
	if (put_line(fd, &line))
		dropped = 0;
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
	autostrbuf struct strbuf line = {0};
	int fd = atomic_load_explicit(&current_fd, memory_order_relaxed);
	write_line(&line, level, event, fields);
	pthread_mutex_lock(&writing);
	if (dropped)
		put_dropped(fd);
	dropped += !put_line(fd, &line);
	pthread_mutex_unlock(&writing);
}
