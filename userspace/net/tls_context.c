// SPDX-License-Identifier: Apache-2.0
#include "net/tls_internal.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#else
#include <sys/auxv.h>
#endif

// What the construction of a context has at hand; `error` is the sentence for the user once something failed.
struct loader {
	struct tls_context *context;
	STACK_OF(X509) * chain; // our certificate, then those between it and the anchor
	STACK_OF(X509) * anchors;
	EVP_PKEY *key;
	X509_STORE *store;
	EVP_MD_CTX *digest; // of what was read, but for the key: the certificate names its public half
	struct strbuf error;
};

struct file {
	char *bytes;
	size_t len;
	mode_t mode;
};

static int refuse(struct loader *loader, const char *file, const char *reason)
{
	strbuf_clear(&loader->error);
	if (file)
		strbuf_printf(&loader->error, "%s: ", file);
	strbuf_add_text(&loader->error, reason);
	return ERR_CONFIG;
}

// The last reason that OpenSSL knows; the queue is empty then.
static const char *openssl_reason(void)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());
	ERR_clear_error();
	return reason ? reason : "OpenSSL failed";
}

// --- files ---------------------------------------------------------------------------------------

static int read_all(int fd, struct file *file)
{
	while (file->len <= LIMIT_TLS_FILE) {
		ssize_t n = read(fd, file->bytes + file->len, LIMIT_TLS_FILE + 1 - file->len);
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		file->len += (size_t)n;
	}
	return ERR_LIMIT;
}

static void file_done(struct file *file)
{
	if (file->bytes)
		OPENSSL_cleanse(file->bytes, file->len);
	mem_free(file->bytes);
	*file = (struct file){0};
}

static int file_open(const char *path, struct file *file)
{
	struct stat st;
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	file->mode = st.st_mode;
	file->bytes = mem_alloc(LIMIT_TLS_FILE + 1);
	return file->bytes ? read_all(fd, file) : -ENOMEM;
}

static int file_load(struct loader *loader, const char *path, struct file *ret_file)
{
	struct file file = {0};
	int err = file_open(path, &file);
	if (err) {
		file_done(&file);
		return err == -ENOMEM ? err : refuse(loader, path, err_text(err));
	}
	*ret_file = file;
	return 0;
}

// All certificates of a PEM file.
static int parse_certs(struct loader *loader, const char *path, const struct file *file,
		       STACK_OF(X509) * certs)
{
	BIO *bio = BIO_new_mem_buf(file->bytes, (int)file->len);
	X509 *cert;
	while (bio && sk_X509_num(certs) < LIMIT_TLS_ANCHORS &&
	       (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
		sk_X509_push(certs, cert);
	BIO_free(bio);
	unsigned long code = ERR_peek_last_error();
	bool at_end = ERR_GET_LIB(code) == ERR_LIB_PEM && ERR_GET_REASON(code) == PEM_R_NO_START_LINE;
	if (sk_X509_num(certs) == LIMIT_TLS_ANCHORS)
		return refuse(loader, path, "too many certificates");
	if (code && !at_end)
		return refuse(loader, path, openssl_reason());
	ERR_clear_error();
	return sk_X509_num(certs) > 0 ? 0 : refuse(loader, path, "no PEM certificate in it");
}

static void digest_add(struct loader *loader, const char *bytes, size_t len)
{
	EVP_DigestUpdate(loader->digest, &len, sizeof len);
	EVP_DigestUpdate(loader->digest, bytes, len);
}

static int load_certs(struct loader *loader, const char *path, STACK_OF(X509) * *ret_certs)
{
	struct file file;
	int err = file_load(loader, path, &file);
	if (err)
		return err;
	*ret_certs = sk_X509_new_null();
	digest_add(loader, path, strlen(path));
	digest_add(loader, file.bytes, file.len);
	err = *ret_certs ? parse_certs(loader, path, &file, *ret_certs) : -ENOMEM;
	file_done(&file);
	return err;
}

// A daemon has nobody to ask for a passphrase.
static int no_passphrase(char *buffer, int size, int writing, void *asked)
{
	(void)buffer, (void)size, (void)writing;
	*(bool *)asked = true;
	return -1;
}

static int load_key(struct loader *loader, const char *path)
{
	struct file file;
	bool asked = false;
	int err = file_load(loader, path, &file);
	if (err)
		return err;
	loader->context->info.key_exposed = file.mode & (S_IRGRP | S_IROTH);
	BIO *bio = BIO_new_mem_buf(file.bytes, (int)file.len);
	if (bio)
		loader->key = PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
	BIO_free(bio);
	file_done(&file);
	ERR_clear_error();
	if (loader->key)
		return 0;
	return refuse(loader, path,
		      asked ? "the key is encrypted: store it without a passphrase"
			    : "no PEM private key in it");
}

// --- what is shown -------------------------------------------------------------------------------

static const char *keep(struct loader *loader, const char *text, size_t len)
{
	const char *copy = arena_strdup(&loader->context->arena, text, len);
	return copy ? copy : "";
}

static int64_t unix_time(const ASN1_TIME *time)
{
	struct tm tm;
	return ASN1_TIME_to_tm(time, &tm) == 1 ? timegm(&tm) : 0;
}

static void fingerprint(const X509 *cert, char ret_hex[65])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	X509_digest(cert, EVP_sha256(), digest, &len);
	for (unsigned i = 0; i < 32 && i < len; i++) {
		ret_hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
		ret_hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
	}
	ret_hex[64] = 0;
}

static const char *name_text(struct loader *loader, const X509_NAME *name)
{
	const char *text = "";
	char *bytes;
	BIO *bio = BIO_new(BIO_s_mem());
	if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) >= 0) {
		long len = BIO_get_mem_data(bio, &bytes);
		text = keep(loader, bytes, len > 0 ? (size_t)len : 0);
	}
	BIO_free(bio);
	return text;
}

