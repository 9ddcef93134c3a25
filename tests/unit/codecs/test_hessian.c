// SPDX-License-Identifier: Apache-2.0
// Hessian 2.0 values, by the examples of its specification and by the table of first bytes: each is skipped
// to its end, wants more at each shorter length, and leaves alone what is behind it.
#include "test.h"

#include "base/mem.h"
#include "codecs/hessian.h"

#include <stdlib.h>

static struct hessian hessian;

// Skips `values` of a copy that ends where its memory does.
static int walk(struct str bytes, unsigned values, size_t *ret_len)
{
	char *copy = malloc(bytes.len ? bytes.len : 1);
	assert_non_null(copy);
	memcpy(copy, bytes.p, bytes.len);
	hessian_init(&hessian, (struct str){copy, bytes.len});
	while (values-- && !hessian.in.err)
		hessian_skip(&hessian);
	free(copy);
	*ret_len = reader_tell(&hessian.in);
	return hessian.in.err;
}

static void check_values(struct str bytes, unsigned values)
{
	size_t len;
	struct strbuf longer = {0};
	assert_int_equal(walk(bytes, values, &len), 0);
	assert_int_equal(len, bytes.len);
	for (size_t part = 0; part < bytes.len; part++)
		assert_int_equal(walk((struct str){bytes.p, part}, values, &len), ERR_NEED_MORE);
	strbuf_add_str(&longer, bytes);
	strbuf_add_str(&longer, STR("\x40\x5a"));
	assert_int_equal(walk(strbuf_str(&longer), values, &len), 0);
	assert_int_equal(len, bytes.len);
	strbuf_done(&longer);
}

#define CHECK_VALUE(literal) check_values(STR(literal), 1)

static void check_error(struct str bytes, int expected)
{
	size_t len;
	assert_int_equal(walk(bytes, 1, &len), expected);
}

static void test_scalars(void **state)
{
	(void)state;
	CHECK_VALUE("N");
	CHECK_VALUE("T");
	CHECK_VALUE("F");
	CHECK_VALUE("\x90"); // 0
	CHECK_VALUE("\x80");
	CHECK_VALUE("\xbf");
	CHECK_VALUE("\xc8\x00");
	CHECK_VALUE("\xc0\xff");
	CHECK_VALUE("\xcf\x5a");
	CHECK_VALUE("\xd4\x00\x00");
	CHECK_VALUE("\xd0\x5a\x5a");
	CHECK_VALUE("\xd7\xff\xff");
	CHECK_VALUE("I\x00\x00\x01\x2c");
	CHECK_VALUE("\xe0"); // 0L
	CHECK_VALUE("\xd8");
	CHECK_VALUE("\xef");
	CHECK_VALUE("\xf8\x00");
	CHECK_VALUE("\xff\x5a");
	CHECK_VALUE("\x3c\x00\x00");
	CHECK_VALUE("\x38\x5a\x5a");
	CHECK_VALUE("Y\x00\x00\x01\x2c");
	CHECK_VALUE("L\x00\x00\x00\x00\x00\x00\x01\x2c");
	CHECK_VALUE("\x5b"); // 0.0
	CHECK_VALUE("\x5c"); // 1.0
	CHECK_VALUE("\x5d\x80");
	CHECK_VALUE("\x5e\x7f\xff");
	CHECK_VALUE("\x5f\x00\x00\x2f\xda");
	CHECK_VALUE("D\x40\x28\x80\x00\x00\x00\x00\x00");
	CHECK_VALUE("J\x00\x00\x00\xd0\x4b\x92\x84\xb8"); // a date in milliseconds
	CHECK_VALUE("K\x00\xe3\x83\x8f");		  // in minutes
	CHECK_VALUE("Q\x91");				  // a reference
	CHECK_VALUE("QI\x00\x01\x00\x00");
}

static void test_binary(void **state)
{
	(void)state;
	CHECK_VALUE("\x20");
	CHECK_VALUE("\x23\x01\x02\x03");
	CHECK_VALUE("\x34\x02\x01\x02");
	CHECK_VALUE("B\x00\x02\x01\x02");
	CHECK_VALUE("A\x00\x01zA\x00\x02zzB\x00\x00"); // in chunks
	CHECK_VALUE("A\x00\x01z\x21z");
	CHECK_VALUE("A\x00\x01z\x34\x01z");
	check_error(STR("A\x00\x01zN"), ERR_MALFORMED);
	check_error(STR("A\x00\x01z\x01z"), ERR_MALFORMED);
}

