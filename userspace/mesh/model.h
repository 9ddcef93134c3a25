// SPDX-License-Identifier: Apache-2.0
// The model: what the mesh looks like at one moment. A snapshot is built by the control thread (control/),
// never changes afterwards, and is shared by reference: workers, exchanges and the admin hold references and
// read without locks. Everything a snapshot points to lives in its arena and dies with its last reference.
//
// What changes at run time (round robin positions, active requests, endpoints marked down, idle connections)
// is not here: each worker has its own, see mesh/balance.h.
#pragma once

#include "base/addr.h"
#include "codecs/detect.h"
#include "codecs/head.h"

#include <stdatomic.h>

struct dns_names; // dns/names.h
struct pcre2_real_code_8;

enum tls_mode { TLS_MODE_OFF, TLS_MODE_PERMISSIVE, TLS_MODE_STRICT };
enum tls_origination { TLS_ORIGINATE_OFF, TLS_ORIGINATE_MESH };
enum balance_policy { BALANCE_ROUND_ROBIN, BALANCE_RANDOM, BALANCE_LEAST_REQUEST };
// What `protocol:` of a port says: detect, or take its word.
enum port_protocol { PORT_AUTO, PORT_TCP, PORT_HTTP, PORT_HTTP2, PORT_RPC };
// What the endpoints of a cluster speak: as the client does, or one version of HTTP.
enum cluster_protocol { CLUSTER_AUTO, CLUSTER_HTTP1, CLUSTER_HTTP2 };
// How bytes come to the proxy in front of an endpoint: on connections of their own, or as streams of HTTP/2.
enum cluster_transport { TRANSPORT_DIRECT, TRANSPORT_H2 };
enum lost_destination { LOST_DESTINATION_CLOSE, LOST_DESTINATION_LOCAL };

// --- protocols of a port -----------------------------------------------------------------------------------
struct port_rule {
	enum port_protocol protocol;
	const struct framed_codec *codec; // PORT_RPC
	struct detect_set among;	  // PORT_AUTO: what is looked for
	struct str text;		  // as the file says it
};

// --- clusters -----------------------------------------------------------------------------------------------
struct endpoint {
	struct addr addr;
	uint32_t weight; // 1..1000000
};

struct cluster {
	struct str name;
	uint32_t index; // in model.clusters
	enum balance_policy balance;
	enum cluster_protocol protocol;
	enum tls_origination tls;
	enum cluster_transport transport;
	uint32_t tls_percent;  // 0..100: share of new connections that originate TLS
	struct str *tls_allow; // SPIFFE patterns the server must match; empty: the global list
	size_t tls_allow_count;
	uint32_t connect_timeout_ms;
	uint32_t endpoint_count;
	struct endpoint *endpoints;
};

// --- routes -------------------------------------------------------------------------------------------------
enum match_kind { MATCH_ANY, MATCH_EXACT, MATCH_PREFIX, MATCH_REGEX, MATCH_PRESENT };

struct text_match {
	enum match_kind kind;
	struct str text;		 // of exact, prefix, and the pattern of regex
	struct pcre2_real_code_8 *regex; // MATCH_REGEX: compiled, anchored at both ends
};

struct header_match {
	struct str name;
	struct text_match value;
	bool invert;
};

struct weighted_cluster {
	const struct cluster *cluster;
	uint32_t weight;
};

struct route {
	struct str name; // from the file, or "service:port/index"
	struct text_match path;
	struct str method;	      // empty: any
	struct header_match *headers; // all must match
	size_t header_count;
	struct weighted_cluster *to;
	size_t to_count;
	uint64_t total_weight; // > 0
	uint32_t timeout_ms;   // of a whole request; 0: none
	uint32_t retries;      // further attempts after a failure that is safe to repeat
};

// --- virtual hosts ------------------------------------------------------------------------------------------
// One service on one port. `port` 0 answers for every port that has no virtual host of its own.
struct virtual_host {
	struct str name; // "reviews.mesh:80"
	const struct service *service;
	uint16_t port;
	struct port_rule rule;
	struct route *routes; // first match wins
	size_t route_count;
	const struct route *default_route; // the first that matches everything: what TCP takes; may be NULL
};

