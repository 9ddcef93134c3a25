// SPDX-License-Identifier: Apache-2.0
#include "codecs/chars.h"

enum {
	T = CHAR_TOKEN,
	X = CHAR_TEXT,
	G = CHAR_TARGET,
	H = CHAR_HOST,
	ALL = CHAR_TOKEN | CHAR_TEXT | CHAR_TARGET | CHAR_HOST,
};

const uint8_t chars_class[256] = {
    ['\t'] = X,
    [' '] = X,
    ['!'] = ALL,
    ['"'] = X | G,
    ['#'] = T | X,
    ['$'] = ALL,
    ['%'] = T | X | G,
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
    ['A' ... 'Z'] = ALL,
    ['[' ... ']'] = X | G,
    ['^'] = T | X | G,
    ['_'] = ALL,
    ['`'] = T | X | G,
    ['a' ... 'z'] = ALL,
    ['{'] = X | G,
    ['|'] = T | X | G,
    ['}'] = X | G,
    ['~'] = ALL,
    [0x80 ... 0xff] = X | G,
};
