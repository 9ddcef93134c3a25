// SPDX-License-Identifier: Apache-2.0
#include "intercept/check.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "intercept/cgroups.h"
#include "intercept/decide.h"
#include "intercept/origdst.h"
#include "intercept/routes.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE_MS = 2000, DNS_PORT = 53, SOME_PORT = 80 };

// What the rules say, as far as the checks need it.
struct promises {
	const struct backend *backend;
	const struct ruleset *ruleset;
	uint16_t outbound_port, inbound_port, dns_port; // 0: not captured
	uint32_t outbound_mark, inbound_mark;		// 0: unknown
};

struct checker {
	struct promises promises;
	struct check_result *results;
	size_t count;
};

// --- reading the rules -------------------------------------------------------------------------------------
static bool rule_has(const struct rule *rule, enum rule_field field)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == field)
			return true;
	return false;
}

// The mark that connections must have for the rule; 0: none.
static uint32_t rule_mark(const struct rule *rule)
{
	for (size_t i = 0; i < rule->match_count; i++)
		if (rule->matches[i].field == RULE_MARK)
			return rule->matches[i].value;
	return 0;
}

static void note_output_rule(struct promises *promises, const struct rule *rule)
{
	uint32_t mark = rule_mark(rule);
	if (rule->action == RULE_REDIRECT && rule_has(rule, RULE_UDP_DEST_PORT))
		promises->dns_port = (uint16_t)rule->value;
	else if (rule->action == RULE_REDIRECT && rule_has(rule, RULE_PROTOCOL))
		promises->outbound_port = (uint16_t)rule->value;
	else if (mark && rule->action == RULE_GOTO)
		promises->outbound_mark = mark;
	else if (mark && rule->action == RULE_RETURN && !promises->inbound_mark)
		promises->inbound_mark = mark;
}

static struct promises find_promises(const struct installed *installed)
{
	const struct ruleset *ruleset = &installed->ruleset;
	struct promises promises = {.backend = installed->backend, .ruleset = ruleset};
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		const struct rule *rule = &ruleset->rules[i];
		if (rule->foreign)
			continue;
		if (rule->chain == CHAIN_OUTPUT || rule->chain == CHAIN_CHOSEN)
			note_output_rule(&promises, rule);
		else if (rule->chain == CHAIN_INBOUND && rule->action == RULE_REDIRECT)
			promises.inbound_port = (uint16_t)rule->value;
	}
	return promises;
}

static const struct rule_set *find_set(const struct ruleset *ruleset, const char *name)
{
	int set = ruleset_find_set(ruleset, name);
	return set < 0 || !ruleset->sets[set].count ? NULL : &ruleset->sets[set];
}

static uint16_t key_port(const uint8_t *key)
{
	return (uint16_t)(key[0] << 8 | key[1]);
}

// A port that the lists allow.
static uint16_t port_in(const struct ruleset *ruleset, const char *include, const char *exclude)
{
	const struct rule_set *set = find_set(ruleset, include);
	uint16_t port = set ? key_port(set->ranges[0].first) : SOME_PORT;
	set = find_set(ruleset, exclude);
	for (size_t i = 0; set && i < set->count; i++)
		if (port >= key_port(set->ranges[i].first) && port <= key_port(set->ranges[i].last))
			port = (uint16_t)(key_port(set->ranges[i].last) + 1);
	return port ? port : SOME_PORT;
}

// --- what the rules promise ---------------------------------------------------------------------------------
// The rule that decides on a connection of this process, made by the interface that the kernel would take.
static const struct rule *decide(const struct ruleset *ruleset, uint8_t protocol, const struct addr *dest)
{
	char name[IFNAMSIZ] = "";
	struct flow flow = {.protocol = protocol, .dest = *dest, .user = geteuid(), .group = getegid()};
	if (routes_interface(&dest->ip, name) == 0)
		flow.out_interface = name;
	if (cgroup_line_own(&flow.cgroups))
		flow.unknown |= 1u << RULE_CGROUP;
	return ruleset_decide(ruleset, CHAIN_OUTPUT, &flow);
}

