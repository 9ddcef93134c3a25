// SPDX-License-Identifier: Apache-2.0
// Turns on the kernel's shortcut for connections within this host (`acceleration: auto`): loads the programs
// of the local bypass, attaches them to the control group of all processes, has the kernel tested
// (acceleration_check.h), and hands the bypass to the streams (net/bypass.h). Everything hangs on descriptors
// of this process and is gone with it. On the control thread, before privileges are given up and before
// workers start.
#pragma once

#include "base/str.h"

#include <linux/bpf.h>
#include <stdint.h>

struct acceleration;

// 0: it is on. Otherwise nothing is left, ret_why has a sentence, and the proxy works without.
int acceleration_start(uint16_t outbound_port, uint16_t inbound_port, struct acceleration **ret_acceleration,
		       struct strbuf *ret_why);
// No connection is bypassed from now on but those that are there. NULL is fine.
void acceleration_stop(struct acceleration *acceleration);

// For both kinds of programs (relaying.h, too): the sentence for an error, which is returned; and a program
// for what the sockets of a map send or receive, 0 or a negative error.
int acceleration_say(struct strbuf *why, int err, const char *what);
int acceleration_attach(int map, int program, enum bpf_attach_type hook);
