// SPDX-License-Identifier: Apache-2.0
// Record protection of TLS 1.3 (RFC 8446, section 5.2) with OpenSSL's AEADs. OpenSSL makes the handshake;
// then the traffic secrets come here and its connection object, which holds some 19 KB, goes. One direction
// is plain data and a cipher context. Pure functions apart from that: no queues, no states of a connection.
// Belongs to one thread.
#pragma once

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
	TLS_RECORD_HEADER = 5,
	TLS_RECORD_TAG = 16,
	TLS_RECORD_OVERHEAD = TLS_RECORD_HEADER + 1 + TLS_RECORD_TAG, // what seal adds
	TLS_RECORD_PLAIN = 16384,				      // payload of one record at most
	TLS_RECORD_BODY = TLS_RECORD_PLAIN + 256,		      // behind the header at most
	TLS_SECRET_MAX = 48,
};

enum tls_record_type {
	TLS_RECORD_CCS = 20,
	TLS_RECORD_ALERT = 21,
	TLS_RECORD_HANDSHAKE = 22,
	TLS_RECORD_DATA = 23
};

struct tls_direction {
	EVP_CIPHER_CTX *cipher;
	uint64_t sequence;
	const struct tls_suite *suite;
	bool seals;
	uint8_t iv[12];
	uint8_t secret[TLS_SECRET_MAX];
};

// Keys from a traffic secret; `sequence` records have passed under it. 0, -ENOMEM or ERR_UNSUPPORTED.
int tls_direction_init(struct tls_direction *direction, uint16_t suite, const uint8_t *secret,
		       uint64_t sequence, bool seals);
// Goes on to the next secret (KeyUpdate, section 7.2). 0 or ERR_TLS.
int tls_direction_update(struct tls_direction *direction);
// Wipes and frees. A zeroed direction is fine.
void tls_direction_done(struct tls_direction *direction);

// Writes one whole record, header included, of `len` bytes (<= TLS_RECORD_PLAIN) that lie in `count` pieces
// (they may lie where they go: one piece at ret_record + TLS_RECORD_HEADER). Needs len + TLS_RECORD_OVERHEAD
// bytes of room. 0 or ERR_TLS.
int tls_record_seal(struct tls_direction *direction, enum tls_record_type type, const struct iovec *pieces,
		    int count, size_t len, uint8_t *ret_record);

// Opens a record: its header, and its body (`len` bytes) in pieces. `ret_plain` has room for len -
// TLS_RECORD_TAG bytes. 0, ERR_TLS (it is not authentic), ERR_MALFORMED (no type in it) or ERR_LIMIT (too
// long a payload).
int tls_record_open(struct tls_direction *direction, const uint8_t header[TLS_RECORD_HEADER],
		    const struct iovec *pieces, int count, size_t len, uint8_t *ret_plain, size_t *ret_len,
		    uint8_t *ret_type);
