// SPDX-License-Identifier: Apache-2.0
#include "control/keys.h"

#include "base/limits.h"
#include "control/config.h"

#define FIELD(type_, member) .offset = offsetof(struct type_, member)
#define OBJECT(keys_)	     .type = KEY_OBJECT, .keys = (keys_)
#define LIST(item_, type_, max_)                                                                             \
	.type = KEY_LIST, .item = &(item_), .item_size = sizeof(type_), .items_max = (max_)
#define CHOICE(...)                                                                                          \
	.type = KEY_CHOICE, .choices = (const char *const[])                                                 \
	{                                                                                                    \
		__VA_ARGS__, NULL                                                                            \
	}
#define UINT(min_, max_) .type = KEY_UINT, .min = (min_), .max = (max_)
#define TEXT(max_)	 .type = KEY_TEXT, .max = (max_)
#define DURATION(max_)	 .type = KEY_DURATION, .max = (max_)

enum {
	PATH_BYTES = 4096,
	NAME_BYTES = LIMIT_CLUSTER_NAME,
	HOUR_MS = 3600 * 1000,
	DAY_MS = 24 * HOUR_MS,
	SHORT_LIST = 1024
};

// A table: one line a key.
// clang-format off
// --- elements of lists --------------------------------------------------------------------------------------
static const struct key spiffe_item = {.name = "identity", TEXT(2048), .text = "A SPIFFE id; a final `*` stands for any rest."};
static const struct key ip_item = {.name = "address", .type = KEY_IP, .text = "An IPv4 or IPv6 address."};
static const struct key cidr_item = {.name = "network", .type = KEY_CIDR, .text = "A network such as `10.0.0.0/8` or `fd00::/8`."};
static const struct key resolver_item = {.name = "server", .type = KEY_RESOLVER, .text = "A DNS server: `192.0.2.53`, or `192.0.2.53:5353` with a port."};
static const struct key ports_item = {.name = "ports", .type = KEY_PORTS, .text = "A port, or a range such as `8000-8999`."};
static const struct key users_item = {.name = "user", .type = KEY_USERS, .text = "A user's name, a number, or a range of numbers."};
static const struct key groups_item = {.name = "group", .type = KEY_GROUPS, .text = "A group's name, a number, or a range of numbers."};
static const struct key interface_item = {.name = "interface", .type = KEY_NAME, .min = 1, .max = 15, .text = "An interface; a final `*` stands for any rest."};
static const struct key cgroup_item = {.name = "cgroup", .type = KEY_NAME, .min = 1, .max = LIMIT_CGROUP_PATH - 1, .text = "A control group (version 2) by its path, or a unit of systemd by its name."};
static const struct key mark_item = {.name = "mark", .type = KEY_MARK, .text = "A socket mark (SO_MARK): `0x100`, or `0x100/0xff00` with a mask."};

static const struct key protocol_item = {.name = "protocol", TEXT(32), .min = 1, .text = "A protocol."};
#define PROTOCOLS LIST(protocol_item, struct config_text, 32), .single = true, .initial = "auto"

// --- sections -----------------------------------------------------------------------------------------------
static const struct key node_keys[] = {
	{"id", TEXT(NAME_BYTES), FIELD(config, node.id), .restart = true, .text = "The name of this proxy: it stands in every line of the log."},
	{"zone", TEXT(NAME_BYTES), FIELD(config, node.zone), .restart = true, .text = "Where it runs: the log says so at the start."},
	{0}};

static const struct key admin_keys[] = {
	{"socket", TEXT(107), FIELD(config, admin.socket), .restart = true, .initial = "/run/weir/admin.sock", .text = "The unix socket that `weir` talks to, mode 0660."},
	{"group", TEXT(32), FIELD(config, admin.group), .restart = true, .text = "The group whose members may use the socket, beside root and the proxy's user."},
	{"metrics", .type = KEY_ADDR, FIELD(config, admin.metrics), .restart = true, .text = "Where metrics for Prometheus are served (`/metrics`, `/healthz`, `/readyz`); nowhere by default."},
	{0}};

