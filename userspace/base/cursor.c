// SPDX-License-Identifier: Apache-2.0
#include "base/cursor.h"

static uint64_t big_endian_get(const uint8_t *p, size_t width)
{
	uint64_t value = 0;
	for (size_t i = 0; p && i < width; i++)
		value = value << 8 | p[i];
	return value;
}

static void big_endian_put(uint8_t *p, size_t width, uint64_t value)
{
	for (size_t i = width; p && i-- > 0; value >>= 8)
		p[i] = (uint8_t)value;
}

uint16_t reader_u16(struct reader *r)
{
	return (uint16_t)big_endian_get(reader_take(r, 2), 2);
}

uint32_t reader_u24(struct reader *r)
{
	return (uint32_t)big_endian_get(reader_take(r, 3), 3);
}

uint32_t reader_u32(struct reader *r)
{
	return (uint32_t)big_endian_get(reader_take(r, 4), 4);
}

uint64_t reader_u64(struct reader *r)
{
	return big_endian_get(reader_take(r, 8), 8);
}

struct str reader_bytes(struct reader *r, size_t len)
{
	const uint8_t *p = reader_take(r, len);
	return (struct str){(const char *)p, p ? len : 0};
}

void reader_copy(struct reader *r, void *ret_bytes, size_t len)
{
	const uint8_t *p = reader_take(r, len);
	if (p && len)
		memcpy(ret_bytes, p, len);
}

void reader_skip(struct reader *r, size_t len)
{
	reader_take(r, len);
}

uint8_t reader_peek_u8(struct reader *r)
{
	const uint8_t *p = reader_take(r, 1);
	if (!p)
		return 0;
	r->_at--;
	return *p;
}

struct reader reader_sub(struct reader *r, size_t len)
{
	const uint8_t *p = reader_take(r, len);
	return (struct reader){._start = p, ._len = p ? len : 0, .err = r->err};
}

int reader_finish(struct reader *r)
{
	if (reader_remaining(r))
		reader_fail(r, ERR_MALFORMED);
	return r->err;
}

void reader_seek(struct reader *r, size_t at)
{
	if (at > r->_len)
		reader_fail(r, ERR_MALFORMED);
	if (!r->err)
		r->_at = at;
}

uint8_t *writer_reserve(struct writer *w, size_t len)
{
	if (!w->err && len > writer_room(w))
		w->err = ERR_LIMIT;
	if (w->err)
		return NULL;
	uint8_t *p = w->_start + w->len;
	w->len += len;
	return p;
}

void writer_u16(struct writer *w, uint16_t value)
{
	big_endian_put(writer_reserve(w, 2), 2, value);
}

void writer_u24(struct writer *w, uint32_t value)
{
	big_endian_put(writer_reserve(w, 3), 3, value);
}

void writer_u32(struct writer *w, uint32_t value)
{
	big_endian_put(writer_reserve(w, 4), 4, value);
}

void writer_u64(struct writer *w, uint64_t value)
{
	big_endian_put(writer_reserve(w, 8), 8, value);
}

void writer_bytes(struct writer *w, const void *bytes, size_t len)
{
	uint8_t *p = writer_reserve(w, len);
	if (p && len)
		memcpy(p, bytes, len);
}

static void writer_patch(struct writer *w, size_t at, size_t width, uint64_t value)
{
	if (!w->err && (at > w->len || width > w->len - at))
		w->err = ERR_LIMIT;
	if (!w->err)
		big_endian_put(w->_start + at, width, value);
}

void writer_patch_u16(struct writer *w, size_t at, uint16_t value)
{
	writer_patch(w, at, 2, value);
}

void writer_patch_u32(struct writer *w, size_t at, uint32_t value)
{
	writer_patch(w, at, 4, value);
}

void writer_truncate(struct writer *w, size_t len)
{
	w->len = len < w->len ? len : w->len;
	w->err = 0;
}
