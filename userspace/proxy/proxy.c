// SPDX-License-Identifier: Apache-2.0
#include "proxy/proxy.h"

#include "admin/metrics.h"
#include "admin/server.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mem.h"
#include "control/build.h"
#include "control/config.h"
#include "dns/vip.h"
#include "intercept/install.h"
#include "intercept/marks.h"
#include "mesh/regex.h"
#include "net/tls.h"
#include "net/tls_watch.h"
#include "proxy/acceleration.h"
#include "proxy/notify.h"
#include "proxy/plane.h"
#include "proxy/privileges.h"
#include "proxy/relaying.h"
#include "proxy/trim.h"
#include "run/signals.h"
#include "run/stats.h"

#include <errno.h>
#include <grp.h>
#include <libgen.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct proxy {
	struct proxy_options options;
	struct loop *loop; // of the control thread
	struct config *config;
	struct vip_pool *vips;
	struct model *model;	 // the current snapshot, one reference
	struct tls_context *tls; // NULL: none
	struct tls_watch *tls_watch;
	struct acceleration *acceleration; // NULL: none
	struct relaying *relaying;
	struct privileges privileges;
	struct plane_settings planes;
	struct workers *workers;
	struct signals *signals;
	struct admin_socket *admin_socket;
	struct admin_server *admin;
	struct metrics_server *metrics;
	struct probe_server *probes;
	int metrics_fd;
	struct held_rules held; // fail open
	struct loop_timer deadline;
	struct trim trim;
	unsigned busy_workers; // that still drain
	bool serving, stopping;
};

// --- models and certificates --------------------------------------------------------------------------------
// The context of the model's certificate; *ret_tls stays NULL if none is configured.
static int load_tls(const struct model *model, struct tls_context **ret_tls, struct strbuf *ret_error)
{
	const struct tls_settings *settings = &model->tls;
	struct tls_options options = {settings->certificate, settings->private_key, settings->trust,
				      settings->allow, settings->allow_count};
	char *why = NULL;
	if (!settings->certificate.len)
		return 0;
	int err = tls_context_new(&options, ret_tls, &why);
	if (err)
		strbuf_printf(ret_error, "%s", why ? why : err_text(err));
	mem_free(why);
	if (!err && tls_context_describe(*ret_tls)->key_exposed)
		log_warn("the private key's file can be read by its group or by others",
			 LOG_STR("file", settings->private_key));
	return err;
}

static int open_vips(struct proxy *proxy, const struct config *config, struct strbuf *ret_error)
{
	char *why = NULL;
	if (proxy->vips)
		return 0;
	int err = vip_pool_open(config->dns.state.text.p, config->dns.vips.items, config->dns.vips.count,
				&proxy->vips, &why);
	if (err)
		strbuf_printf(ret_error, "%s", why ? why : err_text(err));
	mem_free(why);
	return err;
}

static bool same_tls_settings(const struct tls_settings *a, const struct tls_settings *b)
{
	bool same = str_eq(a->certificate, b->certificate) && str_eq(a->private_key, b->private_key) &&
		    str_eq(a->trust, b->trust) && a->allow_count == b->allow_count;
	for (size_t i = 0; same && i < a->allow_count; i++)
		same = str_eq(a->allow[i], b->allow[i]);
	return same;
}

// Files that cannot be used any more, expired for instance, do not stand in the way of a change of something
// else.
static int load_or_keep_tls(const struct proxy *proxy, const struct model *model,
			    struct tls_context **ret_tls, struct strbuf *ret_error)
{
	int err = load_tls(model, ret_tls, ret_error);
	if (!err || err == -ENOMEM || !proxy->tls || !same_tls_settings(&model->tls, &proxy->model->tls))
		return err;
	log_error("the certificate's files cannot be used; the one in use stays",
		  LOG_STR("reason", strbuf_str(ret_error)));
	strbuf_clear(ret_error);
	*ret_tls = tls_context_ref(proxy->tls);
	return 0;
}

