// SPDX-License-Identifier: Apache-2.0
// HPACK: the vectors of RFC 7541, appendix C; what is wrong and must be refused; and conversations with
// another implementation, both ways, in which entries come and go.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"
#include "codecs/hpack.h"
#include "codecs/http2.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>

enum { FIELDS = 64, KEEP = 64 * 1024, MOST = 256 * 1024 };

#define F(n, v)                                                                                              \
	{                                                                                                    \
		.name = STR(n), .value = STR(v)                                                              \
	}
// A block, which may have zeros in it.
#define BLOCK(literal) STR(literal)

// --- one end ------------------------------------------------------------------------------------------------
static struct arena arena;
static struct field fields[FIELDS];
static struct hpack_list list;
static uint64_t entries;

static int decode(struct hpack_decoder *decoder, struct str block)
{
	// A copy that ends where its memory does: the sanitizer sees a byte read too far.
	char *copy = mem_strndup(block.p, block.len);
	char *exact = mem_realloc(copy, MAX(block.len, (size_t)1));
	assert_non_null(exact);
	arena_done(&arena);
	list = (struct hpack_list){
	    .arena = &arena, .fields = fields, .room = FIELDS, .keep = KEEP, .most = MOST};
	int err = hpack_decode(decoder, (struct str){exact, block.len}, &list);
	mem_free(exact);
	return err;
}

static struct hpack_decoder *decoder_new(void)
{
	struct hpack_decoder *decoder = hpack_decoder_new(&entries);
	assert_non_null(decoder);
	return decoder;
}

static struct hpack_encoder *encoder_new(void)
{
	struct hpack_encoder *encoder = hpack_encoder_new();
	assert_non_null(encoder);
	return encoder;
}

static int end(void **state)
{
	(void)state;
	arena_done(&arena);
	arena_thread_done();
	return 0;
}

static void assert_fields(const struct field *expected, size_t count)
{
	assert_int_equal(list.count, count);
	for (size_t i = 0; i < count; i++) {
		assert_true(str_eq(fields[i].name, expected[i].name));
		assert_true(str_eq(fields[i].value, expected[i].value));
		assert_int_equal(fields[i].never_indexed, expected[i].never_indexed);
		assert_int_equal(fields[i].known, field_name_find(expected[i].name));
	}
}

// --- appendix C ---------------------------------------------------------------------------------------------
struct step {
	struct str block;
	struct field fields[8];
	struct field table[4]; // the dynamic one afterwards, the newest entry first
};

static size_t count_of(const struct field *some, size_t room)
{
	size_t n = 0;
	while (n < room && some[n].name.p)
		n++;
	return n;
}

// The table holds these and no others.
static void check_table(struct hpack_decoder *decoder, const struct step *step)
{
	size_t count = count_of(step->table, ARRAY_SIZE(step->table));
	for (size_t i = 0; i < count; i++) {
		const char index = (char)(0x80 | (62 + i));
		assert_int_equal(decode(decoder, (struct str){&index, 1}), 0);
		assert_fields(&step->table[i], 1);
	}
	const char behind = (char)(0x80 | (62 + count));
	assert_int_equal(decode(decoder, (struct str){&behind, 1}), ERR_MALFORMED);
}

static void check_steps(struct str resize, const struct step *steps, size_t count)
{
	struct hpack_decoder *decoder = decoder_new();
	assert_int_equal(decode(decoder, resize), 0);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(decode(decoder, steps[i].block), 0);
		assert_fields(steps[i].fields, count_of(steps[i].fields, ARRAY_SIZE(steps[i].fields)));
		check_table(decoder, &steps[i]);
	}
	hpack_decoder_free(decoder);
}

// C.1: integers stand in changes of the table's size here, which have a prefix of five bits.
static void test_integers(void **state)
{
	(void)state;
	struct hpack_decoder *decoder = decoder_new();
	assert_int_equal(decode(decoder, BLOCK("\x2a")), 0);	     // C.1.1: 10
	assert_int_equal(decode(decoder, BLOCK("\x3f\x9a\x0a")), 0); // C.1.2: 1337
	assert_int_equal(decode(decoder, BLOCK("\x3f\xe1\x1f")), 0); // the most: 4096
	hpack_decoder_free(decoder);
	decoder = decoder_new();
	assert_int_equal(decode(decoder, BLOCK("\x3f\xe2\x1f")), ERR_MALFORMED); // and one more
	hpack_decoder_free(decoder);
	// C.1.3: 42 in its own byte, which an index can be with an entry there.
	decoder = decoder_new();
	assert_int_equal(decode(decoder, BLOCK("\xaa")), 0);
	assert_str(fields[0].name, "if-range");
	hpack_decoder_free(decoder);
}

