// SPDX-License-Identifier: Apache-2.0
// Lookups and routing over models that were built from configuration text.
#include "../control/build_model.h"

#include "base/clock.h"
#include "base/mem.h"
#include "codecs/bolt.h"
#include "mesh/regex.h"

#include <stdio.h>

static const char text[] = "services:\n"
			   "  - {name: web.mesh, cluster: a, ports: [{port: 80}, {port: 8080, protocol: "
			   "http}], addresses: [10.1.1.1]}\n"
			   "  - {name: any.mesh, cluster: a}\n"
			   "  - {name: \"*.wild.mesh\", cluster: a}\n"
			   "  - {name: \"*.deep.wild.mesh\", cluster: b}\n"
			   "  - name: routed.mesh\n"
			   "    routes:\n"
			   "      - {name: exact, match: {path: /exact}, to: [{cluster: a}]}\n"
			   "      - {name: prefix, match: {path_prefix: /beta}, to: [{cluster: a}]}\n"
			   "      - {name: slash, match: {path_prefix: /dir/}, to: [{cluster: a}]}\n"
			   "      - {name: regex, match: {path_regex: \"/v[0-9]+/.*\"}, to: [{cluster: a}]}\n"
			   "      - {name: method, match: {method: POST}, to: [{cluster: a}]}\n"
			   "      - {name: header, match: {headers: [{name: X-User, exact: eve}, {name: "
			   "x-kind, prefix: be}]}, to: [{cluster: a}]}\n"
			   "      - {name: present, match: {headers: [{name: x-here}]}, to: [{cluster: a}]}\n"
			   "      - {name: absent, match: {path: /inv, headers: [{name: x-not, regex: "
			   "\"[ab]+\", invert: true}]}, to: [{cluster: a}]}\n"
			   "      - {name: split, match: {path: /split}, to: [{cluster: a, weight: 7}, "
			   "{cluster: b, weight: 2}, {cluster: c, weight: 1}]}\n"
			   "clusters: [{name: a}, {name: b}, {name: c}]\n";

static const char *host_name(const struct virtual_host *host)
{
	static char name[300];
	if (!host)
		return "none";
	memcpy(name, host->name.p, host->name.len);
	name[host->name.len] = 0;
	return name;
}

