// SPDX-License-Identifier: Apache-2.0
#include "net/stream.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "net/bypass.h"
#include "net/relay.h"
#include "net/tls.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	READ_ROOM = 8192,	  // a read is never smaller
	FLUSH_IOV = 64,		  // slices one system call takes
	TLS_OUT_HIGH = 64 * 1024, // ciphertext waiting, above which nothing is encrypted
	OUT_LOW = LIMIT_OUT_HIGH / 4,
	ALERT_DISCARD = 1024 * 1024, // dropped at a time before closing
	TURN_BYTES = 1024 * 1024,    // sent in one go; then other connections get their turn
	REFUSAL_MIN_MS = 1,	     // until what the bypass refused is tried again, doubled each time
	REFUSAL_MAX_MS = 128,
	LEAVE_LOOKS = 3, // whether the bypass can be left: after the first read, and so often in all
};

_Static_assert(_ERR_BASE > INT16_MIN, "errors fit into _write_error");

static const uint32_t EVENTS = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP;

static void stream_flush(struct loop_task *task);
static void send_alert(struct stream *stream);
static int send_queue(struct stream *stream, struct bufq *queue);

void stream_init(struct stream *stream, struct loop *loop, const struct stream_ops *ops)
{
	*stream = (struct stream){._io.fd = -1, .loop = loop, .ops = ops};
}

bool stream_is_open(const struct stream *stream)
{
	return stream->_io.fd >= 0;
}

bool stream_is_connecting(const struct stream *stream)
{
	return stream->_connecting || stream->_handshaking;
}

int stream_fd(const struct stream *stream)
{
	return stream->_io.fd;
}

size_t stream_queued(const struct stream *stream)
{
	return stream->_out.bytes + (stream->tls ? tls_conn_out(stream->tls)->bytes : 0);
}

bool stream_congested(struct stream *stream)
{
	if (stream_queued(stream) > LIMIT_OUT_HIGH)
		stream->_congested = true;
	return stream->_congested;
}

static void schedule_flush(struct stream *stream)
{
	loop_defer(stream->loop, &stream->_flush, stream_flush);
}

// --- events -------------------------------------------------------------------------------------------------
static void handshake_step(struct stream *stream);

static void on_connect_event(struct stream *stream)
{
	int err = sock_error(stream->_io.fd);
	stream->_connecting = false;
	stream->_writable = true;
	if (err || !stream->tls) {
		stream->_handshaking = false;
		stream->ops->on_connected(stream, err);
		if (!err && stream_is_open(stream) && stream->_out.bytes)
			schedule_flush(stream);
		return;
	}
	handshake_step(stream);
}

// A socket that takes more is always ready for that. Where the kernel relays, it would tell so with each
// message. (One that has yielded waits for just that.)
static void watch(struct stream *stream)
{
	bool rests = stream->_writable && !stream->_yielded;
	if (stream->_relayed)
		loop_io_set(stream->loop, &stream->_io, rests ? EVENTS & ~(uint32_t)EPOLLOUT : EVENTS);
}

static void set_unwritable(struct stream *stream)
{
	stream->_writable = false;
	watch(stream);
}

static void on_event(struct loop_io *io, uint32_t events)
{
	struct stream *stream = container_of(io, struct stream, _io);
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		stream->_readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		stream->_hangup = true;
	stream->_failed |= (events & EPOLLERR) != 0;
	stream->_urgent |= (events & EPOLLPRI) != 0;
	if (stream->_connecting) {
		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		on_connect_event(stream);
		// The first bytes may have come with the same event.
		if (!stream_is_open(stream) || stream_is_connecting(stream))
			return;
	}
	stream->_turn_mark = stream->sent;
	if (stream->_yielded || ((events & EPOLLOUT) && !stream->_writable))
		schedule_flush(stream);
	stream->_writable |= (events & EPOLLOUT) != 0;
	stream->_yielded = false;
	if (events & EPOLLOUT)
		watch(stream);
	if (!stream->_readable)
		return;
	if (stream->_handshaking)
		handshake_step(stream);
	else
		stream->ops->on_readable(stream);
}

