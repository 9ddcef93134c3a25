// SPDX-License-Identifier: Apache-2.0
// The ClientHello: one that OpenSSL makes, cut into records of every size and into prefixes of every length,
// and hand made ones that are wrong.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "codecs/registry.h"
#include "codecs/tls_hello.h"

#include <openssl/ssl.h>
#include <stdlib.h>

// What OpenSSL sends first: one record. `alpn` is the list as on the wire; both may be NULL.
static struct strbuf openssl_hello(const char *sni, const char *alpn)
{
	struct strbuf text = {0};
	char bytes[4096];
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(context);
	BIO *out = BIO_new(BIO_s_mem());
	SSL_set_bio(ssl, BIO_new(BIO_s_mem()), out);
	if (sni)
		SSL_set_tlsext_host_name(ssl, sni);
	if (alpn)
		assert_int_equal(
		    SSL_set_alpn_protos(ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn)), 0);
	SSL_set_connect_state(ssl);
	SSL_do_handshake(ssl);
	int len = BIO_read(out, bytes, sizeof bytes);
	assert_true(len > 50 && len < (int)sizeof bytes);
	strbuf_add_str(&text, (struct str){bytes, (size_t)len});
	SSL_free(ssl);
	SSL_CTX_free(context);
	return text;
}

static struct tls_hello hello;

static int parse_prefix(struct str bytes, size_t len)
{
	char *copy = malloc(len ? len : 1);
	memcpy(copy, bytes.p, len);
	int err = tls_hello_parse((struct str){copy, len}, &hello);
	free(copy);
	return err;
}

// Every prefix wants more; the whole gives `expected`, and so does the whole with bytes behind it.
static void check(struct str bytes, int expected)
{
	for (size_t len = 0; len < bytes.len; len++)
		assert_int_equal(parse_prefix(bytes, len), ERR_NEED_MORE);
	struct strbuf longer = {0};
	strbuf_add_str(&longer, bytes);
	strbuf_add_str(&longer, STR("\x14\x03\x03 more"));
	assert_int_equal(tls_hello_parse(strbuf_str(&longer), &hello), expected);
	strbuf_done(&longer);
	assert_int_equal(parse_prefix(bytes, bytes.len), expected);
}

static void test_openssl(void **state)
{
	(void)state;
	struct strbuf text = openssl_hello("Reviews.Mesh", "\x02h2\x08http/1.1");
	enum protocol protocol;
	const struct framed_codec *codec;
	assert_int_equal(detect(strbuf_str(&text), &detect_default, &protocol, &codec), 0);
	assert_int_equal(protocol, PROTOCOL_TLS);
	check(strbuf_str(&text), 0);
	assert_str(hello.sni, "Reviews.Mesh");
	assert_str(hello.alpn, "\x02h2\x08http/1.1");
	assert_true(tls_hello_offers(&hello, STR("h2")));
	assert_true(tls_hello_offers(&hello, STR("http/1.1")));
	assert_false(tls_hello_offers(&hello, STR("http/1")));
	assert_false(tls_hello_offers(&hello, STR("http/1.10")));
	assert_false(tls_hello_offers(&hello, STR("")));
	strbuf_done(&text);
}

static void test_without_names(void **state)
{
	(void)state;
	struct strbuf text = openssl_hello(NULL, NULL);
	memset(&hello, 0xff, sizeof hello);
	check(strbuf_str(&text), 0);
	assert_int_equal(hello.sni.len, 0);
	assert_int_equal(hello.alpn.len, 0);
	assert_false(tls_hello_offers(&hello, STR("h2")));
	strbuf_done(&text);
}

static void add_record(struct strbuf *out, struct str part)
{
	const char header[] = {0x16, 3, 1, (char)(part.len >> 8), (char)part.len};
	strbuf_add_str(out, (struct str){header, sizeof header});
	strbuf_add_str(out, part);
}

// RFC 8446 5.1: a message may span records.
static void test_every_record_size(void **state)
{
	(void)state;
	struct strbuf text = openssl_hello("reviews.mesh", "\x02h2");
	struct str message = {text.p + 5, text.len - 5};
	for (size_t size = 1; size <= message.len; size += size < 16 ? 1 : 61) {
		struct strbuf records = {0};
		for (size_t at = 0; at < message.len; at += size)
			add_record(&records, (struct str){message.p + at, MIN(size, message.len - at)});
		check(strbuf_str(&records), 0);
		assert_str(hello.sni, "reviews.mesh");
		assert_true(tls_hello_offers(&hello, STR("h2")));
		strbuf_done(&records);
	}
	strbuf_done(&text);
}

