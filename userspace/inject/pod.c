// SPDX-License-Identifier: Apache-2.0
#include "inject/pod.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>

static int refuse(const struct node *node, int err, struct strbuf *error, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int refuse(const struct node *node, int err, struct strbuf *error, const char *format, ...)
{
	const struct node *at = node->line == 0 && node->key ? node->key : node;
	autostrbuf struct strbuf text = {0};
	va_list args;
	va_start(args, format);
	strbuf_vprintf(&text, format, args);
	va_end(args);
	strbuf_printf(error, "%u:%u: ", at->line, at->column);
	strbuf_add_visible(error, strbuf_str(&text));
	return err;
}

// Of two keys by the same name weir would look at one, and the cluster take the other.
static int check_keys(const struct node *node, const char *what, struct strbuf *error)
{
	const struct node *twice;
	if (node->kind == NODE_ALIAS)
		return refuse(node, ERR_UNSUPPORTED, error, "%s is an alias: write it out", what);
	int err = node_find_double(node, &twice);
	return err || !twice ? err
			     : refuse(twice->key, ERR_CONFIG, error, "%s has this key twice: '%.*s'", what,
				      (int)MIN(twice->key->text.len, (size_t)64), twice->key->text.p);
}

static int check_merge(const struct node *node, const char *what, struct strbuf *error)
{
	const struct node *merge = node_get(node, "<<");
	return merge ? refuse(merge->key, ERR_UNSUPPORTED, error,
			      "%s has a merge key: write out what it brings", what)
		     : 0;
}

// What weir has to look into must be written out.
static int check_written_out(const struct node *node, const char *what, struct strbuf *error)
{
	int err = check_keys(node, what, error);
	return err ? err : check_merge(node, what, error);
}

// Where weir looks below a map: all on the way there, if it is there.
static int check_path(const struct node *map, const char *const *path, struct strbuf *error)
{
	int err = 0;
	for (const struct node *node = node_get(map, *path); node && !err; node = node_get(node, *path)) {
		err = check_written_out(node, *path, error);
		if (!*++path)
			break;
	}
	return err;
}

// The same for all that is in it.
static int check_whole(const struct node *node, const char *what, struct strbuf *error)
{
	int err = check_written_out(node, what, error);
	for (const struct node *part = node->first; part && !err; part = part->next)
		err = check_whole(part, part->key ? part->key->text.p : "this", error);
	return err;
}

// --- templates --------------------------------------------------------------------------------------------
static int find_at(const struct node *node, const char *const *path, const struct node **ret_found,
		   struct strbuf *error)
{
	const char *what = "this object";
	int err = check_keys(node, what, error);
	for (; node && *path && !err; path++) {
		const struct node *found = node_get(node, *path);
		err = found ? check_keys(found, *path, error) : check_merge(node, what, error);
		node = found;
		what = *path;
	}
	*ret_found = node;
	return err;
}

// Behind an alias or a merge key there may be any kind.
static int check_kind(const struct node *object, struct strbuf *error)
{
	const struct node *kind = node_get(object, "kind");
	if (kind)
		return kind->kind == NODE_ALIAS ? check_keys(kind, "kind", error) : 0;
	return object->kind == NODE_ALIAS ? check_keys(object, "this object", error)
					  : check_merge(object, "this object", error);
}

int pod_list(const struct node *document, const struct node **ret_items, struct strbuf *ret_error)
{
	static const char *const path[] = {"items", NULL};
	struct str kind = node_text(node_get(document, "kind"));
	const struct node *items = NULL;
	int err = kind.p && str_ends(kind, STR("List")) ? find_at(document, path, &items, ret_error) : 0;
	*ret_items = items && items->kind == NODE_LIST ? items : NULL;
	return err;
}

// Others than Kubernetes have a Job, too. Who says no version means Kubernetes; "extensions" is what "apps"
// was called.
static bool is_of_group(struct str version, const char *group)
{
	if (!version.p)
		return true;
	struct str said = str_find(version, '/') < 0 ? STR("") : str_split(&version, '/');
	return str_eq(str_eq(said, STR("extensions")) ? STR("apps") : said, str_from(group));
}

// The items of a DeploymentList need not say of themselves that they are Deployments.
static struct str kind_of(const struct node *object, const struct node **ret_version)
{
	const struct node *kind = node_get(object, "kind");
	const struct node *list = object->parent ? object->parent->parent : NULL;
	struct str text = node_text(kind ? kind : node_get(list, "kind"));
	if (!kind)
		text.len -= MIN(text.len, strlen("List"));
	*ret_version = node_get(kind ? object : list, "apiVersion");
	return text;
}

int pod_template(const struct node *object, const struct node **ret_template, struct strbuf *ret_error)
{
	static const struct {
		const char *kind, *group, *path[5];
	} kinds[] = {
	    {"Pod", "", {NULL}},
	    {"PodTemplate", "", {"template", NULL}},
	    {"ReplicationController", "", {"spec", "template", NULL}},
	    {"Deployment", "apps", {"spec", "template", NULL}},
	    {"StatefulSet", "apps", {"spec", "template", NULL}},
	    {"DaemonSet", "apps", {"spec", "template", NULL}},
	    {"ReplicaSet", "apps", {"spec", "template", NULL}},
	    {"Job", "batch", {"spec", "template", NULL}},
	    {"CronJob", "batch", {"spec", "jobTemplate", "spec", "template", NULL}},
	};
	const struct node *version;
	struct str kind = kind_of(object, &version);
	*ret_template = NULL;
	int err = check_kind(object, ret_error);
	if (err)
		return err;
	for (size_t i = 0; kind.p && i < ARRAY_SIZE(kinds); i++)
		if (str_eq(kind, str_from(kinds[i].kind))) {
			if (version && version->kind == NODE_ALIAS)
				return check_keys(version, "apiVersion", ret_error);
			return is_of_group(node_text(version), kinds[i].group)
				   ? find_at(object, kinds[i].path, ret_template, ret_error)
				   : 0;
		}
	return 0;
}

// --- settings ---------------------------------------------------------------------------------------------
static int read_annotations(const struct node *template, struct settings *settings, struct strbuf *error)
{
	const struct node *metadata = node_get(template, "metadata");
	const struct node *annotations = node_get(metadata, "annotations");
	int err = metadata ? check_written_out(metadata, "the pod's metadata", error) : 0;
	if (!err && annotations)
		err = check_written_out(annotations, "this list of annotations", error);
	if (err || !annotations || annotations->kind != NODE_MAP)
		return err;
	for (const struct node *value = annotations->first; value; value = value->next) {
		struct str name = value->key->text;
		autostrbuf struct strbuf why = {0};
		if (!str_starts(name, STR(ANNOTATION_PREFIX)))
			continue;
		name.p += strlen(ANNOTATION_PREFIX);
		name.len -= strlen(ANNOTATION_PREFIX);
		err = check_written_out(value, "this annotation", error);
		if (err)
			return err;
		if (value->kind != NODE_SCALAR)
			return refuse(value, ERR_CONFIG, error, "an annotation is a text");
		err = settings_set(settings, name, value->text, &why);
		if (err == -ENOMEM)
			return err;
		if (err)
			return refuse(value, ERR_CONFIG, error, "%s", why.p ? why.p : err_text(err));
	}
	return 0;
}

// --- what a pod may not be --------------------------------------------------------------------------------
static int check_list(const struct node *list, const char *what, struct strbuf *error)
{
	if (!list || node_is_null(list))
		return 0;
	int err = check_written_out(list, what, error);
	return err || list->kind == NODE_LIST ? err : refuse(list, ERR_CONFIG, error, "%s is no list", what);
}

static bool runs_as(const struct node *node, uint32_t user)
{
	uint64_t number;
	return node_to_u64(node_get(node_get(node, "securityContext"), "runAsUser"), &number) == 0 &&
	       number == user;
}

static bool is_ours(struct str name)
{
	return str_eq(name, STR(CONTAINER_PROXY)) || str_eq(name, STR(CONTAINER_INIT));
}

// A volume of the pod's own by the name of one of ours would be mounted into the proxy, or refused by the API
// server.
static int check_volumes(const struct pod *pod, struct strbuf *error)
{
	const struct node *list = node_get(pod->spec, "volumes");
	int err = check_list(list, "volumes", error);
	for (const struct node *item = list && list->kind == NODE_LIST ? list->first : NULL; item && !err;
	     item = item->next) {
		for (size_t i = 0; i < POD_VOLUMES && !err; i++)
			if (pod_wants_volume(pod, i) &&
			    str_eq(node_text(node_get(item, "name")), str_from(pod_volume_name(i))))
				err = refuse(item, ERR_CONFIG, error,
					     "the pod has a volume '%s', as weir calls one of its own: name "
					     "it otherwise",
					     pod_volume_name(i));
	}
	return err;
}

// In a pod all containers share the ports.
static int check_ports(const struct node *container, uint32_t probe_port, struct strbuf *error)
{
	const struct node *ports = node_get(container, "ports");
	uint64_t number;
	for (const struct node *item = ports && ports->kind == NODE_LIST ? ports->first : NULL; item;
	     item = item->next) {
		struct str protocol = node_text(node_get(item, "protocol"));
		bool udp = str_eq(protocol, STR("UDP")), tcp = !protocol.len || str_eq(protocol, STR("TCP"));
		if (node_to_u64(node_get(item, "containerPort"), &number) || !(udp || tcp))
			continue;
		if (settings_is_proxy_port(number, udp))
			return refuse(item, ERR_CONFIG, error,
				      "port %u is one of the proxy's own: this container cannot have it",
				      (unsigned)number);
		if (tcp && number == probe_port)
			return refuse(
			    item, ERR_CONFIG, error,
			    "the proxy answers probes on port %u, which is this container's: choose another "
			    "with " ANNOTATION_PREFIX "probe-port",
			    probe_port);
	}
	return 0;
}

static bool has_ours(const struct node *list)
{
	for (const struct node *item = list && list->kind == NODE_LIST ? list->first : NULL; item;
	     item = item->next)
		if (is_ours(node_text(node_get(item, "name"))))
			return true;
	return false;
}

// As any reader of YAML may have it.
static bool is_true(const struct node *node)
{
	static const char *const words[] = {"true", "yes", "on", "y"};
	struct str text = node_text(node);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (text.p && str_eq_nocase(text, str_from(words[i])))
			return true;
	return false;
}

// The kubelet runs a static pod from its own files and has the API server show a copy, which may not name
// secrets: one that weir is in would be refused.
static bool is_copy_of_static_pod(const struct node *template)
{
	const struct node *annotations = node_get(node_get(template, "metadata"), "annotations");
	return node_get(annotations, "kubernetes.io/config.mirror") != NULL;
}

static const char *what_is_unfit(const struct node *template, const struct node *spec)
{
	if (is_true(node_get(spec, "hostNetwork")))
		return "it uses the host's network";
	if (str_eq(node_text(node_get(node_get(spec, "os"), "name")), STR("windows")))
		return "it is a pod for Windows";
	if (is_copy_of_static_pod(template))
		return "it is a copy of a static pod";
	return NULL;
}

static const char *reason_to_skip(const struct pod *pod)
{
	if (!settings_on(&pod->settings, SETTING_INJECT))
		return ANNOTATION_PREFIX "inject says no";
	if (pod->injected)
		return "it has weir already";
	return NULL;
}

// --- probes -----------------------------------------------------------------------------------------------
struct reading {
	struct tree *tree;
	struct pod *pod;
	const struct node *container;
	const char *list;
	uint32_t index;
	size_t cap;
	struct strbuf *error;
};

static int find_port(const struct reading *reading, const struct node *handler, uint16_t *ret_port)
{
	const struct node *port = node_get(handler, "port");
	const struct node *ports = node_get(reading->container, "ports");
	struct str text = node_text(port);
	uint64_t number = 0;
	if (!text.len)
		return refuse(handler, ERR_CONFIG, reading->error, "the port of this probe is missing");
	int err = ports && str_to_u64(text, &number) ? check_whole(ports, "ports", reading->error) : 0;
	if (err)
		return err;
	for (const struct node *item = ports && ports->kind == NODE_LIST ? ports->first : NULL; item;
	     item = item->next)
		if (str_eq(node_text(node_get(item, "name")), text))
			text = node_text(node_get(item, "containerPort"));
	if (!text.p || str_to_u64(text, &number) || number < 1 || number > UINT16_MAX)
		return refuse(port, ERR_CONFIG, reading->error,
			      "'%.*s' is neither a port nor the name of one of the container's",
			      (int)MIN(port->text.len, (size_t)64), port->text.p);
	*ret_port = (uint16_t)number;
	return 0;
}

static int add_probe(struct reading *reading, const struct pod_probe *probe)
{
	struct pod *pod = reading->pod;
	if (pod->probe_count == LIMIT_POD_PROBES)
		return refuse(probe->probe, ERR_LIMIT, reading->error, "too many probes in one pod");
	if (pod->probe_count == reading->cap) {
		size_t cap = reading->cap ? reading->cap * 2 : 8;
		struct pod_probe *more = arena_alloc(&reading->tree->arena, cap * sizeof *more);
		if (!more)
			return -ENOMEM;
		if (pod->probe_count)
			memcpy(more, pod->probes, pod->probe_count * sizeof *more);
		pod->probes = more;
		reading->cap = cap;
	}
	pod->probes[pod->probe_count++] = *probe;
	return 0;
}

// A probe that was handed to the proxy before.
static bool asks_proxy(const struct reading *reading, const struct node *handler)
{
	uint64_t port;
	return str_starts(node_text(node_get(handler, "path")), STR(PROBE_PATH)) &&
	       str_to_u64(node_text(node_get(handler, "port")), &port) == 0 &&
	       port == settings_number(&reading->pod->settings, SETTING_PROBE_PORT);
}

// What the proxy can take over. One that names a host does not ask the pod, and stays.
static const struct node *find_handler(const struct node *probe, bool lifecycle)
{
	static const char *const kinds[] = {"httpGet", "tcpSocket", "grpc"};
	for (size_t i = 0; i < (lifecycle ? 1 : ARRAY_SIZE(kinds)); i++) {
		const struct node *handler = node_get(probe, kinds[i]);
		if (handler && handler->kind == NODE_ALIAS)
			return handler;
		if (handler && handler->kind == NODE_MAP && !node_text(node_get(handler, "host")).len)
			return handler;
	}
	return NULL;
}

static int read_probe(struct reading *reading, const struct node *parent, const char *key, const char *name,
		      const char *group)
{
	const struct node *probe = node_get(parent, key);
	if (!probe || node_is_null(probe))
		return 0;
	int err = check_written_out(probe, key, reading->error);
	if (err)
		return err;
	const struct node *handler = find_handler(probe, group != NULL);
	if (!handler || asks_proxy(reading, handler))
		return 0;
	struct pod_probe found = {.probe = probe,
				  .handler = handler,
				  .name = name,
				  .container = node_text(node_get(reading->container, "name")),
				  .list = reading->list,
				  .index = reading->index,
				  .group = group};
	err = check_whole(handler, "the probe", reading->error);
	if (!err && !found.container.len)
		err = refuse(reading->container, ERR_CONFIG, reading->error, "this container has no name");
	if (!err)
		err = find_port(reading, handler, &found.port);
	return err ? err : add_probe(reading, &found);
}

static int read_container(struct reading *reading)
{
	static const char *const paths[][3] = {
	    {"name", NULL}, {"securityContext", "runAsUser", NULL}, {"lifecycle", NULL}};
	static const struct {
		const char *group, *key, *name;
	} probes[] = {{NULL, "startupProbe", "startup"},
		      {NULL, "readinessProbe", "readiness"},
		      {NULL, "livenessProbe", "liveness"},
		      {"lifecycle", "postStart", "post-start"},
		      {"lifecycle", "preStop", "pre-stop"}};
	const struct node *container = reading->container;
	uint32_t user = settings_number(&reading->pod->settings, SETTING_PROXY_USER);
	int err = check_written_out(container, "this container", reading->error);
	for (size_t i = 0; i < ARRAY_SIZE(paths) && !err; i++)
		err = check_path(container, paths[i], reading->error);
	if (!err && runs_as(container, user))
		err = refuse(container, ERR_CONFIG, reading->error,
			     "this container runs as user %u, as the proxy does: choose another "
			     "with " ANNOTATION_PREFIX "proxy-user",
			     user);
	if (!err)
		err = check_ports(container, settings_number(&reading->pod->settings, SETTING_PROBE_PORT),
				  reading->error);
	bool wanted = settings_on(&reading->pod->settings, SETTING_REWRITE_PROBES) &&
		      settings_on(&reading->pod->settings, SETTING_INBOUND);
	for (size_t i = 0; i < ARRAY_SIZE(probes) && wanted && !err; i++) {
		const struct node *parent =
		    probes[i].group ? node_get(container, probes[i].group) : container;
		err = read_probe(reading, parent, probes[i].key, probes[i].name, probes[i].group);
	}
	return err;
}

static int read_containers(struct reading *reading, const char *key)
{
	const struct node *list = node_get(reading->pod->spec, key);
	int err = check_list(list, key, reading->error);
	reading->list = key;
	reading->index = 0;
	reading->container = list && list->kind == NODE_LIST ? list->first : NULL;
	for (; reading->container && !err; reading->container = reading->container->next) {
		if (!is_ours(node_text(node_get(reading->container, "name"))))
			err = read_container(reading);
		reading->index++;
	}
	return err;
}

// --- the pod ----------------------------------------------------------------------------------------------
static int check_settings(const struct node *template, const struct pod *pod, struct strbuf *error)
{
	const struct node *annotations = node_get(node_get(template, "metadata"), "annotations");
	autostrbuf struct strbuf why = {0};
	int err = settings_check(&pod->settings, &why);
	return err ? refuse(annotations ? annotations : pod->spec, err, error, "%s",
			    why.p ? why.p : err_text(-ENOMEM))
		   : 0;
}

static int check_spec(const struct node *spec, struct strbuf *error)
{
	static const char *const paths[][3] = {
	    {"hostNetwork", NULL}, {"os", "name", NULL}, {"securityContext", "runAsUser", NULL}};
	int err = 0;
	for (size_t i = 0; i < ARRAY_SIZE(paths) && !err; i++)
		err = check_path(spec, paths[i], error);
	return err;
}

static int read_spec(struct reading *reading)
{
	const struct pod *pod = reading->pod;
	uint32_t user = settings_number(&pod->settings, SETTING_PROXY_USER);
	if (!node_get(pod->spec, "containers"))
		return refuse(pod->spec, ERR_CONFIG, reading->error, "the pod has no containers");
	if (runs_as(pod->spec, user))
		return refuse(
		    pod->spec, ERR_CONFIG, reading->error,
		    "the pod runs as user %u, as the proxy does: choose another with " ANNOTATION_PREFIX
		    "proxy-user",
		    user);
	int err = read_containers(reading, "initContainers");
	return err ? err : read_containers(reading, "containers");
}

// A pod that is to get weir.
static int read_wanting(struct reading *reading, const struct node *template)
{
	struct pod *pod = reading->pod;
	int err = check_spec(pod->spec, reading->error);
	pod->skip = err ? NULL : what_is_unfit(template, pod->spec);
	pod->unfit = pod->skip != NULL;
	if (err || pod->skip)
		return err;
	err = check_settings(template, pod, reading->error);
	if (!err)
		err = check_volumes(pod, reading->error);
	return err ? err : read_spec(reading);
}

int pod_read(struct tree *tree, const struct node *template, const struct settings *settings,
	     struct pod *ret_pod, struct strbuf *ret_error)
{
	*ret_pod = (struct pod){.spec = node_get(template, "spec"), .settings = *settings};
	struct reading reading = {.tree = tree, .pod = ret_pod, .error = ret_error};
	bool whole = ret_pod->spec && node_get(template, "metadata");
	int err = whole ? 0 : check_merge(template, "this pod", ret_error);
	if (err)
		return err;
	if (!ret_pod->spec)
		return refuse(template, ERR_CONFIG, ret_error, "the pod's spec is missing");
	err = check_written_out(ret_pod->spec, "the pod's spec", ret_error);
	if (!err && ret_pod->spec->kind != NODE_MAP)
		err = refuse(ret_pod->spec, ERR_CONFIG, ret_error, "the pod's spec is no mapping");
	if (!err)
		err = read_annotations(template, &ret_pod->settings, ret_error);
	if (err)
		return err;
	ret_pod->injected = settings_on(&ret_pod->settings, SETTING_INJECT) &&
			    (has_ours(node_get(ret_pod->spec, "initContainers")) ||
			     has_ours(node_get(ret_pod->spec, "containers")));
	ret_pod->skip = reason_to_skip(ret_pod);
	return ret_pod->skip ? 0 : read_wanting(&reading, template);
}

// --- a pod that has weir ----------------------------------------------------------------------------------
static bool has_probe_port(const struct pod *pod, const struct node *proxy)
{
	const struct node *command = node_get(proxy, "command");
	autostrbuf struct strbuf wanted = {0};
	strbuf_printf(&wanted, "--probe-port=%u", settings_number(&pod->settings, SETTING_PROBE_PORT));
	for (const struct node *word = command && command->kind == NODE_LIST ? command->first : NULL; word;
	     word = word->next)
		if (str_eq(node_text(word), strbuf_str(&wanted)))
			return true;
	return false;
}

int pod_read_later(struct tree *tree, struct pod *pod, uint32_t *ret_proxy, struct strbuf *ret_error)
{
	struct reading reading = {.tree = tree, .pod = pod, .error = ret_error};
	const struct node *list = node_get(pod->spec, "initContainers");
	const struct node *proxy = list && list->kind == NODE_LIST ? list->first : NULL;
	uint32_t index = 0;
	for (; proxy && !str_eq(node_text(node_get(proxy, "name")), STR(CONTAINER_PROXY));
	     proxy = proxy->next)
		index++;
	if (!proxy || !has_probe_port(pod, proxy))
		return 0;
	int err = read_spec(&reading);
	if (!err)
		*ret_proxy = index;
	return err;
}
