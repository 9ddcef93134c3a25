/* SPDX-License-Identifier: Apache-2.0 */
/* An example of a streamed protocol, line-example: requests are lines, and each has one answer.
 *
 *   GET key                     VALUE length, and so many bytes on the lines behind it; or NONE
 *   PUT key length, and so many bytes on the lines behind it
 *                               OK
 *   NOTE key                    nothing: nobody answers it
 *                               any of them: ERROR text
 *
 * A line ends with CR LF, and so does what has a length, which does not count it. The service is what stands
 * in front of the first '.' of the key, if there is one; the method is the command. */
#include <weir_plugin.h>

#include <stdio.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1024, LENGTH_MAX = 1 << 30 };
enum { DONE = 0, FAILED = 1 }; /* statuses */

static const char names[] = "key";

/* The line at the front, without its end; WEIR_MORE, or WEIR_WRONG if it is too long. */
static enum weir_result take_line(struct weir_bytes bytes, struct weir_bytes *line)
{
	size_t most = bytes.len < LINE_MAX_BYTES ? bytes.len : LINE_MAX_BYTES;
	const uint8_t *end = most ? memchr(bytes.p, '\n', most) : NULL;
	if (!end)
		return most < LINE_MAX_BYTES ? WEIR_MORE : WEIR_WRONG;
	line->p = bytes.p;
	line->len = (size_t)(end - bytes.p);
	if (line->len == 0 || line->p[line->len - 1] != '\r')
		return WEIR_WRONG;
	line->len--;
	return WEIR_OK;
}

/* Cuts a word off the line. */
static struct weir_bytes take_word(struct weir_bytes *line)
{
	const uint8_t *blank = line->len ? memchr(line->p, ' ', line->len) : NULL;
	struct weir_bytes word = {line->p, blank ? (size_t)(blank - line->p) : line->len};
	size_t taken = blank ? word.len + 1 : word.len;
	line->p += taken;
	line->len -= taken;
	return word;
}

static int is(struct weir_bytes word, const char *text)
{
	return word.len == strlen(text) && memcmp(word.p, text, word.len) == 0;
}

static enum weir_result take_length(struct weir_bytes *line, uint64_t *length)
{
	struct weir_bytes word = take_word(line);
	uint64_t value = 0;
	for (size_t i = 0; i < word.len; i++) {
		if (word.p[i] < '0' || word.p[i] > '9' || value > LENGTH_MAX)
			return WEIR_WRONG;
		value = value * 10 + (uint64_t)(word.p[i] - '0');
	}
	*length = value;
	return word.len && value <= LENGTH_MAX ? WEIR_OK : WEIR_WRONG;
}

/* state->word[0]: bytes that are still to come, the CR LF behind them included. */
static enum weir_result body_piece(struct weir_state *state, struct weir_bytes bytes,
				   struct weir_piece *piece)
{
	if (bytes.len == 0)
		return WEIR_MORE;
	piece->length = bytes.len < state->word[0] ? bytes.len : (size_t)state->word[0];
	state->word[0] -= piece->length;
	piece->flags = state->word[0] ? 0 : WEIR_END;
	return WEIR_OK;
}

/* The line is the whole message, or a body of this length follows it. */
static enum weir_result line_piece(struct weir_state *state, size_t line_len, int has_body, uint64_t length,
				   struct weir_piece *piece)
{
	piece->length = line_len + 2;
	piece->flags = has_body ? WEIR_START : WEIR_START | WEIR_END;
	state->word[0] = has_body ? length + 2 : 0;
	return WEIR_OK;
}

static enum weir_result read_request(struct weir_state *state, struct weir_bytes bytes,
				     struct weir_piece *piece, struct weir_head *head)
{
	struct weir_bytes line;
	uint64_t length = 0;
	if (state->word[0])
		return body_piece(state, bytes, piece);
	enum weir_result result = take_line(bytes, &line);
	if (result != WEIR_OK)
		return result;
	size_t line_len = line.len;
	struct weir_bytes command = take_word(&line), key = take_word(&line);
	int put = is(command, "PUT"), note = is(command, "NOTE");
	if ((!put && !note && !is(command, "GET")) || key.len == 0 || head->fields_max == 0)
		return WEIR_WRONG;
	if (put && take_length(&line, &length) != WEIR_OK)
		return WEIR_WRONG;
	const uint8_t *dot = memchr(key.p, '.', key.len);
	if (dot)
		head->service = (struct weir_bytes){key.p, (size_t)(dot - key.p)};
	head->method = command;
	head->fields[0].name = (struct weir_bytes){(const uint8_t *)names, sizeof names - 1};
	head->fields[0].value = key;
	head->field_count = 1;
	piece->oneway = (uint8_t)note;
	return line.len ? WEIR_WRONG : line_piece(state, line_len, put, length, piece);
}

static enum weir_result read_response(struct weir_state *state, uint32_t tag, struct weir_bytes bytes,
				      struct weir_piece *piece)
{
	struct weir_bytes line;
	uint64_t length = 0;
	(void)tag; /* here answers tell by themselves where they end */
	if (state->word[0])
		return body_piece(state, bytes, piece);
	enum weir_result result = take_line(bytes, &line);
	if (result != WEIR_OK)
		return result;
	size_t line_len = line.len;
	struct weir_bytes word = take_word(&line);
	int value = is(word, "VALUE"), error = is(word, "ERROR");
	if (!value && !error && !is(word, "NONE") && !is(word, "OK"))
		return WEIR_WRONG;
	if (value && take_length(&line, &length) != WEIR_OK)
		return WEIR_WRONG;
	piece->status = error ? FAILED : DONE;
	return line_piece(state, line_len, value, length, piece);
}

static size_t write_failure(uint32_t tag, enum weir_failure failure, struct weir_bytes text, uint8_t *out,
			    size_t room)
{
	(void)tag;
	(void)failure;
	int len = snprintf((char *)out, room, "ERROR %.*s\r\n", (int)text.len, (const char *)text.p);
	return len > 0 && (size_t)len < room ? (size_t)len : 0;
}

/* Commands are words in capitals: enough of the first line to know one. */
static enum weir_result detect(struct weir_bytes bytes)
{
	static const char *const commands[] = {"GET ", "PUT ", "NOTE "};
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		size_t len = strlen(commands[i]), most = bytes.len < len ? bytes.len : len;
		if (most == 0 || memcmp(bytes.p, commands[i], most) == 0)
			return most == len ? WEIR_OK : WEIR_MORE;
	}
	return WEIR_WRONG;
}

static const struct weir_streamed line_example = {
    .size = sizeof line_example,
    .name = "line-example",
    .names = {(const uint8_t *)names, sizeof names - 1},
    .detect = detect,
    .read_request = read_request,
    .read_response = read_response,
    .write_failure = write_failure,
};

#ifndef LINE_EXAMPLE_PART /* tests include this file and export a table of their own */
WEIR_EXPORT const struct weir_plugin weir_plugin = {
    .abi = WEIR_PLUGIN_ABI, .size = sizeof weir_plugin, .streamed = &line_example};
#endif
