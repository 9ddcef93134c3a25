// SPDX-License-Identifier: Apache-2.0
// The far end of a framed RPC call that rides in a stream between two sidecars (exchange/transport.h): the
// body of the stream is one request frame, of the protocol and kind that its head says, from which a call
// begins as from a frame of a client's connection; it goes to the application on the connections that calls
// share. Its answer is the body of the response; a call that nobody answers ends with 204.
//
// A stream is a client of one call: it has a server of its own (exchange/framed_server.h) whose link is the
// stream. Nothing that the peer sends is believed: what is no such frame, or more or less than one, is
// refused, counted and logged.
#pragma once

struct exchange;

// exchange->message is the head of the request, exchange->codec what speaks the protocol. It may have been
// answered when this returns.
void call_stream_start(struct exchange *exchange);