static int stream_register(struct stream *stream, int fd)
{
	stream->_looks = bypass_is_on() ? LEAVE_LOOKS : 0;
	return loop_io_add(stream->loop, &stream->_io, fd, EVENTS, on_event);
}

// Setting the events again makes epoll tell of what is there already.
bool stream_yield(struct stream *stream)
{
	if (!stream->_yielded && loop_io_set(stream->loop, &stream->_io, EVENTS))
		return false;
	stream->_yielded = true;
	return true;
}

int stream_accept(struct stream *stream, int fd)
{
	int err = stream_register(stream, fd);
	if (err) {
		close(fd);
		stream->_io.fd = -1;
		return err;
	}
	stream->_writable = true;
	stream->_readable = true; // worth a try: clients that speak first mostly have
	return 0;
}

int stream_connect(struct stream *stream, const struct addr *addr, const struct sock_options *options,
		   struct tls_conn *tls)
{
	int fd, err = sock_connect(addr, options, &fd);
	if (err)
		return err;
	err = stream_register(stream, fd);
	if (err) {
		close(fd);
		stream->_io.fd = -1;
		return err;
	}
	stream->_connecting = true;
	stream->tls = tls;
	stream->_handshaking = tls != NULL;
	return 0;
}

static bool tls_has_failed(const struct stream *stream)
{
	return stream->tls && !stream->_connecting && tls_conn_error(stream->tls)[0];
}

// --- refused by the bypass ----------------------------------------------------------------------------------
// A stream whose peer on this host has to read before the next message goes to it. No event tells; few
// streams are ever in this state, so that they have no room for it.
struct refusal {
	struct refusal *next;
	struct loop_timer timer;
	struct stream *stream;
	uint32_t delay_ms;
};

static __thread struct refusal *first_refusal;

static struct refusal **refusal_find(const struct stream *stream)
{
	struct refusal **link = &first_refusal;
	while (*link && (*link)->stream != stream)
		link = &(*link)->next;
	return link;
}

static void refusal_end(struct stream *stream)
{
	if (!stream->_refused)
		return;
	struct refusal **link = refusal_find(stream), *refusal = *link;
	*link = refusal->next;
	loop_timer_stop(&refusal->timer);
	mem_free(refusal);
	stream->_refused = false;
}

static void on_refusal_timer(struct loop_timer *timer)
{
	struct stream *stream = container_of(timer, struct refusal, timer)->stream;
	stream->_writable = true;
	schedule_flush(stream);
}

static int refuse(struct stream *stream)
{
	struct refusal *refusal = stream->_refused ? *refusal_find(stream) : mem_zalloc(sizeof *refusal);
	if (!refusal)
		return -ENOMEM;
	if (!stream->_refused) {
		*refusal = (struct refusal){.next = first_refusal, .stream = stream};
		loop_timer_init(&refusal->timer, on_refusal_timer);
		first_refusal = refusal;
		stream->_refused = true;
	}
	refusal->delay_ms = MIN(MAX(REFUSAL_MIN_MS, 2 * refusal->delay_ms), REFUSAL_MAX_MS);
	loop_timer_start(stream->loop, &refusal->timer, refusal->delay_ms);
	stream->_writable = false;
	return 0;
}

void stream_close(struct stream *stream)
{
	int fd = stream->_io.fd;
	if (fd < 0)
		return;
	refusal_end(stream);
	if (tls_has_failed(stream))
		send_alert(stream);
	// With bytes unread TCP resets; those that were left to us are in none of its queues, and a peer that
	// waits for room would wait on.
	if (stream->_relayed && !stream->_eof)
		sock_set_reset(fd, true);
	loop_io_del(stream->loop, &stream->_io);
	close(fd);
	bufq_clear(&stream->_out);
	tls_conn_free(stream->tls);
	stream->tls = NULL;
	stream->_congested = false;
}

