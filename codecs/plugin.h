// SPDX-License-Identifier: Apache-2.0
// What stands between a plug-in (codecs/weir_plugin.h) and the rest: it looks to the proxy like any other
// framed codec, calls the plug-in's functions, and believes nothing that they say. The first time one says
// what cannot be, the plug-in is reported and not `usable` from then on; the frame is answered for as
// malformed, which ends its connection. A struct plugin is made once and lives as long as the program:
// workers share it.
#pragma once

#include "codecs/codec.h"
#include "codecs/weir_plugin.h"

#include <stdatomic.h>

struct plugin {
	struct framed_codec codec;
	const struct weir_framed *framed;     // one of the two
	const struct weir_streamed *streamed; // the other is NULL
	struct weir_bytes names;
	// Called once, by whichever thread meets it: what the plug-in did wrong.
	void (*report)(const struct plugin *plugin, const char *what);
	atomic_bool misbehaved;
};

// Checks the table, and makes ret_plugin of it. NULL, or what is wrong with the table (a sentence without its
// end).
const char *plugin_init(const struct weir_plugin *table, void (*report)(const struct plugin *, const char *),
			struct plugin *ret_plugin);
