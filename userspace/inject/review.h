// SPDX-License-Identifier: Apache-2.0
// The mutating admission webhook of Kubernetes as a function: an AdmissionReview (admission.k8s.io/v1) with a
// Pod in, one with a JSON Patch (RFC 6902) out. The pod gets what edit.h would put into its manifest. Pure.
#pragma once

#include "inject/settings.h"

// Appends the answer to `body`. A pod that cannot get weir as it asks for it is refused within the answer;
// one that needs none passes unchanged. 0; -ENOMEM; ERR_MALFORMED or ERR_LIMIT with a sentence appended to
// ret_error: this is no review, and there is no answer in the API's form.
int review_answer(struct str body, const struct settings *settings, struct strbuf *ret_answer,
		  struct strbuf *ret_error);