static const struct key log_keys[] = {
	{"level", CHOICE("debug", "info", "warn", "error"), FIELD(config, log.level), .initial = "info", .text = "The least level that is written."},
	{"format", CHOICE("logfmt", "json"), FIELD(config, log.format), .initial = "logfmt", .text = "The form of a line."},
	{"access", .type = KEY_BOOL, FIELD(config, log.access), .initial = "false", .text = "Whether every request, call and TCP connection is logged when it ends."},
	{0}};

const char *const config_backends[] = {"auto", "nft", "ebpf", "iptables", NULL};

#define CAPTURE_KEYS(direction, far, near_ports) \
	{"enabled", .type = KEY_BOOL, FIELD(config, intercept.capture.direction.enabled), .initial = "true", .text = "Whether this direction is captured."}, \
	{"include_ports", LIST(ports_item, struct port_range, SHORT_LIST), FIELD(config, intercept.capture.direction.include_ports), .text = "Only these destination ports; all by default."}, \
	{"exclude_ports", LIST(ports_item, struct port_range, SHORT_LIST), FIELD(config, intercept.capture.direction.exclude_ports), .text = "Not these destination ports" near_ports "."}, \
	{"include_cidrs", LIST(cidr_item, struct cidr, SHORT_LIST), FIELD(config, intercept.capture.direction.include_cidrs), .text = "Only these " far " networks; all by default."}, \
	{"exclude_cidrs", LIST(cidr_item, struct cidr, SHORT_LIST), FIELD(config, intercept.capture.direction.exclude_cidrs), .text = "Not these " far " networks."}, \
	{"include_interfaces", LIST(interface_item, const char *, 64), FIELD(config, intercept.capture.direction.include_interfaces), .text = "Only these interfaces; all by default."}, \
	{"exclude_interfaces", LIST(interface_item, const char *, 64), FIELD(config, intercept.capture.direction.exclude_interfaces), .text = "Not these interfaces."}

static const struct key capture_outbound_keys[] = {CAPTURE_KEYS(outbound, "destination", ""), {0}};
static const struct key capture_inbound_keys[] = {CAPTURE_KEYS(inbound, "source", " (22 is left out unless `ssh` is true)"), {0}};

