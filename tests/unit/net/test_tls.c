// SPDX-License-Identifier: Apache-2.0
#include "net/tls_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "net/tls_certs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <openssl/err.h>

// --- a folder of certificates --------------------------------------------------------------------
static char dir[64];
static struct test_cert ca, other_ca, domain_ca;

static void issue(const char *name, const struct test_cert_options *options)
{
	struct test_cert made = test_cert_make(name, options);
	test_cert_write(&made, dir, name, NULL);
	test_cert_free(&made);
}

static void issue_chain(void)
{
	struct test_cert middle =
	    test_cert_make("middle", &(struct test_cert_options){.ca = 1, .issuer = &ca});
	struct test_cert leaf = test_cert_make(
	    "chained", &(struct test_cert_options){.issuer = &middle, .names = "URI:spiffe://mesh/chained"});
	test_cert_write(&leaf, dir, "chained", middle.cert);
	test_cert_free(&leaf);
	test_cert_free(&middle);
}

static int setup_all(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/weir-test-tls-XXXXXX");
	assert_non_null(mkdtemp(dir));
	ca = test_cert_make("test CA", &(struct test_cert_options){.ca = 1});
	other_ca = test_cert_make("other CA", &(struct test_cert_options){.ca = 1});
	domain_ca =
	    test_cert_make("domain CA", &(struct test_cert_options){.ca = 1, .names = "URI:spiffe://mesh"});
	test_cert_write(&ca, dir, "ca", NULL);
	test_cert_write(&other_ca, dir, "other-ca", NULL);
	test_cert_write(&domain_ca, dir, "domain-ca", NULL);
	test_cert_write(&ca, dir, "both-ca", other_ca.cert);
	issue("a", &(struct test_cert_options){.issuer = &ca, .names = "URI:spiffe://mesh/ns/default/sa/a"});
	issue("b",
	      &(struct test_cert_options){.issuer = &ca, .names = "DNS:b,URI:spiffe://mesh/ns/default/sa/b"});
	issue("stranger",
	      &(struct test_cert_options){.issuer = &other_ca, .names = "URI:spiffe://mesh/ns/default/sa/a"});
	issue("expired", &(struct test_cert_options){
			     .issuer = &ca, .names = "URI:spiffe://mesh/old", .begin = -7200, .end = -60});
	issue("early", &(struct test_cert_options){
			   .issuer = &ca, .names = "URI:spiffe://mesh/new", .begin = 3600, .end = 7200});
	issue("nameless", &(struct test_cert_options){.issuer = &ca, .names = "DNS:plain.example"});
	issue("twofold", &(struct test_cert_options){.issuer = &ca,
						     .names = "URI:spiffe://mesh/one,URI:spiffe://mesh/two"});
	issue("webserver", &(struct test_cert_options){
			       .issuer = &ca, .names = "URI:spiffe://mesh/web", .usage = "serverAuth"});
	issue("authority",
	      &(struct test_cert_options){.issuer = &ca, .ca = 1, .names = "URI:spiffe://mesh/ca"});
	issue("foreign", &(struct test_cert_options){.issuer = &ca, .names = "URI:spiffe://elsewhere/a"});
	issue("in-domain",
	      &(struct test_cert_options){.issuer = &domain_ca, .names = "URI:spiffe://mesh/in"});
	issue("out-of-domain",
	      &(struct test_cert_options){.issuer = &domain_ca, .names = "URI:spiffe://elsewhere/a"});
	issue_chain();
	return 0;
}

static int teardown_all(void **state)
{
	(void)state;
	char command[128];
	test_cert_free(&ca);
	test_cert_free(&other_ca);
	test_cert_free(&domain_ca);
	tls_thread_done();
	buf_thread_done();
	arena_thread_done();
	snprintf(command, sizeof command, "rm -r %s", dir);
	return system(command);
}

// --- contexts and pairs --------------------------------------------------------------------------
static int context_try(const char *cert, const char *key, const char *trust, struct tls_context **ret_context,
		       char **ret_error)
{
	char paths[3][128];
	snprintf(paths[0], sizeof paths[0], "%s/%s.pem", dir, cert);
	snprintf(paths[1], sizeof paths[1], "%s/%s.key", dir, key);
	snprintf(paths[2], sizeof paths[2], "%s/%s.pem", dir, trust);
	struct tls_options options = {str_from(paths[0]), str_from(paths[1]), str_from(paths[2]), NULL, 0};
	return tls_context_new(&options, ret_context, ret_error);
}

static struct tls_context *context_allow(const char *name, const char *trust, const struct str *allow,
					 size_t count)
{
	char paths[3][128];
	struct tls_context *context;
	char *error = NULL;
	snprintf(paths[0], sizeof paths[0], "%s/%s.pem", dir, name);
	snprintf(paths[1], sizeof paths[1], "%s/%s.key", dir, name);
	snprintf(paths[2], sizeof paths[2], "%s/%s.pem", dir, trust);
	struct tls_options options = {str_from(paths[0]), str_from(paths[1]), str_from(paths[2]), allow,
				      count};
	if (tls_context_new(&options, &context, &error))
		fail_msg("%s", error);
	return context;
}

static struct tls_context *context(const char *name)
{
	return context_allow(name, "ca", NULL, 0);
}

// A context with the files of `name` but the certificate of `show`: peers that our own checks would not let
// start.
static struct tls_context *context_showing(const char *name, const char *show)
{
	char path[128];
	struct tls_context *made = context(name);
	for (int side = 0; side < 2; side++) {
		snprintf(path, sizeof path, "%s/%s.pem", dir, show);
		assert_int_equal(SSL_CTX_use_certificate_chain_file(made->sides[side], path), 1);
		snprintf(path, sizeof path, "%s/%s.key", dir, show);
		assert_int_equal(SSL_CTX_use_PrivateKey_file(made->sides[side], path, SSL_FILETYPE_PEM), 1);
	}
	return made;
}

struct pair {
	struct tls_conn *client, *server;
	int client_err, server_err;
};

static struct tls_peer_rules rules_for(uint16_t port)
{
	struct tls_peer_rules rules = {.endpoint.port = port};
	assert_int_equal(ip_parse(STR("127.0.0.1"), &rules.endpoint.ip), 0);
	return rules;
}

static struct pair pair_new(struct tls_context *client, struct tls_context *server,
			    const struct tls_peer_rules *rules)
{
	struct pair pair = {.client_err = ERR_NEED_MORE, .server_err = ERR_NEED_MORE};
	assert_int_equal(tls_conn_new(client, TLS_CLIENT, rules, &pair.client), 0);
	assert_int_equal(tls_conn_new(server, TLS_SERVER, NULL, &pair.server), 0);
	return pair;
}

static void pair_free(struct pair *pair)
{
	tls_conn_free(pair->client);
	tls_conn_free(pair->server);
	assert_int_equal(ERR_peek_error(), 0);
}

// Carries what waits, in pieces of at most `step` bytes (0: as it lies); whether there was anything.
static bool carry(struct tls_conn *from, struct tls_conn *to, size_t step)
{
	struct bufq *out = tls_conn_out(from);
	bool some = !bufq_empty(out);
	while (!bufq_empty(out)) {
		struct slice piece = bufq_first(out);
		piece.len = step ? MIN(step, piece.len) : piece.len;
		assert_int_equal(tls_conn_feed(to, piece), 0);
		bufq_drop(out, piece.len);
		if (step)
			tls_conn_handshake(to);
	}
	return some;
}

static void handshake(struct pair *pair, size_t step)
{
	bool moved = true;
	while (moved) {
		pair->client_err = tls_conn_handshake(pair->client);
		moved = carry(pair->client, pair->server, step);
		pair->server_err = tls_conn_handshake(pair->server);
		moved |= carry(pair->server, pair->client, step);
	}
}

// What the client hears once the server has had its say (in TLS 1.3 the refusal comes after the client is
// done).
static int client_reads(struct pair *pair)
{
	char byte;
	return tls_conn_read(pair->client, &byte, 1);
}

