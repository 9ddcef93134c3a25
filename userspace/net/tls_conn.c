// SPDX-License-Identifier: Apache-2.0
#include "net/tls_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <pthread.h>

enum {
	RECORD_MAX = TLS_RECORD_PLAIN + 2048, // RFC 5246, 6.2.3; RFC 8446 allows less
	// Less than this of an unfinished record is copied out, so as not to hold a whole receive chunk.
	RECORD_SMALL_REST = 1024,
};

// --- output --------------------------------------------------------------------------------------

// Chunks that this thread's connections fill one after the other: with records to be sent, and with plaintext
// that was read (the two go on at once: reading may have to answer). A full one lives on while somebody's
// queue refers to it.
static __thread struct chunk *tx, *plain;

// The chunk in *at, replaced if it has not got `room` bytes behind `used`. NULL when out of memory.
static struct chunk *chunk_with(struct chunk **at, size_t room)
{
	struct chunk *chunk = *at;
	if (chunk && chunk->refs == 1)
		chunk->used = 0;
	if (chunk && chunk->cap - chunk->used >= room)
		return chunk;
	chunk_unref(chunk);
	*at = chunk_new(0);
	return *at;
}

void tls_thread_done(void)
{
	chunk_unref(tx);
	chunk_unref(plain);
	tx = plain = NULL;
	tls_session_thread_done();
}

uint8_t *tls_out_reserve(size_t len)
{
	struct chunk *chunk = chunk_with(&tx, len);
	return chunk ? chunk->data + chunk->used : NULL;
}

int tls_out_commit(struct tls_conn *conn, const uint8_t *at, size_t len)
{
	int err = bufq_add_slice(&conn->out, (struct slice){tx, at, len});
	if (err == 0)
		tx->used += (uint32_t)len;
	return err;
}

static int out_append(struct tls_conn *conn, const uint8_t *bytes, size_t len)
{
	for (size_t at = 0, n; at < len; at += n) {
		n = MIN(len - at, (size_t)CHUNK_SIZE);
		uint8_t *to = tls_out_reserve(n);
		if (!to)
			return -ENOMEM;
		memcpy(to, bytes + at, n);
		if (tls_out_commit(conn, to, n))
			return -ENOMEM;
	}
	return 0;
}

// --- the BIO over both queues --------------------------------------------------------------------

static int bio_write(BIO *bio, const char *bytes, int len)
{
	struct tls_conn *conn = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (len <= 0)
		return 0;
	return out_append(conn, (const uint8_t *)bytes, (size_t)len) ? -1 : len;
}

static int bio_read(BIO *bio, char *ret_bytes, int len)
{
	struct tls_conn *conn = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (len <= 0)
		return 0;
	size_t most = conn->done ? MIN((size_t)len, conn->grant) : (size_t)len;
	size_t n = bufq_peek(&conn->in, 0, ret_bytes, most);
	if (n == 0) {
		BIO_set_retry_read(bio);
		return -1;
	}
	bufq_drop(&conn->in, n);
	if (conn->done) {
		conn->grant -= n;
		return (int)n;
	}
	conn->handshake_bytes += (uint32_t)n;
	return conn->handshake_bytes <= LIMIT_TLS_HANDSHAKE_BYTES ? (int)n : -1;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;

static void bio_method_make(void)
{
	BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weir queues");
	if (!method)
		return;
	BIO_meth_set_write(method, bio_write);
	BIO_meth_set_read(method, bio_read);
	BIO_meth_set_ctrl(method, bio_ctrl);
	bio_method = method;
}

static BIO *bio_for(struct tls_conn *conn)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, bio_method_make);
	BIO *bio = bio_method ? BIO_new(bio_method) : NULL;
	if (!bio)
		return NULL;
	BIO_set_data(bio, conn);
	BIO_set_init(bio, 1);
	return bio;
}

// --- hooks ---------------------------------------------------------------------------------------

// Our own record layer wants to know how many records passed since the keys for data were set: with the
// client's Finished.
static void count_record(struct tls_conn *conn, bool sent)
{
	if (sent)
		conn->records_written++;
	else
		conn->records_read++;
}

// Handshake messages after the handshake cost the receiver much and the sender little: key updates, tickets.
static void on_message(int sent, int version, int type, const void *bytes, size_t len, SSL *ssl, void *arg)
{
	struct tls_conn *conn = SSL_get_app_data(ssl);
	(void)version, (void)arg;
	if (type == SSL3_RT_HEADER)
		count_record(conn, sent);
	if (type != SSL3_RT_HANDSHAKE || len == 0)
		return;
	uint8_t message = *(const uint8_t *)bytes;
	if (conn->done && !sent)
		conn->extra_messages++;
	if (message == SSL3_MT_KEY_UPDATE)
		conn->key_updated = true;
	if (message == SSL3_MT_FINISHED && (conn->side == TLS_CLIENT) == (sent == 1))
		conn->records_read = conn->records_written = 0;
}

