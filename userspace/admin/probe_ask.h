// SPDX-License-Identifier: Apache-2.0
// Asks an application one question and says how it answered. Control thread.
#pragma once

#include "admin/probe.h"
#include "codecs/http1.h"

struct probe_ask;

struct probe_question {
	const struct probe *probe;
	struct addr where;	 // of the application
	uint16_t own_port;	 // what Host may name in place of the application's
	const struct head *head; // what the kubelet asked (HTTP); borrowed during the call
	uint32_t mark;
	struct ssl_ctx_st *tls; // for HTTPS
	// Called once, never within probe_ask_new: an HTTP status and a word on it (borrowed).
	void (*done)(void *arg, uint16_t status, const char *why);
	void *arg;
};

// 0 or a negative error.
int probe_ask_new(struct loop *loop, const struct probe_question *question, struct probe_ask **ret_ask);
// Gives up without an answer; after `done` there is nothing to give up.
void probe_ask_cancel(struct probe_ask *ask);

// --- gRPC health checking, as bytes ---------------------------------------------------------------------------
// A client of HTTP/2 for one call of grpc.health.v1.Health/Check; no I/O.
struct grpc_check;

int grpc_check_new(struct str authority, struct str service, struct grpc_check **ret_check);
void grpc_check_free(struct grpc_check *check); // NULL is fine
// Appends what is to be sent.
int grpc_check_send(struct grpc_check *check, struct strbuf *out);
// Takes what was received. 0: all is said, *ret_status is the answer; ERR_NEED_MORE; another negative error.
int grpc_check_receive(struct grpc_check *check, struct str bytes, uint16_t *ret_status,
		       const char **ret_why);
