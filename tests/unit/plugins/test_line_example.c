// SPDX-License-Identifier: Apache-2.0
// The example of a streamed plug-in: its messages are cut the same at every way of arriving, and it is never
// found at fault.
#include "test.h"

#define LINE_EXAMPLE_PART
#include "tests/plugins/line_example.c"

#include "base/mem.h"
#include "codecs/plugin.h"
#include "codecs/streamed.h"

static struct plugin plugin;
static unsigned reports;

static void report(const struct plugin *of, const char *what)
{
	(void)of;
	print_message("%s\n", what);
	reports++;
}

// A conversation, read whole and at every split: the same pieces' bytes and ends.
static void test_conversation(void **state)
{
	struct field fields[2];
	(void)state;
	static const struct str LINES =
	    STR("GET a\r\nPUT s.b 5\r\nhello\r\nNOTE s.c\r\nPUT d 0\r\n\r\nGET e\r\n");
	for (size_t step = 1; step <= LINES.len; step++) {
		struct stream_state stream_state = {0};
		struct stream_piece piece;
		size_t at = 0, given = 0, ends = 0, starts = 0;
		while (at < LINES.len) {
			struct str bytes = {LINES.p + at, MIN(given, LINES.len) - at};
			struct head head = {.fields = fields};
			int err = plugin.codec.streamed->read_request(&plugin.codec, &stream_state, bytes, 2,
								      &head, &piece);
			if (err == ERR_NEED_MORE) {
				assert_true(given < LINES.len);
				given += step;
				continue;
			}
			assert_int_equal(err, 0);
			starts += piece.flags & PIECE_START ? 1 : 0;
			if (piece.flags & PIECE_END) {
				ends++;
				stream_state = (struct stream_state){0};
			}
			at += piece.length;
		}
		assert_int_equal(starts, 5);
		assert_int_equal(ends, 5);
	}
	assert_int_equal(reports, 0);
}

static void check_answers(struct str answers, unsigned count)
{
	struct stream_state stream_state = {0};
	struct stream_piece piece = {0};
	while (answers.len) {
		assert_int_equal(
		    plugin.codec.streamed->read_response(&plugin.codec, &stream_state, 0, answers, &piece),
		    0);
		answers = (struct str){answers.p + piece.length, answers.len - piece.length};
		count -= piece.flags & PIECE_END ? 1 : 0;
	}
	assert_int_equal(count, 0);
	assert_int_equal(piece.flags & PIECE_END, PIECE_END);
}

static void test_answers(void **state)
{
	uint8_t made[64];
	struct writer out;
	(void)state;
	check_answers(STR("NONE\r\nVALUE 5\r\nhello\r\nOK\r\nVALUE 0\r\n\r\nERROR no such key\r\n"), 5);
	writer_init(&out, made, sizeof made);
	plugin.codec.streamed->write_failure(&plugin.codec, 0, RPC_LOST, STR("it was lost"), &out);
	assert_str(((struct str){(char *)made, out.len}), "ERROR it was lost\r\n");
	assert_int_equal(reports, 0);
}

static void test_wrong_lines(void **state)
{
	static const struct str WRONG[] = {
	    STR("DELETE a\r\n"), STR("GET \r\n"),  STR("GET a b\r\n"),
	    STR("GET a\n"),	 STR("PUT a\r\n"), STR("PUT a x\r\n"),
	    STR("PUT a -1\r\n"), STR("\r\n"),	   STR("PUT a 99999999999\r\n")};
	struct field fields[2];
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(WRONG); i++) {
		struct stream_state stream_state = {0};
		struct head head = {.fields = fields};
		struct stream_piece piece;
		assert_int_equal(plugin.codec.streamed->read_request(&plugin.codec, &stream_state, WRONG[i],
								     2, &head, &piece),
				 ERR_MALFORMED);
	}
	assert_int_equal(reports, 0);
}

static void test_detect(void **state)
{
	(void)state;
	const struct framed_codec *codec = &plugin.codec;
	assert_int_equal(codec->detect(codec, STR("")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("GE")), DETECT_MAYBE);
	assert_int_equal(codec->detect(codec, STR("GET ")), DETECT_YES);
	assert_int_equal(codec->detect(codec, STR("PUT x 5")), DETECT_YES);
	assert_int_equal(codec->detect(codec, STR("NOTES")), DETECT_NO);
	assert_int_equal(codec->detect(codec, STR("get ")), DETECT_NO);
}

int main(void)
{
	static const struct weir_plugin table = {
	    .abi = WEIR_PLUGIN_ABI, .size = sizeof table, .streamed = &line_example};
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_conversation),
	    cmocka_unit_test(test_answers),
	    cmocka_unit_test(test_wrong_lines),
	    cmocka_unit_test(test_detect),
	};
	if (plugin_init(&table, report, &plugin))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