// An alert says more than a reset, which could overtake it.
void stream_set_reset(struct stream *stream)
{
	if (stream_is_open(stream) && !tls_has_failed(stream))
		sock_set_reset(stream->_io.fd, true);
}

void stream_reset(struct stream *stream)
{
	stream_set_reset(stream);
	stream_close(stream);
}

// --- reading ------------------------------------------------------------------------------------------------
static int read_error(void)
{
	return errno == EAGAIN ? ERR_NEED_MORE : -errno;
}

static bool is_dead(int fd)
{
	uint8_t state; // the first field of struct tcp_info
	socklen_t len = sizeof state;
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &len) == 0 && state == TCP_CLOSE;
}

// An application whose bytes go out of this socket may have been told of a reset first, and then it looks
// like an end; but we have not sent ours.
static int read_end(struct stream *stream)
{
	if (stream->_broken || (stream->_outlet && !stream->_end_sent && is_dead(stream->_io.fd)))
		return -ECONNRESET;
	stream->_eof = true;
	return ERR_EOF;
}

static void look_at_bypass(struct stream *stream)
{
	int err = bypass_leave(stream->_io.fd);
	if (!err) {
		stream->_path_known = true;
		stream->_bypassed = false;
	}
	stream->_looks = err == ERR_NEED_MORE ? stream->_looks - 1 : 0;
}

// An application that blocks has gone over to TCP with its first message.
static void look_after_read(struct stream *stream)
{
	if (stream->_looks == LEAVE_LOOKS && stream->_turning)
		look_at_bypass(stream);
	else if (stream->_looks == LEAVE_LOOKS)
		stream->_looks = 0;
}

// Where that had to wait: what we send goes over, too, while the application blocks.
static void look_after_send(struct stream *stream)
{
	if (stream->_looks && stream->_looks < LEAVE_LOOKS)
		look_at_bypass(stream);
}

// One recv into the thread's chunk. A short read says that the socket is empty (the next bytes raise an
// event), unless the peer's end or urgent data is behind them.
static int receive(struct stream *stream, struct slice *ret_slice)
{
	if (!stream->_readable)
		return stream->_eof ? ERR_EOF : ERR_NEED_MORE;
	struct chunk *chunk = buf_rx(READ_ROOM);
	if (!chunk)
		return -ENOMEM;
	size_t room = chunk->cap - chunk->used;
	ssize_t n = recv(stream->_io.fd, chunk->data + chunk->used, room, 0);
	if (n > 0) {
		*ret_slice = (struct slice){chunk, chunk->data + chunk->used, (size_t)n};
		chunk->used += (uint32_t)n;
		// Once the bypass has turned only a read that finds nothing says so: bytes by TCP may be
		// there whose event came while the owner did not read.
		uint32_t turns = bypass_turns();
		stream->_turning |= stream->_turns != turns;
		stream->_turns = turns;
		look_after_read(stream);
		if ((size_t)n < room && !stream->_hangup && !stream->_turning && !stream->_urgent)
			stream->_readable = false;
		return (int)n;
	}
	if (n < 0 && errno == EINTR)
		return receive(stream, ret_slice);
	stream->_readable = false;
	stream->_turning = 0;
	return n < 0 ? read_error() : read_end(stream);
}

static int receive_plain(struct stream *stream, struct slice *ret_slice)
{
	int n = receive(stream, ret_slice);
	if (n > 0)
		stream->received += (uint64_t)n;
	return n;
}

static int feed_ciphertext(struct stream *stream)
{
	struct slice cipher;
	int n = receive(stream, &cipher);
	return n > 0 ? tls_conn_feed(stream->tls, cipher) : n;
}