// C.2.
static void test_representations(void **state)
{
	static const struct step steps[][1] = {
	    {{BLOCK("\x40\x0a"
		    "custom-key\x0d"
		    "custom-header"),
	      {F("custom-key", "custom-header")},
	      {F("custom-key", "custom-header")}}},
	    {{BLOCK("\x04\x0c/sample/path"), {F(":path", "/sample/path")}, {}}},
	    {{BLOCK("\x10\x08password\x06secret"),
	      {{.name = STR("password"), .value = STR("secret"), .never_indexed = true}},
	      {}}},
	    {{BLOCK("\x82"), {F(":method", "GET")}, {}}},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		check_steps(STR(""), steps[i], 1);
}

#define FIRST                                                                                                \
	{                                                                                                    \
		F(":method", "GET"), F(":scheme", "http"), F(":path", "/"),                                  \
		    F(":authority", "www.example.com")                                                       \
	}
#define SECOND                                                                                               \
	{                                                                                                    \
		F(":method", "GET"), F(":scheme", "http"), F(":path", "/"),                                  \
		    F(":authority", "www.example.com"), F("cache-control", "no-cache")                       \
	}
#define THIRD                                                                                                \
	{                                                                                                    \
		F(":method", "GET"), F(":scheme", "https"), F(":path", "/index.html"),                       \
		    F(":authority", "www.example.com"), F("custom-key", "custom-value")                      \
	}

static void test_requests(void **state)
{
	static const struct step steps[][3] = {
	    // C.3
	    {{BLOCK("\x82\x86\x84\x41\x0fwww.example.com"), FIRST, {F(":authority", "www.example.com")}},
	     {BLOCK("\x82\x86\x84\xbe\x58\x08no-cache"),
	      SECOND,
	      {F("cache-control", "no-cache"), F(":authority", "www.example.com")}},
	     {BLOCK("\x82\x87\x85\xbf\x40\x0a"
		    "custom-key\x0c"
		    "custom-value"),
	      THIRD,
	      {F("custom-key", "custom-value"), F("cache-control", "no-cache"),
	       F(":authority", "www.example.com")}}},
	    // C.4: the same with Huffman's code
	    {{BLOCK("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
	      FIRST,
	      {F(":authority", "www.example.com")}},
	     {BLOCK("\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf"),
	      SECOND,
	      {F("cache-control", "no-cache"), F(":authority", "www.example.com")}},
	     {BLOCK("\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8"
		    "\xb4\xbf"),
	      THIRD,
	      {F("custom-key", "custom-value"), F("cache-control", "no-cache"),
	       F(":authority", "www.example.com")}}},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		check_steps(STR(""), steps[i], ARRAY_SIZE(steps[i]));
}

#define EARLY	F("date", "Mon, 21 Oct 2013 20:13:21 GMT")
#define LATE	F("date", "Mon, 21 Oct 2013 20:13:22 GMT")
#define PRIVATE F("cache-control", "private")
#define PLACE	F("location", "https://www.example.com")
#define GZIP	F("content-encoding", "gzip")
#define COOKIE	F("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1")

static void test_responses(void **state)
{
	static const struct step steps[][3] = {
	    // C.5
	    {{BLOCK("\x48\x03\x33\x30\x32\x58\x07private\x61\x1dMon, 21 Oct 2013 20:13:21 GMT\x6e\x17"
		    "https://www.example.com"),
	      {F(":status", "302"), PRIVATE, EARLY, PLACE},
	      {PLACE, EARLY, PRIVATE, F(":status", "302")}},
	     {BLOCK("\x48\x03\x33\x30\x37\xc1\xc0\xbf"),
	      {F(":status", "307"), PRIVATE, EARLY, PLACE},
	      {F(":status", "307"), PLACE, EARLY, PRIVATE}},
	     {BLOCK("\x88\xc1\x61\x1dMon, 21 Oct 2013 20:13:22 GMT\xc0\x5a\x04gzip\x77\x38"
		    "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
	      {F(":status", "200"), PRIVATE, LATE, PLACE, GZIP, COOKIE},
	      {COOKIE, GZIP, LATE}}},
	    // C.6
	    {{BLOCK("\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8"
		    "\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\x17\x18\x63\xc7"
		    "\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\xd3"),
	      {F(":status", "302"), PRIVATE, EARLY, PLACE},
	      {PLACE, EARLY, PRIVATE, F(":status", "302")}},
	     {BLOCK("\x48\x83\x64\x0e\xff\xc1\xc0\xbf"),
	      {F(":status", "307"), PRIVATE, EARLY, PLACE},
	      {F(":status", "307"), PLACE, EARLY, PRIVATE}},
	     {BLOCK("\x88\xc1\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x84"
		    "\xa6\x2d\x1b\xff\xc0\x5a\x83\x9b\xd9\xab\x77\xad\x94\xe7\x82\x1d\xd7\xf2\xe6\xc7\xb3\x35"
		    "\xdf\xdf\xcd\x5b\x39\x60\xd5\xaf\x27\x08\x7f\x36\x72\xc1\xab\x27\x0f\xb5\x29\x1f\x95\x87"
		    "\x31\x60\x65\xc0\x03\xed\x4e\xe5\xb1\x06\x3d\x50\x07"),
	      {F(":status", "200"), PRIVATE, LATE, PLACE, GZIP, COOKIE},
	      {COOKIE, GZIP, LATE}}},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		check_steps(BLOCK("\x3f\xe1\x01"), steps[i], ARRAY_SIZE(steps[i])); // a table of 256 bytes
}

// --- what is wrong ------------------------------------------------------------------------------------------
static void test_refused(void **state)
{
	static const struct str blocks[] = {
	    BLOCK("\x80"),					   // index 0
	    BLOCK("\xbe"),					   // an entry that there is not
	    BLOCK("\xff\x00"),					   // 127
	    BLOCK("\x7e\x01y"),					   // a name that there is not
	    BLOCK("\xff\x80\x80\x80\x80\x00"),			   // an integer that is too long
	    BLOCK("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), // and too large
	    BLOCK("\x00\x7f\xff\xff\xff\xff\x0fx"),		   // a text that is too long
	    BLOCK("\x82\x20"),					   // a change of size behind a field
	    BLOCK("\x20\x21\x22\x82"),				   // one too many of them
	    BLOCK("\x3f\xe2\x1f"),				   // a size above what was granted
	    BLOCK("\x00\x81\xff\x01y"),				   // padding of eight bits
	    BLOCK("\x00\x82\x1f\xff\x01y"),			   // of eleven
	    BLOCK("\x00\x81\x18\x01y"),				   // padding of zeros
	    BLOCK("\x00\x81\x1e\x01y"),				   // of ones and a zero
	    BLOCK("\x00\x84\xff\xff\xff\xff\x01y"),		   // the end of a text, and padding
	    BLOCK("\x00\x85\xff\xff\xff\xfc\x1f\x01y"),		   // the end within a text
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		struct hpack_decoder *decoder = decoder_new();
		assert_int_equal(decode(decoder, blocks[i]), ERR_MALFORMED);
		hpack_decoder_free(decoder);
	}
}

// A block that ends anywhere but between two fields is wrong.
static void test_every_end(void **state)
{
	static const struct str block = BLOCK(
	    "\x20\x3f\xe1\x1f\x82\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x04\x02/x\x10"
	    "\x01n\x01v\xbe\x40\x01m\x00");
	static const size_t ends[] = {0, 1, 4, 5, 6, 20, 24, 29, 30, 34};
	(void)state;
	for (size_t len = 0, next = 0; len <= block.len; len++) {
		struct hpack_decoder *decoder = decoder_new();
		bool whole = next < ARRAY_SIZE(ends) && ends[next] == len;
		assert_int_equal(decode(decoder, (struct str){block.p, len}), whole ? 0 : ERR_MALFORMED);
		next += whole;
		hpack_decoder_free(decoder);
	}
	assert_int_equal(ends[ARRAY_SIZE(ends) - 1], block.len);
}

// Each text is looked through when it comes, and what comes by its index need not be.
static void test_checked(void **state)
{
	static const struct {
		struct str block;
		bool checked;
	} cases[] = {
	    {BLOCK("\x40\x01n\x01v"), true},	  {BLOCK("\x40\x01N\x01v"), false},
	    {BLOCK("\x40\x01n\x01\n"), false},	  {BLOCK("\x40\x01n\x02 v"), false},
	    {BLOCK("\x40\x00\x01v"), false},	  {BLOCK("\x40\x05:path\x01v"), true},
	    {BLOCK("\x40\x05:pith\x01v"), false}, {BLOCK("\x44\x01v"), true},
	    {BLOCK("\x44\x01\x7f"), false},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hpack_decoder *decoder = decoder_new();
		assert_int_equal(decode(decoder, cases[i].block), 0);
		assert_int_equal(fields[0].checked, cases[i].checked);
		assert_int_equal(decode(decoder, BLOCK("\xbe")), 0);
		assert_int_equal(fields[0].checked, cases[i].checked);
		hpack_decoder_free(decoder);
	}
}

// A name is found right or wrong when it comes, and stays so with each value that comes behind it by its
// index.
static void test_checked_names(void **state)
{
	static const struct {
		struct str block;
		bool clean;
	} cases[] = {{BLOCK("\x40\x01n\x01v"), true},
		     {BLOCK("\x40\x01n\x01\n"), true},
		     {BLOCK("\x40\x01N\x01v"), false},
		     {BLOCK("\x40\x04"
			    "a\nbc\x01v"),
		      false},
		     {BLOCK("\x40\x00\x01v"), false},
		     {BLOCK("\x40\x05:pith\x01v"), false},
		     {BLOCK("\x40\x0bgrpc-status\x01\n"), true},
		     {BLOCK("\x6e\x01\n"), true}};
	static const struct str again = BLOCK("\x0f\x2f\x01v\x7e\x01v\x7e\x01\x7f\x0f\x2f\x01v\xbe");
	static const bool fine[] = {true, true, false, true, false};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct hpack_decoder *decoder = decoder_new();
		assert_int_equal(decode(decoder, cases[i].block), 0);
		for (int more = 0; more < 3; more++) {
			assert_int_equal(decode(decoder, again), 0);
			assert_int_equal(list.count, ARRAY_SIZE(fine));
			for (size_t at = 0; at < list.count; at++) {
				assert_true(fields[at].checked == (cases[i].clean && fine[at]));
				assert_true(http2_field_is_legal(&fields[at]) ==
					    (cases[i].clean && fine[at]));
			}
		}
		hpack_decoder_free(decoder);
	}
}

// A path that comes again in the same code is what it was; another one, and other fields, are what they are.
static void test_paths_again(void **state)
{
	static const struct {
		struct str block;
		const char *value;
		bool checked;
	} steps[] = {
	    {BLOCK("\x04\x80"), "", true},
	    {BLOCK("\x04\x82\x60\x7f"), "/a", true},
	    {BLOCK("\x04\x82\x60\x7f"), "/a", true},
	    {BLOCK("\x04\x82\x62\x3f"), "/b", true},
	    {BLOCK("\x04\x02/a"), "/a", true},
	    {BLOCK("\x44\x82\x62\x3f"), "/b", true},
	    {BLOCK("\x04\x81\x63"), "/", true},
	    {BLOCK("\x01\x81\x1f"), "a", true},
	    {BLOCK("\x04\x81\x63"), "/", true},
	    {BLOCK("\x04\x84\xff\xff\xff\xcf"), "\x7f", false},
	    {BLOCK("\x04\x84\xff\xff\xff\xcf"), "\x7f", false},
	    {BLOCK("\x04\x82\x60\x7f"), "/a", true},
	};
	(void)state;
	struct hpack_decoder *decoder = decoder_new();
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		assert_int_equal(decode(decoder, steps[i].block), 0);
		assert_str(fields[0].value, steps[i].value);
		assert_int_equal(http2_field_is_clean(&fields[0]), steps[i].checked);
		assert_true(fields[0].checked == steps[i].checked);
	}
	hpack_decoder_free(decoder);
}

// As long as one that is remembered may be in its code, and one byte longer; of the shortest codes, so that
// the texts are as long as any.
static void test_long_paths_again(void **state)
{
	(void)state;
	struct hpack_decoder *decoder = decoder_new();
	for (size_t len = 62; len <= 66; len++) {
		char block[80] = {0x04, (char)(0x80 | len)};
		memset(block + 2, 0, len - 1);				  // "0", of five bits
		block[1 + len] = (char)(0xff >> (5 - (len - 1) * 8 % 5)); // the rest of one, and padding
		for (int again = 0; again < 3; again++) {
			assert_int_equal(decode(decoder, (struct str){block, 2 + len}), 0);
			assert_int_equal(fields[0].value.len, (len - 1) * 8 / 5 + 1);
			for (size_t i = 0; i < fields[0].value.len; i++)
				assert_int_equal(fields[0].value.p[i], '0');
		}
	}
	hpack_decoder_free(decoder);
}

// --- limits -------------------------------------------------------------------------------------------------
static char names_dropped[8];

static void note_dropped(struct hpack_list *some, const struct field *field)
{
	(void)some;
	strncat(names_dropped, field->name.p, 1);
}

// What is not kept still counts, and the table follows; who asks is told of it.
static void test_not_kept(void **state)
{
	static const struct str block = BLOCK("\x40\x01n\x01v\x40\x01m\x01w\x82");
	const struct hpack_list lists[] = {
	    {&arena, fields, .room = 1, .keep = KEEP, .most = MOST, .dropped = note_dropped},
	    {&arena, fields, .room = FIELDS, .keep = 34, .most = MOST, .dropped = note_dropped},
	    {NULL, fields, .room = FIELDS, .keep = KEEP, .most = MOST}};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct hpack_decoder *decoder = decoder_new();
		names_dropped[0] = 0;
		struct hpack_list some = lists[i];
		assert_int_equal(hpack_decode(decoder, block, &some), 0);
		assert_true(some.overflow);
		assert_int_equal(some.count, lists[i].arena ? 1 : 0);
		assert_string_equal(names_dropped, lists[i].dropped ? "m:" : "");
		assert_int_equal(some.bytes, 34 + 34 + 42);
		assert_int_equal(decode(decoder, BLOCK("\xbe\xbf")), 0);
		assert_str(fields[0].name, "m");
		assert_str(fields[1].value, "v");
		hpack_decoder_free(decoder);
	}
}

// One byte each for as much as the table holds.
static void test_bomb(void **state)
{
	enum { VALUE = 4000 };
	char block[4 + 3 + VALUE + 200], *at = block;
	struct hpack_decoder *decoder = decoder_new();
	(void)state;
	memcpy(at, "\x40\x01n\x7f\xa1\x1e", 6); // 127 + 33 + 30 * 128
	memset(at + 6, 'v', VALUE);
	memset(at + 6 + VALUE, 0xbe, 100);
	assert_int_equal(decode(decoder, (struct str){block, 6 + VALUE + 100}), ERR_LIMIT);
	assert_in_range(list.bytes, MOST, MOST + VALUE + 40);
	assert_true(list.overflow);
	hpack_decoder_free(decoder);
}

static void test_failing_allocations(void **state)
{
	static const struct str block =
	    BLOCK("\x40\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff\x03v!v\xbe");
	static const struct str next = BLOCK("\xbe\x0f\x2f\x01v");
	(void)state;
	arena_done(&arena);
	arena_thread_done();
	for (long n = 0;; n++) {
		mem_fail_set(n);
		struct hpack_decoder *decoder = hpack_decoder_new(&entries);
		struct hpack_encoder *encoder = hpack_encoder_new();
		list = (struct hpack_list){
		    .arena = &arena, .fields = fields, .room = FIELDS, .keep = KEEP, .most = MOST};
		int err = decoder && encoder ? hpack_decode(decoder, block, &list) : -ENOMEM;
		arena_done(&arena);
		arena_thread_done();
		err = err ? err : hpack_decode(decoder, next, &list);
		bool failed = mem_fail_count() > n;
		mem_fail_set(-1);
		assert_int_equal(err, failed ? -ENOMEM : 0);
		hpack_decoder_free(decoder);
		hpack_encoder_free(encoder);
		arena_done(&arena);
		arena_thread_done();
		if (!failed)
			break;
	}
}

// --- writing ------------------------------------------------------------------------------------------------
static char written[256 * 1024];

static struct str encode(struct hpack_encoder *encoder, const struct field *some, size_t count)
{
	struct writer w;
	size_t bound = hpack_encode_bound(some, count);
	assert_in_range(bound, 0, sizeof written);
	writer_init(&w, written, bound);
	hpack_encode(encoder, some, count, &w);
	assert_int_equal(w.err, 0);
	return (struct str){written, w.len};
}

static void assert_block(struct str block, struct str expected)
{
	assert_int_equal(block.len, expected.len);
	assert_memory_equal(block.p, expected.p, expected.len);
}

static void test_written(void **state)
{
	static const struct field secrets[] = {
	    F("authorization", "Basic YTpi"),
	    F("proxy-authorization", "Basic YTpj"),
	    F("cookie", "a=b"),
	    F(":path", "/"),
	    {.name = STR(":path"), .value = STR("/"), .never_indexed = true},
	    {.name = STR("x-key"), .value = STR("k"), .never_indexed = true}};
	static const struct field steady[] = {F(":method", "POST"), F(":path", "/a"),
					      F("content-length", "5"), F("te", "trailers"),
					      F("cookie", "a=01234567890123456789")};
	struct hpack_encoder *encoder = encoder_new();
	(void)state;
	for (int i = 0; i < 2; i++)
		assert_block(encode(encoder, secrets, ARRAY_SIZE(secrets)),
			     BLOCK("\x1f\x08\x0a"
				   "Basic YTpi\x1f\x22\x0a"
				   "Basic YTpj\x1f\x11\x03"
				   "a=b\x84\x14\x01/\x10\x05x-key\x01k"));
	assert_block(encode(encoder, steady, ARRAY_SIZE(steady)), BLOCK("\x83\x04\x02/a\x0f\x0d\x01"
									"5\x40\x02te\x08trailers\x60\x16"
									"a=01234567890123456789"));
	assert_block(encode(encoder, steady, ARRAY_SIZE(steady)), BLOCK("\x83\x04\x02/a\x0f\x0d\x01"
									"5\xbf\xbe"));
	hpack_encoder_free(encoder);
}

// A name that is in the table is not said again.
static void test_written_names(void **state)
{
	static const struct field first[] = {F("x-a", "1"), F("x-a", "2")};
	struct hpack_encoder *encoder = encoder_new();
	(void)state;
	assert_block(encode(encoder, first, 2), BLOCK("\x40\x03x-a\x01"
						      "1\x7e\x01"
						      "2"));
	assert_block(encode(encoder, first, 2), BLOCK("\xbf\xbe"));
	hpack_encoder_free(encoder);
}

// RFC 7541 4.2: the smallest size that there was since, and the last.
static void test_written_sizes(void **state)
{
	static const struct field field[] = {F("te", "trailers")};
	struct hpack_encoder *encoder = encoder_new();
	(void)state;
	encode(encoder, field, 1);
	hpack_encoder_limit(encoder, 4096); // as it is
	assert_block(encode(encoder, field, 1), BLOCK("\xbe"));
	hpack_encoder_limit(encoder, 65536); // more than is used
	assert_block(encode(encoder, field, 1), BLOCK("\xbe"));
	hpack_encoder_limit(encoder, 0);
	hpack_encoder_limit(encoder, 4096);
	assert_block(encode(encoder, field, 1), BLOCK("\x20\x3f\xe1\x1f\x40\x02te\x08trailers"));
	assert_block(encode(encoder, field, 1), BLOCK("\xbe"));
	hpack_encoder_limit(encoder, 0);
	assert_block(encode(encoder, field, 1), BLOCK("\x20\x00\x02te\x08trailers"));
	assert_block(encode(encoder, field, 1), BLOCK("\x00\x02te\x08trailers"));
	hpack_encoder_free(encoder);
}

// --- conversations ------------------------------------------------------------------------------------------
static uint32_t seed;

static uint32_t random_below(uint32_t most)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(seed >> 8) * most >> 24);
}

static char texts[FIELDS][2][3000];

// Any bytes but NUL, which one of the two takes for a wrong one.
static struct str random_text(char *room, size_t len, bool plain)
{
	for (size_t i = 0; i < len; i++)
		room[i] = plain ? (char)('a' + random_below(4)) : (char)(1 + random_below(255));
	return (struct str){room, len};
}

static struct str random_name(char *room)
{
	uint32_t which = random_below(3);
	if (which == 0)
		return field_names[FIELD_OTHER + 1 + random_below(FIELD_NAME_COUNT - FIELD_OTHER - 1)];
	return random_text(room, 1 + random_below(which == 1 ? 2 : 40), true);
}

static size_t random_fields(struct field *ret_fields)
{
	size_t count = random_below(20);
	for (size_t i = 0; i < count; i++) {
		bool plain = random_below(4);
		size_t len =
		    random_below(30) ? random_below(plain ? 3 : 60) : random_below(sizeof texts[0][1]);
		ret_fields[i] = (struct field){.name = random_name(texts[i][0]),
					       .value = random_text(texts[i][1], len, plain),
					       .never_indexed = random_below(10) == 0};
	}
	return count;
}

// What another implementation wrote, with Huffman's code where that is shorter.
static struct str encode_by_other(nghttp2_hd_deflater *other, const struct field *some, size_t count)
{
	nghttp2_nv nva[FIELDS];
	for (size_t i = 0; i < count; i++)
		nva[i] =
		    (nghttp2_nv){(uint8_t *)some[i].name.p, (uint8_t *)some[i].value.p, some[i].name.len,
				 some[i].value.len, some[i].never_indexed ? NGHTTP2_NV_FLAG_NO_INDEX : 0};
	ssize_t len = nghttp2_hd_deflate_hd(other, (uint8_t *)written, sizeof written, nva, count);
	assert_true(len >= 0);
	return (struct str){written, (size_t)len};
}

static void decode_by_other(nghttp2_hd_inflater *other, struct str block, const struct field *expected,
			    size_t count)
{
	const uint8_t *at = (const uint8_t *)block.p, *behind = at + block.len;
	size_t seen = 0;
	for (int flags = 0; !(flags & NGHTTP2_HD_INFLATE_FINAL);) {
		nghttp2_nv nv;
		flags = 0;
		ssize_t n = nghttp2_hd_inflate_hd2(other, &nv, &flags, at, (size_t)(behind - at), 1);
		assert_true(n >= 0);
		at += n;
		if (!(flags & NGHTTP2_HD_INFLATE_EMIT))
			continue;
		assert_true(seen < count);
		assert_true(str_eq((struct str){(char *)nv.name, nv.namelen}, expected[seen].name));
		assert_true(str_eq((struct str){(char *)nv.value, nv.valuelen}, expected[seen].value));
		assert_true(!expected[seen].never_indexed || nv.flags & NGHTTP2_NV_FLAG_NO_INDEX);
		seen++;
	}
	assert_int_equal(seen, count);
	nghttp2_hd_inflate_end_headers(other);
}

// Some fields are secrets whoever says so.
static void assert_same(const struct field *said, size_t count)
{
	assert_int_equal(list.count, count);
	for (size_t i = 0; i < count; i++) {
		assert_true(str_eq(fields[i].name, said[i].name));
		assert_true(str_eq(fields[i].value, said[i].value));
		assert_true(!said[i].never_indexed || fields[i].never_indexed);
	}
}

static void check_rounds(uint32_t begin, unsigned rounds)
{
	struct hpack_encoder *encoder = encoder_new(), *forwarder = encoder_new();
	struct hpack_decoder *decoder = decoder_new(), *from_other = decoder_new(), *last = decoder_new();
	nghttp2_hd_deflater *writer;
	nghttp2_hd_inflater *reader;
	struct field said[FIELDS];
	seed = begin;
	assert_int_equal(nghttp2_hd_deflate_new(&writer, 4096), 0);
	assert_int_equal(nghttp2_hd_inflate_new(&reader), 0);
	for (unsigned i = 0; i < rounds; i++) {
		if (random_below(20) == 0) {
			uint32_t size = random_below(6000);
			hpack_encoder_limit(encoder, size);
			hpack_encoder_limit(forwarder, random_below(6000));
			assert_int_equal(nghttp2_hd_deflate_change_table_size(writer, size), 0);
		}
		size_t count = random_fields(said);
		struct str block = encode(encoder, said, count);
		decode_by_other(reader, block, said, count);
		assert_int_equal(decode(decoder, block), 0);
		assert_same(said, count);
		assert_int_equal(decode(from_other, encode_by_other(writer, said, count)), 0);
		assert_same(said, count);
		assert_int_equal(decode(last, encode(forwarder, fields, count)), 0);
		assert_same(said, count);
	}
	nghttp2_hd_deflate_del(writer);
	nghttp2_hd_inflate_del(reader);
	hpack_encoder_free(encoder);
	hpack_encoder_free(forwarder);
	hpack_decoder_free(decoder);
	hpack_decoder_free(from_other);
	hpack_decoder_free(last);
}

static void test_conversations(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 20; i++)
		check_rounds(i, 300);
}