// Everything but the virtual IPs: what fails here has changed nothing, and no name has got an address for
// good.
static int check_model(const struct proxy *proxy, const struct config *config, struct tls_context **ret_tls,
		       struct strbuf *ret_error)
{
	struct model *model;
	int err = model_build(config, NULL, &model, ret_error);
	if (err)
		return err;
	err = load_or_keep_tls(proxy, model, ret_tls, ret_error);
	model_unref(model);
	return err;
}

static int load_model(struct proxy *proxy, struct config **ret_config, struct model **ret_model,
		      struct tls_context **ret_tls, struct strbuf *ret_error)
{
	struct config *config;
	struct tls_context *tls = NULL;
	int err = config_load_set(proxy->options.config_path, proxy->options.sets, &config, ret_error);
	if (err)
		return err;
	err = check_model(proxy, config, &tls, ret_error);
	if (!err)
		err = open_vips(proxy, config, ret_error);
	if (!err)
		err = model_build(config, proxy->vips, ret_model, ret_error);
	if (err) {
		if (proxy->vips)
			vip_pool_revert(proxy->vips);
		if (tls)
			tls_context_unref(tls);
		config_free(config);
		return err;
	}
	*ret_config = config;
	*ret_tls = tls;
	return 0;
}

// Before anybody can be told of them: killed right after, the next proxy gives the same.
static void save_vips(struct proxy *proxy)
{
	int err = vip_pool_save(proxy->vips);
	if (err)
		log_error("the virtual IPs could not be written; after a restart they may differ",
			  LOG_STR("file", proxy->config->dns.state.text), LOG_ERR(err));
}

// A context of the same content changes nothing: the old one stays, with its sessions and pooled connections.
static bool keep_known_tls(const struct proxy *proxy, struct tls_context **tls)
{
	if (!proxy->tls || !*tls || !tls_context_same(proxy->tls, *tls))
		return false;
	tls_context_unref(*tls);
	*tls = tls_context_ref(proxy->tls);
	return true;
}

static void log_tls(const struct tls_context *tls)
{
	const struct tls_cert_info *info = tls_context_describe(tls);
	char until[32];
	time_t end = (time_t)info->not_after;
	struct tm tm;
	strftime(until, sizeof until, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&end, &tm));
	log_info("the certificate was read again", LOG_TEXT("identity", info->id),
		 LOG_TEXT("serial", info->serial), LOG_TEXT("not_after", until));
}

// Hands a model and a context to all workers in one step, so that no request meets the one without the other.
// The references are the proxy's from now on, or, after an error, the caller's still.
static int publish(struct proxy *proxy, struct model *model, struct tls_context *tls)
{
	struct plane_snapshot snapshot = {model, tls};
	int err = workers_call(proxy->workers, plane_publish, &snapshot);
	if (err)
		return err;
	if (proxy->tls)
		tls_context_unref(proxy->tls);
	model_unref(proxy->model);
	proxy->tls = tls;
	proxy->model = model;
	return 0;
}

static void on_tls_files(void *arg)
{
	struct proxy *proxy = arg;
	struct tls_context *tls = NULL;
	autostrbuf struct strbuf why = {0};
	if (load_tls(proxy->model, &tls, &why)) {
		log_error("the certificate changed, but the new one cannot be used; the old one stays",
			  LOG_STR("reason", strbuf_str(&why)));
		return;
	}
	if (keep_known_tls(proxy, &tls)) {
		tls_context_unref(tls);
		return;
	}
	if (publish(proxy, model_ref(proxy->model), tls)) {
		log_error("out of memory: the old certificate stays");
		model_unref(proxy->model);
		if (tls)
			tls_context_unref(tls);
		return;
	}
	if (tls)
		log_tls(tls);
}

static int watch_tls(struct proxy *proxy)
{
	const struct tls_settings *settings = &proxy->model->tls;
	struct str files[] = {settings->certificate, settings->private_key, settings->trust};
	tls_watch_free(proxy->tls_watch);
	proxy->tls_watch = NULL;
	return settings->certificate.len ? tls_watch_new(proxy->loop, files, ARRAY_SIZE(files), on_tls_files,
							 proxy, &proxy->tls_watch)
					 : 0;
}