// A hello of one record with these extensions (with the length of their list in front).
static struct strbuf hand_made(struct str extensions)
{
	struct strbuf body = {0}, message = {0}, record = {0};
	char random[34] = {3, 3};
	strbuf_add_str(&body, (struct str){random, sizeof random});
	strbuf_add_str(
	    &body, STR("\x00\x00\x02\x13\x01\x01\x00")); // no session id, one cipher suite, null compression
	strbuf_add_str(&body, extensions);
	const char header[] = {1, 0, (char)(body.len >> 8), (char)body.len};
	strbuf_add_str(&message, (struct str){header, sizeof header});
	strbuf_add_str(&message, strbuf_str(&body));
	add_record(&record, strbuf_str(&message));
	strbuf_done(&body);
	strbuf_done(&message);
	return record;
}

static void check_extensions(struct str extensions, int expected, const char *sni, const char *alpn)
{
	struct strbuf record = hand_made(extensions);
	check(strbuf_str(&record), expected);
	if (expected == 0) {
		assert_str(hello.sni, sni);
		assert_str(hello.alpn, alpn);
	}
	strbuf_done(&record);
}

static void test_extensions(void **state)
{
	(void)state;
	check_extensions(STR(""), 0, "", ""); // as in TLS 1.0
	check_extensions(STR("\x00\x00"), 0, "", "");
	check_extensions(STR("\x00\x0a\x00\x00\x00\x06\x00\x04\x00\x00\x01\x61"), 0, "a", "");
	check_extensions(STR("\x00\x07\x00\x10\x00\x03\x00\x01\x78"), 0, "", "x");
	// A name of another type stands in front; an unknown extension behind.
	check_extensions(STR("\x00\x12\x00\x00\x00\x0a\x00\x08\x01\x00\x01z\x00\x00\x01\x61\x12\x34\x00\x00"),
			 0, "a", "");
	// Lengths inside one extension that are wrong leave that extension out.
	check_extensions(STR("\x00\x0a\x00\x00\x00\x06\x00\x04\x00\x00\x09\x61"), 0, "", "");
	check_extensions(STR("\x00\x07\x00\x10\x00\x03\x00\x09\x78"), 0, "", "");
	// Those of the list, or of an extension in it, are an error.
	check_extensions(STR("\x00\x09\x00\x10\x00\x03\x00\x01\x78"), ERR_MALFORMED, "", "");
	check_extensions(STR("\x00\x07\x00\x10\x00\x09\x00\x01\x78"), ERR_MALFORMED, "", "");
	check_extensions(STR("\x00"), ERR_MALFORMED, "", "");
	check_extensions(STR("\x00\x01\x00"), ERR_MALFORMED, "", "");
}

static void test_what_is_no_hello(void **state)
{
	(void)state;
	check(STR("\x16\x03\x01\x00\x04\x02\x00\x00\x00"), ERR_MALFORMED);		   // a ServerHello
	check(STR("\x16\x03\x01\x00\x04\x01\x00\x00\x00"), ERR_MALFORMED);		   // nothing in it
	check(STR("\x16\x03\x01\x00\x08\x01\x00\x00\x04\x03\x03\x00\x00"), ERR_MALFORMED); // half a random
	assert_int_equal(tls_hello_parse(STR("\x17\x03\x03\x00\x01\x00"), &hello),
			 ERR_MALFORMED); // application data
	assert_int_equal(tls_hello_parse(STR("\x16\x02\x01\x00\x01\x00"), &hello), ERR_MALFORMED);
	assert_int_equal(tls_hello_parse(STR("\x16\x03\x01\x00\x00"), &hello),
			 ERR_MALFORMED); // an empty record
	assert_int_equal(tls_hello_parse(STR("\x16\x03\x01\x00\x02\x01\x00\x15\x03\x01\x00\x02"), &hello),
			 ERR_MALFORMED); // an alert in between
	assert_int_equal(tls_hello_parse(STR("\x16\x03\x01\x40\x01\x01\x00\x00"), &hello), ERR_LIMIT);
	assert_int_equal(tls_hello_parse(STR("\x16\x03\x01\x00\x04\x01\x00\x40\x00"), &hello), ERR_LIMIT);
}

static void test_offers_with_a_broken_list(void **state)
{
	(void)state;
	hello.alpn = STR("\x02h2\x09short");
	assert_true(tls_hello_offers(&hello, STR("h2")));
	assert_false(tls_hello_offers(&hello, STR("short")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_openssl),	      cmocka_unit_test(test_without_names),
	    cmocka_unit_test(test_every_record_size), cmocka_unit_test(test_extensions),
	    cmocka_unit_test(test_what_is_no_hello),  cmocka_unit_test(test_offers_with_a_broken_list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
