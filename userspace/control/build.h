// SPDX-License-Identifier: Apache-2.0
// From a configuration to a snapshot of the model: names are resolved, patterns compiled, virtual IPs
// assigned. What is wrong beyond the grammar (a cluster that is not there, a service named twice) is found
// here.
#pragma once

#include "control/config.h"
#include "mesh/model.h"

struct vip_pool;

// Builds a model with one reference. `vips` assigns virtual IPs; with NULL (a check of a file) only says
// whether all is right, with services left without. 0; or ERR_CONFIG, -ENOMEM, with lines appended to
// ret_errors.
int model_build(const struct config *config, struct vip_pool *vips, struct model **ret_model,
		struct strbuf *ret_errors);