static bool redirects(const struct rule *rule, uint16_t port)
{
	return rule && rule->action == RULE_REDIRECT && rule->value == port;
}

// A connection that should be captured: the first of several that are tried. Failing that, it is the first
// one, with the rule that leaves it alone.
struct search {
	const struct ruleset *ruleset;
	uint8_t protocol;
	uint16_t proxy_port;
	bool begun;
	struct addr target;
	const struct rule *rule; // that decides on it
};

static bool found(const struct search *search)
{
	return redirects(search->rule, search->proxy_port);
}

static void try(struct search *search, const struct ip *ip, uint16_t port)
{
	struct addr target = {.ip = *ip, .port = port};
	if (found(search))
		return;
	const struct rule *rule = decide(search->ruleset, search->protocol, &target);
	if (search->begun && !redirects(rule, search->proxy_port))
		return;
	search->begun = true;
	search->target = target;
	search->rule = rule;
}

// The edges of a set's ranges, and what follows the lower one, as the lowest address of a network may mean
// the network.
static void try_set(struct search *search, const char *name, int family, uint16_t port)
{
	char full[32];
	snprintf(full, sizeof full, "%s_%s", name, family == AF_INET6 ? "ipv6" : "ipv4");
	const struct rule_set *set = find_set(search->ruleset, full);
	for (size_t i = 0; set && i < set->count && !found(search); i++) {
		struct ip first = {.family = (uint8_t)family}, last = first, next;
		size_t len = rule_set_key_len(set->type);
		memcpy(first.bytes, set->ranges[i].first, len);
		memcpy(last.bytes, set->ranges[i].last, len);
		next = first;
		next.bytes[len - 1] |= 1;
		if (memcmp(next.bytes, last.bytes, len) <= 0)
			try(search, &next, port);
		try(search, &first, port);
		try(search, &last, port);
	}
}

static struct ip loopback(int family)
{
	return family == AF_INET6 ? (struct ip){AF_INET6, {[15] = 1}} : (struct ip){AF_INET, {127, 0, 0, 1}};
}

// Where captured connections may go: a virtual IP, an included network, or else an address kept for
// documentation.
static struct search outbound_target(const struct promises *promises, int family)
{
	static const struct ip examples[] = {
	    {AF_INET, {192, 0, 2, 1}},
	    {AF_INET, {198, 51, 100, 1}},
	    {AF_INET6, {0x20, 0x01, 0x0d, 0xb8, [15] = 1}},
	    {AF_INET6, {0x3f, 0xff, [15] = 1}},
	};
	const struct ruleset *ruleset = promises->ruleset;
	struct search search = {ruleset, .protocol = IPPROTO_TCP, .proxy_port = promises->outbound_port};
	uint16_t port = port_in(ruleset, "outbound_include_ports", "outbound_exclude_ports");
	try_set(&search, "vips", family, port);
	try_set(&search, "outbound_include", family, port);
	for (size_t i = 0; i < ARRAY_SIZE(examples); i++)
		if (examples[i].family == family)
			try(&search, &examples[i], port);
	return search;
}

static struct search dns_target(const struct promises *promises, int family, uint8_t protocol)
{
	struct search search = {promises->ruleset, .protocol = protocol, .proxy_port = promises->dns_port};
	struct ip lo = loopback(family);
	try_set(&search, "dns_servers", family, DNS_PORT);
	try(&search, &lo, DNS_PORT);
	return search;
}

