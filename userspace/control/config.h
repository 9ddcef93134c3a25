// SPDX-License-Identifier: Apache-2.0
// The configuration file (YAML; JSON is a subset of it), read into plain structs. What may stand in it is one
// table, config_root (control/keys.c): the reader, the defaults, the JSON schema, the reference page and
// `weir config show` all come from it. Control thread only.
//
// A struct config and everything it points to lives in its arena: config_free frees all.
#pragma once

#include "base/addr.h"
#include "base/emit.h"
#include "base/json.h"
#include "base/pool.h"
#include "intercept/plan.h"

// Where something stands in the file; line 0: nowhere, it is a default.
struct config_at {
	uint32_t line, column;
};

struct config_text {
	struct str text; // empty: not given
	struct config_at at;
};

struct config_list {
	void *items; // of the type that the table says
	size_t count;
};

struct config_endpoint {
	struct config_at at;
	struct addr address;
	uint32_t weight;
};

struct config_cluster {
	struct config_at at;
	struct config_text name;
	uint32_t balance, protocol, tls, transport, tls_percent, connect_timeout_ms;
	struct config_list tls_allow; // config_text
	struct config_list endpoints;
};

struct config_header_match {
	struct config_at at;
	struct config_text name, exact, prefix, regex;
	bool invert;
};

struct config_match {
	struct config_text path, path_prefix, path_regex, method;
	struct config_list headers;
};

struct config_target {
	struct config_at at;
	struct config_text cluster;
	uint32_t weight;
};

struct config_route {
	struct config_at at;
	struct config_text name;
	struct config_match match;
	struct config_list to;
	uint32_t timeout_ms, retries;
};

struct config_port {
	struct config_at at;
	uint32_t port;
	struct config_list protocols; // config_text
};

struct config_service {
	struct config_at at;
	struct config_text name, cluster;
	struct config_list addresses; // struct ip
	struct config_list ports, routes;
};

enum config_acceleration { ACCELERATION_OFF, ACCELERATION_AUTO };

enum { CONFIG_TLS_INHERIT = 3 }; // of an inbound port: what tls.mode says

struct config_plugin {
	struct config_at at;
	struct config_text path;
};

struct config_inbound {
	struct config_at at;
	uint32_t port, tls, application;
	struct config_list protocols; // config_text
};

struct config_capture_direction {
	bool enabled;
	struct config_list include_ports, exclude_ports;	   // struct port_range
	struct config_list include_cidrs, exclude_cidrs;	   // struct cidr
	struct config_list include_interfaces, exclude_interfaces; // const char *
};

struct config_capture {
	struct config_capture_direction outbound, inbound;
	bool dns, ssh, metadata, ipv4, ipv6;
	uint32_t inbound_mode, inbound_source, fail, hold_ms;				 // as in the plan
	uint32_t backend;								 // of config_backends
	struct config_list dns_servers;							 // struct ip
	struct config_list include_users, exclude_users, include_groups, exclude_groups; // struct id_range
	struct config_list include_cgroups, exclude_cgroups;				 // const char *
	struct config_list include_marks, exclude_marks;				 // struct mark_match
};

// Where the file says something outside of its lists.
struct config_place {
	const void *value; // in struct config
	struct config_at at;
};
enum { CONFIG_PLACES_MAX = 128 };

struct config {
	const char *name; // of the file, for messages
	struct config_place places[CONFIG_PLACES_MAX];
	size_t place_count;
	struct {
		struct config_text id, zone;
	} node;
	uint32_t workers;
	struct config_text user;
	uint32_t acceleration; // enum config_acceleration
	struct {
		struct config_text socket, group;
		struct addr metrics;
	} admin;
	struct {
		uint32_t level, format;
		bool access;
	} log;
	struct {
		uint32_t outbound, inbound, dns, lost_destination;
		struct ip inbound_source;
		struct config_capture capture;
	} intercept;
	struct {
		struct config_text zone, state;
		struct config_list vips; // struct cidr
		uint32_t ttl;
		struct config_list upstream; // struct addr; empty: from resolv.conf
	} dns;
	struct {
		uint32_t mode;
		struct config_text certificate, private_key, trust;
		struct config_list allow; // config_text
	} tls;
	struct {
		uint32_t idle_ms, head_ms, drain_ms, pool_idle_ms, heartbeat_ms;
	} timeouts;
	struct {
		uint32_t head_bytes, frame_bytes;
	} limits;
	struct config_list plugins; // config_plugin
	struct config_list services, clusters, inbound;
	struct arena arena;
};

enum { CONFIG_ERRORS_MAX = 20 };

// Reads a file, in which there is something. 0; or a negative error with one line for each thing that is
// wrong (at most CONFIG_ERRORS_MAX) appended to ret_errors: "FILE:LINE:COLUMN: where: what, and what to do".
int config_load(const char *path, struct config **ret_config, struct strbuf *ret_errors);
// The same with settings that take the place of the file's: "KEY=VALUE" for single values, KEY as in
// "tls.mode"; ended by NULL, or NULL.
int config_load_set(const char *path, const char *const *sets, struct config **ret_config,
		    struct strbuf *ret_errors);
// The same for text in memory; `name` stands for the file in messages.
int config_parse(struct str text, const char *name, struct config **ret_config, struct strbuf *ret_errors);
void config_free(struct config *config); // NULL is fine

// Where the file gives this member of struct config (not one of a list's elements); line 0: it does not.
struct config_at config_where(const struct config *config, const void *value);
// One more error line about a place in the file, for checks that go beyond the table (control/build.c).
void config_error(const struct config *config, struct config_at at, struct strbuf *errors, const char *format,
		  ...) __attribute__((format(printf, 4, 5)));

// Fills in a capture plan; its arrays are the configuration's.
void config_capture_plan(const struct config *config, struct capture_plan *ret_plan);
// The names of back ends, "auto" first, and which one is to be taken.
extern const char *const config_backends[];
struct str config_backend(const struct config *config);

// What is in force, defaults included, in the form of the file. Paths of keys, never their contents.
void config_show(const struct config *config, struct emit *emit);
// Appends the paths of the keys that differ and are read at the start only, separated by commas.
void config_restart_keys(const struct config *old, const struct config *now, struct strbuf *out);
// The JSON Schema (2020-12) of the file.
void config_schema(struct json *json);
// The reference page (Markdown).
void config_reference(struct strbuf *out);