static void hosts_by_name(void **state)
{
	(void)state;
	struct model *model = build_model(text);
	static const struct {
		const char *authority;
		uint16_t port;
		const char *host;
	} rows[] = {
	    {"web.mesh", 80, "web.mesh:80"},
	    {"WEB.Mesh", 80, "web.mesh:80"},
	    {"web.mesh.", 80, "web.mesh:80"},
	    {"web.mesh:8080", 80, "web.mesh:8080"},
	    {"web.mesh", 8080, "web.mesh:8080"},
	    {"web.mesh", 443, "none"},
	    {"web.mesh:x", 80, "none"},
	    {"web.mesh:99999", 80, "none"},
	    {"any.mesh", 12345, "any.mesh"},
	    {"10.1.1.1", 80, "web.mesh:80"},
	    {"10.1.1.1:8080", 80, "web.mesh:8080"},
	    {"x.wild.mesh", 80, "*.wild.mesh"},
	    {"x.y.wild.mesh", 80, "*.wild.mesh"},
	    {"x.deep.wild.mesh", 80, "*.deep.wild.mesh"},
	    {"deep.wild.mesh", 80, "*.wild.mesh"},
	    {"wild.mesh", 80, "none"},
	    {"notwild.mesh", 80, "none"},
	    {"", 80, "none"},
	    {".", 80, "none"},
	    {"[::1]:80", 80, "none"},
	    {"[", 80, "none"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_string_equal(
		    host_name(model_host_by_name(model, str_from(rows[i].authority), rows[i].port)),
		    rows[i].host);
	model_unref(model);
	model = build_model(
	    "services: [{name: \"*\", cluster: a}, {name: x.mesh, cluster: a}]\nclusters: [{name: a}]\n");
	assert_string_equal(host_name(model_host_by_name(model, STR("whatever.example"), 1)), "*");
	assert_string_equal(host_name(model_host_by_name(model, STR("x.mesh"), 1)), "x.mesh");
	model_unref(model);
}

static void an_address_that_services_share(void **state)
{
	(void)state;
	struct model *model = build_model(
	    "services:\n"
	    "  - {name: all.mesh, cluster: a, addresses: [10.1.1.1]}\n"
	    "  - {name: web.mesh, cluster: a, ports: [{port: 80}], addresses: [10.1.1.1]}\n"
	    "  - {name: db.mesh, cluster: a, ports: [{port: 3306}], addresses: [10.1.1.1, 10.1.1.2]}\n"
	    "  - {name: \"*\", cluster: a}\n"
	    "clusters: [{name: a}]\n");
	static const struct {
		const char *address, *host;
	} rows[] = {
	    {"10.1.1.1:80", "web.mesh:80"},    {"10.1.1.1:3306", "db.mesh:3306"}, {"10.1.1.1:81", "all.mesh"},
	    {"10.1.1.2:3306", "db.mesh:3306"}, {"10.1.1.2:80", "none"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct addr addr;
		assert_int_equal(addr_parse(str_from(rows[i].address), &addr), 0);
		assert_string_equal(host_name(model_host_by_address(model, &addr)), rows[i].host);
		assert_string_equal(host_name(model_host_by_name(model, str_from(rows[i].address), 1)),
				    rows[i].host);
	}
	model_unref(model);
}

static void hosts_by_service(void **state)
{
	(void)state;
	struct model *model =
	    build_model("services:\n"
			"  - {name: \"com.Acme.Orders:1.0\", cluster: a, ports: [{port: 12200}]}\n"
			"  - {name: com.acme.Orders, cluster: a}\n"
			"  - {name: com.acme.Stock, cluster: a, ports: [{port: 12200}]}\n"
			"  - {name: \"*.wild.acme\", cluster: a}\n"
			"clusters: [{name: a}]\n");
	static const struct {
		const char *name;
		uint16_t port;
		const char *host;
	} rows[] = {
	    {"com.acme.Orders:1.0", 12200, "com.acme.orders:1.0:12200"},
	    {"COM.ACME.ORDERS:1.0", 12200, "com.acme.orders:1.0:12200"},
	    {"com.acme.Orders:1.0", 80, "none"}, // the service is that one, and has no such port
	    {"com.acme.Orders:1.0:unique", 12200, "com.acme.orders"},
	    {"com.acme.Orders:2.0", 12200, "com.acme.orders"},
	    {"com.acme.Orders", 80, "com.acme.orders"},
	    {"com.acme.Stock:1.0", 12200, "com.acme.stock:12200"},
	    {"x.wild.acme:9", 1, "*.wild.acme"},
	    {"com.acme.Other:1.0", 12200, "none"},
	    {":1.0", 12200, "none"},
	    {"", 12200, "none"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_string_equal(
		    host_name(model_host_by_service(model, str_from(rows[i].name), rows[i].port)),
		    rows[i].host);
	assert_int_equal(model_service(model, STR("com.acme.orders:1.0"))->vip4.family, 0);
	assert_int_not_equal(model_service(model, STR("com.acme.orders"))->vip4.family, 0);
	char longer[600];
	memset(longer, 'a', sizeof longer);
	assert_null(model_host_by_service(model, (struct str){longer, sizeof longer}, 80));
	model_unref(model);
}

// One word is taken at its word; several narrow detection.
static void protocols_of_a_port(void **state)
{
	(void)state;
	struct model *model =
	    build_model("services:\n"
			"  - name: a.mesh\n"
			"    cluster: a\n"
			"    ports: [{port: 1}, {port: 2, protocol: tcp}, {port: 3, protocol: [http]},\n"
			"            {port: 4, protocol: bolt}, {port: 5, protocol: [bolt, tcp]},\n"
			"            {port: 6, protocol: [http, bolt]}]\n"
			"inbound: [{port: 7, protocol: bolt}]\n"
			"clusters: [{name: a}]\n");
	static const struct {
		enum port_protocol protocol;
		const char *text;
	} rows[] = {{PORT_AUTO, "auto"}, {PORT_TCP, "tcp"},	  {PORT_HTTP, "http"},
		    {PORT_RPC, "bolt"},	 {PORT_AUTO, "bolt,tcp"}, {PORT_AUTO, "http,bolt"}};
	const struct virtual_host *hosts = model->services[0].hosts;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(hosts[i].rule.protocol, rows[i].protocol);
		assert_true(str_eq(hosts[i].rule.text, str_from(rows[i].text)));
	}
	assert_true(hosts[0].rule.among.http && hosts[0].rule.among.codec_count >= 1);
	assert_ptr_equal(hosts[3].rule.codec, &bolt_codec);
	assert_int_equal(hosts[4].rule.among.codec_count, 1);
	assert_false(hosts[4].rule.among.http);
	assert_true(hosts[5].rule.among.http);
	assert_ptr_equal(model_inbound(model, 7)->rule.codec, &bolt_codec);
	assert_int_equal(model_inbound(model, 8)->rule.protocol, PORT_AUTO);
	model_unref(model);
}

static void hosts_by_address(void **state)
{
	(void)state;
	struct model *model = build_model(text);
	const struct service *web = model_service(model, STR("web.mesh"));
	struct addr addr = {.ip = web->vip4, .port = 80};
	assert_string_equal(host_name(model_host_by_address(model, &addr)), "web.mesh:80");
	addr.port = 81;
	assert_string_equal(host_name(model_host_by_address(model, &addr)), "none");
	assert_true(model_is_virtual(model, &addr.ip));
	addr = (struct addr){.ip = web->vip6, .port = 8080};
	assert_string_equal(host_name(model_host_by_address(model, &addr)), "web.mesh:8080");
	assert_true(model_is_virtual(model, &addr.ip));
	assert_int_equal(addr_parse(STR("10.1.1.1:80"), &addr), 0);
	assert_false(model_is_virtual(model, &addr.ip)); // a service's, but somebody's
	assert_string_equal(host_name(model_host_by_address(model, &addr)), "web.mesh:80");
	assert_int_equal(addr_parse(STR("10.1.1.2:80"), &addr), 0);
	assert_null(model_host_by_address(model, &addr));
	assert_int_equal(model_service(model, STR("*.wild.mesh"))->vip4.family, 0);
	model_unref(model);
}

static const char *routed(struct model *model, const char *method, const char *path, struct field *fields,
			  uint16_t count)
{
	static char name[64];
	struct head head = {
	    .method = str_from(method), .path = str_from(path), .fields = fields, .field_count = count};
	const struct route *route = route_match(&model_service(model, STR("routed.mesh"))->hosts[0], &head);
	if (!route)
		return "none";
	snprintf(name, sizeof name, "%.*s", STR_ARG(route->name));
	return name;
}

static void routes(void **state)
{
	(void)state;
	struct model *model = build_model(text);
	struct field eve[] = {{.name = STR("x-user"), .value = STR("eve")},
			      {.name = STR("X-Kind"), .value = STR("beta")}};
	struct field twice[] = {{.name = STR("x-user"), .value = STR("adam")},
				{.name = STR("x-user"), .value = STR("eve")},
				{.name = STR("x-kind"), .value = STR("be")}};
	struct field not_twice[] = {{.name = STR("x-not"), .value = STR("zz")},
				    {.name = STR("x-not"), .value = STR("ab")}};
	struct field here[] = {{.name = STR("X-Here"), .value = STR("")}};
	struct field not [] = {{.name = STR("x-not"), .value = STR("abba")}};
	assert_string_equal(routed(model, "GET", "/exact", NULL, 0), "exact");
	assert_string_equal(routed(model, "GET", "/exact?q=/beta", NULL, 0), "exact");
	assert_string_equal(routed(model, "GET", "/exact/", NULL, 0), "none");
	assert_string_equal(routed(model, "GET", "/beta", NULL, 0), "prefix");
	assert_string_equal(routed(model, "GET", "/beta/x", NULL, 0), "prefix");
	assert_string_equal(routed(model, "GET", "/betamax", NULL, 0), "none");
	assert_string_equal(routed(model, "GET", "/dir/x", NULL, 0), "slash");
	assert_string_equal(routed(model, "GET", "/dir", NULL, 0), "none");
	assert_string_equal(routed(model, "GET", "/v12/x", NULL, 0), "regex");
	assert_string_equal(routed(model, "GET", "/a/v12/x", NULL, 0), "none"); // anchored
	assert_string_equal(routed(model, "POST", "/", NULL, 0), "method");
	assert_string_equal(routed(model, "post", "/", NULL, 0), "none");
	assert_string_equal(routed(model, "GET", "/", eve, 2), "header");
	assert_string_equal(routed(model, "GET", "/", eve, 1), "none");
	assert_string_equal(routed(model, "GET", "/", here, 1), "present");
	assert_string_equal(routed(model, "GET", "/inv", not, 1), "none");
	assert_string_equal(routed(model, "GET", "/inv", NULL, 0), "absent");
	assert_string_equal(routed(model, "GET", "/", twice, 3), "header");
	assert_string_equal(routed(model, "GET", "/inv", not_twice, 1), "absent");
	assert_string_equal(routed(model, "GET", "/inv", not_twice, 2), "none");
	model_unref(model);
}

// Chi-square over 100,000 picks; 13.8 is the 0.1 % point of two degrees of freedom, the seed is fixed.
static void weights_are_exact(void **state)
{
	(void)state;
	struct model *model = build_model(text);
	struct head head = {.method = STR("GET"), .path = STR("/split")};
	const struct route *route = route_match(&model_service(model, STR("routed.mesh"))->hosts[0], &head);
	double expected[] = {70000, 20000, 10000}, chi = 0;
	unsigned counts[3] = {0};
	random_seed(42);
	for (int i = 0; i < 100000; i++)
		counts[route_pick(route, random_u64())->index]++;
	for (int i = 0; i < 3; i++)
		chi += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
	assert_true(chi < 13.8);
	assert_int_equal(route_pick(route, 0)->index, 0);
	assert_int_equal(route_pick(route, UINT64_MAX)->index, 2);
	model_unref(model);
}

static void regexes_are_bounded(void **state)
{
	(void)state;
	static const char *const refused[] = {"(a+)+",	  "(a*)*", "((a+)b)*", "(?:a|b*)+",
					      "(a{1,})*", "(a",	   "[z-a]"};
	static const char *const fine[] = {"(a+){1,8}", "a+b*c?",  "[(a+)+]", "\\(a+\\)+",
					   "(ab)+",	"(a|b)*c", "a{2,}b"};
	struct pcre2_real_code_8 *regex;
	autostrbuf struct strbuf why = {0};
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_int_not_equal(regex_compile(str_from(refused[i]), &regex, &why), 0);
	for (size_t i = 0; i < ARRAY_SIZE(fine); i++) {
		if (regex_compile(str_from(fine[i]), &regex, &why))
			fail_msg("%s: %s", fine[i], why.p);
		regex_free(regex);
	}
	assert_int_equal(regex_compile(STR("(a|aa|aaa)*b"), &regex, &why), 0);
	char many[2000];
	memset(many, 'a', sizeof many);
	assert_false(regex_matches(regex, (struct str){many, sizeof many})); // its steps are limited
	regex_free(regex);
	regex_thread_done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hosts_by_name),	 cmocka_unit_test(an_address_that_services_share),
	    cmocka_unit_test(hosts_by_service),	 cmocka_unit_test(protocols_of_a_port),
	    cmocka_unit_test(hosts_by_address),	 cmocka_unit_test(routes),
	    cmocka_unit_test(weights_are_exact), cmocka_unit_test(regexes_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
