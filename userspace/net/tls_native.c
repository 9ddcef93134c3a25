// SPDX-License-Identifier: Apache-2.0
// Connections of TLS 1.3 after the handshake: our own record layer in place of OpenSSL's.
#include "net/tls_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <openssl/err.h>

enum {
	MESSAGE_TICKET = 4,
	MESSAGE_KEY_UPDATE = 24,
	BODY_PIECES = 8,
	GATHERED = 4096,	  // up to here pieces are copied together and encrypted in one go
	REKEY_RECORDS = 1 << 24,  // sent under one key; RFC 8446, section 5.5 allows 2^24.5
	RECORD_FILL = 16384 - 32, // payload of a full record: two of them fit one chunk
};

// --- taking over ---------------------------------------------------------------------------------

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = ascii_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_decode(struct str hex, uint8_t *ret_bytes, size_t max)
{
	if (hex.len % 2 || hex.len / 2 > max)
		return false;
	for (size_t i = 0; i < hex.len / 2; i++) {
		int high = hex_digit(hex.p[2 * i]), low = hex_digit(hex.p[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		ret_bytes[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

// A line is: label, the client's random, the secret.
void tls_native_on_secret(const SSL *ssl, const char *line)
{
	struct tls_conn *conn = SSL_get_app_data(ssl);
	struct str rest = str_from(line);
	struct str label = str_split(&rest, ' ');
	bool client = str_eq(label, STR("CLIENT_TRAFFIC_SECRET_0"));
	if (!client && !str_eq(label, STR("SERVER_TRAFFIC_SECRET_0")))
		return;
	str_split(&rest, ' ');
	struct tls_direction *direction =
	    client == SSL_is_server((SSL *)ssl) ? &conn->reading : &conn->writing;
	if (rest.p && hex_decode(rest, direction->secret, sizeof direction->secret))
		conn->secrets++;
}

static bool may_take_over(const struct tls_conn *conn)
{
	return !conn->keep_openssl && conn->done && !conn->err && !conn->key_updated && conn->secrets == 2 &&
	       SSL_version(conn->ssl) == TLS1_3_VERSION && !SSL_has_pending(conn->ssl) &&
	       !SSL_in_init(conn->ssl) &&
	       SSL_get_shutdown(conn->ssl) == 0; // in_init: in the middle of a ticket
}

void tls_native_take_over(struct tls_conn *conn)
{
	uint8_t secret[TLS_SECRET_MAX];
	struct tls_direction reading, writing;
	if (!may_take_over(conn))
		return;
	uint16_t suite = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(conn->ssl));
	memcpy(secret, conn->reading.secret, sizeof secret);
	int err = tls_direction_init(&reading, suite, secret, conn->records_read, false);
	if (err == 0) {
		memcpy(secret, conn->writing.secret, sizeof secret);
		err = tls_direction_init(&writing, suite, secret, conn->records_written, true);
		if (err)
			tls_direction_done(&reading);
	}
	OPENSSL_cleanse(secret, sizeof secret);
	if (err) { // OpenSSL goes on
		ERR_clear_error();
		return;
	}
	conn->reading = reading;
	conn->writing = writing;
	OPENSSL_cleanse(&reading, sizeof reading);
	OPENSSL_cleanse(&writing, sizeof writing);
	conn->native = true;
	SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(conn->ssl);
	conn->ssl = NULL;
}

// --- sending -------------------------------------------------------------------------------------

static int seal(struct tls_conn *conn, enum tls_record_type type, const struct iovec *pieces, int count,
		size_t len)
{
	uint8_t *record = tls_out_reserve(len + TLS_RECORD_OVERHEAD);
	if (!record)
		return tls_conn_fail(conn, -ENOMEM, err_text(-ENOMEM));
	struct iovec together = {record + TLS_RECORD_HEADER, len};
	if (len <= GATHERED) {
		uint8_t *to = together.iov_base;
		size_t left = len;
		for (int i = 0; i < count; i++) {
			size_t n = MIN(left, pieces[i].iov_len);
			to = mempcpy(to, pieces[i].iov_base, n);
			left -= n;
		}
		pieces = &together;
		count = 1;
	}
	int err = tls_record_seal(&conn->writing, type, pieces, count, len, record);
	if (err == 0)
		err = tls_out_commit(conn, record, len + TLS_RECORD_OVERHEAD);
	if (err == 0)
		return 0;
	ERR_clear_error();
	return tls_conn_fail(conn, err, err_text(err));
}

static int seal_bytes(struct tls_conn *conn, enum tls_record_type type, const void *bytes, size_t len)
{
	struct iovec piece = {(void *)bytes, len};
	return seal(conn, type, &piece, 1, len);
}

static int send_key_update(struct tls_conn *conn)
{
	const uint8_t message[] = {MESSAGE_KEY_UPDATE, 0, 0, 1, 0};
	int err = seal_bytes(conn, TLS_RECORD_HANDSHAKE, message, sizeof message);
	if (err == 0)
		err = tls_direction_update(&conn->writing);
	return err ? tls_conn_fail(conn, err, err_text(err)) : 0;
}

// Data in one record; the key is renewed long before it wears out.
static int send_data(struct tls_conn *conn, const struct iovec *pieces, int count, size_t len)
{
	if (unlikely(conn->writing.sequence >= REKEY_RECORDS)) {
		int err = send_key_update(conn);
		if (err)
			return err;
	}
	return seal(conn, TLS_RECORD_DATA, pieces, count, len);
}

int tls_native_write(struct tls_conn *conn, const uint8_t *bytes, size_t len)
{
	for (size_t at = 0, n; at < len; at += n) {
		n = MIN(len - at, (size_t)RECORD_FILL);
		struct iovec piece = {(void *)(bytes + at), n};
		int err = send_data(conn, &piece, 1, n);
		if (err)
			return err;
	}
	return (int)len;
}

int tls_native_write_queue(struct tls_conn *conn, struct bufq *queue)
{
	while (!bufq_empty(queue)) {
		struct iovec pieces[16];
		int count = bufq_iov(queue, pieces, (int)ARRAY_SIZE(pieces));
		size_t len = 0;
		for (int i = 0; i < count; i++)
			len += pieces[i].iov_len;
		len = MIN(len, (size_t)RECORD_FILL);
		int err = send_data(conn, pieces, count, len);
		if (err)
			return err;
		bufq_drop(queue, len);
	}
	return 0;
}

int tls_native_shutdown(struct tls_conn *conn)
{
	const uint8_t close_notify[] = {SSL3_AL_WARNING, SSL_AD_CLOSE_NOTIFY};
	return seal_bytes(conn, TLS_RECORD_ALERT, close_notify, sizeof close_notify);
}

// Says why to the peer, then fails.
static int fail_with_alert(struct tls_conn *conn, int err, uint8_t alert, const char *reason)
{
	const uint8_t fatal[] = {SSL3_AL_FATAL, alert};
	ERR_clear_error();
	if (!conn->shutdown_sent)
		seal_bytes(conn, TLS_RECORD_ALERT, fatal, sizeof fatal);
	return tls_conn_fail(conn, err, reason);
}

// --- receiving -----------------------------------------------------------------------------------

static int unexpected(struct tls_conn *conn)
{
	return fail_with_alert(conn, ERR_TLS, SSL_AD_UNEXPECTED_MESSAGE, "unexpected message");
}

static int on_key_update(struct tls_conn *conn, uint8_t request, bool ends_record)
{
	if (!ends_record)
		return unexpected(conn);
	if (request > 1)
		return fail_with_alert(conn, ERR_TLS, SSL_AD_ILLEGAL_PARAMETER, "malformed key update");
	int err = tls_direction_update(&conn->reading);
	if (err)
		return tls_conn_fail(conn, err, err_text(err));
	// Asked after our close_notify, there is nothing left to protect.
	return request && !conn->shutdown_sent ? send_key_update(conn) : 0;
}

// The head of a message is complete: only tickets (which come too late to be of use) and key updates may
// follow the handshake.
static int begin_message(struct tls_conn *conn)
{
	const uint8_t *head = conn->message;
	uint32_t len = (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
	bool ticket = head[0] == MESSAGE_TICKET && conn->side == TLS_CLIENT && len > 0 &&
		      len <= LIMIT_TLS_CERT_LIST * 2;
	bool update = head[0] == MESSAGE_KEY_UPDATE && len == 1;
	if (!ticket && !update)
		return unexpected(conn);
	conn->message_left = len;
	conn->extra_messages++;
	return 0;
}

static int on_handshake_bytes(struct tls_conn *conn, const uint8_t *bytes, size_t len)
{
	if (len == 0)
		return unexpected(conn);
	for (size_t at = 0; at < len;) {
		int err = 0;
		if (conn->message_len < sizeof conn->message) {
			conn->message[conn->message_len++] = bytes[at++];
			if (conn->message_len == sizeof conn->message)
				err = begin_message(conn);
		} else {
			size_t n = MIN(len - at, (size_t)conn->message_left);
			conn->message_left -= (uint32_t)n;
			at += n;
			if (conn->message_left == 0) {
				conn->message_len = 0;
				if (conn->message[0] == MESSAGE_KEY_UPDATE)
					err = on_key_update(conn, bytes[at - 1], at == len);
			}
		}
		if (err)
			return err;
	}
	return 0;
}

static int on_alert(struct tls_conn *conn, const uint8_t *bytes, size_t len)
{
	if (len != 2)
		return fail_with_alert(conn, ERR_TLS, SSL_AD_DECODE_ERROR, "malformed alert");
	if (bytes[1] == SSL_AD_CLOSE_NOTIFY) {
		conn->peer_closed = true;
		return 0;
	}
	if (bytes[1] == SSL_AD_USER_CANCELLED) {
		conn->extra_messages++;
		return 0;
	}
	return tls_conn_alerted(conn, bytes[1]);
}

// What came in a record other than data.
static int on_control(struct tls_conn *conn, uint8_t type, const uint8_t *bytes, size_t len)
{
	if (type != TLS_RECORD_HANDSHAKE && conn->message_len > 0)
		return unexpected(conn); // in the middle of a message
	if (type == TLS_RECORD_HANDSHAKE)
		return on_handshake_bytes(conn, bytes, len);
	if (type == TLS_RECORD_ALERT)
		return on_alert(conn, bytes, len);
	if (type != TLS_RECORD_DATA)
		return unexpected(conn);
	conn->extra_messages++; // a record without a byte
	return 0;
}

static int open_failed(struct tls_conn *conn, int err)
{
	if (err == ERR_MALFORMED)
		return unexpected(conn);
	if (err == ERR_LIMIT)
		return fail_with_alert(conn, ERR_TLS, SSL_AD_RECORD_OVERFLOW, "a record is too long");
	return fail_with_alert(conn, ERR_TLS, SSL_AD_BAD_RECORD_MAC,
			       "a record is not authentic (bad record mac)");
}

// Opens the first record of the input, which is there whole, into `to` (body - tag bytes of room) and drops
// it.
static int open_first(struct tls_conn *conn, const uint8_t header[TLS_RECORD_HEADER], size_t body,
		      uint8_t *to, size_t *ret_len, uint8_t *ret_type)
{
	struct iovec pieces[BODY_PIECES];
	struct slice flat;
	size_t have = 0;
	int count = 0;
	bufq_drop(&conn->in, TLS_RECORD_HEADER);
	int all = bufq_iov(&conn->in, pieces, BODY_PIECES);
	while (count < all && have < body)
		have += pieces[count++].iov_len;
	if (have < body) {
		if (bufq_flatten(&conn->in, &flat))
			return tls_conn_fail(conn, -ENOMEM, err_text(-ENOMEM));
		pieces[0] = (struct iovec){(void *)flat.p, body};
		count = 1;
		have = body;
	}
	pieces[count - 1].iov_len -= have - body;
	int err = tls_record_open(&conn->reading, header, pieces, count, body, to, ret_len, ret_type);
	bufq_drop(&conn->in, body);
	return err ? open_failed(conn, err) : 0;
}

// A record that is longer than the caller's room waits in conn->plain.
static int open_aside(struct tls_conn *conn, const uint8_t header[TLS_RECORD_HEADER], size_t body)
{
	size_t len = 0;
	uint8_t type = 0;
	struct chunk *chunk = chunk_new(0);
	if (!chunk)
		return -ENOMEM;
	int err = open_first(conn, header, body, chunk->data, &len, &type);
	if (err == 0 && type == TLS_RECORD_DATA && len > 0 && conn->message_len == 0) {
		chunk->used = (uint32_t)len;
		if (bufq_add_slice(&conn->plain, (struct slice){chunk, chunk->data, len}))
			err = tls_conn_fail(conn, -ENOMEM, err_text(-ENOMEM));
	} else if (err == 0) {
		err = on_control(conn, type, chunk->data, len);
	}
	chunk_unref(chunk);
	return err;
}

// One record: bytes for the caller (> 0), 0 when it held none, or an error.
static int read_record(struct tls_conn *conn, uint8_t *ret_bytes, size_t room)
{
	uint8_t header[TLS_RECORD_HEADER], type;
	size_t len;
	bufq_peek(&conn->in, 0, header, sizeof header);
	size_t body = (size_t)header[3] << 8 | header[4];
	if (header[0] != TLS_RECORD_DATA)
		return unexpected(conn);
	if (body > TLS_RECORD_BODY)
		return open_failed(conn, ERR_LIMIT);
	if (body <= TLS_RECORD_TAG)
		return open_failed(conn, ERR_TLS);
	if (body - TLS_RECORD_TAG > room) {
		int err = open_aside(conn, header, body);
		return err == 0 && !bufq_empty(&conn->plain) ? tls_conn_take_plain(conn, ret_bytes, room)
							     : err;
	}
	int err = open_first(conn, header, body, ret_bytes, &len, &type);
	if (err)
		return err;
	if (unlikely(type != TLS_RECORD_DATA || len == 0 || conn->message_len > 0))
		return on_control(conn, type, ret_bytes, len);
	conn->read_bytes += len;
	return (int)len;
}

int tls_native_read(struct tls_conn *conn, uint8_t *ret_bytes, size_t len)
{
	if (!bufq_empty(&conn->plain))
		return tls_conn_take_plain(conn, ret_bytes, len);
	while (!conn->peer_closed && tls_conn_whole_record(conn) > 0) {
		int n = read_record(conn, ret_bytes, len);
		if (n == 0 && conn->extra_messages > tls_conn_extra_allowed(conn))
			n = fail_with_alert(conn, ERR_LIMIT, SSL_AD_UNEXPECTED_MESSAGE,
					    TLS_TOO_MANY_MESSAGES);
		if (n)
			return n;
	}
	return tls_conn_read_nothing(conn);
}