// Fields stay as long as the arena that they were read into, whatever becomes of the table and its decoder.
static void test_texts_stay(void **state)
{
	enum { ROUNDS = 200 };
	static struct arena kept[ROUNDS];
	struct field read[ROUNDS];
	struct hpack_decoder *decoder = decoder_new();
	char block[256] = "\x40\x01n\x7f\x49"; // a value of 200 bytes
	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		struct hpack_list two = {
		    .arena = &kept[i], .fields = fields, .room = FIELDS, .keep = KEEP, .most = MOST};
		memset(block + 5, i + 1, 200);
		block[205] = (char)0xbe;
		assert_int_equal(hpack_decode(decoder, (struct str){block, 206}, &two), 0);
		assert_int_equal(two.count, 2);
		read[i] = fields[1];
	}
	hpack_decoder_free(decoder);
	for (int i = 0; i < ROUNDS; i++) {
		assert_int_equal(read[i].value.len, 200);
		for (size_t at = 0; at < 200; at++)
			assert_int_equal((uint8_t)read[i].value.p[at], i + 1);
		arena_done(&kept[i]);
	}
}

// A literal, by an entry's index or with a name of so many bytes; the value is one byte.
static void write_literal(struct writer *w, bool inserted, char name, size_t name_len, char value)
{
	enum { LEAST = 127 }; // of a length in three bytes
	char text[4096];
	if (name_len) {
		assert_in_range(name_len, LEAST + 128, sizeof text);
		memset(text, name, name_len);
		writer_u8(w, inserted ? 0x40 : 0);
		writer_u8(w, LEAST);
		writer_u8(w, (uint8_t)(0x80 | (name_len - LEAST)));
		writer_u8(w, (uint8_t)((name_len - LEAST) >> 7));
		writer_bytes(w, text, name_len);
	} else {
		writer_bytes(w, inserted ? "\x7e" : "\x0f\x2f", inserted ? 1 : 2); // 62
	}
	writer_u8(w, 1);
	writer_u8(w, (uint8_t)value);
}