static const char *serial_text(struct loader *loader, const X509 *cert)
{
	BIGNUM *number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
	char *hex = number ? BN_bn2hex(number) : NULL;
	const char *text = hex ? keep(loader, hex, strlen(hex)) : "";
	OPENSSL_free(hex);
	BN_free(number);
	return text;
}

static const char *key_text(struct loader *loader)
{
	char group[64] = "", text[128];
	int len;
	if (EVP_PKEY_get_group_name(loader->key, group, sizeof group, NULL) == 1)
		len = snprintf(text, sizeof text, "%s %s", EVP_PKEY_get0_type_name(loader->key), group);
	else
		len = snprintf(text, sizeof text, "%s %d", EVP_PKEY_get0_type_name(loader->key),
			       EVP_PKEY_get_bits(loader->key));
	ERR_clear_error();
	return keep(loader, text, (size_t)len);
}

static const char *anchor_domain(struct loader *loader, X509 *anchor)
{
	GENERAL_NAMES *names;
	struct str id;
	if (tls_cert_id(anchor, false, &names, &id))
		return NULL;
	struct str domain = tls_id_domain(id);
	const char *text = keep(loader, domain.p, domain.len);
	GENERAL_NAMES_free(names);
	return text;
}

static int describe_anchors(struct loader *loader)
{
	struct tls_cert_info *info = &loader->context->info;
	size_t count = (size_t)sk_X509_num(loader->anchors);
	info->anchors = arena_alloc(&loader->context->arena, count * sizeof *info->anchors);
	if (!info->anchors)
		return -ENOMEM;
	info->anchor_count = count;
	for (size_t i = 0; i < count; i++) {
		X509 *cert = sk_X509_value(loader->anchors, (int)i);
		struct tls_anchor_info *anchor = &info->anchors[i];
		anchor->subject = name_text(loader, X509_get_subject_name(cert));
		anchor->domain = anchor_domain(loader, cert);
		anchor->not_before = unix_time(X509_get0_notBefore(cert));
		anchor->not_after = unix_time(X509_get0_notAfter(cert));
		fingerprint(cert, anchor->fingerprint);
	}
	return 0;
}

static int describe(struct loader *loader)
{
	struct tls_cert_info *info = &loader->context->info;
	X509 *cert = sk_X509_value(loader->chain, 0);
	info->issuer = name_text(loader, X509_get_issuer_name(cert));
	info->serial = serial_text(loader, cert);
	info->key_type = key_text(loader);
	info->not_before = unix_time(X509_get0_notBefore(cert));
	info->not_after = unix_time(X509_get0_notAfter(cert));
	fingerprint(cert, info->fingerprint);
	return describe_anchors(loader);
}