// Lengths are in UTF-16 units.
static void test_strings(void **state)
{
	(void)state;
	CHECK_VALUE("\x00");
	CHECK_VALUE("\x05hello");
	CHECK_VALUE("\x01\xc3\x83"); // U+00C3, as in the specification
	CHECK_VALUE("\x1f"
		    "0123456789012345678901234567890");
	CHECK_VALUE("\x30\x20"
		    "01234567890123456789012345678901"); // 32
	CHECK_VALUE("S\x00\x05hello");
	CHECK_VALUE("R\x00\x07hello, \x05world");
	CHECK_VALUE("R\x00\x01hR\x00\x01iS\x00\x01!");
	CHECK_VALUE("R\x00\x01h\x30\x01i");
	CHECK_VALUE("\x02\xe2\x82\xac\xe6\x97\xa5"); // three bytes each
	CHECK_VALUE("\x03"
		    "a\xf0\x9f\x98\x80");	     // four bytes are two units
	CHECK_VALUE("\x02\xed\xa0\xbd\xed\xb8\x80"); // as Java writes these: the halves, three bytes each
	CHECK_VALUE("\x01\xc0\x80");		     // and its zero
	check_error(STR("\x01\xf0\x9f\x98\x80"), ERR_MALFORMED); // half of it
	check_error(STR("\x01\x80"), ERR_MALFORMED);
	check_error(STR("\x01\xff"), ERR_MALFORMED);
	check_error(STR("\x01\xc3z"), ERR_MALFORMED);
	check_error(STR("\x01\xe2\x82z"), ERR_MALFORMED);
	check_error(STR("R\x00\x01hN"), ERR_MALFORMED);
	check_error(STR("R\x00\x01h\x21z"), ERR_MALFORMED);
}

static void test_lists(void **state)
{
	(void)state;
	CHECK_VALUE("\x78");
	CHECK_VALUE("\x7a\x90\x91");
	CHECK_VALUE("\x72\x04[int\x90\x91");
	CHECK_VALUE("V\x04[int\x92\x90\x91");
	CHECK_VALUE("V\x90\x92\x90\x91"); // the type by its number
	CHECK_VALUE("X\x92\x90\x91");
	CHECK_VALUE("W\x90\x91Z");
	CHECK_VALUE("WZ");
	CHECK_VALUE("U\x04[int\x90\x91Z");
	CHECK_VALUE("\x7a\x7a\x79\x90"
		    "WZ\x78"); // within each other
	check_error(STR("X\x8f"), ERR_MALFORMED);
	check_error(STR("XN"), ERR_MALFORMED);
	check_error(STR("V\x04[intI\xff\xff\xff\xff"), ERR_MALFORMED);
	check_error(STR("VN\x91\x90"), ERR_MALFORMED);
	check_error(STR("\x79Z"), ERR_MALFORMED);
	check_error(STR("XI\x7f\xff\xff\xff\x90\x90"), ERR_NEED_MORE);
}

static void test_maps(void **state)
{
	(void)state;
	CHECK_VALUE("HZ");
	CHECK_VALUE("H\x91\x03"
		    "fee\xa0\x03"
		    "fie\xc9\x00\x03"
		    "foeZ"); // the specification's sparse array
	CHECK_VALUE("M\x13"
		    "com.caucho.test.Car\x05"
		    "color\x0a"
		    "aquamarineZ");
	CHECK_VALUE("M\x90"
		    "N\x78Z");
	CHECK_VALUE("HHZHH\x90\x91ZNZZ");	   // maps as keys and values
	check_error(STR("H\x91Z"), ERR_MALFORMED); // a key without a value
	check_error(STR("MNZ"), ERR_MALFORMED);
}

