// SPDX-License-Identifier: Apache-2.0
// What nft.c and foreign.c share: asking nftables.
#pragma once

#include "base/str.h"

#include <libmnl/libmnl.h>

// 0 or a negative error with a sentence; on 0 the caller calls mnl_socket_close.
int nft_open(struct mnl_socket **ret_socket, struct strbuf *error);
// Sends one request and hands every answer to fn. 0 or a negative errno; -EINTR: something changed meanwhile.
int nft_query(struct mnl_socket *nl, const struct nlmsghdr *request, mnl_cb_t fn, void *arg);
