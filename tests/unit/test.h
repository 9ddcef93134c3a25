// SPDX-License-Identifier: Apache-2.0
// What every unit test includes: cmocka with the headers it wants before itself.
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/str.h"

#define assert_str(s, text)                                                                                  \
	do {                                                                                                 \
		struct str _s = (s);                                                                         \
		assert_int_equal(_s.len, strlen(text));                                                      \
		assert_memory_equal(_s.p, text, _s.len);                                                     \
	} while (0)
