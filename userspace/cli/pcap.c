// SPDX-License-Identifier: Apache-2.0
// weir pcap annotate: input, output and the sources of what is known. The formats are in pcap_file.h.
#include "cli/pcap_commands.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "cli/pcap_file.h"
#include "cli/pcap_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READ_SIZE = 64 * 1024, WRITE_SIZE = 256 * 1024 };

static const char default_ports[] = "15001,15006,15053";

struct job {
	struct cli *cli;
	const char *input_name, *output_name;
	int input, output; // descriptors
	bool live;	   // the proxy and the kernel are asked, and may be asked again
	uint64_t asked_ns; // when that was; CLOCK_MONOTONIC
	struct strbuf connections_error, conntrack_error;
	struct pcap_map map;
	struct pcap_reader reader;
	struct strbuf in, out;
	size_t taken; // of `in`
	uint64_t packets, annotated, unknown_links;
};

static bool is_dash(const char *name)
{
	return strcmp(name, "-") == 0;
}

// --- what is known ----------------------------------------------------------------------------------------
static int ask_proxy(struct job *job)
{
	struct reply *connections = NULL, *names = NULL;
	autostrbuf struct strbuf ignored = {0};
	strbuf_clear(&job->connections_error);
	if (reply_ask(job->cli, "conn", "show", NULL, 0, &connections, &job->connections_error))
		return 0;
	int err = pcap_map_add_connections(&job->map, connections);
	if (!err && reply_ask(job->cli, "dns", "show", NULL, 0, &names, &ignored) == CLI_DONE)
		err = pcap_map_add_names(&job->map, names);
	reply_free(connections);
	reply_free(names);
	return err;
}

static int ask_kernel(struct job *job)
{
	struct redirected_list list;
	strbuf_clear(&job->conntrack_error);
	if (redirected_list_read(&list, &job->conntrack_error))
		return 0;
	int err = pcap_map_add_redirected(&job->map, &list);
	redirected_list_done(&list);
	return err;
}

static int ask(struct job *job)
{
	job->asked_ns = clock_mono_ns();
	int err = ask_proxy(job);
	return err ? err : ask_kernel(job);
}

static int read_whole(const char *path, struct strbuf *out)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (;;) {
		char *room = strbuf_reserve(out, READ_SIZE);
		ssize_t n = room ? read(fd, room, READ_SIZE) : -1;
		if (n == 0)
			return 0;
		if (n < 0)
			return room ? -errno : -ENOMEM;
		out->len += (size_t)n;
		if (out->len > LIMIT_PCAP_CONNECTIONS)
			return ERR_LIMIT;
	}
}

static int load_file(struct job *job, const char *path)
{
	struct reply *reply;
	autostrbuf struct strbuf text = {0};
	int err = read_whole(path, &text);
	if (err)
		return cli_fail(job->cli, "%s: %s", path, err_text(err));
	if (reply_parse(strbuf_str(&text), &reply))
		return cli_fail(job->cli, "%s: no JSON object, as `weir -j conn show` writes it", path);
	err = pcap_map_add_connections(&job->map, reply);
	if (!err)
		err = pcap_map_add_names(&job->map, reply);
	reply_free(reply);
	return err ? cli_fail(job->cli, "%s", err_text(err)) : CLI_DONE;
}

static int load_files(struct job *job)
{
	size_t at = 0;
	const char *path;
	while ((path = cli_next(job->cli, "connections", &at)))
		if (load_file(job, path))
			return CLI_FAILED;
	return CLI_DONE;
}

static int load(struct job *job)
{
	if (cli_has(job->cli, "connections"))
		return load_files(job);
	job->live = true;
	int err = ask(job);
	if (err)
		return cli_fail(job->cli, "%s", err_text(err));
	if (job->connections_error.len && job->conntrack_error.len)
		return cli_fail(job->cli, "%s; %s; a saved list of connections: --connections FILE",
				job->connections_error.p, job->conntrack_error.p);
	return CLI_DONE;
}

