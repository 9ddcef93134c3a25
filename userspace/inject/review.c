// SPDX-License-Identifier: Apache-2.0
#include "inject/review.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "inject/pod.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>

#define REVIEW_VERSION "admission.k8s.io/v1"

// --- the patch --------------------------------------------------------------------------------------------
static void begin_operation(struct writer *writer, const char *verb, const char *path)
{
	writer_map(writer, NULL);
	writer_text(writer, "op", verb);
	writer_text(writer, "path", path);
}

// Where a probe stands: "/spec/containers/0/lifecycle/preStop".
static void probe_path(const struct pod_probe *probe, struct strbuf *out)
{
	strbuf_printf(out, "/spec/%s/%u/%s%s%.*s", probe->list, probe->index,
		      probe->group ? probe->group : "", probe->group ? "/" : "",
		      STR_ARG(probe->probe->key->text));
}

static void patch_probe(const struct pod *pod, const struct pod_probe *probe, struct writer *writer)
{
	autostrbuf struct strbuf old = {0}, now = {0};
	struct str kind = probe->handler->key->text;
	bool same = str_eq(kind, STR("httpGet"));
	probe_path(probe, &old);
	strbuf_printf(&now, "%s/httpGet", old.p);
	strbuf_printf(&old, "/%.*s", STR_ARG(kind));
	if (old.failed || now.failed) {
		writer->out->failed = true;
		return;
	}
	if (!same) {
		begin_operation(writer, "remove", old.p);
		writer_map_end(writer);
	}
	begin_operation(writer, same ? "replace" : "add", now.p);
	writer_rename_next(writer, "value");
	pod_write_handler(pod, probe, writer);
	writer_map_end(writer);
}

static bool has_items(const struct pod *pod, const char *key)
{
	const struct node *list = node_get(pod->spec, key);
	return list && list->kind == NODE_LIST && list->count;
}

static void patch_containers(const struct pod *pod, struct writer *writer)
{
	// Each in front of what is there: the last one is the first.
	static void (*const containers[])(const struct pod *, struct writer *) = {pod_write_init,
										  pod_write_proxy};
	if (!has_items(pod, "initContainers")) {
		begin_operation(writer, "add", "/spec/initContainers");
		writer_list(writer, "value");
		pod_write_proxy(pod, writer);
		pod_write_init(pod, writer);
		writer_list_end(writer);
		writer_map_end(writer);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(containers); i++) {
		begin_operation(writer, "add", "/spec/initContainers/0");
		writer_rename_next(writer, "value");
		containers[i](pod, writer);
		writer_map_end(writer);
	}
}

static void patch_volumes(const struct pod *pod, struct writer *writer)
{
	bool there = has_items(pod, "volumes");
	if (!there) {
		begin_operation(writer, "add", "/spec/volumes");
		writer_list(writer, "value");
	}
	for (size_t i = 0; i < POD_VOLUMES; i++) {
		if (!pod_wants_volume(pod, i))
			continue;
		if (there) {
			begin_operation(writer, "add", "/spec/volumes/-");
			writer_rename_next(writer, "value");
		}
		pod_write_volume(pod, i, writer);
		if (there)
			writer_map_end(writer);
	}
	if (!there) {
		writer_list_end(writer);
		writer_map_end(writer);
	}
}

// Probes first: their paths count containers as they are.
static void write_patch(const struct pod *pod, struct strbuf *out)
{
	struct writer writer;
	writer_init_json(&writer, out);
	writer_list(&writer, NULL);
	for (size_t i = 0; i < pod->probe_count; i++)
		patch_probe(pod, &pod->probes[i], &writer);
	patch_containers(pod, &writer);
	patch_volumes(pod, &writer);
	writer_list_end(&writer);
}

// For a pod that another webhook has changed since it got weir.
static int write_later_patch(struct tree *tree, struct pod *pod, struct strbuf *out, struct strbuf *error)
{
	struct writer writer;
	char path[64];
	uint32_t proxy = 0;
	int err = pod_read_later(tree, pod, &proxy, error);
	if (err || !pod->probe_count)
		return err;
	snprintf(path, sizeof path, "/spec/initContainers/%u/command/-", proxy);
	writer_init_json(&writer, out);
	writer_list(&writer, NULL);
	for (size_t i = 0; i < pod->probe_count; i++) {
		patch_probe(pod, &pod->probes[i], &writer);
		begin_operation(&writer, "add", path);
		pod_write_probe(&pod->probes[i], "value", &writer);
		writer_map_end(&writer);
	}
	writer_list_end(&writer);
	return 0;
}

// --- the answer -------------------------------------------------------------------------------------------
struct verdict {
	struct str uid;
	bool allowed;
	struct strbuf patch;   // empty: none
	struct strbuf message; // why not; or, if it is allowed, a warning
};