static void assert_literal(const struct field *field, char name, size_t name_len, char value)
{
	assert_int_equal(field->name.len, name_len);
	for (size_t i = 0; i < name_len; i++)
		assert_int_equal(field->name.p[i], name);
	assert_int_equal(field->value.len, 1);
	assert_int_equal(field->value.p[0], value);
}

// Nor do names change that others refer to, when their entries go: for those that follow in the same block,
// even for the one whose name it is (RFC 7541 4.4), and later.
static void test_names_stay(void **state)
{
	enum { ROUNDS = 100, NAME = 1500, LITERALS = 7 }; // the table has room for two of them
	static const bool INSERTED[LITERALS] = {true, false, true, true, true, false, true};
	static struct arena kept[ROUNDS];
	static struct field read[ROUNDS][LITERALS];
	struct hpack_decoder *decoder = decoder_new();
	(void)state;
	for (int i = 0; i < ROUNDS; i++) {
		char block[NAME + 64];
		struct writer w;
		writer_init(&w, block, sizeof block);
		for (int at = 0; at < LITERALS; at++)
			write_literal(&w, INSERTED[at], (char)('a' + i % 26), at ? 0 : NAME,
				      (char)('0' + at));
		struct hpack_list some = {
		    .arena = &kept[i], .fields = read[i], .room = LITERALS + 1, .keep = KEEP, .most = MOST};
		assert_int_equal(hpack_decode(decoder, (struct str){block, w.len}, &some), 0);
		assert_int_equal(some.count, LITERALS);
	}
	hpack_decoder_free(decoder);
	for (int i = 0; i < ROUNDS; i++) {
		for (int at = 0; at < LITERALS; at++)
			assert_literal(&read[i][at], (char)('a' + i % 26), NAME, (char)('0' + at));
		arena_done(&kept[i]);
	}
}

