// SPDX-License-Identifier: Apache-2.0
// Watches the files of a TLS context and says when any of them changed: rewritten, renamed over, or reached
// through a symbolic link that now points elsewhere (the `..data` swap of mounted secrets). inotify on the
// directories gives the hint, a signature of each file decides, and a quiet period joins the changes of
// several files into one call. Belongs to the thread of its loop. It reads no file and builds no context: the
// owner does, in the callback.
#pragma once

#include "base/str.h"
#include "run/loop.h"

#include <stddef.h>

struct tls_watch;
typedef void (*tls_watch_fn)(void *arg);

enum { TLS_WATCH_FILES = 3, TLS_WATCH_QUIET_MS = 200, TLS_WATCH_POLL_MS = 10000 };

// Watches `count` (at most TLS_WATCH_FILES) paths; files that are not there yet are fine. Where inotify is
// not to be had the signatures are looked at every TLS_WATCH_POLL_MS. 0, -ENOMEM or -EINVAL.
int tls_watch_new(struct loop *loop, const struct str *files, size_t count, tls_watch_fn fn, void *arg,
		  struct tls_watch **ret_watch);
// NULL is fine; not from inside its own callback's call of something else: in a loop callback or outside the
// loop.
void tls_watch_free(struct tls_watch *watch);
