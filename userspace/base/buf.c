// SPDX-License-Identifier: Apache-2.0
#include "base/buf.h"

#include "base/mem.h"
#include "base/pool.h"

#include <assert.h>
#include <errno.h>

struct bufseg {
	struct bufseg *next;
	struct slice slice;
};

enum {
	SPARE_CHUNKS = 16,
	SPARE_SEGMENTS = 256,
	SMALL_CHUNK = 1024,
	GATHER_MAX = 128, // bytes of a segment that are copied behind others
};

static __thread struct pool chunks = {.size = sizeof(struct chunk) + CHUNK_SIZE, .keep = SPARE_CHUNKS};
static __thread struct pool segments = {.size = sizeof(struct bufseg), .keep = SPARE_SEGMENTS};
static __thread struct chunk *rx, *tx;

struct chunk *chunk_new(size_t cap)
{
	struct chunk *chunk;
	if (cap == 0 || cap == CHUNK_SIZE) {
		cap = CHUNK_SIZE;
		chunk = pool_get(&chunks);
	} else {
		chunk = cap <= UINT32_MAX ? mem_alloc(sizeof *chunk + cap) : NULL;
	}
	if (chunk)
		*chunk = (struct chunk){.refs = 1, .cap = (uint32_t)cap};
	return chunk;
}

void chunk_unref(struct chunk *chunk)
{
	if (!chunk || --chunk->refs)
		return;
	if (chunk->cap == CHUNK_SIZE)
		pool_put(&chunks, chunk);
	else
		mem_free(chunk);
}

struct chunk *buf_rx(size_t room)
{
	if (rx && rx->refs == 1)
		rx->used = 0;
	if (rx && rx->cap - rx->used >= room)
		return rx;
	chunk_unref(rx);
	rx = chunk_new(0);
	return rx;
}

void buf_rx_reset(void)
{
	if (rx && rx->refs == 1)
		rx->used = 0;
}

void buf_thread_done(void)
{
	chunk_unref(rx);
	chunk_unref(tx);
	rx = tx = NULL;
	pool_trim(&chunks);
	pool_trim(&segments);
}

static void segment_free(struct bufseg *seg)
{
	chunk_unref(seg->slice.chunk);
	pool_put(&segments, seg);
}

void bufq_release(struct bufq *q)
{
	for (struct bufseg *seg = q->_head, *next; seg; seg = next) {
		next = seg->next;
		segment_free(seg);
	}
	*q = (struct bufq){0};
}

static struct bufseg *segment_new(struct slice slice)
{
	struct bufseg *seg = pool_get(&segments);
	if (seg)
		*seg = (struct bufseg){NULL, slice};
	return seg;
}

// Whether what is there in the chunk continues the queue's last slice.
static bool adjoins(const struct bufq *q, const struct chunk *chunk, const uint8_t *at)
{
	const struct slice *last = q->_tail ? &q->_tail->slice : NULL;
	return last && chunk && last->chunk == chunk && last->p + last->len == at;
}

static void extend(struct bufq *q, size_t len)
{
	q->_tail->slice.len += len;
	q->bytes += len;
}

static void append(struct bufq *q, struct bufseg *seg)
{
	if (q->_tail)
		q->_tail->next = seg;
	else
		q->_head = seg;
	q->_tail = seg;
	q->bytes += seg->slice.len;
}

static void bufq_link(struct bufq *q, struct bufseg *seg)
{
	if (adjoins(q, seg->slice.chunk, seg->slice.p)) {
		extend(q, seg->slice.len);
		segment_free(seg);
	} else {
		append(q, seg);
	}
}

int bufq_add_slice(struct bufq *q, struct slice slice)
{
	if (slice.len == 0)
		return 0;
	if (adjoins(q, slice.chunk, slice.p)) {
		extend(q, slice.len);
		return 0;
	}
	struct bufseg *seg = segment_new(slice);
	if (!seg)
		return -ENOMEM;
	chunk_ref(slice.chunk);
	append(q, seg);
	return 0;
}

int bufq_add_static(struct bufq *q, struct str text)
{
	return bufq_add_slice(q, (struct slice){NULL, (const uint8_t *)text.p, text.len});
}

// Whether the last slice ends where its chunk's used part does, so that more can be written behind it.
static bool can_extend(const struct bufq *q, size_t len)
{
	const struct slice *last = q->_tail ? &q->_tail->slice : NULL;
	return last && last->chunk && last->chunk != rx && last->chunk != tx &&
	       last->p + last->len == last->chunk->data + last->chunk->used &&
	       last->chunk->cap - last->chunk->used >= len;
}

