// SPDX-License-Identifier: Apache-2.0
// A plan from words as on the command line, and its rules: "exclude-users 5; no-ipv6".
#pragma once

#include "test.h"

#include "base/error.h"
#include "intercept/cgroups.h"
#include "intercept/options.h"
#include "intercept/rules.h"

#include <stdio.h>
#include <stdlib.h>

// 0, or the error of the first setting that is refused, or of the plan as a whole.
static inline int make_plan(struct plan_builder *builder, const char *text, struct strbuf *error)
{
	struct str rest = str_from(text);
	int err = 0;
	plan_builder_init(builder);
	while (rest.p && rest.len && !err) {
		struct str value = str_trim(str_split(&rest, ';')), name = str_split(&value, ' ');
		char copy[64];
		snprintf(copy, sizeof copy, "%.*s", STR_ARG(name));
		err = plan_builder_set(builder, copy, value.p ? str_trim(value) : STR(""), error);
	}
	return err ? err : capture_plan_validate(&builder->plan, error);
}

// Control groups that there need not be: the digits at the end of a name are the group's number.
static inline uint64_t cgroup_number(const char *name)
{
	const char *at = name + strlen(name);
	while (at > name && at[-1] >= '0' && at[-1] <= '9')
		at--;
	return strtoull(at, NULL, 10);
}

// Number 4 is in 2, that in 1; 3 is by itself; 0 stands for the root.
static inline struct cgroup_line cgroup_line_at(uint64_t number)
{
	static const uint64_t above[] = {0, 0, 1, 0, 2};
	struct cgroup_line line = {.path = "/"};
	for (uint64_t at = number; at; at = above[at])
		line.ids[line.count++] = at;
	return line;
}

static inline void number_cgroups(struct ruleset *ruleset)
{
	for (size_t i = 0; i < ruleset->rule_count; i++)
		for (size_t j = 0; j < ruleset->rules[i].match_count; j++) {
			struct rule_match *match = &ruleset->rules[i].matches[j];
			if (match->field != RULE_CGROUP)
				continue;
			match->cgroup = cgroup_number(match->path);
			match->value = 1;
			for (const char *c = match->path; *c; c++)
				match->value += *c == '/';
		}
}

static inline void make_rules(const char *text, struct ruleset *ret_ruleset)
{
	autostrbuf struct strbuf error = {0};
	struct plan_builder builder;
	int err = make_plan(&builder, text, &error);
	if (err)
		fail_msg("%s: %s", text, error.p ? error.p : "?");
	assert_int_equal(ruleset_compile(&builder.plan, ret_ruleset), 0);
	plan_builder_done(&builder);
	number_cgroups(ret_ruleset);
}

// A plan in which everything is used.
static const char plan_of_everything[] =
    "vips 240.240.0.0/16,fd77:65:6972::/112; exclude-outbound-ports 1-5,5-9,10; include-outbound-ports "
    "1-65535;"
    "include-outbound-cidrs 10.0.0.0/8,10.1.0.0/16,0.0.0.0/1,fd00::/8,::/0; exclude-outbound-cidrs "
    "10.9.0.0/16;"
    "exclude-outbound-cidrs fd00:1::/32; include-outbound-interfaces eth*,wlan0;"
    "exclude-outbound-interfaces docker0,abcdefghijklmno; include-inbound-ports 65535,80; "
    "exclude-inbound-ports 1;"
    "include-inbound-cidrs 10.77.0.0/16; exclude-inbound-cidrs 255.255.255.255,ffff::/16;"
    "include-inbound-interfaces eth0; exclude-inbound-interfaces br*; include-users 0-100,65534;"
    "exclude-users 4294967294; include-groups 0,7-9; exclude-groups 100-200; exclude-marks "
    "0x1,0x70000/0xf0000;"
    "dns-servers 10.0.0.53,fd00::53; proxy-user 65534; proxy-group 99; exclude-cgroups a1/b2/c4,a3";

static const char *const plans[] = {
    "",
    plan_of_everything,
    "no-outbound; no-inbound",
    "no-outbound; no-dns; no-ipv4; capture-ssh",
    "no-ipv6; include-outbound-cidrs fd00::/8,10.0.0.0/8; capture-metadata",
    "no-dns; no-inbound; vips 240.0.0.0/16",
    "dns-servers fd00::53; no-ipv6",
    "include-cgroups a1/b2,a3; include-users 5,100; include-groups 7; exclude-cgroups a1/b2/c4",
    "exclude-cgroups a1; include-groups 0-100; no-inbound",
    "include-cgroups a1; no-outbound",
    "include-cgroups a1; no-outbound; no-dns",
    "include-marks 0x5,0x70000/0xf0000; include-groups 7; exclude-marks 0x70001",
    "include-marks 0x5; no-dns",
};
