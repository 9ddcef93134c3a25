// SPDX-License-Identifier: Apache-2.0
// Every quantity that a peer, a client or a file controls, with its cap. Nothing here is a tunable: what
// users may set stands in the configuration table, with these as its ranges.
#pragma once

// clang-format off
enum {
	// HTTP/1 (codecs/http1.h)
	LIMIT_HTTP_HEAD = 64 * 1024,	    // bytes of a request or response head, trailers likewise
	LIMIT_HTTP_HEADERS = 128,	    // fields in one head
	LIMIT_HTTP_TARGET = 16 * 1024,	    // bytes of a request target: 414 above
	LIMIT_HTTP_METHOD = 32,		    // bytes of a method: 501 above
	LIMIT_HTTP_CHUNK_LINE = 1024,	    // a chunk-size line with its extensions
	LIMIT_HTTP_RETRY_BYTES = 64 * 1024, // request bytes kept for a retry
	LIMIT_HTTP_INTERIM = 16,	    // 1xx responses in front of a final one

	// HTTP/2 (exchange/http2_session.h)
	LIMIT_HTTP2_STREAMS = 128,	    // that a client may have open at once
	LIMIT_HTTP2_STREAMS_ASSUMED = 100,  // that an endpoint takes, until it says
	LIMIT_HTTP2_STREAMS_UPSTREAM = 1000, // on one upstream connection, whatever the endpoint says
	LIMIT_HTTP2_CONNECTIONS = 64,	    // upstream connections to one endpoint, per worker
	LIMIT_HTTP2_WAITING = 1024,	    // requests that wait for a place on one of them
	LIMIT_HTTP2_STREAM_WINDOW = 256 * 1024,	// payload a peer may send ahead on one stream
	LIMIT_HTTP2_WINDOW = 1024 * 1024,   // and on one connection, in one flight
	LIMIT_HTTP2_STREAM_OUT = 64 * 1024, // queued for one stream, above which the other side is not read
	LIMIT_HTTP2_BLOCK = 4 * LIMIT_HTTP_HEAD, // decoded bytes of one header block: more ends the connection
	LIMIT_HTTP2_SETTINGS_ENTRIES = 32,  // in one SETTINGS
	LIMIT_HTTP2_CONTINUATIONS = 8,	    // frames of one header block behind the first
	LIMIT_HTTP2_PROGRESS_BYTES = 1024,  // that a reader with payload waiting must take within the idle time
	LIMIT_HTTP2_PING_MS = 30000,	    // of silence, before an endpoint is asked whether it is there
	LIMIT_HTTP2_PINGS_EARLY = 2,	    // without a response between them that follow each other like that,
	LIMIT_HTTP2_PING_AGAIN_MS = 330000, // others only so long after the last one
	LIMIT_HTTP2_WARN_MS = 1000,	    // between the two GOAWAY of a drain, at most
	// At once, and again each second: resets, SETTINGS, PING, empty frames, frames on streams that are over
	// (each stream brings some more, for what is under way when it ends) or come behind our GOAWAY, others
	// without payload
	LIMIT_HTTP2_RESETS = 1000,
	LIMIT_HTTP2_RESETS_PER_S = 100,
	LIMIT_HTTP2_SETTINGS = 100,
	LIMIT_HTTP2_SETTINGS_PER_S = 10,
	LIMIT_HTTP2_PINGS = 2000,
	LIMIT_HTTP2_PINGS_PER_S = 500,
	LIMIT_HTTP2_EMPTY = 1000,
	LIMIT_HTTP2_EMPTY_PER_S = 100,
	LIMIT_HTTP2_CLOSED = 10000,
	LIMIT_HTTP2_CLOSED_PER_S = 1000,
	LIMIT_HTTP2_CLOSED_PER_STREAM = 16,
	LIMIT_HTTP2_OTHER = 100000,
	LIMIT_HTTP2_OTHER_PER_S = 100000,

	// detection (codecs/detect.h, codecs/tls_hello.h)
	LIMIT_TLS_HELLO = 16 * 1024, // a ClientHello that is longer is not looked into

