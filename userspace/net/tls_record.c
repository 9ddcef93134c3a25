// SPDX-License-Identifier: Apache-2.0
#include "net/tls_record.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <string.h>

// RFC 8446, appendix B.4.
struct tls_suite {
	uint16_t number;
	uint8_t key_len, secret_len;
	const char *cipher_name;
	const EVP_MD *(*digest)(void);
};

static const struct tls_suite suites[] = {
    {0x1301, 16, 32, "AES-128-GCM", EVP_sha256},
    {0x1302, 32, 48, "AES-256-GCM", EVP_sha384},
    {0x1303, 32, 32, "ChaCha20-Poly1305", EVP_sha256},
};

// Fetched once: a fetch takes locks that all threads share.
static EVP_CIPHER *ciphers[ARRAY_SIZE(suites)];

static void fetch_ciphers(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++)
		ciphers[i] = EVP_CIPHER_fetch(NULL, suites[i].cipher_name, NULL);
}

static const struct tls_suite *suite_find(uint16_t number)
{
	for (size_t i = 0; i < ARRAY_SIZE(suites); i++)
		if (suites[i].number == number)
			return &suites[i];
	return NULL;
}

// --- keys ----------------------------------------------------------------------------------------

// HKDF-Expand-Label (section 7.1) without a context, for outputs of one block of the hash at most.
static int expand_label(const struct tls_suite *suite, const uint8_t *secret, const char *label, uint8_t *ret,
			size_t len)
{
	uint8_t info[64], block[EVP_MAX_MD_SIZE];
	size_t label_len = strlen(label), at = 0;
	info[at++] = 0;
	info[at++] = (uint8_t)len;
	info[at++] = (uint8_t)(6 + label_len);
	memcpy(info + at, "tls13 ", 6);
	memcpy(info + at + 6, label, label_len);
	at += 6 + label_len;
	info[at++] = 0; // no context
	info[at++] = 1; // the first and only block of HKDF-Expand
	if (!HMAC(suite->digest(), secret, suite->secret_len, info, at, block, NULL))
		return ERR_TLS;
	memcpy(ret, block, len);
	OPENSSL_cleanse(block, sizeof block);
	return 0;
}

static int take_keys(struct tls_direction *direction)
{
	const struct tls_suite *suite = direction->suite;
	uint8_t key[32];
	int err = expand_label(suite, direction->secret, "key", key, suite->key_len);
	if (err == 0)
		err = expand_label(suite, direction->secret, "iv", direction->iv, sizeof direction->iv);
	if (err == 0 && EVP_CipherInit_ex(direction->cipher, ciphers[suite - suites], NULL, key, NULL,
					  direction->seals) != 1)
		err = ERR_TLS;
	OPENSSL_cleanse(key, sizeof key);
	return err;
}

int tls_direction_init(struct tls_direction *direction, uint16_t number, const uint8_t *secret,
		       uint64_t sequence, bool seals)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, fetch_ciphers);
	const struct tls_suite *suite = suite_find(number);
	if (!suite || !ciphers[suite - suites])
		return ERR_UNSUPPORTED;
	*direction = (struct tls_direction){.suite = suite, .sequence = sequence, .seals = seals};
	memcpy(direction->secret, secret, suite->secret_len);
	direction->cipher = EVP_CIPHER_CTX_new();
	int err = direction->cipher ? take_keys(direction) : -ENOMEM;
	if (err)
		tls_direction_done(direction);
	return err;
}

int tls_direction_update(struct tls_direction *direction)
{
	uint8_t next[TLS_SECRET_MAX];
	int err = expand_label(direction->suite, direction->secret, "traffic upd", next,
			       direction->suite->secret_len);
	if (err == 0) {
		memcpy(direction->secret, next, direction->suite->secret_len);
		OPENSSL_cleanse(next, sizeof next);
		direction->sequence = 0;
		err = take_keys(direction);
	}
	return err;
}

void tls_direction_done(struct tls_direction *direction)
{
	EVP_CIPHER_CTX_free(direction->cipher);
	OPENSSL_cleanse(direction, sizeof *direction);
}

// --- records -------------------------------------------------------------------------------------