static int read_ports(struct job *job)
{
	const char *given = cli_get(job->cli, "proxy-ports");
	struct str rest = str_from(given ? given : default_ports);
	while (rest.p) {
		uint64_t port;
		if (str_to_u64(str_split(&rest, ','), &port) || port == 0 || port > UINT16_MAX ||
		    job->map.port_count == PCAP_PORTS_MAX)
			return cli_usage(job->cli,
					 "'--proxy-ports' must be at most %d ports, separated by commas",
					 PCAP_PORTS_MAX);
		job->map.ports[job->map.port_count++] = (uint16_t)port;
	}
	return CLI_DONE;
}

// --- packets ----------------------------------------------------------------------------------------------
// A flow to the proxy that began after the last question: worth another one, but not too often.
static bool is_worth_asking(const struct job *job, const struct packet_flow *flow)
{
	return job->live && clock_mono_ns() - job->asked_ns > NS_PER_S &&
	       (pcap_map_is_port(&job->map, flow->source.port) ||
		pcap_map_is_port(&job->map, flow->dest.port));
}

static void comment_on(struct job *job, const struct pcap_item *item, struct strbuf *comment)
{
	struct packet_flow flow;
	job->packets++;
	job->unknown_links += !packet_link_known(item->link);
	if (packet_flow(item->link, item->bytes, &flow))
		return;
	pcap_map_comment(&job->map, &flow, comment);
	if (!comment->len && is_worth_asking(job, &flow) && ask(job) == 0)
		pcap_map_comment(&job->map, &flow, comment);
	job->annotated += comment->len > 0;
}

