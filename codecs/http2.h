// SPDX-License-Identifier: Apache-2.0
// What HTTP/2 asks of heads (RFC 9113 8), over fields that HPACK has given back: from fields with
// pseudo-fields to a message and the other way. Frames are the business of exchange/http2_session.h.
// Whatever could be read differently by the next one (request smuggling) is refused, never repaired. Pure.
#pragma once

#include "codecs/message.h"

#include <stddef.h>

// Whether the bytes are the connection preface (RFC 9113 3.4): 1, 0, or ERR_NEED_MORE.
int http2_preface(struct str bytes);
#define HTTP2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
enum { HTTP2_PREFACE_BYTES = sizeof(HTTP2_PREFACE) - 1 };

// Whether they are, or begin, the frame that a server's side starts with (RFC 9113 3.4): SETTINGS, not an
// acknowledgement. A server may send it before it has heard anything.
bool http2_is_server_preface(struct str bytes);

// Makes the message of a request from its decoded fields, pseudo-fields included; `fields` is reordered.
// 0 or ERR_MALFORMED: a pseudo-field missing, twice, unknown or behind the others; a method, path or
// authority that HTTP/1 could not carry; Host other than :authority; fields of the connection (8.2.2), names
// in upper case, control bytes in values; Content-Length wrong or twice. `end` is for the caller to set.
int http2_request_read(struct field *fields, size_t count, struct message *ret_message);
// The same for a response. `connect` says that the request was CONNECT with :protocol: then 2xx becomes 101.
int http2_response_read(struct field *fields, size_t count, bool connect, struct message *ret_message);
// Takes Content-Length out of a message that has no content, or whose content is a tunnel's.
void http2_length_drop(struct message *message);
// Trailers: no pseudo-fields, nothing that belongs into a head (RFC 9110 6.5.1). 0 or ERR_MALFORMED.
int http2_trailers_check(const struct field *fields, size_t count);

enum { HTTP2_PSEUDO_MAX = 5 };
// Whether the bytes of a field may stand there (RFC 9113 8.2.1): its name is known, or is in lower case, and
// its value has no controls.
bool http2_field_is_clean(const struct field *field);
bool http2_name_is_clean(struct str name);
bool http2_value_is_clean(struct str value);
// Whether a field that is no pseudo-field may stand in a head or in trailers (RFC 9113 8.2): its name is in
// lower case, its value has no controls, and it is not about one connection.
bool http2_field_is_legal(const struct field *field);
// The pseudo-fields of a message, in `ret_fields` (room for HTTP2_PSEUDO_MAX); returns how many. `status` is
// room for three digits, which the result points to.
size_t http2_request_pseudo(const struct message *message, struct field *ret_fields);
size_t http2_response_pseudo(const struct message *message, char status[3], struct field *ret_fields);
// The other fields, without those that are part of the change of protocols of HTTP/1 (RFC 8441 5): at most
// `room`; returns how many.
size_t http2_message_fields(const struct message *message, struct field *ret_fields, size_t room);

// base64url without padding (HTTP2-Settings, RFC 7540 3.2.1). Returns the bytes decoded, or ERR_MALFORMED.
int http2_settings_decode(struct str text, uint8_t *ret_bytes, size_t room);