static const struct key capture_keys[] = {
	{"outbound", OBJECT(capture_outbound_keys), .text = "Connections of this host's programs."},
	{"inbound", OBJECT(capture_inbound_keys), .text = "Connections that come to this host."},
	{"backend", .type = KEY_CHOICE, .choices = config_backends, FIELD(config, intercept.capture.backend), .restart = true, .initial = "auto", .text = "How it gets into the kernel: by rules of `nft` or `iptables`, by programs of `ebpf`, or by the first that can be used here (`auto`)."},
	{"inbound_mode", CHOICE("redirect", "tproxy"), FIELD(config, intercept.capture.inbound_mode), .initial = "redirect", .text = "How the proxy gets inbound connections: by `redirect`, or handed over without address translation by `tproxy`."},
	{"inbound_source", CHOICE("proxy", "client"), FIELD(config, intercept.capture.inbound_source), .restart = true, .initial = "proxy", .text = "Whose address applications see: the `proxy`'s (`intercept.inbound_source`), or the `client`'s."},
	{"fail", CHOICE("closed", "open", "hold"), FIELD(config, intercept.capture.fail), .restart = true, .initial = "closed", .text = "What becomes of connections while no proxy listens: refused (`closed`); as if weir were absent (`open`: the proxy then installs the rules itself when it starts, with CAP_NET_ADMIN (`backend: ebpf` takes more), and they go with it); left waiting (`hold`)."},
	{"hold_timeout", DURATION(HOUR_MS), FIELD(config, intercept.capture.hold_ms), .initial = "0s", .text = "With `fail: hold`: a connection or a DNS query waits for this long, then it is refused; `0s`: as long as its client tries."},
	{"dns", .type = KEY_BOOL, FIELD(config, intercept.capture.dns), .initial = "true", .text = "Whether queries to port 53 (UDP and TCP) are captured."},
	{"dns_servers", LIST(ip_item, struct ip, 16), FIELD(config, intercept.capture.dns_servers), .text = "Only queries to these servers; to all by default."},
	{"ssh", .type = KEY_BOOL, FIELD(config, intercept.capture.ssh), .initial = "false", .text = "Whether inbound port 22 is captured, too."},
	{"metadata", .type = KEY_BOOL, FIELD(config, intercept.capture.metadata), .initial = "false", .text = "Whether the clouds' metadata services (169.254.169.254 and others) are captured, too."},
	{"ipv4", .type = KEY_BOOL, FIELD(config, intercept.capture.ipv4), .initial = "true", .text = "Whether IPv4 is captured."},
	{"ipv6", .type = KEY_BOOL, FIELD(config, intercept.capture.ipv6), .initial = "true", .text = "Whether IPv6 is captured."},
	{"include_users", LIST(users_item, struct id_range, SHORT_LIST), FIELD(config, intercept.capture.include_users), .text = "Only connections of these users' programs."},
	{"exclude_users", LIST(users_item, struct id_range, SHORT_LIST), FIELD(config, intercept.capture.exclude_users), .text = "Not those of these users' programs."},
	{"include_groups", LIST(groups_item, struct id_range, SHORT_LIST), FIELD(config, intercept.capture.include_groups), .text = "Only connections of programs that run with these groups."},
	{"exclude_groups", LIST(groups_item, struct id_range, SHORT_LIST), FIELD(config, intercept.capture.exclude_groups), .text = "Not those of programs that run with these groups."},
	{"include_cgroups", LIST(cgroup_item, const char *, LIMIT_CAPTURE_CGROUPS), FIELD(config, intercept.capture.include_cgroups), .text = "Only connections of programs in these control groups or units (`nginx.service`, `system.slice/nginx.service`), and in those below them."},
	{"exclude_cgroups", LIST(cgroup_item, const char *, LIMIT_CAPTURE_CGROUPS), FIELD(config, intercept.capture.exclude_cgroups), .text = "Not those of programs in these control groups or units."},
	{"include_marks", LIST(mark_item, struct mark_match, 64), FIELD(config, intercept.capture.include_marks), .text = "Only connections whose socket carries one of these marks."},
	{"exclude_marks", LIST(mark_item, struct mark_match, 64), FIELD(config, intercept.capture.exclude_marks), .text = "Not connections whose socket carries one of these marks."},
	{0}};

static const struct key intercept_keys[] = {
	{"outbound", UINT(1, 65535), FIELD(config, intercept.outbound), .restart = true, .initial = "15001", .text = "The port on which captured outbound connections arrive (loopback)."},
	{"inbound", UINT(1, 65535), FIELD(config, intercept.inbound), .restart = true, .initial = "15006", .text = "The port on which captured inbound connections arrive."},
	{"dns", UINT(0, 65535), FIELD(config, intercept.dns), .restart = true, .initial = "15053", .text = "The port of the DNS responder (loopback; over UDP also this host's own addresses, for itself alone); 0 turns it off."},
	{"lost_destination", CHOICE("close", "local"), FIELD(config, intercept.lost_destination), .initial = "close", .text = "What happens to a connection whose original destination cannot be recovered: `close` it, or take the `local` address for it."},
	{"inbound_source", .type = KEY_IP, FIELD(config, intercept.inbound_source), .restart = true, .initial = "127.0.0.6", .text = "The address from which the inbound proxy connects to applications over IPv4."},
	{"capture", OBJECT(capture_keys), .text = "What `weir intercept` captures."},
	{0}};

static const struct key dns_keys[] = {
	{"zone", TEXT(LIMIT_DNS_NAME), FIELD(config, dns.zone), .initial = "mesh", .text = "Our own zone: a name in it that no service has does not exist."},
	{"vips", LIST(cidr_item, struct cidr, 2), FIELD(config, dns.vips), .restart = true, .initial = "240.240.0.0/16 fd77:65:6972::/112", .text = "The ranges that virtual IPs come from: at most one of each family."},
	{"ttl", UINT(0, 86400), FIELD(config, dns.ttl), .initial = "10", .unit = "seconds", .text = "Time to live of our own answers."},
	{"upstream", LIST(resolver_item, struct addr, 8), FIELD(config, dns.upstream), .restart = true, .text = "The servers that other names are forwarded to; those of resolv.conf by default (or with `auto`)."},
	{"state", TEXT(PATH_BYTES), FIELD(config, dns.state), .restart = true, .initial = "/var/lib/weir/vips", .text = "The file that remembers which virtual IP belongs to which name."},
	{0}};