static void warn_of_restart(const struct config *old, const struct config *now)
{
	autostrbuf struct strbuf keys = {0};
	config_restart_keys(old, now, &keys);
	if (keys.len)
		log_warn("some changes take effect at the next start only",
			 LOG_STR("keys", strbuf_str(&keys)));
}

static void apply_log(const struct config *config)
{
	log_set_level((enum log_level)config->log.level);
	log_set_format((enum log_format)config->log.format);
}

static void adopt_config(struct proxy *proxy, struct config *config)
{
	warn_of_restart(proxy->config, config);
	apply_log(config);
	config_free(proxy->config);
	proxy->config = config;
	watch_tls(proxy);
	malloc_trim(0);
}

static int load_and_publish(struct proxy *proxy, struct strbuf *ret_text)
{
	struct config *config;
	struct model *model;
	struct tls_context *tls;
	int err = load_model(proxy, &config, &model, &tls, ret_text);
	if (err)
		return err;
	model->generation = proxy->model->generation + 1;
	keep_known_tls(proxy, &tls);
	save_vips(proxy);
	err = publish(proxy, model, tls);
	if (err) {
		model_unref(model);
		if (tls)
			tls_context_unref(tls);
		config_free(config);
		return err;
	}
	adopt_config(proxy, config);
	return 0;
}

static int proxy_reload(void *data, struct strbuf *ret_text)
{
	struct proxy *proxy = data;
	// Ending has been announced: nothing may say READY after that.
	if (proxy->stopping) {
		strbuf_add_text(ret_text, "the proxy is ending");
		return ERR_CLOSED;
	}
	notify_reloading();
	int err = load_and_publish(proxy, ret_text);
	notify_send("READY=1");
	if (err) {
		struct str reason = strbuf_str(ret_text);
		reason.len -= str_ends(reason, STR("\n"));
		stats_inc(STAT_CONFIG_REJECTED);
		log_error("the new configuration was rejected; the old one stays",
			  LOG_STR("reason", reason.len ? reason : str_from(err_text(err))));
		return err;
	}
	stats_inc(STAT_CONFIG_RELOADS);
	log_info("the configuration was applied", LOG_UINT("generation", proxy->model->generation));
	return 0;
}

// --- ending -------------------------------------------------------------------------------------------------
static void on_deadline(struct loop_timer *timer)
{
	struct proxy *proxy = container_of(timer, struct proxy, deadline);
	log_warn("the drain deadline has passed; what is still open is cut");
	loop_stop(proxy->loop);
}

static void on_worker_idle(void *arg)
{
	struct proxy *proxy = arg;
	if (--proxy->busy_workers == 0)
		loop_stop(proxy->loop);
}

static void on_signal(int number, void *arg)
{
	struct proxy *proxy = arg;
	autostrbuf struct strbuf text = {0};
	if (number == SIGHUP) {
		if (!proxy->stopping)
			proxy_reload(proxy, &text);
		return;
	}
	if (proxy->stopping) {
		log_info("ending at once");
		loop_stop(proxy->loop);
		return;
	}
	proxy->stopping = true;
	proxy->serving = false;
	notify_send("STOPPING=1");
	log_info("draining", LOG_TEXT("signal", sigabbrev_np(number)));
	loop_timer_start(proxy->loop, &proxy->deadline, proxy->model->timeouts.drain_ms);
	proxy->busy_workers = workers_count(proxy->workers);
	proxy->planes.on_idle = on_worker_idle;
	held_rules_let_go(&proxy->held); // from now on connections pass us by
	if (workers_call(proxy->workers, plane_drain, NULL))
		loop_stop(proxy->loop);
}

