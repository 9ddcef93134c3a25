// SPDX-License-Identifier: Apache-2.0
#include "codecs/huffman.h"

#include "base/error.h"
#include "base/mem.h"

#include <endian.h>

enum { SHORT = 8, LONGEST = 30 };

struct symbol {
	uint8_t value, len; // len 0: there is none
};

// What eight bits begin with, if its code is not longer.
static const struct symbol SHORTS[1 << SHORT] = {
    [0x00 ... 0x07] = {'0', 5}, [0x08 ... 0x0f] = {'1', 5}, [0x10 ... 0x17] = {'2', 5},
    [0x18 ... 0x1f] = {'a', 5}, [0x20 ... 0x27] = {'c', 5}, [0x28 ... 0x2f] = {'e', 5},
    [0x30 ... 0x37] = {'i', 5}, [0x38 ... 0x3f] = {'o', 5}, [0x40 ... 0x47] = {'s', 5},
    [0x48 ... 0x4f] = {'t', 5}, [0x50 ... 0x53] = {' ', 6}, [0x54 ... 0x57] = {'%', 6},
    [0x58 ... 0x5b] = {'-', 6}, [0x5c ... 0x5f] = {'.', 6}, [0x60 ... 0x63] = {'/', 6},
    [0x64 ... 0x67] = {'3', 6}, [0x68 ... 0x6b] = {'4', 6}, [0x6c ... 0x6f] = {'5', 6},
    [0x70 ... 0x73] = {'6', 6}, [0x74 ... 0x77] = {'7', 6}, [0x78 ... 0x7b] = {'8', 6},
    [0x7c ... 0x7f] = {'9', 6}, [0x80 ... 0x83] = {'=', 6}, [0x84 ... 0x87] = {'A', 6},
    [0x88 ... 0x8b] = {'_', 6}, [0x8c ... 0x8f] = {'b', 6}, [0x90 ... 0x93] = {'d', 6},
    [0x94 ... 0x97] = {'f', 6}, [0x98 ... 0x9b] = {'g', 6}, [0x9c ... 0x9f] = {'h', 6},
    [0xa0 ... 0xa3] = {'l', 6}, [0xa4 ... 0xa7] = {'m', 6}, [0xa8 ... 0xab] = {'n', 6},
    [0xac ... 0xaf] = {'p', 6}, [0xb0 ... 0xb3] = {'r', 6}, [0xb4 ... 0xb7] = {'u', 6},
    [0xb8 ... 0xb9] = {':', 7}, [0xba ... 0xbb] = {'B', 7}, [0xbc ... 0xbd] = {'C', 7},
    [0xbe ... 0xbf] = {'D', 7}, [0xc0 ... 0xc1] = {'E', 7}, [0xc2 ... 0xc3] = {'F', 7},
    [0xc4 ... 0xc5] = {'G', 7}, [0xc6 ... 0xc7] = {'H', 7}, [0xc8 ... 0xc9] = {'I', 7},
    [0xca ... 0xcb] = {'J', 7}, [0xcc ... 0xcd] = {'K', 7}, [0xce ... 0xcf] = {'L', 7},
    [0xd0 ... 0xd1] = {'M', 7}, [0xd2 ... 0xd3] = {'N', 7}, [0xd4 ... 0xd5] = {'O', 7},
    [0xd6 ... 0xd7] = {'P', 7}, [0xd8 ... 0xd9] = {'Q', 7}, [0xda ... 0xdb] = {'R', 7},
    [0xdc ... 0xdd] = {'S', 7}, [0xde ... 0xdf] = {'T', 7}, [0xe0 ... 0xe1] = {'U', 7},
    [0xe2 ... 0xe3] = {'V', 7}, [0xe4 ... 0xe5] = {'W', 7}, [0xe6 ... 0xe7] = {'Y', 7},
    [0xe8 ... 0xe9] = {'j', 7}, [0xea ... 0xeb] = {'k', 7}, [0xec ... 0xed] = {'q', 7},
    [0xee ... 0xef] = {'v', 7}, [0xf0 ... 0xf1] = {'w', 7}, [0xf2 ... 0xf3] = {'x', 7},
    [0xf4 ... 0xf5] = {'y', 7}, [0xf6 ... 0xf7] = {'z', 7}, [0xf8] = {'&', 8},
    [0xf9] = {'*', 8},		[0xfa] = {',', 8},	    [0xfb] = {';', 8},
    [0xfc] = {'X', 8},		[0xfd] = {'Z', 8},
};

