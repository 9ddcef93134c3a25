// SPDX-License-Identifier: Apache-2.0
// What eBPF keeps with the sockets of captured connections (bpf/shared.h), for who lists sockets: to the kernel, they
// go to the proxy. Blocking; for the command line.
#pragma once

#include "intercept/sockets.h"

// Gives the sockets in the list the ends that their programs know. Those of which nothing is kept, or which may not be
// read (it takes root), stay as they are.
void ebpf_sockets_reveal(struct socket_list *list);
