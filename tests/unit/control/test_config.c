// SPDX-License-Identifier: Apache-2.0
#include "build_model.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// What design and documentation show works as it stands there.
static const char whole[] =
    "node:      {id: web-1, zone: z1}\n"
    "workers:   0\n"
    "admin:     {socket: /run/weir/admin.sock, metrics: 127.0.0.1:15090}\n"
    "intercept: {outbound: 15001, inbound: 15006, dns: 15053}\n"
    "dns:       {zone: mesh, vips: [240.240.0.0/16, \"fd77:65:6972::/112\"], ttl: 10, upstream: auto}\n"
    "tls:       {mode: permissive, allow: [\"spiffe://mesh/*\"]}\n"
    "services:\n"
    "  - name: Reviews.mesh\n"
    "    ports: [{port: 80, protocol: auto}]\n"
    "    routes:\n"
    "      - match: {path_prefix: /beta, headers: [{name: x-user, exact: eve}]}\n"
    "        to: [{cluster: reviews-v2}]\n"
    "      - to: [{cluster: reviews-v1, weight: 9}, {cluster: reviews-v2, weight: 1}]\n"
    "clusters:\n"
    "  - name: reviews-v1\n"
    "    endpoints: [{address: \"10.0.0.2:9080\", weight: 1}, {address: \"[fd00::2]:9080\"}]\n"
    "  - {name: reviews-v2, endpoints: [{address: \"10.0.0.3:9080\"}]}\n"
    "inbound:\n"
    "  - port: 9080\n"
    "    protocol: auto\n"
    "  - {port: 9090, protocol: http2, application: http1}\n";

static void the_documented_file(void **state)
{
	(void)state;
	struct model *model = build_model(whole);
	assert_int_equal(model->service_count, 1);
	assert_int_equal(model->cluster_count, 2);
	const struct service *service = model_service(model, STR("reviews.mesh"));
	assert_non_null(service);
	assert_int_equal(service->vip4.family, AF_INET);
	assert_int_equal(service->vip6.family, AF_INET6);
	assert_int_equal(service->hosts[0].route_count, 2);
	assert_ptr_equal(service->hosts[0].default_route, &service->hosts[0].routes[1]);
	assert_int_equal(service->hosts[0].routes[1].total_weight, 10);
	const struct cluster *cluster = model_cluster(model, STR("reviews-v1"));
	assert_int_equal(cluster->endpoint_count, 2);
	assert_int_equal(cluster->endpoints[1].addr.ip.family, AF_INET6);
	assert_int_equal(model->timeouts.idle_ms, 3600000);
	assert_int_equal(model_inbound(model, 9080)->tls, TLS_MODE_PERMISSIVE);
	assert_int_equal(model_inbound(model, 9080)->application, CLUSTER_AUTO);
	assert_int_equal(model_inbound(model, 9090)->rule.protocol, PORT_HTTP2);
	assert_int_equal(model_inbound(model, 9090)->application, CLUSTER_HTTP1);
	model_unref(model);
}

