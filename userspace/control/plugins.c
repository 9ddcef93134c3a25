// SPDX-License-Identifier: Apache-2.0
#include "control/plugins.h"

#include "base/log.h"
#include "base/mem.h"
#include "run/stats.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

static const char SYMBOL[] = "weir_plugin";

struct loaded {
	struct plugin plugin;
	struct loaded *next;
	char *path;
};

static struct loaded *all_loaded;

static void report(const struct plugin *plugin, const char *what)
{
	const struct loaded *loaded = container_of(plugin, struct loaded, plugin);
	stats_inc(STAT_PLUGIN_FAULTS);
	log_error("a plug-in misbehaved and gets no further connections",
		  LOG_TEXT("plugin", plugin->codec.name), LOG_TEXT("path", loaded->path),
		  LOG_TEXT("what", what));
}

static const char *last_error(void)
{
	const char *text = dlerror();
	return text ? text : "unknown error";
}

// An object's handle and table. NULL with the reason.
static void *open_object(const char *path, const struct weir_plugin **ret_table, struct strbuf *ret_why)
{
	if (access(path, R_OK) != 0) {
		strbuf_add_text(ret_why, err_text(-errno));
		return NULL;
	}
	void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!object) {
		strbuf_printf(ret_why, "it cannot be loaded: %s", last_error());
		return NULL;
	}
	const struct weir_plugin *table = dlsym(object, SYMBOL);
	if (!table) {
		strbuf_printf(ret_why, "it exports no symbol \"%s\"", SYMBOL);
		dlclose(object);
		return NULL;
	}
	*ret_table = table;
	return object;
}

static struct loaded *loaded_new(const char *path, const struct weir_plugin *table, struct strbuf *ret_why)
{
	struct loaded *loaded = mem_zalloc(sizeof *loaded);
	struct strbuf copy = {0};
	strbuf_add_text(&copy, path);
	char *kept = strbuf_take(&copy);
	const char *what = loaded && kept ? plugin_init(table, report, &loaded->plugin) : err_text(-ENOMEM);
	if (what) {
		strbuf_add_text(ret_why, what);
		mem_free(kept);
		mem_free(loaded);
		return NULL;
	}
	loaded->path = kept;
	return loaded;
}

static struct loaded *load(const char *path, struct strbuf *ret_why)
{
	const struct weir_plugin *table;
	void *object = open_object(path, &table, ret_why);
	if (!object)
		return NULL;
	struct loaded *loaded = loaded_new(path, table, ret_why);
	if (!loaded && table->abi != WEIR_PLUGIN_ABI)
		strbuf_printf(ret_why, " (its WEIR_PLUGIN_ABI is %u, that of this weir %u)", table->abi,
			      WEIR_PLUGIN_ABI);
	if (!loaded)
		dlclose(object);
	return loaded;
}

const struct framed_codec *plugin_load(struct str path, struct strbuf *ret_why)
{
	autostrbuf struct strbuf text = {0};
	if (path.len == 0 || path.p[0] != '/') {
		strbuf_add_text(ret_why, "the path is not absolute");
		return NULL;
	}
	for (const struct loaded *loaded = all_loaded; loaded; loaded = loaded->next)
		if (str_eq(path, str_from(loaded->path)))
			return &loaded->plugin.codec;
	strbuf_add_str(&text, path);
	struct loaded *loaded = text.p ? load(text.p, ret_why) : NULL;
	if (!loaded)
		return NULL;
	loaded->next = all_loaded;
	all_loaded = loaded;
	return &loaded->plugin.codec;
}
