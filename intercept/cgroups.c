// SPDX-License-Identifier: Apache-2.0
#include "intercept/cgroups.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/host_root.h"
#include "intercept/rules.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FOLDER_MAX = 512, LINE_MAX_BYTES = 4096, COMMENT_LEN = RULE_COMMENT_MAX - 2 };

#define HINT                                                                                                 \
	"a unit has one only while it runs: start it first, let the unit itself call weir intercept apply "  \
	"(ExecStartPre=+), or name its slice; a container sees none but its own"

// --- the hierarchy -----------------------------------------------------------------------------------------
struct tree {
	char point[FOLDER_MAX];	      // where it is mounted
	char folder[FOLDER_MAX + 40]; // the same, as seen from here
	// What is mounted there, from the root of our namespace on: "", "a/b", "..".
	char inside[LIMIT_CGROUP_PATH];
};
_Static_assert(FOLDER_MAX == 512 && LIMIT_CGROUP_PATH == 512, "as take_mount() reads them");

// A line of mountinfo: proc(5).
static bool take_mount(const char *line, struct tree *tree)
{
	char root[LIMIT_CGROUP_PATH];
	if (!strstr(line, " - cgroup2 ") || sscanf(line, "%*d %*d %*s %511s %511s", root, tree->point) != 2 ||
	    root[0] != '/')
		return false;
	snprintf(tree->inside, sizeof tree->inside, "%s", root + 1);
	return true;
}

// Whether the hierarchy's root lies beyond that of our namespace: no path of ours leads there.
static bool is_beyond(const struct tree *tree)
{
	return strcmp(tree->inside, "..") == 0 || strncmp(tree->inside, "../", 3) == 0;
}

static bool find_mount(enum host_root root, struct tree *ret_tree)
{
	char prefix[40], table[64], line[LINE_MAX_BYTES];
	struct tree tree = {.point = ""}, other;
	bool found = false;
	host_root_path(root, prefix);
	// What /proc/PID/root leads to is listed for that process.
	snprintf(table, sizeof table, "/proc/%d/mountinfo",
		 root == ROOT_OWN      ? (int)getpid()
		 : root == ROOT_PARENT ? (int)getppid()
				       : 1);
	FILE *file = fopen(table, "re");
	while (file && fgets(line, sizeof line, file)) {
		if (!take_mount(line, &other) || (found && (!is_beyond(&tree) || is_beyond(&other))))
			continue;
		tree = other;
		found = true;
	}
	if (file)
		fclose(file);
	snprintf(tree.folder, sizeof tree.folder, "%s%s", prefix, tree.point);
	if (!found || access(tree.folder, R_OK) < 0)
		return false;
	*ret_tree = tree;
	return true;
}

static bool find_tree(struct tree *ret_tree)
{
	for (enum host_root root = ROOT_OWN; root < HOST_ROOTS; root++)
		if (find_mount(root, ret_tree))
			return true;
	return false;
}

bool cgroup_folder(char *ret_path, size_t size)
{
	struct tree tree;
	bool found = find_tree(&tree);
	if (found)
		snprintf(ret_path, size, "%s", tree.folder);
	return found;
}

static int open_tree(struct tree *ret_tree, struct strbuf *error)
{
	if (!find_tree(ret_tree)) {
		strbuf_add_text(error,
				"no control groups of version 2 are mounted here (mount -t cgroup2 none "
				"/sys/fs/cgroup), so programs cannot be told apart by them");
		return ERR_UNSUPPORTED;
	}
	if (!is_beyond(ret_tree))
		return 0;
	strbuf_printf(
	    error,
	    "%s shows control groups of another namespace (cgroup_namespaces(7)) than this process's, "
	    "whose rules could not name them: run it in the host's",
	    ret_tree->folder);
	return ERR_UNSUPPORTED;
}

// --- walking through it ------------------------------------------------------------------------------------
enum step { PASS, ENTER, STOP };

// `visit` is told of every folder; what it says is done.
struct walk {
	enum step (*visit)(struct walk *walk, const struct dirent *entry);
	char path[LIMIT_CGROUP_PATH]; // of the folder that is visited
	uint32_t level;		      // the same
	struct str wanted;	      // a name
	uint64_t id;		      // or a number at that level
	uint32_t id_level;
	char found[2][LIMIT_CGROUP_PATH];
	size_t count;
};

