// SPDX-License-Identifier: Apache-2.0
#include "control/plugins.h"

#include "base/log.h"
#include "base/mem.h"
#include "run/stats.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
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

// Whether the file has all that its own headers say: of what is not there the loader would let the process
// die. What is no object at all the loader tells better.
static bool is_cut(int fd, uint64_t size)
{
	ElfW(Ehdr) header;
	ElfW(Phdr) part;
	if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
	    memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_phentsize != sizeof part)
		return false;
	for (unsigned i = 0; i < header.e_phnum; i++) {
		off_t at = (off_t)(header.e_phoff + (uint64_t)i * sizeof part);
		if (pread(fd, &part, sizeof part, at) != (ssize_t)sizeof part)
			return true;
		if (part.p_type == PT_LOAD && (part.p_offset > size || part.p_filesz > size - part.p_offset))
			return true;
	}
	return false;
}

// What is wrong with the file; NULL: nothing that is seen from outside.
static const char *wrong_file(const char *path)
{
	struct stat info;
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return err_text(-errno);
	const char *what = NULL;
	if (fstat(fd, &info) != 0)
		what = err_text(-errno);
	else if (!S_ISREG(info.st_mode))
		what = "it is no file";
	else if (is_cut(fd, (uint64_t)info.st_size))
		what = "the file is not whole";
	close(fd);
	return what;
}

// An object's handle and table. NULL with the reason.
static void *open_object(const char *path, const struct weir_plugin **ret_table, struct strbuf *ret_why)
{
	const char *what = wrong_file(path);
	if (what) {
		strbuf_add_text(ret_why, what);
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
