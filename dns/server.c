// SPDX-License-Identifier: Apache-2.0
#include "dns/server.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "dns/answer.h"
#include "dns/names.h"
#include "dns/resolver.h"
#include "dns/tcp.h"
#include "dns/udp.h"
#include "run/stats.h"

#include <errno.h>
#include <unistd.h>

enum { LISTEN_MAX = 4, UDP_ALSO_MAX = 8 };

struct dns_server {
	struct dns_resolver resolver;
	struct dns_udp *udp[LISTEN_MAX];
	struct dns_tcp *tcp[LISTEN_MAX];
	size_t count;
	struct dns_udp *udp_also[UDP_ALSO_MAX]; // NULL: not to be had
};

enum dns_verdict dns_resolve(struct dns_resolver *resolver, const uint8_t *bytes, size_t len, bool tcp,
			     struct dns_query *ret_query, uint8_t *ret_answer, size_t *ret_len)
{
	stats_inc(STAT_DNS_QUERIES);
	enum dns_verdict verdict =
	    dns_answer(resolver->names, bytes, len, tcp, ret_query, ret_answer, ret_len);
	if (verdict == DNS_VERDICT_DROP) {
		stats_inc(STAT_DNS_MALFORMED);
		return verdict;
	}
	size_t limit = dns_query_limit(ret_query, tcp);
	if (verdict == DNS_VERDICT_ANSWER) {
		stats_inc(ret_query->rcode == DNS_FORMERR ? STAT_DNS_MALFORMED : STAT_DNS_ANSWERED);
		if (ret_query->nsid)
			*ret_len = dns_nsid_add(ret_answer, *ret_len, limit, STR(DNS_NSID_NAMES));
		return verdict;
	}
	*ret_len = dns_forward_cached(resolver->forwarder, ret_query, limit, ret_answer);
	if (!*ret_len)
		return DNS_VERDICT_FORWARD;
	if (ret_query->nsid)
		*ret_len = dns_nsid_add(ret_answer, *ret_len, limit, STR(DNS_NSID_CACHE));
	stats_inc(STAT_DNS_CACHED);
	return DNS_VERDICT_ANSWER;
}

size_t dns_resolve_failed(const struct dns_query *query, uint8_t *ret_answer)
{
	stats_inc(STAT_DNS_FAILED);
	return dns_answer_empty(query, DNS_SERVFAIL, DNS_EDE_NO_REACHABLE_AUTHORITY, ret_answer);
}

static int server_listen(struct dns_server *server, struct loop *loop, const struct addr *addr)
{
	int err = dns_udp_new(loop, addr, &server->resolver, &server->udp[server->count]);
	if (err)
		return err;
	err = dns_tcp_new(loop, addr, &server->resolver, &server->tcp[server->count]);
	server->count++;
	return err;
}

int dns_server_new(struct loop *loop, const struct addr *listen, size_t listen_count,
		   const struct dns_server_options *options, struct dns_server **ret_server)
{
	if (listen_count > LISTEN_MAX || options->udp_also_count > UDP_ALSO_MAX)
		return ERR_LIMIT;
	struct dns_server *server = mem_zalloc(sizeof *server);
	if (!server)
		return -ENOMEM;
	int err = dns_forwarder_new(loop, &options->forward, &server->resolver.forwarder);
	for (size_t i = 0; i < listen_count && !err; i++)
		err = server_listen(server, loop, &listen[i]);
	if (err) {
		dns_server_free(server);
		return err;
	}
	for (size_t i = 0; i < options->udp_also_count; i++)
		(void)dns_udp_new(loop, &options->udp_also[i], &server->resolver, &server->udp_also[i]);
	*ret_server = server;
	return 0;
}

void dns_server_set_names(struct dns_server *server, struct dns_names *names)
{
	struct dns_names *old = server->resolver.names;
	server->resolver.names = names ? dns_names_ref(names) : NULL;
	dns_names_unref(old);
}

size_t dns_server_flush(struct dns_server *server)
{
	return dns_forward_flush(server->resolver.forwarder);
}

// Clients first: they wait for the forwarder.
void dns_server_free(struct dns_server *server)
{
	if (!server)
		return;
	for (size_t i = 0; i < server->count; i++) {
		dns_udp_free(server->udp[i]);
		dns_tcp_free(server->tcp[i]);
	}
	for (size_t i = 0; i < UDP_ALSO_MAX; i++)
		dns_udp_free(server->udp_also[i]);
	dns_forwarder_free(server->resolver.forwarder);
	dns_names_unref(server->resolver.names);
	mem_free(server);
}
