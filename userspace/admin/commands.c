// SPDX-License-Identifier: Apache-2.0
#include "admin/commands.h"

#include "base/mem.h"

#define PARAMS(array) .params = (array), .param_count = ARRAY_SIZE(array)

static const struct command_param vhost_show[] = {
    {PARAM_FILTER, "name", "NAME", "only the service of this name", false, false},
    {PARAM_FILTER, "port", "PORT", "only this port", false, false},
};
static const struct command_param route_show[] = {
    {PARAM_FILTER, "service", "NAME", "only routes of the service of this name", false, false},
    {PARAM_FILTER, "cluster", "NAME", "only routes that lead to this cluster", false, false},
};
static const struct command_param route_explain[] = {
    {PARAM_ARGUMENT, "destination", "DESTINATION",
     "where the request goes: a name as in Host (reviews.mesh, reviews.mesh:80), an RPC service "
     "(com.acme.Orders:1.0), or an original destination (240.240.0.1:80, [fd77::1]:80)",
     true, false},
    {PARAM_OPTION, "host", "NAME", "the request's Host, when the destination is an address", false, false},
    {PARAM_OPTION, "service", "NAME", "the RPC service that is called, when the destination is no service",
     false, false},
    {PARAM_OPTION, "method", "METHOD", "the request's method (GET), or the call's", false, false},
    {PARAM_OPTION, "path", "PATH", "the request's path (/); of a call it is /service/method", false, false},
    {PARAM_OPTION, "header", "NAME:VALUE", "a header of the request, or a pair of the call's header map",
     false, true},
};
static const struct command_param cluster_show[] = {
    {PARAM_FILTER, "name", "NAME", "only the cluster of this name", false, false},
};
static const struct command_param endpoint_show[] = {
    {PARAM_FILTER, "cluster", "NAME", "only endpoints of this cluster", false, false},
    {PARAM_FILTER, "state", "up|down", "only endpoints in this state", false, false},
};
static const struct command_param conn_show[] = {
    {PARAM_FILTER, "direction", "inbound|outbound", "only connections of this direction", false, false},
    {PARAM_FILTER, "protocol", "NAME", "only this protocol: tcp, tls, http1, ...", false, false},
    {PARAM_FILTER, "virtual_host", "NAME", "only connections of this virtual host", false, false},
    {PARAM_FILTER, "cluster", "NAME", "only connections to this cluster", false, false},
    {PARAM_FILTER, "peer", "ADDRESS", "only connections from this IP address", false, false},
    {PARAM_FLAG, "streams", NULL, "list what is under way on them, too", false, false},
};
static const struct command_param conn_kill[] = {
    {PARAM_ARGUMENT, "id", "ID", "the connection, as conn show numbers it", true, false},
};
static const struct command_param explain_flow[] = {
    {PARAM_OPTION, "id", "ID", "an open connection, as conn show numbers it", false, false},
    {PARAM_OPTION, "client", "ADDRESS", "an open connection from this address and port", false, false},
    {PARAM_OPTION, "destination", "DESTINATION",
     "its original destination; without client: any name or address", false, false},
    {PARAM_FLAG, "inbound", NULL, "what holds for a connection to this host", false, false},
    {PARAM_OPTION, "host", "NAME", "the request's Host, when the destination is an address", false, false},
    {PARAM_OPTION, "service", "NAME", "the RPC service that is called", false, false},
    {PARAM_OPTION, "method", "METHOD", "the request's method (GET), or the call's", false, false},
    {PARAM_OPTION, "path", "PATH", "the request's path (/)", false, false},
    {PARAM_OPTION, "header", "NAME:VALUE", "a header of the request, or a pair of the call's header map",
     false, true},
};
static const struct command_param dns_show[] = {
    {PARAM_FILTER, "name", "NAME", "only this name", false, false},
};
static const struct command_param stats_show[] = {
    {PARAM_FILTER, "name", "NAME", "only the counters of this name", false, false},
};
static const struct command_param log_level[] = {
    {PARAM_ARGUMENT, "level", "debug|info|warn|error", "the level to log from now on", false, false},
};

