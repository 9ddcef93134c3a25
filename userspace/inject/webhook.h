// SPDX-License-Identifier: Apache-2.0
// The webhook's server: HTTPS/1.1 on the event loop, POST /inject with an AdmissionReview, GET /healthz and
// /readyz. A certificate that is replaced on disk is used from then on. One thread.
#pragma once

#include "inject/settings.h"

struct webhook_options {
	uint16_t port;			     // on all addresses
	struct str certificate, private_key; // PEM files
	const struct settings *settings;
};

// Serves until SIGTERM or SIGINT. 0, or a negative error with a sentence in ret_error.
int webhook_run(const struct webhook_options *options, struct strbuf *ret_error);
