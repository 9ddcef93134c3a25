// SPDX-License-Identifier: Apache-2.0
#include "net/tls_internal.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>

// --- identities ----------------------------------------------------------------------------------

static bool is_domain_byte(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

static bool is_path_byte(char c)
{
	return is_domain_byte(c) || (c >= 'A' && c <= 'Z');
}

// Every byte fits, and there is one.
static bool all_bytes(struct str text, bool (*fits)(char))
{
	for (size_t i = 0; i < text.len; i++)
		if (!fits(text.p[i]))
			return false;
	return text.len > 0;
}

// Splits "spiffe://domain/path"; the path begins with its slash, or is empty. SPIFFE-ID, section 2.
static bool id_split(struct str id, struct str *ret_domain, struct str *ret_path)
{
	const struct str scheme = STR("spiffe://");
	if (id.len > LIMIT_SPIFFE_ID || !str_starts(id, scheme))
		return false;
	struct str rest = {id.p + scheme.len, id.len - scheme.len};
	ptrdiff_t slash = str_find(rest, '/');
	size_t domain_len = slash < 0 ? rest.len : (size_t)slash;
	*ret_domain = (struct str){rest.p, domain_len};
	*ret_path = (struct str){rest.p + domain_len, rest.len - domain_len};
	return domain_len <= 255 && all_bytes(*ret_domain, is_domain_byte);
}

// No empty segment, no "." or "..", no slash at the end. SPIFFE-ID, section 2.2.
static bool path_is_valid(struct str path)
{
	struct str rest = {path.p + 1, path.len - 1};
	while (rest.p) {
		struct str segment = str_split(&rest, '/');
		if (!all_bytes(segment, is_path_byte) || str_eq(segment, STR(".")) ||
		    str_eq(segment, STR("..")))
			return false;
	}
	return true;
}

bool tls_id_is_valid(struct str id)
{
	struct str domain, path;
	return id_split(id, &domain, &path) && path.len > 1 && path_is_valid(path);
}

struct str tls_id_domain(struct str id)
{
	struct str domain, path;
	return id_split(id, &domain, &path) ? domain : STR("");
}

bool tls_id_matches(struct str id, struct str pattern)
{
	if (pattern.len && pattern.p[pattern.len - 1] == '*')
		return str_starts(id, (struct str){pattern.p, pattern.len - 1});
	return str_eq(id, pattern);
}

int tls_cert_id(X509 *cert, bool leaf, GENERAL_NAMES **ret_names, struct str *ret_id)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	struct str id = {0}, domain, path;
	int uris = 0;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
		if (name->type != GEN_URI)
			continue;
		uris++;
		id.p = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
		id.len = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
	}
	bool fits = uris == 1 && (leaf ? tls_id_is_valid(id) : id_split(id, &domain, &path) && path.len == 0);
	if (!fits) {
		GENERAL_NAMES_free(names);
		return ERR_NOT_FOUND;
	}
	*ret_names = names;
	*ret_id = id;
	return 0;
}

// --- allow lists ---------------------------------------------------------------------------------

int tls_patterns_copy(const struct str *list, size_t count, struct tls_patterns *ret_patterns)
{
	size_t bytes = 0;
	for (size_t i = 0; i < count; i++)
		bytes += list[i].len;
	if (count == 0) {
		*ret_patterns = (struct tls_patterns){0};
		return 0;
	}
	struct str *copy = count < SIZE_MAX / 64 ? mem_alloc(count * sizeof *copy + bytes) : NULL;
	if (!copy)
		return -ENOMEM;
	char *text = (char *)(copy + count);
	for (size_t i = 0; i < count; i++) {
		copy[i] = (struct str){text, list[i].len};
		if (list[i].len)
			text = mempcpy(text, list[i].p, list[i].len);
	}
	*ret_patterns = (struct tls_patterns){copy, count};
	return 0;
}

void tls_patterns_done(struct tls_patterns *patterns)
{
	mem_free(patterns->list);
	*patterns = (struct tls_patterns){0};
}

// An empty list allows everything.
static bool patterns_allow(const struct tls_patterns *patterns, struct str id)
{
	for (size_t i = 0; i < patterns->count; i++)
		if (tls_id_matches(id, patterns->list[i]))
			return true;
	return patterns->count == 0;
}