static void test_objects(void **state)
{
	(void)state;
	// The specification's two cars, of one class.
	check_values(STR("C\x0b"
			 "example.Car\x92\x05"
			 "color\x05model"
			 "O\x90\x03red\x08"
			 "corvette"
			 "\x60\x05green\x05"
			 "civic"),
		     2);
	CHECK_VALUE("C\x01"
		    "a\x90\x60"); // no fields
	CHECK_VALUE("C\x01"
		    "a\x91\x01x"
		    "C\x01"
		    "b\x91\x01y"
		    "\x61\x60\x90"); // two classes, one in the other
	CHECK_VALUE("C\x01"
		    "a\x91\x01x"
		    "\x60"
		    "C\x01"
		    "b\x90"
		    "\x61"); // defined where it is needed
	CHECK_VALUE("\x79"
		    "C\x01"
		    "a\x90"
		    "O\x90");
	check_error(STR("\x60"), ERR_MALFORMED);
	check_error(STR("O\x90"), ERR_MALFORMED);
	check_error(STR("C\x01"
			"a\x90\x61"),
		    ERR_MALFORMED);
	check_error(STR("C\x01"
			"a\x8f\x60"),
		    ERR_MALFORMED);
	check_error(STR("C\x01"
			"aI\x00\x01\x00\x00"),
		    ERR_LIMIT);
	check_error(STR("C\x01"
			"a\x91\x90"),
		    ERR_MALFORMED); // the name of a field is a number
	check_error(STR("C\x90"), ERR_MALFORMED);
	check_error(STR("W"
			"C\x01"
			"a\x90"
			"Z"),
		    ERR_MALFORMED);
}

// Every first byte either begins a value or does not.
static void test_first_bytes(void **state)
{
	(void)state;
	static const char unused[] = "@EGPZ";
	for (unsigned first = 0; first < 256; first++) {
		char bytes[2] = {(char)first, 0};
		size_t len;
		int err = walk((struct str){bytes, 1}, 1, &len);
		bool odd = memchr(unused, (int)first, sizeof unused - 1) || (first >= 0x60 && first <= 0x6f);
		assert_int_equal(err == ERR_MALFORMED, odd);
	}
}

static struct strbuf repeated(const char *text, size_t len, unsigned times)
{
	struct strbuf all = {0};
	while (times--)
		strbuf_add(&all, text, len);
	return all;
}

static void check_times(struct str part, unsigned times, struct str end, int expected)
{
	struct strbuf all = repeated(part.p, part.len, times);
	strbuf_add_str(&all, end);
	check_error(strbuf_str(&all), expected);
	strbuf_done(&all);
}

static void test_limits(void **state)
{
	(void)state;
	check_times(STR("\x79"), LIMIT_HESSIAN_DEPTH, STR("N"), 0);
	check_times(STR("\x79"), LIMIT_HESSIAN_DEPTH + 1, STR("N"), ERR_LIMIT);
	check_times(STR("C\x01"
			"a\x90"),
		    LIMIT_HESSIAN_CLASSES, STR("\x60"), 0);
	check_times(STR("C\x01"
			"a\x90"),
		    LIMIT_HESSIAN_CLASSES + 1, STR("\x60"), ERR_LIMIT);
	check_times(STR("R\x00\x00"), LIMIT_HESSIAN_STEPS - 1, STR("\x00"), 0);
	check_times(STR("R\x00\x00"), LIMIT_HESSIAN_STEPS, STR("\x00"), ERR_LIMIT);
	check_times(STR("A\x00\x00"), LIMIT_HESSIAN_STEPS, STR("\x20"), ERR_LIMIT);
	struct strbuf list = {0};
	strbuf_add_char(&list, 'W');
	for (int i = 0; i < LIMIT_HESSIAN_STEPS; i++)
		strbuf_add_char(&list, 'N');
	check_error(strbuf_str(&list), ERR_LIMIT);
	strbuf_done(&list);
}

static void test_text(void **state)
{
	(void)state;
	struct str text = {0};
	hessian_init(&hessian, STR("\x05hello"
				   "\x90"
				   "R\x00\x01h\x01i"
				   "N"
				   "S\x00\x02\xc3\xa4"
				   "a"
				   "\x30\x01z"));
	assert_true(hessian_text(&hessian, &text));
	assert_str(text, "hello");
	assert_false(hessian_text(&hessian, &text)); // a number
	assert_false(hessian_text(&hessian, &text)); // in two pieces
	assert_false(hessian_text(&hessian, &text)); // null
	assert_str(text, "hello");
	assert_true(hessian_text(&hessian, &text));
	assert_str(text, "\xc3\xa4"
			 "a");
	assert_true(hessian_text(&hessian, &text));
	assert_str(text, "z");
	assert_int_equal(reader_finish(&hessian.in), 0);
	assert_false(hessian_text(&hessian, &text));
	assert_int_equal(hessian.in.err, ERR_NEED_MORE);
}

static void check_int(struct str bytes, int32_t expected)
{
	int32_t value = 0;
	hessian_init(&hessian, bytes);
	assert_true(hessian_int(&hessian, &value));
	assert_int_equal(value, expected);
	assert_int_equal(reader_finish(&hessian.in), 0);
}