static int on_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls_conn *conn = SSL_get_app_data(ssl);
	if (conn->endpoint.ip.family == 0)
		return 0;
	tls_session_put(conn->context, &conn->endpoint, session);
	return 1;
}

void tls_conn_hook(SSL_CTX *ctx, enum tls_side side)
{
	SSL_CTX_set_msg_callback(ctx, on_message);
	SSL_CTX_set_keylog_callback(ctx, tls_native_on_secret);
	if (side == TLS_SERVER) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
		return;
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, on_session);
}

// --- life ----------------------------------------------------------------------------------------

// The mesh's mark first, then the other one.
static int offer_alpn(struct tls_conn *conn)
{
	static const struct str MARK = STR("\x06" TLS_ALPN_MESH);
	unsigned char list[64];
	memcpy(list, MARK.p, MARK.len);
	list[MARK.len] = (unsigned char)conn->alpn.len;
	memcpy(list + MARK.len + 1, conn->alpn.p, conn->alpn.len);
	unsigned len = (unsigned)(MARK.len + 1 + conn->alpn.len);
	return SSL_set_alpn_protos(conn->ssl, list, len) == 0 ? 0 : -ENOMEM; // unlike others, it returns 0
}

static int client_prepare(struct tls_conn *conn, struct str sni)
{
	char name[256];
	SSL_set_connect_state(conn->ssl);
	if (conn->alpn.len && offer_alpn(conn))
		return -ENOMEM;
	if (sni.len && sni.len < sizeof name) {
		memcpy(name, sni.p, sni.len);
		name[sni.len] = 0;
		if (SSL_set_tlsext_host_name(conn->ssl, name) != 1)
			return ERR_TLS;
	}
	if (conn->endpoint.ip.family == 0)
		return 0;
	SSL_SESSION *session = tls_session_take(conn->context, &conn->endpoint);
	if (session && tls_peer_session_fits(conn, session))
		SSL_set_session(conn->ssl, session);
	SSL_SESSION_free(session);
	return 0;
}

static int conn_prepare(struct tls_conn *conn, enum tls_side side, const struct tls_peer_rules *rules)
{
	if (rules) {
		int err = tls_patterns_copy(rules->allow, rules->allow_count, &conn->allow);
		if (err)
			return err;
		conn->endpoint = rules->endpoint;
		conn->alpn = rules->alpn;
	}
	conn->ssl = SSL_new(conn->context->sides[side]);
	BIO *bio = conn->ssl ? bio_for(conn) : NULL;
	if (!bio)
		return -ENOMEM;
	SSL_set_bio(conn->ssl, bio, bio);
	SSL_set_app_data(conn->ssl, conn);
	if (side == TLS_CLIENT)
		return client_prepare(conn, rules ? rules->sni : STR(""));
	SSL_set_accept_state(conn->ssl);
	return 0;
}

int tls_conn_new(struct tls_context *context, enum tls_side side, const struct tls_peer_rules *rules,
		 struct tls_conn **ret_conn)
{
	struct tls_conn *conn = mem_zalloc(sizeof *conn);
	if (!conn)
		return -ENOMEM;
	conn->context = tls_context_ref(context);
	conn->side = side;
	conn->version = conn->cipher = "-";
	int err = conn_prepare(conn, side, rules);
	if (err) {
		ERR_clear_error();
		tls_conn_free(conn);
		return err;
	}
	*ret_conn = conn;
	return 0;
}

void tls_conn_free(struct tls_conn *conn)
{
	if (!conn)
		return;
	// Otherwise OpenSSL would take the end for a failure, spoil the session for resumption and lock the
	// SSL_CTX.
	if (conn->ssl && conn->done && !conn->err)
		SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(conn->ssl);
	bufq_clear(&conn->in);
	bufq_clear(&conn->out);
	bufq_clear(&conn->plain);
	tls_direction_done(&conn->reading);
	tls_direction_done(&conn->writing);
	tls_patterns_done(&conn->allow);
	mem_free((void *)conn->peer_id.p);
	strbuf_done(&conn->reason);
	tls_context_unref(conn->context);
	mem_free(conn);
}

// --- failures ------------------------------------------------------------------------------------