struct service {
	struct str name;      // "reviews.mesh", "*.example.mesh", "*"; lower case
	struct ip vip4, vip6; // family 0: none (wildcards have no VIP)
	struct ip *addresses; // further addresses that mean this service (a ClusterIP)
	size_t address_count;
	struct virtual_host *hosts; // one a port
	size_t host_count;
};

// --- inbound ------------------------------------------------------------------------------------------------
struct inbound_port {
	uint16_t port; // 0: the default for every other port
	struct port_rule rule;
	enum tls_mode tls;
	enum cluster_protocol application; // the version of HTTP that the application is spoken to in
};

// --- the snapshot -------------------------------------------------------------------------------------------
struct tls_settings {
	enum tls_mode mode;
	struct str certificate, private_key, trust; // paths; empty: none, then there is no mesh TLS
	struct str *allow;			    // SPIFFE ids, '*' at the end matches any rest
	size_t allow_count;
};

struct timeouts {
	uint32_t idle_ms;      // a keep-alive connection without a request, a TCP connection without a byte
	uint32_t head_ms;      // to receive a whole request head
	uint32_t drain_ms;     // from SIGTERM to the end
	uint32_t pool_idle_ms; // an upstream connection without use
	uint32_t
	    heartbeat_ms; // silence on an upstream RPC connection, until a heartbeat; and until its answer
};

struct model {
	atomic_uint _refs;
	uint64_t generation; // 1, 2, ... of this process
	struct service *services;
	size_t service_count;
	struct cluster *clusters;
	size_t cluster_count;
	struct inbound_port *inbound; // sorted by port
	size_t inbound_count;
	struct cidr *vips; // the ranges of virtual IPs
	size_t vip_count;
	struct tls_settings tls;
	struct timeouts timeouts;
	enum lost_destination lost_destination;
	bool access_log;
	size_t max_head_bytes;	  // <= LIMIT_HTTP_HEAD
	uint64_t max_frame_bytes; // <= LIMIT_FRAME_BYTES
	struct detect_set detect; // what is looked for where nothing else is said
	const struct framed_codec *const *codecs; // all that there are, of plug-ins too
	size_t codec_count;
	struct dns_names *names;  // own names and their VIPs; shared with the responder
	struct model_index *_index;
	void *_arena;
};

// An empty model with one reference and an arena for all that it will point to. NULL when out of memory.
struct model *model_new(void);
// Memory of the model's arena, zeroed; only while it is being built. NULL when out of memory.
void *model_alloc(struct model *model, size_t size);
// Builds the lookup tables over what is there; the last step of building. 0, -ENOMEM.
int model_index(struct model *model);
struct model *model_ref(struct model *model);
void model_unref(struct model *model);

// The virtual host that an original destination names: exact address and port, else the address on any port.
// NULL: none.
const struct virtual_host *model_host_by_address(const struct model *model, const struct addr *destination);
// True if the address is out of the ranges of virtual IPs: nobody has it, whether or not a service does now.
bool model_is_virtual(const struct model *model, const struct ip *ip);
// The virtual host that a name chooses: Host, :authority or SNI, case-insensitive, with or without port and
// final dot; `port` is that of the original destination and is used when the name carries none. Exact, then
// the longest
// "*.suffix", then "*". NULL: none.
const struct virtual_host *model_host_by_name(const struct model *model, struct str authority, uint16_t port);
// The same for the name of an RPC service, "interface:version": the whole of it is tried first, then the part
// in front of the first colon.
const struct virtual_host *model_host_by_service(const struct model *model, struct str name, uint16_t port);
const struct service *model_service(const struct model *model, struct str name);
const struct cluster *model_cluster(const struct model *model, struct str name);
// What holds for connections to a local port; never NULL.
const struct inbound_port *model_inbound(const struct model *model, uint16_t port);

// --- routing (mesh/route.c) ---------------------------------------------------------------------------------
// The first route of the host that the head matches, or NULL. Paths are compared up to '?'. A regex that
// exceeds its step limit does not match.
const struct route *route_match(const struct virtual_host *host, const struct head *head);
// One of the route's clusters, by weight; `random` is uniform over 64 bits. Exactly proportional (r <
// cumulative).
const struct cluster *route_pick(const struct route *route, uint64_t random);
