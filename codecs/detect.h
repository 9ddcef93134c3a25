// SPDX-License-Identifier: Apache-2.0
// Which protocol the first bytes of a connection speak. Pure and restartable: with too few bytes to tell it
// says so and is asked again with more; the answer for a prefix never differs from that for the whole.
#pragma once

#include "codecs/head.h"

// 0 with *ret_protocol (PROTOCOL_TCP when it is none of the known ones), or ERR_NEED_MORE. More bytes are
// asked for only while one of the protocols is still possible. TLS needs a record header and the start of a
// ClientHello: a plain protocol whose first byte is 0x16 is not taken for it.
int detect(struct str bytes, enum protocol *ret_protocol);