// Ahead of the end: others are to take over, but nothing is refused.
static int proxy_retire(void *data)
{
	struct proxy *proxy = data;
	int err = proxy->stopping ? 0 : workers_call(proxy->workers, plane_retire, NULL);
	if (err)
		return err;
	proxy->serving = false;
	log_info("inbound clients are asked to go elsewhere");
	return 0;
}

// --- admin --------------------------------------------------------------------------------------------------
static struct model *admin_model(void *data)
{
	return ((struct proxy *)data)->model;
}

static bool admin_ready(void *data)
{
	return ((struct proxy *)data)->serving;
}

static const struct tls_context *admin_tls(void *data)
{
	return ((struct proxy *)data)->tls;
}

static void admin_vip_usage(void *data, int family, uint64_t *ret_used, uint64_t *ret_size)
{
	vip_pool_usage(((struct proxy *)data)->vips, family, ret_used, ret_size);
}

static void admin_show_config(void *data, struct emit *emit)
{
	config_show(((struct proxy *)data)->config, emit);
}

static int start_probes(struct proxy *proxy, const struct admin_backend *backend, struct strbuf *ret_error)
{
	const struct probe_options options = {.port = proxy->options.probe_port,
					      .probes = proxy->options.probes,
					      .count = proxy->options.probe_count,
					      .mark = proxy->privileges.mark ? WEIR_MARK_INBOUND : 0};
	return options.port ? probe_server_new(proxy->loop, &options, backend, &proxy->probes, ret_error) : 0;
}

static int start_admin(struct proxy *proxy, struct strbuf *ret_error)
{
	struct admin_backend backend = {
	    .data = proxy,
	    .config_path = proxy->options.config_path,
	    .started_ns = clock_mono_ns(),
	    .model = admin_model,
	    .ready = admin_ready,
	    .workers = proxy->workers,
	    .balancer = plane_balancer,
	    .connections = plane_each_connection,
	    .kill = plane_kill_connection,
	    .tls = admin_tls,
	    .reload = proxy_reload,
	    .retire = proxy_retire,
	    .dns_listen = proxy->planes.dns_listen,
	    .dns_listen_count = proxy->planes.dns_listen_count,
	    .dns_flush = plane_flush_dns,
	    .vip_usage = admin_vip_usage,
	    .show_config = admin_show_config,
	};
	int err = admin_server_new(proxy->loop, &proxy->admin_socket, &backend, &proxy->admin);
	if (!err && proxy->metrics_fd >= 0) {
		err = metrics_server_new(proxy->loop, proxy->metrics_fd, &backend, &proxy->metrics);
		if (!err)
			proxy->metrics_fd = -1;
	}
	return err ? err : start_probes(proxy, &backend, ret_error);
}

// --- starting -----------------------------------------------------------------------------------------------
static unsigned worker_count(const struct config *config)
{
	cpu_set_t set;
	if (config->workers)
		return config->workers;
	return sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)MAX(CPU_COUNT(&set), 1) : 1;
}

// As root: the state file's folder, which the user must be able to write to later. A folder that was there
// keeps its owner.
static int make_state_folder(const struct config *config, uid_t uid, gid_t gid, struct strbuf *ret_error)
{
	char path[4097];
	int err = 0;
	snprintf(path, sizeof path, "%.*s", STR_ARG(config->dns.state.text));
	const char *folder = dirname(path);
	if (mkdir(folder, 0750) == 0)
		err = chown(folder, uid, gid) < 0 ? -errno : 0;
	else if (errno != EEXIST)
		err = -errno;
	if (err)
		strbuf_printf(ret_error, "the folder %s of dns.state cannot be made: %s", folder,
			      err_text(err));
	return err;
}

static int open_admin(struct proxy *proxy, uid_t uid, gid_t gid, struct strbuf *ret_error)
{
	const struct config *config = proxy->config;
	const struct group *group = NULL;
	if (config->admin.group.text.len) {
		group = getgrnam(config->admin.group.text.p);
		if (!group) {
			config_error(config, config->admin.group.at, ret_error,
				     "admin.group: there is no group \"%s\"", config->admin.group.text.p);
			return ERR_NOT_FOUND;
		}
	}
	int err = admin_socket_open(config->admin.socket.text.p, uid, group ? group->gr_gid : gid,
				    &proxy->admin_socket, ret_error);
	if (!err && config->admin.metrics.ip.family)
		err = metrics_listen(&config->admin.metrics, &proxy->metrics_fd, ret_error);
	return err;
}