static bool both_allow(const struct tls_conn *conn, struct str id)
{
	return patterns_allow(&conn->context->allow, id) && patterns_allow(&conn->allow, id);
}

// --- the verdict ---------------------------------------------------------------------------------

// The domain that the anchor at the chain's end names binds the id; an anchor that names none vouches for our
// own domain, and for others only as far as the allow list goes.
static bool domain_fits(const struct tls_context *context, X509 *anchor, struct str id)
{
	GENERAL_NAMES *names;
	struct str anchor_id;
	struct str domain = tls_id_domain(id);
	if (tls_cert_id(anchor, false, &names, &anchor_id))
		return context->allow.count > 0 || str_eq(domain, context->domain);
	bool fits = str_eq(domain, tls_id_domain(anchor_id));
	GENERAL_NAMES_free(names);
	return fits;
}

static int refuse(struct tls_conn *conn, struct str id, const char *why)
{
	strbuf_clear(&conn->reason);
	strbuf_add_text(&conn->reason, why);
	if (id.len)
		strbuf_printf(&conn->reason, " (%.*s)", STR_ARG(id));
	return ERR_TLS_PEER;
}

static int judge(struct tls_conn *conn, X509 *anchor, struct str id)
{
	if (anchor && !domain_fits(conn->context, anchor, id))
		return refuse(conn, id, "the identity is not of a trust domain of ours");
	if (!both_allow(conn, id))
		return refuse(conn, id, "the identity is not in the allow list");
	if (!conn->peer_id.p) {
		conn->peer_id = (struct str){mem_strndup(id.p, id.len), id.len};
		if (!conn->peer_id.p)
			return -ENOMEM;
	}
	return 0;
}

// `anchor` is NULL for a resumed session: its chain was judged by this very context.
static int judge_cert(struct tls_conn *conn, X509 *leaf, X509 *anchor)
{
	GENERAL_NAMES *names;
	struct str id;
	if (tls_cert_id(leaf, true, &names, &id))
		return refuse(conn, STR(""), "the certificate has no SPIFFE id as its only URI name");
	int err;
	if (X509_get_extension_flags(leaf) & EXFLAG_CA)
		err = refuse(conn, id, "the certificate is that of an authority, not of a workload");
	else
		err = judge(conn, anchor, id);
	GENERAL_NAMES_free(names);
	return err;
}

static void explain_chain_failure(struct tls_conn *conn, X509_STORE_CTX *store)
{
	GENERAL_NAMES *names = NULL;
	struct str id = STR("");
	X509 *leaf = X509_STORE_CTX_get0_cert(store);
	if (leaf)
		tls_cert_id(leaf, true, &names, &id);
	refuse(conn, id, X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
	GENERAL_NAMES_free(names);
}

int tls_peer_verify(X509_STORE_CTX *store, void *context)
{
	(void)context;
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_conn *conn = SSL_get_app_data(ssl);
	if (X509_verify_cert(store) <= 0) {
		explain_chain_failure(conn, store);
		return 0;
	}
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(store);
	int err = judge_cert(conn, sk_X509_value(chain, 0), sk_X509_value(chain, sk_X509_num(chain) - 1));
	if (err)
		X509_STORE_CTX_set_error(store,
					 err == -ENOMEM ? X509_V_ERR_OUT_OF_MEM : X509_V_ERR_CERT_REJECTED);
	return err == 0;
}

static bool valid_now(X509 *cert)
{
	return X509_cmp_current_time(X509_get0_notBefore(cert)) < 0 &&
	       X509_cmp_current_time(X509_get0_notAfter(cert)) > 0;
}

int tls_peer_recheck(struct tls_conn *conn)
{
	X509 *leaf = SSL_get0_peer_certificate(conn->ssl);
	if (!leaf)
		return refuse(conn, STR(""), "the peer showed no certificate");
	if (!valid_now(leaf))
		return refuse(conn, STR(""), "the certificate of the resumed session is not valid now");
	return judge_cert(conn, leaf, NULL);
}

bool tls_peer_session_fits(const struct tls_conn *conn, SSL_SESSION *session)
{
	GENERAL_NAMES *names;
	struct str id;
	X509 *leaf = SSL_SESSION_get0_peer(session);
	if (!leaf || !valid_now(leaf) || tls_cert_id(leaf, true, &names, &id))
		return false;
	bool fits = both_allow(conn, id);
	GENERAL_NAMES_free(names);
	return fits;
}