static void exchange(struct tls_conn *from, struct tls_conn *to, const char *text)
{
	char got[256];
	size_t len = strlen(text);
	assert_int_equal(tls_conn_write(from, text, len), len);
	carry(from, to, 0);
	assert_int_equal(tls_conn_read(to, got, sizeof got), len);
	assert_memory_equal(got, text, len);
	assert_int_equal(tls_conn_read(to, got, sizeof got), ERR_NEED_MORE);
}

// --- identities ----------------------------------------------------------------------------------
static void test_ids(void **state)
{
	(void)state;
	assert_true(tls_id_is_valid(STR("spiffe://mesh/a")));
	assert_true(tls_id_is_valid(STR("spiffe://a.b-c_d.9/ns/X/sa/Y.z_-")));
	static const char *const bad[] = {"",
					  "spiffe://",
					  "spiffe://mesh",
					  "spiffe://mesh/",
					  "spiffe:///a",
					  "spiffe://mesh/a/",
					  "spiffe://mesh//a",
					  "spiffe://mesh/./a",
					  "spiffe://mesh/..",
					  "spiffe://Mesh/a",
					  "spiffe://mesh:1/a",
					  "spiffe://mesh/a?b",
					  "spiffe://mesh/a%20b",
					  "http://mesh/a",
					  "SPIFFE://mesh/a",
					  "spiffe://u@mesh/a",
					  "spiffe://mesh/a b"};
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(tls_id_is_valid(str_from(bad[i])));
	assert_false(tls_id_is_valid((struct str){"spiffe://mesh/a\0b", 17}));
	static char longest[LIMIT_SPIFFE_ID + 2];
	memset(longest, 'a', sizeof longest);
	memcpy(longest, "spiffe://mesh/", 14);
	assert_true(tls_id_is_valid((struct str){longest, LIMIT_SPIFFE_ID}));
	assert_false(tls_id_is_valid((struct str){longest, LIMIT_SPIFFE_ID + 1}));
}

static void test_patterns(void **state)
{
	(void)state;
	struct str id = STR("spiffe://mesh/ns/default/sa/a");
	assert_true(tls_id_matches(id, id));
	assert_true(tls_id_matches(id, STR("spiffe://mesh/*")));
	assert_true(tls_id_matches(id, STR("*")));
	assert_true(tls_id_matches(id, STR("spiffe://mesh/ns/default/sa/a*")));
	assert_false(tls_id_matches(id, STR("spiffe://mesh/ns/default/sa/")));
	assert_false(tls_id_matches(id, STR("spiffe://mes")));
	assert_false(tls_id_matches(id, STR("spiffe://mesh2/*")));
	assert_false(tls_id_matches(id, STR("spiffe://*/a")));
	assert_false(tls_id_matches(id, STR("")));
	assert_true(tls_alpn_is_mesh(STR("weir/1")));
	assert_false(tls_alpn_is_mesh(STR("weir/10")));
}

// --- contexts ------------------------------------------------------------------------------------
static void expect_refused(const char *cert, const char *key, const char *trust, const char *file,
			   const char *reason)
{
	struct tls_context *made = NULL;
	char *error = NULL;
	assert_int_equal(context_try(cert, key, trust, &made, &error), ERR_CONFIG);
	assert_null(made);
	assert_non_null(error);
	if (!strstr(error, file) || !strstr(error, reason))
		fail_msg("'%s' lacks '%s' or '%s'", error, file, reason);
	assert_null(strstr(error, "PRIVATE"));
	mem_free(error);
	assert_int_equal(ERR_peek_error(), 0);
}