int tls_conn_fail(struct tls_conn *conn, int err, const char *reason)
{
	conn->err = err;
	if (reason) {
		strbuf_clear(&conn->reason);
		strbuf_add_text(&conn->reason, reason);
	}
	return err;
}

static bool starts_like_tls(const struct tls_conn *conn)
{
	return conn->first_byte == SSL3_RT_HANDSHAKE || conn->first_byte == SSL3_RT_ALERT;
}

int tls_conn_alerted(struct tls_conn *conn, int alert)
{
	strbuf_clear(&conn->reason);
	strbuf_printf(&conn->reason, "the peer ended it with the alert '%s'",
		      SSL_alert_desc_string_long(alert));
	return tls_conn_fail(conn, ERR_TLS, NULL);
}

// Turns the error queue into a reason, and empties it.
static int explain_queue(struct tls_conn *conn)
{
	unsigned long code = ERR_get_error();
	int reason = ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
	const char *text = ERR_reason_error_string(code);
	ERR_clear_error();
	if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
		return tls_conn_fail(conn, ERR_TLS_PEER,
				     conn->reason.len ? NULL : "the certificate was not accepted");
	if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
		return tls_conn_fail(conn, ERR_TLS_PEER, "the peer showed no certificate");
	if (reason > SSL_AD_REASON_OFFSET && reason < SSL_AD_REASON_OFFSET + 256)
		return tls_conn_alerted(conn, reason - SSL_AD_REASON_OFFSET);
	return tls_conn_fail(conn, ERR_TLS, text ? text : "protocol failure");
}

static int explain_failure(struct tls_conn *conn)
{
	if (conn->done || starts_like_tls(conn)) {
		if (conn->done || conn->handshake_bytes <= LIMIT_TLS_HANDSHAKE_BYTES)
			return explain_queue(conn);
		ERR_clear_error();
		return tls_conn_fail(conn, ERR_LIMIT, "the handshake is too long");
	}
	ERR_clear_error();
	return tls_conn_fail(conn, ERR_TLS,
			     "the peer does not speak TLS: its first byte begins no TLS record");
}

// The transport ended; a peer that closes instead of answering gets the reason told apart.
static int truncated(struct tls_conn *conn)
{
	return tls_conn_fail(conn, ERR_CLOSED,
			     conn->done ? "the connection was closed without close_notify"
					: "the connection was closed during the handshake");
}

static int outcome(struct tls_conn *conn, int result)
{
	switch (SSL_get_error(conn->ssl, result)) {
	case SSL_ERROR_WANT_READ:
		return conn->eof_fed && !conn->done ? truncated(conn) : ERR_NEED_MORE;
	case SSL_ERROR_ZERO_RETURN:
		conn->peer_closed = true;
		return ERR_EOF;
	default:
		return explain_failure(conn);
	}
}

// --- handshake -----------------------------------------------------------------------------------

static int established(struct tls_conn *conn)
{
	const unsigned char *alpn = NULL;
	unsigned alpn_len = 0;
	conn->resumed = SSL_session_reused(conn->ssl);
	if (conn->resumed) {
		int err = tls_peer_recheck(conn);
		if (err)
			return tls_conn_fail(conn, err, NULL);
	}
	SSL_get0_alpn_selected(conn->ssl, &alpn, &alpn_len);
	conn->mesh_alpn = tls_alpn_is_mesh((struct str){(const char *)alpn, alpn_len});
	conn->transport_alpn = str_eq((struct str){(const char *)alpn, alpn_len}, STR(TLS_ALPN_TRANSPORT));
	conn->own_alpn = alpn_len && str_eq((struct str){(const char *)alpn, alpn_len}, conn->alpn);
	conn->version = SSL_get_version(conn->ssl);
	conn->cipher = SSL_get_cipher_name(conn->ssl);
	conn->done = true;
	tls_patterns_done(&conn->allow);
	return 0;
}

// A session of TLS 1.2 serves again, and the server need not have sent another ticket.
static void keep_session_1_2(struct tls_conn *conn)
{
	if (conn->side == TLS_SERVER || conn->endpoint.ip.family == 0 || !conn->resumed ||
	    SSL_version(conn->ssl) != TLS1_2_VERSION)
		return;
	SSL_SESSION *session = SSL_get1_session(conn->ssl);
	if (session)
		tls_session_put(conn->context, &conn->endpoint, session);
}

