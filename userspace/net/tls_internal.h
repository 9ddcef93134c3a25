// SPDX-License-Identifier: Apache-2.0
// What the parts of net/tls share: tls_context.c builds contexts, tls_peer.c judges peers, tls_session.c
// keeps a client's sessions, tls_conn.c runs connections, tls_native.c those of
// TLS 1.3 once the handshake is done, over tls_record.c.
#pragma once

#include "base/pool.h"
#include "net/tls.h"
#include "net/tls_record.h"

#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>

struct tls_patterns {
	struct str *list; // one block together with the texts; NULL when empty
	size_t count;
};

struct tls_context {
	atomic_uint refs;
	uint64_t serial; // unique in this process, growing
	SSL_CTX *sides[2];
	struct tls_patterns allow;
	struct str domain;  // the trust domain of our own certificate
	uint8_t digest[32]; // of the certificates' files and the allow list, see tls_context_same
	struct tls_cert_info info;
	struct arena arena; // of the texts in `info`
};

struct tls_conn {
	struct tls_context *context;
	SSL *ssl; // NULL once it is native
	struct bufq in, out;
	struct addr endpoint;
	struct str alpn;	   // beside the mesh's mark
	struct tls_patterns allow; // until the handshake is done
	struct str peer_id;	   // owned
	struct strbuf reason;	   // of the failure
	int err;		   // the failure, for good
	enum tls_side side;
	uint32_t handshake_bytes;
	uint32_t extra_messages; // handshake messages after the handshake
	uint64_t read_bytes;
	size_t grant;	    // bytes of `in` that OpenSSL may take now: a whole record
	uint8_t first_byte; // that the peer sent, for the reason of a failure
	bool done, began, eof_fed, shutdown_sent, peer_closed, resumed, mesh_alpn, own_alpn, transport_alpn;
	const char *version, *cipher;

	// For our own record layer, see tls_native.c.
	bool native, keep_openssl, key_updated;
	uint8_t secrets;			// how many of the two below are known
	uint32_t records_read, records_written; // since the last keys, by OpenSSL
	struct tls_direction reading, writing;
	struct bufq plain;     // of a record that the caller had no room for, or gave back
	uint8_t message[4];    // head of the handshake message that is coming in
	uint8_t message_len;   // of it so far
	uint32_t message_left; // of its body
};

// --- patterns and identities (tls_peer.c) --------------------------------------------------------
int tls_patterns_copy(const struct str *list, size_t count, struct tls_patterns *ret_patterns);
void tls_patterns_done(struct tls_patterns *patterns);
// The only URI name of a certificate, if it is a SPIFFE id with a path (`leaf`), or without one (an anchor's
// trust domain). Within the certificate's own memory as long as *ret_names lives (GENERAL_NAMES_free). 0, or
// ERR_NOT_FOUND.
int tls_cert_id(X509 *cert, bool leaf, GENERAL_NAMES **ret_names, struct str *ret_id);
// "mesh" of "spiffe://mesh/a". The id must be well-formed.
struct str tls_id_domain(struct str id);
// For SSL_CTX_set_cert_verify_callback: chain, purpose, validity by OpenSSL; then the identity.
int tls_peer_verify(X509_STORE_CTX *store, void *context);
// Judges the peer of a resumed session again: validity, the allow lists. 0 or ERR_TLS_PEER with conn->reason.
int tls_peer_recheck(struct tls_conn *conn);
// Whether the session's peer would be accepted now.
bool tls_peer_session_fits(const struct tls_conn *conn, SSL_SESSION *session);

// --- a client's sessions (tls_session.c) ---------------------------------------------------------
// Takes over the reference.
void tls_session_put(const struct tls_context *context, const struct addr *endpoint, SSL_SESSION *session);
// The latest session with the endpoint, taken out; NULL when there is none. The caller frees it.
SSL_SESSION *tls_session_take(const struct tls_context *context, const struct addr *endpoint);
void tls_session_thread_done(void);

// --- connections (tls_conn.c) --------------------------------------------------------------------
#define TLS_TOO_MANY_MESSAGES "too many handshake messages after the handshake"

// Hooks both kinds of SSL_CTX up with connections: BIO, counting of messages, sessions.
void tls_conn_hook(SSL_CTX *ctx, enum tls_side side);
// Records the failure and returns it; the reason may be NULL if one is there.
int tls_conn_fail(struct tls_conn *conn, int err, const char *reason);
// The peer ended it with an alert.
int tls_conn_alerted(struct tls_conn *conn, int alert);
// The length of the first record if it is there whole; 0 if not. What only a failure can follow counts as
// whole.
size_t tls_conn_whole_record(const struct tls_conn *conn);
// No whole record is there: what read returns then.
int tls_conn_read_nothing(struct tls_conn *conn);
// Plaintext that was put aside; there is some.
int tls_conn_take_plain(struct tls_conn *conn, uint8_t *ret_bytes, size_t len);
// How many messages the peer may have sent by now that are no data.
uint32_t tls_conn_extra_allowed(const struct tls_conn *conn);
// Room for a record of this thread's connections, and its entry into the queue of one. NULL, -ENOMEM: out of
// memory.
uint8_t *tls_out_reserve(size_t len);
int tls_out_commit(struct tls_conn *conn, const uint8_t *at, size_t len);

// --- our own record layer (tls_native.c) ---------------------------------------------------------
// For SSL_CTX_set_keylog_callback.
void tls_native_on_secret(const SSL *ssl, const char *line);
// Goes over from OpenSSL, if it can be done: TLS 1.3, a known suite, nothing half-read. Otherwise all stays
// as it is.
void tls_native_take_over(struct tls_conn *conn);
int tls_native_read(struct tls_conn *conn, uint8_t *ret_bytes, size_t len);
int tls_native_write(struct tls_conn *conn, const uint8_t *bytes, size_t len);
int tls_native_write_queue(struct tls_conn *conn, struct bufq *queue);
int tls_native_shutdown(struct tls_conn *conn);
