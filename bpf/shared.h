// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What the programs in the kernel and the programs that load them have in common: the contents of maps, in
// types of fixed width. A ruleset (intercept/rules.h) lies in one map as an array of cells of one size; who
// replaces the map replaces the whole plan at once. Layout: the header, the counters, the rules of each chain
// in order, every rule followed by its matches, then the ranges of the sets, then texts that the kernel never
// looks at.
#pragma once

#include <linux/types.h>

#define WEIR_AF_INET  2
#define WEIR_AF_INET6 10
#define WEIR_TCP      6
#define WEIR_UDP      17

enum weir_limits {
	WEIR_CELLS_MAX = 65536,
	WEIR_STEPS_MAX = 4096, // rules and matches that one connection may meet
	WEIR_SET_STEP = 1024,  // first step of a search in a set, which has less than twice as many ranges
	WEIR_CELLS_MASK = WEIR_CELLS_MAX - 1,
	WEIR_MATCHES_MASK = 0xffff,
	WEIR_PENDING_MAX = 65536, // connections on their way from connect to the proxy, of all namespaces
	WEIR_PENDING_SHARE = 8192, // of them, of one namespace
	WEIR_CALLS_MAX = 16384,	  // connections to applications in their clients' names, before acceptance
	WEIR_SERVERS_MAX = 4,	  // DNS servers that one UDP socket has under way: a resolver has up to 3
	WEIR_ASKERS_MAX = 8,	  // who wait for one UDP socket's answers at port 53
	WEIR_LISTENERS = 4,	  // remembered of each group of listeners
	WEIR_LISTENERS_MAX = 32768,
	WEIR_HELD_MAX = 16384, // inbound connections that wait for a limited time, of all namespaces
	WEIR_HELD_STALE = 200, // s after the end of its time in which a connection may be tried once more
	WEIR_QUERY_STALE = 60, // the same of a query
	WEIR_NAMESPACES_MAX = 4096,
	WEIR_CGROUPS_MAX = 64,	   // control groups in each other that the search for one goes through
	WEIR_ADDRESSES_MAX = 4096, // interfaces and addresses that the search for a host's own ones looks at
	WEIR_TRIES = 4,		   // to find a free redirect address
};

// Redirected connections go to addresses of these ranges, each to its own: 127.128.0.0/9 (but not the last
// of it, to which the kernel sends no connection: it is for all of 127.0.0.0/8) and fd77:65:6972:7f::/64 (of
// which the last 32 bits vary). The proxy's connections to applications in their clients' names come from
// there, too, each client's from one.
#define WEIR_REDIRECT4	     0x7f800000u
#define WEIR_REDIRECT4_MASK  0xff800000u
#define WEIR_REDIRECT4_COUNT 0x007fffffu
#define WEIR_REDIRECT6_0     0xfd770065u
#define WEIR_REDIRECT6_1     0x6972007fu
#define WEIR_LOOPBACK4	     0x7f000001u

enum weir_field { // as enum rule_field
	WEIR_FAMILY,
	WEIR_PROTOCOL,
	WEIR_MARK,
	WEIR_USER,
	WEIR_GROUP,
	WEIR_CGROUP,
	WEIR_IN_INTERFACE,
	WEIR_OUT_INTERFACE,
	WEIR_SOURCE4,
	WEIR_SOURCE6,
	WEIR_DEST4,
	WEIR_DEST6,
	WEIR_TCP_DEST_PORT,
	WEIR_UDP_DEST_PORT,
	WEIR_UDP_SOURCE_PORT,
	WEIR_DEST_TYPE,
	WEIR_NEW,
	WEIR_LISTENS,
};

enum weir_action {
	WEIR_RETURN,
	WEIR_REDIRECT,
	WEIR_ZONE,
	WEIR_GOTO,
	WEIR_TPROXY,
	WEIR_DROP
}; // as enum rule_action

enum weir_chain {
	WEIR_CHAIN_OUTPUT,
	WEIR_CHAIN_PREROUTING,
	WEIR_CHAIN_INBOUND,
	WEIR_CHAIN_HOLD,
	WEIR_CHAIN_CHOSEN,
	WEIR_CHAINS
};

// The proxy's listeners.
enum weir_role { WEIR_ROLE_OUTBOUND, WEIR_ROLE_INBOUND, WEIR_ROLE_DNS, WEIR_ROLES };

enum weir_fail { WEIR_FAIL_CLOSED, WEIR_FAIL_OPEN, WEIR_FAIL_HOLD }; // as enum capture_fail

// Programs that all namespaces share. The version of each kind is kept with them.
enum weir_programs { WEIR_PROGRAMS_ALWAYS, WEIR_PROGRAMS_HOLD, WEIR_PROGRAMS };

// What is counted besides the rules.
enum weir_counter {
	WEIR_COUNT_PENDING_FULL, // not captured: too many connections on their way
	WEIR_COUNT_OPEN,	 // let through because the proxy does not listen
	WEIR_COUNT_NO_LISTENER,	 // refused for the same reason
	WEIR_COUNTERS,
};

// --- cells ---------------------------------------------------------------------------------------------------
struct weir_header {
	__u32 version, cell_count;
	__u32 chains[WEIR_CHAINS]; // cell of the first rule; 0: no such chain
	__u16 ports[WEIR_ROLES];   // 0: not captured
	__u8 fail, zero;
	__u32 rule_count, set_count, first_set, first_text;
	__u32 programs;		      // checksum of those that belong to it
	__u32 client_mark, mark_mask; // of the proxy's sockets that call in a client's name; 0: none does
};

struct weir_rule {
	__u16 match_count, zero;
	__u16 action, last; // of its chain
	__u32 value;	    // port, cell of another chain's first rule, or milliseconds
	__u32 chain;	    // for reading back
	__u64 packets;
};

