// SPDX-License-Identifier: Apache-2.0
// DNS in words, as people write it (RFC 1035 5.1, RFC 3597). Pure; any thread.
#pragma once

#include "dns/message.h"

enum { DNS_WORD_MAX = 16 };

// "AAAA", or "TYPE65280". Returns a literal, or `text`.
const char *dns_type_format(uint16_t type, char text[DNS_WORD_MAX]);
// The same back, in upper or lower case, and a number alone. 0 or ERR_MALFORMED.
int dns_type_from_text(struct str text, uint16_t *ret_type);
// "NXDOMAIN", or "RCODE12".
const char *dns_rcode_format(uint16_t rcode, char text[DNS_WORD_MAX]);
// Appends the data of a record of this message: "10.0.0.1", "10 mail.example.com", "\# 2 0a0b" for what is
// not known or is malformed.
void dns_data_format(const uint8_t *message, size_t len, const struct dns_record *record, struct strbuf *out);
