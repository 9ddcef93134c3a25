// SPDX-License-Identifier: Apache-2.0
// Hosts and request targets of HTTP/1 (RFC 9112 3.2, RFC 3986 3.2). Internal to codecs/. Pure.
#pragma once

#include "codecs/http1.h"

// host [":" port]: a name of CHAR_HOST bytes or an IPv6 address in brackets; no userinfo; a port of at most
// 65535, which may be empty after the colon.
bool http1_authority_valid(struct str authority);

// Reads head->target (not empty, of CHAR_TARGET bytes) into path, authority and the HTTP1_TARGET_* flags.
// HTTP1_OK, HTTP1_FAULT_SYNTAX (no form of RFC 9112 3.2 that the method may use) or HTTP1_FAULT_HOST.
enum http1_fault http1_target_parse(struct http1_head *head);
