/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: line-example, but wrong: about requests whose key begins with "LIE:", and about answers whose
 * text does. */
#define LINE_EXAMPLE_PART
#include "line_example.c"

static int lies(struct weir_bytes bytes, const char *about)
{
	char text[64];
	int len = snprintf(text, sizeof text, "LIE:%s", about);
	return memmem(bytes.p, bytes.len, text, (size_t)len) != NULL;
}

static void spoil(struct weir_bytes bytes, struct weir_piece *piece)
{
	if (lies(bytes, "nothing"))
		piece->length = 0;
	if (lies(bytes, "more"))
		piece->length = bytes.len + 1;
	if (lies(bytes, "flags"))
		piece->flags = 0x80;
}

static enum weir_result crooked_request(struct weir_state *state, struct weir_bytes bytes,
					struct weir_piece *piece, struct weir_head *head)
{
	enum weir_result result = read_request(state, bytes, piece, head);
	spoil(bytes, piece);
	if (lies(bytes, "field"))
		head->fields[0].value = (struct weir_bytes){bytes.p + bytes.len, 1};
	return result;
}

static enum weir_result crooked_response(struct weir_state *state, uint32_t tag, struct weir_bytes bytes,
					 struct weir_piece *piece)
{
	enum weir_result result = read_response(state, tag, bytes, piece);
	if (lies(bytes, "answer"))
		piece->length = 0;
	return result;
}

static size_t crooked_failure(uint32_t tag, enum weir_failure failure, struct weir_bytes text, uint8_t *out,
			      size_t room)
{
	return write_failure(tag, failure, text, out, room) - 1;
}

static const struct weir_streamed crooked = {
    .size = sizeof crooked,
    .name = "crooked",
    .names = {(const uint8_t *)names, sizeof names - 1},
    .detect = detect,
    .read_request = crooked_request,
    .read_response = crooked_response,
    .write_failure = crooked_failure,
};

WEIR_EXPORT const struct weir_plugin weir_plugin = {
    .abi = WEIR_PLUGIN_ABI, .size = sizeof weir_plugin, .streamed = &crooked};
