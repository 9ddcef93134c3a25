// SPDX-License-Identifier: Apache-2.0
// One request after the other, all on one keep-alive connection or each on a connection of its own; prints how many
// there were and the percentiles of the time that each took, in nanoseconds.
#include "client.h"

#include <stdbool.h>
#include <stdint.h>

enum { WARM_UP = 500, MOST = 4000000 };

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

// A request on a new connection, which is reset at the end: it leaves no port behind that has to wait.
static void exchange_anew(const struct sockaddr_in *address, const struct request *request)
{
	int fd = client_connect(address);
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger));
	client_exchange(fd, request);
	close(fd);
}

int main(int argc, char **argv)
{
	bool anew = argc == 6 && strcmp(argv[5], "anew") == 0;
	if (argc != 5 && !anew)
		errx(2, "usage: latency ADDRESS PORT HOST SECONDS [anew]");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct request request = client_request(argv[3]);
	uint32_t *samples = calloc(MOST, sizeof *samples);
	if (!samples)
		err(1, "samples");
	int fd = client_connect(&address);
	for (int i = 0; i < WARM_UP; i++)
		client_exchange(fd, &request);
	if (anew)
		exchange_anew(&address, &request);
	size_t count = 0;
	uint64_t now = client_now_ns(), end = now + (uint64_t)(atof(argv[4]) * 1e9);
	while (count < MOST && now < end) {
		if (anew)
			exchange_anew(&address, &request);
		else
			client_exchange(fd, &request);
		uint64_t then = client_now_ns();
		samples[count++] = (uint32_t)(then - now);
		now = then;
	}
	qsort(samples, count, sizeof *samples, compare);
	printf("%zu %u %u\n", count, samples[count / 2], samples[count - 1 - count / 100]);
	free(samples);
	return 0;
}
