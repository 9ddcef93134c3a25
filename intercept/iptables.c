// SPDX-License-Identifier: Apache-2.0
// The iptables back end, for hosts without nftables: by iptables-restore and ip6tables-restore, which have no
// library. There may be two kinds of them, one for nftables and one for the kernel's old tables, that do not
// see each other's rules: the system's default is used, and what another one has is found and removed as
// well. Each family's rules are one transaction (of the old tables: one for each of raw and nat).
#include "intercept/backend.h"

#include "base/error.h"
#include "base/mem.h"
#include "intercept/iptables_text.h"
#include "intercept/program.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { KINDS_MAX = 3, STDERR_SHOWN = 400 };

// One kind of one family's programs.
struct kind {
	char save[PATH_MAX], restore[PATH_MAX], real[PATH_MAX];
};

struct family {
	uint8_t number; // AF_*
	const char *name, *prefix;
	struct kind kinds[KINDS_MAX]; // the first is the default
	size_t kind_count;
};

// --- programs ----------------------------------------------------------------------------------------------
static bool find_kind(const char *prefix, const char *suffix, struct kind *ret_kind)
{
	char name[64];
	snprintf(name, sizeof name, "%s%s-save", prefix, suffix);
	if (program_find(name, ret_kind->save))
		return false;
	snprintf(name, sizeof name, "%s%s-restore", prefix, suffix);
	return program_find(name, ret_kind->restore) == 0 && realpath(ret_kind->restore, ret_kind->real);
}

static const char *last_part(const char *path)
{
	return strrchr(path, '/') + 1;
}

// Whether its version has the word.
static bool says(const struct kind *kind, const char *word)
{
	struct program_result result;
	const char *arguments[] = {last_part(kind->restore), "--version", NULL};
	int err = program_run(kind->restore, arguments, (struct str){0}, &result);
	bool found = err == 0 && result.status == 0 && result.output.len &&
		     memmem(result.output.p, result.output.len, word, strlen(word));
	program_result_done(&result);
	return found;
}

// A name of its own may be one of the others again; of the default one, which may be a script that runs one
// of them, only itself can tell.
static void find_kinds(struct family *family)
{
	static const char *const suffixes[KINDS_MAX] = {"", "-nft", "-legacy"};
	static const char *const words[KINDS_MAX] = {"", "(nf_tables)", "(legacy)"};
	for (size_t i = 0; i < KINDS_MAX; i++) {
		struct kind *kind = &family->kinds[family->kind_count];
		bool known = !find_kind(family->prefix, suffixes[i], kind);
		for (size_t j = 0; j < family->kind_count && !known; j++)
			known = strcmp(family->kinds[j].real, kind->real) == 0;
		if (!known && family->kind_count)
			known = says(&family->kinds[0], words[i]);
		family->kind_count += !known;
	}
}

// The caller frees it with mem_free; NULL: out of memory.
static struct family *find_families(void)
{
	struct family *families = mem_zalloc(2 * sizeof *families);
	if (!families)
		return NULL;
	families[0] = (struct family){.number = AF_INET, .name = "IPv4", .prefix = "iptables"};
	families[1] = (struct family){.number = AF_INET6, .name = "IPv6", .prefix = "ip6tables"};
	find_kinds(&families[0]);
	find_kinds(&families[1]);
	return families;
}

// What a program said, in one line.
static void add_said(struct strbuf *error, const struct strbuf *said)
{
	size_t len = MIN(said->len, (size_t)STDERR_SHOWN);
	while (len && (said->p[len - 1] == '\n' || said->p[len - 1] == ' '))
		len--;
	for (size_t i = 0; i < len; i++)
		strbuf_add_char(error, said->p[i] == '\n' ? ' ' : said->p[i]);
}

static int say_failure(struct strbuf *error, const char *path, int err, const struct program_result *result)
{
	if (err) {
		strbuf_printf(error, "%s: %s", path, err_text(err));
		return err;
	}
	strbuf_printf(error, "%s failed with status %d: ", path, result->status);
	add_said(error, &result->errors);
	return -EOPNOTSUPP;
}

static int save(const struct kind *kind, struct iptables_state *ret_state, struct strbuf *error)
{
	struct program_result result;
	const char *arguments[] = {last_part(kind->save), "-c", NULL};
	int err = program_run(kind->save, arguments, (struct str){0}, &result);
	if (err || result.status)
		err = say_failure(error, kind->save, err, &result);
	else
		err = iptables_parse(strbuf_str(&result.output), ret_state);
	program_result_done(&result);
	return err;
}

