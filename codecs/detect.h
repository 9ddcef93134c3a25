// SPDX-License-Identifier: Apache-2.0
// Which protocol the first bytes of a connection speak. Pure and restartable: with too few bytes to tell it
// says so and is asked again with more; the answer for a prefix never differs from that for the whole.
#pragma once

#include "codecs/head.h"

#include <stdbool.h>
#include <stddef.h>

struct framed_codec;

// What is looked for, beside TLS.
struct detect_set {
	const struct framed_codec *const *codecs; // in this order
	size_t codec_count;
	bool http;
};

// 0 with *ret_protocol (PROTOCOL_TCP when it is none of the set) and the codec of a framed one (NULL: it is
// none), or ERR_NEED_MORE. More bytes are asked for only while one of the protocols is still possible. TLS
// needs a record header and the start of a ClientHello: a plain protocol whose first byte is 0x16 is not
// taken for it.
int detect(struct str bytes, const struct detect_set *set, enum protocol *ret_protocol,
	   const struct framed_codec **ret_codec);