	// framed RPC protocols (codecs/codec.h, exchange/framed_*.h)
	LIMIT_FRAME_BYTES = 1024 * 1024 * 1024, // of one frame, at most; the configured limit is lower
	LIMIT_FRAME_HEAD = 160 * 1024,	    // bytes of a frame that routing looks at
	LIMIT_FRAME_WHOLE = 256 * 1024,	    // a longer frame is passed on in pieces, on a connection of its own
	LIMIT_RPC_NAME = 1024,		    // bytes of a service's or a method's name
	LIMIT_RPC_FIELDS = 512,		    // pairs of a header map
	LIMIT_RPC_CALLS = 4096,		    // calls under way of one client connection: more are not read
	LIMIT_RPC_CARRIED = 256,	    // of them in streams between sidecars, where each may hold an answer
	LIMIT_RPC_WAITING_BYTES = 512 * 1024, // of them, waiting for an upstream connection
	LIMIT_RPC_SLOTS = 8192,		    // calls under way on one upstream connection
	LIMIT_RPC_CONNECTIONS = 8,	    // shared upstream connections to one endpoint, per worker
	LIMIT_RPC_CLIENT_OUT = 1024 * 1024, // answers waiting for a slow client: then upstream is not read
	LIMIT_TRANSPORT_CALL_FIELDS = 32,   // pairs of a header map that become fields of a stream
	LIMIT_TRANSPORT_CALL_BYTES = 4096,  // of their names and values
	LIMIT_HESSIAN_DEPTH = 64,	    // values within values
	LIMIT_HESSIAN_STEPS = 8192,	    // values and names of fields looked at in one call
	LIMIT_HESSIAN_CLASSES = 128,	    // class definitions in one call
	LIMIT_PLUGIN_FIELDS = 128,	    // fields of one request, as a plug-in reads them
	LIMIT_TARS_BYTES = 10 * 1024 * 1024, // of one frame: what its own implementations take

	// DNS (dns/)
	LIMIT_DNS_UDP_PAYLOAD = 1232,
	LIMIT_DNS_NAME = 255,
	LIMIT_DNS_LABEL = 63,
	LIMIT_DNS_TCP_CLIENTS = 256,
	LIMIT_DNS_TCP_PIPELINE = 64,	   // queries under way on one TCP connection
	LIMIT_DNS_FORWARDS = 4096,	   // queries under way upstream, per worker
	LIMIT_DNS_WAITERS = 8192,	   // clients that wait for those, per worker
	LIMIT_DNS_CACHE_ENTRIES = 16384,   // per worker
	LIMIT_DNS_CACHE_BYTES = 8 * 1024 * 1024, // of these
	LIMIT_DNS_STALE_MS = 1800,	   // answered upstream by then, or an expired answer is served (RFC 8767 5)
	LIMIT_DNS_DEADLINE_MS = 4500,	   // answered upstream by then, or SERVFAIL: below the clients' 5 s

	LIMIT_DNS_TCP_OUT = 256 * 1024,	   // answers that one TCP client has not taken yet: more, and it is closed
	LIMIT_DNS_TCP_QUERY = 4096,	   // bytes of one query over TCP
	LIMIT_VIP_STATE_BYTES = 64 * 1024 * 1024,

	// configuration (control/)
	LIMIT_CONFIG_BYTES = 16 * 1024 * 1024,
	LIMIT_CONFIG_SERVICES = 65536,
	LIMIT_CONFIG_CLUSTERS = 65536,
	LIMIT_CONFIG_ENDPOINTS = 16384, // in one cluster
	LIMIT_PLUGINS = 32,
	LIMIT_CLUSTER_NAME = 255,
	LIMIT_REGEX_STEPS = 10000, // pcre2 match limit
	LIMIT_REGEX_BYTES = 1024,

