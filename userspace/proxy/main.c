// SPDX-License-Identifier: Apache-2.0
// weir-proxy: command line and life of the process.
#include "base/log.h"
#include "proxy/proxy.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXIT_USAGE = 2 };

static const char usage[] =
    "usage: weir-proxy --config FILE\n"
    "\n"
    "The data plane of weir: intercepts, names, routes, balances, encrypts.\n"
    "\n"
    "  -c, --config FILE   the configuration (YAML or JSON); see weir config reference\n"
    "  -h, --help          this text\n"
    "  -V, --version       the version\n"
    "\n"
    "SIGHUP reloads the configuration. SIGTERM and SIGINT drain and end; a second one ends at once.\n";

// The file to use, or NULL with the exit status in *ret_status.
static const char *parse_options(int argc, char **argv, int *ret_status)
{
	static const struct option options[] = {{"config", required_argument, NULL, 'c'},
						{"help", no_argument, NULL, 'h'},
						{"version", no_argument, NULL, 'V'},
						{0}};
	const char *config = NULL;
	for (int option; (option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1;) {
		if (option == 'c') {
			config = optarg;
			continue;
		}
		*ret_status = option == '?' ? EXIT_USAGE : EXIT_SUCCESS;
		if (option == 'V')
			puts("weir-proxy " WEIR_VERSION);
		else
			fputs(usage, option == '?' ? stderr : stdout);
		return NULL;
	}
	if (config && optind == argc)
		return config;
	fputs(config ? "weir-proxy: unexpected arguments\n" : "weir-proxy: --config is missing\n", stderr);
	fputs(usage, stderr);
	*ret_status = EXIT_USAGE;
	return NULL;
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
	int status = EXIT_SUCCESS;
	struct proxy_options options = {.config_path = parse_options(argc, argv, &status)};
	struct strbuf error = {0};
	struct proxy *proxy;
	if (!options.config_path)
		return status;
	if (proxy_start(&options, &proxy, &error)) {
		print_error(&error);
		strbuf_done(&error);
		return EXIT_FAILURE;
	}
	strbuf_done(&error);
	status = proxy_run(proxy);
	proxy_free(proxy);
	return status;
}
