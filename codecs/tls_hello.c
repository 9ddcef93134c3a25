// SPDX-License-Identifier: Apache-2.0
#include "codecs/tls_hello.h"

#include "base/cursor.h"
#include "base/error.h"

enum { RECORD_HANDSHAKE = 22, CLIENT_HELLO = 1, EXTENSION_SNI = 0, EXTENSION_ALPN = 16, NAME_HOST = 0 };

// Takes the handshake message out of its records (RFC 8446 5.1 lets it span several). 0 with its body in
// `bytes`, or an error.
static int assemble(struct str wire, uint8_t bytes[LIMIT_TLS_HELLO], size_t *ret_len)
{
	struct reader records;
	size_t have = 0, need = 4;
	reader_init(&records, wire.p, wire.len);
	while (have < need) {
		uint8_t type = reader_u8(&records), major = reader_u8(&records);
		reader_skip(&records, 1);
		uint16_t len = reader_u16(&records);
		if (records.err)
			return ERR_NEED_MORE;
		if (type != RECORD_HANDSHAKE || major != 3 || len == 0)
			return ERR_MALFORMED;
		size_t part = len < reader_remaining(&records) ? len : reader_remaining(&records);
		if (have + len > LIMIT_TLS_HELLO)
			return ERR_LIMIT;
		reader_copy(&records, bytes + have, part);
		have += part;
		if (have >= 4)
			need = 4 + ((size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3]);
		if (need > LIMIT_TLS_HELLO)
			return ERR_LIMIT;
		if (part < len && have < need)
			return ERR_NEED_MORE;
	}
	*ret_len = need;
	return bytes[0] == CLIENT_HELLO ? 0 : ERR_MALFORMED;
}

static struct str server_name(struct reader extension)
{
	struct reader names = reader_sub(&extension, reader_u16(&extension));
	while (!names.err && reader_remaining(&names)) {
		uint8_t type = reader_u8(&names);
		struct str name = reader_bytes(&names, reader_u16(&names));
		if (!names.err && type == NAME_HOST && name.len <= 255)
			return name;
	}
	return STR("");
}

static struct str protocol_list(struct reader extension)
{
	struct str list = reader_bytes(&extension, reader_u16(&extension));
	return extension.err ? STR("") : list;
}

static void take_extensions(struct reader *hello, struct tls_hello *ret_hello)
{
	struct reader extensions = reader_sub(hello, reader_u16(hello));
	while (!extensions.err && reader_remaining(&extensions)) {
		uint16_t type = reader_u16(&extensions);
		struct reader body = reader_sub(&extensions, reader_u16(&extensions));
		if (extensions.err)
			hello->err = extensions.err;
		else if (type == EXTENSION_SNI)
			ret_hello->sni = server_name(body);
		else if (type == EXTENSION_ALPN)
			ret_hello->alpn = protocol_list(body);
	}
}

int tls_hello_parse(struct str bytes, struct tls_hello *ret_hello)
{
	struct reader hello;
	size_t len;
	int err = assemble(bytes, ret_hello->_bytes, &len);
	if (err)
		return err;
	ret_hello->sni = ret_hello->alpn = STR("");
	reader_init(&hello, ret_hello->_bytes + 4, len - 4);
	reader_skip(&hello, 2 + 32);		 // legacy_version, random
	reader_skip(&hello, reader_u8(&hello));	 // legacy_session_id
	reader_skip(&hello, reader_u16(&hello)); // cipher_suites
	reader_skip(&hello, reader_u8(&hello));	 // legacy_compression_methods
	if (!hello.err && reader_remaining(&hello))
		take_extensions(&hello, ret_hello);
	return hello.err ? ERR_MALFORMED : 0;
}

bool tls_hello_offers(const struct tls_hello *hello, struct str protocol)
{
	struct reader list;
	reader_init(&list, hello->alpn.p, hello->alpn.len);
	while (!list.err && reader_remaining(&list)) {
		struct str name = reader_bytes(&list, reader_u8(&list));
		if (!list.err && str_eq(name, protocol))
			return true;
	}
	return false;
}
