// SPDX-License-Identifier: Apache-2.0
// Buffers. Bytes lie in reference-counted chunks; a `struct slice` is a piece of one; a `struct bufq` is a
// queue of slices, so a body crosses the proxy by passing references. All of it belongs to one thread, which
// keeps spare chunks of the standard size for itself. An empty bufq holds no memory.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum { CHUNK_SIZE = 32 * 1024 }; // capacity of a standard chunk

struct chunk {
	uint32_t refs;
	uint32_t cap;
	uint32_t used; // bytes from the start that somebody may refer to
	uint32_t _pad;
	uint8_t data[];
};

// `chunk` is NULL for memory that never goes away (literals).
struct slice {
	struct chunk *chunk;
	const uint8_t *p;
	size_t len;
};

struct bufq {
	struct bufseg *_head, *_tail;
	size_t bytes;
};

// --- chunks -------------------------------------------------------------------------------------------------
// A chunk with one reference, `cap` bytes at least (0: the standard size). NULL when out of memory.
struct chunk *chunk_new(size_t cap);
static inline struct chunk *chunk_ref(struct chunk *chunk)
{
	if (chunk)
		chunk->refs++;
	return chunk;
}
// NULL is fine.
void chunk_unref(struct chunk *chunk);

// The thread's receive chunk with at least `room` free bytes behind `used` (room <= CHUNK_SIZE); borrowed:
// the next call may replace it. Add what was received to `used`, then refer to it. NULL when out of memory.
struct chunk *buf_rx(size_t room);
// To be called when the data of a read has been dealt with: starts over if nobody referred to it.
void buf_rx_reset(void);
// Frees the thread's spare chunks (at the thread's end, and by tests before looking for leaks).
void buf_thread_done(void);

// --- queues -------------------------------------------------------------------------------------------------
// The functions that return int: 0 or -ENOMEM, and then the queue is as before.

static inline bool bufq_empty(const struct bufq *q)
{
	return q->bytes == 0;
}
void bufq_release(struct bufq *q); // of one that is not empty
// Most queues are empty when they end.
static inline void bufq_clear(struct bufq *q)
{
	if (q->_head)
		bufq_release(q);
}
// Takes a reference of its own on the slice's chunk. Joins with the last slice where they adjoin.
int bufq_add_slice(struct bufq *q, struct slice slice);
int bufq_add_copy(struct bufq *q, const void *bytes, size_t len);
// The same into the thread's own chunk for writing, which many queues share: for many small pieces that leave
// soon.
int bufq_add_packed(struct bufq *q, const void *bytes, size_t len);
// The same in two steps, for bytes that are made in place: room for that many in the chunk, good until the
// next of these three (NULL when out of memory); and the first `len` of them into the queue.
uint8_t *bufq_packed_room(size_t room);
int bufq_packed_add(struct bufq *q, size_t len);
// The bytes must outlive the program's use of them: literals.
int bufq_add_static(struct bufq *q, struct str text);
// Moves the first `len` bytes (at most all) from one queue to the end of another, without copying, but for a
// few bytes behind a few bytes.
int bufq_move(struct bufq *to, struct bufq *from, size_t len);
// Moves all, which needs no memory.
static inline void bufq_move_all(struct bufq *to, struct bufq *from)
{
	if (to->_head || from->_head != from->_tail) {
		bufq_move(to, from, from->bytes);
		return;
	}
	*to = *from;
	*from = (struct bufq){0};
}
// Appends references to all of `from`, which keeps its bytes; a few bytes behind a few bytes are copied, too.
int bufq_clone(struct bufq *to, const struct bufq *from);
// Drops `len` bytes (at most all) from the front.
void bufq_drop(struct bufq *q, size_t len);
// The first slice; empty when there is none. Borrowed.
struct slice bufq_first(const struct bufq *q);
// Fills at most `max` entries with the front of the queue; returns how many.
int bufq_iov(const struct bufq *q, struct iovec *ret_iov, int max);
// Takes `len` bytes (at most all) off the front, copied to where there is room for them.
void bufq_take(struct bufq *q, void *ret_bytes, size_t len);
// Copies `len` bytes from `offset` on; returns how many there were.
size_t bufq_peek(const struct bufq *q, size_t offset, void *ret_bytes, size_t len);
// Appends a copy so that the queue is one slice afterwards, growing geometrically: for input that a parser
// wants in one piece and that comes in small ones.
int bufq_append_flat(struct bufq *q, struct slice bytes);
// Makes the first `len` bytes (at most all, more than none) one piece, copying them if they are not, and
// returns them; they may be written to by an owner that shares the queue's bytes with nobody. NULL when out
// of memory.
uint8_t *bufq_pull(struct bufq *q, size_t len);
// Moves what is little out of a big chunk, so that a few bytes that are kept do not hold one. 0 or -ENOMEM.
int bufq_compact(struct bufq *q);
// Makes the whole queue one slice (copying if there is more than one) and returns it: for a parser that wants
// its input in one piece. 0 or -ENOMEM.
int bufq_flatten(struct bufq *q, struct slice *ret_slice);