static void write_text(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void write_encrypted_key(void)
{
	char path[128];
	EVP_PKEY *key = EVP_EC_gen("P-256");
	snprintf(path, sizeof path, "%s/encrypted.key", dir);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	PEM_write_PrivateKey(file, key, EVP_aes_128_cbc(), (const unsigned char *)"secret", 6, NULL, NULL);
	fclose(file);
	EVP_PKEY_free(key);
}

static void test_context_refusals(void **state)
{
	(void)state;
	write_text("empty.pem", "");
	write_text("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
	write_text("empty.key", "");
	write_encrypted_key();
	expect_refused("missing", "a", "ca", "missing.pem", "No such file");
	expect_refused("a", "missing", "ca", "missing.key", "No such file");
	expect_refused("a", "a", "missing", "missing.pem", "No such file");
	char path[128];
	snprintf(path, sizeof path, "%s/folder.pem", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	expect_refused("folder", "a", "ca", "folder.pem", "Is a directory");
	snprintf(path, sizeof path, "%s/huge.pem", dir);
	assert_int_equal(close(creat(path, 0600)) | truncate(path, LIMIT_TLS_FILE + 1), 0);
	expect_refused("huge", "a", "ca", "huge.pem", "limit");
	expect_refused("empty", "a", "ca", "empty.pem", "no PEM certificate");
	expect_refused("broken", "a", "ca", "broken.pem", "");
	expect_refused("a", "empty", "ca", "empty.key", "no PEM private key");
	expect_refused("a", "encrypted", "ca", "encrypted.key", "passphrase");
	expect_refused("a", "b", "ca", "b.key", "does not belong");
	expect_refused("expired", "expired", "ca", "expired.pem", "expired on 20");
	expect_refused("early", "early", "ca", "early.pem", "not valid before 20");
	expect_refused("nameless", "nameless", "ca", "nameless.pem", "no SPIFFE id");
	expect_refused("twofold", "twofold", "ca", "twofold.pem", "no SPIFFE id");
	expect_refused("webserver", "webserver", "ca", "webserver.pem", "as a client's");
	expect_refused("stranger", "stranger", "ca", "stranger.pem", "does not verify");
	expect_refused("ca", "ca", "ca", "ca.pem", "no SPIFFE id");
}

static void test_context_describe(void **state)
{
	(void)state;
	struct tls_context *made = context_allow("b", "both-ca", NULL, 0);
	const struct tls_cert_info *info = tls_context_describe(made);
	assert_string_equal(info->id, "spiffe://mesh/ns/default/sa/b");
	assert_string_equal(info->issuer, "CN=test CA");
	assert_string_equal(info->key_type, "EC prime256v1");
	assert_int_equal(strlen(info->fingerprint), 64);
	assert_int_equal(info->anchor_count, 2);
	assert_string_equal(info->anchors[1].subject, "CN=other CA");
	assert_null(info->anchors[0].domain);
	assert_in_range(time(NULL) - info->not_before, 3590, 3700);
	assert_in_range(info->not_after - time(NULL), 86000, 86400);
	assert_false(info->key_exposed);
	assert_ptr_equal(tls_context_ref(made), made);
	tls_context_unref(made);
	tls_context_unref(made);
	tls_context_unref(NULL);
}

// What scripts/mesh-ca issues is good for both sides, whatever the kind of key; a second run keeps it.
static void test_context_same(void **state)
{
	(void)state;
	const struct str allow[] = {STR("spiffe://mesh/a"), STR("spiffe://mesh/b")};
	struct tls_context *contexts[] = {context("a"), context("b"), context_allow("a", "both-ca", NULL, 0),
					  context_allow("a", "ca", allow, 1),
					  context_allow("a", "ca", allow, 2)};
	struct tls_context *again = context_allow("a", "ca", allow, 2);
	for (size_t i = 0; i < ARRAY_SIZE(contexts); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(contexts); j++)
			assert_int_equal(tls_context_same(contexts[i], contexts[j]), i == j);
		assert_int_equal(tls_context_same(contexts[i], again), i == ARRAY_SIZE(contexts) - 1);
	}
	for (size_t i = 0; i < ARRAY_SIZE(contexts); i++)
		tls_context_unref(contexts[i]);
	tls_context_unref(again);
}

static void test_mesh_ca(void **state)
{
	(void)state;
	static const char *const options[] = {"", "--rsa"};
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		char command[1024], paths[3][128];
		struct tls_context *made;
		char *error = NULL;
		snprintf(command, sizeof command,
			 "set -e; cd %s/scripts; for run in 1 2; do ./mesh-ca %s/pki init;"
			 " ./mesh-ca %s/pki issue web spiffe://mesh/web %s --force; done >/dev/null",
			 WEIR_SOURCE, dir, dir, options[i]);
		assert_int_equal(system(command), 0);
		snprintf(paths[0], sizeof paths[0], "%s/pki/web/cert.pem", dir);
		snprintf(paths[1], sizeof paths[1], "%s/pki/web/key.pem", dir);
		snprintf(paths[2], sizeof paths[2], "%s/pki/web/ca.pem", dir);
		struct tls_options files = {str_from(paths[0]), str_from(paths[1]), str_from(paths[2]), NULL,
					    0};
		if (tls_context_new(&files, &made, &error))
			fail_msg("%s", error);
		assert_string_equal(tls_context_describe(made)->id, "spiffe://mesh/web");
		assert_string_equal(tls_context_describe(made)->anchors[0].domain, "mesh");
		assert_false(tls_context_describe(made)->key_exposed);
		struct pair pair = pair_new(made, made, NULL);
		handshake(&pair, 0);
		assert_int_equal(pair.server_err, 0);
		pair_free(&pair);
		tls_context_unref(made);
	}
}

static void test_context_exposed_key(void **state)
{
	(void)state;
	char path[128];
	snprintf(path, sizeof path, "%s/a.key", dir);
	chmod(path, 0644);
	struct tls_context *made = context("a");
	assert_true(tls_context_describe(made)->key_exposed);
	tls_context_unref(made);
	chmod(path, 0600);
}

static void test_context_out_of_memory(void **state)
{
	(void)state;
	int err = -ENOMEM;
	for (long after = 0; err; after++) {
		struct tls_context *made = NULL;
		char *error = NULL;
		arena_thread_done();
		mem_fail_set(after);
		err = context_try("a", "a", "ca", &made, &error);
		bool failed = mem_fail_count() > after;
		mem_fail_set(-1);
		assert_true(err == 0 || failed);
		tls_context_unref(made);
		mem_free(error);
		if (!failed)
			break;
	}
}

// --- handshakes ----------------------------------------------------------------------------------
static void check_handshake(int version, size_t step)
{
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	if (version == TLS1_2_VERSION)
		SSL_set_max_proto_version(pair.client->ssl, version);
	assert_string_equal(tls_conn_version(pair.client), "-");
	handshake(&pair, step);
	assert_int_equal(pair.client_err, 0);
	assert_int_equal(pair.server_err, 0);
	assert_string_equal(tls_conn_version(pair.client), version == TLS1_2_VERSION ? "TLSv1.2" : "TLSv1.3");
	assert_non_null(strstr(tls_conn_cipher(pair.server), "GCM"));
	assert_true(tls_alpn_is_mesh(tls_conn_alpn(pair.server)));
	assert_true(tls_alpn_is_mesh(tls_conn_alpn(pair.client)));
	assert_true(str_eq(tls_conn_peer_id(pair.client), STR("spiffe://mesh/ns/default/sa/b")));
	assert_true(str_eq(tls_conn_peer_id(pair.server), STR("spiffe://mesh/ns/default/sa/a")));
	assert_false(tls_conn_resumed(pair.client));
	exchange(pair.client, pair.server, "ping");
	exchange(pair.server, pair.client, "pong");
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_handshake(void **state)
{
	(void)state;
	static const size_t steps[] = {0, 1, 2, 7, 100};
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		check_handshake(TLS1_2_VERSION, steps[i]);
		check_handshake(TLS1_3_VERSION, steps[i]);
	}
}

static void test_old_version_refused(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	SSL_set_security_level(pair.client->ssl, 0);
	SSL_set_min_proto_version(pair.client->ssl, TLS1_VERSION);
	SSL_set_max_proto_version(pair.client->ssl, TLS1_1_VERSION);
	SSL_set_cipher_list(pair.client->ssl, "ALL:@SECLEVEL=0");
	handshake(&pair, 0);
	assert_int_equal(pair.server_err, ERR_TLS);
	assert_int_equal(pair.client_err, ERR_TLS);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_chain(void **state)
{
	(void)state;
	struct tls_context *client = context("chained"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	handshake(&pair, 0);
	assert_int_equal(pair.server_err, 0);
	assert_true(str_eq(tls_conn_peer_id(pair.server), STR("spiffe://mesh/chained")));
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

// --- identities refused --------------------------------------------------------------------------
static void expect_client_refused(const char *show, int version, const char *reason)
{
	struct tls_context *client = context_showing("a", show), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	SSL_set_max_proto_version(pair.client->ssl, version);
	handshake(&pair, 0);
	assert_int_equal(pair.server_err, ERR_TLS_PEER);
	if (!strstr(tls_conn_error(pair.server), reason))
		fail_msg("'%s' lacks '%s'", tls_conn_error(pair.server), reason);
	assert_int_equal(client_reads(&pair), ERR_TLS);
	assert_non_null(strstr(tls_conn_error(pair.client), "alert"));
	assert_int_equal(client_reads(&pair), ERR_TLS);
	assert_int_equal(tls_conn_handshake(pair.server), ERR_TLS_PEER);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void expect_server_refused(const char *show, int version, const char *reason)
{
	struct tls_context *client = context("a"), *server = context_showing("b", show);
	struct pair pair = pair_new(client, server, NULL);
	SSL_set_max_proto_version(pair.client->ssl, version);
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, ERR_TLS_PEER);
	if (!strstr(tls_conn_error(pair.client), reason))
		fail_msg("'%s' lacks '%s'", tls_conn_error(pair.client), reason);
	assert_int_equal(pair.server_err, ERR_TLS);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_peers_refused(void **state)
{
	(void)state;
	static const struct {
		const char *show, *reason;
	} rows[] = {
	    {"stranger", "unable to get local issuer certificate (spiffe://mesh/ns/default/sa/a)"},
	    {"expired", "certificate has expired (spiffe://mesh/old)"},
	    {"early", "certificate is not yet valid (spiffe://mesh/new)"},
	    {"nameless", "no SPIFFE id"},
	    {"twofold", "no SPIFFE id"},
	    {"authority", "that of an authority, not of a workload (spiffe://mesh/ca)"},
	    {"foreign", "not of a trust domain of ours (spiffe://elsewhere/a)"},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
			expect_client_refused(rows[i].show, version, rows[i].reason);
			expect_server_refused(rows[i].show, version, rows[i].reason);
		}
	}
	expect_client_refused("webserver", TLS1_3_VERSION, "purpose");
}

static void test_no_client_certificate(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	SSL_certs_clear(pair.client->ssl);
	handshake(&pair, 0);
	assert_int_equal(pair.server_err, ERR_TLS_PEER);
	assert_string_equal(tls_conn_error(pair.server), "the peer showed no certificate");
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static int server_verdict(struct tls_context *client, struct tls_context *server)
{
	struct pair pair = pair_new(client, server, NULL);
	handshake(&pair, 0);
	int verdict = pair.server_err;
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
	return verdict;
}

static void test_allow_list(void **state)
{
	(void)state;
	const struct str exact[] = {STR("spiffe://mesh/x"), STR("spiffe://mesh/ns/default/sa/a")};
	const struct str wild[] = {STR("spiffe://mesh/ns/default/*")};
	const struct str others[] = {STR("spiffe://mesh/ns/other/*")};
	const struct str elsewhere[] = {STR("spiffe://elsewhere/*")};
	assert_int_equal(server_verdict(context("a"), context_allow("b", "ca", exact, 2)), 0);
	assert_int_equal(server_verdict(context("a"), context_allow("b", "ca", wild, 1)), 0);
	assert_int_equal(server_verdict(context("a"), context_allow("b", "ca", others, 1)), ERR_TLS_PEER);
	// An anchor without a domain of its own: the allow list may name another domain.
	assert_int_equal(
	    server_verdict(context_showing("a", "foreign"), context_allow("b", "ca", elsewhere, 1)), 0);
}

static void test_anchor_domain(void **state)
{
	(void)state;
	const struct str elsewhere[] = {STR("spiffe://elsewhere/*")};
	struct tls_context *in = context_allow("in-domain", "domain-ca", NULL, 0);
	assert_string_equal(tls_context_describe(in)->anchors[0].domain, "mesh");
	assert_int_equal(
	    server_verdict(tls_context_ref(in), context_allow("in-domain", "domain-ca", NULL, 0)), 0);
	char path[128];
	snprintf(path, sizeof path, "%s/out-of-domain.pem", dir);
	assert_int_equal(SSL_CTX_use_certificate_file(in->sides[TLS_CLIENT], path, SSL_FILETYPE_PEM), 1);
	snprintf(path, sizeof path, "%s/out-of-domain.key", dir);
	assert_int_equal(SSL_CTX_use_PrivateKey_file(in->sides[TLS_CLIENT], path, SSL_FILETYPE_PEM), 1);
	assert_int_equal(server_verdict(in, context_allow("in-domain", "domain-ca", elsewhere, 1)),
			 ERR_TLS_PEER);
}

static void test_rules_narrow(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	char pattern[] = "spiffe://mesh/ns/default/sa/b";
	struct str allow = str_from(pattern);
	struct tls_peer_rules rules = {.allow = &allow, .allow_count = 1, .sni = STR("web.mesh")};
	struct pair pair = pair_new(client, server, &rules);
	pattern[0] = 'x'; // the connection has a copy
	assert_string_equal(SSL_get_servername(pair.client->ssl, TLSEXT_NAMETYPE_host_name), "web.mesh");
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, 0);
	pair_free(&pair);
	allow = STR("spiffe://mesh/ns/default/sa/c");
	pair = pair_new(client, server, &rules);
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, ERR_TLS_PEER);
	assert_string_equal(tls_conn_error(pair.client),
			    "the identity is not in the allow list (spiffe://mesh/ns/default/sa/b)");
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

// --- resumption ----------------------------------------------------------------------------------
// --- ALPN ----------------------------------------------------------------------------------------
// A list as it is sent: each name behind its length.
#define LIST(text) ((struct str){text, sizeof text - 1})

// What a server of these rules selects of what a client offers, as both see it; "": nothing.
static void check_alpn(struct str offered, const char *own, const char *selected)
{
	struct tls_context *client = context("a"), *server = context("b");
	struct tls_peer_rules rules = {.alpn = str_from(own)};
	struct pair pair = {0};
	assert_int_equal(tls_conn_new(client, TLS_CLIENT, &rules, &pair.client), 0);
	assert_int_equal(tls_conn_new(server, TLS_SERVER, &rules, &pair.server), 0);
	assert_int_equal(
	    SSL_set_alpn_protos(pair.client->ssl, (const unsigned char *)offered.p, (unsigned)offered.len),
	    0);
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, 0);
	assert_int_equal(pair.server_err, 0);
	assert_true(str_eq(tls_conn_alpn(pair.server), str_from(selected)));
	assert_true(str_eq(tls_conn_alpn(pair.client), str_from(selected)));
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

// Whatever the order in which they are offered: the transport, the mesh's mark, what the port is declared as.
static void test_alpn_ranking(void **state)
{
	(void)state;
	check_alpn(LIST("\7weir-h2\6weir/1\2h2"), "h2", "weir-h2");
	check_alpn(LIST("\2h2\6weir/1\7weir-h2"), "h2", "weir-h2");
	check_alpn(LIST("\6weir/1\7weir-h2"), "", "weir-h2");
	check_alpn(LIST("\2h2\6weir/1"), "h2", "weir/1");
	check_alpn(LIST("\6weir/1\2h2"), "h2", "weir/1");
	check_alpn(LIST("\10http/1.1\2h2"), "h2", "h2");
	check_alpn(LIST("\2h2\10http/1.1"), "http/1.1", "http/1.1");
	check_alpn(LIST("\2h2\10http/1.1"), "", "");
	check_alpn(LIST("\10http/1.1"), "h2", "");
}

// Names that only begin, or only end, like ours.
static void test_alpn_names_are_whole(void **state)
{
	(void)state;
	check_alpn(LIST("\10weir-h2c\7weir/10\5weir/"), "", "");
	check_alpn(LIST("\6weir-h\3h2c"), "h2", "");
	check_alpn(LIST("\10xweir-h2\6weir/1"), "h2", "weir/1");
	check_alpn(LIST("\7WEIR-H2\2H2"), "h2", "");
}

// One connection with some data each way; whether it was resumed.
static bool connect_once(struct tls_context *client, struct tls_context *server, int version,
			 const struct tls_peer_rules *rules)
{
	struct pair pair = pair_new(client, server, rules);
	SSL_set_max_proto_version(pair.client->ssl, version);
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, 0);
	assert_int_equal(pair.server_err, 0);
	exchange(pair.server, pair.client, "hello");
	exchange(pair.client, pair.server, "hello");
	bool resumed = tls_conn_resumed(pair.client);
	assert_int_equal(tls_conn_resumed(pair.server), resumed);
	assert_int_equal(pair.client->native, version == TLS1_3_VERSION);
	assert_true(str_eq(tls_conn_peer_id(pair.client), STR("spiffe://mesh/ns/default/sa/b")));
	assert_true(str_eq(tls_conn_peer_id(pair.server), STR("spiffe://mesh/ns/default/sa/a")));
	assert_true(tls_alpn_is_mesh(tls_conn_alpn(pair.server)));
	pair_free(&pair);
	return resumed;
}

static void check_resumption(int version)
{
	struct tls_context *client = context("a"), *server = context("b");
	struct tls_peer_rules here = rules_for(1), there = rules_for(2);
	assert_false(connect_once(client, server, version, &here));
	assert_true(connect_once(client, server, version, &here));
	assert_true(connect_once(client, server, version, &here));
	assert_false(connect_once(client, server, version, &there)); // another endpoint
	assert_true(connect_once(client, server, version, &there));
	assert_false(connect_once(client, server, version, NULL));
	struct tls_context *reloaded = context("b"); // the server's tickets die with its context
	assert_false(connect_once(client, reloaded, version, &here));
	assert_true(connect_once(client, reloaded, version, &here));
	struct tls_context *renewed = context("a"); // the client's sessions likewise
	assert_false(connect_once(renewed, reloaded, version, &here));
	assert_true(connect_once(renewed, reloaded, version, &here));
	assert_false(connect_once(client, reloaded, version, &here)); // an older context keeps none any more
	assert_false(connect_once(client, reloaded, version, &here));
	tls_context_unref(client);
	tls_context_unref(server);
	tls_context_unref(reloaded);
	tls_context_unref(renewed);
}

static void test_resumption(void **state)
{
	(void)state;
	check_resumption(TLS1_2_VERSION);
	check_resumption(TLS1_3_VERSION);
}

// A session whose peer the rules of a new connection exclude is not offered; the full handshake then refuses.
static void test_resumption_rules(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct tls_peer_rules rules = rules_for(1);
	const struct str allow = STR("spiffe://mesh/c");
	assert_false(connect_once(client, server, TLS1_3_VERSION, &rules));
	rules.allow = &allow;
	rules.allow_count = 1;
	struct pair pair = pair_new(client, server, &rules);
	handshake(&pair, 0);
	assert_int_equal(pair.client_err, ERR_TLS_PEER);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_session_bounds(void **state)
{
	(void)state;
	struct tls_context *client = context("a");
	struct tls_peer_rules rules = rules_for(1);
	for (unsigned i = 0; i < 3 * LIMIT_TLS_SESSIONS; i++) {
		rules.endpoint.port = (uint16_t)(i / (2 * LIMIT_TLS_ENDPOINT_SESSIONS));
		SSL_SESSION *session = SSL_SESSION_new();
		SSL_SESSION_set_timeout(session, 0);
		tls_session_put(client, &rules.endpoint, session);
	}
	assert_null(tls_session_take(client, &rules.endpoint)); // all too old
	tls_context_unref(client);
}

// --- data ----------------------------------------------------------------------------------------
static void fill(uint8_t *bytes, size_t len)
{
	for (size_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(i * 2654435761U >> 13);
}

// How the two ends of a pair are made: our record layer on both sides, or OpenSSL's on one.
enum make { NATIVE, OPENSSL_CLIENT, OPENSSL_SERVER, OPENSSL_BOTH, VERSION_1_2, MAKES };

static struct pair pair_make(enum make make, const char *suite)
{
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	pair.client->keep_openssl = make == OPENSSL_CLIENT || make == OPENSSL_BOTH;
	pair.server->keep_openssl = make == OPENSSL_SERVER || make == OPENSSL_BOTH;
	if (make == VERSION_1_2)
		SSL_set_max_proto_version(pair.client->ssl, TLS1_2_VERSION);
	if (suite)
		assert_int_equal(SSL_set_ciphersuites(pair.client->ssl, suite), 1);
	handshake(&pair, 0);
	assert_int_equal(pair.server_err, 0);
	assert_int_equal(pair.client->native, make == NATIVE || make == OPENSSL_SERVER);
	assert_int_equal(pair.server->native, make == NATIVE || make == OPENSSL_CLIENT);
	tls_context_unref(client);
	tls_context_unref(server);
	return pair;
}

enum { TRANSFER = 300 * 1000 };
static uint8_t sent_bytes[TRANSFER], got_bytes[TRANSFER + 1];

static void send_transfer(struct tls_conn *conn, bool queued)
{
	struct bufq queue = {0};
	fill(sent_bytes, TRANSFER);
	if (!queued) {
		assert_int_equal(tls_conn_write(conn, sent_bytes, TRANSFER), TRANSFER);
		return;
	}
	for (size_t at = 0, n; at < TRANSFER; at += n) {
		n = MIN((size_t)TRANSFER - at, 1 + at % 40000);
		assert_int_equal(bufq_add_copy(&queue, sent_bytes + at, n), 0);
	}
	assert_int_equal(tls_conn_write_queue(conn, &queue), 0);
	assert_true(bufq_empty(&queue));
}

// Reads all there is, by calls of `room` bytes, or into a queue (0).
static size_t read_available(struct tls_conn *conn, size_t total, size_t room)
{
	int n;
	if (room == 0) {
		struct bufq queue = {0};
		n = tls_conn_read_queue(conn, &queue, TRANSFER + 1);
		assert_true(n > 0 || n == ERR_NEED_MORE);
		total += bufq_peek(&queue, 0, got_bytes + total, TRANSFER - total);
		bufq_clear(&queue);
		return total;
	}
	while ((n = tls_conn_read(conn, got_bytes + total, MIN(room, TRANSFER - total + 1))) > 0)
		total += (size_t)n;
	assert_int_equal(n, ERR_NEED_MORE);
	return total;
}

static void check_transfer(struct tls_conn *from, struct tls_conn *to, size_t step, bool queued)
{
	static const size_t rooms[] = {5000, 100000, 0};
	static unsigned turn;
	size_t room = rooms[turn++ % ARRAY_SIZE(rooms)], total = 0;
	struct bufq *out = tls_conn_out(from);
	send_transfer(from, queued);
	while (!bufq_empty(out)) {
		struct slice piece = bufq_first(out);
		piece.len = MIN(step, piece.len);
		assert_int_equal(tls_conn_feed(to, piece), 0);
		bufq_drop(out, piece.len);
		total = read_available(to, total, room);
	}
	assert_int_equal(total, TRANSFER);
	assert_memory_equal(got_bytes, sent_bytes, TRANSFER);
	assert_true(bufq_empty(&to->in));
	assert_false(tls_conn_readable(to));
}

static void test_transfer(void **state)
{
	(void)state;
	static const size_t steps[] = {3, 1021, 16384, 100000};
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		for (enum make make = NATIVE; make < MAKES; make++) {
			struct pair pair = pair_make(make, NULL);
			check_transfer(pair.client, pair.server, steps[i], i % 2);
			check_transfer(pair.server, pair.client, steps[i], make % 2);
			pair_free(&pair);
		}
	}
}

static void test_suites(void **state)
{
	(void)state;
	static const char *const names[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
					    "TLS_CHACHA20_POLY1305_SHA256"};
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		for (enum make make = NATIVE; make < VERSION_1_2; make++) {
			struct pair pair = pair_make(make, names[i]);
			assert_string_equal(tls_conn_cipher(pair.client), names[i]);
			exchange(pair.client, pair.server, "ping");
			check_transfer(pair.server, pair.client, 4000, true);
			check_transfer(pair.client, pair.server, 4000, false);
			pair_free(&pair);
		}
	}
}

// Small pieces of a queue share a record.
static void test_gathering(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	handshake(&pair, 0);
	struct bufq queue = {0};
	for (int i = 0; i < 10; i++)
		assert_int_equal(bufq_add_static(&queue, STR("0123456789")), 0);
	assert_int_equal(tls_conn_write_queue(pair.client, &queue), 0);
	assert_in_range(tls_conn_out(pair.client)->bytes, 100, 130);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_write_before_handshake(void **state)
{
	(void)state;
	struct tls_context *client = context("a");
	struct tls_conn *conn;
	assert_int_equal(tls_conn_new(client, TLS_CLIENT, NULL, &conn), 0);
	assert_int_equal(tls_conn_write(conn, "x", 1), ERR_NEED_MORE);
	assert_true(tls_conn_out(conn)->bytes > 100); // it has begun
	assert_int_equal(tls_conn_shutdown(conn), 0);
	tls_conn_free(conn);
	tls_conn_free(NULL);
	tls_context_unref(client);
}

// --- ends ----------------------------------------------------------------------------------------
static void test_half_close(void **state)
{
	(void)state;
	char byte;
	for (enum make make = NATIVE; make < MAKES; make++) {
		struct pair pair = pair_make(make, NULL);
		exchange(pair.client, pair.server, "request");
		assert_int_equal(tls_conn_shutdown(pair.client), 0);
		assert_int_equal(tls_conn_shutdown(pair.client), 0);
		assert_true(tls_conn_shutdown_sent(pair.client));
		carry(pair.client, pair.server, 0);
		tls_conn_feed_eof(pair.server);
		assert_true(tls_conn_readable(pair.server));
		assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_EOF);
		assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_EOF);
		exchange(pair.server, pair.client, "the answer goes on");
		assert_int_equal(tls_conn_shutdown(pair.server), 0);
		carry(pair.server, pair.client, 0);
		assert_int_equal(tls_conn_read(pair.client, &byte, 1), ERR_EOF);
		assert_string_equal(tls_conn_error(pair.client), "");
		pair_free(&pair);
	}
}

static void test_truncation(void **state)
{
	(void)state;
	char byte;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	handshake(&pair, 0);
	assert_int_equal(tls_conn_write(pair.client, "cut", 3), 3);
	struct slice piece = bufq_first(tls_conn_out(pair.client));
	piece.len -= 1;
	assert_int_equal(tls_conn_feed(pair.server, piece), 0);
	assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_NEED_MORE);
	tls_conn_feed_eof(pair.server);
	assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_CLOSED);
	assert_string_equal(tls_conn_error(pair.server), "the connection was closed without close_notify");
	pair_free(&pair);
	pair = pair_new(client, server, NULL);
	tls_conn_handshake(pair.client);
	tls_conn_feed_eof(pair.client);
	assert_int_equal(tls_conn_handshake(pair.client), ERR_CLOSED);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void feed_bytes(struct tls_conn *conn, const void *bytes, size_t len)
{
	struct bufq queue = {0};
	assert_int_equal(bufq_add_copy(&queue, bytes, len), 0);
	assert_int_equal(tls_conn_feed(conn, bufq_first(&queue)), 0);
	bufq_clear(&queue);
}

static void test_tampering(void **state)
{
	(void)state;
	uint8_t record[256], byte;
	for (enum make make = NATIVE; make < MAKES; make++) {
		struct pair pair = pair_make(make, NULL);
		assert_int_equal(tls_conn_write(pair.client, "true", 4), 4);
		size_t len = bufq_peek(tls_conn_out(pair.client), 0, record, sizeof record);
		record[len - 1] ^= 1;
		feed_bytes(pair.server, record, len);
		assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_TLS);
		assert_true(tls_conn_out(pair.server)->bytes > 0); // the alert
		assert_int_equal(tls_conn_write(pair.server, "x", 1), ERR_TLS);
		assert_int_equal(tls_conn_shutdown(pair.server), ERR_TLS);
		bufq_clear(tls_conn_out(pair.client));
		carry(pair.server, pair.client, 0);
		assert_int_equal(tls_conn_read(pair.client, &byte, 1), ERR_TLS);
		assert_non_null(strstr(tls_conn_error(pair.client), "alert 'bad record mac'"));
		pair_free(&pair);
	}
}