// --- our own certificate -------------------------------------------------------------------------

static int take_identity(struct loader *loader)
{
	struct tls_context *context = loader->context;
	GENERAL_NAMES *names;
	struct str id;
	if (tls_cert_id(sk_X509_value(loader->chain, 0), true, &names, &id))
		return refuse(
		    loader, context->info.certificate_file,
		    "the certificate has no SPIFFE id (spiffe://trust-domain/path) as its only URI name");
	context->info.id = arena_strdup(&context->arena, id.p, id.len);
	GENERAL_NAMES_free(names);
	if (!context->info.id)
		return -ENOMEM;
	context->domain = tls_id_domain(str_from(context->info.id));
	return 0;
}

static int refuse_date(struct loader *loader, const char *what, const ASN1_TIME *when)
{
	struct tm tm = {0};
	char text[128], date[32];
	ASN1_TIME_to_tm(when, &tm);
	strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &tm);
	snprintf(text, sizeof text, "%s %s", what, date);
	return refuse(loader, loader->context->info.certificate_file, text);
}

static int check_dates(struct loader *loader)
{
	X509 *cert = sk_X509_value(loader->chain, 0);
	const ASN1_TIME *begin = X509_get0_notBefore(cert), *end = X509_get0_notAfter(cert);
	if (X509_cmp_current_time(begin) >= 0)
		return refuse_date(loader, "the certificate is not valid before", begin);
	if (X509_cmp_current_time(end) <= 0)
		return refuse_date(loader, "the certificate expired on", end);
	return 0;
}

// Whether peers that have the same bundle would accept us in the given role.
static int check_chain(struct loader *loader, int purpose, const char *role)
{
	char text[256];
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	if (!store ||
	    !X509_STORE_CTX_init(store, loader->store, sk_X509_value(loader->chain, 0), loader->chain)) {
		X509_STORE_CTX_free(store);
		return -ENOMEM;
	}
	X509_STORE_CTX_set_purpose(store, purpose);
	X509_STORE_CTX_set_depth(store, LIMIT_TLS_CHAIN);
	int accepted = X509_verify_cert(store);
	int reason = X509_STORE_CTX_get_error(store);
	X509_STORE_CTX_free(store);
	ERR_clear_error();
	if (accepted == 1)
		return 0;
	snprintf(text, sizeof text, "the certificate does not verify as a %s's against %s: %s", role,
		 loader->context->info.trust_file, X509_verify_cert_error_string(reason));
	return refuse(loader, loader->context->info.certificate_file, text);
}

static int make_store(struct loader *loader)
{
	loader->store = X509_STORE_new();
	if (!loader->store)
		return -ENOMEM;
	// Whatever the bundle names is an anchor, whether it signed itself or not.
	X509_STORE_set_flags(loader->store, X509_V_FLAG_PARTIAL_CHAIN);
	for (int i = 0; i < sk_X509_num(loader->anchors); i++)
		if (X509_STORE_add_cert(loader->store, sk_X509_value(loader->anchors, i)) != 1)
			return refuse(loader, loader->context->info.trust_file, openssl_reason());
	return 0;
}

static int check_own(struct loader *loader)
{
	const struct tls_cert_info *info = &loader->context->info;
	X509 *cert = sk_X509_value(loader->chain, 0);
	if (X509_check_private_key(cert, loader->key) != 1) {
		ERR_clear_error();
		return refuse(loader, info->private_key_file, "the key does not belong to the certificate");
	}
	int err = check_dates(loader);
	if (err == 0)
		err = check_chain(loader, X509_PURPOSE_SSL_SERVER, "server");
	if (err == 0)
		err = check_chain(loader, X509_PURPOSE_SSL_CLIENT, "client");
	return err;
}

// --- the SSL_CTXs --------------------------------------------------------------------------------

static bool has_aes_instructions(void)
{
#if defined(__x86_64__)
	unsigned a, b, c, d;
	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AES) && (c & bit_PCLMUL);
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & (1 << 3); // HWCAP_AES
#else
	return false;
#endif
}

#define TLS13_AES    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"
#define TLS13_CHACHA "TLS_CHACHA20_POLY1305_SHA256"
#define TLS12_AES                                                                                            \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"                                         \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"
#define TLS12_CHACHA "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"

