// SPDX-License-Identifier: Apache-2.0
#include "codecs/http1_authority.h"

#include "base/addr.h"
#include "codecs/chars.h"

static bool port_valid(struct str port)
{
	uint64_t value = 0;
	return port.len == 0 || (port.len <= 5 && str_to_u64(port, &value) == 0 && value <= UINT16_MAX);
}

// The length of the host at the start; 0 if there is none.
static size_t host_len(struct str authority)
{
	if (authority.len == 0 || authority.p[0] != '[')
		return (size_t)(chars_scan(authority.p, authority.p + authority.len, CHAR_HOST) -
				authority.p);
	ptrdiff_t close = str_find(authority, ']');
	struct ip ip;
	if (close < 0)
		return 0;
	struct str address = {authority.p + 1, (size_t)close - 1};
	if (str_find(address, ':') < 0 || ip_parse(address, &ip) != 0)
		return 0; // IPv4 takes no brackets
	return (size_t)close + 1;
}

bool http1_authority_valid(struct str authority)
{
	size_t len = host_len(authority);
	if (len == 0 || len == authority.len)
		return len != 0;
	return authority.p[len] == ':' &&
	       port_valid((struct str){authority.p + len + 1, authority.len - len - 1});
}

static enum http1_fault authority_form(struct http1_head *head)
{
	struct str target = head->target;
	if (!http1_authority_valid(target))
		return HTTP1_FAULT_HOST;
	char last = target.p[target.len - 1];
	if (last < '0' || last > '9' || str_find(target, ':') < 0 || target.len == host_len(target))
		return HTTP1_FAULT_HOST; // the port is not optional here
	head->head.authority = target;
	head->flags |= HTTP1_TARGET_AUTHORITY;
	return HTTP1_OK;
}

static size_t scheme_len(struct str target)
{
	static const struct str SCHEMES[] = {STR("http://"), STR("https://")};
	for (int i = 0; i < 2; i++)
		if (target.len > SCHEMES[i].len &&
		    str_eq_nocase((struct str){target.p, SCHEMES[i].len}, SCHEMES[i]))
			return SCHEMES[i].len;
	return 0;
}

static enum http1_fault absolute_form(struct http1_head *head)
{
	struct str target = head->target;
	size_t start = scheme_len(target), end = start;
	if (start == 0)
		return HTTP1_FAULT_SYNTAX;
	while (end < target.len && target.p[end] != '/' && target.p[end] != '?')
		end++;
	struct str authority = {target.p + start, end - start};
	if (!http1_authority_valid(authority))
		return HTTP1_FAULT_HOST;
	if (end < target.len && target.p[end] == '?')
		return HTTP1_FAULT_SYNTAX; // the path "/" would have to be put in front of the query
	head->head.authority = authority;
	if (end < target.len)
		head->head.path = (struct str){target.p + end, target.len - end};
	else // RFC 9112 3.2.1, 3.2.4
		head->head.path = str_eq(head->head.method, STR("OPTIONS")) ? STR("*") : STR("/");
	head->flags |= HTTP1_TARGET_ABSOLUTE;
	return HTTP1_OK;
}

enum http1_fault http1_target_parse(struct http1_head *head)
{
	if (str_eq(head->head.method, STR("CONNECT")))
		return authority_form(head);
	if (head->target.p[0] == '/') {
		head->head.path = head->target;
		return HTTP1_OK;
	}
	if (!str_eq(head->target, STR("*")))
		return absolute_form(head);
	if (!str_eq(head->head.method, STR("OPTIONS")))
		return HTTP1_FAULT_SYNTAX;
	head->head.path = head->target;
	head->flags |= HTTP1_TARGET_ASTERISK;
	return HTTP1_OK;
}
