// SPDX-License-Identifier: Apache-2.0
// Watches the files of a TLS context and says when any of them changed: rewritten, renamed over, or reached
// through a symbolic link that now points elsewhere (the `..data` swap of mounted secrets). inotify on the
// directories gives the hint, a signature of each file decides, and they must hold still for a moment, so
// that a certificate and its key that are written one after the other make one call. Where inotify sees
// nothing (a link into another directory, a network file system, a folder that came later) a slow poll does.
// Belongs to the thread of its loop. It reads no file and builds no context: the owner does, in the callback,
// and keeps the old context if the new files are no good.
#pragma once

#include "base/str.h"
#include "run/loop.h"

#include <stddef.h>

struct tls_watch;
typedef void (*tls_watch_fn)(void *arg);

enum { TLS_WATCH_FILES = 3, TLS_WATCH_QUIET_MS = 200, TLS_WATCH_POLL_MS = 10000 };

// Watches `count` (at most TLS_WATCH_FILES) paths; files that are not there yet are fine. 0, -ENOMEM or
// -EINVAL.
int tls_watch_new(struct loop *loop, const struct str *files, size_t count, tls_watch_fn fn, void *arg,
		  struct tls_watch **ret_watch);
// NULL is fine. Legal in its own callback. The memory goes at the end of the loop's turn.
void tls_watch_free(struct tls_watch *watch);
