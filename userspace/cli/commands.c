// SPDX-License-Identifier: Apache-2.0
// The objects of the command line, and the commands that need no file of their own.
#include "cli/bpf_commands.h"
#include "cli/cli.h"
#include "cli/config_commands.h"
#include "cli/dns_commands.h"
#include "cli/explain_commands.h"
#include "cli/inject_commands.h"
#include "cli/intercept_commands.h"
#include "cli/options.h"
#include "cli/pcap_commands.h"

#include "base/mem.h"

// --- version ----------------------------------------------------------------------------------------------
// The proxy's fields, as its plain answer lists them.
static void proxy_fields(struct cli *cli, struct str body)
{
	emit_record_begin(cli->emit, "proxy");
	while (body.p && body.len) {
		struct str value = str_split(&body, '\n');
		struct str key = str_split(&value, ':');
		char name[32] = "";
		if (!value.p || key.len >= sizeof name)
			continue;
		for (size_t i = 0; i < key.len; i++)
			name[i] = (char)(key.p[i] == ' ' ? '_' : key.p[i]);
		emit_str(cli->emit, name, str_trim(value));
	}
	emit_record_end(cli->emit);
}

// What is installed here, and the proxy if one answers: not finding one is no failure.
static int version_show(struct cli *cli)
{
	autostrbuf struct strbuf answer = {0};
	emit_text(cli->emit, "version", WEIR_VERSION);
	if (cli_ask(cli, "version", "show", EMIT_PLAIN, NULL, 0, &answer) == CLI_DONE)
		proxy_fields(cli, strbuf_str(&answer));
	return CLI_DONE;
}

static const struct cli_command version_commands[] = {
    {{"version", "show", "Show the version of weir, and the running proxy's", NULL, NULL, 0}, version_show},
    {{0}, NULL},
};

// --- objects ----------------------------------------------------------------------------------------------
const struct cli_object cli_objects[] = {
    {"intercept", "Interception: which connections go through the proxy", intercept_commands, NULL},
    {"vhost", "Virtual hosts: what services are there", NULL, NULL},
    {"route", "Routes: which cluster gets a request", NULL, NULL},
    {"cluster", "Clusters: groups of endpoints", NULL, NULL},
    {"endpoint", "Endpoints: where requests go in the end", NULL, NULL},
    {"conn", "Connections through the proxy", NULL, NULL},
    {"cert", "Certificates of this workload", NULL, NULL},
    {"dns", "Names of the mesh", dns_commands, NULL},
    {"stats", "Counters", NULL, NULL},
    {"config", "Configuration", config_commands, NULL},
    {"log", "Log of the proxy", NULL, NULL},
    {"inject", "Put weir into the pods of a Kubernetes manifest", inject_commands, ""},
    {"injector", "The webhook that does so in a cluster", injector_commands, ""},
    {"explain", "What happens to a connection, from the kernel's rules to the endpoint", explain_commands,
     "flow"},
    {"pcap", "Captures of packets", pcap_commands, NULL},
    {"prog", "Programs that weir has in the kernel", prog_commands, "show"},
    {"map", "Maps of these programs", map_commands, "show"},
    {"version", "Versions", version_commands, "show"},
    {NULL, NULL, NULL, NULL},
};