// Numbers, ports and addresses are compared as 128 bits in host order; names are texts.
struct weir_match {
	__u8 field, negated, is_set, _pad;
	__u32 first, count; // cells of ranges
	__u32 mask;	    // of a control group: its level, for reading back
	__u64 value;	    // of a control group: its number
	char name[16];
	__u32 set, _pad2; // its number, for reading back
};

struct weir_number {
	__u64 high, low;
};

struct weir_range {
	struct weir_number first, last;
};

struct weir_set {
	char name[32];
	__u32 type, first, count;
};

union weir_cell {
	struct weir_header header;
	__u64 counters[WEIR_COUNTERS];
	struct weir_rule rule;
	struct weir_match match;
	struct weir_range range;
	struct weir_set set;
	char text[64];
};

enum { WEIR_CELL_HEADER, WEIR_CELL_COUNTERS, WEIR_CELL_FIRST_RULE, WEIR_LAYOUT_VERSION = 4 };

// --- connections ---------------------------------------------------------------------------------------------
// An address as sockets have it: IPv4 in the first word; all in network order.
struct weir_address {
	__u32 ip[4];
	__u16 port;
	__u8 family; // AF_*
	__u8 _pad;
};

// Of a connection that was redirected and that the proxy has not asked of yet. Its redirect address is its
// own.
struct weir_pending_key {
	__u64 netns;
	__u32 ip[4];
};

struct weir_pending {
	struct weir_address original, source; // the client's own, as in weir_socket
	__u64 client;			      // cookie of its socket
};

struct weir_share {
	__s64 pending;
};

enum weir_side { WEIR_SIDE_NONE, WEIR_SIDE_CLIENT, WEIR_SIDE_ACCEPTED, WEIR_SIDE_SERVED };

// Where a connection was going, kept with its sockets at both ends; with an application's (SERVED), from whom
// it is.
struct weir_socket {
	struct weir_address original;
	struct weir_address source; // the client's own, without redirection; no family: as it is, or not known
	__u32 side;
	__u32 redirect[4]; // address that it goes to instead
	__u32 _pad;
	__u64 netns, since; // of the client: when it was redirected, by the monotonic clock in ns
	__u64 client;	    // as in weir_pending
};

// The four ends of a connection that the proxy makes in a client's name. Ports are in host order.
struct weir_call_key {
	__u64 netns;
	__u32 source[4], dest[4]; // as in weir_address
	__u16 source_port, dest_port;
	__u16 family, _pad;
};

struct weir_call {
	struct weir_address client;
	__u32 _pad;
	__u64 caller; // cookie of the proxy's socket
};

// Kept with the proxy's socket.
struct weir_caller {
	struct weir_call_key key;
	struct weir_address client;
	__u32 _pad;
};

struct weir_held_key {
	__u64 netns;
	__u32 source[4]; // as in weir_address
	__u16 source_port, dest_port;
	__u16 family, _pad;
};

// An inbound connection that waits. All packets that open it have one number.
struct weir_held {
	__u64 until; // ns, monotonic clock
	__u32 sequence, _pad;
};

// What this CPU has in hand that nobody listens for. What comes next on its way looks here (hold.bpf.c).
struct weir_unheard {
	struct weir_held_key key;
	__u64 net;	// where the structure of its namespace is
	__u16 protocol; // 0: nothing
	__u16 proxy_port;
	__u32 _pad;
};

// The DNS servers that a UDP socket was told to ask; the number of each is in the address that it asks
// instead. And if it is a server's own (of port 53), who has asked it from port 53: what goes there are answers.
struct weir_servers {
	struct weir_address servers[WEIR_SERVERS_MAX];
	__u32 next;		  // place that is used again when all are taken
	__u32 tied;		  // place of the one that it asked last by an interface of its choice
	struct weir_address own;  // of this host, which it asks instead of that one; no family: none
	__u32 _pad;
	__u64 since[WEIR_SERVERS_MAX]; // when each began to be asked in vain, by the monotonic clock in ns; 0: never
	struct weir_address askers[WEIR_ASKERS_MAX];
	__u32 next_asker, _pad2;
};

struct weir_listener_key {
	__u64 netns;
	__u16 port;
	__u8 family, slot;
	__u32 _pad;
};

_Static_assert(sizeof(struct weir_header) <= 64, "a cell");
_Static_assert(sizeof(struct weir_match) <= 64, "a cell");
_Static_assert(sizeof(struct weir_rule) == 24, "no hidden padding");
_Static_assert(sizeof(struct weir_range) == 32, "no hidden padding");
_Static_assert(sizeof(union weir_cell) == 64, "one size");
_Static_assert(sizeof(struct weir_address) == 20, "no hidden padding");
_Static_assert(sizeof(struct weir_pending_key) == 24, "no hidden padding");
_Static_assert(sizeof(struct weir_pending) == 48, "no hidden padding");
_Static_assert(sizeof(struct weir_socket) == 88, "no hidden padding");
_Static_assert(sizeof(struct weir_call_key) == 48, "no hidden padding");
_Static_assert(sizeof(struct weir_call) == 32, "no hidden padding");
_Static_assert(sizeof(struct weir_caller) == 72, "no hidden padding");
_Static_assert(sizeof(struct weir_held_key) == 32, "no hidden padding");
_Static_assert(sizeof(struct weir_held) == 16, "no hidden padding");
_Static_assert(sizeof(struct weir_unheard) == 48, "no hidden padding");
_Static_assert(sizeof(struct weir_listener_key) == 16, "no hidden padding");
_Static_assert(sizeof(struct weir_servers) == 312, "no hidden padding");
