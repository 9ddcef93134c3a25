// SPDX-License-Identifier: Apache-2.0
#include "proxy/notify.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int notify_send(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un where = {.sun_family = AF_UNIX};
	if (!path || !*path)
		return 0;
	size_t len = strlen(path);
	if (len >= sizeof where.sun_path || (path[0] != '/' && path[0] != '@'))
		return -EINVAL;
	memcpy(where.sun_path, path, len);
	// '@' stands for the NUL of an abstract name, whose length counts exactly.
	if (path[0] == '@')
		where.sun_path[0] = 0;
	autoclose int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	ssize_t sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&where, size);
	return sent < 0 ? -errno : 0;
}

int notify_reloading(void)
{
	char state[80];
	snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%llu",
		 (unsigned long long)clock_mono_ns() / 1000);
	return notify_send(state);
}