static bool walk_into(struct walk *walk, int parent, const char *name);

// True: it is to stop.
static bool walk_entry(struct walk *walk, int folder, const struct dirent *entry)
{
	size_t len = strlen(walk->path), more = strlen(entry->d_name) + 1;
	if (entry->d_type != DT_DIR || entry->d_name[0] == '.' || len + more >= sizeof walk->path ||
	    walk->level == LIMIT_CGROUP_DEPTH)
		return false;
	snprintf(walk->path + len, sizeof walk->path - len, "%s%s", len ? "/" : "", entry->d_name);
	walk->level++;
	enum step step = walk->visit(walk, entry);
	bool stop = step == STOP || (step == ENTER && walk_into(walk, folder, entry->d_name));
	walk->level--;
	walk->path[len] = 0;
	return stop;
}

static bool walk_into(struct walk *walk, int parent, const char *name)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	bool stop = false;
	while (dir && !stop && (entry = readdir(dir)))
		stop = walk_entry(walk, fd, entry);
	if (dir)
		closedir(dir);
	else if (fd >= 0)
		close(fd);
	return stop;
}

static void note_found(struct walk *walk)
{
	if (walk->count < ARRAY_SIZE(walk->found))
		memcpy(walk->found[walk->count], walk->path, sizeof walk->path);
	walk->count++;
}

// Units of the system lie in slices. What a unit keeps in its own control group is its own matter: a
// container may call its groups what it likes.
static enum step visit_unit(struct walk *walk, const struct dirent *entry)
{
	struct str name = str_from(entry->d_name);
	if (str_eq(name, walk->wanted))
		note_found(walk);
	return str_ends(name, STR(".slice")) ? ENTER : PASS;
}

static enum step visit_number(struct walk *walk, const struct dirent *entry)
{
	if (walk->level < walk->id_level)
		return ENTER;
	if ((uint64_t)entry->d_ino != walk->id)
		return PASS;
	note_found(walk);
	return STOP;
}

// --- names -------------------------------------------------------------------------------------------------
const char *cgroup_name_fault(const char *name)
{
	struct str rest = str_from(name);
	size_t parts = 0;
	if (rest.len >= LIMIT_CGROUP_PATH)
		return "is longer than paths of control groups are";
	for (const char *c = name; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f || *c == '"')
			return "has a character that no path of a control group should have";
	while (rest.p) {
		struct str part = str_split(&rest, '/');
		parts += part.len > 0;
		if (str_eq(part, STR(".")) || str_eq(part, STR("..")))
			return "has . or .. for a part: give the plain path";
	}
	return parts ? NULL : "names the root, in which every program is";
}

// Without `prefix` and the slash behind it, if it begins so.
static struct str strip(struct str text, struct str prefix)
{
	bool begins =
	    prefix.len && text.len > prefix.len && str_starts(text, prefix) && text.p[prefix.len] == '/';
	return begins ? (struct str){text.p + prefix.len, text.len - prefix.len} : text;
}

// The path below the hierarchy's folder, without doubled slashes.
static void plain_path(const struct tree *tree, struct str name, char ret_path[LIMIT_CGROUP_PATH])
{
	struct str before = name;
	size_t len = 0;
	name = strip(name, str_from(tree->folder));
	name = strip(name, str_from(tree->point));
	if (name.p == before.p)
		name = strip(name, STR("/sys/fs/cgroup"));
	while (name.len && name.p[0] == '/')
		name = (struct str){name.p + 1, name.len - 1};
	name = strip(name, str_from(tree->inside));
	ret_path[0] = 0;
	while (name.p) {
		struct str part = str_split(&name, '/');
		if (part.len && len + part.len + 2 <= LIMIT_CGROUP_PATH)
			len += (size_t)snprintf(ret_path + len, LIMIT_CGROUP_PATH - len, "%s%.*s",
						len ? "/" : "", STR_ARG(part));
	}
}

