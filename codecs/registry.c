// SPDX-License-Identifier: Apache-2.0
#include "codecs/registry.h"

#include "base/mem.h"
#include "codecs/bolt.h"
#include "codecs/dubbo.h"
#include "codecs/dubbo_thrift.h"
#include "codecs/tars.h"

const struct framed_codec *const codecs_builtin[] = {&bolt_codec, &dubbo_codec, &dubbo_thrift_codec,
						     &tars_codec};
const size_t codecs_builtin_count = ARRAY_SIZE(codecs_builtin);

const struct detect_set detect_default = {codecs_builtin, ARRAY_SIZE(codecs_builtin), true};

const struct framed_codec *codec_find(const struct framed_codec *const *codecs, size_t count, struct str name)
{
	for (size_t i = 0; i < count; i++)
		if (str_eq(name, str_from(codecs[i]->name)))
			return codecs[i];
	return NULL;
}