const struct command admin_commands[ADMIN_COMMAND_COUNT] = {
    [ADMIN_VHOST_SHOW] = {"vhost", "show", "List the virtual hosts: services by port, with their virtual IPs",
			  NULL, PARAMS(vhost_show)},
    [ADMIN_ROUTE_SHOW] = {"route", "show", "List the routes in the order in which they are tried", NULL,
			  PARAMS(route_show)},
    [ADMIN_ROUTE_EXPLAIN] =
	{"route", "explain", "Say which route a request would take, and why",
	 "Nothing is sent: the proxy looks the request up in the configuration that it "
	 "uses. Each route of the virtual host is listed with the reason why it was "
	 "passed over. A call of an RPC protocol is meant where a service is named, or the "
	 "port is one of RPC.",
	 PARAMS(route_explain)},
    [ADMIN_CLUSTER_SHOW] = {"cluster", "show", "List the clusters with their settings", NULL,
			    PARAMS(cluster_show)},
    [ADMIN_ENDPOINT_SHOW] = {"endpoint", "show", "List the endpoints with their state",
			     "Every worker judges for itself: an endpoint is down when all workers avoid it, "
			     "and then until the last of them tries it again.",
			     PARAMS(endpoint_show)},
    [ADMIN_CONN_SHOW] =
	{"conn", "show", "List the open connections",
	 "A connection is one line, however many streams or calls it carries. With --streams these "
	 "are listed behind them, oldest first, at most 4096 of a worker: requests of HTTP "
	 "(protocol http1, http2 or grpc) and calls of RPC protocols.",
	 PARAMS(conn_show)},
    [ADMIN_CONN_KILL] = {"conn", "kill", "Reset a connection", NULL, PARAMS(conn_kill)},
    [ADMIN_CONN_DRAIN] =
	{"conn", "drain", "Ask inbound clients to go elsewhere, ahead of the end",
	 "Connections from other hosts end with the next answer (Connection: close, GOAWAY), "
	 "and /readyz says no. All are served still, new ones, too, until the proxy ends: what a "
	 "preStop hook of Kubernetes wants.",
	 NULL, 0},
    [ADMIN_CERT_SHOW] = {"cert", "show", "List the certificates in use", "Private keys are never shown.",
			 NULL, 0},
    [ADMIN_DNS_SHOW] = {"dns", "show", "List the names that are answered, with their virtual IPs", NULL,
			PARAMS(dns_show)},
    [ADMIN_DNS_FLUSH] = {"dns", "flush", "Forget the cached answers of upstream name servers", NULL, NULL, 0},
    [ADMIN_STATS_SHOW] = {"stats", "show", "List the counters, summed over the workers", NULL,
			  PARAMS(stats_show)},
    [ADMIN_CONFIG_SHOW] =
	{"config", "show", "Show the settings in use, defaults included",
	 "In JSON, \"settings\" is a configuration file. Of private keys only the file names are shown.",
	 NULL, 0},
    [ADMIN_CONFIG_RELOAD] = {"config", "reload", "Read the configuration file again and apply it",
			     "Connections stay. A configuration with an error changes nothing.", NULL, 0},
    [ADMIN_LOG_SHOW] = {"log", "show", "Show the log level", NULL, NULL, 0},
    [ADMIN_LOG_LEVEL] = {"log", "level", "Show the log level, or set it", NULL, PARAMS(log_level)},
    [ADMIN_VERSION_SHOW] = {"version", "show", "Show the versions of weir and of the proxy that runs", NULL,
			    NULL, 0},
    [ADMIN_EXPLAIN_FLOW] = {"explain", "flow", "Say what the proxy does with a connection", NULL,
			    PARAMS(explain_flow)},
};

const struct command *admin_command_find(struct str object, struct str verb)
{
	for (size_t i = 0; i < ADMIN_COMMAND_COUNT; i++)
		if (str_eq(str_from(admin_commands[i].object), object) &&
		    str_eq(str_from(admin_commands[i].verb), verb))
			return &admin_commands[i];
	return NULL;
}