// The end of the socket without close_notify is no end of the stream: somebody may have cut it (RFC
// 8446 6.1).
static int receive_tls(struct stream *stream, struct slice *ret_slice)
{
	for (;;) {
		struct chunk *chunk = buf_rx(TLS_READ_ROOM);
		if (!chunk)
			return -ENOMEM;
		int n = tls_conn_read(stream->tls, chunk->data + chunk->used, chunk->cap - chunk->used);
		if (tls_conn_out(stream->tls)->bytes)
			schedule_flush(stream);
		if (n > 0) {
			*ret_slice = (struct slice){chunk, chunk->data + chunk->used, (size_t)n};
			chunk->used += (uint32_t)n;
			stream->received += (uint64_t)n;
			return n;
		}
		if (n == ERR_EOF)
			stream->_eof = true;
		if (n != ERR_NEED_MORE)
			return n;
		int err = feed_ciphertext(stream);
		if (err)
			return err == ERR_EOF ? -ECONNRESET : err;
	}
}

int stream_read(struct stream *stream, struct slice *ret_slice)
{
	if (!stream_is_open(stream))
		return ERR_CLOSED;
	if (stream_is_connecting(stream))
		return ERR_NEED_MORE;
	if (stream->_eof)
		return ERR_EOF;
	return stream->tls ? receive_tls(stream, ret_slice) : receive_plain(stream, ret_slice);
}

int stream_peek(struct stream *stream)
{
	struct slice slice;
	if (!stream->tls)
		return 1;
	int n = stream_read(stream, &slice);
	if (n <= 0)
		return n;
	stream->received -= (uint64_t)n;
	int err = tls_conn_unread(stream->tls, slice);
	return err ? err : n;
}

static int peek_tls(struct stream *stream, void *ret_bytes, size_t len)
{
	struct slice slice;
	int n = stream_read(stream, &slice);
	if (n <= 0)
		return n;
	stream->received -= (uint64_t)n;
	memcpy(ret_bytes, slice.p, MIN(slice.len, len));
	int err = tls_conn_unread(stream->tls, slice);
	return err ? err : (int)MIN(slice.len, len);
}

int stream_peek_bytes(struct stream *stream, void *ret_bytes, size_t len)
{
	if (!stream_is_open(stream) || stream_is_connecting(stream))
		return ERR_NEED_MORE;
	if (stream->tls)
		return peek_tls(stream, ret_bytes, len);
	ssize_t n = recv(stream->_io.fd, ret_bytes, len, MSG_PEEK);
	if (n > 0)
		return (int)n;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return ERR_NEED_MORE;
	// To whoever asks next it would look like an end.
	stream->_broken |= n < 0;
	return n < 0 ? -errno : stream->_broken ? -ECONNRESET : ERR_EOF;
}

// A failure's alert is worth a try. Bytes that were not read would turn our end into a reset, which may
// overtake it.
static void send_alert(struct stream *stream)
{
	send_queue(stream, tls_conn_out(stream->tls));
	while (recv(stream->_io.fd, NULL, ALERT_DISCARD, MSG_DONTWAIT | MSG_TRUNC) == ALERT_DISCARD)
		;
}

int stream_discard(struct stream *stream)
{
	struct slice slice;
	return stream_is_open(stream) ? receive(stream, &slice) : ERR_CLOSED;
}

// --- TLS handshake ------------------------------------------------------------------------------------------
static void handshake_step(struct stream *stream)
{
	int err;
	while ((err = tls_conn_handshake(stream->tls)) == ERR_NEED_MORE) {
		err = feed_ciphertext(stream);
		if (err == ERR_EOF)
			tls_conn_feed_eof(stream->tls);
		else if (err)
			break;
	}
	if (tls_conn_out(stream->tls)->bytes)
		schedule_flush(stream);
	if (err == ERR_NEED_MORE)
		return;
	stream->_handshaking = false;
	stream->ops->on_connected(stream, err);
	if (err || !stream_is_open(stream))
		return;
	if (stream->_out.bytes)
		schedule_flush(stream);
	// Payload may have come with the last bytes of the handshake.
	stream->ops->on_readable(stream);
}

static void start_handshake(struct loop_task *task)
{
	struct stream *stream = container_of(task, struct stream, _flush);
	if (stream_is_open(stream) && stream->_handshaking)
		handshake_step(stream);
}