// Each wrong text, and what must be said of it.
static void errors_say_where_and_what(void **state)
{
	(void)state;
	static const struct {
		const char *text, *says;
	} rows[] = {
	    {"wrokers: 1\n", "t.yaml:1:1: unknown key \"wrokers\"; did you mean \"workers\"?"},
	    {"services:\n  - name: a\n    cluster: c\n    ports: [{port: 80, protcol: tcp}]\n",
	     "t.yaml:4:24: services[0].ports[0]: unknown key \"protcol\"; did you mean \"protocol\"?"},
	    {"zzz: 1\n", "unknown key \"zzz\"; valid ones are: node, workers"},
	    {"workers: many\n", "t.yaml:1:10: workers: \"many\" is not valid: expected a number"},
	    {"workers: 1000\n", "workers: \"1000\" is not valid: the range is 0 to 256"},
	    {"workers: [1]\n", "workers: expected a number"},
	    {"workers: 1\nworkers: 2\n", "t.yaml:2:1: workers: the key is given twice"},
	    {"tls: {mode: stict}\n", "tls.mode: \"stict\" is not valid: did you mean \"strict\"?"},
	    {"tls: {mode: none}\n", "it is one of off, permissive, strict"},
	    {"timeouts: {idle: 5}\n", "timeouts.idle: \"5\" is not valid: expected a duration such as"},
	    {"timeouts: {idle: 0s}\n", "the range is 1 to"},
	    {"log: {access: yes}\n", "expected true or false"},
	    {"dns: {vips: [10.0.0.1/8]}\n", "expected a network such as 10.0.0.0/8, its host bits zero"},
	    {"dns: {upstream: [nowhere]}\n", "dns.upstream[0]"},
	    {"clusters: [{name: a, endpoints: [{address: 10.0.0.1}]}]\n",
	     "clusters[0].endpoints[0].address: \"10.0.0.1\" is not valid: expected an address with a port"},
	    {"clusters: [{endpoints: []}]\n", "clusters[0]: \"name\" is missing"},
	    {"clusters: {name: a}\n", "clusters: expected a list"},
	    {"node: {id: n}\nclusters: {}\n", "t.yaml:2:1: clusters: expected a list"},
	    {"clusters:\n  - {}\n", "t.yaml:1:1: clusters[0]: \"name\" is missing"},
	    {"admin:\n  metrics:\n", "t.yaml:2:3: admin.metrics: \"\" is not valid"},
	    {"tls: 5\n", "tls: expected a mapping of keys to values"},
	    {"admin: {metrics: }\n", "admin.metrics"},
	    {"a: &x 1\nb: *x\n", "unknown key"},
	    {"workers: &x 1\nlog: {level: *x}\n", "anchors and aliases are not supported"},
	    {"workers: [1\n", "t.yaml:"},
	    {"%YAML 1.2\n---\nworkers: 1\n",
	     "t.yaml:1:1: directives (lines that begin with %) are not supported"},
	    {"workers: 1\n---\nworkers: 2\n",
	     "t.yaml:2:1: a second document begins here; there may be only one"},
	    {"# one\n---\nworkers: 1\n--- # two\n", "t.yaml:4:1: a second document"},
	    {"workers: 1\n...\n# end\ntls: {mode: off}\n", "t.yaml:4:1: a second document"},
	    {"dns: {state: \"/tmp/a\\0b\"}\n", "it contains a NUL byte"},
	    {"%g: \x8dg:", "t.yaml:1:1: directives"},
	    {"workers: 1\nuser: \"\xc3\xa4\x8d\"\n", "t.yaml:2:9: this byte is no UTF-8 text"},
	    {"intercept: {capture: {exclude_users: [no-such-user]}}\n", "there is no user of that name"},
	    {"intercept: {capture: {outbound: {exclude_ports: [9000-80]}}}\n", "expected a port or a range"},
	    {"intercept: {capture: {exclude_marks: [0x10/0x0f]}}\n", "expected a mark"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct config *config;
		autostrbuf struct strbuf errors = {0};
		int err = config_parse(str_from(rows[i].text), "t.yaml", &config, &errors);
		assert_int_equal(err, ERR_CONFIG);
		if (!strstr(errors.p, rows[i].says))
			fail_msg("%s\ngives: %s\nnot: %s", rows[i].text, errors.p, rows[i].says);
	}
}

static void what_the_grammar_does_not_see(void **state)
{
	(void)state;
#define CLUSTER "clusters: [{name: web, endpoints: [{address: \"10.0.0.1:80\"}]}]\n"
	static const struct {
		const char *text, *says;
	} rows[] = {
	    {CLUSTER "services:\n  - name: a.mesh\n    cluster: wbb\n",
	     "t.yaml:4:14: there is no cluster \"wbb\"; did you mean \"web\"?"},
	    {CLUSTER "services: [{name: a.mesh, cluster: web}, {name: A.mesh, cluster: web}]\n",
	     "service \"A.mesh\" is defined twice, first in line 2"},
	    {CLUSTER "services: [{name: a.mesh}]\n", "has neither routes nor a cluster"},
	    {CLUSTER "services: [{name: a..mesh, cluster: web}]\n", "\"a..mesh\" is no host name"},
	    {CLUSTER "services: [{name: \"a b\", cluster: web}]\n", "is no host name"},
	    {CLUSTER "services: [{name: a, routes: [{to: [{cluster: web, weight: 0}]}]}]\n",
	     "no cluster with a weight"},
	    {CLUSTER
	     "services: [{name: a, routes: [{match: {path_regex: \"(a+)*\"}, to: [{cluster: web}]}]}]\n",
	     "an unbounded repetition within another"},
	    {CLUSTER "services: [{name: a, routes: [{match: {path_regex: \"(a\"}, to: [{cluster: web}]}]}]\n",
	     "the regular expression is not valid"},
	    {CLUSTER "services: [{name: a, routes: [{match: {path: x}, to: [{cluster: web}]}]}]\n",
	     "a path begins with /"},
	    {CLUSTER
	     "services: [{name: a, routes: [{match: {path: /x, path_prefix: /y}, to: [{cluster: web}]}]}]\n",
	     "only one of exact, prefix and regular expression"},
	    {CLUSTER "services: [{name: a, cluster: web, ports: [{port: 1}, {port: 1}]}]\n",
	     "has port 1 twice"},
	    {"clusters: [{name: a}, {name: a}]\n", "cluster \"a\" is defined twice, first in line 1"},
	    {"clusters: [{name: a, tls: mesh}]\n", "asks for mesh TLS, but tls.certificate is not set"},
	    {"clusters: [{name: a, transport: h2}]\n", "\"transport: h2\" requires \"tls: mesh\""},
	    {"clusters: [{name: a, tls_allow: [\"spiffe://*/x\"]}]\n", "a * may stand only at its end"},
	    {"clusters: [{name: a, endpoints: [{address: \"10.0.0.1:1\"}, {address: \"10.0.0.1:1\"}]}]\n",
	     "twice"},
	    {"clusters: [{name: a, endpoints: [{address: \"10.0.0.1:0\"}]}]\n",
	     "t.yaml:1:35: 10.0.0.1:0 cannot be an endpoint: its port is 0"},
	    {"clusters: [{name: a, endpoints: [{address: \"[::]:80\"}]}]\n", "unspecified"},
	    {"clusters: [{name: a, endpoints: [{address: \"224.0.0.1:80\"}]}]\n", "a group"},
	    {"clusters: [{name: a, endpoints: [{address: \"[fe80::1]:80\"}]}]\n", "needs an interface"},
	    {"inbound: [{port: 1}, {port: 1}]\n", "inbound port 1 is given twice"},
	    {"inbound: [{port: 1, protocol: blot}]\n", "t.yaml:1:31: no protocol is called \"blot\", did you "
						       "mean 'bolt'?; there are auto, tcp, http, http2"},
	    {"inbound: [{port: 1, protocol: [bolt, zzz]}]\n",
	     "t.yaml:1:38: no protocol is called \"zzz\"; there"},
	    {"inbound: [{port: 1, protocol: [auto, bolt]}]\n", "\"auto\" stands for all protocols"},
	    {"inbound: [{port: 1, protocol: []}]\n", "t.yaml:1:12: no protocol is given"},
	    {CLUSTER "services: [{name: \"a:1..2\", cluster: web}]\n", "is no host name"},
	    {"tls: {mode: strict}\n", "t.yaml:1:13: tls.mode is strict, but tls.certificate is not set"},
	    {"tls: {certificate: /nonexistent/c.pem}\n", "/nonexistent/c.pem cannot be read: No such file"},
	    {"intercept: {inbound: 15001}\n",
	     "t.yaml:1:22: intercept.outbound, inbound and dns must be different"},
	    {"intercept:\n  inbound_source: ::1\n", "t.yaml:2:19: intercept.inbound_source must be an IPv4"},
	    {"tls: {trust: /dev/null}\n", "t.yaml:1:14: tls.certificate is missing"},
	    {"tls: {private_key: \"-----BEGIN PRIVATE KEY-----\\nMIGHAgEAMBMG\"}\n",
	     "t.yaml:1:21: tls.private_key wants the name of a file"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct config *config;
		struct model *model;
		autostrbuf struct strbuf errors = {0};
		if (config_parse(str_from(rows[i].text), "t.yaml", &config, &errors))
			fail_msg("%s: %s", rows[i].text, errors.p);
		assert_int_equal(model_build(config, NULL, &model, &errors), ERR_CONFIG);
		if (!strstr(errors.p, rows[i].says))
			fail_msg("%s\ngives: %s\nnot: %s", rows[i].text, errors.p, rows[i].says);
		config_free(config);
	}
}

static void all_errors_at_once_up_to_a_number(void **state)
{
	(void)state;
	autostrbuf struct strbuf text = {0}, errors = {0};
	struct config *config;
	for (int i = 0; i < 30; i++)
		strbuf_printf(&text, "key%d: 1\n", i);
	assert_int_equal(config_parse(strbuf_str(&text), "t.yaml", &config, &errors), ERR_CONFIG);
	assert_non_null(strstr(errors.p, "key0"));
	assert_non_null(strstr(errors.p, "key19"));
	assert_null(strstr(errors.p, "key20"));
	assert_non_null(strstr(errors.p, "and 10 errors more"));
}

static void json_and_empty_files(void **state)
{
	(void)state;
	struct config *config;
	autostrbuf struct strbuf errors = {0};
	assert_int_equal(
	    config_parse(STR("{\"workers\": 3, \"log\": {\"level\": \"warn\"}}"), "t", &config, &errors), 0);
	assert_int_equal(config->workers, 3);
	config_free(config);
	assert_int_equal(config_parse(STR(""), "t", &config, &errors), 0);
	assert_int_equal(config->intercept.outbound, 15001);
	assert_int_equal(config->dns.vips.count, 2);
	config_free(config);
	assert_int_equal(
	    config_parse(STR("# one\n---\nworkers: 2\nuser: |-\n  ---\n...\n# end\n"), "t", &config, &errors),
	    0);
	assert_int_equal(config->workers, 2);
	assert_true(str_eq(config->user.text, STR("---")));
	config_free(config);
	assert_int_equal(config_parse(STR("workers: 1\n\0user: x\n"), "t", &config, &errors), ERR_CONFIG);
	assert_non_null(strstr(errors.p, "t:2:1: this byte is no UTF-8 text"));
	assert_int_equal(config_load("/nonexistent", &config, &errors), -ENOENT);
	assert_non_null(strstr(errors.p, "/nonexistent: cannot be read: No such file"));
}

static void show(const struct config *config, struct strbuf *out)
{
	struct emit emit;
	emit_init(&emit, out, EMIT_JSON);
	config_show(config, &emit);
	emit_done(&emit);
}

// What is shown can be read again and means the same.
static void show_round_trips(void **state)
{
	(void)state;
	struct config *config;
	autostrbuf struct strbuf errors = {0}, first = {0}, second = {0};
	assert_int_equal(config_parse(str_from(whole), "t", &config, &errors), 0);
	show(config, &first);
	config_free(config);
	if (config_parse(strbuf_str(&first), "t", &config, &errors))
		fail_msg("%s\n%s", first.p, errors.p);
	show(config, &second);
	config_free(config);
	assert_string_equal(first.p, second.p);
}

// What a reload cannot apply is named.
static void keys_that_wait_for_a_start(void **state)
{
	(void)state;
	struct config *old, *now;
	autostrbuf struct strbuf errors = {0}, keys = {0};
	assert_int_equal(config_parse(STR("workers: 1\ntimeouts: {idle: 5s}\n"), "t", &old, &errors), 0);
	assert_int_equal(
	    config_parse(STR("workers: 2\nuser: x\nintercept: {dns: 53}\ndns: {vips: [10.0.0.0/8], "
			     "ttl: 1}\ntimeouts: {idle: 6s}\n"),
			 "t", &now, &errors),
	    0);
	config_restart_keys(old, old, &keys);
	assert_int_equal(keys.len, 0);
	config_restart_keys(old, now, &keys);
	assert_string_equal(keys.p, "workers, user, intercept.dns, dns.vips");
	config_free(old);
	config_free(now);
}

static void a_capture_plan(void **state)
{
	(void)state;
	struct config *config;
	struct capture_plan plan;
	autostrbuf struct strbuf errors = {0};
	assert_int_equal(
	    config_parse(
		STR("intercept:\n  capture:\n    ssh: true\n    outbound: {exclude_ports: [22, 8000-8999]}\n"
		    "    inbound: {enabled: false, exclude_interfaces: [docker*]}\n    exclude_users: [0, "
		    "1000-1999]\n"
		    "    exclude_marks: [0x100/0xff00]\n    include_marks: [1, 0x20/0xf0]\n    "
		    "include_cgroups: [a.service, /b.slice/c]\n"
		    "    exclude_cgroups: [d]\n"),
		"t", &config, &errors),
	    0);
	config_capture_plan(config, &plan);
	assert_true(plan.capture_ssh);
	assert_int_equal(plan.outbound.exclude_ports.count, 2);
	assert_int_equal(plan.outbound.exclude_ports.ranges[1].last, 8999);
	assert_false(plan.inbound.enabled);
	assert_string_equal(plan.inbound.exclude_interfaces.names[0], "docker*");
	assert_int_equal(plan.exclude_users.ranges[1].first, 1000);
	assert_int_equal(plan.exclude_marks.matches[0].mask, 0xff00);
	assert_int_equal(plan.include_marks.count, 2);
	assert_int_equal(plan.include_marks.matches[1].value, 0x20);
	assert_int_equal(plan.include_cgroups.count, 2);
	assert_string_equal(plan.include_cgroups.names[1], "/b.slice/c");
	assert_string_equal(plan.exclude_cgroups.names[0], "d");
	assert_int_equal(plan.vip_count, 2);
	assert_int_equal(capture_plan_validate(&plan, &errors), 0);
	config_free(config);
}

// Every allocation failed in turn: an error, no leak, no crash.
static void without_memory(void **state)
{
	(void)state;
	struct config *reference;
	autostrbuf struct strbuf none = {0}, expected = {0};
	assert_int_equal(config_parse(str_from(whole), "t", &reference, &none), 0);
	show(reference, &expected);
	config_free(reference);
	for (long n = 0;; n++) {
		struct config *config = NULL;
		struct model *model = NULL;
		autostrbuf struct strbuf errors = {0};
		arena_thread_done();
		mem_fail_set(n);
		int err = config_parse(str_from(whole), "t", &config, &errors);
		if (!err)
			err = model_build(config, NULL, &model, &errors);
		bool failed = mem_fail_count() > n;
		mem_fail_set(-1);
		autostrbuf struct strbuf shown = {0};
		if (!err)
			show(config, &shown);
		model_unref(model);
		config_free(config);
		if (!failed)
			break;
		// Either an error, or all of it: never a half.
		if (!err)
			assert_string_equal(shown.p, expected.p);
	}
	arena_thread_done();
}

static void the_reference_page_is_current(void **state)
{
	(void)state;
	autostrbuf struct strbuf page = {0}, file = {0};
	config_reference(&page);
	FILE *stream = fopen(WEIR_SOURCE "/docs/configuration.md", "r");
	assert_non_null(stream);
	for (int c; (c = fgetc(stream)) != EOF;)
		strbuf_add_char(&file, (char)c);
	fclose(stream);
	if (!str_eq(strbuf_str(&page), strbuf_str(&file)))
		fail_msg("docs/configuration.md is not what `weir config reference` prints: write it anew");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_documented_file),
	    cmocka_unit_test(errors_say_where_and_what),
	    cmocka_unit_test(what_the_grammar_does_not_see),
	    cmocka_unit_test(all_errors_at_once_up_to_a_number),
	    cmocka_unit_test(json_and_empty_files),
	    cmocka_unit_test(show_round_trips),
	    cmocka_unit_test(keys_that_wait_for_a_start),
	    cmocka_unit_test(a_capture_plan),
	    cmocka_unit_test(without_memory),
	    cmocka_unit_test(the_reference_page_is_current),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
