// SPDX-License-Identifier: Apache-2.0
// Mutual TLS between proxies: a context (certificate, key, trust, allow list) and connections.
//
// A `struct tls_context` never changes; workers share it by reference (atomic). A reload makes another one:
// its ticket keys and session caches are its own, so nothing that the old one accepted resumes under the new
// one. Connections keep the context that they began with.
//
// A `struct tls_conn` does no I/O: ciphertext that was received is fed to it, ciphertext to be sent is
// drained from tls_conn_out by the owner after every call that may have made some (handshake, read, write,
// shutdown). It belongs to one thread. The handshake advances inside read and write, too. After a failure
// (ERR_TLS, ERR_TLS_PEER, ERR_LIMIT) an alert may wait in tls_conn_out: send it, then close; further calls
// return the same error.
//
// Identity: both sides must show a certificate that chains to the trust bundle for its purpose, is valid now,
// and has exactly one URI name, spiffe://trust-domain/path (X.509-SVID, section 5.2). Host names are not
// looked at. Versions 1.2 and 1.3; no renegotiation, no compression, no early data.
#pragma once

#include "base/addr.h"
#include "base/buf.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct tls_context;
struct tls_conn;

// The ALPN protocol by which our client marks mesh TLS, and which our server selects.
#define TLS_ALPN_MESH "weir/1"
// The one that stands for streams of HTTP/2 between two sidecars (exchange/transport.h); our server prefers
// it.
#define TLS_ALPN_TRANSPORT "weir-h2"
static inline bool tls_alpn_is_mesh(struct str protocol)
{
	return str_eq(protocol, STR(TLS_ALPN_MESH));
}

// --- identities ----------------------------------------------------------------------------------
// Whether it is a SPIFFE id of a workload: "spiffe://", a trust domain, a path with at least one segment.
bool tls_id_is_valid(struct str id);
// A pattern is an id, or ends in '*', which stands for any rest: "spiffe://mesh/ns/default/*".
bool tls_id_matches(struct str id, struct str pattern);

// --- contexts ------------------------------------------------------------------------------------
// Paths of PEM files: the certificate with its chain, its key, the trust anchors. An empty allow list accepts
// every identity of the trust domains that the anchors name (by a SPIFFE URI of their own), else of the
// certificate's own.
struct tls_options {
	struct str certificate, private_key, trust;
	const struct str *allow;
	size_t allow_count;
};

// 0, -ENOMEM, or ERR_CONFIG with *ret_error a sentence that names the file and the reason, to be freed with
// mem_free.
int tls_context_new(const struct tls_options *options, struct tls_context **ret_context, char **ret_error);
struct tls_context *tls_context_ref(struct tls_context *context);
// NULL is fine.
void tls_context_unref(struct tls_context *context);

struct tls_anchor_info {
	const char *subject, *domain; // "mesh", or NULL: it names no trust domain
	int64_t not_before, not_after;
	char fingerprint[65];
};

// Whether both came from the same files with the same certificates, and have the same allow list: then one
// can stand for the other.
bool tls_context_same(const struct tls_context *a, const struct tls_context *b);

// What may be shown of a context; never key material. Times are seconds since 1970, fingerprints SHA-256 in
// hex.
struct tls_cert_info {
	const char *certificate_file, *private_key_file, *trust_file;
	const char *id, *issuer, *serial;
	const char *key_type; // "EC prime256v1", "RSA 2048", ...
	int64_t not_before, not_after;
	char fingerprint[65];
	bool key_exposed; // the key's file can be read by its group or by others
	struct tls_anchor_info *anchors;
	size_t anchor_count;
};
// Lives as long as the context.
const struct tls_cert_info *tls_context_describe(const struct tls_context *context);

// Frees the calling thread's cached sessions and buffers (at its end, and by tests before looking for leaks).
void tls_thread_done(void);

// --- connections ---------------------------------------------------------------------------------
enum tls_side { TLS_SERVER, TLS_CLIENT };
enum { TLS_READ_ROOM = 16384 + 1 };

