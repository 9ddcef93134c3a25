// SPDX-License-Identifier: Apache-2.0
// Cursors over wire bytes: all parsing and building of binary messages goes through one of these, so that
// bounds are checked in one place. Errors are sticky: do a dozen reads, then look at `err` once. After an
// error every read answers zero or emptiness and the position stays where the failing read began. Integers
// are big-endian.
//
// A reader borrows its bytes; what reader_bytes returns points into them. Plain values: copying a cursor is
// fine, and copying it back (or reader_rollback) undoes what was read since. Pure; any thread.
#pragma once

#include "base/error.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct reader {
	const uint8_t *_start;
	size_t _at, _len;
	int err; // 0, ERR_NEED_MORE (read behind the end), or what reader_fail was given
};

struct reader_tag {
	size_t _at;
	int _err;
};

// --- reading --------------------------------------------------------------------------------
static inline void reader_init(struct reader *r, const void *bytes, size_t len)
{
	*r = (struct reader){._start = bytes, ._len = len};
}

// Makes the error sticky; the first one stays.
static inline void reader_fail(struct reader *r, int err)
{
	if (!r->err)
		r->err = err;
}

static inline size_t reader_remaining(const struct reader *r)
{
	return r->_len - r->_at;
}

// Takes the next `len` bytes; NULL with ERR_NEED_MORE if there are not that many, or after an error.
static inline const uint8_t *reader_take(struct reader *r, size_t len)
{
	if (r->err || len > reader_remaining(r)) {
		reader_fail(r, ERR_NEED_MORE);
		return NULL;
	}
	const uint8_t *p = r->_start + r->_at;
	r->_at += len;
	return p;
}

static inline uint8_t reader_u8(struct reader *r)
{
	const uint8_t *p = reader_take(r, 1);
	return p ? *p : 0;
}

uint16_t reader_u16(struct reader *r);
uint32_t reader_u24(struct reader *r);
uint32_t reader_u32(struct reader *r);
uint64_t reader_u64(struct reader *r);
// A view of the next `len` bytes; empty with p NULL on error.
struct str reader_bytes(struct reader *r, size_t len);
// Copies; nothing is written on error.
void reader_copy(struct reader *r, void *ret_bytes, size_t len);
void reader_skip(struct reader *r, size_t len);
// The next byte without taking it; 0 with ERR_NEED_MORE at the end.
uint8_t reader_peek_u8(struct reader *r);
// A reader over the next `len` bytes, which are taken: for a structure with its length in front. Its error is
// apart from the outer one; on an outer error it is empty and has that error.
struct reader reader_sub(struct reader *r, size_t len);
// ERR_MALFORMED unless everything was read; then r->err. The last step of reading a whole message.
int reader_finish(struct reader *r);

// --- positions ------------------------------------------------------------------------------
// Offset from the first byte.
static inline size_t reader_tell(const struct reader *r)
{
	return r->_at;
}
// To an absolute offset, back or forth (0..length); ERR_MALFORMED outside. For pointers within a message.
void reader_seek(struct reader *r, size_t at);

static inline struct reader_tag reader_tag(const struct reader *r)
{
	return (struct reader_tag){r->_at, r->err};
}
// Position and error are what they were.
static inline void reader_rollback(struct reader *r, struct reader_tag tag)
{
	r->_at = tag._at;
	r->err = tag._err;
}

// --- writing --------------------------------------------------------------------------------
// Into a bounded piece of memory. What does not fit is not written at all, and the error ERR_LIMIT sticks.
struct writer {
	uint8_t *_start;
	size_t len; // written so far
	size_t _cap;
	int err;
};

static inline void writer_init(struct writer *w, void *bytes, size_t cap)
{
	*w = (struct writer){._start = bytes, ._cap = cap};
}

static inline size_t writer_room(const struct writer *w)
{
	return w->_cap - w->len;
}

// Room for `len` bytes, counted as written; NULL with ERR_LIMIT if there is not that much.
uint8_t *writer_reserve(struct writer *w, size_t len);

static inline void writer_u8(struct writer *w, uint8_t value)
{
	if (!w->err && w->len < w->_cap)
		w->_start[w->len++] = value;
	else
		w->err = ERR_LIMIT;
}

void writer_u16(struct writer *w, uint16_t value);
void writer_u24(struct writer *w, uint32_t value); // the low 24 bits
void writer_u32(struct writer *w, uint32_t value);
void writer_u64(struct writer *w, uint64_t value);
void writer_bytes(struct writer *w, const void *bytes, size_t len);
// Overwrites what was written at offset `at`: lengths and counts that are known afterwards. ERR_LIMIT
// outside.
void writer_patch_u16(struct writer *w, size_t at, uint16_t value);
void writer_patch_u32(struct writer *w, size_t at, uint32_t value);
// Forgets everything from `len` on (at most what was written) and clears the error: to leave out what did not
// fit.
void writer_truncate(struct writer *w, size_t len);
