/* SPDX-License-Identifier: Apache-2.0 */
/* A protocol of your own for weir, as a shared object. Include this header alone, define a table of
 * functions, and export it under one name:
 *
 *     WEIR_EXPORT const struct weir_plugin weir_plugin = {
 *             .abi = WEIR_PLUGIN_ABI, .size = sizeof weir_plugin, .framed = &my_protocol};
 *
 *     cc -shared -fPIC -o my_protocol.so my_protocol.c
 *
 * The functions get bytes that a peer sent and say what they mean. They are called from several threads at a
 * time, keep nothing between two calls, do not wait for anything and never write to the bytes. The same bytes
 * with more behind them have to give the same answer; too few bytes give WEIR_MORE.
 *
 * weir checks what comes back, each time. A plug-in that says what cannot be (a frame of no length, a field
 * outside of the bytes) is named in the log with what was wrong, the connection ends, and new connections are
 * refused to it until weir-proxy is started anew. No check helps against one that crashes or does not return:
 * it runs inside of the proxy. */
#ifndef WEIR_PLUGIN_H
#define WEIR_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever anything below changes form or meaning. A plug-in made for another one is not loaded. */
#define WEIR_PLUGIN_ABI 1

#define WEIR_EXPORT __attribute__((visibility("default")))

struct weir_bytes {
	const uint8_t *p;
	size_t len;
};

enum weir_result {
	WEIR_OK = 0,
	WEIR_MORE = 1,	/* too few bytes to tell; nothing else is set */
	WEIR_WRONG = 2, /* this is not the protocol; for `detect`: it is another one */
};

/* Why weir answers a request itself. */
enum weir_failure {
	WEIR_NO_ROUTE,	  /* no service or no route of that name */
	WEIR_UNAVAILABLE, /* no endpoint that could be reached */
	WEIR_LOST,	  /* the connection to it ended before the answer came */
	WEIR_TIMEOUT,
	WEIR_OVERLOADED,
	WEIR_MALFORMED, /* the request, or its answer, cannot be read */
};

/* --- what routes look at ---------------------------------------------------------------------------------- */
struct weir_field {
	struct weir_bytes name, value;
};

/* Zero when called, but for `fields` and `fields_max`. Everything lies in the bytes that were given, but for
 * names of fields: these may lie in the table's `names`. */
struct weir_head {
	struct weir_bytes service; /* chooses the virtual host, where the address does not */
	struct weir_bytes method;
	struct weir_field *fields; /* room for `fields_max` when called: WEIR_WRONG if there are more */
	uint16_t fields_max;
	uint16_t field_count;
	uint32_t timeout_ms; /* of the request; 0: none */
};

/* --- framed protocols: many calls at a time, told apart by ids ---------------------------------------------- */
enum weir_kind {
	WEIR_REQUEST,
	WEIR_ONEWAY, /* a request that nobody answers */
	WEIR_RESPONSE,
	WEIR_HEARTBEAT,
	WEIR_HEARTBEAT_ACK,
	WEIR_GOAWAY, /* the sender takes no further requests */
};

struct weir_frame {
	uint64_t length;  /* bytes of the whole frame, not 0; of too long ones weir itself takes care */
	uint32_t head;	  /* of them `decode` wants to see so many: up to the end of the id, at least. A peer's
			   * frame with a head of more than 160 KiB is refused: no more than the names need */
	uint16_t id_at;	  /* where the id stands */
	uint8_t id_size;  /* its bytes, 1 to 8; 0, for no id, only in heartbeats, their answers and goaway */
	uint8_t kind;	  /* enum weir_kind */
	uint16_t status;  /* of a response, in the protocol's own numbers */
	uint16_t variant; /* what an answer has to repeat (a version, ...), as you like */
	uint32_t timeout_ms; /* of a request; 0: none, or `decode` says */
	uint64_t id;	     /* set by weir: the bytes of the id as a big-endian number */
};

struct weir_framed {
	size_t size;	  /* sizeof(struct weir_framed) */
	const char *name; /* a to z, 0 to 9, '-' and '_', at most 32: how configuration and logs call it */
	/* Which ids weir may give to calls, both included and more than 8192 in all; they fit into the id of
	 * every frame. */
	uint64_t first_id, last_id;
	struct weir_bytes names; /* where names of fields may lie that are not in the bytes */

