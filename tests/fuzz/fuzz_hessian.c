// SPDX-License-Identifier: Apache-2.0
// Any bytes as Hessian values: they are walked to the end or to the first that is wrong, a prefix never goes
// further than the whole, and reading a value as what it is takes as many bytes as skipping it.
#include "check.h"

#include "codecs/hessian.h"

// How many bytes the first `values` values take; the error in *ret_err.
static size_t skip(const uint8_t *data, size_t size, unsigned values, int *ret_err)
{
	struct hessian h;
	char *copy = exact_copy(data, size);
	hessian_init(&h, (struct str){copy, size});
	while (values-- && !h.in.err)
		hessian_skip(&h);
	*ret_err = h.in.err;
	free(copy);
	return reader_tell(&h.in);
}

static void check_reading(const uint8_t *data, size_t size, size_t len)
{
	struct hessian h;
	struct str text = {0};
	int32_t number;
	hessian_init(&h, (struct str){(const char *)data, size});
	if (hessian_int(&h, &number) || hessian_null(&h) || hessian_text(&h, &text))
		CHECK(reader_tell(&h.in) == len);
	CHECK(text.len <= len);
}

static void check_map(const uint8_t *data, size_t size)
{
	struct hessian h;
	hessian_init(&h, (struct str){(const char *)data, size});
	if (!hessian_map_begins(&h))
		return;
	while (!hessian_map_ends(&h) && !h.in.err) {
		struct str text;
		hessian_text(&h, &text);
		hessian_skip(&h);
	}
}

// What is written reads the same, and has no more units than the limit.
static void check_writing(const uint8_t *data, size_t size)
{
	uint8_t bytes[4096];
	struct writer out;
	struct hessian h;
	struct str text;
	writer_init(&out, bytes, sizeof bytes);
	hessian_write_string((struct str){(const char *)data, size}, &out);
	CHECK(out.err == 0);
	hessian_init(&h, (struct str){(const char *)bytes, out.len});
	CHECK(hessian_text(&h, &text) && text.len <= 3 * 1023 && reader_finish(&h.in) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int err, part_err;
	size_t len = skip(data, size, 1, &err);
	CHECK(err == 0 ? len > 0 && len <= size
		       : err == ERR_NEED_MORE || err == ERR_MALFORMED || err == ERR_LIMIT);
	for (size_t part = 0; part < size && part < 300; part++) {
		skip(data, part, 1, &part_err);
		CHECK(part_err == ERR_NEED_MORE ? err != 0 || part < len : part_err == err);
	}
	if (err == 0)
		check_reading(data, size, len);
	skip(data, size, 100, &err);
	check_map(data, size);
	check_writing(data, size);
	return 0;
}