// The code is canonical: those of one length follow each other, in the order of the symbols. These are the
// symbols of the longer ones, in the order of their codes.
static const uint8_t LONGS[] = {
    33,	 34,  40,  41,	63,  39,  43,  124, 35,	 62,  0,   36,	64,  91,  93,  126, 94,	 125, 60,  96,	123,
    92,	 195, 208, 128, 130, 131, 162, 184, 194, 224, 226, 153, 161, 167, 172, 176, 177, 179, 209, 216, 217,
    227, 229, 230, 129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186,
    187, 189, 190, 196, 198, 228, 232, 233, 1,	 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152,
    155, 157, 158, 165, 166, 168, 174, 175, 180, 182, 183, 188, 191, 197, 231, 239, 9,	 142, 144, 145, 148,
    159, 171, 206, 215, 225, 236, 237, 199, 207, 234, 235, 192, 193, 200, 201, 202, 205, 210, 213, 218, 219,
    238, 240, 242, 243, 255, 203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251,
    252, 253, 254, 2,	3,   4,	  5,   6,   7,	 8,   11,  12,	14,  15,  16,  17,  18,	 19,  20,  21,	23,
    24,	 25,  26,  27,	28,  29,  30,  31,  127, 220, 249, 10,	13,  22};

// For each length the first of its codes and what is behind the last one, with their bits on the left, and
// where its symbols begin. Behind them all is EOS, which must not occur.
static const struct {
	uint8_t len, at;
	uint32_t first, end;
} LENGTHS[] = {
    {10, 0, 0xfe000000, 0xff400000},   {11, 5, 0xff400000, 0xffa00000},	  {12, 8, 0xffa00000, 0xffc00000},
    {13, 10, 0xffc00000, 0xfff00000},  {14, 16, 0xfff00000, 0xfff80000},  {15, 18, 0xfff80000, 0xfffe0000},
    {19, 21, 0xfffe0000, 0xfffe6000},  {20, 24, 0xfffe6000, 0xfffee000},  {21, 32, 0xfffee000, 0xffff4800},
    {22, 45, 0xffff4800, 0xffffb000},  {23, 71, 0xffffb000, 0xffffea00},  {24, 100, 0xffffea00, 0xfffff600},
    {25, 112, 0xfffff600, 0xfffff800}, {26, 116, 0xfffff800, 0xfffffbc0}, {27, 131, 0xfffffbc0, 0xfffffe20},
    {28, 150, 0xfffffe20, 0xfffffff0}, {30, 179, 0xfffffff0, 0xfffffffc},
};

// The symbol of a longer code.
static struct symbol find_long(uint32_t bits)
{
	for (size_t i = 0; i < ARRAY_SIZE(LENGTHS); i++)
		if (bits < LENGTHS[i].end)
			return (struct symbol){
			    LONGS[LENGTHS[i].at + ((bits - LENGTHS[i].first) >> (32 - LENGTHS[i].len))],
			    LENGTHS[i].len};
	return (struct symbol){0, 0};
}

// Bits on the left of `window`, zeros behind them.
struct bits {
	uint64_t window;
	unsigned count;
	const uint8_t *next, *end;
};

static void refill(struct bits *bits)
{
	uint64_t word;
	if (bits->end - bits->next >= (ptrdiff_t)sizeof word) {
		memcpy(&word, bits->next, sizeof word);
		bits->window |= be64toh(word) >> bits->count;
		bits->next += (63 - bits->count) / 8;
		bits->count |= 56;
		return;
	}
	for (; bits->count <= 56 && bits->next < bits->end; bits->count += 8)
		bits->window |= (uint64_t)*bits->next++ << (56 - bits->count);
}

// RFC 7541 5.2: the beginning of EOS, less than a byte of it.
static bool is_padding(const struct bits *bits)
{
	return bits->count < 8 && (bits->count == 0 || ~bits->window >> (64 - bits->count) == 0);
}

static struct symbol next_symbol(const struct bits *bits)
{
	struct symbol symbol = SHORTS[bits->window >> (64 - SHORT)];
	return likely(symbol.len) ? symbol : find_long((uint32_t)(bits->window >> 32));
}

static void consume(struct bits *bits, unsigned len)
{
	bits->window <<= len;
	bits->count -= len;
}

// Symbols of short codes, as long as the bits of four are there for certain.
static char *decode_short(struct bits *bits, char *at)
{
	while (bits->count >= 4 * SHORT) {
		for (int i = 0; i < 4; i++) {
			struct symbol symbol = SHORTS[bits->window >> (64 - SHORT)];
			if (unlikely(!symbol.len))
				return at;
			*at++ = (char)symbol.value;
			consume(bits, symbol.len);
		}
	}
	return at;
}

ptrdiff_t huffman_decode(struct str code, char *ret_text)
{
	const uint8_t *bytes = (const uint8_t *)code.p;
	struct bits bits = {.next = bytes, .end = bytes + code.len};
	char *at = ret_text;
	for (;;) {
		at = decode_short(&bits, at);
		if (bits.count < 4 * SHORT && bits.next < bits.end)
			refill(&bits);
		struct symbol symbol = next_symbol(&bits);
		if (!symbol.len || symbol.len > bits.count)
			return is_padding(&bits) ? at - ret_text : ERR_MALFORMED;
		*at++ = (char)symbol.value;
		consume(&bits, symbol.len);
	}
}