int bufq_add_copy(struct bufq *q, const void *bytes, size_t len)
{
	if (len == 0)
		return 0;
	struct chunk *chunk = can_extend(q, len) ? chunk_ref(q->_tail->slice.chunk)
						 : chunk_new(len <= SMALL_CHUNK / 2 ? SMALL_CHUNK : len);
	if (!chunk)
		return -ENOMEM;
	memcpy(chunk->data + chunk->used, bytes, len);
	struct slice slice = {chunk, chunk->data + chunk->used, len};
	int err = bufq_add_slice(q, slice);
	if (err == 0)
		chunk->used += (uint32_t)len;
	chunk_unref(chunk);
	return err;
}

static uint8_t *packed_room_fresh(size_t room)
{
	struct chunk *fresh = chunk_new(room <= CHUNK_SIZE ? 0 : room);
	if (!fresh)
		return NULL;
	chunk_unref(tx);
	tx = fresh;
	return tx->data;
}

// Inline, this and the next, in what makes frames: a call would cost as much again.
inline uint8_t *bufq_packed_room(size_t room)
{
	if (tx && tx->refs == 1)
		tx->used = 0;
	if (unlikely(!tx || tx->cap - tx->used < room))
		return packed_room_fresh(room);
	return tx->data + tx->used;
}

inline int bufq_packed_add(struct bufq *q, size_t len)
{
	const uint8_t *at = tx->data + tx->used;
	if (likely(adjoins(q, tx, at)))
		extend(q, len);
	else if (bufq_add_slice(q, (struct slice){tx, at, len}))
		return -ENOMEM;
	tx->used += (uint32_t)len;
	return 0;
}

int bufq_add_packed(struct bufq *q, const void *bytes, size_t len)
{
	uint8_t *room = bufq_packed_room(len);
	if (!room)
		return -ENOMEM;
	memcpy(room, bytes, len);
	return bufq_packed_add(q, len);
}

int bufq_append_flat(struct bufq *q, struct slice bytes)
{
	if (bytes.len == 0)
		return 0;
	if (q->_head && q->_head == q->_tail && can_extend(q, bytes.len))
		return bufq_add_copy(q, bytes.p, bytes.len);
	size_t len = q->bytes + bytes.len;
	struct chunk *chunk = chunk_new(MAX(len + len / 2, (size_t)512));
	struct bufq flat = {0};
	if (!chunk)
		return -ENOMEM;
	bufq_peek(q, 0, chunk->data, q->bytes);
	memcpy(chunk->data + q->bytes, bytes.p, bytes.len);
	chunk->used = (uint32_t)len;
	int err = bufq_add_slice(&flat, (struct slice){chunk, chunk->data, len});
	chunk_unref(chunk);
	if (err)
		return err;
	bufq_clear(q);
	*q = flat;
	return 0;
}

int bufq_compact(struct bufq *q)
{
	struct bufq small = {0};
	struct slice first = bufq_first(q);
	if (q->bytes == 0 || q->bytes > CHUNK_SIZE / 4 || (first.chunk && first.chunk->cap < CHUNK_SIZE))
		return 0;
	for (struct bufseg *seg = q->_head; seg; seg = seg->next) {
		if (bufq_append_flat(&small, seg->slice)) {
			bufq_clear(&small);
			return -ENOMEM;
		}
	}
	bufq_clear(q);
	*q = small;
	return 0;
}

// A few bytes behind a few bytes are copied together: one by one, each would hold a segment and perhaps a big
// chunk, many times its size. False: it is not so, or there is no memory for it.
static bool gather(struct bufq *to, struct slice part)
{
	const struct slice *last = to->_tail ? &to->_tail->slice : NULL;
	if (part.len > GATHER_MAX || !last || adjoins(to, part.chunk, part.p))
		return false;
	bool gathered = last->chunk && last->chunk->cap <= SMALL_CHUNK;
	return (gathered || last->len <= GATHER_MAX) && bufq_add_copy(to, part.p, part.len) == 0;
}

// Whether there is something to gather.
static bool has_crumbs(const struct bufq *q)
{
	for (const struct bufseg *seg = q->_head; seg && seg->next; seg = seg->next)
		if (seg->slice.len <= GATHER_MAX && seg->next->slice.len <= GATHER_MAX)
			return true;
	return false;
}

