// SPDX-License-Identifier: Apache-2.0
#include "proxy/relaying.h"

#include "base/error.h"
#include "base/mem.h"
#include "net/relay.h"
#include "proxy/acceleration.h"
#include "proxy/relaying_check.h"

#include <errno.h>

#include "bpf/relay.lskel.h"

struct relaying {
	struct relay *skeleton;
};

static int load(struct relaying *relaying, struct strbuf *why)
{
	relaying->skeleton = relay__open();
	if (!relaying->skeleton)
		return -ENOMEM;
	int err = relay__load(relaying->skeleton);
	if (err)
		return acceleration_say(why, err, "the kernel refuses the program that relays");
	err = acceleration_attach(relaying->skeleton->maps.weir_sources.map_fd,
				  relaying->skeleton->progs.weir_relay.prog_fd, BPF_SK_SKB_STREAM_VERDICT);
	return err ? acceleration_say(why, err, "the program that relays cannot be attached") : 0;
}

static int check(const struct relaying *relaying, struct strbuf *why)
{
	const struct relay *skeleton = relaying->skeleton;
	const struct relay_handles handles = {.sources = skeleton->maps.weir_sources.map_fd,
					      .sinks = skeleton->maps.weir_sinks.map_fd,
					      .relays = skeleton->maps.weir_relays.map_fd,
					      .done = skeleton->maps.weir_done.map_fd,
					      .counts = skeleton->maps.weir_relayed.map_fd,
					      .guard = skeleton->progs.weir_guard.prog_fd};
	relay_set(&handles);
	int err = relaying_check(why);
	relay_set(&handles); // without what the test counted
	return err;
}

int relaying_start(struct relaying **ret_relaying, struct strbuf *ret_why)
{
	struct relaying *relaying = mem_zalloc(sizeof *relaying);
	if (!relaying)
		return -ENOMEM;
	int err = load(relaying, ret_why);
	if (!err)
		err = check(relaying, ret_why);
	if (err) {
		relaying_stop(relaying);
		return err;
	}
	*ret_relaying = relaying;
	return 0;
}

void relaying_stop(struct relaying *relaying)
{
	if (!relaying)
		return;
	relay_set(NULL);
	relay__destroy(relaying->skeleton);
	mem_free(relaying);
}
