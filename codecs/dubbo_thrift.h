// SPDX-License-Identifier: Apache-2.0
// Thrift as Dubbo speaks it: a framed Thrift message (binary protocol) behind a header of Dubbo's own, which
// has the service's name and the id.
//
//   size u32 | 0xdabc u16 | size u32, again | header size u16 | version u8 | service: i32 length, bytes | id
//   u64 | message: version and type u32, method: i32 length, bytes, sequence id i32, arguments
//
// What is between the first size and the end of the id is the header. A response's status is its Thrift
// message type: 2 reply, 3 exception. There are no heartbeats. The head: authority is the service, method the
// method; there are no fields. Thrift without this header is another protocol, which weir does not speak.
#pragma once

#include "codecs/codec.h"

extern const struct framed_codec dubbo_thrift_codec;