int stream_accept_tls(struct stream *stream, struct tls_conn *tls, struct bufq *first)
{
	stream->tls = tls;
	stream->_handshaking = true;
	while (!bufq_empty(first)) {
		struct slice slice = bufq_first(first);
		int err = tls_conn_feed(tls, slice);
		if (err)
			return err;
		bufq_drop(first, slice.len);
	}
	loop_defer(stream->loop, &stream->_flush, start_handshake);
	return 0;
}

// --- writing ------------------------------------------------------------------------------------------------
void stream_write(struct stream *stream, struct bufq *bytes)
{
	if (!stream_is_open(stream) || stream->_write_error || stream->_shut) {
		bufq_clear(bytes);
		return;
	}
	if (bufq_move(&stream->_out, bytes, bytes->bytes)) {
		bufq_clear(bytes);
		stream->_write_error = -ENOMEM;
	}
	if (!stream->_connecting)
		schedule_flush(stream);
}

void stream_shutdown(struct stream *stream)
{
	if (!stream_is_open(stream) || stream->_shut)
		return;
	stream->_shut = true;
	if (!stream->_connecting)
		schedule_flush(stream);
}

bool stream_is_flushed(const struct stream *stream)
{
	return stream_queued(stream) == 0 && (!stream->_shut || stream->_shut_done);
}

void stream_want_drained(struct stream *stream)
{
	if (!stream_is_open(stream))
		return;
	stream->_congested = true;
	if (!stream->_connecting)
		schedule_flush(stream);
}

bool stream_is_idle(struct stream *stream)
{
	struct slice slice;
	return !stream->_write_error && !stream->_shut && stream_queued(stream) == 0 &&
	       stream_read(stream, &slice) == ERR_NEED_MORE;
}

bool stream_has_failed(const struct stream *stream)
{
	return stream->_failed;
}

// Little enough to be sent at once is encrypted together; of more, a part at a time, so that the ciphertext
// waiting stays bounded.
static int encrypt(struct stream *stream)
{
	struct bufq *cipher = tls_conn_out(stream->tls);
	while (stream->_out.bytes && cipher->bytes < TLS_OUT_HIGH) {
		struct bufq part = {0};
		int err = bufq_move(&part, &stream->_out, TLS_OUT_HIGH);
		uint64_t bytes = part.bytes;
		if (!err)
			err = tls_conn_write_queue(stream->tls, &part);
		stream->sent += bytes - part.bytes;
		bufq_clear(&part);
		if (err)
			return err;
	}
	return 0;
}

static int send_queue(struct stream *stream, struct bufq *queue)
{
	while (queue->bytes && stream->_writable) {
		uint32_t refusals = bypass_refusals();
		struct iovec iov[FLUSH_IOV];
		struct msghdr message = {.msg_iov = iov,
					 .msg_iovlen = (size_t)bufq_iov(queue, iov, FLUSH_IOV)};
		ssize_t n = message.msg_iovlen == 1
				? send(stream->_io.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL)
				: sendmsg(stream->_io.fd, &message, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EPIPE && bypass_refusals() != refusals)
			return refuse(stream);
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n < 0) {
			set_unwritable(stream);
			continue;
		}
		refusal_end(stream);
		look_after_send(stream);
		bufq_drop(queue, (size_t)n);
		if (queue == &stream->_out)
			stream->sent += (uint64_t)n;
	}
	return 0;
}

static int flush_tls(struct stream *stream)
{
	struct bufq *cipher = tls_conn_out(stream->tls);
	int err = 0;
	do {
		if (!stream->_handshaking)
			err = encrypt(stream);
		if (!err && stream->_shut && !stream->_handshaking && !stream->_out.bytes &&
		    !stream->_shut_done) {
			stream->_shut_done = true;
			// After a failed handshake there is nothing to close; its alert is still to be sent.
			tls_conn_shutdown(stream->tls);
		}
		if (!err)
			err = send_queue(stream, cipher);
	} while (!err && stream->_writable && stream->_out.bytes && !stream->_handshaking);
	return err;
}

