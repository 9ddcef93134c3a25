// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/random.h>
#include <time.h>

static uint64_t fake_ns;

static uint64_t clock_read(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_mono_ns(void)
{
	return fake_ns ? fake_ns : clock_read(CLOCK_MONOTONIC);
}

uint64_t clock_real_ns(void)
{
	return fake_ns ? fake_ns + 1700000000ULL * NS_PER_S : clock_read(CLOCK_REALTIME);
}

void clock_fake_set(uint64_t mono_ns)
{
	fake_ns = mono_ns;
}

// xoshiro256** (Blackman, Vigna), seeded through splitmix64.
static __thread uint64_t state[4];
static __thread bool seeded;

static uint64_t rotate_left(uint64_t x, int by)
{
	return (x << by) | (x >> (64 - by));
}

void random_seed(uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		uint64_t z = (seed += 0x9e3779b97f4a7c15ULL);
		z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
		z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
		state[i] = z ^ (z >> 31);
	}
	seeded = true;
}

uint64_t random_u64(void)
{
	if (!seeded) {
		uint64_t seed = clock_read(CLOCK_REALTIME) ^ (uint64_t)(uintptr_t)&state;
		random_secret(&seed, sizeof seed);
		random_seed(seed);
	}
	uint64_t result = rotate_left(state[1] * 5, 7) * 9, t = state[1] << 17;
	state[2] ^= state[0];
	state[3] ^= state[1];
	state[1] ^= state[2];
	state[0] ^= state[3];
	state[2] ^= t;
	state[3] = rotate_left(state[3], 45);
	return result;
}

uint64_t random_below(uint64_t below)
{
	uint64_t threshold = -below % below;
	for (;;) {
		__uint128_t product = (__uint128_t)random_u64() * below;
		if ((uint64_t)product >= threshold)
			return (uint64_t)(product >> 64);
	}
}

int random_secret(void *ret_bytes, size_t len)
{
	char *at = ret_bytes;
	while (len) {
		ssize_t n = getrandom(at, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}
