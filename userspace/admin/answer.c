// SPDX-License-Identifier: Apache-2.0
#include "admin/answer.h"

#include "admin/call.h"
#include "admin/commands.h"
#include "admin/protocol.h"
#include "base/error.h"
#include "base/mem.h"

static const admin_handler handlers[ADMIN_COMMAND_COUNT] = {
    [ADMIN_VHOST_SHOW] = admin_vhost_show,	 [ADMIN_ROUTE_SHOW] = admin_route_show,
    [ADMIN_ROUTE_EXPLAIN] = admin_route_explain, [ADMIN_CLUSTER_SHOW] = admin_cluster_show,
    [ADMIN_ENDPOINT_SHOW] = admin_endpoint_show, [ADMIN_CONN_SHOW] = admin_conn_show,
    [ADMIN_CONN_KILL] = admin_conn_kill,	 [ADMIN_CONN_DRAIN] = admin_conn_drain,
    [ADMIN_CERT_SHOW] = admin_cert_show,	 [ADMIN_DNS_SHOW] = admin_dns_show,
    [ADMIN_DNS_FLUSH] = admin_dns_flush,	 [ADMIN_STATS_SHOW] = admin_stats_show,
    [ADMIN_CONFIG_SHOW] = admin_config_show,	 [ADMIN_CONFIG_RELOAD] = admin_config_reload,
    [ADMIN_LOG_SHOW] = admin_log_show,		 [ADMIN_LOG_LEVEL] = admin_log_level,
    [ADMIN_VERSION_SHOW] = admin_version_show,	 [ADMIN_EXPLAIN_FLOW] = admin_flow_explain,
};

// --- for handlers -----------------------------------------------------------------------------------------
struct str admin_value(const struct admin_call *call, const char *name)
{
	return command_value_find(call->values, call->value_count, name, NULL);
}

bool admin_selects(const struct admin_call *call, const char *filter, struct str value)
{
	struct str wanted = admin_value(call, filter);
	return !wanted.p || str_eq(wanted, value);
}

int admin_call_fail(struct admin_call *call, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(call->error, format, args);
	va_end(args);
	return ERR_NOT_FOUND;
}

int admin_call_usage(struct admin_call *call, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	strbuf_vprintf(call->error, format, args);
	va_end(args);
	call->usage = true;
	return ERR_MALFORMED;
}

struct model *admin_model(struct admin_call *call)
{
	struct model *model = call->backend->model ? call->backend->model(call->backend->data) : NULL;
	if (!model)
		admin_call_fail(call, "no configuration has been loaded yet");
	return model;
}

// --- dispatch ---------------------------------------------------------------------------------------------
static int check_params(struct admin_call *call, const struct command *command,
			const struct admin_request *request, struct command_value *values)
{
	for (size_t i = 0; i < request->param_count; i++) {
		const struct admin_param *given = &request->params[i];
		const struct command_param *param = command_param_find(command, given->name);
		if (!param)
			return admin_call_usage(call, "'%s %s' knows no '%.*s'", command->object,
						command->verb, STR_ARG(given->name));
		if (!command_param_accepts(param, given->value))
			return admin_call_usage(call, "'%s' must be one of %s", param->name, param->value);
		values[i] = (struct command_value){param, given->value};
	}
	call->values = values;
	call->value_count = request->param_count;
	const struct command_param *missing = command_missing(command, values, request->param_count);
	return missing ? admin_call_usage(call, "'%s' is missing", missing->name) : 0;
}

static int run(struct admin_call *call, const struct admin_request *request)
{
	struct command_value values[ADMIN_PARAMS_MAX];
	const struct command *command = admin_command_find(request->object, request->verb);
	if (!command)
		return admin_call_usage(call, "the proxy knows no command '%.*s %.*s'",
					STR_ARG(request->object), STR_ARG(request->verb));
	int err = check_params(call, command, request, values);
	return err ? err : handlers[command - admin_commands](call);
}

static void respond(const struct admin_backend *backend, const struct admin_request *request,
		    struct strbuf *answer)
{
	autostrbuf struct strbuf body = {0}, error = {0};
	struct emit emit;
	emit_init(&emit, &body, request->format);
	struct admin_call call = {.backend = backend, .emit = &emit, .error = &error};
	int err = run(&call, request);
	emit_done(&emit);
	if (body.failed || error.failed)
		admin_response_write(answer, ADMIN_FAILED, STR("the proxy is out of memory"));
	else if (err)
		admin_response_write(answer, call.usage ? ADMIN_USAGE : ADMIN_FAILED,
				     error.len ? strbuf_str(&error) : str_from(err_text(err)));
	else
		admin_response_write(answer, ADMIN_OK, strbuf_str(&body));
}

int admin_answer(const struct admin_backend *backend, char *bytes, size_t len, struct strbuf *ret_answer)
{
	struct admin_request request;
	int err = admin_request_parse(bytes, len, &request);
	if (err == ERR_NEED_MORE)
		return err;
	if (err == ERR_LIMIT)
		admin_response_write(ret_answer, ADMIN_USAGE, STR("the request is too long"));
	else if (err < 0)
		admin_response_write(ret_answer, ADMIN_USAGE, STR("the request is malformed"));
	else
		respond(backend, &request, ret_answer);
	return 0;
}
