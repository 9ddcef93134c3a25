/* SPDX-License-Identifier: Apache-2.0 */
/* An example of a framed protocol, x-example. All numbers are big-endian:
 *
 *   offset  size
 *        0     1  'x'
 *        1     1  0 heartbeat, 1 message, 2 goaway
 *        2     1  0 request, 1 response
 *        3     4  id
 *   request        response
 *        7     4   7     2  status: 0 success, 1 error
 *                  9     4
 *                  length of the payload, which follows
 *
 * In the payload of a request stand a service and a method, parted by '/', up to the first blank: then
 * whatever the two sides agreed upon. */
#include <weir_plugin.h>

#include <string.h>

enum { HEARTBEAT, MESSAGE, GOAWAY };
enum { REQUEST, RESPONSE };
enum { SUCCESS, ERROR };
enum { ID_AT = 3, ID_SIZE = 4, REQUEST_HEADER = 11, RESPONSE_HEADER = 13, NAMES_MAX = 256 };

static uint32_t get(const uint8_t *p, size_t size)
{
	uint32_t value = 0;
	while (size-- > 0)
		value = value << 8 | *p++;
	return value;
}

static uint8_t *put(uint8_t *p, size_t size, uint32_t value)
{
	for (size_t i = size; i-- > 0; value >>= 8)
		p[i] = (uint8_t)value;
	return p + size;
}

static enum weir_result detect(struct weir_bytes bytes)
{
	if (bytes.len > 0 && bytes.p[0] != 'x')
		return WEIR_WRONG;
	if (bytes.len > 1 && bytes.p[1] > GOAWAY)
		return WEIR_WRONG;
	if (bytes.len > 2 && bytes.p[2] > RESPONSE)
		return WEIR_WRONG;
	return bytes.len > 2 ? WEIR_OK : WEIR_MORE;
}

static uint8_t kind_of(uint8_t type, uint8_t direction)
{
	if (type == HEARTBEAT)
		return direction == REQUEST ? WEIR_HEARTBEAT : WEIR_HEARTBEAT_ACK;
	if (type == GOAWAY)
		return WEIR_GOAWAY;
	return direction == REQUEST ? WEIR_REQUEST : WEIR_RESPONSE;
}

static enum weir_result measure(struct weir_bytes bytes, struct weir_frame *frame)
{
	enum weir_result result = detect(bytes);
	if (result != WEIR_OK)
		return result;
	size_t header = bytes.p[2] == REQUEST ? REQUEST_HEADER : RESPONSE_HEADER;
	if (bytes.len < header)
		return WEIR_MORE;
	uint32_t payload = get(bytes.p + header - 4, 4);
	frame->length = (uint64_t)header + payload;
	frame->kind = kind_of(bytes.p[1], bytes.p[2]);
	frame->head = (uint32_t)header;
	if (frame->kind == WEIR_REQUEST)
		frame->head += payload < NAMES_MAX ? payload : NAMES_MAX;
	frame->id_at = ID_AT;
	frame->id_size = ID_SIZE;
	if (bytes.p[2] == RESPONSE)
		frame->status = (uint16_t)get(bytes.p + 7, 2);
	return WEIR_OK;
}

/* The length up to the byte; all if it is not there. */
static size_t length_to(struct weir_bytes bytes, char byte)
{
	const uint8_t *found = bytes.len ? memchr(bytes.p, byte, bytes.len) : NULL;
	return found ? (size_t)(found - bytes.p) : bytes.len;
}

static const char names[] = "path";

static enum weir_result decode(const struct weir_frame *frame, struct weir_bytes bytes,
			       struct weir_head *head)
{
	struct weir_bytes path = {bytes.p + REQUEST_HEADER, bytes.len - REQUEST_HEADER};
	(void)frame;
	path.len = length_to(path, ' ');
	head->service = (struct weir_bytes){path.p, length_to(path, '/')};
	if (head->service.len < path.len)
		head->method =
		    (struct weir_bytes){path.p + head->service.len + 1, path.len - head->service.len - 1};
	if (head->fields_max == 0)
		return WEIR_WRONG;
	head->fields[0].name = (struct weir_bytes){(const uint8_t *)names, sizeof names - 1};
	head->fields[0].value = path;
	head->field_count = 1;
	return WEIR_OK;
}

/* A request without payload, and the start of a response. */
static uint8_t *write_start(uint8_t *out, uint8_t type, uint8_t direction, uint64_t id)
{
	*out++ = 'x';
	*out++ = type;
	*out++ = direction;
	return put(out, ID_SIZE, (uint32_t)id);
}

static size_t write_failure(const struct weir_frame *request, enum weir_failure failure,
			    struct weir_bytes text, uint8_t *out, size_t room)
{
	(void)failure; /* this protocol knows one error only */
	if (room < RESPONSE_HEADER + text.len)
		return 0;
	uint8_t *p = write_start(out, MESSAGE, RESPONSE, request->id);
	p = put(p, 2, ERROR);
	p = put(p, 4, (uint32_t)text.len);
	memcpy(p, text.p, text.len);
	return RESPONSE_HEADER + text.len;
}

static size_t write_heartbeat(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	(void)variant;
	if (room < REQUEST_HEADER)
		return 0;
	put(write_start(out, HEARTBEAT, REQUEST, id), 4, 0);
	return REQUEST_HEADER;
}

static size_t write_heartbeat_ack(const struct weir_frame *heartbeat, uint8_t *out, size_t room)
{
	if (room < RESPONSE_HEADER)
		return 0;
	uint8_t *p = write_start(out, HEARTBEAT, RESPONSE, heartbeat->id);
	put(put(p, 2, SUCCESS), 4, 0);
	return RESPONSE_HEADER;
}

static size_t write_goaway(uint16_t variant, uint64_t id, uint8_t *out, size_t room)
{
	(void)variant;
	if (room < REQUEST_HEADER)
		return 0;
	put(write_start(out, GOAWAY, REQUEST, id), 4, 0);
	return REQUEST_HEADER;
}

static const struct weir_framed x_example = {
    .size = sizeof x_example,
    .name = "x-example",
    .first_id = 1,
    .last_id = UINT32_MAX,
    .names = {(const uint8_t *)names, sizeof names - 1},
    .detect = detect,
    .measure = measure,
    .decode = decode,
    .write_failure = write_failure,
    .write_heartbeat = write_heartbeat,
    .write_heartbeat_ack = write_heartbeat_ack,
    .write_goaway = write_goaway,
};

#ifndef X_EXAMPLE_PART /* tests include this file and export a table of their own */
WEIR_EXPORT const struct weir_plugin weir_plugin = {
    .abi = WEIR_PLUGIN_ABI, .size = sizeof weir_plugin, .framed = &x_example};
#endif
