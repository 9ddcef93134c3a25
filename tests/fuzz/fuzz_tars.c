// SPDX-License-Identifier: Apache-2.0
// Any bytes as a frame of tars. See framed.h.
#include "framed.h"

#include "codecs/tars.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	framed_check(&tars_codec, (struct str){(const char *)data, size});
	return 0;
}