int bufq_move(struct bufq *to, struct bufq *from, size_t len)
{
	len = MIN(len, from->bytes);
	if (len == from->bytes && !to->_head && !has_crumbs(from)) {
		*to = *from;
		*from = (struct bufq){0};
		return 0;
	}
	while (len) {
		struct bufseg *seg = from->_head;
		if (seg->slice.len > len) {
			struct slice part = seg->slice;
			part.len = len;
			int err = bufq_add_slice(to, part);
			if (err == 0)
				bufq_drop(from, len);
			return err;
		}
		len -= seg->slice.len;
		from->bytes -= seg->slice.len;
		from->_head = seg->next;
		if (!from->_head)
			from->_tail = NULL;
		seg->next = NULL;
		if (gather(to, seg->slice))
			segment_free(seg);
		else
			bufq_link(to, seg);
	}
	return 0;
}

int bufq_clone(struct bufq *to, const struct bufq *from)
{
	struct bufq copy = {0};
	if (!from->_head)
		return 0;
	if (from->_head == from->_tail)
		return gather(to, from->_head->slice) ? 0 : bufq_add_slice(to, from->_head->slice);
	for (struct bufseg *seg = from->_head; seg; seg = seg->next) {
		if (bufq_add_slice(&copy, seg->slice)) {
			bufq_clear(&copy);
			return -ENOMEM;
		}
	}
	return bufq_move(to, &copy, copy.bytes);
}

// Goes on by at most what is left of the first slice; the queue's length is the caller's.
static void skip(struct bufq *q, size_t len)
{
	struct bufseg *seg = q->_head;
	seg->slice.p += len;
	seg->slice.len -= len;
	if (seg->slice.len)
		return;
	q->_head = seg->next;
	if (!q->_head)
		q->_tail = NULL;
	segment_free(seg);
}

void bufq_drop(struct bufq *q, size_t len)
{
	len = MIN(len, q->bytes);
	q->bytes -= len;
	while (len) {
		size_t n = MIN(len, q->_head->slice.len);
		skip(q, n);
		len -= n;
	}
}

void bufq_take(struct bufq *q, void *ret_bytes, size_t len)
{
	char *at = ret_bytes;
	len = MIN(len, q->bytes);
	q->bytes -= len;
	while (len) {
		size_t n = MIN(len, q->_head->slice.len);
		memcpy(at, q->_head->slice.p, n);
		skip(q, n);
		at += n;
		len -= n;
	}
}

struct slice bufq_first(const struct bufq *q)
{
	return q->_head ? q->_head->slice : (struct slice){0};
}

int bufq_iov(const struct bufq *q, struct iovec *ret_iov, int max)
{
	int count = 0;
	for (struct bufseg *seg = q->_head; seg && count < max; seg = seg->next)
		ret_iov[count++] = (struct iovec){(void *)seg->slice.p, seg->slice.len};
	return count;
}

size_t bufq_peek(const struct bufq *q, size_t offset, void *ret_bytes, size_t len)
{
	size_t done = 0;
	for (struct bufseg *seg = q->_head; seg && done < len; seg = seg->next) {
		if (offset >= seg->slice.len) {
			offset -= seg->slice.len;
			continue;
		}
		size_t n = MIN(len - done, seg->slice.len - offset);
		memcpy((char *)ret_bytes + done, seg->slice.p + offset, n);
		done += n;
		offset = 0;
	}
	return done;
}

uint8_t *bufq_pull(struct bufq *q, size_t len)
{
	if (q->_head->slice.len >= len)
		return (uint8_t *)q->_head->slice.p;
	struct chunk *chunk = chunk_new(MAX(len, (size_t)512));
	if (!chunk)
		return NULL;
	chunk->used = (uint32_t)bufq_peek(q, 0, chunk->data, len);
	struct bufseg *seg = segment_new((struct slice){chunk, chunk->data, len});
	if (!seg) {
		chunk_unref(chunk);
		return NULL;
	}
	bufq_drop(q, len);
	seg->next = q->_head;
	q->_head = seg;
	if (!q->_tail)
		q->_tail = seg;
	q->bytes += len;
	return chunk->data;
}

int bufq_flatten(struct bufq *q, struct slice *ret_slice)
{
	if (q->_head && q->_head->next) {
		struct chunk *chunk = chunk_new(q->bytes);
		struct bufq flat = {0};
		if (!chunk)
			return -ENOMEM;
		chunk->used = (uint32_t)bufq_peek(q, 0, chunk->data, q->bytes);
		int err = bufq_add_slice(&flat, (struct slice){chunk, chunk->data, chunk->used});
		chunk_unref(chunk);
		if (err)
			return err;
		bufq_clear(q);
		*q = flat;
	}
	*ret_slice = bufq_first(q);
	return 0;
}
