// SPDX-License-Identifier: Apache-2.0
// The Huffman code of HPACK (RFC 7541 5.2, appendix B), read. It is not written: a peer has to take a text in
// plain as well, and next to a mesh's network the few bytes cost less than coding them. Pure.
#pragma once

#include "base/str.h"

// Room that decoding takes at most: no code is shorter than five bits.
static inline size_t huffman_room(size_t len)
{
	return len * 8 / 5;
}

// Decodes all of `code` to `ret_text`, which has huffman_room(). Returns the length, or ERR_MALFORMED: the end
// of a string within it, or padding that is longer than seven bits or other than its beginning.
ptrdiff_t huffman_decode(struct str code, char *ret_text);