// --- this host ----------------------------------------------------------------------------------------------
// An address of this host that others may connect to; false if there is none.
static bool own_address(int family, struct ip *ret_ip)
{
	struct ifaddrs *all;
	bool found = false;
	if (getifaddrs(&all) < 0)
		return false;
	for (const struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
		struct sockaddr_storage sa = {0};
		struct addr addr;
		if (!i->ifa_addr || i->ifa_addr->sa_family != family)
			continue;
		memcpy(&sa, i->ifa_addr,
		       family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
		bool usable = addr_from_sockaddr(&sa, &addr) == 0 && !ip_is_loopback(&addr.ip);
		bool link_local =
		    family == AF_INET6 && addr.ip.bytes[0] == 0xfe && (addr.ip.bytes[1] & 0xc0) == 0x80;
		found = usable && !link_local;
		if (found)
			*ret_ip = addr.ip;
	}
	freeifaddrs(all);
	return found;
}

// --- sockets -----------------------------------------------------------------------------------------------
static int open_socket(int family, int type)
{
	int fd = socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int on = 1;
	if (fd >= 0 && family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
	return fd < 0 ? -errno : fd;
}

static int bind_to(int fd, const struct addr *addr)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(addr, &sa);
	return bind(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

static int local_addr(int fd, struct addr *ret_addr)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	return getsockname(fd, (struct sockaddr *)&sa, &len) < 0 ? -errno : addr_from_sockaddr(&sa, ret_addr);
}

static int wait_for(int fd, short events)
{
	struct pollfd pfd = {.fd = fd, .events = events};
	int n = poll(&pfd, 1, PATIENCE_MS);
	return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

// Listens on the address; *ret_fd is -1 if somebody else does already.
static int listen_on(const struct addr *addr, int type, int *ret_fd)
{
	int fd = open_socket(addr->ip.family, type), on = 1;
	if (fd < 0)
		return fd;
	// What is left of earlier connections is nobody who listens.
	if (type == SOCK_STREAM)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	int err = bind_to(fd, addr);
	if (err == 0 && type == SOCK_STREAM && listen(fd, 16) < 0)
		err = -errno;
	if (err) {
		close(fd);
		fd = -1;
	}
	if (err && err != -EADDRINUSE)
		return err;
	*ret_fd = fd;
	return 0;
}

// A connected socket in *ret_fd, or a negative error.
static int connect_to(const struct addr *target, int type, uint32_t mark, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len = addr_to_sockaddr(target, &sa), error_len = sizeof(int);
	int error = 0, fd = open_socket(target->ip.family, type);
	if (fd < 0)
		return fd;
	if (mark && setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark) < 0)
		error = errno;
	else if (connect(fd, (struct sockaddr *)&sa, len) < 0)
		error = errno;
	if (error == EINPROGRESS) {
		error = -wait_for(fd, POLLOUT);
		if (!error && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_len) < 0)
			error = errno;
	}
	if (error) {
		close(fd);
		return -error;
	}
	*ret_fd = fd;
	return 0;
}

// --- where a connection arrived ----------------------------------------------------------------------------
static void hex_address(const struct addr *addr, char ret_text[48])
{
	size_t len = addr->ip.family == AF_INET6 ? 16 : 4, at = 0;
	for (size_t word = 0; word < len; word += 4) {
		uint32_t value;
		memcpy(&value, addr->ip.bytes + word, sizeof value);
		at += (size_t)snprintf(ret_text + at, 48 - at, "%08X", value);
	}
	snprintf(ret_text + at, 48 - at, ":%04X", addr->port);
}

// Whether a socket of this namespace has the local port and the remote address: the other end of our
// connection.
static bool has_socket(uint16_t port, const struct addr *remote)
{
	char wanted[48], line[512], local[48], peer[48];
	unsigned number;
	FILE *file = fopen(remote->ip.family == AF_INET6 ? "/proc/net/tcp6" : "/proc/net/tcp", "re");
	bool found = false;
	if (!file)
		return false;
	hex_address(remote, wanted);
	while (!found && fgets(line, sizeof line, file)) {
		if (sscanf(line, " %*u: %47s %47s", local, peer) != 2 || strcmp(peer, wanted) != 0)
			continue;
		const char *colon = strchr(local, ':');
		found = colon && sscanf(colon, ":%X", &number) == 1 && number == port;
	}
	fclose(file);
	return found;
}

// How often a rule has been used by now; 0 if the rules have changed.
static uint64_t packets_now(const struct promises *promises, const struct rule *rule)
{
	const struct ruleset *ruleset = promises->ruleset;
	autostrbuf struct strbuf ignored = {0};
	struct ruleset now;
	size_t index = (size_t)(rule - ruleset->rules);
	if (promises->backend->read(&now, &ignored))
		return 0;
	bool same = now.rule_count == ruleset->rule_count && now.rules[index].chain == rule->chain &&
		    strcmp(now.rules[index].comment, rule->comment) == 0;
	uint64_t packets = same ? now.rules[index].packets : 0;
	ruleset_done(&now);
	return packets;
}

// Whether our connection arrives at the listener; *ret_original is where it was going.
static int accept_from(int listener, const struct addr *client, struct addr *ret_original)
{
	for (;;) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof sa;
		struct addr peer = {0};
		int err = wait_for(listener, POLLIN);
		if (err)
			return err;
		autoclose int fd = accept4(listener, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC);
		if (fd < 0)
			return -errno;
		// Others may be captured meanwhile.
		if (addr_from_sockaddr(&sa, &peer) == 0 && addr_eq(&peer, client))
			return original_destination_family(fd, client->ip.family, ret_original);
	}
}

