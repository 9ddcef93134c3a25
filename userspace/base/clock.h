// SPDX-License-Identifier: Apache-2.0
// Time and randomness, both replaceable by tests: with clock_fake_set the clocks stand still until they are
// set again; with random_seed the sequence is reproducible. Random state is per thread; the fake clock is
// global.
#pragma once

#include <stddef.h>
#include <stdint.h>

#define NS_PER_MS 1000000ULL
#define NS_PER_S  1000000000ULL

// CLOCK_MONOTONIC in nanoseconds. The event loop reads it once a turn: use loop_now there.
uint64_t clock_mono_ns(void);
// CLOCK_REALTIME in nanoseconds since 1970.
uint64_t clock_real_ns(void);
// For tests: both clocks return this (the real one plus 1.7e18) from now on; 0 brings the true ones back.
void clock_fake_set(uint64_t mono_ns);

// Not for secrets: fast, per thread, seeded from the kernel on first use.
uint64_t random_u64(void);
// Uniform in [0, below); below > 0. Without modulo bias.
uint64_t random_below(uint64_t below);
void random_seed(uint64_t seed);
// Unpredictable bytes (DNS ids, keys) from the kernel. 0 or a negative error.
int random_secret(void *ret_bytes, size_t len);