	// interception (intercept/)
	LIMIT_CAPTURE_RANGES = 1024,	// entries of one list of ports, networks, users or groups
	LIMIT_CAPTURE_INTERFACES = 32,	// names in one list
	LIMIT_CAPTURE_MARKS = 32,	// included marks, and excluded ones
	LIMIT_CAPTURE_CGROUPS = 32,	// control groups in one list
	LIMIT_CGROUP_PATH = 512,	// bytes of one's path with its end, as iptables takes it
	LIMIT_CGROUP_DEPTH = 32,	// of control groups in others
	LIMIT_HOLD_MS = 3600000,	// for which a connection may be made to wait for the proxy
	LIMIT_HELD = 65536,		// connections or queries of which it is known how long they have waited
	LIMIT_PROGRAM_OUTPUT = 64 * 1024 * 1024, // what iptables-save may print
	LIMIT_CAPTURE_OPTIONS = 128 * 1024, // bytes of what a pod's proxy says is to be captured

	// injection (inject/)
	LIMIT_MANIFEST_BYTES = 16 * 1024 * 1024,
	LIMIT_MANIFEST_NODES = 1024 * 1024, // values in one text
	LIMIT_MANIFEST_DEPTH = 64,	    // values within values
	LIMIT_POD_PROBES = 256,
	LIMIT_REVIEW_BYTES = 8 * 1024 * 1024, // of an AdmissionReview: objects have 3 MiB at most, and may come twice
	LIMIT_REVIEW_VALUES = 256 * 1024, // values in it, keys counted
	LIMIT_REVIEWS_BYTES = 64 * 1024 * 1024, // of all that are being received
	LIMIT_INJECTOR_CLIENTS = 64,

	// capture files (cli/pcap_file.h, cli/packet.h)
	LIMIT_PCAP_BLOCK = 16 * 1024 * 1024, // bytes of one block or packet record
	LIMIT_PCAP_INTERFACES = 1024,	// of one section
	LIMIT_PCAP_CONNECTIONS = 256 * 1024 * 1024, // bytes of a saved list of connections
	LIMIT_PACKET_TAGS = 4,		// VLAN tags of one frame
	LIMIT_PACKET_EXTENSIONS = 8,	// IPv6 extension headers of one packet

	// admin (admin/)
	LIMIT_ADMIN_REQUEST = 8192,
	LIMIT_ADMIN_CLIENTS = 32,
	LIMIT_ADMIN_STREAMS = 4096, // streams and calls that one answer lists, per worker
	LIMIT_ADMIN_STREAM_TEXT = 256, // bytes of each text about one (a path, ...)
	LIMIT_METRICS_REQUEST = 8192,
	LIMIT_METRICS_CLIENTS = 32,
	LIMIT_PROBE_REQUEST = 16 * 1024, // a probe of Kubernetes, with its header fields
	LIMIT_PROBE_CLIENTS = 64,
	LIMIT_PROBE_BODY = 10 * 1024, // of the application's answer, that is read
	LIMIT_PROBE_FRAMES = 256,     // of HTTP/2 in it
	LIMIT_PROBE_MS = 60000,	     // for the application to answer; the kubelet's patience mostly ends before

	// connections
	LIMIT_LINGER_BYTES = 16 * 1024 * 1024, // read and dropped, so that the client gets to read its answer
	LIMIT_OUT_HIGH = 128 * 1024, // bytes waiting to be written, above which the other side is not read
	LIMIT_POOL_IDLE = 128,	     // idle upstream connections kept for one endpoint, per worker
	LIMIT_UPSTREAM_SILENT_MS = 10000, // that an endpoint's host may acknowledge nothing
	LIMIT_TLS_HANDSHAKE_MS = 10000,
	LIMIT_TLS_SESSIONS = 2048,	     // sessions that a client keeps for resumption, per worker
	LIMIT_TLS_ENDPOINT_SESSIONS = 8,     // of them with one endpoint
	LIMIT_TLS_HANDSHAKE_BYTES = 128 * 1024, // received before the handshake is done
	LIMIT_TLS_CERT_LIST = 64 * 1024,     // the peer's certificates
	LIMIT_TLS_CHAIN = 5,		     // certificates between a workload's and the anchor
	LIMIT_TLS_EXTRA_MESSAGES = 64,	     // key updates, tickets, renegotiation attempts; one more a megabyte read
	LIMIT_TLS_FILE = 1024 * 1024,	     // a PEM file
	LIMIT_TLS_ANCHORS = 1024,
	LIMIT_SPIFFE_ID = 2048,
};
// clang-format on
