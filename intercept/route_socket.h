// SPDX-License-Identifier: Apache-2.0
// What routes.c and returns.c share: asking the kernel's routing tables.
#pragma once

#include "base/str.h"

#include <libmnl/libmnl.h>

// 0 or a negative error with a sentence; on 0 the caller calls mnl_socket_close.
int route_open(struct mnl_socket **ret_socket, struct strbuf *error);
// Sends a request and hands every answer to fn (NULL: none is expected). 0 or a negative errno.
int route_talk(struct mnl_socket *nl, struct nlmsghdr *request, mnl_cb_t fn, void *arg);
// Appends "what: why" and returns err.
int route_say(struct strbuf *error, int err, const char *what);
