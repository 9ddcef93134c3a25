// SPDX-License-Identifier: Apache-2.0
// The codecs that are built in, by name. One table: configuration, detection and the data plane ask it, and a
// protocol more is a line more. Constant; any thread.
#pragma once

#include "codecs/codec.h"
#include "codecs/detect.h"

extern const struct framed_codec *const codecs_builtin[];
extern const size_t codecs_builtin_count;

// The codec of that name among `count`; NULL: there is none.
const struct framed_codec *codec_find(const struct framed_codec *const *codecs, size_t count,
				      struct str name);

// What is looked for where nothing else is said: HTTP, and the built-in codecs that can be told by their
// first bytes.
extern const struct detect_set detect_default;
