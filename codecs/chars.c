// SPDX-License-Identifier: Apache-2.0
#include "codecs/chars.h"

enum {
	X = CHAR_TEXT,
	G = CHAR_TARGET,
	H = CHAR_HOST,
	L = CHAR_TOKEN | CHAR_LOWER_TOKEN,
	UPPER = CHAR_TOKEN | CHAR_TEXT | CHAR_TARGET | CHAR_HOST,
	ALL = UPPER | L,
};

const uint8_t chars_class[256] = {
    ['\t'] = X,
    [' '] = X,
    ['!'] = ALL,
    ['"'] = X | G,
    ['#'] = L | X,
    ['$'] = ALL,
    ['%'] = L | X | G,
    ['&' ... '\''] = ALL,
    ['(' ... ')'] = X | G | H,
    ['*' ... '+'] = ALL,
    [','] = X | G,
    ['-' ... '.'] = ALL,
    ['/'] = X | G,
    ['0' ... '9'] = ALL,
    [':'] = X | G,
    [';'] = X | G | H,
    ['<'] = X | G,
    ['='] = X | G | H,
    ['>' ... '@'] = X | G,
    ['A' ... 'Z'] = UPPER,
    ['[' ... ']'] = X | G,
    ['^'] = L | X | G,
    ['_'] = ALL,
    ['`'] = L | X | G,
    ['a' ... 'z'] = ALL,
    ['{'] = X | G,
    ['|'] = L | X | G,
    ['}'] = X | G,
    ['~'] = ALL,
    [0x80 ... 0xff] = X | G,
};
