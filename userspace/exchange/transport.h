// SPDX-License-Identifier: Apache-2.0
// `transport: h2` of a cluster: between two sidecars whatever their applications say to each other rides in
// streams of HTTP/2 on a few connections of mutual TLS, which both agree on by an ALPN protocol of its own
// (TLS_ALPN_TRANSPORT): an application's own HTTP/2 is never taken for it. Requests of HTTP ride as requests;
// a call of a framed RPC protocol is the body of one, and its answer that of the response; everything else
// rides in CONNECT (RFC 9113 8.5). The authority of what is no HTTP is the original destination at the far
// end. One field of the transport's own says what rides; the far end takes it off and speaks that to the
// application. What is an application's of that name does not get through.
//
// Fields of a call's request: weir-kind ("request", "oneway"), weir-timeout (ms left to the caller; none: no
// limit), and, for whoever looks at the stream, weir-service, weir-method, and the pairs of the call's header
// map that HTTP can say. In the response weir-status has the status in the protocol's own numbers. A response
// of 200 carries the answer, 204 ends a call that nobody answers, every other one says that there is none.
#pragma once

#include "codecs/head.h"

#include <stdbool.h>

struct call;
struct exchange;

// How many fields are added to a request that is HTTP already.
enum { TRANSPORT_FIELDS = 1 };

// Whether it is one of the two versions of HTTP.
bool transport_is_http(enum protocol protocol);

// --- the near end -------------------------------------------------------------------------------------------
// The field that says what rides.
struct field transport_field(const struct exchange *exchange);
// Whether the field's name is the transport's.
bool transport_owns(const struct field *field);
// Gives what is no HTTP the authority that the far end expects: the endpoint of this attempt. 0 or -ENOMEM.
// Nothing is done for HTTP.
int transport_address(struct exchange *exchange);
// Makes exchange->message from a call and the head that was read from its frame. 0 or -ENOMEM.
int transport_describe_call(struct exchange *exchange, const struct call *call, const struct head *head);

// --- the far end --------------------------------------------------------------------------------------------
// Takes the field off exchange->message and notes what rides in exchange->inner and exchange->codec. False: it
// may not pass, for what rides is not said or not known here, or it is for somebody else than the application
// here.
bool transport_unwrap(struct exchange *exchange);
// What the head says of a call: enum frame_kind, and the time left (0: no limit). 0 or ERR_MALFORMED.
int transport_read_call(const struct head *head, uint8_t *ret_kind, uint32_t *ret_timeout_ms);
// The field of the answer's status; `room` is for its digits.
struct field transport_status(uint16_t status, char room[8]);
