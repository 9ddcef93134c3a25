// SPDX-License-Identifier: Apache-2.0
// A peer that has the right keys sends what it likes: records of any type and content, honestly sealed, or
// any bytes at all.
#include "net/tls_internal.h"

#include "base/mem.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tls_conn *conn_make(enum tls_side side, struct tls_direction *ret_peer)
{
	static const uint8_t secret[TLS_SECRET_MAX];
	struct tls_conn *conn = mem_zalloc(sizeof *conn);
	if (!conn || tls_direction_init(&conn->reading, 0x1301, secret, 0, false) ||
	    tls_direction_init(&conn->writing, 0x1301, secret, 0, true) ||
	    tls_direction_init(ret_peer, 0x1301, secret, 0, true))
		abort();
	conn->side = side;
	conn->done = conn->native = true;
	conn->version = conn->cipher = "-";
	return conn;
}

// Feeds a copy that ends where its memory does, so that the sanitizer sees each byte too many.
static void feed(struct tls_conn *conn, const uint8_t *bytes, size_t len)
{
	struct chunk *chunk = chunk_new(len);
	if (!chunk)
		abort();
	memcpy(chunk->data, bytes, len);
	chunk->used = (uint32_t)len;
	if (tls_conn_feed(conn, (struct slice){chunk, chunk->data, len}))
		abort();
	chunk_unref(chunk);
}

static void feed_sealed(struct tls_conn *conn, struct tls_direction *peer, uint8_t type, const uint8_t *bytes,
			size_t len)
{
	uint8_t record[256 + TLS_RECORD_OVERHEAD];
	struct iovec piece = {(void *)bytes, len};
	if (tls_record_seal(peer, type, &piece, 1, len, record))
		abort();
	feed(conn, record, 3);
	feed(conn, record + 3, len + TLS_RECORD_OVERHEAD - 3);
}

// Each step is a kind, a length, and so many bytes.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tls_direction peer;
	if (size == 0)
		return 0;
	struct tls_conn *conn = conn_make(data[0] & 1, &peer);
	size_t room = data[0] >> 1;
	for (size_t at = 1; at + 2 <= size;) {
		uint8_t kind = data[at], got[256];
		size_t len = MIN((size_t)data[at + 1], size - at - 2);
		const uint8_t *bytes = data + at + 2;
		at += 2 + len;
		if (kind & 0x80)
			feed(conn, bytes, len);
		else
			feed_sealed(conn, &peer, kind, bytes, len);
		int n;
		while ((n = tls_conn_read(conn, got, room + 1)) > 0)
			if ((size_t)n > room + 1)
				abort();
		if (!conn->err && !conn->shutdown_sent && kind == 0x7f)
			tls_conn_shutdown(conn);
		bufq_clear(tls_conn_out(conn));
	}
	tls_direction_done(&peer);
	tls_conn_free(conn);
	return 0;
}
