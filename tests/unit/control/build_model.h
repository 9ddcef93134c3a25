// SPDX-License-Identifier: Apache-2.0
// A model from configuration text, for tests.
#pragma once

#include "test.h"

#include "control/build.h"
#include "dns/vip.h"

static inline struct model *build_model(const char *text)
{
	struct config *config;
	struct model *model;
	struct vip_pool *vips;
	autostrbuf struct strbuf errors = {0};
	if (config_parse(str_from(text), "test.yaml", &config, &errors))
		fail_msg("%s", errors.p);
	assert_int_equal(vip_pool_open(NULL, config->dns.vips.items, config->dns.vips.count, &vips, NULL), 0);
	if (model_build(config, vips, &model, &errors))
		fail_msg("%s", errors.p);
	vip_pool_free(vips);
	config_free(config);
	return model;
}
