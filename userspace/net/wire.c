// SPDX-License-Identifier: Apache-2.0
#include "net/wire.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

int wire_init(struct wire *wire, int fd, struct ssl_ctx_st *context, bool server)
{
	*wire = (struct wire){.fd = fd};
	if (!context)
		return 0;
	wire->_ssl = SSL_new(context);
	if (!wire->_ssl || SSL_set_fd(wire->_ssl, fd) != 1) {
		wire_done(wire);
		return -ENOMEM;
	}
	if (server)
		SSL_set_accept_state(wire->_ssl);
	else
		SSL_set_connect_state(wire->_ssl);
	return 0;
}

void wire_done(struct wire *wire)
{
	SSL_free(wire->_ssl);
	wire->_ssl = NULL;
}

static int of_errno(void)
{
	return errno == EAGAIN ? ERR_NEED_MORE : -errno;
}

static int of_ssl(struct wire *wire, int result)
{
	int reason = SSL_get_error(wire->_ssl, result);
	int err = reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE ? ERR_NEED_MORE
		  : reason == SSL_ERROR_ZERO_RETURN				  ? ERR_EOF
										  : ERR_TLS;
	ERR_clear_error();
	return err;
}

int wire_read(struct wire *wire, void *bytes, size_t len)
{
	ssize_t n;
	if (wire->_ssl) {
		int got = SSL_read(wire->_ssl, bytes, (int)MIN(len, (size_t)INT_MAX));
		return got > 0 ? got : of_ssl(wire, got);
	}
	do
		n = recv(wire->fd, bytes, MIN(len, (size_t)INT_MAX), 0);
	while (n < 0 && errno == EINTR);
	return n > 0 ? (int)n : n == 0 ? ERR_EOF : of_errno();
}

int wire_write(struct wire *wire, const void *bytes, size_t len)
{
	ssize_t n;
	if (wire->_ssl) {
		int put = SSL_write(wire->_ssl, bytes, (int)MIN(len, (size_t)INT_MAX));
		return put > 0 ? put : of_ssl(wire, put);
	}
	do
		n = send(wire->fd, bytes, MIN(len, (size_t)INT_MAX), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n >= 0 ? (int)n : of_errno();
}

void wire_shutdown(struct wire *wire)
{
	if (wire->_ssl)
		SSL_shutdown(wire->_ssl);
	ERR_clear_error();
	shutdown(wire->fd, SHUT_WR);
}
