// SPDX-License-Identifier: Apache-2.0
// A query goes to the proxy's responder as one that was captured would, and asks by NSID (RFC 5001) where the
// answer is from, which the responder alone knows.
#include "cli/dns_commands.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/mem.h"
#include "cli/options.h"
#include "cli/process.h"
#include "cli/reply.h"
#include "dns/text.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
	PATIENCE_S = 5,
	OPTION_NSID = 3,
	QUERY_BYTES = DNS_HEADER_BYTES + LIMIT_DNS_NAME + 4 + DNS_OPT_BYTES + 4
};

struct asking {
	struct cli *cli;
	struct reply *names; // what `dns show` says
	struct addr responder;
	struct dns_name name;
	uint16_t id, type;
	bool tcp;
	uint64_t took_ns;
	uint8_t query[QUERY_BYTES];
	size_t query_len, len;
	uint8_t answer[DNS_MESSAGE_MAX];
};

// --- the question -------------------------------------------------------------------------------------------
// "7.3.240.240.in-addr.arpa"; of IPv6, nibble by nibble.
static void reverse_name(const struct ip *ip, struct strbuf *out)
{
	if (ip->family == AF_INET)
		for (int i = 3; i >= 0; i--)
			strbuf_printf(out, "%u.", ip->bytes[i]);
	else
		for (int i = 15; i >= 0; i--)
			strbuf_printf(out, "%x.%x.", ip->bytes[i] & 15, ip->bytes[i] >> 4);
	strbuf_add_text(out, ip->family == AF_INET ? "in-addr.arpa" : "ip6.arpa");
}

static int read_question(struct asking *asking)
{
	struct cli *cli = asking->cli;
	autostrbuf struct strbuf reverse = {0};
	struct ip ip;
	struct str name = str_from(cli_get(cli, "name"));
	const char *type = cli_get(cli, "type");
	asking->type = DNS_TYPE_A;
	if (!type && ip_parse(name, &ip) == 0) {
		asking->type = DNS_TYPE_PTR;
		reverse_name(&ip, &reverse);
		name = strbuf_str(&reverse);
	}
	if (dns_name_from_text(name, &asking->name))
		return cli_usage(cli, "'%.*s' is no name", STR_ARG(name));
	if (type && dns_type_from_text(str_from(type), &asking->type))
		return cli_usage(cli, "'%s' is no type of a record, such as A, SRV or 65", type);
	return CLI_DONE;
}

static int write_question(struct asking *asking)
{
	struct writer w;
	int err = random_secret(&asking->id, sizeof asking->id);
	writer_init(&w, asking->query, sizeof asking->query);
	writer_u16(&w, asking->id);
	writer_u16(&w, DNS_FLAG_RD);
	writer_u16(&w, 1);
	writer_u32(&w, 0);
	writer_u16(&w, 1);
	writer_bytes(&w, asking->name.bytes, asking->name.len);
	writer_u16(&w, asking->type);
	writer_u16(&w, DNS_CLASS_IN);
	dns_opt_write(&w, 0, false, 4);
	writer_u16(&w, OPTION_NSID);
	writer_u16(&w, 0);
	asking->query_len = w.len;
	return err ? err : w.err;
}

// --- where to ask -------------------------------------------------------------------------------------------
// The responder listens on the loopback of the proxy's network namespace, which this process enters.
static int find_responder(struct asking *asking)
{
	struct cli *cli = asking->cli;
	autostrbuf struct strbuf error = {0};
	int status = reply_ask(cli, "dns", "show", NULL, 0, &asking->names, &error);
	if (status)
		return cli_fail(cli, "%s", error.p);
	const struct json_value *listen = json_member(reply_root(asking->names), "listen");
	const struct json_value *first = listen ? json_next(listen, NULL) : NULL;
	if (!first || first->type != JSON_STRING || addr_parse(json_str_of(first), &asking->responder))
		return cli_fail(cli, "the proxy answers no queries: intercept.dns is 0");
	pid_t pid = cli_proxy_pid(cli);
	int err = pid ? process_enter_network(pid) : 0;
	if (err < 0)
		return cli_fail(cli, "cannot enter the network namespace of the proxy, process %d: %s", pid,
				err_text(err));
	return CLI_DONE;
}

