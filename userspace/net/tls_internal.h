// SPDX-License-Identifier: Apache-2.0
// What the parts of net/tls share: tls_context.c builds contexts, tls_peer.c judges peers, tls_session.c
// keeps a client's sessions, tls_conn.c runs connections.
#pragma once

#include "base/pool.h"
#include "net/tls.h"

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
	struct str domain; // the trust domain of our own certificate
	struct tls_cert_info info;
	struct arena arena; // of the texts in `info`
};

struct tls_conn {
	struct tls_context *context;
	SSL *ssl;
	struct bufq in, out;
	struct addr endpoint;
	struct tls_patterns allow;
	struct str peer_id;   // owned
	struct strbuf reason; // of the failure
	int err;	      // the failure, for good
	uint32_t handshake_bytes;
	uint32_t extra_messages; // handshake messages after the handshake
	uint64_t read_bytes;
	size_t grant;	    // bytes of `in` that OpenSSL may take now: a whole record
	uint8_t first_byte; // that the peer sent, for the reason of a failure
	bool done, began, eof_fed, shutdown_sent;
};

// --- patterns and identities (tls_peer.c)
// ---------------------------------------------------------------------
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

// --- a client's sessions (tls_session.c)
// ------------------------------------------------------------------------ Takes over the reference.
void tls_session_put(const struct tls_context *context, const struct addr *endpoint, SSL_SESSION *session);
// The latest session with the endpoint, taken out; NULL when there is none. The caller frees it.
SSL_SESSION *tls_session_take(const struct tls_context *context, const struct addr *endpoint);
void tls_session_thread_done(void);

// --- connections (tls_conn.c)
// ----------------------------------------------------------------------------------- Hooks both kinds of
// SSL_CTX up with connections: BIO, counting of messages, sessions.
void tls_conn_hook(SSL_CTX *ctx, enum tls_side side);
