// SPDX-License-Identifier: Apache-2.0
// What can be tuned about an injection: one table, from which come the annotations of pods
// ("weir.io/NAME"), the options of `weir inject` and `weir injector` that give their defaults ("--NAME"), and
// the reference in docs/kubernetes.md. Values are texts that were checked when they were set; whoever set
// them owns them.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

#define ANNOTATION_PREFIX "weir.io/"

enum setting_kind {
	VALUE_BOOL,	// "true" or "false"
	VALUE_CHOICE,	// one of the words in `value`
	VALUE_IMAGE,	// a reference to an image
	VALUE_NAME,	// of a Kubernetes object (RFC 1123 subdomain)
	VALUE_USER,	// a number from 1 on
	VALUE_PORT,	// 1 to 65535
	VALUE_QUANTITY, // "50m", "64Mi"
	VALUE_PLAN,	// an option of `weir intercept apply` by the same name
};

// X(identifier, name, kind, default, what to give, help). An empty default: nothing is said.
#define INJECT_SETTINGS(X)                                                                                   \
	X(INJECT, "inject", VALUE_BOOL, "true", "true|false", "whether the pod gets weir at all")            \
	INJECT_DEFAULTS(X)

// Those that are options, too.
#define INJECT_DEFAULTS(X)                                                                                   \
	X(IMAGE, "image", VALUE_IMAGE, "weir:" WEIR_VERSION, "IMAGE", "the image of both containers")        \
	X(PULL_POLICY, "image-pull-policy", VALUE_CHOICE, "", "Always|IfNotPresent|Never",                   \
	  "when it is pulled")                                                                               \
	X(CONFIG_MAP, "config-map", VALUE_NAME, "weir-config", "NAME",                                       \
	  "the ConfigMap that holds the proxy's configuration as weir.yaml")                                 \
	X(TLS_SECRET, "tls-secret", VALUE_NAME, "weir-tls", "NAME",                                          \
	  "the Secret with certificate, key and trust bundle, mounted at /etc/weir-tls; it may be absent")   \
	X(TLS_MODE, "tls-mode", VALUE_CHOICE, "", "off|permissive|strict",                                   \
	  "inbound TLS, in place of the configuration's tls.mode")                                           \
	X(LOG_LEVEL, "log-level", VALUE_CHOICE, "", "debug|info|warn|error",                                 \
	  "the proxy's log, in place of the configuration's log.level")                                      \
	X(PROXY_USER, "proxy-user", VALUE_USER, "1771", "UID",                                               \
	  "the user and group that the proxy runs as; no other container may run as it")                     \
	X(CPU_REQUEST, "cpu-request", VALUE_QUANTITY, "50m", "QUANTITY", "CPU that is set aside")            \
	X(CPU_LIMIT, "cpu-limit", VALUE_QUANTITY, "", "QUANTITY", "CPU at most; no limit by default")        \
	X(MEMORY_REQUEST, "memory-request", VALUE_QUANTITY, "32Mi", "QUANTITY", "memory that is set aside")  \
	X(MEMORY_LIMIT, "memory-limit", VALUE_QUANTITY, "256Mi", "QUANTITY", "memory at most")               \
	X(REWRITE_PROBES, "rewrite-probes", VALUE_BOOL, "true", "true|false",                                \
	  "whether HTTP, TCP and gRPC probes go through the proxy")                                          \
	X(PROBE_PORT, "probe-port", VALUE_PORT, "15021", "PORT", "where the proxy answers probes")           \
	X(INTERCEPTION, "interception", VALUE_CHOICE, "init", "init|agent",                                  \
	  "who lays it: an init container of the pod, or the agent on the node (then no container has a "    \
	  "capability)")                                                                                     \
	X(OUTBOUND, "outbound", VALUE_BOOL, "true", "true|false",                                            \
	  "whether outbound connections are captured")                                                       \
	X(INBOUND, "inbound", VALUE_BOOL, "true", "true|false", "whether inbound connections are captured")  \
	X(DNS, "dns", VALUE_BOOL, "true", "true|false", "whether DNS queries are captured")                  \
	X(VIPS, "vips", VALUE_PLAN, "240.240.0.0/16,fd77:65:6972::/112", "CIDRS",                            \
	  "the ranges of virtual IPs, as the configuration's dns.vips")                                      \
	X(INCLUDE_OUTBOUND_PORTS, "include-outbound-ports", VALUE_PLAN, "", "PORTS",                         \
	  "outbound: only to these ports")                                                                   \
	X(EXCLUDE_OUTBOUND_PORTS, "exclude-outbound-ports", VALUE_PLAN, "", "PORTS",                         \
	  "outbound: not to these ports")                                                                    \
	X(INCLUDE_OUTBOUND_CIDRS, "include-outbound-cidrs", VALUE_PLAN, "", "CIDRS",                         \
	  "outbound: only to these networks")                                                                \
	X(EXCLUDE_OUTBOUND_CIDRS, "exclude-outbound-cidrs", VALUE_PLAN, "", "CIDRS",                         \
	  "outbound: not to these networks")                                                                 \
	X(EXCLUDE_OUTBOUND_INTERFACES, "exclude-outbound-interfaces", VALUE_PLAN, "", "NAMES",               \
	  "outbound: not by these interfaces")                                                               \
	X(INCLUDE_INBOUND_PORTS, "include-inbound-ports", VALUE_PLAN, "", "PORTS",                           \
	  "inbound: only to these ports")                                                                    \
	X(EXCLUDE_INBOUND_PORTS, "exclude-inbound-ports", VALUE_PLAN, "", "PORTS",                           \
	  "inbound: not to these ports")                                                                     \
	X(INCLUDE_INBOUND_CIDRS, "include-inbound-cidrs", VALUE_PLAN, "", "CIDRS",                           \
	  "inbound: only from these networks")                                                               \
	X(EXCLUDE_INBOUND_CIDRS, "exclude-inbound-cidrs", VALUE_PLAN, "", "CIDRS",                           \
	  "inbound: not from these networks")                                                                \
	X(EXCLUDE_INBOUND_INTERFACES, "exclude-inbound-interfaces", VALUE_PLAN, "", "NAMES",                 \
	  "inbound: not by these interfaces")                                                                \
	X(DNS_SERVERS, "dns-servers", VALUE_PLAN, "", "ADDRESSES", "only DNS queries to these servers")      \
	X(INBOUND_SOURCE, "inbound-source", VALUE_PLAN, "", "proxy|client",                                  \
	  "whose address the application sees (client: best laid by the agent)")                             \
	X(FAIL, "fail", VALUE_PLAN, "", "closed|open|hold",                                                  \
	  "while no proxy listens: refuse; as without weir (agent with eBPF only); let wait")                \
	X(HOLD_TIMEOUT, "hold-timeout", VALUE_PLAN, "", "DURATION",                                          \
	  "fail hold: for so long, then refuse; as long as its client tries by default")

