// SPDX-License-Identifier: Apache-2.0
// Tells the service manager about the state of the proxy: the datagram of sd_notify(3), without a library.
#pragma once

// Sends `state` ("READY=1", "STOPPING=1", "STATUS=...", lines separated by \n) to the socket that
// NOTIFY_SOCKET names. 0 (also when there is none), or a negative error.
int notify_send(const char *state);
// "RELOADING=1" with the time that the protocol asks for; "READY=1" has to follow.
int notify_reloading(void);
