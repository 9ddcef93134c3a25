// SPDX-License-Identifier: Apache-2.0
// `transport: h2` of a cluster: between two sidecars whatever their applications say to each other rides in
// streams of HTTP/2 on a few connections of mutual TLS, which both agree on by an ALPN protocol of its own
// (TLS_ALPN_TRANSPORT): an application's own HTTP/2 is never taken for it. Requests of HTTP ride as requests,
// everything else in CONNECT (RFC 9113 8.5), whose authority is the original destination at the far end. One
// field of the transport's own says what rides; the far end takes it off and speaks that to the application.
// What is an application's of that name does not get through.
#pragma once

#include "codecs/head.h"

#include <stdbool.h>

struct exchange;

// How many fields are added to a request.
enum { TRANSPORT_FIELDS = 1 };

// Whether it is one of the two versions of HTTP; anything else is bytes both ways.
bool transport_is_http(enum protocol protocol);

// --- the near end -------------------------------------------------------------------------------------------
struct field transport_field(enum protocol inner);
// Whether the field's name is the transport's.
bool transport_owns(const struct field *field);
// Gives what rides in CONNECT the authority that the far end expects: the endpoint of this attempt. 0 or
// -ENOMEM. Nothing is done for HTTP.
int transport_address(struct exchange *exchange);

// --- the far end --------------------------------------------------------------------------------------------
// Takes the field off exchange->message and notes what rides in exchange->inner. False: it may not pass, for
// what rides is not said, or it is for somebody else than the application here.
bool transport_unwrap(struct exchange *exchange);