static int restore(const struct kind *kind, struct str text, struct strbuf *error)
{
	struct program_result result;
	// Another program may hold the lock for a moment.
	const char *arguments[] = {last_part(kind->restore), "--noflush", "-w", "5", NULL};
	int err = program_run(kind->restore, arguments, text, &result);
	if (err || result.status)
		err = say_failure(error, kind->restore, err, &result);
	program_result_done(&result);
	return err;
}

// From what is there to what is wanted, in one family.
static int go_to(const struct kind *kind, const struct iptables_state *from, const struct iptables_state *to,
		 struct strbuf *error)
{
	autostrbuf struct strbuf text = {0};
	iptables_transition(from, to, &text);
	if (text.failed)
		return -ENOMEM;
	return text.len ? restore(kind, strbuf_str(&text), error) : 0;
}

// --- reading -----------------------------------------------------------------------------------------------
// What the kind has of both families. A family without programs has nothing.
static int read_default(const struct family *families, struct iptables_state states[2], struct strbuf *error)
{
	int err = 0;
	for (size_t i = 0; i < 2 && err == 0; i++)
		if (families[i].kind_count)
			err = save(&families[i].kinds[0], &states[i], error);
	return err;
}

static int iptables_read(struct ruleset *ret_ruleset, struct strbuf *ret_error)
{
	struct iptables_state states[2] = {{0}, {0}};
	struct family *families = find_families();
	int err = families ? ERR_NOT_FOUND : -ENOMEM;
	for (size_t kind = 0; kind < KINDS_MAX && err == ERR_NOT_FOUND; kind++) {
		for (size_t i = 0; i < 2; i++) {
			autostrbuf struct strbuf why = {0};
			iptables_state_done(&states[i]);
			int failed = kind < families[i].kind_count
					 ? save(&families[i].kinds[kind], &states[i], &why)
					 : 0;
			// One that cannot look has put nothing in; the default one should be able to.
			if (failed && kind == 0) {
				strbuf_add_str(ret_error, strbuf_str(&why));
				err = failed;
			}
		}
		if (err == ERR_NOT_FOUND && states[0].count + states[1].count)
			err = iptables_decode(&states[0], &states[1], ret_ruleset);
	}
	iptables_state_done(&states[0]);
	iptables_state_done(&states[1]);
	mem_free(families);
	return err;
}

// --- changing ----------------------------------------------------------------------------------------------
// Of all kinds but the first `kept` ones. *ret_removed becomes true if there was anything.
static int remove_kinds(const struct family *family, size_t kept, bool *ret_removed, struct strbuf *error)
{
	const struct iptables_state nothing = {0};
	for (size_t i = kept; i < family->kind_count; i++) {
		struct iptables_state present = {0};
		autostrbuf struct strbuf why = {0};
		int err = save(&family->kinds[i], &present, &why);
		if (err && i > 0)
			continue; // one that cannot look has put nothing in
		if (err == 0 && present.count) {
			err = go_to(&family->kinds[i], &present, &nothing, &why);
			*ret_removed |= err == 0;
		}
		iptables_state_done(&present);
		if (err) {
			strbuf_add_str(error, strbuf_str(&why));
			return err;
		}
	}
	return 0;
}

// Where a change failed half-way: back to what was there before, as far as that is possible.
static void go_back(const struct family *family, const struct iptables_state *before)
{
	struct iptables_state now = {0};
	autostrbuf struct strbuf ignored = {0};
	if (family->kind_count == 0 || save(&family->kinds[0], &now, &ignored))
		return;
	go_to(&family->kinds[0], &now, before, &ignored);
	iptables_state_done(&now);
}

static int check_programs(const struct family *family, bool wanted, struct strbuf *error)
{
	if (!wanted || family->kind_count)
		return 0;
	strbuf_printf(
	    error,
	    "%s is captured, and %s-restore and %s-save are not installed; install iptables, choose another "
	    "back end, or leave %s alone (--no-%s)",
	    family->name, family->prefix, family->prefix, family->name,
	    family->number == AF_INET6 ? "ipv6" : "ipv4");
	return ERR_UNSUPPORTED;
}

struct change {
	struct family *families;
	struct iptables_state before[2], wanted[2];
};

