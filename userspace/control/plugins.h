// SPDX-License-Identifier: Apache-2.0
// Loads plug-ins: shared objects that add a protocol (codecs/weir_plugin.h). What was loaded stays loaded for
// the life of the process, since connections may be using it; asking for the same path again gives the same
// codec. One thread: the one that reads the configuration.
#pragma once

#include "codecs/plugin.h"

// The protocol of the shared object at an absolute path. NULL with what is wrong appended to ret_why (a
// sentence without its end). When it misbehaves later on, that is logged and counted.
const struct framed_codec *plugin_load(struct str path, struct strbuf *ret_why);