static int write_encoded(struct writer *writer, const struct strbuf *patch)
{
	size_t room = (patch->len + 2) / 3 * 4 + 1;
	autofree unsigned char *text = mem_alloc(room);
	if (!text || patch->failed)
		return -ENOMEM;
	int len = EVP_EncodeBlock(text, (const unsigned char *)patch->p, (int)patch->len);
	writer_text(writer, "patchType", "JSONPatch");
	writer_str(writer, "patch", (struct str){(const char *)text, (size_t)len});
	return 0;
}

static void write_message(struct writer *writer, const struct verdict *verdict)
{
	struct str message = strbuf_str(&verdict->message);
	if (!message.len)
		return;
	if (verdict->allowed) {
		writer_list(writer, "warnings");
		writer_str(writer, NULL, message);
		writer_list_end(writer);
		return;
	}
	writer_map(writer, "status");
	writer_uint(writer, "code", 400);
	writer_text(writer, "reason", "BadRequest");
	writer_str(writer, "message", message);
	writer_map_end(writer);
}

static int write_review(const struct verdict *verdict, struct strbuf *out)
{
	struct writer writer;
	int err = 0;
	writer_init_json(&writer, out);
	writer_map(&writer, NULL);
	writer_text(&writer, "apiVersion", REVIEW_VERSION);
	writer_text(&writer, "kind", "AdmissionReview");
	writer_map(&writer, "response");
	writer_str(&writer, "uid", verdict->uid);
	writer_bool(&writer, "allowed", verdict->allowed);
	if (verdict->patch.len)
		err = write_encoded(&writer, &verdict->patch);
	write_message(&writer, verdict);
	writer_map_end(&writer);
	writer_map_end(&writer);
	return err || out->failed || verdict->message.failed ? -ENOMEM : 0;
}

// --- the question -----------------------------------------------------------------------------------------
// Without the place in the text, which nobody but us has seen: "12:34: ".
static void add_reason(struct strbuf *out, struct str error)
{
	str_split(&error, ':');
	if (error.p)
		str_split(&error, ':');
	strbuf_add_text(out, "weir:");
	strbuf_add_str(out, error);
}

static int judge(struct tree *tree, const struct node *request, const struct settings *settings,
		 struct verdict *verdict)
{
	struct pod pod;
	autostrbuf struct strbuf error = {0};
	struct str kind = node_text(node_get(node_get(request, "kind"), "kind"));
	struct str operation = node_text(node_get(request, "operation"));
	verdict->allowed = true;
	if (!str_eq(kind, STR("Pod")) || !str_eq(operation, STR("CREATE")))
		return 0;
	int err = pod_read(tree, node_get(request, "object"), settings, &pod, &error);
	if (!err && pod.injected)
		err = write_later_patch(tree, &pod, &verdict->patch, &error);
	if (err == -ENOMEM)
		return err;
	if (err) {
		verdict->allowed = false;
		add_reason(&verdict->message, strbuf_str(&error));
	} else if (pod.unfit) {
		strbuf_printf(&verdict->message, "weir: this pod is left alone: %s", pod.skip);
	} else if (!pod.skip) {
		write_patch(&pod, &verdict->patch);
	}
	return verdict->patch.failed ? -ENOMEM : 0;
}

static const char *what_is_wrong(const struct node *review)
{
	const struct node *request = node_get(review, "request");
	const struct node *object = node_get(request, "object");
	if (!str_eq(node_text(node_get(review, "kind")), STR("AdmissionReview")))
		return "this is no AdmissionReview";
	if (!str_eq(node_text(node_get(review, "apiVersion")), STR(REVIEW_VERSION)))
		return "only reviews of " REVIEW_VERSION " are understood";
	if (!node_text(node_get(request, "uid")).len)
		return "the request has no uid";
	if (str_eq(node_text(node_get(node_get(request, "kind"), "kind")), STR("Pod")) &&
	    str_eq(node_text(node_get(request, "operation")), STR("CREATE")) &&
	    (!object || object->kind != NODE_MAP))
		return "the request has no object";
	return NULL;
}

int review_answer(struct str body, const struct settings *settings, struct strbuf *ret_answer,
		  struct strbuf *ret_error)
{
	struct tree tree;
	struct verdict verdict = {0};
	int err = tree_parse_json(&tree, body, ret_error);
	const char *wrong = err ? NULL : what_is_wrong(tree.first);
	if (wrong) {
		strbuf_add_text(ret_error, wrong);
		err = ERR_MALFORMED;
	}
	if (!err) {
		const struct node *request = node_get(tree.first, "request");
		verdict.uid = node_text(node_get(request, "uid"));
		err = judge(&tree, request, settings, &verdict);
	}
	if (!err)
		err = write_review(&verdict, ret_answer);
	strbuf_done(&verdict.patch);
	strbuf_done(&verdict.message);
	tree_done(&tree);
	return err;
}