static size_t arena_bytes(void)
{
	size_t bytes = 0;
	for (const struct arena_block *block = arena._blocks; block; block = block->_next)
		bytes += block->_size;
	return bytes;
}

static bool is_in_arena(const char *p)
{
	for (const struct arena_block *block = arena._blocks; block; block = block->_next)
		if (p >= (const char *)block && p < (const char *)block + block->_size)
			return true;
	return false;
}

// Bytes from the first to the last of the names that lie elsewhere: in tables.
static size_t bytes_elsewhere(void)
{
	const char *first = NULL, *behind = NULL;
	for (size_t i = 0; i < list.count; i++) {
		struct str name = fields[i].name;
		if (is_in_arena(name.p))
			continue;
		first = !first || name.p < first ? name.p : first;
		behind = !behind || name.p + name.len > behind ? name.p + name.len : behind;
	}
	return (size_t)(behind - first);
}

// A block of few bytes, whose names are long: they are where they are, if none of them is inserted; and if
// each is, what is held is no more than it counts for, and one ring.
static void test_names_cost_little(void **state)
{
	enum { NAME = 1300, LITERALS = 48, RING = 2 * 4096 };
	char block[NAME + 8 * LITERALS];
	struct hpack_decoder *decoder = decoder_new();
	(void)state;
	for (int inserted = 0; inserted < 2; inserted++) {
		struct writer w;
		writer_init(&w, block, sizeof block);
		write_literal(&w, true, 'n', NAME, 'v');
		assert_int_equal(decode(decoder, (struct str){block, w.len}), 0);
		writer_init(&w, block, sizeof block);
		for (int i = 0; i < LITERALS; i += 2) {
			write_literal(&w, inserted, 0, 0, 'v');
			writer_u8(&w, 0xbe);
		}
		assert_int_equal(decode(decoder, (struct str){block, w.len}), 0);
		assert_int_equal(list.count, LITERALS);
		for (int i = 0; i < LITERALS; i++)
			assert_literal(&fields[i], 'n', NAME, 'v');
		assert_in_range(bytes_elsewhere(), NAME, RING);
		assert_in_range(arena_bytes(), ARENA_BLOCK, inserted ? 2 * list.bytes : ARENA_BLOCK);
	}
	hpack_decoder_free(decoder);
}

