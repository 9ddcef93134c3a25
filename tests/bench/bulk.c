// SPDX-License-Identifier: Apache-2.0
// Receives whatever comes on a few connections for a time, and prints how many bytes that was. The bytes are
// dropped in the kernel: what is measured is the proxy, not this program.
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>

enum { MOST = 64, CHUNK = 1 << 20 };

static uint64_t drain(int fd)
{
	ssize_t n = recv(fd, NULL, CHUNK, MSG_TRUNC | MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN))
		errx(1, "the stream ended");
	return n > 0 ? (uint64_t)n : 0;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: bulk ADDRESS PORT CONNECTIONS SECONDS");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct pollfd fds[MOST];
	int count = atoi(argv[3]);
	if (count < 1 || count > MOST)
		errx(2, "between 1 and %d connections", MOST);
	for (int i = 0; i < count; i++)
		fds[i] = (struct pollfd){.fd = client_connect(&address), .events = POLLIN};
	uint64_t bytes = 0, end = client_now_ns() + (uint64_t)(atof(argv[4]) * 1e9);
	while (client_now_ns() < end && poll(fds, (nfds_t)count, 100) >= 0)
		for (int i = 0; i < count; i++)
			if (fds[i].revents)
				bytes += drain(fds[i].fd);
	printf("%llu\n", (unsigned long long)bytes);
	return 0;
}
