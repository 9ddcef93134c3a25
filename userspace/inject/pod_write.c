// SPDX-License-Identifier: Apache-2.0
// The containers and volumes that go into a pod.
#include "inject/pod.h"

#include "base/mem.h"

#define PROGRAM_FOLDER "/usr/bin/"
#define CONFIG_FOLDER  "/etc/weir"
#define TLS_FOLDER     "/etc/weir-tls"
#define RUN_FOLDER     "/run/weir"
#define STATE_FOLDER   "/var/lib/weir"
#define VOLUME_CONFIG  "weir-config"
#define VOLUME_TLS     "weir-tls"
#define VOLUME_RUN     "weir-run"
#define VOLUME_STATE   "weir-state"

static struct str setting(const struct pod *pod, enum setting which)
{
	return pod->settings.values[which];
}

static bool by_agent(const struct pod *pod)
{
	return str_eq(setting(pod, SETTING_INTERCEPTION), STR("agent"));
}

// --- arguments --------------------------------------------------------------------------------------------
// Kubernetes expands $(NAME) in arguments, and takes $$ for a dollar sign.
static void write_argument(struct writer *writer, const char *key, const struct strbuf *text)
{
	struct strbuf escaped = {0};
	for (size_t i = 0; i < text->len; i++) {
		if (text->p[i] == '$')
			strbuf_add_char(&escaped, '$');
		strbuf_add_char(&escaped, text->p[i]);
	}
	writer->out->failed |= text->failed || escaped.failed;
	writer_str(writer, key, strbuf_str(&escaped));
	strbuf_done(&escaped);
}

static void write_option(struct writer *writer, const char *name, struct str value)
{
	autostrbuf struct strbuf text = {0};
	if (!value.len)
		return;
	strbuf_printf(&text, "--%s=%.*s", name, STR_ARG(value));
	write_argument(writer, NULL, &text);
}

static void write_set(struct writer *writer, const char *key, struct str value)
{
	autostrbuf struct strbuf text = {0};
	if (!value.len)
		return;
	strbuf_printf(&text, "--set=%s=%.*s", key, STR_ARG(value));
	write_argument(writer, NULL, &text);
}

// A path as it stands in a request, which it does here in any case: the kubelet writes blanks and the like
// so, and does not send what a fragment is.
static void add_target(struct strbuf *out, struct str path)
{
	path = str_split(&path, '#');
	if (!path.len || path.p[0] != '/')
		strbuf_add_char(out, '/');
	for (size_t i = 0; i < path.len; i++) {
		unsigned char c = (unsigned char)path.p[i];
		if (c <= ' ' || c >= 0x7f)
			strbuf_printf(out, "%%%02X", c);
		else
			strbuf_add_char(out, (char)c);
	}
}

// "--probe=app/readiness=http:8080/healthz", as admin/probe.h reads it.
void pod_write_probe(const struct pod_probe *probe, const char *key, struct writer *writer)
{
	const struct node *handler = probe->handler;
	struct str kind = handler->key->text, path = node_text(node_get(handler, "path"));
	bool https = str_eq(node_text(node_get(handler, "scheme")), STR("HTTPS"));
	autostrbuf struct strbuf text = {0};
	strbuf_printf(&text, "--probe=%.*s/%s=", STR_ARG(probe->container), probe->name);
	if (str_eq(kind, STR("httpGet"))) {
		strbuf_printf(&text, "%s:%u", https ? "https" : "http", probe->port);
		add_target(&text, path);
	} else if (str_eq(kind, STR("tcpSocket"))) {
		strbuf_printf(&text, "tcp:%u", probe->port);
	} else {
		strbuf_printf(&text, "grpc:%u/%.*s", probe->port,
			      STR_ARG(node_text(node_get(handler, "service"))));
	}
	write_argument(writer, key, &text);
}

// --- parts of a container ---------------------------------------------------------------------------------
static void write_image(const struct pod *pod, struct writer *writer)
{
	writer_str(writer, "image", setting(pod, SETTING_IMAGE));
	if (setting(pod, SETTING_PULL_POLICY).len)
		writer_str(writer, "imagePullPolicy", setting(pod, SETTING_PULL_POLICY));
}