// A record may lie in more pieces than are looked at together.
static void test_scattered_record(void **state)
{
	(void)state;
	uint8_t record[256], got[256];
	for (enum make make = NATIVE; make < MAKES; make++) {
		for (int patient = 0; patient < 2; patient++) {
			struct pair pair = pair_make(make, NULL);
			assert_int_equal(tls_conn_write(pair.client, sent_bytes, 200), 200);
			size_t len = bufq_peek(tls_conn_out(pair.client), 0, record, sizeof record);
			for (size_t i = 0; i < len; i++) {
				if (!patient)
					assert_int_equal(tls_conn_read(pair.server, got, sizeof got),
							 ERR_NEED_MORE);
				feed_bytes(pair.server, record + i, 1);
			}
			assert_int_equal(tls_conn_read(pair.server, got, 50), 50);
			assert_true(tls_conn_readable(pair.server));
			assert_int_equal(tls_conn_read(pair.server, got + 50, 200), 150);
			assert_memory_equal(got, sent_bytes, 200);
			pair_free(&pair);
		}
	}
}

// A record that was seen before, or that comes before its turn, does not open.
static void test_replay(void **state)
{
	(void)state;
	uint8_t record[256], got[16];
	struct pair pair = pair_make(NATIVE, NULL);
	assert_int_equal(tls_conn_write(pair.client, "once", 4), 4);
	size_t len = bufq_peek(tls_conn_out(pair.client), 0, record, sizeof record);
	feed_bytes(pair.server, record, len);
	assert_int_equal(tls_conn_read(pair.server, got, sizeof got), 4);
	feed_bytes(pair.server, record, len);
	assert_int_equal(tls_conn_read(pair.server, got, sizeof got), ERR_TLS);
	pair_free(&pair);
}