static int stat_path(const struct tree *tree, const char *path, uint64_t *ret_id)
{
	char full[FOLDER_MAX + 40 + 1 + LIMIT_CGROUP_PATH];
	struct stat st;
	snprintf(full, sizeof full, "%s/%s", tree->folder, path);
	if (stat(full, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	*ret_id = st.st_ino;
	return 0;
}

// The path of the unit, looked for in the slices. The paths that there are when there are two.
static int find_unit(const struct tree *tree, const char *name, char ret_path[LIMIT_CGROUP_PATH],
		     struct strbuf *error)
{
	struct walk walk = {.visit = visit_unit, .wanted = str_from(name)};
	walk_into(&walk, AT_FDCWD, tree->folder);
	if (walk.count == 0) {
		strbuf_printf(error, "there is no control group '%s' in %s or its slices; " HINT, name,
			      tree->folder);
		return ERR_NOT_FOUND;
	}
	if (walk.count > 1) {
		strbuf_printf(error, "'%s' could be %s or %s: give the path", name, walk.found[0],
			      walk.found[1]);
		return ERR_NOT_FOUND;
	}
	memcpy(ret_path, walk.found[0], sizeof walk.found[0]);
	return 0;
}

static uint32_t count_parts(const char *path)
{
	uint32_t parts = 1;
	for (; *path; path++)
		parts += *path == '/';
	return parts;
}

// One path below another, which may be empty.
static int join(const char *above, const char *below, char ret_path[LIMIT_CGROUP_PATH])
{
	int len = snprintf(ret_path, LIMIT_CGROUP_PATH, "%s%s%s", above, above[0] ? "/" : "", below);
	return len < LIMIT_CGROUP_PATH ? 0 : -ENAMETOOLONG;
}

static int find_in(const struct tree *tree, const char *name, struct cgroup *ret_cgroup, struct strbuf *error)
{
	char path[LIMIT_CGROUP_PATH];
	struct cgroup cgroup = {.path = ""};
	plain_path(tree, str_from(name), path);
	int err = stat_path(tree, path, &cgroup.id);
	if (err && !strchr(name, '/'))
		err = find_unit(tree, name, path, error);
	else if (err)
		strbuf_printf(error, "there is no control group '%s' (%s/%s: %s); " HINT, name, tree->folder,
			      path, err_text(err));
	if (err)
		return err;
	err = stat_path(tree, path, &cgroup.id);
	if (!err)
		err = join(tree->inside, path, cgroup.path);
	if (err) {
		strbuf_printf(error, "control group '%s': %s", name, err_text(err));
		return err;
	}
	cgroup.level = count_parts(cgroup.path);
	*ret_cgroup = cgroup;
	return 0;
}

int cgroup_find(const char *name, struct cgroup *ret_cgroup, struct strbuf *ret_error)
{
	struct tree tree;
	const char *fault = cgroup_name_fault(name);
	if (fault) {
		strbuf_printf(ret_error, "'%.64s' %s", name, fault);
		return ERR_CONFIG;
	}
	int err = open_tree(&tree, ret_error);
	return err ? err : find_in(&tree, name, ret_cgroup, ret_error);
}

// --- of processes ------------------------------------------------------------------------------------------
int cgroup_line_of(const char *path, struct cgroup_line *ret_line)
{
	struct tree tree;
	struct cgroup_line line = {.path = "/"};
	char plain[LIMIT_CGROUP_PATH], *end;
	if (!find_tree(&tree) || is_beyond(&tree) || strncmp(path, "/..", 3) == 0)
		return ERR_NOT_FOUND;
	plain_path(&tree, str_from(path), plain);
	for (end = plain; *end; line.count++) {
		if (line.count == LIMIT_CGROUP_DEPTH)
			return ERR_LIMIT;
		end += strcspn(end, "/");
		char cut = *end;
		*end = 0;
		if (stat_path(&tree, plain, &line.ids[line.count]))
			return ERR_NOT_FOUND;
		*end = cut;
		end += cut != 0;
	}
	snprintf(line.path, sizeof line.path, "%s", path);
	*ret_line = line;
	return 0;
}

int cgroup_line_own(struct cgroup_line *ret_line)
{
	char line[LINE_MAX_BYTES];
	int err = ERR_NOT_FOUND;
	FILE *file = fopen("/proc/self/cgroup", "re");
	while (file && err && fgets(line, sizeof line, file)) {
		line[strcspn(line, "\n")] = 0;
		if (strncmp(line, "0::", 3) == 0)
			err = cgroup_line_of(line + 3, ret_line);
	}
	if (file)
		fclose(file);
	return err;
}

// --- rules -------------------------------------------------------------------------------------------------
// The comment is all that tells the name of one that is gone: the end of a long path is what matters.
static void add_to_comment(char comment[RULE_COMMENT_MAX], const char *path)
{
	size_t at = strlen(comment), len = strlen(path), room = COMMENT_LEN - at - strlen(" ...");
	snprintf(comment + at, RULE_COMMENT_MAX - at, " %s%s", len > room ? "..." : "",
		 len > room ? path + len - room : path);
}

static int resolve(struct ruleset *ruleset, struct rule *rule, struct rule_match *match, struct strbuf *error)
{
	struct cgroup cgroup;
	int err = cgroup_find(match->path, &cgroup, error);
	if (err)
		return err;
	match->cgroup = cgroup.id;
	match->value = cgroup.level;
	match->path = ruleset_keep_text(ruleset, str_from(cgroup.path));
	add_to_comment(rule->comment, cgroup.path);
	return match->path ? 0 : -ENOMEM;
}

// nft knows no other folder than /sys/fs/cgroup, where there may be version 1, and ours below.
static int note_folder(struct ruleset *ruleset)
{
	static const struct str NFT_FOLDER = STR("/sys/fs/cgroup");
	char text[FOLDER_MAX + 16];
	struct tree tree;
	if (!find_tree(&tree) || str_eq(str_from(tree.point), NFT_FOLDER))
		return 0;
	struct str below = strip(str_from(tree.point), NFT_FOLDER);
	if (below.len < strlen(tree.point))
		snprintf(text, sizeof text, "%s/", below.p + 1);
	else
		snprintf(text, sizeof text, "../../..%s/", tree.point);
	ruleset->nft_cgroups = ruleset_keep_text(ruleset, str_from(text));
	return ruleset->nft_cgroups ? 0 : -ENOMEM;
}

int ruleset_find_cgroups(struct ruleset *ruleset, struct strbuf *ret_error)
{
	int err = 0;
	bool any = false;
	for (size_t i = 0; i < ruleset->rule_count && !err; i++) {
		struct rule *rule = &ruleset->rules[i];
		for (size_t j = 0; j < rule->match_count && !err; j++)
			if (rule->matches[j].field == RULE_CGROUP) {
				any = true;
				err = resolve(ruleset, rule, &rule->matches[j], ret_error);
			}
	}
	return err || !any ? err : note_folder(ruleset);
}

// False: there is none of that number.
static bool path_of(const struct tree *tree, uint64_t id, uint32_t level, char ret_path[LIMIT_CGROUP_PATH])
{
	uint32_t above = tree->inside[0] ? count_parts(tree->inside) : 0;
	struct walk walk = {.visit = visit_number, .id = id, .id_level = level - above};
	if (level <= above || is_beyond(tree))
		return false;
	walk_into(&walk, AT_FDCWD, tree->folder);
	if (walk.count == 0)
		return false;
	return join(tree->inside, walk.found[0], ret_path) == 0;
}

void ruleset_name_cgroups(struct ruleset *ruleset)
{
	char path[LIMIT_CGROUP_PATH];
	struct tree tree;
	bool open = false;
	for (size_t i = 0; i < ruleset->rule_count; i++)
		for (size_t j = 0; j < ruleset->rules[i].match_count; j++) {
			struct rule_match *match = &ruleset->rules[i].matches[j];
			if (match->field != RULE_CGROUP || match->path)
				continue;
			if (!open && !find_tree(&tree))
				return;
			open = true;
			if (path_of(&tree, match->cgroup, match->value, path))
				match->path = ruleset_keep_text(ruleset, str_from(path));
		}
}

bool cgroup_exists(const char *path, uint64_t id, uint32_t level)
{
	char found[LIMIT_CGROUP_PATH];
	struct tree tree;
	return find_tree(&tree) && path_of(&tree, id, level, found) && (!path || strcmp(path, found) == 0);
}
