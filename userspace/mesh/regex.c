// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "mesh/regex.h"

#include "base/error.h"
#include "base/limits.h"

#include <pcre2.h>

// What the scan for nested repetition keeps for each open group.
enum { NESTING_MAX = 32 };

// The length of a quantifier at the start, 0 if there is none; *ret_unbounded for '*', '+', '{n,}'.
static size_t quantifier(struct str s, bool *ret_unbounded)
{
	*ret_unbounded = false;
	if (s.len == 0)
		return 0;
	if (s.p[0] == '*' || s.p[0] == '+') {
		*ret_unbounded = true;
		return 1;
	}
	if (s.p[0] == '?')
		return 1;
	ptrdiff_t close = s.p[0] == '{' ? str_find(s, '}') : -1;
	if (close < 2)
		return 0;
	*ret_unbounded = s.p[close - 1] == ',';
	return (size_t)close + 1;
}

// Length of a character class "[...]" at the start.
static size_t class_len(struct str s)
{
	size_t i = 1;
	if (i < s.len && s.p[i] == '^')
		i++;
	for (size_t first = i; i < s.len; i++) {
		if (s.p[i] == '\\')
			i++;
		else if (s.p[i] == ']' && i > first)
			return i + 1;
	}
	return s.len;
}

// Whether a group that holds an unbounded repetition is itself repeated without bound: (a+)*, ((a*)b)+.
static bool repeats_nested(struct str s)
{
	bool holds[NESTING_MAX + 1] = {false};
	size_t depth = 0;
	for (size_t i = 0, len; i < s.len; i += len) {
		struct str rest = {s.p + i, s.len - i};
		bool group_end = rest.p[0] == ')' && depth > 0, group_holds = false, unbounded;
		len = rest.p[0] == '\\' ? 2 : rest.p[0] == '[' ? class_len(rest) : 1;
		if (rest.p[0] == '(' && ++depth > NESTING_MAX)
			return true;
		if (rest.p[0] == '(') {
			holds[depth] = false;
			// "(?:" and the like: what follows is no quantifier.
			len += rest.len > 1 && rest.p[1] == '?';
			continue;
		}
		if (group_end) {
			group_holds = holds[depth--];
			holds[depth] |= group_holds;
		}
		if (i + len >= s.len)
			break;
		len += quantifier((struct str){s.p + i + len, s.len - i - len}, &unbounded);
		if (unbounded && group_holds)
			return true;
		holds[depth] |= unbounded;
	}
	return false;
}

int regex_compile(struct str pattern, pcre2_code **ret_regex, struct strbuf *ret_error)
{
	int code;
	size_t offset;
	char text[128];
	if (pattern.len > LIMIT_REGEX_BYTES) {
		strbuf_printf(ret_error, "the pattern is longer than %d bytes", LIMIT_REGEX_BYTES);
		return ERR_LIMIT;
	}
	if (repeats_nested(pattern)) {
		strbuf_add_text(
		    ret_error,
		    "an unbounded repetition within another, such as (a+)*, can take unbounded time: "
		    "bound one of them, as in (a+){1,8}");
		return ERR_MALFORMED;
	}
	pcre2_code *regex = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.len,
					  PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_NEVER_BACKSLASH_C |
					      PCRE2_NO_AUTO_CAPTURE,
					  &code, &offset, NULL);
	if (!regex) {
		pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
		strbuf_printf(ret_error, "%s, at offset %zu of the pattern", text, offset);
		return ERR_MALFORMED;
	}
	// Without JIT (no executable memory) matching is slower and means the same.
	pcre2_jit_compile(regex, PCRE2_JIT_COMPLETE);
	*ret_regex = regex;
	return 0;
}

void regex_free(pcre2_code *regex)
{
	pcre2_code_free(regex);
}

// One per thread: the step limit belongs to the match, and match data must not be shared.
static __thread pcre2_match_data *match_data;
static __thread pcre2_match_context *match_context;

bool regex_matches(const pcre2_code *regex, struct str text)
{
	if (!match_data) {
		match_data = pcre2_match_data_create(1, NULL);
		match_context = pcre2_match_context_create(NULL);
		if (match_context) {
			pcre2_set_match_limit(match_context, LIMIT_REGEX_STEPS);
			pcre2_set_depth_limit(match_context, LIMIT_REGEX_STEPS);
		}
	}
	if (!match_data || !match_context)
		return false;
	return pcre2_match(regex, (PCRE2_SPTR)text.p, text.len, 0, 0, match_data, match_context) >= 0;
}

void regex_thread_done(void)
{
	pcre2_match_data_free(match_data);
	pcre2_match_context_free(match_context);
	match_data = NULL;
	match_context = NULL;
}