static void write_amounts(struct writer *writer, const char *key, struct str cpu, struct str memory)
{
	if (!cpu.len && !memory.len)
		return;
	writer_map(writer, key);
	if (cpu.len)
		writer_str(writer, "cpu", cpu);
	if (memory.len)
		writer_str(writer, "memory", memory);
	writer_map_end(writer);
}

static void write_resources(const struct pod *pod, struct writer *writer)
{
	writer_map(writer, "resources");
	write_amounts(writer, "requests", setting(pod, SETTING_CPU_REQUEST),
		      setting(pod, SETTING_MEMORY_REQUEST));
	write_amounts(writer, "limits", setting(pod, SETTING_CPU_LIMIT), setting(pod, SETTING_MEMORY_LIMIT));
	writer_map_end(writer);
}

static const char *const no_capabilities[] = {NULL};

// Nothing but the capabilities that are named, a read-only root, no way to gain more.
static void write_security(struct writer *writer, uint32_t user, const char *const *capabilities)
{
	// Another user than root gets its capabilities from the program's file, which counts as escalation.
	writer_map(writer, "securityContext");
	writer_bool(writer, "allowPrivilegeEscalation", user != 0 && *capabilities);
	writer_map(writer, "capabilities");
	if (*capabilities) {
		writer_list(writer, "add");
		for (; *capabilities; capabilities++)
			writer_text(writer, NULL, *capabilities);
		writer_list_end(writer);
	}
	writer_list(writer, "drop");
	writer_text(writer, NULL, "ALL");
	writer_list_end(writer);
	writer_map_end(writer);
	writer_bool(writer, "privileged", false);
	writer_bool(writer, "readOnlyRootFilesystem", true);
	writer_uint(writer, "runAsGroup", user);
	writer_bool(writer, "runAsNonRoot", user != 0);
	writer_uint(writer, "runAsUser", user);
	writer_map(writer, "seccompProfile");
	writer_text(writer, "type", "RuntimeDefault");
	writer_map_end(writer);
	writer_map_end(writer);
}

struct timing {
	unsigned period_s, timeout_s, failures;
};

static void write_own_probe(const struct pod *pod, struct writer *writer, const char *key, const char *path,
			    struct timing timing)
{
	writer_map(writer, key);
	writer_map(writer, "httpGet");
	writer_text(writer, "path", path);
	writer_uint(writer, "port", settings_number(&pod->settings, SETTING_PROBE_PORT));
	writer_map_end(writer);
	writer_uint(writer, "periodSeconds", timing.period_s);
	writer_uint(writer, "timeoutSeconds", timing.timeout_s);
	writer_uint(writer, "failureThreshold", timing.failures);
	writer_map_end(writer);
}

static void write_mount(struct writer *writer, const char *name, const char *path, bool read_only)
{
	writer_map(writer, NULL);
	writer_text(writer, "name", name);
	writer_text(writer, "mountPath", path);
	if (read_only)
		writer_bool(writer, "readOnly", true);
	writer_map_end(writer);
}

// --- the interception -------------------------------------------------------------------------------------
static void add_option(struct strbuf *out, const char *name, struct str value)
{
	if (value.len)
		strbuf_printf(out, "%s--%s=%.*s", out->len ? " " : "", name, STR_ARG(value));
}

// Of what is not captured nothing is said: `weir intercept apply` takes that for a mistake.
static bool has_effect(const struct pod *pod, size_t which)
{
	return (which != SETTING_VIPS || settings_on(&pod->settings, SETTING_OUTBOUND)) &&
	       (which != SETTING_DNS_SERVERS || settings_on(&pod->settings, SETTING_DNS)) &&
	       (which != SETTING_HOLD_TIMEOUT || str_eq(setting(pod, SETTING_FAIL), STR("hold")));
}

