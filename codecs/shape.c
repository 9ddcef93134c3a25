// SPDX-License-Identifier: Apache-2.0
#include "codecs/shape.h"

enum detect_verdict shape_fits(struct str bytes, const struct byte_range *shape, size_t count)
{
	for (size_t i = 0; i < bytes.len && i < count; i++)
		if ((uint8_t)bytes.p[i] < shape[i].low || (uint8_t)bytes.p[i] > shape[i].high)
			return DETECT_NO;
	return bytes.len < count ? DETECT_MAYBE : DETECT_YES;
}
