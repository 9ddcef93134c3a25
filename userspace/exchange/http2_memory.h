// SPDX-License-Identifier: Apache-2.0
// The allocator of nghttp2's HPACK. What is no longer in its tables goes as fast as it came, so blocks of a
// few sizes are kept by the thread and used again. A block may be freed by another thread than the one that
// made it; then that one keeps it.
#pragma once

#include <nghttp2/nghttp2.h>

// To be handed to nghttp2, which keeps the pointer.
nghttp2_mem *http2_memory(void);
// Frees what the calling thread keeps.
void http2_memory_thread_done(void);