static const struct key tls_keys[] = {
	{"mode", CHOICE("off", "permissive", "strict"), FIELD(config, tls.mode), .initial = "permissive", .text = "Inbound: `off` speaks plaintext only, `permissive` takes both on one port, `strict` insists on mutual TLS."},
	{"certificate", TEXT(PATH_BYTES), FIELD(config, tls.certificate), .text = "The workload's certificate with its chain (PEM), with a SPIFFE id."},
	{"private_key", TEXT(PATH_BYTES), FIELD(config, tls.private_key), .secret = true, .text = "Its key (PEM)."},
	{"trust", TEXT(PATH_BYTES), FIELD(config, tls.trust), .text = "The trust bundle (PEM)."},
	{"allow", LIST(spiffe_item, struct config_text, SHORT_LIST), FIELD(config, tls.allow), .text = "The identities that are accepted, of both sides; all of the trust bundle's domains by default."},
	{0}};

static const struct key timeout_keys[] = {
	{"idle", DURATION(7 * DAY_MS), .min = 1, FIELD(config, timeouts.idle_ms), .initial = "1h", .text = "A connection without a byte, or without a request, is closed after this time."},
	{"head", DURATION(HOUR_MS), .min = 1, FIELD(config, timeouts.head_ms), .initial = "30s", .text = "A request head must be there this long after its first byte."},
	{"drain", DURATION(DAY_MS), FIELD(config, timeouts.drain_ms), .initial = "30s", .text = "From SIGTERM until what still runs is cut."},
	{"pool_idle", DURATION(DAY_MS), .min = 1, FIELD(config, timeouts.pool_idle_ms), .initial = "60s", .text = "An upstream connection is kept this long for another request."},
	{"heartbeat", DURATION(HOUR_MS), .min = 1, FIELD(config, timeouts.heartbeat_ms), .initial = "15s", .text = "An upstream RPC connection that is silent for this time is sent a heartbeat, and closed if its answer takes as long; so is a client that reads nothing of its answers while others wait."},
	{0}};

static const struct key limit_keys[] = {
	{"head_bytes", UINT(1024, LIMIT_HTTP_HEAD), FIELD(config, limits.head_bytes), .initial = "65536", .unit = "bytes", .text = "The longest request head."},
	{"frame_bytes", UINT(1024, LIMIT_FRAME_BYTES), FIELD(config, limits.frame_bytes), .initial = "134217728", .unit = "bytes", .text = "The longest frame of an RPC protocol."},
	{0}};

// --- services -----------------------------------------------------------------------------------------------
static const struct key port_keys[] = {
	{"port", UINT(1, 65535), FIELD(config_port, port), .required = true, .text = "The port that clients connect to."},
	{"protocol", PROTOCOLS, FIELD(config_port, protocols), .text = "`auto` detects; `tcp`, `http` (either version), `http2`, or an RPC protocol (`bolt`, `dubbo`, `dubbo-thrift`, `tars`, a plug-in's) is taken at its word; a list is what detection looks for."},
	{0}};
static const struct key port_item = {.name = "port", OBJECT(port_keys)};

static const struct key header_keys[] = {
	{"name", TEXT(256), .min = 1, FIELD(config_header_match, name), .required = true, .text = "The header field, in any case."},
	{"exact", TEXT(4096), FIELD(config_header_match, exact), .text = "Its value is this. With none of the three: it is there."},
	{"prefix", TEXT(4096), FIELD(config_header_match, prefix), .text = "Its value begins with this."},
	{"regex", TEXT(LIMIT_REGEX_BYTES), FIELD(config_header_match, regex), .text = "Its whole value matches this regular expression (PCRE)."},
	{"invert", .type = KEY_BOOL, FIELD(config_header_match, invert), .initial = "false", .text = "Matches where the rest does not."},
	{0}};
static const struct key header_item = {.name = "header", OBJECT(header_keys)};

