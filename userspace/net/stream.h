// SPDX-License-Identifier: Apache-2.0
// A byte stream over a TCP socket, plain or TLS, on an event loop: what both sides of every proxied
// connection are.
//
// Reading is by the owner: on_readable says that stream_read may have something. An owner that does not want
// bytes now (the other side is congested) just does not read, and reads when it is ready again. Writing
// queues; the queue is flushed once, at the end of the loop's turn, with one system call. A stream is
// embedded in its owner's object, which must live until the end of the turn in which the stream was closed
// (loop_defer frees it). One thread. Callbacks are never called from inside the functions below.
#pragma once

#include "base/addr.h"
#include "base/buf.h"
#include "net/sock.h"
#include "run/loop.h"

struct stream;
struct tls_conn;

struct stream_ops {
	// A connect came to its end: 0 (then reading and writing work; TLS is done, too) or a negative error.
	void (*on_connected)(struct stream *stream, int err);
	// Bytes, the end or an error may be there for stream_read.
	void (*on_readable)(struct stream *stream);
	// The queue fell below the mark after stream_congested was true.
	void (*on_drained)(struct stream *stream);
	// Writing failed (the peer reset, a TLS error): nothing can be sent any more. Reading may still give
	// bytes.
	void (*on_write_error)(struct stream *stream, int err);
};

struct stream {
	struct loop_io _io;
	struct loop *loop;
	const struct stream_ops *ops;
	struct tls_conn *tls; // owned; NULL: plain
	struct bufq _out;
	struct loop_task _flush;
	uint64_t received,
	    sent; // payload bytes, without TLS framing; sent: accepted by the kernel (plain) or encrypted
	uint64_t _turn_mark; // `sent` at the last event
	uint32_t _turns : 30;  // of the bypass, when last asked
	uint32_t _turning : 1; // short reads say nothing
	uint32_t _urgent : 1;  // there was urgent data: reads stop in front of it, splice does not pass it
	int16_t _write_error;
	bool _connecting : 1;
	bool _handshaking : 1;
	bool _readable : 1;  // the socket may have more
	bool _hangup : 1;    // the peer's end is in the queue
	bool _failed : 1;    // EPOLLERR
	bool _eof : 1;	     // stream_read has returned ERR_EOF
	bool _writable : 1;  // the socket takes more
	bool _congested : 1; // on_drained is owed
	bool _shut : 1;	     // our end is to follow the queue
	bool _shut_done : 1; // as far as TLS is concerned (close_notify is queued)
	bool _end_sent : 1;  // FIN
	bool _yielded : 1;   // an event was asked for
	bool _refused : 1;   // waits for the bypass's reader
	bool _path_known : 1; // whether it is bypassed, too
	bool _bypassed : 1;
	uint8_t _looks : 2; // so often it is looked whether the other end leaves the bypass
	bool _outlet : 1; // the kernel sends by it, too: stream_join, stream_relay
	bool _relayed : 1; // the kernel takes out of it what comes, and wakes us all the same
	bool _broken : 1; // stream_peek_bytes has taken the socket's error, which it tells once
};

void stream_init(struct stream *stream, struct loop *loop, const struct stream_ops *ops);
// Takes over an accepted socket (also in case of an error). The first on_readable comes by itself if bytes
// are there.
int stream_accept(struct stream *stream, int fd);
// Starts connecting; `tls` (owned from now on; may be NULL) starts its handshake when connected. on_connected
// tells. 0 or a negative error (then `tls` is still the caller's).
int stream_connect(struct stream *stream, const struct addr *addr, const struct sock_options *options,
		   struct tls_conn *tls);
// Turns an accepted plain stream into the server side of TLS. `first` are the bytes already read (moved).
// on_connected tells.
int stream_accept_tls(struct stream *stream, struct tls_conn *tls, struct bufq *first);

bool stream_is_open(const struct stream *stream);
bool stream_is_connecting(const struct stream *stream); // or in the TLS handshake
int stream_fd(const struct stream *stream);

// Returns > 0 and a slice (borrowed until the next stream_read of this thread; refer to it through its
// chunk), or ERR_NEED_MORE, ERR_EOF (the peer's orderly end; again and again), or another negative error.
int stream_read(struct stream *stream, struct slice *ret_slice);
// Whether on_readable meant something: > 0 when payload is there (it stays for stream_read), or what
// stream_read would return. Messages of TLS that carry no payload (session tickets) are dealt with. A plain
// stream is taken at its word.
int stream_peek(struct stream *stream);
// The first bytes that stream_read would return, at most `len`, which stay for it: how many (> 0), or what
// stream_read would return.
int stream_peek_bytes(struct stream *stream, void *ret_bytes, size_t len);
// Reads and drops what the socket holds, not deciphered: how many bytes (> 0), or what stream_read returns.
int stream_discard(struct stream *stream);
// Moves all of `bytes` to the queue (empty afterwards in any case). A stream that is closed, or whose writing
// failed, drops them.
void stream_write(struct stream *stream, struct bufq *bytes);
// Bytes that are queued and not sent yet.
size_t stream_queued(const struct stream *stream);
// More than LIMIT_OUT_HIGH is queued: stop producing; on_drained will tell.
bool stream_congested(struct stream *stream);
// on_drained is to be called once all is flushed, even if the stream was never congested.
void stream_want_drained(struct stream *stream);
// Nothing is queued, and our end, if it was asked for, is sent.
bool stream_is_flushed(const struct stream *stream);
// Open both ways, nothing queued, nothing there to be read: it can be put aside. Costs a read at most, and
// only if the socket may hold something.
bool stream_is_idle(struct stream *stream);
// The peer reset the connection (or the kernel gave it up).
bool stream_has_failed(const struct stream *stream);
// Sends our end (close_notify, FIN) behind the queue. Reading goes on.
void stream_shutdown(struct stream *stream);
// Closes at once; unsent bytes are dropped. Safe when closed.
void stream_close(struct stream *stream);
// The same with RST; or set it up for the close that follows. Where TLS failed, an alert goes instead.
void stream_set_reset(struct stream *stream);
void stream_reset(struct stream *stream);

// Ends the owner's turn: what is ready now comes as events of the next one, after those of the other streams.
// False: that failed, and the owner has to go on.
bool stream_yield(struct stream *stream);

// --- without copies -----------------------------------------------------------------------------------------
// For plain streams. From the socket into a pipe, from a pipe into the socket: bytes moved (> 0),
// ERR_NEED_MORE, ERR_EOF, or another negative error. After ERR_NEED_MORE on_readable or on_drained follows.
// splice_in returns 0 where only stream_read can tell what comes, bytes or the end. splice_out wants an empty
// queue. From a socket that is relayed (stream_relay) nothing may be spliced, into it may.
bool stream_can_splice(struct stream *stream);
int stream_splice_in(struct stream *stream, int pipe_write_fd, size_t len);
int stream_splice_out(struct stream *stream, int pipe_read_fd, size_t len);

// --- past this process --------------------------------------------------------------------------------------
// From now on the kernel sends what comes by `from` out of `to` by itself, as long as there is room; what is to
// be read all the same is to be written to `to`, and nothing else is (net/bypass.h). All that was read so far was
// written. Returns the number of the join, for bypass_part() before either is closed, or 0: not between these, or
// something is still queued.
uint64_t stream_join(struct stream *from, struct stream *to);
// The same by net/relay.h, which says what is different then: returns the number of the relay, for
// relay_stop(), or 0.
uint64_t stream_relay(struct stream *from, struct stream *to);
