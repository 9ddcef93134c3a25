/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: x-example, but wrong. CROOKED_TABLE chooses what is wrong with the table; without it the payload
 * of a request or an answer does: "LIE: length" and so on; and failures have another id, but for
 * HONEST_FAILURES. LAST_ID: the last id that it gives to calls. HEARTBEAT_BYTES: the payload of heartbeats.
 */
#define X_EXAMPLE_PART
#include "x_example.c"

#ifdef CROOKED_TABLE
enum { ABI = 1, PLUGIN_SIZE, FRAMED_SIZE, NO_PROTOCOL, BAD_NAME, TAKEN_NAME, NO_MEASURE, NO_IDS, FEW_IDS };

static const struct weir_framed crooked = {
    .size = CROOKED_TABLE == FRAMED_SIZE ? 8 : sizeof crooked,
    .name = CROOKED_TABLE == BAD_NAME	  ? "X Example"
	    : CROOKED_TABLE == TAKEN_NAME ? "bolt"
					  : "crooked",
    .first_id = CROOKED_TABLE == NO_IDS ? 0 : 1,
    .last_id = CROOKED_TABLE == FEW_IDS ? 255 : UINT32_MAX,
    .measure = CROOKED_TABLE == NO_MEASURE ? NULL : measure,
    .write_failure = write_failure,
    .detect = detect,
    .decode = decode,
    .names = {(const uint8_t *)names, sizeof names - 1},
    .write_heartbeat = write_heartbeat,
    .write_heartbeat_ack = write_heartbeat_ack,
    .write_goaway = write_goaway,
};

WEIR_EXPORT const struct weir_plugin weir_plugin = {
    .abi = CROOKED_TABLE == ABI ? WEIR_PLUGIN_ABI + 1 : WEIR_PLUGIN_ABI,
    .size = CROOKED_TABLE == PLUGIN_SIZE ? 4 : sizeof weir_plugin,
    .framed = CROOKED_TABLE == NO_PROTOCOL ? NULL : &crooked,
};
#else
static int lies(struct weir_bytes bytes, const char *about)
{
	static const char word[] = "LIE: ";
	size_t header = bytes.len > 2 && bytes.p[2] == RESPONSE ? RESPONSE_HEADER : REQUEST_HEADER;
	size_t len = strlen(about), start = header + sizeof word - 1;
	return bytes.len >= start + len && memcmp(bytes.p + header, word, sizeof word - 1) == 0 &&
	       memcmp(bytes.p + start, about, len) == 0;
}

static enum weir_result crooked_measure(struct weir_bytes bytes, struct weir_frame *frame)
{
	enum weir_result result = measure(bytes, frame);
	if (result != WEIR_OK)
		return result;
	if (lies(bytes, "length"))
		frame->length = 0;
	if (lies(bytes, "head"))
		frame->head = (uint32_t)frame->length + 1;
	if (lies(bytes, "id"))
		frame->id_at = (uint16_t)frame->head;
	if (lies(bytes, "kind"))
		frame->kind = 99;
	return lies(bytes, "result") ? (enum weir_result)77 : WEIR_OK;
}

static enum weir_result crooked_decode(const struct weir_frame *frame, struct weir_bytes bytes,
				       struct weir_head *head)
{
	enum weir_result result = decode(frame, bytes, head);
	if (lies(bytes, "service"))
		head->service.p = bytes.p + bytes.len;
	if (lies(bytes, "field"))
		head->fields[0].value.len = bytes.len;
	if (lies(bytes, "many"))
		head->field_count = (uint16_t)(head->fields_max + 1);
	return result;
}

static size_t crooked_failure(const struct weir_frame *request, enum weir_failure failure,
			      struct weir_bytes text, uint8_t *out, size_t room)
{
	size_t len = write_failure(request, failure, text, out, room);
#ifndef HONEST_FAILURES
	out[ID_AT] ^= 1;
#endif
	return len;
}

#ifndef HEARTBEAT_BYTES
#define HEARTBEAT_BYTES 0
#endif

static size_t with_payload(size_t len, uint8_t *out, size_t room)
{
	if (room < len + HEARTBEAT_BYTES)
		return 0;
	put(out + len - 4, 4, HEARTBEAT_BYTES);
	memset(out + len, 'b', HEARTBEAT_BYTES);
	return len + HEARTBEAT_BYTES;
}

static size_t crooked_heartbeat(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	return with_payload(write_heartbeat(variant, id, out, room), out, room);
}

static size_t crooked_heartbeat_ack(const struct weir_frame *heartbeat, uint8_t *out, size_t room)
{
	return with_payload(write_heartbeat_ack(heartbeat, out, room), out, room);
}

#ifndef LAST_ID
#define LAST_ID UINT32_MAX
#endif

static const struct weir_framed crooked = {
    .size = sizeof crooked,
    .name = "crooked",
    .first_id = 1,
    .last_id = LAST_ID,
    .names = {(const uint8_t *)names, sizeof names - 1},
    .detect = detect,
    .measure = crooked_measure,
    .decode = crooked_decode,
    .write_failure = crooked_failure,
    .write_heartbeat = crooked_heartbeat,
    .write_heartbeat_ack = crooked_heartbeat_ack,
    .write_goaway = write_goaway,
};

WEIR_EXPORT const struct weir_plugin weir_plugin = {
    .abi = WEIR_PLUGIN_ABI, .size = sizeof weir_plugin, .framed = &crooked};
#endif
