// SPDX-License-Identifier: Apache-2.0
// Lets the kernel relay what the proxy would only pass on between two plain sockets (`acceleration: auto`):
// loads the program (bpf/relay.bpf.c), has the kernel tested (relaying_check.h), and hands it to the streams
// (net/relay.h). Everything hangs on descriptors of this process and is gone with it. On the control thread,
// before privileges are given up and before workers start.
#pragma once

#include "base/str.h"

struct relaying;

// 0: it is on. Otherwise nothing is left, ret_why has a sentence, and the proxy works without.
int relaying_start(struct relaying **ret_relaying, struct strbuf *ret_why);
// NULL is fine.
void relaying_stop(struct relaying *relaying);
