// SPDX-License-Identifier: Apache-2.0
// One request after the other on one keep-alive connection; prints how many there were and the percentiles of
// the time that each took, in nanoseconds.
#include "client.h"

#include <stdint.h>

enum { WARM_UP = 500, MOST = 4000000 };

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: latency ADDRESS PORT HOST SECONDS");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct request request = client_request(argv[3]);
	uint32_t *samples = calloc(MOST, sizeof *samples);
	if (!samples)
		err(1, "samples");
	int fd = client_connect(&address);
	for (int i = 0; i < WARM_UP; i++)
		client_exchange(fd, &request);
	size_t count = 0;
	uint64_t now = client_now_ns(), end = now + (uint64_t)(atof(argv[4]) * 1e9);
	while (count < MOST && now < end) {
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