// What is captured, as options of `weir intercept apply`, separated by blanks. The proxy's own port for
// probes never is.
static void add_capture(const struct pod *pod, struct strbuf *out)
{
	static const struct {
		enum setting setting;
		const char *option;
	} switches[] = {{SETTING_OUTBOUND, " --no-outbound"},
			{SETTING_INBOUND, " --no-inbound"},
			{SETTING_DNS, " --no-dns"}};
	struct str more = setting(pod, SETTING_EXCLUDE_INBOUND_PORTS);
	add_option(out, "proxy-user", setting(pod, SETTING_PROXY_USER));
	for (size_t i = 0; i < SETTING_COUNT; i++)
		if (setting_rows[i].kind == VALUE_PLAN && i != SETTING_EXCLUDE_INBOUND_PORTS &&
		    has_effect(pod, i))
			add_option(out, setting_rows[i].name, pod->settings.values[i]);
	add_option(out, setting_rows[SETTING_EXCLUDE_INBOUND_PORTS].name, setting(pod, SETTING_PROBE_PORT));
	if (more.len)
		strbuf_printf(out, ",%.*s", STR_ARG(more));
	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		if (!settings_on(&pod->settings, switches[i].setting))
			strbuf_add_text(out, switches[i].option);
}

static void write_intercept_command(const struct pod *pod, struct writer *writer)
{
	autostrbuf struct strbuf options = {0};
	writer_list(writer, "command");
	writer_text(writer, NULL, PROGRAM_FOLDER "weir");
	writer_text(writer, NULL, "intercept");
	writer_text(writer, NULL, by_agent(pod) ? "wait" : "apply");
	if (!by_agent(pod)) {
		add_capture(pod, &options);
		struct str rest = strbuf_str(&options);
		while (rest.p)
			writer_str(writer, NULL, str_split(&rest, ' '));
	}
	writer->out->failed |= options.failed;
	writer_list_end(writer);
}

void pod_write_init(const struct pod *pod, struct writer *writer)
{
	static const char *const capabilities[] = {"NET_ADMIN", "NET_RAW", NULL};
	writer_map(writer, NULL);
	writer_text(writer, "name", CONTAINER_INIT);
	write_image(pod, writer);
	write_intercept_command(pod, writer);
	write_resources(pod, writer);
	if (by_agent(pod)) {
		write_security(writer, settings_number(&pod->settings, SETTING_PROXY_USER), no_capabilities);
		writer_list(writer, "volumeMounts");
		write_mount(writer, VOLUME_RUN, RUN_FOLDER, true);
		writer_list_end(writer);
	} else {
		write_security(writer, 0, capabilities);
	}
	writer_map_end(writer);
}

// --- the proxy --------------------------------------------------------------------------------------------
static void write_proxy_command(const struct pod *pod, struct writer *writer)
{
	writer_list(writer, "command");
	writer_text(writer, NULL, PROGRAM_FOLDER "weir-proxy");
	writer_text(writer, NULL, "--config=" CONFIG_FOLDER "/weir.yaml");
	writer_text(writer, NULL, "--set=node.id=$(WEIR_POD)");
	write_set(writer, "tls.mode", setting(pod, SETTING_TLS_MODE));
	write_set(writer, "log.level", setting(pod, SETTING_LOG_LEVEL));
	write_set(writer, "intercept.capture.inbound_source", setting(pod, SETTING_INBOUND_SOURCE));
	write_option(writer, "probe-port", setting(pod, SETTING_PROBE_PORT));
	for (size_t i = 0; i < pod->probe_count; i++)
		pod_write_probe(&pod->probes[i], NULL, writer);
	writer_list_end(writer);
}

static void write_environment(const struct pod *pod, struct writer *writer)
{
	autostrbuf struct strbuf capture = {0};
	writer_list(writer, "env");
	writer_map(writer, NULL);
	writer_text(writer, "name", "WEIR_POD");
	writer_map(writer, "valueFrom");
	writer_map(writer, "fieldRef");
	writer_text(writer, "fieldPath", "metadata.name");
	writer_map_end(writer);
	writer_map_end(writer);
	writer_map_end(writer);
	if (by_agent(pod)) {
		add_capture(pod, &capture);
		writer->out->failed |= capture.failed;
		writer_map(writer, NULL);
		writer_text(writer, "name", "WEIR_CAPTURE");
		writer_str(writer, "value", strbuf_str(&capture));
		writer_map_end(writer);
	}
	writer_list_end(writer);
}

static void write_pre_stop(struct writer *writer)
{
	writer_map(writer, "lifecycle");
	writer_map(writer, "preStop");
	writer_map(writer, "exec");
	writer_list(writer, "command");
	writer_text(writer, NULL, PROGRAM_FOLDER "weir");
	writer_text(writer, NULL, "conn");
	writer_text(writer, NULL, "drain");
	writer_list_end(writer);
	writer_map_end(writer);
	writer_map_end(writer);
	writer_map_end(writer);
}