static int open_socket(const struct asking *asking, int *ret_fd)
{
	struct sockaddr_storage sa;
	struct timeval patience = {.tv_sec = PATIENCE_S};
	socklen_t len = addr_to_sockaddr(&asking->responder, &sa);
	int fd =
	    socket(asking->responder.ip.family, (asking->tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
	if (connect(fd, (struct sockaddr *)&sa, len) < 0) {
		int err = -errno;
		close(fd);
		return err;
	}
	*ret_fd = fd;
	return 0;
}

// --- asking -------------------------------------------------------------------------------------------------
static int receive(int fd, void *bytes, size_t len, int flags, size_t *ret_len)
{
	ssize_t n = recv(fd, bytes, len, flags);
	if (n < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	*ret_len = (size_t)n;
	return n == 0 ? -ECONNRESET : 0;
}

static int receive_answer(struct asking *asking, int fd)
{
	uint8_t length[2];
	size_t n = 0;
	if (!asking->tcp)
		return receive(fd, asking->answer, sizeof asking->answer, 0, &asking->len);
	int err = receive(fd, length, 2, MSG_WAITALL, &n);
	size_t len = (size_t)length[0] << 8 | length[1];
	if (!err && n == 2)
		err = receive(fd, asking->answer, len, MSG_WAITALL, &asking->len);
	return err ? err : n == 2 && asking->len == len ? 0 : -ECONNRESET;
}

static int exchange(struct asking *asking)
{
	autoclose int fd = -1;
	uint8_t framed[2 + QUERY_BYTES] = {(uint8_t)(asking->query_len >> 8), (uint8_t)asking->query_len};
	size_t skip = asking->tcp ? 0 : 2;
	int err = open_socket(asking, &fd);
	memcpy(framed + 2, asking->query, asking->query_len);
	if (!err && send(fd, framed + skip, asking->query_len + 2 - skip, MSG_NOSIGNAL) < 0)
		err = -errno;
	if (!err)
		err = receive_answer(asking, fd);
	bool whole = !err && asking->len >= DNS_HEADER_BYTES && asking->answer[0] == asking->id >> 8 &&
		     asking->answer[1] == (uint8_t)asking->id;
	return err ? err : whole ? 0 : ERR_MALFORMED;
}

// By UDP first, as programs do; what does not fit comes by TCP.
static int ask(struct asking *asking)
{
	uint64_t start = clock_mono_ns();
	asking->tcp = cli_has(asking->cli, "tcp");
	int err = exchange(asking);
	if (!err && !asking->tcp && asking->answer[2] & DNS_FLAG_TC >> 8) {
		asking->tcp = true;
		err = exchange(asking);
	}
	asking->took_ns = clock_mono_ns() - start;
	return err;
}

// --- the answer ---------------------------------------------------------------------------------------------
static bool has_address(const struct json_value *row, const struct ip *ip)
{
	struct ip v4, v6;
	return (reply_ip(row, "v4", &v4) && ip_eq(&v4, ip)) || (reply_ip(row, "v6", &v6) && ip_eq(&v6, ip));
}

// The service whose virtual IP the record holds; p is NULL: none.
static struct str service_of(const struct asking *asking, struct str data)
{
	const struct json_value *rows = json_member(reply_root(asking->names), "names");
	struct ip ip;
	if (!rows || ip_parse(data, &ip))
		return (struct str){NULL, 0};
	for (const struct json_value *row = NULL; (row = json_next(rows, row));)
		if (has_address(row, &ip))
			return reply_text(row, "name");
	return (struct str){NULL, 0};
}

static void emit_record(const struct asking *asking, struct reader *r)
{
	struct emit *emit = asking->cli->emit;
	struct dns_name owner = {.len = 1, .bytes = {0}};
	struct dns_record record = {.data = {(const char *)asking->answer, 0}};
	char name[DNS_NAME_TEXT_MAX], type[DNS_WORD_MAX];
	autostrbuf struct strbuf data = {0};
	struct reader_tag start = reader_tag(r);
	dns_name_read(r, &owner);
	reader_rollback(r, start);
	dns_record_read(r, &record);
	if (r->err)
		return;
	dns_data_format(asking->answer, asking->len, &record, &data);
	emit_row_begin(emit);
	emit_text(emit, "name", dns_name_format(owner.bytes, name));
	emit_text(emit, "type", dns_type_format(record.type, type));
	emit_uint(emit, "ttl", record.ttl);
	emit_str(emit, "data", strbuf_str(&data));
	emit_str(emit, "virtual_ip_of", service_of(asking, strbuf_str(&data)));
	emit_row_end(emit);
}

// The answer section, and the one that says why there is none (SOA).
static void emit_records(const struct asking *asking)
{
	static const char *const names[] = {"answer", "authority"};
	uint16_t questions, counts[3];
	struct reader r;
	reader_init(&r, asking->answer, asking->len);
	reader_skip(&r, 4);
	questions = reader_u16(&r);
	for (int i = 0; i < 3; i++)
		counts[i] = reader_u16(&r);
	for (; questions && !r.err; questions--) {
		dns_name_skip(&r);
		reader_skip(&r, 4);
	}
	for (int section = DNS_ANSWER; section <= DNS_AUTHORITY; section++) {
		emit_table_begin(asking->cli->emit, names[section]);
		for (; counts[section] && !r.err; counts[section]--)
			emit_record(asking, &r);
		emit_table_end(asking->cli->emit);
	}
}

// What stands in NSID: "weir upstream 10.0.0.2:53".
static void emit_source(const struct asking *asking)
{
	struct emit *emit = asking->cli->emit;
	struct str source = dns_nsid_find(asking->answer, asking->len), server = {NULL, 0};
	bool ours = str_starts(source, STR("weir "));
	if (ours) {
		(void)str_split(&source, ' ');
		server = source;
		source = str_split(&server, ' ');
	}
	emit_str(emit, "source", ours ? source : STR("none"));
	emit_str(emit, "server", server);
}

static void emit_answer(const struct asking *asking)
{
	struct emit *emit = asking->cli->emit;
	char name[DNS_NAME_TEXT_MAX], word[DNS_WORD_MAX];
	emit_text(emit, "name", dns_name_format(asking->name.bytes, name));
	emit_text(emit, "type", dns_type_format(asking->type, word));
	emit_text(emit, "rcode", dns_rcode_format(asking->answer[3] & DNS_RCODE_MASK, word));
	emit_source(asking);
	emit_addr(emit, "responder", &asking->responder);
	emit_text(emit, "transport", asking->tcp ? "tcp" : "udp");
	emit_duration(emit, "took", asking->took_ns);
	emit_records(asking);
}

static int dns_query(struct cli *cli)
{
	char text[ADDR_TEXT_MAX];
	struct asking *asking = mem_zalloc(sizeof *asking);
	if (!asking)
		return cli_fail(cli, "%s", err_text(-ENOMEM));
	asking->cli = cli;
	int status = read_question(asking);
	if (!status)
		status = find_responder(asking);
	int err = status ? 0 : write_question(asking);
	if (!status && !err)
		err = ask(asking);
	if (err)
		status = cli_fail(cli, "the responder at %s does not answer: %s",
				  addr_format(&asking->responder, text), err_text(err));
	if (!status)
		emit_answer(asking);
	reply_free(asking->names);
	mem_free(asking);
	return status;
}

static const struct command_param query_params[] = {
    {PARAM_ARGUMENT, "name", "NAME", "the name; an address asks for its name", true, false},
    {PARAM_ARGUMENT, "type", "TYPE",
     "the type of record: A unless told otherwise, AAAA, PTR, SRV, TXT, a number", false, false},
    {PARAM_FLAG, "tcp", NULL, "ask over TCP at once", false, false},
};

const struct cli_command dns_commands[] = {
    {{"dns", "query", "Ask the proxy for a name, as programs do, and say where the answer is from",
      "The query goes to the proxy's responder, in its network namespace. The source is 'names' (those of "
      "the mesh and "
      "localhost), 'cache', 'stale' (expired, and no server answers), 'upstream' (with the server that "
      "answered) or "
      "'none'. An answer that nothing exists is an answer.",
      query_params, ARRAY_SIZE(query_params)},
     dns_query},
    {{0}, NULL},
};