static void accelerate(struct proxy *proxy)
{
	const struct config *config = proxy->config;
	struct strbuf why = {0};
	if (config->acceleration == ACCELERATION_OFF)
		return;
	if (acceleration_start((uint16_t)config->intercept.outbound, (uint16_t)config->intercept.inbound,
			       &proxy->acceleration, &why))
		log_warn("acceleration is off", LOG_STR("reason", strbuf_str(&why)));
	else
		log_info("acceleration is on");
	if (proxy->acceleration && relaying_start(&proxy->relaying, &why))
		log_warn("acceleration goes without relaying", LOG_STR("reason", strbuf_str(&why)));
	strbuf_done(&why);
}

// Installs the rules that go with this process.
static int hold_rules(struct proxy *proxy, struct strbuf *ret_error)
{
	struct capture_plan plan;
	config_capture_plan(proxy->config, &plan);
	if (plan.fail != FAIL_OPEN)
		return 0;
	return intercept_hold(config_backend(proxy->config), &plan, &proxy->held, ret_error);
}

// What root has read and the proxy's user cannot: told now, and not only when the file changes, a certificate
// just before it expires.
static void warn_of_unreadable(const struct proxy *proxy)
{
	const struct config *config = proxy->config;
	const char *const paths[] = {proxy->options.config_path, config->tls.certificate.text.p,
				     config->tls.private_key.text.p, config->tls.trust.text.p};
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		if (paths[i] && *paths[i] && access(paths[i], R_OK) < 0)
			log_warn("the proxy's user cannot read this file: no change of it will be taken over",
				 LOG_TEXT("file", paths[i]), LOG_ERR(-errno));
}

// All that wants root, and then giving it up.
static int start_privileged(struct proxy *proxy, struct strbuf *ret_error)
{
	const struct config *config = proxy->config;
	const char *user = config->user.text.len ? config->user.text.p : NULL;
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;
	int err = user && geteuid() == 0 ? privileges_user(user, &uid, &gid, ret_error) : 0;
	if (!err)
		err = make_state_folder(config, uid, gid, ret_error);
	if (!err)
		err = open_admin(proxy, uid, gid, ret_error);
	if (!err)
		accelerate(proxy);
	privileges_raise_files();
	if (!err)
		err = hold_rules(proxy, ret_error);
	bool low_ports = config->intercept.outbound < 1024 || config->intercept.inbound < 1024 ||
			 (config->intercept.dns && config->intercept.dns < 1024);
	if (!err)
		err = privileges_drop(user, low_ports, &proxy->privileges, ret_error);
	if (!err && !proxy->privileges.mark)
		log_warn("sockets cannot be marked (CAP_NET_RAW is missing): capture must spare the proxy's "
			 "user instead");
	if (!err)
		warn_of_unreadable(proxy);
	return err;
}

static int configure_planes(struct proxy *proxy)
{
	const struct config *config = proxy->config;
	struct plane_settings *planes = &proxy->planes;
	planes->dataplane = (struct dataplane_settings){
	    .outbound_port = (uint16_t)config->intercept.outbound,
	    .inbound_port = (uint16_t)config->intercept.inbound,
	    .outbound_mark = proxy->privileges.mark ? WEIR_MARK_OUTBOUND : 0,
	    .inbound_mark = proxy->privileges.mark ? WEIR_MARK_INBOUND : 0,
	    .inbound_source = config->intercept.inbound_source,
	};
	if (config->intercept.capture.inbound_source == INBOUND_SOURCE_CLIENT && proxy->privileges.mark)
		planes->dataplane.client_mark = WEIR_MARK_CLIENT;
	else if (config->intercept.capture.inbound_source == INBOUND_SOURCE_CLIENT)
		log_warn("applications do not see their clients' addresses (CAP_NET_RAW is missing)");
	planes->control = proxy->loop;
	planes->owner = proxy;
	planes->model = proxy->model;
	planes->tls = proxy->tls;
	return plane_settings_dns(planes, config);
}