void pod_write_proxy(const struct pod *pod, struct writer *writer)
{
	// To mark its sockets, and to call from its clients' addresses.
	static const char *const raw[] = {"NET_RAW", NULL};
	bool keeps_client = str_eq(setting(pod, SETTING_INBOUND_SOURCE), STR("client"));
	writer_map(writer, NULL);
	writer_text(writer, "name", CONTAINER_PROXY);
	write_image(pod, writer);
	writer_text(writer, "restartPolicy", "Always");
	write_proxy_command(pod, writer);
	write_environment(pod, writer);
	write_own_probe(pod, writer, "startupProbe", "/readyz", (struct timing){1, 3, 60});
	write_own_probe(pod, writer, "readinessProbe", "/readyz", (struct timing){5, 3, 2});
	write_own_probe(pod, writer, "livenessProbe", "/healthz", (struct timing){10, 5, 6});
	write_pre_stop(writer);
	write_resources(pod, writer);
	write_security(writer, settings_number(&pod->settings, SETTING_PROXY_USER),
		       by_agent(pod) && !keeps_client ? no_capabilities : raw);
	writer_list(writer, "volumeMounts");
	write_mount(writer, VOLUME_CONFIG, CONFIG_FOLDER, true);
	if (pod_wants_volume(pod, 1))
		write_mount(writer, VOLUME_TLS, TLS_FOLDER, true);
	write_mount(writer, VOLUME_RUN, RUN_FOLDER, false);
	write_mount(writer, VOLUME_STATE, STATE_FOLDER, false);
	writer_list_end(writer);
	writer_map_end(writer);
}

// --- volumes ----------------------------------------------------------------------------------------------
static void write_empty_dir(struct writer *writer, bool memory)
{
	writer_map(writer, "emptyDir");
	if (memory)
		writer_text(writer, "medium", "Memory");
	writer_text(writer, "sizeLimit", memory ? "1Mi" : "64Mi");
	writer_map_end(writer);
}

bool pod_wants_volume(const struct pod *pod, size_t number)
{
	return number != 1 || !str_eq(setting(pod, SETTING_TLS_SECRET), STR("none"));
}

const char *pod_volume_name(size_t number)
{
	static const char *const names[POD_VOLUMES] = {VOLUME_CONFIG, VOLUME_TLS, VOLUME_RUN, VOLUME_STATE};
	return names[number];
}

void pod_write_volume(const struct pod *pod, size_t number, struct writer *writer)
{
	writer_map(writer, NULL);
	writer_text(writer, "name", pod_volume_name(number));
	if (number == 0) {
		writer_map(writer, "configMap");
		writer_str(writer, "name", setting(pod, SETTING_CONFIG_MAP));
		writer_map_end(writer);
	} else if (number == 1) {
		writer_map(writer, "secret");
		writer_str(writer, "secretName", setting(pod, SETTING_TLS_SECRET));
		writer_bool(writer, "optional", true);
		writer_map_end(writer);
	} else {
		write_empty_dir(writer, number == 2);
	}
	writer_map_end(writer);
}

// --- probes -----------------------------------------------------------------------------------------------
static void write_headers(const struct node *headers, struct writer *writer)
{
	if (!headers || headers->kind != NODE_LIST || !headers->count)
		return;
	writer_list(writer, "httpHeaders");
	for (const struct node *item = headers->first; item; item = item->next) {
		writer_map(writer, NULL);
		writer_str(writer, "name", node_text(node_get(item, "name")));
		writer_str(writer, "value", node_text(node_get(item, "value")));
		writer_map_end(writer);
	}
	writer_list_end(writer);
}

void pod_write_handler(const struct pod *pod, const struct pod_probe *probe, struct writer *writer)
{
	autostrbuf struct strbuf path = {0};
	strbuf_printf(&path, PROBE_PATH "%.*s/%s", STR_ARG(probe->container), probe->name);
	writer->out->failed |= path.failed;
	writer_map(writer, "httpGet");
	writer_str(writer, "path", strbuf_str(&path));
	writer_uint(writer, "port", settings_number(&pod->settings, SETTING_PROBE_PORT));
	write_headers(node_get(probe->handler, "httpHeaders"), writer);
	writer_map_end(writer);
}
