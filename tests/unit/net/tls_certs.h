// SPDX-License-Identifier: Apache-2.0
// Authorities and certificates for tests, made in the process and written as PEM files into a temporary
// folder.
#pragma once

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct test_cert {
	X509 *cert;
	EVP_PKEY *key;
};

// NULL fields take the defaults: no URI name, valid from an hour ago for a day, both purposes.
struct test_cert_options {
	const char *names; // of subjectAltName, e.g. "URI:spiffe://mesh/a"
	const char *usage; // of extendedKeyUsage
	long begin, end;   // seconds from now
	int ca;
	const struct test_cert *issuer; // NULL: itself
};

static inline void test_cert_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (!extension || X509_add_ext(cert, extension, -1) != 1)
		abort();
	X509_EXTENSION_free(extension);
}

static inline struct test_cert test_cert_make(const char *name, const struct test_cert_options *options)
{
	static long serial = 1;
	struct test_cert made = {X509_new(), EVP_EC_gen("P-256")};
	const struct test_cert *issuer = options->issuer ? options->issuer : &made;
	X509_set_version(made.cert, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(made.cert), serial++);
	X509_gmtime_adj(X509_getm_notBefore(made.cert), options->begin ? options->begin : -3600);
	X509_gmtime_adj(X509_getm_notAfter(made.cert), options->end ? options->end : 86400);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(made.cert), "CN", MBSTRING_ASC,
				   (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(made.cert, X509_get_subject_name(issuer->cert));
	X509_set_pubkey(made.cert, made.key);
	test_cert_extension(made.cert, issuer->cert, NID_basic_constraints,
			    options->ca ? "critical,CA:TRUE" : "CA:FALSE");
	test_cert_extension(made.cert, issuer->cert, NID_key_usage,
			    options->ca ? "critical,keyCertSign,cRLSign,digitalSignature"
					: "critical,digitalSignature");
	if (!options->ca)
		test_cert_extension(made.cert, issuer->cert, NID_ext_key_usage,
				    options->usage ? options->usage : "serverAuth,clientAuth");
	if (options->names)
		test_cert_extension(made.cert, issuer->cert, NID_subject_alt_name, options->names);
	if (X509_sign(made.cert, issuer->key, EVP_sha256()) == 0)
		abort();
	return made;
}

static inline void test_cert_free(struct test_cert *made)
{
	X509_free(made->cert);
	EVP_PKEY_free(made->key);
	*made = (struct test_cert){0};
}

// Writes DIR/NAME.pem and DIR/NAME.key; `with` is appended to the certificate's file (a chain, a bundle), or
// NULL.
static inline void test_cert_write(const struct test_cert *made, const char *dir, const char *name,
				   X509 *with)
{
	char path[256];
	snprintf(path, sizeof path, "%s/%s.pem", dir, name);
	FILE *file = fopen(path, "w");
	if (!file || PEM_write_X509(file, made->cert) != 1 || (with && PEM_write_X509(file, with) != 1))
		abort();
	fclose(file);
	snprintf(path, sizeof path, "%s/%s.key", dir, name);
	file = fopen(path, "w");
	if (!file || PEM_write_PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL) != 1)
		abort();
	fclose(file);
	chmod(path, 0600);
}
