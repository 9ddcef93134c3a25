// SPDX-License-Identifier: Apache-2.0
#include "admin/server.h"

#include "admin/answer.h"
#include "admin/protocol.h"
#include "net/serve.h"
#include "admin/socket.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_MS = 10000, GROUPS_MAX = 1024 };

struct admin_server {
	struct admin_socket *socket;
	struct serve *serve;
	struct admin_backend backend;
};

// --- who may talk -----------------------------------------------------------------------------------------
static bool in_group(int fd, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	socklen_t size = sizeof groups;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof *groups; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

static bool admit(void *arg, int fd, struct strbuf *ret_answer)
{
	const struct admin_server *server = arg;
	struct ucred peer;
	socklen_t size = sizeof peer;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
	    (peer.uid == 0 || peer.uid == geteuid() || peer.gid == server->socket->gid ||
	     in_group(fd, server->socket->gid)))
		return true;
	admin_response_write(ret_answer, ADMIN_FAILED,
			     STR("permission denied: you are neither root, nor the "
				 "proxy's user, nor in the group of its admin socket"));
	return false;
}

static int answer(void *arg, char *bytes, size_t len, struct strbuf *ret_answer)
{
	const struct admin_server *server = arg;
	return admin_answer(&server->backend, bytes, len, ret_answer);
}

// --- life -------------------------------------------------------------------------------------------------
int admin_server_new(struct loop *loop, struct admin_socket **socket, const struct admin_backend *backend,
		     struct admin_server **ret_server)
{
	struct admin_server *server = mem_zalloc(sizeof *server);
	if (!server)
		return -ENOMEM;
	server->backend = *backend;
	const struct serve_ops ops = {.admit = admit,
				      .answer = answer,
				      .arg = server,
				      .clients_max = LIMIT_ADMIN_CLIENTS,
				      .request_max = LIMIT_ADMIN_REQUEST,
				      .idle_ms = IDLE_MS};
	int err = serve_new(loop, (*socket)->fd, &ops, &server->serve);
	if (err) {
		mem_free(server);
		return err;
	}
	server->socket = *socket;
	server->socket->fd = -1;
	*socket = NULL;
	*ret_server = server;
	return 0;
}

void admin_server_free(struct admin_server *server)
{
	if (!server)
		return;
	serve_free(server->serve);
	admin_socket_close(server->socket);
	mem_free(server);
}