static int flush_plain(struct stream *stream)
{
	return send_queue(stream, &stream->_out);
}

static void send_end(struct stream *stream)
{
	if (!stream->_shut || stream->_end_sent || stream->_handshaking || stream_queued(stream))
		return;
	stream->_shut_done = true;
	stream->_end_sent = true;
	shutdown(stream->_io.fd, SHUT_WR);
}

static void stream_flush(struct loop_task *task)
{
	struct stream *stream = container_of(task, struct stream, _flush);
	if (!stream_is_open(stream) || stream->_connecting)
		return;
	int err = stream->_write_error;
	if (!err)
		err = stream->tls ? flush_tls(stream) : flush_plain(stream);
	if (err && err != ERR_NEED_MORE) {
		stream->_write_error = err;
		stream->_congested = false;
		// The event that tells of the peer's end may be still to come, and what it sent before can be
		// read already.
		stream->_readable = stream->_hangup = true;
		bufq_clear(&stream->_out);
		stream->ops->on_write_error(stream, err);
		return;
	}
	send_end(stream);
	if (stream->_congested && stream->_writable && stream_queued(stream) <= OUT_LOW) {
		if (stream->sent - stream->_turn_mark >= TURN_BYTES && stream_yield(stream))
			return;
		stream->_congested = false;
		stream->ops->on_drained(stream);
	}
}

// --- without copies -----------------------------------------------------------------------------------------
static bool is_bypassed(struct stream *stream)
{
	if (!stream->_path_known) {
		stream->_path_known = true;
		stream->_bypassed = bypass_has(stream->_io.fd);
	}
	return stream->_bypassed;
}

static bool is_clear(struct stream *stream)
{
	return !stream->tls && !stream_is_connecting(stream) && !stream->_urgent && bufq_empty(&stream->_out);
}

bool stream_can_splice(struct stream *stream)
{
	return is_clear(stream) && !is_bypassed(stream);
}

int stream_splice_in(struct stream *stream, int pipe_write_fd, size_t len)
{
	if (stream->_eof)
		return ERR_EOF;
	if (!stream->_readable)
		return ERR_NEED_MORE;
	ssize_t n = splice(stream->_io.fd, NULL, pipe_write_fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n > 0) {
		stream->received += (uint64_t)n;
		return (int)n;
	}
	if (n == 0)
		return 0; // the end, or urgent data in front of it
	stream->_readable = false;
	return read_error();
}

int stream_splice_out(struct stream *stream, int pipe_read_fd, size_t len)
{
	if (!stream->_writable) {
		stream->_congested = true;
		return ERR_NEED_MORE;
	}
	ssize_t n = splice(pipe_read_fd, NULL, stream->_io.fd, NULL, len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n > 0) {
		stream->sent += (uint64_t)n;
		return (int)n;
	}
	if (n < 0 && errno != EAGAIN)
		return -errno;
	set_unwritable(stream);
	stream->_congested = true;
	return ERR_NEED_MORE;
}

// --- past this process --------------------------------------------------------------------------------------
uint64_t stream_join(struct stream *from, struct stream *to)
{
	if (from->tls || stream_is_connecting(from) || !is_bypassed(from) || !stream_can_splice(to))
		return 0;
	uint64_t join = bypass_join(from->_io.fd, to->_io.fd, from->received, to->sent);
	to->_outlet |= join != 0;
	return join;
}

static bool takes_by_tcp(struct stream *stream)
{
	return is_clear(stream) && (!is_bypassed(stream) || bypass_is_over(stream->_io.fd));
}

uint64_t stream_relay(struct stream *from, struct stream *to)
{
	if (from->tls || stream_is_connecting(from) || from->_urgent || is_bypassed(from) || !takes_by_tcp(to))
		return 0;
	uint64_t relay = relay_start(from->_io.fd, to->_io.fd);
	if (!relay)
		return 0;
	from->_relayed = to->_outlet = true;
	watch(from);
	return relay;
}