enum setting {
#define SETTING_ENUM(id, name, kind, initial, value, help) SETTING_##id,
	INJECT_SETTINGS(SETTING_ENUM)
#undef SETTING_ENUM
	    SETTING_COUNT
};

struct setting_row {
	const char *name;
	enum setting_kind kind;
	const char *initial, *value, *help;
};
extern const struct setting_row setting_rows[SETTING_COUNT];

struct settings {
	struct str values[SETTING_COUNT]; // empty: nothing is said
};

void settings_init(struct settings *ret_settings);
// Sets one by name. 0; ERR_NOT_FOUND or ERR_CONFIG with a sentence appended to ret_error; -ENOMEM.
int settings_set(struct settings *settings, struct str name, struct str value, struct strbuf *ret_error);
// Whether they go together. 0; ERR_CONFIG with a sentence appended to ret_error; -ENOMEM.
int settings_check(const struct settings *settings, struct strbuf *ret_error);
// Whether captured connections or DNS queries come to that port of TCP, or UDP, of the proxy.
bool settings_is_proxy_port(uint64_t port, bool udp);
bool settings_on(const struct settings *settings, enum setting setting);
// The number of a user or port.
uint32_t settings_number(const struct settings *settings, enum setting setting);
// The table as Markdown.
void settings_reference(struct strbuf *out);
