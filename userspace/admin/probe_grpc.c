// SPDX-License-Identifier: Apache-2.0
// gRPC health checking (grpc.health.v1) over HTTP/2 by nghttp2.
#include "admin/probe_ask.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/grpc.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>

enum { PREFIX = 5, SERVING = 1, FIELD_STATUS = 1 << 3, FIELD_SERVICE = 1 << 3 | 2, SERVICE_MAX = 127 };

struct grpc_check {
	nghttp2_session *session;
	uint8_t request[PREFIX + 2 + SERVICE_MAX];
	size_t request_len, request_sent;
	uint8_t answer[64]; // the begin of the answer: its prefix and the status
	size_t answer_len;
	int grpc_status; // -1: none yet
	unsigned http_status;
	bool closed;
};

// --- callbacks --------------------------------------------------------------------------------------------
static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
	struct grpc_check *check = arg;
	struct str key = {(const char *)name, name_len}, text = {(const char *)value, value_len};
	uint64_t number;
	(void)session;
	(void)frame;
	(void)flags;
	if (str_eq(key, STR("grpc-status")))
		check->grpc_status = grpc_status_parse(text);
	else if (str_eq(key, STR(":status")) && str_to_u64(text, &number) == 0)
		check->http_status = (unsigned)number;
	return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len,
		   void *arg)
{
	struct grpc_check *check = arg;
	size_t room = sizeof check->answer - check->answer_len, take = MIN(len, room);
	(void)session;
	(void)flags;
	(void)id;
	memcpy(check->answer + check->answer_len, bytes, take);
	check->answer_len += take;
	return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
	struct grpc_check *check = arg;
	(void)session;
	(void)id;
	(void)code;
	check->closed = true;
	return 0;
}

static ssize_t on_request(nghttp2_session *session, int32_t id, uint8_t *room, size_t len, uint32_t *flags,
			  nghttp2_data_source *source, void *arg)
{
	struct grpc_check *check = arg;
	size_t take = MIN(len, check->request_len - check->request_sent);
	(void)session;
	(void)id;
	(void)source;
	memcpy(room, check->request + check->request_sent, take);
	check->request_sent += take;
	if (check->request_sent == check->request_len)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return (ssize_t)take;
}

// --- the call ---------------------------------------------------------------------------------------------
// One message of gRPC: not compressed, its length, then HealthCheckRequest{service = 1}.
static int write_message(struct grpc_check *check, struct str service)
{
	if (service.len > SERVICE_MAX)
		return ERR_LIMIT;
	size_t len = service.len ? service.len + 2 : 0;
	check->request[4] = (uint8_t)len;
	check->request[PREFIX] = FIELD_SERVICE;
	check->request[PREFIX + 1] = (uint8_t)service.len;
	if (service.len)
		memcpy(check->request + PREFIX + 2, service.p, service.len);
	check->request_len = PREFIX + len;
	return 0;
}

static nghttp2_nv field(const char *name, struct str value)
{
	return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value.p, strlen(name), value.len,
			    NGHTTP2_NV_FLAG_NONE};
}

static int submit(struct grpc_check *check, struct str authority)
{
	const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
	const nghttp2_data_provider body = {.read_callback = on_request};
	const nghttp2_nv fields[] = {
	    field(":method", STR("POST")),
	    field(":scheme", STR("http")),
	    field(":authority", authority),
	    field(":path", STR("/grpc.health.v1.Health/Check")),
	    field("content-type", STR("application/grpc")),
	    field("te", STR("trailers")),
	    field("user-agent", STR("weir/" WEIR_VERSION)),
	};
	if (nghttp2_submit_settings(check->session, NGHTTP2_FLAG_NONE, settings, ARRAY_SIZE(settings)) ||
	    nghttp2_submit_request(check->session, NULL, fields, ARRAY_SIZE(fields), &body, NULL) < 0)
		return -ENOMEM;
	return 0;
}

static int make_session(struct grpc_check *check)
{
	nghttp2_session_callbacks *callbacks;
	if (nghttp2_session_callbacks_new(&callbacks))
		return -ENOMEM;
	nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
	int err = nghttp2_session_client_new(&check->session, callbacks, check) ? -ENOMEM : 0;
	nghttp2_session_callbacks_del(callbacks);
	return err;
}

int grpc_check_new(struct str authority, struct str service, struct grpc_check **ret_check)
{
	struct grpc_check *check = mem_zalloc(sizeof *check);
	if (!check)
		return -ENOMEM;
	check->grpc_status = -1;
	int err = write_message(check, service);
	if (!err)
		err = make_session(check);
	if (!err)
		err = submit(check, authority);
	if (err)
		grpc_check_free(check);
	else
		*ret_check = check;
	return err;
}

void grpc_check_free(struct grpc_check *check)
{
	if (!check)
		return;
	nghttp2_session_del(check->session);
	mem_free(check);
}

int grpc_check_send(struct grpc_check *check, struct strbuf *out)
{
	const uint8_t *bytes;
	ssize_t len;
	while ((len = nghttp2_session_mem_send(check->session, &bytes)) > 0)
		strbuf_add(out, bytes, (size_t)len);
	return len < 0 || out->failed ? -ENOMEM : 0;
}

// HealthCheckResponse{status = 1}; an absent field is 0, UNKNOWN.
static bool is_serving(const struct grpc_check *check)
{
	return check->answer_len >= PREFIX + 2 && check->answer[0] == 0 &&
	       check->answer[PREFIX] == FIELD_STATUS && check->answer[PREFIX + 1] == SERVING;
}

int grpc_check_receive(struct grpc_check *check, struct str bytes, uint16_t *ret_status, const char **ret_why)
{
	ssize_t taken = nghttp2_session_mem_recv(check->session, (const uint8_t *)bytes.p, bytes.len);
	if (taken < 0)
		return ERR_MALFORMED;
	if (!check->closed)
		return ERR_NEED_MORE;
	*ret_status = 503;
	if (check->http_status != 200 || check->grpc_status < 0)
		*ret_why = "the application does not speak gRPC";
	else if (check->grpc_status == GRPC_UNIMPLEMENTED)
		*ret_why = "the application has no health service";
	else if (check->grpc_status != GRPC_OK)
		*ret_why = "the health check failed";
	else if (!is_serving(check))
		*ret_why = "not serving";
	else {
		*ret_status = 200;
		*ret_why = "serving";
	}
	return 0;
}