static const struct key match_keys[] = {
	{"path", TEXT(4096), FIELD(config_route, match.path), .text = "The path is this (without the query)."},
	{"path_prefix", TEXT(4096), FIELD(config_route, match.path_prefix), .text = "The path begins with these whole segments: `/beta` covers `/beta` and `/beta/x`, not `/betamax`."},
	{"path_regex", TEXT(LIMIT_REGEX_BYTES), FIELD(config_route, match.path_regex), .text = "The whole path matches this regular expression (PCRE; unbounded repetitions must not be nested)."},
	{"method", TEXT(LIMIT_HTTP_METHOD), FIELD(config_route, match.method), .text = "The request method."},
	{"headers", LIST(header_item, struct config_header_match, 32), FIELD(config_route, match.headers), .text = "Header fields; all must match."},
	{0}};

static const struct key target_keys[] = {
	{"cluster", TEXT(NAME_BYTES), .min = 1, FIELD(config_target, cluster), .required = true, .text = "The name of a cluster."},
	{"weight", UINT(0, 1000000), FIELD(config_target, weight), .initial = "1", .text = "Its share of the requests, in proportion to the others."},
	{0}};
static const struct key target_item = {.name = "target", OBJECT(target_keys)};

static const struct key route_keys[] = {
	{"name", TEXT(NAME_BYTES), FIELD(config_route, name), .text = "A name for logs; the service, port and number by default."},
	{"match", OBJECT(match_keys), .text = "Which requests; all by default. The first route that matches is taken."},
	{"to", LIST(target_item, struct config_target, 64), FIELD(config_route, to), .required = true, .text = "The clusters that share them."},
	{"timeout", DURATION(DAY_MS), FIELD(config_route, timeout_ms), .text = "The response must be complete by then; no limit by default."},
	{"retries", UINT(0, 10), FIELD(config_route, retries), .text = "Further attempts of an idempotent request whose connection was lost before a response, and of a gRPC call that was answered UNAVAILABLE and nothing else."},
	{0}};
static const struct key route_item = {.name = "route", OBJECT(route_keys)};

static const struct key service_keys[] = {
	{"name", TEXT(LIMIT_DNS_NAME), .min = 1, FIELD(config_service, name), .required = true, .text = "The name that clients use; `*.example.mesh` and `*` are wildcards, which have no virtual IP."},
	{"addresses", LIST(ip_item, struct ip, 64), FIELD(config_service, addresses), .text = "Further addresses that mean this service. Services with different ports may share one."},
	{"ports", LIST(port_item, struct config_port, 64), FIELD(config_service, ports), .text = "The ports it serves; every port, detected, by default."},
	{"routes", LIST(route_item, struct config_route, SHORT_LIST), FIELD(config_service, routes), .text = "Where requests go."},
	{"cluster", TEXT(NAME_BYTES), FIELD(config_service, cluster), .text = "Short for one route with one cluster."},
	{0}};
static const struct key service_item = {.name = "service", OBJECT(service_keys)};

static const struct key endpoint_keys[] = {
	{"address", .type = KEY_ADDR, FIELD(config_endpoint, address), .required = true, .text = "`192.0.2.1:80` or `[2001:db8::1]:80`."},
	{"weight", UINT(1, 1000000), FIELD(config_endpoint, weight), .initial = "1", .text = "Its share of the cluster's load."},
	{0}};
static const struct key endpoint_item = {.name = "endpoint", OBJECT(endpoint_keys)};

