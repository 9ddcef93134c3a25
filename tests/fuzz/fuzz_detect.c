// SPDX-License-Identifier: Apache-2.0
// Any first bytes of a connection: the answer for a prefix is "more", or that for the whole; and a
// ClientHello is read the same at every way of arriving.
#include "check.h"

#include "base/error.h"
#include "codecs/registry.h"
#include "codecs/tls_hello.h"

static int detect_prefix(struct str bytes, size_t len, enum protocol *ret_protocol)
{
	char *copy = exact_copy(bytes.p, len);
	const struct framed_codec *codec;
	int err = detect((struct str){copy, len}, &detect_default, ret_protocol, &codec);
	free(copy);
	return err;
}

static void check_detection(struct str bytes)
{
	enum protocol whole = PROTOCOL_UNKNOWN;
	int err = detect_prefix(bytes, bytes.len, &whole);
	CHECK(err == ERR_NEED_MORE || (err == 0 && whole != PROTOCOL_UNKNOWN));
	bool decided = false;
	for (size_t len = 0; len < bytes.len && len < 512; len++) {
		enum protocol part = PROTOCOL_UNKNOWN;
		int part_err = detect_prefix(bytes, len, &part);
		CHECK(part_err == 0 ? err == 0 && part == whole : part_err == ERR_NEED_MORE && !decided);
		decided = part_err == 0;
	}
}

static bool lies_in(struct str part, const struct tls_hello *hello)
{
	const char *start = (const char *)hello->_bytes;
	return part.len == 0 || (part.p >= start && part.p + part.len <= start + sizeof hello->_bytes);
}

static void check_hello(struct str bytes)
{
	static struct tls_hello whole, part;
	char *copy = exact_copy(bytes.p, bytes.len);
	int err = tls_hello_parse((struct str){copy, bytes.len}, &whole);
	free(copy);
	if (err == 0) {
		CHECK(whole.sni.len <= 255 && lies_in(whole.sni, &whole) && lies_in(whole.alpn, &whole));
		tls_hello_offers(&whole, STR("h2"));
	}
	size_t step = bytes.len < 512 ? 1 : bytes.len / 128;
	for (size_t len = 0; len < bytes.len; len += step) {
		copy = exact_copy(bytes.p, len);
		int part_err = tls_hello_parse((struct str){copy, len}, &part);
		free(copy);
		CHECK(part_err == ERR_NEED_MORE || part_err == err);
		CHECK(part_err != 0 || (str_eq(part.sni, whole.sni) && str_eq(part.alpn, whole.alpn)));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = {(const char *)data, size};
	check_detection(bytes);
	check_hello(bytes);
	return 0;
}