static void test_int(void **state)
{
	(void)state;
	check_int(STR("\x90"), 0);
	check_int(STR("\x80"), -16);
	check_int(STR("\xbf"), 47);
	check_int(STR("\xc8\x00"), 0);
	check_int(STR("\xc0\x00"), -2048);
	check_int(STR("\xc7\x00"), -256);
	check_int(STR("\xcf\xff"), 2047);
	check_int(STR("\xd4\x00\x00"), 0);
	check_int(STR("\xd0\x00\x00"), -262144);
	check_int(STR("\xd7\xff\xff"), 262143);
	check_int(STR("I\x00\x00\x00\x00"), 0);
	check_int(STR("I\xff\xff\xfe\xd4"), -300);
	int32_t value = 7;
	hessian_init(&hessian, STR("\xe0"));
	assert_false(hessian_int(&hessian, &value)); // a long
	assert_int_equal(value, 7);
	assert_int_equal(reader_remaining(&hessian.in), 1);
	hessian_init(&hessian, STR("I\x00"));
	assert_false(hessian_int(&hessian, &value));
	assert_int_equal(hessian.in.err, ERR_NEED_MORE);
}

static void test_map_of_texts(void **state)
{
	(void)state;
	struct str text = {0};
	hessian_init(&hessian, STR("NH\x01"
				   "aNZM\x01tZ\x90"));
	assert_false(hessian_map_begins(&hessian));
	assert_true(hessian_null(&hessian));
	assert_false(hessian_null(&hessian));
	assert_true(hessian_map_begins(&hessian));
	assert_false(hessian_map_ends(&hessian));
	assert_true(hessian_text(&hessian, &text));
	assert_str(text, "a");
	assert_true(hessian_null(&hessian));
	assert_true(hessian_map_ends(&hessian));
	assert_true(hessian_map_begins(&hessian));
	assert_true(hessian_map_ends(&hessian));
	assert_false(hessian_map_begins(&hessian));
	hessian_skip(&hessian);
	assert_int_equal(reader_finish(&hessian.in), 0);
}

static void check_written(struct str text, struct str expected)
{
	uint8_t bytes[4096];
	struct writer out;
	struct str read;
	writer_init(&out, bytes, sizeof bytes);
	hessian_write_string(text, &out);
	assert_int_equal(out.err, 0);
	assert_true(str_starts((struct str){(char *)bytes, out.len}, expected));
	hessian_init(&hessian, (struct str){(char *)bytes, out.len});
	assert_true(hessian_text(&hessian, &read));
	assert_int_equal(reader_finish(&hessian.in), 0);
}

static void test_writing(void **state)
{
	(void)state;
	check_written(STR(""), STR("\x00"));
	check_written(STR("R"), STR("\x01R"));
	check_written(STR("caf\xc3\xa9"), STR("\x04"
					      "caf\xc3\xa9"));
	check_written(STR("\xe2\x82\xac"), STR("\x01\xe2\x82\xac"));
	check_written(STR("a\xf0\x9f\x98\x80"
			  "b"),
		      STR("\x03"
			  "a?b"));
	check_written(STR("\xff\xc3"), STR("\x02??"));
	struct strbuf all = repeated("x", 1, 31);
	check_written(strbuf_str(&all), STR("\x1fxxx"));
	strbuf_add_char(&all, 'x');
	check_written(strbuf_str(&all), STR("\x30\x20xxx"));
	strbuf_done(&all);
	all = repeated("\xc3\xa9", 2, 1024);
	check_written(strbuf_str(&all), STR("\x33\xff\xc3\xa9"));
	assert_int_equal(reader_tell(&hessian.in), 2 + 2 * 1023);
	strbuf_done(&all);
	uint8_t small[4];
	struct writer out;
	writer_init(&out, small, sizeof small);
	hessian_write_string(STR("hello"), &out);
	assert_int_equal(out.err, ERR_LIMIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_scalars),	 cmocka_unit_test(test_binary),
	    cmocka_unit_test(test_strings),	 cmocka_unit_test(test_lists),
	    cmocka_unit_test(test_maps),	 cmocka_unit_test(test_objects),
	    cmocka_unit_test(test_first_bytes),	 cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_text),	 cmocka_unit_test(test_int),
	    cmocka_unit_test(test_map_of_texts), cmocka_unit_test(test_writing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