static const struct key cluster_keys[] = {
	{"name", TEXT(NAME_BYTES), .min = 1, FIELD(config_cluster, name), .required = true, .text = "The name that routes use."},
	{"balance", CHOICE("round_robin", "random", "least_request"), FIELD(config_cluster, balance), .initial = "round_robin", .text = "How an endpoint is chosen."},
	{"protocol", CHOICE("auto", "http1", "http2"), FIELD(config_cluster, protocol), .initial = "auto", .text = "The version of HTTP that the endpoints are spoken to in; `auto`: the client's."},
	{"tls", CHOICE("off", "mesh"), FIELD(config_cluster, tls), .initial = "off", .text = "`mesh`: mutual TLS with the workload's certificate."},
	{"transport", CHOICE("direct", "h2"), FIELD(config_cluster, transport), .initial = "direct", .text = "What goes to the proxies in front of the endpoints: a connection each (`direct`), or HTTP/2 streams on shared connections (`h2`; requires `tls: mesh`)."},
	{"tls_percent", UINT(0, 100), FIELD(config_cluster, tls_percent), .initial = "100", .unit = "percent", .text = "The share of connections that use it, for a gradual rollout."},
	{"tls_allow", LIST(spiffe_item, struct config_text, SHORT_LIST), FIELD(config_cluster, tls_allow), .text = "The identities that these endpoints may have, within `tls.allow`."},
	{"connect_timeout", DURATION(HOUR_MS), .min = 1, FIELD(config_cluster, connect_timeout_ms), .initial = "5s", .text = "For TCP and TLS to be established."},
	{"endpoints", LIST(endpoint_item, struct config_endpoint, LIMIT_CONFIG_ENDPOINTS), FIELD(config_cluster, endpoints), .text = "The addresses that serve it."},
	{0}};
static const struct key cluster_item = {.name = "cluster", OBJECT(cluster_keys)};

static const struct key inbound_keys[] = {
	{"port", UINT(0, 65535), FIELD(config_inbound, port), .required = true, .text = "The application's port; 0 stands for all others."},
	{"protocol", PROTOCOLS, FIELD(config_inbound, protocols), .text = "As for services."},
	{"tls", CHOICE("off", "permissive", "strict", "inherit"), FIELD(config_inbound, tls), .initial = "inherit", .text = "As `tls.mode`, for this port."},
	{"application", CHOICE("auto", "http1", "http2"), FIELD(config_inbound, application), .initial = "auto", .text = "The version of HTTP that the application is spoken to in; `auto`: the client's."},
	{0}};
static const struct key inbound_item = {.name = "inbound port", OBJECT(inbound_keys)};

static const struct key plugin_keys[] = {
	{"path", TEXT(PATH_BYTES), .min = 1, FIELD(config_plugin, path), .required = true, .text = "The shared object, as an absolute path."},
	{0}};
static const struct key plugin_item = {.name = "plug-in", OBJECT(plugin_keys)};

static const struct key root_keys[] = {
	{"node", OBJECT(node_keys), .text = "This proxy."},
	{"workers", UINT(0, 256), FIELD(config, workers), .restart = true, .initial = "0", .text = "Worker threads; 0: one for each CPU that the process may use."},
	{"user", TEXT(32), FIELD(config, user), .restart = true, .text = "The user to become after starting as root; root without most of its capabilities by default."},
	{"acceleration", CHOICE("off", "auto"), FIELD(config, acceleration), .restart = true, .initial = "off", .text = "Whether bytes between this host's applications and the proxy go past TCP: `auto` turns that on if a test at the start finds that it works on this kernel."},
	{"admin", OBJECT(admin_keys), .text = "The admin socket and metrics."},
	{"log", OBJECT(log_keys), .text = "The log, on standard error."},
	{"intercept", OBJECT(intercept_keys), .text = "How connections are captured."},
	{"dns", OBJECT(dns_keys), .text = "The DNS responder and virtual IPs."},
	{"tls", OBJECT(tls_keys), .text = "Mutual TLS of the mesh."},
	{"timeouts", OBJECT(timeout_keys), .text = "Times, written `250ms`, `5s`, `2m`, `1h`."},
	{"limits", OBJECT(limit_keys), .text = "Sizes."},
	{"plugins", LIST(plugin_item, struct config_plugin, LIMIT_PLUGINS), FIELD(config, plugins), .text = "Shared objects, each of which adds a protocol."},
	{"services", LIST(service_item, struct config_service, LIMIT_CONFIG_SERVICES), FIELD(config, services), .text = "The virtual hosts."},
	{"clusters", LIST(cluster_item, struct config_cluster, LIMIT_CONFIG_CLUSTERS), FIELD(config, clusters), .text = "Groups of endpoints."},
	{"inbound", LIST(inbound_item, struct config_inbound, SHORT_LIST), FIELD(config, inbound), .text = "What holds for single ports of this host's applications."},
	{0}};

const struct key config_root = {.name = "configuration", OBJECT(root_keys)};
// clang-format on
