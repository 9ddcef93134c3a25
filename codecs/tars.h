// SPDX-License-Identifier: Apache-2.0
// Tars: a length of 4 bytes that counts itself, then the fields of a struct in JCE encoding, each with its
// tag and type in front. A request has the id in field 4 and the servant's name in field 5, a response the id
// in field 3 and a number in field 5: the type of field 5 tells them apart. JCE writes an integer in as few
// bytes as it fits in, so small ids have to be widened when the proxy replaces them (`renumber`); those that
// the proxy gives itself are always four bytes long, and the answer is patched in place.
//
// The head: authority is the servant, method the function; the fields are the context's and the status
// map's, which come behind the arguments: they and the timeout are only known for a frame that is no longer
// than LIMIT_FRAME_HEAD. A response's status is its return code without the sign. There are no heartbeats:
// what Tars calls a ping is a call. TUP (versions 2 and 3), whose answers look like requests, is refused.
#pragma once

#include "codecs/codec.h"

extern const struct framed_codec tars_codec;

// Return codes, negated.
enum tars_status {
	TARS_OK = 0,
	TARS_DECODE_ERROR = 1,
	TARS_NO_FUNCTION = 3,
	TARS_NO_SERVANT = 4,
	TARS_QUEUE_TIMEOUT = 6,
	TARS_CALL_TIMEOUT = 7,
	TARS_CONNECT_ERROR = 8,
	TARS_OVERLOADED = 9,
	TARS_NO_ADAPTER = 10,
};