// What a peer with the right keys may not send, and what it may.
static void test_records(void **state)
{
	(void)state;
	static const struct {
		uint8_t type;
		const char *bytes;
		size_t len;
		int err;
	} rows[] = {
	    {TLS_RECORD_DATA, "", 0, ERR_NEED_MORE},
	    {TLS_RECORD_DATA, "data", 4, 4},
	    {TLS_RECORD_ALERT, "\x01\x5a", 2, ERR_NEED_MORE}, // user_canceled
	    {TLS_RECORD_ALERT, "\x01\x00", 2, ERR_EOF},
	    {TLS_RECORD_ALERT, "\x02\x28", 2, ERR_TLS},
	    {TLS_RECORD_ALERT, "\x01\x28", 2, ERR_TLS}, // the level does not count
	    {TLS_RECORD_ALERT, "\x01", 1, ERR_TLS},
	    {TLS_RECORD_ALERT, "\x01\x00\x00", 3, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "", 0, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x01\x00", 5, ERR_NEED_MORE},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x01", 4, ERR_NEED_MORE},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x01\x02", 5, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x02\x00\x00", 6, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x00", 4, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "\x18\x00\x00\x01\x00\x18\x00\x00\x01\x00", 10, ERR_TLS},
	    {TLS_RECORD_HANDSHAKE, "\x04\x00\x00\x02\x00\x00", 6, ERR_TLS}, // a ticket, to a server
	    {TLS_RECORD_HANDSHAKE, "\x01\x00\x00\x02\x00\x00", 6, ERR_TLS}, // a ClientHello
	    {TLS_RECORD_CCS, "\x01", 1, ERR_TLS},
	    {24, "heartbeat", 9, ERR_TLS},
	    {0, "padding only", 0, ERR_TLS},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t record[64], got[64];
		struct pair pair = pair_make(NATIVE, NULL);
		struct iovec piece = {(void *)rows[i].bytes, rows[i].len};
		assert_int_equal(
		    tls_record_seal(&pair.client->writing, rows[i].type, &piece, 1, rows[i].len, record), 0);
		feed_bytes(pair.server, record, rows[i].len + TLS_RECORD_OVERHEAD);
		int n = tls_conn_read(pair.server, got, i % 2 ? 1 : sizeof got);
		assert_int_equal(n, rows[i].err > 0 ? (i % 2 ? 1 : rows[i].err) : rows[i].err);
		if (rows[i].err == ERR_TLS)
			assert_true(tls_conn_error(pair.server)[0] != 0);
		pair_free(&pair);
	}
}