static int start_workers(struct proxy *proxy, struct strbuf *ret_error)
{
	struct worker_ops ops = {plane_init, plane_done, &proxy->planes};
	unsigned count = worker_count(proxy->config);
	int err = stats_init(count + 1);
	if (!err)
		err = configure_planes(proxy);
	if (!err)
		err = plane_check_ports(&proxy->planes, ret_error);
	if (!err)
		err = workers_start(count, &ops, &proxy->workers);
	if (err && !ret_error->len)
		strbuf_printf(ret_error, "the workers cannot be started: %s", err_text(err));
	return err;
}

int proxy_start(const struct proxy_options *options, struct proxy **ret_proxy, struct strbuf *ret_error)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
	struct proxy *proxy = mem_zalloc(sizeof *proxy);
	if (!proxy)
		return -ENOMEM;
	signal(SIGPIPE, SIG_IGN);
	proxy->options = *options;
	proxy->metrics_fd = -1;
	proxy->held = HELD_RULES_NONE;
	loop_timer_init(&proxy->deadline, on_deadline);
	// From now on a signal waits until the loop runs: one that comes early, SIGHUP above all, does not
	// kill.
	int err = loop_new(&proxy->loop);
	if (!err)
		err =
		    signals_new(proxy->loop, numbers, ARRAY_SIZE(numbers), on_signal, proxy, &proxy->signals);
	if (!err)
		err = load_model(proxy, &proxy->config, &proxy->model, &proxy->tls, ret_error);
	if (!err) {
		apply_log(proxy->config);
		log_set_node(proxy->config->node.id.text);
		proxy->model->generation = 1;
		err = start_privileged(proxy, ret_error);
	}
	if (!err) {
		save_vips(proxy);
		err = start_workers(proxy, ret_error);
	}
	if (!err)
		err = watch_tls(proxy);
	if (!err)
		err = start_admin(proxy, ret_error);
	if (err) {
		if (!ret_error->len)
			strbuf_add_text(ret_error, err_text(err));
		proxy_free(proxy);
		return err;
	}
	stats_use_slot(0);
	trim_init(&proxy->trim, proxy->loop);
	malloc_trim(0);
	*ret_proxy = proxy;
	return 0;
}

int proxy_run(struct proxy *proxy)
{
	proxy->serving = true;
	notify_send("READY=1");
	log_info("serving", LOG_TEXT("version", WEIR_VERSION), LOG_STR("zone", proxy->config->node.zone.text),
		 LOG_UINT("workers", workers_count(proxy->workers)),
		 LOG_UINT("services", proxy->model->service_count),
		 LOG_UINT("clusters", proxy->model->cluster_count));
	loop_run(proxy->loop);
	log_info("ended");
	return EXIT_SUCCESS;
}

void proxy_free(struct proxy *proxy)
{
	if (!proxy)
		return;
	trim_done(&proxy->trim);
	probe_server_free(proxy->probes);
	metrics_server_free(proxy->metrics);
	admin_server_free(proxy->admin);
	admin_socket_close(proxy->admin_socket);
	workers_stop(proxy->workers);
	tls_watch_free(proxy->tls_watch);
	signals_free(proxy->signals);
	relaying_stop(proxy->relaying);
	acceleration_stop(proxy->acceleration);
	if (proxy->metrics_fd >= 0)
		close(proxy->metrics_fd);
	held_rules_drop(&proxy->held);
	if (proxy->tls)
		tls_context_unref(proxy->tls);
	model_unref(proxy->model);
	vip_pool_free(proxy->vips);
	config_free(proxy->config);
	loop_free(proxy->loop);
	mem_free(proxy);
}