	/* Whether the first bytes of a connection speak it. NULL: it is never guessed, only spoken on ports
	 * whose `protocol` says so. */
	enum weir_result (*detect)(struct weir_bytes bytes);
	/* The frame at the start of the bytes; its body need not be there. Sets what *frame, zero when called,
	 * has of it, but for `id`. */
	enum weir_result (*measure)(struct weir_bytes bytes, struct weir_frame *frame);
	/* Reads a request for routing: the first frame->head bytes of it. NULL: where it goes its address
	 * alone says. */
	enum weir_result (*decode)(const struct weir_frame *frame, struct weir_bytes bytes,
				   struct weir_head *head);

	/* Each writes one whole frame to `out` and returns its length; 0, and nothing else, if `room` (at
	 * least 512 bytes) is too small. The frame is measured: it must be of that kind, with that id. */
	size_t (*write_failure)(const struct weir_frame *request, enum weir_failure failure,
				struct weir_bytes text, uint8_t *out, size_t room);
	/* NULL: the protocol has none. */
	size_t (*write_heartbeat)(uint16_t variant, uint64_t id, uint8_t *out, size_t room);
	size_t (*write_heartbeat_ack)(const struct weir_frame *heartbeat, uint8_t *out, size_t room);
	size_t (*write_goaway)(uint16_t variant, uint64_t id, uint8_t *out, size_t room);
	/* A status in the numbers of HTTP (100 to 599), for logs. NULL: 0 is 200, all else 500. */
	uint16_t (*http_status)(uint16_t status);
};

/* --- streamed protocols: requests and answers in order, without ids ------------------------------------------ */
enum {
	WEIR_START = 1, /* the piece begins a message */
	WEIR_END = 2,	/* the piece ends it */
};

/* The bytes of each side are cut into pieces of messages: a piece that begins one, pieces of its body, a
 * piece that ends it; a piece may be all of it. weir passes the bytes on unchanged. */
struct weir_piece {
	size_t length;	     /* so many bytes from the front: 1 to all that were given */
	uint8_t flags;	     /* WEIR_START, WEIR_END, both, or 0 */
	uint8_t oneway;	     /* with WEIR_START, of a request: not 0 if nobody answers it */
	uint16_t status;     /* with WEIR_START, of an answer: in the protocol's own numbers */
	uint32_t tag;	     /* with WEIR_START, of a request: given back when its answer is read or made */
	uint32_t timeout_ms; /* with WEIR_START, of a request; 0: none */
};

/* Yours to remember what you need of a message between two of its pieces; zero at its start. */
struct weir_state {
	uint64_t word[4];
};

/* The client speaks first; each request has one answer, or none. One connection to an endpoint carries one
 * request at a time, and after its answer those of other clients. */
struct weir_streamed {
	size_t size;		 /* sizeof(struct weir_streamed) */
	const char *name;	 /* as for framed protocols */
	struct weir_bytes names; /* as for framed protocols */

	/* As for framed protocols; may be NULL. */
	enum weir_result (*detect)(struct weir_bytes bytes);
	/* The piece at the front of the bytes; *piece is zero when called. With WEIR_START everything in *head lies within the piece,
	 * `timeout_ms` of it is not used. WEIR_MORE for a piece whose end is not there: of a body give what
	 * is there instead. */
	enum weir_result (*read_request)(struct weir_state *state, struct weir_bytes bytes,
					 struct weir_piece *piece, struct weir_head *head);
	enum weir_result (*read_response)(struct weir_state *state, uint32_t tag, struct weir_bytes bytes,
					  struct weir_piece *piece);
	/* Writes one whole answer and returns its length; 0, and nothing else, if `room` (at least 512 bytes)
	 * is too small. */
	size_t (*write_failure)(uint32_t tag, enum weir_failure failure, struct weir_bytes text, uint8_t *out,
				size_t room);
	uint16_t (*http_status)(uint16_t status); /* as for framed protocols; may be NULL */
};

/* --- the one symbol ----------------------------------------------------------------------------------------- */
struct weir_plugin {
	uint32_t abi;  /* WEIR_PLUGIN_ABI; stays the first member for good */
	uint32_t size; /* sizeof(struct weir_plugin) */
	/* One of the two; the other is NULL. */
	const struct weir_framed *framed;
	const struct weir_streamed *streamed;
};

extern WEIR_EXPORT const struct weir_plugin weir_plugin;

#ifdef __cplusplus
}
#endif

#endif
