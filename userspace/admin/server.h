// SPDX-License-Identifier: Apache-2.0
// The admin socket: a unix stream socket on the control loop, for root, for the proxy's own user and for
// members of the socket's group. See admin/protocol.h for what is spoken. Everything here belongs to the
// control thread.
#pragma once

#include "admin/backend.h"

#include <sys/types.h>

struct admin_socket;
struct admin_server;

// Creates the listening socket, mode 0660, owned by uid and gid ((uid_t)-1, (gid_t)-1: as they are), and its
// folder if that is missing; call it while still root. A socket that a dead proxy left is replaced; a live
// one is not. 0, or a negative error with a sentence in ret_error.
int admin_socket_open(const char *path, uid_t uid, gid_t gid, struct admin_socket **ret_socket,
		      struct strbuf *ret_error);
// Closes it and removes its name, unless another socket took the name since. NULL is fine.
void admin_socket_close(struct admin_socket *socket);

// Serves; owns the socket if it succeeds (*socket becomes NULL). `backend` is copied. 0 or a negative error.
int admin_server_new(struct loop *loop, struct admin_socket **socket, const struct admin_backend *backend,
		     struct admin_server **ret_server);
// Not from within a callback of the loop. NULL is fine.
void admin_server_free(struct admin_server *server);