// A message in pieces: nothing else may come between them.
static void test_split_messages(void **state)
{
	(void)state;
	uint8_t record[64], byte;
	static const char ticket[] = "\x04\x00\x00\x0btwelve byte";
	struct iovec piece = {NULL, 1};
	struct pair pair = pair_make(NATIVE, NULL);
	for (size_t i = 0; i < sizeof ticket - 1; i++) {
		piece.iov_base = (void *)(ticket + i);
		assert_int_equal(
		    tls_record_seal(&pair.server->writing, TLS_RECORD_HANDSHAKE, &piece, 1, 1, record), 0);
		feed_bytes(pair.client, record, 1 + TLS_RECORD_OVERHEAD);
		assert_int_equal(tls_conn_read(pair.client, &byte, 1), ERR_NEED_MORE);
	}
	exchange(pair.server, pair.client, "after the ticket");
	piece.iov_base = (void *)ticket; // another begins
	assert_int_equal(tls_record_seal(&pair.server->writing, TLS_RECORD_HANDSHAKE, &piece, 1, 1, record),
			 0);
	feed_bytes(pair.client, record, 1 + TLS_RECORD_OVERHEAD);
	assert_int_equal(tls_conn_read(pair.client, &byte, 1), ERR_NEED_MORE);
	assert_int_equal(tls_conn_write(pair.server, "x", 1), 1);
	carry(pair.server, pair.client, 0);
	assert_int_equal(tls_conn_read(pair.client, &byte, 1), ERR_TLS);
	pair_free(&pair);
}

static void test_bad_headers(void **state)
{
	(void)state;
	static uint8_t record[5 + 20000];
	static const struct {
		uint8_t type;
		size_t len;
	} rows[] = {{TLS_RECORD_DATA, 0},
		    {TLS_RECORD_DATA, 16},
		    {TLS_RECORD_DATA, TLS_RECORD_BODY + 1},
		    {TLS_RECORD_DATA, 19000},
		    {TLS_RECORD_HANDSHAKE, 50},
		    {TLS_RECORD_ALERT, 2},
		    {TLS_RECORD_CCS, 1},
		    {'G', 30}};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint8_t got[100];
		struct pair pair = pair_make(NATIVE, NULL);
		record[0] = rows[i].type;
		record[3] = (uint8_t)(rows[i].len >> 8);
		record[4] = (uint8_t)rows[i].len;
		feed_bytes(pair.server, record, rows[i].len + 5);
		assert_int_equal(tls_conn_read(pair.server, got, sizeof got), ERR_TLS);
		pair_free(&pair);
	}
}

static int feed_text(struct tls_conn *conn, struct str text)
{
	assert_int_equal(tls_conn_feed(conn, (struct slice){NULL, (const uint8_t *)text.p, text.len}), 0);
	return tls_conn_handshake(conn);
}