// --- Huffman's code -----------------------------------------------------------------------------------------
// Each byte, among others whose codes are short enough for the whole to be written in it, at each of the
// places in a byte where its code may begin.
static void test_symbols(void **state)
{
	char text[64];
	(void)state;
	for (int c = 0; c < 256; c++) {
		for (size_t at = 0; at < 8; at++) {
			nghttp2_hd_deflater *other;
			struct hpack_decoder *decoder = decoder_new();
			memset(text, 'a', sizeof text); // five bits
			text[at] = (char)c;
			const struct field field = {.name = STR("n"), .value = {text, 40 + at % 8}};
			assert_int_equal(nghttp2_hd_deflate_new(&other, 4096), 0);
			assert_int_equal(decode(decoder, encode_by_other(other, &field, 1)), 0);
			assert_true(written[3] & 0x80);
			assert_true(str_eq(fields[0].value, field.value));
			nghttp2_hd_deflate_del(other);
			hpack_decoder_free(decoder);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_integers),
	    cmocka_unit_test(test_representations),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_responses),
	    cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_every_end),
	    cmocka_unit_test(test_checked),
	    cmocka_unit_test(test_checked_names),
	    cmocka_unit_test(test_paths_again),
	    cmocka_unit_test(test_long_paths_again),
	    cmocka_unit_test(test_not_kept),
	    cmocka_unit_test(test_bomb),
	    cmocka_unit_test(test_failing_allocations),
	    cmocka_unit_test(test_written),
	    cmocka_unit_test(test_written_names),
	    cmocka_unit_test(test_written_sizes),
	    cmocka_unit_test(test_conversations),
	    cmocka_unit_test(test_symbols),
	    cmocka_unit_test(test_texts_stay),
	    cmocka_unit_test(test_names_stay),
	    cmocka_unit_test(test_names_cost_little),
	};
	return cmocka_run_group_tests(tests, NULL, end);
}