static int flush(struct job *job)
{
	struct str rest = strbuf_str(&job->out);
	while (rest.len) {
		ssize_t n = write(job->output, rest.p, rest.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return cli_fail(job->cli, "cannot write %s: %s", job->output_name, err_text(-errno));
		rest.p += n;
		rest.len -= (size_t)n;
	}
	strbuf_clear(&job->out);
	return CLI_DONE;
}

// Passes on the whole items that are in the buffer. CLI_DONE when more bytes are needed.
static int pass_items(struct job *job)
{
	for (;;) {
		struct pcap_item item;
		autostrbuf struct strbuf comment = {0};
		struct str bytes = {strbuf_str(&job->in).p + job->taken, job->in.len - job->taken};
		int n = pcap_read(&job->reader, bytes, &item);
		if (n == ERR_NEED_MORE)
			return CLI_DONE;
		if (n < 0)
			return cli_fail(job->cli, "%s: offset %llu: %s", job->input_name,
					(unsigned long long)job->reader.at,
					job->reader.fault ? job->reader.fault : err_text(n));
		if (item.kind == PCAP_PACKET)
			comment_on(job, &item, &comment);
		pcap_write(&job->reader, &item, strbuf_str(&comment), &job->out);
		job->taken += (size_t)n;
		if (job->out.failed || comment.failed)
			return cli_fail(job->cli, "%s", err_text(-ENOMEM));
		if (job->out.len > WRITE_SIZE && flush(job))
			return CLI_FAILED;
	}
}

// More input behind what is not taken yet. Returns how much, or a negative error.
static ssize_t fill(struct job *job)
{
	if (job->taken) {
		memmove(job->in.p, job->in.p + job->taken, job->in.len - job->taken);
		job->in.len -= job->taken;
		job->taken = 0;
	}
	char *room = strbuf_reserve(&job->in, READ_SIZE);
	ssize_t n;
	if (!room)
		return -ENOMEM;
	do
		n = read(job->input, room, READ_SIZE);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		job->in.len += (size_t)n;
	return n < 0 ? -errno : n;
}

static int finish(struct job *job)
{
	if (job->reader.at == 0)
		return cli_fail(job->cli, "%s: %s", job->input_name,
				job->in.len ? "offset 0: too short for a capture file" : "the file is empty");
	if (job->in.len)
		return cli_fail(job->cli,
				"%s: truncated: the last %s begins at offset %llu and is cut after %zu bytes",
				job->input_name, job->reader.kind == PCAP_NG ? "block" : "packet",
				(unsigned long long)job->reader.at, job->in.len);
	return CLI_DONE;
}

// What was read so far goes out before more is waited for, and in case of an error, too.
static int convert(struct job *job)
{
	int status = CLI_DONE;
	ssize_t n = 1;
	while (status == CLI_DONE && n > 0) {
		n = fill(job);
		if (n < 0)
			status = cli_fail(job->cli, "cannot read %s: %s", job->input_name, err_text((int)n));
		if (n > 0)
			status = pass_items(job);
		if (flush(job))
			status = CLI_FAILED;
	}
	return status ? status : finish(job);
}

// --- files ------------------------------------------------------------------------------------------------
static int open_files(struct job *job)
{
	struct stat in, out;
	job->input = is_dash(job->input_name) ? STDIN_FILENO : open(job->input_name, O_RDONLY | O_CLOEXEC);
	if (job->input < 0)
		return cli_fail(job->cli, "%s: %s", job->input_name, err_text(-errno));
	job->output = is_dash(job->output_name)
			  ? STDOUT_FILENO
			  : open(job->output_name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (job->output < 0)
		return cli_fail(job->cli, "%s: %s", job->output_name, err_text(-errno));
	if (isatty(job->output))
		return cli_usage(job->cli, "a terminal cannot show a capture: write it to a file or a pipe");
	if (fstat(job->input, &in) == 0 && fstat(job->output, &out) == 0 && S_ISREG(out.st_mode)) {
		if (in.st_dev == out.st_dev && in.st_ino == out.st_ino)
			return cli_usage(job->cli, "input and output are the same file");
		if (!is_dash(job->output_name) && ftruncate(job->output, 0) < 0)
			return cli_fail(job->cli, "%s: %s", job->output_name, err_text(-errno));
	}
	return CLI_DONE;
}

static void close_files(const struct job *job)
{
	if (job->input > STDIN_FILENO)
		close(job->input);
	if (job->output > STDOUT_FILENO)
		close(job->output);
}

static void emit_result(struct job *job)
{
	struct emit *emit = job->cli->emit;
	emit_uint(emit, "packets", job->packets);
	emit_uint(emit, "annotated", job->annotated);
	if (job->unknown_links)
		emit_uint(emit, "of_unknown_links", job->unknown_links);
	emit_uint(emit, "flows_known", job->map.count);
	if (!job->live)
		return;
	emit_str(emit, "proxy",
		 job->connections_error.len ? strbuf_str(&job->connections_error) : STR("asked"));
	emit_str(emit, "connection_tracking",
		 job->conntrack_error.len ? strbuf_str(&job->conntrack_error) : STR("read"));
}

static int annotate(struct cli *cli)
{
	struct job job = {.cli = cli,
			  .input_name = cli_get(cli, "input"),
			  .output_name = cli_get(cli, "output"),
			  .input = -1,
			  .output = -1};
	int status = read_ports(&job);
	if (!status)
		status = load(&job);
	if (!status)
		status = open_files(&job);
	if (!status)
		status = convert(&job);
	if (!status && !is_dash(job.output_name))
		emit_result(&job);
	close_files(&job);
	pcap_map_done(&job.map);
	pcap_reader_done(&job.reader);
	strbuf_done(&job.in);
	strbuf_done(&job.out);
	strbuf_done(&job.connections_error);
	strbuf_done(&job.conntrack_error);
	return status;
}

static const struct command_param annotate_params[] = {
    {PARAM_ARGUMENT, "input", "INPUT", "a capture file, pcap or pcapng; -: standard input", true, false},
    {PARAM_ARGUMENT, "output", "OUTPUT", "the file to write, pcapng; -: standard output", true, false},
    {PARAM_OPTION, "connections", "FILE",
     "what `weir -j conn show` or `weir -j dns show` wrote, in place of asking the proxy and the kernel",
     false, true},
    {PARAM_OPTION, "proxy-ports", "PORTS", "where the proxy listens (15001,15006,15053)", false, false},
};

const struct cli_command pcap_commands[] = {
    {{"pcap", "annotate", "Write original destinations into a capture, as comments of its packets",
      "Packets of redirected connections have the proxy's address in place of the one that the program "
      "meant. What "
      "that was is known to the proxy, for connections that are open, and to the kernel's connection "
      "tracking: "
      "run it while they last, or save the list of connections then. Of a capture that is cut, all whole "
      "packets "
      "are written, and the exit status is 1.",
      annotate_params, ARRAY_SIZE(annotate_params)},
     annotate},
    {{0}, NULL},
};
