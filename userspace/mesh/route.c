// SPDX-License-Identifier: Apache-2.0
#include "mesh/model.h"
#include "mesh/regex.h"

// "/beta" covers "/beta" and "/beta/x", not "/betamax": whole segments, as in the Gateway API.
static bool covers(struct str prefix, struct str path)
{
	if (!str_starts(path, prefix))
		return false;
	return path.len == prefix.len || path.p[prefix.len] == '/' ||
	       (prefix.len && prefix.p[prefix.len - 1] == '/');
}

static bool text_matches(const struct text_match *match, struct str text, bool path)
{
	switch (match->kind) {
	case MATCH_ANY:
	case MATCH_PRESENT:
		return true;
	case MATCH_EXACT:
		return str_eq(match->text, text);
	case MATCH_PREFIX:
		return path ? covers(match->text, text) : str_starts(text, match->text);
	case MATCH_REGEX:
		return regex_matches(match->regex, text);
	}
	return false;
}

// A field may come several times: one that fits is enough.
static bool header_matches(const struct header_match *match, const struct head *head)
{
	bool found = false;
	for (unsigned i = 0; i < head->field_count && !found; i++) {
		const struct field *field = &head->fields[i];
		found = str_eq_nocase(field->name, match->name) &&
			text_matches(&match->value, field->value, false);
	}
	return found != match->invert;
}

static bool route_matches(const struct route *route, const struct head *head, struct str path)
{
	if (route->method.len && !str_eq(route->method, head->method))
		return false;
	if (!text_matches(&route->path, path, true))
		return false;
	for (size_t i = 0; i < route->header_count; i++)
		if (!header_matches(&route->headers[i], head))
			return false;
	return true;
}

const struct route *route_match(const struct virtual_host *host, const struct head *head)
{
	struct str path = head->path;
	ptrdiff_t query = str_find(path, '?');
	if (query >= 0)
		path.len = (size_t)query;
	for (size_t i = 0; i < host->route_count; i++)
		if (route_matches(&host->routes[i], head, path))
			return &host->routes[i];
	return NULL;
}

const struct cluster *route_pick(const struct route *route, uint64_t random)
{
	// The high half of the product is uniform in [0, total): no division, and no bias worth 2^-32.
	uint64_t at = (uint64_t)(((__uint128_t)random * route->total_weight) >> 64), below = 0;
	for (size_t i = 0; i < route->to_count; i++) {
		below += route->to[i].weight;
		if (at < below)
			return route->to[i].cluster;
	}
	return route->to[route->to_count - 1].cluster;
}
