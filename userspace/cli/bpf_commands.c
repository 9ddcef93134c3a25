// SPDX-License-Identifier: Apache-2.0
#include "cli/bpf_commands.h"

#include "base/error.h"
#include "base/mem.h"

// Runs `fn` over what is loaded.
static int with_list(struct cli *cli, int (*fn)(struct cli *cli, const struct ebpf_list *list))
{
	struct ebpf_list list;
	autostrbuf struct strbuf error = {0};
	int err = ebpf_list_read(&list, &error);
	if (err)
		return cli_fail(cli, "%s", error.len ? error.p : err_text(err));
	int status = fn(cli, &list);
	ebpf_list_done(&list);
	return status;
}

static const char *or_none(const char *text)
{
	return text && text[0] ? text : NULL;
}

// --- programs ---------------------------------------------------------------------------------------------
static void emit_runs(struct emit *emit, const struct ebpf_list *list, const struct ebpf_program *program)
{
	if (!list->counts_runs && !program->runs) { // nobody counts
		emit_text(emit, "runs", NULL);
		emit_text(emit, "run_time_ns", NULL);
		return;
	}
	emit_uint(emit, "runs", program->runs);
	emit_uint(emit, "run_time_ns", program->run_ns);
}

static int emit_programs(struct cli *cli, const struct ebpf_list *list)
{
	struct emit *emit = cli->emit;
	emit_table_begin(emit, "programs");
	for (size_t i = 0; i < list->program_count; i++) {
		const struct ebpf_program *program = &list->programs[i];
		emit_row_begin(emit);
		emit_uint(emit, "id", program->id);
		emit_text(emit, "name", program->name);
		emit_text(emit, "type", program->type);
		emit_text(emit, "attach_type", program->hook);
		emit_text(emit, "where", or_none(program->where));
		if (program->link)
			emit_uint(emit, "link", program->link);
		else
			emit_text(emit, "link", NULL);
		emit_text(emit, "pin", or_none(program->pin));
		emit_text(emit, "tag", program->tag);
		emit_time(emit, "loaded_at", program->loaded_at);
		emit_runs(emit, list, program);
		emit_uint(emit, "verified", program->verified);
		emit_bytes(emit, "memory", program->memory);
		emit_list_begin(emit, "maps");
		for (uint32_t k = 0; k < program->map_count; k++)
			emit_uint(emit, NULL, program->maps[k]);
		emit_list_end(emit);
		emit_row_end(emit);
	}
	emit_table_end(emit);
	return CLI_DONE;
}

static int prog_show(struct cli *cli)
{
	return with_list(cli, emit_programs);
}

// --- maps -------------------------------------------------------------------------------------------------
static int emit_maps(struct cli *cli, const struct ebpf_list *list)
{
	struct emit *emit = cli->emit;
	emit_table_begin(emit, "maps");
	for (size_t i = 0; i < list->map_count; i++) {
		const struct ebpf_map *map = &list->maps[i];
		emit_row_begin(emit);
		emit_uint(emit, "id", map->id);
		emit_text(emit, "name", map->name);
		emit_text(emit, "type", map->type);
		emit_uint(emit, "key_size", map->key_size);
		emit_uint(emit, "value_size", map->value_size);
		if (map->countable)
			emit_uint(emit, "entries", map->entries);
		else
			emit_text(emit, "entries", NULL);
		emit_uint(emit, "max_entries", map->entries_max);
		emit_bytes(emit, "memory", map->memory);
		emit_text(emit, "pin", or_none(map->pin));
		emit_row_end(emit);
	}
	emit_table_end(emit);
	return CLI_DONE;
}

static int map_show(struct cli *cli)
{
	return with_list(cli, emit_maps);
}

static int dump(struct cli *cli, const struct ebpf_list *list)
{
	return map_dump_emit(cli, list, str_from(cli_get(cli, "map")));
}

static int map_dump(struct cli *cli)
{
	return with_list(cli, dump);
}

// --- tables -----------------------------------------------------------------------------------------------
static const char prog_detail[] =
    "Of the whole host: the programs of the capture by eBPF, which are pinned, and those of proxies whose "
    "acceleration is on. A program that is attached to several places has a row for each. Runs are counted "
    "while the kernel is told so: sysctl kernel.bpf_stats_enabled=1. Needs CAP_SYS_ADMIN.";

static const char map_detail[] = "Entries of maps that keep their values with sockets are not counted here; "
				 "dump lists them. Needs CAP_SYS_ADMIN.";

static const char dump_detail[] =
    "In weir's terms: addresses and ports, original destinations, the rules of a plan. Of what has no such "
    "terms, the fields of its types. All maps of that name are listed. Needs CAP_SYS_ADMIN.";

static const struct command_param dump_params[] = {
    {PARAM_ARGUMENT, "map", "MAP", "its name or its number, as show has them", true, false},
};

const struct cli_command prog_commands[] = {
    {{"prog", "show", "List the programs that weir has loaded into the kernel", prog_detail, NULL, 0},
     prog_show},
    {{0}, NULL},
};

const struct cli_command map_commands[] = {
    {{"map", "show", "List the maps of these programs", map_detail, NULL, 0}, map_show},
    {{"map", "dump", "List the entries of a map", dump_detail, dump_params, ARRAY_SIZE(dump_params)},
     map_dump},
    {{0}, NULL},
};
