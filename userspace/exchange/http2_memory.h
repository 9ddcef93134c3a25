// SPDX-License-Identifier: Apache-2.0
// The allocator of nghttp2's sessions. Each stream costs it a dozen small blocks that live for a turn or two,
// so blocks of a few sizes are kept by the thread and used again. A block may be freed by another thread than
// the one that made it; then that one keeps it.
//
// It takes memory from malloc and not by way of base/mem.h: nghttp2 1.52 frees an item twice when its queue
// cannot grow, so making its allocations fail on purpose would test that.
#pragma once

#include <nghttp2/nghttp2.h>

// To be handed to nghttp2, which copies it.
nghttp2_mem http2_memory(void);
// Frees what the calling thread keeps.
void http2_memory_thread_done(void);