static bool set_algorithms(SSL_CTX *ctx)
{
	bool aes = has_aes_instructions();
	return SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) == 1 &&
	       SSL_CTX_set_ciphersuites(ctx, aes ? TLS13_AES ":" TLS13_CHACHA : TLS13_CHACHA ":" TLS13_AES) ==
		   1 &&
	       SSL_CTX_set_cipher_list(ctx, aes ? TLS12_AES ":" TLS12_CHACHA : TLS12_CHACHA ":" TLS12_AES) ==
		   1 &&
	       SSL_CTX_set1_groups_list(ctx, "X25519:P-256") == 1 &&
	       SSL_CTX_set1_sigalgs_list(ctx,
					 "ECDSA+SHA256:ECDSA+SHA384:ed25519:RSA-PSS+SHA256:RSA-PSS+SHA384:"
					 "RSA+SHA256:RSA+SHA384") == 1;
}

static bool set_certificate(SSL_CTX *ctx, const struct loader *loader)
{
	if (SSL_CTX_use_certificate(ctx, sk_X509_value(loader->chain, 0)) != 1 ||
	    SSL_CTX_use_PrivateKey(ctx, loader->key) != 1)
		return false;
	for (int i = 1; i < sk_X509_num(loader->chain); i++)
		if (SSL_CTX_add1_chain_cert(ctx, sk_X509_value(loader->chain, i)) != 1)
			return false;
	return true;
}

// How much an offered protocol is wanted; 0: not at all.
static int alpn_rank(const struct tls_conn *conn, struct str name)
{
	if (str_eq(name, STR(TLS_ALPN_TRANSPORT)))
		return 3;
	if (tls_alpn_is_mesh(name))
		return 2;
	return conn->alpn.len && str_eq(name, conn->alpn);
}