static void test_plaintext(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	assert_int_equal(feed_text(pair.server, STR("GET / HTTP/1.1\r\nHost: reviews.mesh\r\n\r\n")),
			 ERR_TLS);
	assert_non_null(strstr(tls_conn_error(pair.server), "does not speak TLS"));
	tls_conn_handshake(pair.client);
	assert_int_equal(feed_text(pair.client, STR("HTTP/1.1 400 Bad Request\r\n\r\n")), ERR_TLS);
	assert_non_null(strstr(tls_conn_error(pair.client), "does not speak TLS"));
	pair_free(&pair);
	pair = pair_new(client, server, NULL);
	assert_int_equal(feed_text(pair.server, STR("\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff")), ERR_TLS);
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_random_bytes(void **state)
{
	(void)state;
	static uint8_t bytes[4096];
	struct tls_context *server = context("b");
	unsigned seed = 1;
	for (int round = 0; round < 200; round++) {
		struct tls_conn *conn;
		for (size_t i = 0; i < sizeof bytes; i++)
			bytes[i] = (uint8_t)rand_r(&seed);
		bytes[0] = 0x16;
		bytes[1] = 0x03;
		bytes[2] = 0x01;
		assert_int_equal(tls_conn_new(server, TLS_SERVER, NULL, &conn), 0);
		int err = feed_text(conn, (struct str){(char *)bytes, sizeof bytes});
		assert_true(err == ERR_TLS || err == ERR_NEED_MORE);
		tls_conn_free(conn);
	}
	tls_context_unref(server);
}

// --- floods --------------------------------------------------------------------------------------
// What was given back is read again, in any portions, before what follows.
static void test_unread(void **state)
{
	(void)state;
	for (enum make make = NATIVE; make < MAKES; make++) {
		char got[32];
		struct pair pair = pair_make(make, NULL);
		assert_int_equal(tls_conn_write(pair.client, "first", 5), 5);
		assert_int_equal(tls_conn_write(pair.client, "second", 6), 6);
		carry(pair.client, pair.server, 0);
		assert_int_equal(tls_conn_read(pair.server, got, sizeof got), 5);
		struct slice back = {NULL, (const uint8_t *)"first", 5};
		assert_int_equal(tls_conn_unread(pair.server, back), 0);
		assert_true(tls_conn_readable(pair.server));
		assert_int_equal(tls_conn_read(pair.server, got, 2), 2);
		assert_int_equal(tls_conn_read(pair.server, got + 2, sizeof got - 2), 3);
		assert_int_equal(tls_conn_read(pair.server, got + 5, sizeof got - 5), 6);
		assert_memory_equal(got, "firstsecond", 11);
		assert_int_equal(pair.server->read_bytes, 11);
		pair_free(&pair);
	}
}

// The client (by OpenSSL) asks for key updates without end; both record layers of the server draw a line.
static void check_key_update_flood(enum make make)
{
	char byte;
	int updates = 0;
	struct pair pair = pair_make(make, NULL);
	client_reads(&pair);
	for (int err = ERR_NEED_MORE; err == ERR_NEED_MORE; updates++) {
		assert_int_equal(SSL_key_update(pair.client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		assert_int_equal(SSL_do_handshake(pair.client->ssl), 1);
		carry(pair.client, pair.server, 0);
		err = tls_conn_read(pair.server, &byte, 1);
		assert_true(err == ERR_NEED_MORE || err == ERR_LIMIT);
		if (err == ERR_NEED_MORE)
			bufq_clear(tls_conn_out(pair.server));
	}
	assert_int_equal(updates, LIMIT_TLS_EXTRA_MESSAGES + 1);
	assert_int_equal(tls_conn_read(pair.server, &byte, 1), ERR_LIMIT);
	pair_free(&pair);
}

static void test_key_update_flood(void **state)
{
	(void)state;
	check_key_update_flood(OPENSSL_CLIENT);
	check_key_update_flood(OPENSSL_BOTH);
}

static void test_empty_record_flood(void **state)
{
	(void)state;
	uint8_t record[64], byte;
	int records = 0;
	struct pair pair = pair_make(NATIVE, NULL);
	for (int err = ERR_NEED_MORE; err == ERR_NEED_MORE; records++) {
		assert_int_equal(tls_record_seal(&pair.client->writing, TLS_RECORD_DATA, NULL, 0, 0, record),
				 0);
		feed_bytes(pair.server, record, TLS_RECORD_OVERHEAD);
		err = tls_conn_read(pair.server, &byte, 1);
	}
	assert_int_equal(records, LIMIT_TLS_EXTRA_MESSAGES + 1);
	pair_free(&pair);
}

static void test_key_update_works(void **state)
{
	(void)state;
	struct pair pair = pair_make(OPENSSL_CLIENT, NULL);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(SSL_key_update(pair.client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
		exchange(pair.client, pair.server, "under the new key");
		exchange(pair.server, pair.client, "under its answer");
		exchange(pair.client, pair.server, "and on");
	}
	pair_free(&pair);
	pair = pair_make(OPENSSL_SERVER, NULL);
	assert_int_equal(SSL_key_update(pair.server->ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
	exchange(pair.server, pair.client, "under the new key");
	exchange(pair.client, pair.server, "the other direction keeps its own");
	pair_free(&pair);
}

// Our own side renews its key in time.
static void test_rekey(void **state)
{
	(void)state;
	struct pair pair = pair_make(NATIVE, NULL);
	pair.client->writing.sequence = pair.server->reading.sequence = (1 << 24) - 1;
	exchange(pair.client, pair.server, "the last under this key");
	exchange(pair.client, pair.server, "the first under the next");
	assert_int_equal(pair.client->writing.sequence, 1);
	assert_int_equal(pair.server->reading.sequence, 1);
	exchange(pair.server, pair.client, "untouched");
	pair_free(&pair);
}

// A client of OpenSSL that updates its keys while the ticket is awaited stays with OpenSSL, and works.
static void test_update_before_take_over(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	struct tls_peer_rules rules = rules_for(1);
	struct pair pair = pair_new(client, server, &rules);
	assert_int_equal(tls_conn_handshake(pair.client), ERR_NEED_MORE);
	carry(pair.client, pair.server, 0);
	tls_conn_handshake(pair.server);
	carry(pair.server, pair.client, 0);
	assert_int_equal(tls_conn_handshake(pair.client), 0);
	assert_false(pair.client->native);
	assert_int_equal(SSL_key_update(pair.client->ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	assert_int_equal(tls_conn_write(pair.client, "early", 5), 5);
	carry(pair.client, pair.server, 0);
	char got[16];
	assert_int_equal(tls_conn_handshake(pair.server), 0);
	assert_int_equal(tls_conn_read(pair.server, got, sizeof got), 5);
	exchange(pair.server, pair.client, "answer");
	assert_false(pair.client->native);
	exchange(pair.client, pair.server, "and so on");
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

// Two tickets in records that are cut within the second one: OpenSSL keeps the connection until that is
// whole.
static void test_ticket_in_pieces(void **state)
{
	(void)state;
	static const char one[] = "\x04\x00\x00\x19\x00\x00\x0e\x10\x01\x02\x03\x04\x08weirweir\x00\x04"
				  "abcd\x00";
	uint8_t record[128];
	struct iovec pieces[] = {
	    {(void *)one, sizeof one}, {(void *)one, 10}, {(void *)(one + 10), sizeof one - 10}};
	struct tls_context *client = context("a"), *server = context("b");
	struct tls_peer_rules rules = rules_for(1);
	struct pair pair = pair_new(client, server, &rules);
	tls_conn_handshake(pair.client);
	carry(pair.client, pair.server, 0);
	tls_conn_handshake(pair.server);
	carry(pair.server, pair.client, 0);
	assert_int_equal(tls_conn_handshake(pair.client), 0);
	carry(pair.client, pair.server, 0);
	assert_int_equal(tls_conn_handshake(pair.server), 0);
	bufq_clear(tls_conn_out(pair.server)); // its own ticket
	pair.server->writing.sequence = 0;
	assert_int_equal(
	    tls_record_seal(&pair.server->writing, TLS_RECORD_HANDSHAKE, pieces, 2, sizeof one + 10, record),
	    0);
	feed_bytes(pair.client, record, sizeof one + 10 + TLS_RECORD_OVERHEAD);
	assert_int_equal(client_reads(&pair), ERR_NEED_MORE);
	assert_false(pair.client->native);
	assert_int_equal(tls_record_seal(&pair.server->writing, TLS_RECORD_HANDSHAKE, pieces + 2, 1,
					 sizeof one - 10, record),
			 0);
	feed_bytes(pair.client, record, sizeof one - 10 + TLS_RECORD_OVERHEAD);
	assert_int_equal(client_reads(&pair), ERR_NEED_MORE);
	assert_true(pair.client->native);
	exchange(pair.server, pair.client, "after both");
	exchange(pair.client, pair.server, "and back");
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_renegotiation(void **state)
{
	(void)state;
	char byte;
	int err = ERR_NEED_MORE;
	struct tls_context *client = context("a"), *server = context("b");
	struct pair pair = pair_new(client, server, NULL);
	SSL_set_max_proto_version(pair.client->ssl, TLS1_2_VERSION);
	handshake(&pair, 0);
	SSL_clear_options(pair.client->ssl, SSL_OP_NO_RENEGOTIATION);
	assert_int_equal(SSL_renegotiate(pair.client->ssl), 1);
	SSL_do_handshake(pair.client->ssl);
	carry(pair.client, pair.server, 0);
	err = tls_conn_read(pair.server, &byte, 1);
	assert_true(err == ERR_NEED_MORE || err == ERR_TLS);
	assert_true(tls_conn_handshake_done(pair.server));
	assert_int_equal(pair.server->extra_messages, 1);
	ERR_clear_error();
	pair_free(&pair);
	tls_context_unref(client);
	tls_context_unref(server);
}

static void test_long_handshake(void **state)
{
	(void)state;
	// A first fragment of a ClientHello that says it is huge, then more and more of it.
	static uint8_t record[5 + 16384] = {0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff};
	struct tls_context *server = context("b");
	struct tls_conn *conn;
	assert_int_equal(tls_conn_new(server, TLS_SERVER, NULL, &conn), 0);
	int err = ERR_NEED_MORE;
	size_t total = 0;
	for (; err == ERR_NEED_MORE; total += sizeof record)
		err = feed_text(conn, (struct str){(char *)record, sizeof record});
	assert_true(err == ERR_LIMIT || err == ERR_TLS);
	assert_true(total <= LIMIT_TLS_HANDSHAKE_BYTES + 2 * sizeof record);
	tls_conn_free(conn);
	tls_context_unref(server);
}

// --- out of memory -------------------------------------------------------------------------------
// Every allocation of ours fails once: no leak, no crash, and either an error or success.
static void test_conn_out_of_memory(void **state)
{
	(void)state;
	struct tls_context *client = context("a"), *server = context("b");
	bool failed = true;
	for (long after = 0; failed; after++) {
		struct pair pair = {0};
		const struct str allow = STR("*");
		struct tls_peer_rules rules = rules_for(1);
		rules.allow = &allow;
		rules.allow_count = 1;
		tls_thread_done();
		buf_thread_done();
		mem_fail_set(after);
		if (tls_conn_new(client, TLS_CLIENT, &rules, &pair.client) == 0 &&
		    tls_conn_new(server, TLS_SERVER, NULL, &pair.server) == 0) {
			for (int i = 0; i < 6; i++) {
				struct bufq *out;
				tls_conn_handshake(pair.client);
				for (out = tls_conn_out(pair.client); !bufq_empty(out);
				     bufq_drop(out, bufq_first(out).len))
					tls_conn_feed(pair.server, bufq_first(out));
				tls_conn_handshake(pair.server);
				for (out = tls_conn_out(pair.server); !bufq_empty(out);
				     bufq_drop(out, bufq_first(out).len))
					tls_conn_feed(pair.client, bufq_first(out));
			}
			if (tls_conn_handshake_done(pair.client))
				tls_conn_write(pair.client, "x", 1);
		}
		failed = mem_fail_count() > after;
		mem_fail_set(-1);
		if (!failed)
			assert_true(tls_conn_handshake_done(pair.server));
		pair_free(&pair);
	}
	tls_context_unref(client);
	tls_context_unref(server);
}

// The same while data goes to and fro: what was taken arrives, or the connection has failed.
static void test_data_out_of_memory(void **state)
{
	(void)state;
	for (enum make make = NATIVE; make < MAKES; make++) {
		bool failed = true;
		for (long after = 0; failed; after++) {
			struct pair pair = pair_make(make, NULL);
			struct bufq queue = {0};
			int n = ERR_NEED_MORE;
			tls_thread_done();
			buf_thread_done();
			mem_fail_set(after);
			int err = bufq_add_copy(&queue, sent_bytes, 20000);
			if (!err)
				err = tls_conn_write_queue(pair.client, &queue);
			for (struct bufq *out = tls_conn_out(pair.client); !err && !bufq_empty(out);) {
				err = tls_conn_feed(pair.server, bufq_first(out));
				bufq_drop(out, bufq_first(out).len);
			}
			for (size_t total = 0; !err && total < 20000; total += (size_t)n)
				if ((n = tls_conn_read(pair.server, got_bytes + total, 3000)) < 0)
					err = n;
			failed = mem_fail_count() > after;
			mem_fail_set(-1);
			assert_int_equal(err != 0, failed);
			bufq_clear(&queue);
			pair_free(&pair);
		}
	}
}

// --- threads -------------------------------------------------------------------------------------
static void *connect_many(void *arg)
{
	struct tls_context **contexts = arg;
	struct tls_peer_rules rules = rules_for(1);
	int resumed = 0;
	for (int i = 0; i < 20; i++)
		resumed += connect_once(contexts[0], contexts[1], TLS1_3_VERSION, &rules);
	assert_int_equal(resumed, 19);
	tls_thread_done();
	buf_thread_done();
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	struct tls_context *contexts[] = {context("a"), context("b")};
	pthread_t threads[4];
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, connect_many, contexts), 0);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
	tls_context_unref(contexts[0]);
	tls_context_unref(contexts[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ids),
	    cmocka_unit_test(test_patterns),
	    cmocka_unit_test(test_context_refusals),
	    cmocka_unit_test(test_context_describe),
	    cmocka_unit_test(test_context_same),
	    cmocka_unit_test(test_mesh_ca),
	    cmocka_unit_test(test_context_exposed_key),
	    cmocka_unit_test(test_context_out_of_memory),
	    cmocka_unit_test(test_handshake),
	    cmocka_unit_test(test_old_version_refused),
	    cmocka_unit_test(test_chain),
	    cmocka_unit_test(test_peers_refused),
	    cmocka_unit_test(test_no_client_certificate),
	    cmocka_unit_test(test_allow_list),
	    cmocka_unit_test(test_anchor_domain),
	    cmocka_unit_test(test_rules_narrow),
	    cmocka_unit_test(test_alpn_ranking),
	    cmocka_unit_test(test_alpn_names_are_whole),
	    cmocka_unit_test(test_resumption),
	    cmocka_unit_test(test_resumption_rules),
	    cmocka_unit_test(test_session_bounds),
	    cmocka_unit_test(test_transfer),
	    cmocka_unit_test(test_gathering),
	    cmocka_unit_test(test_write_before_handshake),
	    cmocka_unit_test(test_half_close),
	    cmocka_unit_test(test_truncation),
	    cmocka_unit_test(test_tampering),
	    cmocka_unit_test(test_plaintext),
	    cmocka_unit_test(test_random_bytes),
	    cmocka_unit_test(test_key_update_flood),
	    cmocka_unit_test(test_suites),
	    cmocka_unit_test(test_scattered_record),
	    cmocka_unit_test(test_replay),
	    cmocka_unit_test(test_records),
	    cmocka_unit_test(test_unread),
	    cmocka_unit_test(test_split_messages),
	    cmocka_unit_test(test_bad_headers),
	    cmocka_unit_test(test_empty_record_flood),
	    cmocka_unit_test(test_rekey),
	    cmocka_unit_test(test_update_before_take_over),
	    cmocka_unit_test(test_key_update_works),
	    cmocka_unit_test(test_ticket_in_pieces),
	    cmocka_unit_test(test_renegotiation),
	    cmocka_unit_test(test_long_handshake),
	    cmocka_unit_test(test_conn_out_of_memory),
	    cmocka_unit_test(test_data_out_of_memory),
	    cmocka_unit_test(test_threads),
	};
	return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