// --- results -----------------------------------------------------------------------------------------------
static struct check_result *begin(struct checker *checker, const char *what, const struct addr *target)
{
	struct check_result *result = &checker->results[checker->count++];
	*result = (struct check_result){.what = what, .family = target->ip.family, .target = *target};
	return result;
}

static void finish(struct check_result *result, enum check_verdict verdict, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void finish(struct check_result *result, enum check_verdict verdict, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	vsnprintf(result->detail, sizeof result->detail, format, args);
	va_end(args);
	result->verdict = verdict;
}

// A connection that could not be made: not every host has both families and a route to everywhere. If there
// is a route, it is the network that sent word that the destination cannot be reached.
static void finish_unconnected(struct check_result *result, const char *failure, int err)
{
	char name[IFNAMSIZ];
	bool unreachable = err == -ENETUNREACH || err == -EHOSTUNREACH || err == -EACCES;
	bool absent = err == -EAFNOSUPPORT || err == -EADDRNOTAVAIL;
	if (absent || (unreachable && routes_interface(&result->target.ip, name)))
		finish(result, CHECK_SKIPPED, "no route: nothing could be captured");
	else if (err == -EPERM)
		finish(result, CHECK_SKIPPED,
		       "sockets cannot be marked without CAP_NET_RAW or CAP_NET_ADMIN");
	else if (err == -ETIMEDOUT)
		finish(result, CHECK_FAILED, "%s: it left the host, and nobody answered", failure);
	else
		finish(result, CHECK_FAILED, "%s: %s", failure, err_text(err));
}

static void finish_stand_in(struct check_result *result, int listener, const struct addr *client,
			    uint16_t port)
{
	char text[ADDR_TEXT_MAX];
	struct addr original;
	int err = accept_from(listener, client, &original);
	if (err == -ETIMEDOUT)
		finish(result, CHECK_FAILED, "not captured: it did not arrive at port %u", port);
	else if (err)
		finish(result, CHECK_FAILED, "captured, but the destination is lost: %s", err_text(err));
	else if (!addr_eq(&original, &result->target))
		finish(result, CHECK_FAILED, "captured, but the destination is said to be %s",
		       addr_format(&original, text));
	else
		finish(result, CHECK_OK, "captured to port %u (the proxy is not running)", port);
}

static void finish_spared(struct check_result *result, const struct rule *rule)
{
	if (rule)
		finish(result, CHECK_SKIPPED, "the rules leave it alone: %s", rule->comment);
	else
		finish(result, CHECK_SKIPPED, "the rules leave it alone");
}

// The connection must arrive at the port of the proxy, or of its stand-in. The proxy may close it before one
// can look: then the rule has counted it.
static void check_captured(struct checker *checker, const char *what, const struct search *to, uint32_t mark)
{
	struct check_result *result = begin(checker, what, &to->target);
	struct addr proxy = {.ip = loopback(to->target.ip.family), .port = to->proxy_port}, client = {0};
	if (!found(to)) {
		finish_spared(result, to->rule);
		return;
	}
	autoclose int listener = -1, fd = -1;
	uint64_t before = packets_now(&checker->promises, to->rule);
	int err = listen_on(&proxy, SOCK_STREAM, &listener);
	if (err == 0)
		err = connect_to(&to->target, SOCK_STREAM, mark, &fd);
	if (err == 0)
		err = local_addr(fd, &client);
	if (err && err != -ECONNRESET) // which is after it was made
		finish_unconnected(result, "not captured", err);
	else if (listener >= 0)
		finish_stand_in(result, listener, &client, to->proxy_port);
	else if (has_socket(to->proxy_port, &client) || packets_now(&checker->promises, to->rule) > before)
		finish(result, CHECK_OK, "captured to port %u", to->proxy_port);
	else
		finish(result, CHECK_FAILED, "not captured: it did not arrive at port %u", to->proxy_port);
}

// The connection must arrive at a listener of ours.
static void check_spared(struct checker *checker, const char *what, const struct ip *ip, uint32_t mark)
{
	struct addr target = {.ip = *ip}, client = {0}, original;
	autoclose int listener = -1, fd = -1;
	int err = listen_on(&target, SOCK_STREAM, &listener);
	if (err == 0)
		err = local_addr(listener, &target);
	struct check_result *result = begin(checker, what, &target);
	if (err == 0)
		err = connect_to(&target, SOCK_STREAM, mark, &fd);
	if (err == 0)
		err = local_addr(fd, &client);
	if (err)
		finish_unconnected(result, "it did not arrive", err);
	else if (accept_from(listener, &client, &original) == -ETIMEDOUT)
		finish(result, CHECK_FAILED, "captured, though it should not be");
	else
		finish(result, CHECK_OK, "left alone");
}

// --- DNS ---------------------------------------------------------------------------------------------------
// Answers one query of ours with itself, as the proxy would.
static void answer_query(int listener)
{
	uint8_t query[512];
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	if (wait_for(listener, POLLIN))
		return;
	ssize_t n = recvfrom(listener, query, sizeof query, 0, (struct sockaddr *)&sa, &len);
	if (n > 2) {
		query[2] |= 0x80;
		sendto(listener, query, (size_t)n, 0, (struct sockaddr *)&sa, len);
	}
}

// A query of the operation STATUS, which nobody implements: every server answers so at once, by itself.
static int ask(int fd, int listener)
{
	uint8_t query[12] = {0, 0, 2 << 3}, answer[512];
	uint16_t id = (uint16_t)random_u64();
	memcpy(query, &id, sizeof id);
	if (send(fd, query, sizeof query, 0) < 0)
		return -errno;
	if (listener >= 0)
		answer_query(listener);
	int err = wait_for(fd, POLLIN);
	if (err)
		return err;
	ssize_t n = recv(fd, answer, sizeof answer, 0);
	return n < 0 ? -errno : n >= 12 && memcmp(answer, &id, sizeof id) == 0 ? 0 : ERR_MALFORMED;
}

static void finish_dns(struct check_result *result, bool counted, int err, const struct search *to,
		       bool running)
{
	if (!counted)
		finish(result, CHECK_FAILED, "not captured");
	else if (err)
		finish(result, CHECK_FAILED, "captured, but there is no answer: %s", err_text(err));
	else
		finish(result, CHECK_OK, "captured to port %u%s", to->proxy_port,
		       running ? "" : " (the proxy is not running)");
}

static void check_dns_udp(struct checker *checker, const struct search *to)
{
	struct addr proxy = {.ip = loopback(to->target.ip.family), .port = to->proxy_port};
	struct check_result *result = begin(checker, "DNS over UDP", &to->target);
	if (!found(to)) {
		finish_spared(result, to->rule);
		return;
	}
	autoclose int listener = -1, fd = -1;
	uint64_t before = packets_now(&checker->promises, to->rule);
	int err = listen_on(&proxy, SOCK_DGRAM, &listener);
	if (err == 0)
		err = connect_to(&to->target, SOCK_DGRAM, 0, &fd);
	if (err) {
		finish_unconnected(result, "not captured", err);
		return;
	}
	err = ask(fd, listener);
	finish_dns(result, packets_now(&checker->promises, to->rule) > before, err, to, listener < 0);
}

// --- all ----------------------------------------------------------------------------------------------------
static void check_dns(struct checker *checker, int family)
{
	struct search udp = dns_target(&checker->promises, family, IPPROTO_UDP);
	struct search tcp = dns_target(&checker->promises, family, IPPROTO_TCP);
	check_dns_udp(checker, &udp);
	check_captured(checker, "DNS over TCP", &tcp, 0);
}

// The way that connections of the outbound proxy take to an endpoint on this host ends as that of other
// hosts' does.
static void check_inbound(struct checker *checker, const struct ip *own)
{
	const struct promises *promises = &checker->promises;
	struct search to = {promises->ruleset, .protocol = IPPROTO_TCP, .proxy_port = promises->inbound_port};
	to.target = (struct addr){
	    .ip = *own, .port = port_in(promises->ruleset, "inbound_include_ports", "inbound_exclude_ports")};
	struct flow flow = {.protocol = IPPROTO_TCP, .dest = to.target};
	to.rule = ruleset_decide(promises->ruleset, CHAIN_INBOUND, &flow);
	check_captured(checker, "inbound TCP", &to, promises->outbound_mark);
	if (ruleset_has_chain(promises->ruleset, CHAIN_HANDED))
		finish(begin(checker, "inbound TCP, tproxy", &to.target), CHECK_SKIPPED,
		       "only a connection from another host could show it");
}

static void check_own_host(struct checker *checker, int family)
{
	const struct promises *promises = &checker->promises;
	struct ip own, lo = loopback(family);
	if (promises->outbound_port)
		check_spared(checker, "to a loopback address", &lo, 0);
	if (!own_address(family, &own))
		return;
	if (promises->outbound_port)
		check_spared(checker, "to its own address", &own, 0);
	if (promises->inbound_mark)
		check_spared(checker, "proxy to application", &own, promises->inbound_mark);
	if (promises->inbound_port && promises->outbound_mark)
		check_inbound(checker, &own);
}

static void check_family(struct checker *checker, int family)
{
	const struct promises *promises = &checker->promises;
	if (promises->outbound_port) {
		struct search to = outbound_target(promises, family);
		check_captured(checker, "outbound TCP", &to, 0);
	}
	if (promises->dns_port)
		check_dns(checker, family);
	check_own_host(checker, family);
}

// Rules know control groups by numbers, which do not come again.
static const struct rule *find_stale(const struct ruleset *ruleset, size_t *ret_stale, size_t *ret_all)
{
	const struct rule *first = NULL;
	for (size_t i = 0; i < ruleset->rule_count; i++) {
		const struct rule *rule = &ruleset->rules[i];
		for (size_t j = 0; j < rule->match_count && rule->chain == CHAIN_OUTPUT; j++) {
			const struct rule_match *match = &rule->matches[j];
			if (match->field != RULE_CGROUP)
				continue;
			++*ret_all;
			if (cgroup_exists(match->path, match->cgroup, match->value))
				continue;
			++*ret_stale;
			first = first ? first : rule;
		}
	}
	return first;
}

static void check_cgroups(struct checker *checker)
{
	const struct addr nowhere = {0};
	size_t stale = 0, all = 0;
	const struct rule *rule = find_stale(checker->promises.ruleset, &stale, &all);
	if (all == 0)
		return;
	struct check_result *result = begin(checker, "control groups", &nowhere);
	if (rule)
		finish(result, CHECK_FAILED,
		       "%zu of %zu gone, or made anew since: weir intercept apply looks them up again; %s",
		       stale, all, rule->comment);
	else
		finish(result, CHECK_OK, "%zu, all there", all);
}

size_t intercept_check(const struct installed *installed, struct check_result ret_results[CHECK_RESULTS_MAX])
{
	struct checker checker = {.promises = find_promises(installed), .results = ret_results};
	static const uint8_t families[] = {AF_INET, AF_INET6};
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		if (!ruleset_spares_family(&installed->ruleset, families[i]))
			check_family(&checker, families[i]);
	check_cgroups(&checker);
	return checker.count;
}
