// SPDX-License-Identifier: Apache-2.0
// SOFABolt, versions 1 and 2: a fixed header with the lengths of three parts that follow it, the class name,
// the header map and the content; version 2 may end in a CRC-32. Of these only the header map is looked into:
// pairs of texts, among them the service ("interface:version") and the method. The proxy sends no goaway: the
// public clients take its command code for an error.
#pragma once

#include "codecs/codec.h"

// Status of a response (sofa-bolt, ResponseStatus).
enum bolt_status {
	BOLT_SUCCESS = 0,
	BOLT_NO_PROCESSOR = 6,
	BOLT_THREADPOOL_BUSY = 4,
	BOLT_TIMEOUT = 7,
	BOLT_CODEC_EXCEPTION = 9,
	BOLT_CONNECTION_CLOSED = 0x10,
};

extern const struct framed_codec bolt_codec;