// All may be empty; nothing is kept beyond tls_conn_new. `allow` narrows the context's list for this
// connection (both must match). A client's sessions are cached by `endpoint` (family 0: no resumption).
// `alpn` (a literal, at most 16 bytes) is what a client offers beside the mesh's mark, and what a server
// selects for a client that does not offer the mark.
struct tls_peer_rules {
	const struct str *allow;
	size_t allow_count;
	struct str sni;
	struct addr endpoint;
	struct str alpn;
};

// 0, -ENOMEM or ERR_TLS. `rules` may be NULL. Takes a reference to the context.
int tls_conn_new(struct tls_context *context, enum tls_side side, const struct tls_peer_rules *rules,
		 struct tls_conn **ret_conn);
// NULL is fine. Sends nothing: see tls_conn_shutdown.
void tls_conn_free(struct tls_conn *conn);

// Ciphertext that was received; takes a reference, copies nothing. 0 or -ENOMEM.
int tls_conn_feed(struct tls_conn *conn, struct slice ciphertext);
// The transport ended: read returns ERR_EOF only if the peer had said so within TLS, otherwise ERR_CLOSED
// (truncated).
void tls_conn_feed_eof(struct tls_conn *conn);
// A client must call it once to begin. 0 done, ERR_NEED_MORE, ERR_TLS, ERR_TLS_PEER (we refuse its
// certificate or identity), ERR_LIMIT, ERR_CLOSED.
int tls_conn_handshake(struct tls_conn *conn);
// Plaintext: how many bytes (> 0), or ERR_NEED_MORE, ERR_EOF (close_notify: writing goes on), and as for the
// handshake. Read until ERR_NEED_MORE; what is left unread waits here (see tls_conn_readable).
// With TLS_READ_ROOM no record has to be put aside and copied.
int tls_conn_read(struct tls_conn *conn, void *ret_bytes, size_t len);
// Gives back what read has just returned, for the next one to return it again. 0 or -ENOMEM.
int tls_conn_unread(struct tls_conn *conn, struct slice plaintext);
// The same into a queue: appends at most `max` bytes or the record that crosses it; returns how many (> 0) or
// an error.
int tls_conn_read_queue(struct tls_conn *conn, struct bufq *ret_queue, size_t max);
// Whether read might return something without another feed: for an owner that stopped reading and resumes.
bool tls_conn_readable(const struct tls_conn *conn);
// `len` > 0. How many bytes were taken (> 0: all of them, at most INT_MAX), ERR_NEED_MORE (handshake not
// done), or an error. There is no limit here: hold back while tls_conn_out holds much.
int tls_conn_write(struct tls_conn *conn, const void *bytes, size_t len);
// The same for a whole queue, gathered into few records; what was taken is dropped from it. 0 or an error.
int tls_conn_write_queue(struct tls_conn *conn, struct bufq *queue);
// Ciphertext waiting to be sent. Owned by the connection; the owner of the connection drops what was sent.
struct bufq *tls_conn_out(struct tls_conn *conn);
// Queues close_notify, once: nothing can be written afterwards, reading goes on. 0 or an error; before the
// handshake is done there is nothing to say.
int tls_conn_shutdown(struct tls_conn *conn);

const struct tls_context *tls_conn_context(const struct tls_conn *conn);
bool tls_conn_handshake_done(const struct tls_conn *conn);
bool tls_conn_shutdown_sent(const struct tls_conn *conn);
// Valid once the handshake is done; before that "-", false, or empty.
const char *tls_conn_version(const struct tls_conn *conn); // "TLSv1.3"
const char *tls_conn_cipher(const struct tls_conn *conn);
struct str tls_conn_alpn(const struct tls_conn *conn);
bool tls_conn_resumed(const struct tls_conn *conn);
struct str tls_conn_peer_id(const struct tls_conn *conn); // the SPIFFE id
// Why the last call failed, for the log: "certificate has expired (spiffe://mesh/a)". "" when nothing failed.
const char *tls_conn_error(const struct tls_conn *conn);