// The transport or our own mark if the client offers it, else what the connection's rules name; other
// protocols are agreed on without ALPN.
static int select_alpn(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_len,
		       const unsigned char *offered, unsigned len, void *arg)
{
	const struct tls_conn *conn = SSL_get_app_data(ssl);
	int best = 0;
	(void)arg;
	for (unsigned at = 0; at < len && at + 1 + offered[at] <= len; at += 1 + offered[at]) {
		int rank = alpn_rank(conn, (struct str){(const char *)offered + at + 1, offered[at]});
		if (rank <= best)
			continue;
		best = rank;
		*ret_name = offered + at + 1;
		*ret_len = offered[at];
	}
	return best ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

static bool set_side(SSL_CTX *ctx, enum tls_side side)
{
	static const unsigned char mark[] = "\x06" TLS_ALPN_MESH;
	unsigned char session_context[16];
	if (side == TLS_CLIENT)
		return SSL_CTX_set_alpn_protos(ctx, mark, sizeof mark - 1) == 0;
	SSL_CTX_set_alpn_select_cb(ctx, select_alpn, NULL);
	return random_secret(session_context, sizeof session_context) == 0 &&
	       SSL_CTX_set_session_id_context(ctx, session_context, sizeof session_context) == 1 &&
	       SSL_CTX_set_num_tickets(ctx, 1) == 1;
}

enum { SESSION_SECONDS = 3600, OUR_MODE = SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN };

static SSL_CTX *make_side(struct loader *loader, enum tls_side side)
{
	SSL_CTX *ctx = SSL_CTX_new(side == TLS_SERVER ? TLS_server_method() : TLS_client_method());
	if (!ctx)
		return NULL;
	SSL_CTX_set_security_level(ctx, 2);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
				     SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_mode(ctx, OUR_MODE);
	SSL_CTX_set_max_cert_list(ctx, LIMIT_TLS_CERT_LIST);
	SSL_CTX_set_timeout(ctx, SESSION_SECONDS);
	SSL_CTX_set1_cert_store(ctx, loader->store);
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_verify_depth(ctx, LIMIT_TLS_CHAIN);
	SSL_CTX_set_cert_verify_callback(ctx, tls_peer_verify, NULL);
	tls_conn_hook(ctx, side);
	if (set_algorithms(ctx) && set_side(ctx, side) && set_certificate(ctx, loader))
		return ctx;
	SSL_CTX_free(ctx);
	return NULL;
}

static int make_sides(struct loader *loader)
{
	for (enum tls_side side = TLS_SERVER; side <= TLS_CLIENT; side++) {
		loader->context->sides[side] = make_side(loader, side);
		if (!loader->context->sides[side])
			return refuse(loader, loader->context->info.certificate_file, openssl_reason());
	}
	return 0;
}

// --- life ----------------------------------------------------------------------------------------

static int take_options(struct tls_context *context, const struct tls_options *options)
{
	struct tls_cert_info *info = &context->info;
	info->certificate_file =
	    arena_strdup(&context->arena, options->certificate.p, options->certificate.len);
	info->private_key_file =
	    arena_strdup(&context->arena, options->private_key.p, options->private_key.len);
	info->trust_file = arena_strdup(&context->arena, options->trust.p, options->trust.len);
	if (!info->certificate_file || !info->private_key_file || !info->trust_file)
		return -ENOMEM;
	return tls_patterns_copy(options->allow, options->allow_count, &context->allow);
}

static int finish_digest(struct loader *loader)
{
	const struct tls_patterns *allow = &loader->context->allow;
	digest_add(loader, loader->context->info.private_key_file,
		   strlen(loader->context->info.private_key_file));
	for (size_t i = 0; i < allow->count; i++)
		digest_add(loader, allow->list[i].p, allow->list[i].len);
	return EVP_DigestFinal_ex(loader->digest, loader->context->digest, NULL) == 1 ? 0 : -ENOMEM;
}

static int context_load(struct loader *loader)
{
	const struct tls_cert_info *info = &loader->context->info;
	loader->digest = EVP_MD_CTX_new();
	if (!loader->digest || EVP_DigestInit_ex(loader->digest, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	int err = load_certs(loader, info->certificate_file, &loader->chain);
	if (err == 0)
		err = load_key(loader, info->private_key_file);
	if (err == 0)
		err = load_certs(loader, info->trust_file, &loader->anchors);
	if (err == 0)
		err = finish_digest(loader);
	if (err == 0)
		err = take_identity(loader);
	if (err == 0)
		err = describe(loader);
	if (err == 0)
		err = make_store(loader);
	if (err == 0)
		err = check_own(loader);
	return err ? err : make_sides(loader);
}

static void loader_done(struct loader *loader)
{
	sk_X509_pop_free(loader->chain, X509_free);
	sk_X509_pop_free(loader->anchors, X509_free);
	EVP_PKEY_free(loader->key);
	X509_STORE_free(loader->store);
	EVP_MD_CTX_free(loader->digest);
	strbuf_done(&loader->error);
}

int tls_context_new(const struct tls_options *options, struct tls_context **ret_context, char **ret_error)
{
	static atomic_uint_fast64_t serials;
	struct tls_context *context = mem_zalloc(sizeof *context);
	if (!context)
		return -ENOMEM;
	context->refs = 1;
	context->serial = atomic_fetch_add(&serials, 1) + 1;
	struct loader loader = {.context = context};
	int err = take_options(context, options);
	if (err == 0)
		err = context_load(&loader);
	if (err == 0) {
		*ret_context = context;
	} else {
		char *error = err == ERR_CONFIG ? strbuf_take(&loader.error) : NULL;
		tls_context_unref(context);
		if (err == ERR_CONFIG && !error)
			err = -ENOMEM;
		if (error)
			*ret_error = error;
	}
	loader_done(&loader);
	return err;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
	atomic_fetch_add_explicit(&context->refs, 1, memory_order_relaxed);
	return context;
}

void tls_context_unref(struct tls_context *context)
{
	if (!context || atomic_fetch_sub_explicit(&context->refs, 1, memory_order_acq_rel) != 1)
		return;
	SSL_CTX_free(context->sides[TLS_SERVER]);
	SSL_CTX_free(context->sides[TLS_CLIENT]);
	tls_patterns_done(&context->allow);
	arena_done(&context->arena);
	mem_free(context);
}

bool tls_context_same(const struct tls_context *a, const struct tls_context *b)
{
	return memcmp(a->digest, b->digest, sizeof a->digest) == 0;
}

const struct tls_cert_info *tls_context_describe(const struct tls_context *context)
{
	return &context->info;
}
