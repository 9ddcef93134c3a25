// SPDX-License-Identifier: Apache-2.0
// Dubbo: a header of 16 bytes (magic 0xdabb, flags, status, id, length of the data), then data in the
// serialization that the flags name. Of a request in Hessian 2 the strings at its start are read - Dubbo's
// version, the service's path, its version, the method, the types of the parameters - and the attachments at
// its end, which are found by skipping the arguments. Where they cannot be (a frame longer than
// LIMIT_FRAME_HEAD, arguments that nobody can walk over) the call is routed by what stands at its start.
// Other serializations are not read at all: where such a call goes, its address alone says.
//
// The head: authority is the path, method the method; fields are `version`, `parameter_types`, every
// attachment that is a string, and `interface` (the path, if no attachment says otherwise). An attachment
// `timeout`, in ms, is the call's.
#pragma once

#include "codecs/codec.h"

extern const struct framed_codec dubbo_codec;

// Statuses of responses, as far as the proxy has use for them.
enum dubbo_status {
	DUBBO_OK = 20,
	DUBBO_CLIENT_TIMEOUT = 30,
	DUBBO_SERVER_TIMEOUT = 31,
	DUBBO_BAD_REQUEST = 40,
	DUBBO_BAD_RESPONSE = 50,
	DUBBO_SERVICE_NOT_FOUND = 60,
	DUBBO_SERVER_ERROR = 80,
	DUBBO_OVERLOADED = 100, // the server's pool of threads is exhausted
};