// Begins the AEAD for the next record: the nonce (section 5.3), then the header as additional data.
static bool begin(struct tls_direction *direction, const uint8_t header[TLS_RECORD_HEADER])
{
	uint8_t nonce[sizeof direction->iv];
	int ignored;
	memcpy(nonce, direction->iv, sizeof nonce);
	for (int i = 0; i < 8; i++)
		nonce[sizeof nonce - 1 - i] ^= (uint8_t)(direction->sequence >> (8 * i));
	direction->sequence++;
	return EVP_CipherInit_ex(direction->cipher, NULL, NULL, NULL, nonce, -1) == 1 &&
	       EVP_CipherUpdate(direction->cipher, NULL, &ignored, header, TLS_RECORD_HEADER) == 1;
}

// Runs the pieces through the cipher; false on failure.
static bool update_pieces(EVP_CIPHER_CTX *cipher, const struct iovec *pieces, int count, size_t len,
			  uint8_t **to)
{
	int done;
	for (int i = 0; i < count && len; i++) {
		size_t n = MIN(pieces[i].iov_len, len);
		if (EVP_CipherUpdate(cipher, *to, &done, pieces[i].iov_base, (int)n) != 1)
			return false;
		*to += done;
		len -= n;
	}
	return len == 0;
}

int tls_record_seal(struct tls_direction *direction, enum tls_record_type type, const struct iovec *pieces,
		    int count, size_t len, uint8_t *ret_record)
{
	size_t body = len + 1 + TLS_RECORD_TAG;
	uint8_t *to = ret_record + TLS_RECORD_HEADER, inner = (uint8_t)type;
	const uint8_t header[] = {TLS_RECORD_DATA, 3, 3, (uint8_t)(body >> 8), (uint8_t)body};
	int done;
	memcpy(ret_record, header, sizeof header);
	if (!begin(direction, header))
		return ERR_TLS;
	if (count == 1 && pieces[0].iov_base == to) { // in place: the type follows at once
		to[len] = inner;
		if (EVP_CipherUpdate(direction->cipher, to, &done, to, (int)len + 1) != 1)
			return ERR_TLS;
		to += done;
	} else {
		if (!update_pieces(direction->cipher, pieces, count, len, &to) ||
		    EVP_CipherUpdate(direction->cipher, to, &done, &inner, 1) != 1)
			return ERR_TLS;
		to += done;
	}
	if (EVP_CipherFinal_ex(direction->cipher, to, &done) != 1 ||
	    EVP_CIPHER_CTX_ctrl(direction->cipher, EVP_CTRL_AEAD_GET_TAG, TLS_RECORD_TAG, to + done) != 1)
		return ERR_TLS;
	return 0;
}

// The last `len` bytes of the pieces, in one block.
static void copy_tail(const struct iovec *pieces, int count, size_t len, uint8_t *ret_tail)
{
	while (len && count--) {
		size_t n = MIN(len, pieces[count].iov_len);
		memcpy(ret_tail + len - n,
		       (const uint8_t *)pieces[count].iov_base + pieces[count].iov_len - n, n);
		len -= n;
	}
}

// The type is the last byte that is not zero; zeros behind it are padding, which counts for the limit
// (section 5.4).
static int find_type(const uint8_t *plain, size_t len, size_t *ret_len, uint8_t *ret_type)
{
	if (len > TLS_RECORD_PLAIN + 1)
		return ERR_LIMIT;
	while (len && plain[len - 1] == 0)
		len--;
	if (len == 0)
		return ERR_MALFORMED;
	*ret_type = plain[len - 1];
	*ret_len = len - 1;
	return 0;
}

int tls_record_open(struct tls_direction *direction, const uint8_t header[TLS_RECORD_HEADER],
		    const struct iovec *pieces, int count, size_t len, uint8_t *ret_plain, size_t *ret_len,
		    uint8_t *ret_type)
{
	uint8_t tag[TLS_RECORD_TAG], *to = ret_plain;
	int done;
	if (len <= TLS_RECORD_TAG)
		return ERR_TLS;
	copy_tail(pieces, count, TLS_RECORD_TAG, tag);
	if (!begin(direction, header) ||
	    !update_pieces(direction->cipher, pieces, count, len - TLS_RECORD_TAG, &to) ||
	    EVP_CIPHER_CTX_ctrl(direction->cipher, EVP_CTRL_AEAD_SET_TAG, TLS_RECORD_TAG, tag) != 1 ||
	    EVP_CipherFinal_ex(direction->cipher, to, &done) != 1) {
		OPENSSL_cleanse(ret_plain, len - TLS_RECORD_TAG);
		return ERR_TLS;
	}
	return find_type(ret_plain, len - TLS_RECORD_TAG, ret_len, ret_type);
}