static int change_families(struct change *change, struct strbuf *error)
{
	int err = 0;
	size_t i = 0;
	for (; i < 2 && err == 0; i++)
		if (change->families[i].kind_count)
			err = go_to(&change->families[i].kinds[0], &change->before[i], &change->wanted[i],
				    error);
	// The one that failed, too: it may have more than one table.
	while (err && i-- > 0)
		go_back(&change->families[i], &change->before[i]);
	bool removed;
	for (i = 0; i < 2 && err == 0; i++)
		err = remove_kinds(&change->families[i], 1, &removed, error);
	return err;
}

static int want(const struct ruleset *ruleset, uint8_t family, struct iptables_state *ret_state)
{
	autostrbuf struct strbuf text = {0};
	iptables_print(ruleset, family, &text);
	return text.failed ? -ENOMEM : iptables_parse(strbuf_str(&text), ret_state);
}

static int prepare(struct change *change, const struct ruleset *ruleset, struct strbuf *error)
{
	int err = change->families ? 0 : -ENOMEM;
	for (size_t i = 0; i < 2 && err == 0; i++) {
		err = want(ruleset, change->families[i].number, &change->wanted[i]);
		if (err == 0)
			err = check_programs(&change->families[i], change->wanted[i].count, error);
	}
	return err ? err : read_default(change->families, change->before, error);
}

static int iptables_apply(const struct capture_plan *plan, const struct ruleset *ruleset,
			  struct strbuf *ret_error)
{
	struct change change = {.families = find_families()};
	(void)plan;
	int err = prepare(&change, ruleset, ret_error);
	if (err == 0)
		err = change_families(&change, ret_error);
	for (size_t i = 0; i < 2; i++) {
		iptables_state_done(&change.before[i]);
		iptables_state_done(&change.wanted[i]);
	}
	mem_free(change.families);
	return err;
}

static int iptables_remove(struct strbuf *ret_error)
{
	struct family *families = find_families();
	bool removed = false;
	int err = families ? 0 : -ENOMEM;
	for (size_t i = 0; i < 2 && err == 0; i++)
		err = remove_kinds(&families[i], 0, &removed, ret_error);
	mem_free(families);
	return err || removed ? err : ERR_NOT_FOUND;
}

// --- the rest ----------------------------------------------------------------------------------------------
static int iptables_probe(const struct capture_plan *plan, struct strbuf *ret_why)
{
	if (plan->inbound_mode == INBOUND_TPROXY) {
		strbuf_add_text(
		    ret_why,
		    "inbound mode tproxy: its target in iptables drops what belongs to other sockets; "
		    "use nft");
		return ERR_UNSUPPORTED;
	}
	if (plan->fail == FAIL_OPEN) {
		strbuf_add_text(ret_why,
				"fail open: rules of iptables outlive the proxy; use another back end");
		return ERR_UNSUPPORTED;
	}
	struct family *families = find_families();
	struct iptables_state states[2] = {{0}, {0}};
	int err = families ? check_programs(&families[0], plan->ipv4, ret_why) : -ENOMEM;
	if (err == 0)
		err = check_programs(&families[1], plan->ipv6, ret_why);
	if (err == 0)
		err = read_default(families, states, ret_why);
	iptables_state_done(&states[0]);
	iptables_state_done(&states[1]);
	mem_free(families);
	return err;
}

static void iptables_print_all(const struct ruleset *ruleset, struct strbuf *out)
{
	static const struct {
		uint8_t family;
		const char *title;
	} texts[] = {{AF_INET, "# IPv4: iptables-restore --noflush\n"},
		     {AF_INET6, "# IPv6: ip6tables-restore --noflush\n"}};
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		autostrbuf struct strbuf text = {0};
		iptables_print(ruleset, texts[i].family, &text);
		if (text.len)
			strbuf_printf(out, "%s%.*s", texts[i].title, STR_ARG(strbuf_str(&text)));
	}
}

static void iptables_adapt(const struct capture_plan *plan, struct ruleset *ruleset)
{
	ruleset_simplify_hold(ruleset, plan_hold_ms(plan));
}

const struct backend backend_iptables = {
    .name = "iptables",
    .probe = iptables_probe,
    .adapt = iptables_adapt,
    .print = iptables_print_all,
    .apply = iptables_apply,
    .read = iptables_read,
    .remove = iptables_remove,
};
