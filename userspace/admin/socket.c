// SPDX-License-Identifier: Apache-2.0
#include "admin/socket.h"

#include "base/error.h"
#include "base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BACKLOG = 64, SOCKET_MODE = 0660, FOLDER_MODE = 0755 };

static int fail(struct strbuf *ret_error, const char *path, const char *what, int err)
{
	strbuf_printf(ret_error, "admin socket %s: %s%s%s", path, what, *what ? ": " : "", err_text(err));
	return err;
}

// The folder, if it is missing; its parent must be there.
static void make_folder(const char *path, uid_t uid, gid_t gid)
{
	char folder[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	const char *slash = strrchr(path, '/');
	if (!slash || slash == path)
		return;
	memcpy(folder, path, (size_t)(slash - path));
	folder[slash - path] = 0;
	// If it cannot be made, bind says so. The user that the proxy becomes removes the socket at its end.
	if (mkdir(folder, FOLDER_MODE) == 0 && chown(folder, uid, gid) < 0)
		return;
}

// Takes a dead proxy's socket away. 0, or -EADDRINUSE: somebody listens there, or it is something else.
static int remove_stale(const struct sockaddr_un *address)
{
	struct stat info;
	if (lstat(address->sun_path, &info) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(info.st_mode))
		return -EEXIST;
	autoclose int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return -errno;
	// EAGAIN: a live one with a full backlog.
	if (connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 || errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(address->sun_path) == 0 || errno == ENOENT ? 0 : -errno;
}

static int bind_and_listen(struct admin_socket *socket, uid_t uid, gid_t gid, struct strbuf *ret_error)
{
	const char *path = socket->address.sun_path;
	struct stat info;
	// The mode before bind is the mode that the name gets: nobody else connects in between.
	if (fchmod(socket->fd, SOCKET_MODE) < 0 ||
	    bind(socket->fd, (struct sockaddr *)&socket->address, sizeof socket->address) < 0)
		return fail(ret_error, path, "", -errno);
	if (chown(path, uid, gid) < 0 || chmod(path, SOCKET_MODE) < 0 || lstat(path, &info) < 0)
		return fail(ret_error, path, "cannot set owner and mode", -errno);
	socket->gid = info.st_gid;
	socket->device = info.st_dev;
	socket->inode = info.st_ino;
	if (listen(socket->fd, BACKLOG) < 0)
		return fail(ret_error, path, "", -errno);
	return 0;
}

int admin_socket_open(const char *path, uid_t uid, gid_t gid, struct admin_socket **ret_socket,
		      struct strbuf *ret_error)
{
	if (strlen(path) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
		return fail(ret_error, path, "the path is too long", -ENAMETOOLONG);
	struct admin_socket *opened = mem_zalloc(sizeof *opened);
	if (!opened)
		return fail(ret_error, path, "", -ENOMEM);
	opened->address.sun_family = AF_UNIX;
	strcpy(opened->address.sun_path, path);
	make_folder(path, uid, gid);
	opened->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err = opened->fd < 0 ? fail(ret_error, path, "", -errno) : 0;
	if (!err && (err = remove_stale(&opened->address)))
		fail(ret_error, path,
		     err == -EADDRINUSE ? "another proxy listens there" : "cannot be replaced", err);
	if (!err)
		err = bind_and_listen(opened, uid, gid, ret_error);
	if (err) {
		admin_socket_close(opened);
		return err;
	}
	*ret_socket = opened;
	return 0;
}

void admin_socket_close(struct admin_socket *socket)
{
	struct stat info;
	if (!socket)
		return;
	const char *path = socket->address.sun_path;
	if (socket->inode && lstat(path, &info) == 0 && info.st_dev == socket->device &&
	    info.st_ino == socket->inode)
		unlink(path);
	if (socket->fd >= 0)
		close(socket->fd);
	mem_free(socket);
}