int tls_conn_handshake(struct tls_conn *conn)
{
	if (conn->done || conn->err)
		return conn->err;
	int result = SSL_do_handshake(conn->ssl);
	int err = result == 1 ? established(conn) : outcome(conn, result);
	if (err == ERR_EOF)
		err = truncated(conn);
	if (conn->done)
		keep_session_1_2(conn);
	// OpenSSL leaves remarks behind on success as well; read and write rely on an empty queue.
	if (ERR_peek_error())
		ERR_clear_error();
	// A client that wants to resume waits for its tickets, which OpenSSL has to read.
	if (conn->done && (conn->side == TLS_SERVER || conn->endpoint.ip.family == 0))
		tls_native_take_over(conn);
	return err;
}

bool tls_conn_handshake_done(const struct tls_conn *conn)
{
	return conn->done;
}

// --- data ----------------------------------------------------------------------------------------

int tls_conn_feed(struct tls_conn *conn, struct slice ciphertext)
{
	if (!conn->began && ciphertext.len) {
		conn->first_byte = ciphertext.p[0];
		conn->began = true;
	}
	return bufq_add_slice(&conn->in, ciphertext);
}

void tls_conn_feed_eof(struct tls_conn *conn)
{
	conn->eof_fed = true;
}

size_t tls_conn_whole_record(const struct tls_conn *conn)
{
	uint8_t header[TLS_RECORD_HEADER];
	if (bufq_peek(&conn->in, 0, header, sizeof header) < sizeof header)
		return 0;
	size_t len = TLS_RECORD_HEADER + ((size_t)header[3] << 8 | header[4]);
	bool unknown = header[0] < TLS_RECORD_CCS || header[0] > TLS_RECORD_DATA;
	if (unknown || len > TLS_RECORD_HEADER + RECORD_MAX)
		return conn->in.bytes;
	return conn->in.bytes >= len ? len : 0;
}

bool tls_conn_readable(const struct tls_conn *conn)
{
	return !conn->done || conn->err || conn->eof_fed || conn->peer_closed || !bufq_empty(&conn->plain) ||
	       tls_conn_whole_record(conn) > 0 || (conn->ssl && SSL_pending(conn->ssl) > 0);
}

// A few bytes of an unfinished record would hold a whole receive chunk: they move to a block of their own.
static void release_rest(struct tls_conn *conn)
{
	struct bufq rest = {0};
	struct slice first = bufq_first(&conn->in);
	bool alone = first.len == conn->in.bytes && (!first.chunk || first.chunk->cap < CHUNK_SIZE);
	if (alone || conn->in.bytes >= RECORD_SMALL_REST)
		return;
	uint8_t bytes[RECORD_SMALL_REST];
	size_t len = bufq_peek(&conn->in, 0, bytes, sizeof bytes);
	if (bufq_add_copy(&rest, bytes, len))
		return;
	bufq_clear(&conn->in);
	conn->in = rest;
}

int tls_conn_read_nothing(struct tls_conn *conn)
{
	if (conn->peer_closed)
		return ERR_EOF;
	if (conn->eof_fed)
		return truncated(conn);
	release_rest(conn);
	return ERR_NEED_MORE;
}

uint32_t tls_conn_extra_allowed(const struct tls_conn *conn)
{
	return LIMIT_TLS_EXTRA_MESSAGES + (uint32_t)MIN(conn->read_bytes >> 20, (uint64_t)UINT32_MAX / 2);
}

int tls_conn_take_plain(struct tls_conn *conn, uint8_t *ret_bytes, size_t len)
{
	size_t n = bufq_peek(&conn->plain, 0, ret_bytes, len);
	bufq_drop(&conn->plain, n);
	conn->read_bytes += n;
	return (int)n;
}

int tls_conn_unread(struct tls_conn *conn, struct slice plaintext)
{
	assert(bufq_empty(&conn->plain));
	int err = bufq_add_slice(&conn->plain, plaintext);
	if (err == 0)
		conn->read_bytes -= plaintext.len;
	return err;
}

// OpenSSL is given whole records only, so it never holds a buffer for the beginning of one.
static int openssl_read(struct tls_conn *conn, void *ret_bytes, size_t len)
{
	size_t n;
	if (unlikely(!bufq_empty(&conn->plain)))
		return tls_conn_take_plain(conn, ret_bytes, len);
	while (SSL_pending(conn->ssl) > 0 || (conn->grant = tls_conn_whole_record(conn)) > 0) {
		if (likely(SSL_read_ex(conn->ssl, ret_bytes, len, &n) == 1)) {
			conn->read_bytes += n;
			tls_native_take_over(conn);
			return (int)n;
		}
		int err = outcome(conn, 0);
		if (err == ERR_NEED_MORE && conn->extra_messages > tls_conn_extra_allowed(conn))
			err = tls_conn_fail(conn, ERR_LIMIT, TLS_TOO_MANY_MESSAGES);
		if (err != ERR_NEED_MORE)
			return err;
		if (conn->extra_messages > 0)
			tls_native_take_over(conn);
		if (conn->native)
			return tls_native_read(conn, ret_bytes, len);
	}
	return tls_conn_read_nothing(conn);
}

