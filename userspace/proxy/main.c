// SPDX-License-Identifier: Apache-2.0
// weir-proxy: command line and life of the process.
#include "base/limits.h"
#include "base/log.h"
#include "proxy/proxy.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2, SETS_MAX = 32 };

static const char usage[] =
    "usage: weir-proxy --config FILE\n"
    "\n"
    "The data plane of weir: intercepts, names, routes, balances, encrypts.\n"
    "\n"
    "  -c, --config FILE   the configuration (YAML or JSON); see weir config reference\n"
    "      --set KEY=VALUE one setting (tls.mode=strict) in place of the file's; any number of them\n"
    "      --probe-port PORT   answer Kubernetes' probes here: /healthz, /readyz, and those of --probe\n"
    "      --probe NAME=PROBE  ask the application when /weir/probe/NAME is asked: http:PORT/PATH,\n"
    "                          https:PORT/PATH, tcp:PORT or grpc:PORT/SERVICE; any number of them\n"
    "  -h, --help          this text\n"
    "  -V, --version       the version\n"
    "\n"
    "SIGHUP reloads the configuration. SIGTERM and SIGINT drain and end; a second one ends at once.\n";

struct arguments {
	struct proxy_options options;
	const char *sets[SETS_MAX + 1];
	struct probe probes[LIMIT_POD_PROBES];
};

static bool take_set(struct arguments *arguments, const char *text)
{
	size_t count = 0;
	while (arguments->sets[count])
		count++;
	if (count == SETS_MAX || !strchr(text, '=')) {
		fprintf(stderr, "weir-proxy: --set %s: %s\n", text,
			count == SETS_MAX ? "there are too many" : "KEY=VALUE is expected");
		return false;
	}
	arguments->sets[count] = text;
	return true;
}

static bool take_probe(struct arguments *arguments, const char *text)
{
	autostrbuf struct strbuf why = {0};
	size_t count = arguments->options.probe_count;
	if (count == LIMIT_POD_PROBES || probe_parse(text, &arguments->probes[count], &why)) {
		fprintf(stderr, "weir-proxy: %s\n", why.p ? why.p : "there are too many probes");
		return false;
	}
	arguments->options.probe_count++;
	return true;
}

static bool take_probe_port(struct arguments *arguments, const char *text)
{
	uint64_t port = 0;
	if (str_to_u64(str_from(text), &port) || port < 1 || port > UINT16_MAX) {
		fprintf(stderr, "weir-proxy: --probe-port %s: this is no port\n", text);
		return false;
	}
	arguments->options.probe_port = (uint16_t)port;
	return true;
}

enum { OPTION_SET = 256, OPTION_PROBE, OPTION_PROBE_PORT };

static bool take_option(struct arguments *arguments, int option, const char *value)
{
	switch (option) {
	case 'c':
		arguments->options.config_path = value;
		return true;
	case OPTION_SET:
		return take_set(arguments, value);
	case OPTION_PROBE:
		return take_probe(arguments, value);
	default:
		return take_probe_port(arguments, value);
	}
}

// False: the program ends with *ret_status.
static bool parse_options(int argc, char **argv, struct arguments *arguments, int *ret_status)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"set", required_argument, NULL, OPTION_SET},
						{"probe", required_argument, NULL, OPTION_PROBE},
						{"probe-port", required_argument, NULL, OPTION_PROBE_PORT},
						{"help", no_argument, NULL, 'h'},
						{"version", no_argument, NULL, 'V'},
						{0}};
	*ret_status = EXIT_USAGE;
	for (int option; (option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1;) {
		if (option == 'h' || option == 'V') {
			*ret_status = EXIT_SUCCESS;
			fputs(option == 'V' ? "weir-proxy " WEIR_VERSION "\n" : usage, stdout);
			return false;
		}
		if (option == '?')
			fputs(usage, stderr);
		if (option == '?' || !take_option(arguments, option, optarg))
			return false;
	}
	if (arguments->options.config_path && optind == argc) {
		arguments->options.sets = arguments->sets;
		arguments->options.probes = arguments->probes;
		return true;
	}
	fputs(optind == argc ? "weir-proxy: --config is missing\n" : "weir-proxy: unexpected arguments\n",
	      stderr);
	fputs(usage, stderr);
	return false;
}

// What is wrong with the configuration are lines that begin with its name; the rest is one sentence.
static void print_error(const struct strbuf *error)
{
	struct str text = error->p ? strbuf_str(error) : STR("out of memory");
	if (str_ends(text, STR("\n")))
		fprintf(stderr, "%.*s", STR_ARG(text));
	else
		fprintf(stderr, "weir-proxy: %.*s\n", STR_ARG(text));
}

int main(int argc, char **argv)
{
	static struct arguments arguments;
	int status;
	struct strbuf error = {0};
	struct proxy *proxy;
	if (!parse_options(argc, argv, &arguments, &status))
		return status;
	if (proxy_start(&arguments.options, &proxy, &error)) {
		print_error(&error);
		strbuf_done(&error);
		return EXIT_FAILURE;
	}
	strbuf_done(&error);
	status = proxy_run(proxy);
	proxy_free(proxy);
	return status;
}