int tls_conn_read(struct tls_conn *conn, void *ret_bytes, size_t len)
{
	if (unlikely(!conn->done || conn->err)) {
		int err = tls_conn_handshake(conn);
		if (err)
			return err;
	}
	len = MIN(len, (size_t)INT_MAX);
	return conn->native ? tls_native_read(conn, ret_bytes, len) : openssl_read(conn, ret_bytes, len);
}

int tls_conn_read_queue(struct tls_conn *conn, struct bufq *ret_queue, size_t max)
{
	size_t total = 0;
	while (total < max) {
		struct chunk *chunk = chunk_with(&plain, TLS_READ_ROOM);
		if (!chunk)
			return -ENOMEM;
		uint8_t *to = chunk->data + chunk->used;
		int n = tls_conn_read(conn, to, MIN(max - total, (size_t)(chunk->cap - chunk->used)));
		if (n <= 0)
			return total ? (int)total : n;
		int err = bufq_add_slice(ret_queue, (struct slice){chunk, to, (size_t)n});
		if (err)
			return tls_conn_fail(conn, err, err_text(err));
		chunk->used += (uint32_t)n;
		total += (size_t)n;
	}
	return (int)total;
}

static int write_begin(struct tls_conn *conn)
{
	assert(!conn->shutdown_sent);
	return likely(conn->done && !conn->err) ? 0 : tls_conn_handshake(conn);
}

int tls_conn_write(struct tls_conn *conn, const void *bytes, size_t len)
{
	size_t n;
	int err = write_begin(conn);
	if (unlikely(err))
		return err;
	len = MIN(len, (size_t)INT_MAX);
	if (conn->native)
		return tls_native_write(conn, bytes, len);
	return SSL_write_ex(conn->ssl, bytes, len, &n) == 1 ? (int)n : outcome(conn, 0);
}

static int openssl_write_queue(struct tls_conn *conn, struct bufq *queue)
{
	uint8_t gathered[TLS_RECORD_PLAIN];
	while (!bufq_empty(queue)) {
		struct slice first = bufq_first(queue);
		const uint8_t *bytes = first.p;
		size_t len = first.len;
		if (len < queue->bytes && len < sizeof gathered) {
			len = bufq_peek(queue, 0, gathered, sizeof gathered);
			bytes = gathered;
		}
		int n = tls_conn_write(conn, bytes, len);
		if (n < 0)
			return n;
		bufq_drop(queue, (size_t)n);
	}
	return 0;
}

int tls_conn_write_queue(struct tls_conn *conn, struct bufq *queue)
{
	int err = write_begin(conn);
	if (unlikely(err))
		return err;
	return conn->native ? tls_native_write_queue(conn, queue) : openssl_write_queue(conn, queue);
}

struct bufq *tls_conn_out(struct tls_conn *conn)
{
	return &conn->out;
}

int tls_conn_shutdown(struct tls_conn *conn)
{
	if (conn->err)
		return conn->err;
	if (!conn->done || conn->shutdown_sent)
		return 0;
	conn->shutdown_sent = true;
	if (conn->native)
		return tls_native_shutdown(conn);
	return SSL_shutdown(conn->ssl) >= 0 ? 0 : outcome(conn, -1);
}

const struct tls_context *tls_conn_context(const struct tls_conn *conn)
{
	return conn->context;
}

bool tls_conn_shutdown_sent(const struct tls_conn *conn)
{
	return conn->shutdown_sent;
}

// --- what it is ----------------------------------------------------------------------------------

const char *tls_conn_version(const struct tls_conn *conn)
{
	return conn->version;
}

const char *tls_conn_cipher(const struct tls_conn *conn)
{
	return conn->cipher;
}

struct str tls_conn_alpn(const struct tls_conn *conn)
{
	if (conn->transport_alpn)
		return STR(TLS_ALPN_TRANSPORT);
	return conn->mesh_alpn ? STR(TLS_ALPN_MESH) : conn->own_alpn ? conn->alpn : STR("");
}

bool tls_conn_resumed(const struct tls_conn *conn)
{
	return conn->done && conn->resumed;
}

struct str tls_conn_peer_id(const struct tls_conn *conn)
{
	return conn->done ? conn->peer_id : STR("");
}

const char *tls_conn_error(const struct tls_conn *conn)
{
	return conn->err && conn->reason.p ? conn->reason.p : "";
}
