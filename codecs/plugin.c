// SPDX-License-Identifier: Apache-2.0
#include "codecs/plugin.h"

#include "base/error.h"
#include "base/limits.h"
#include "base/mem.h"
#include "codecs/streamed.h"

_Static_assert((int)WEIR_REQUEST == FRAME_REQUEST && (int)WEIR_ONEWAY == FRAME_ONEWAY &&
		   (int)WEIR_RESPONSE == FRAME_RESPONSE && (int)WEIR_HEARTBEAT == FRAME_HEARTBEAT &&
		   (int)WEIR_HEARTBEAT_ACK == FRAME_HEARTBEAT_ACK && (int)WEIR_GOAWAY == FRAME_GOAWAY,
	       "kinds of frames are the same numbers");
_Static_assert((int)WEIR_NO_ROUTE == RPC_NO_ROUTE && (int)WEIR_UNAVAILABLE == RPC_UNAVAILABLE &&
		   (int)WEIR_LOST == RPC_LOST && (int)WEIR_TIMEOUT == RPC_TIMEOUT &&
		   (int)WEIR_OVERLOADED == RPC_OVERLOADED && (int)WEIR_MALFORMED == RPC_MALFORMED,
	       "failures are the same numbers");

_Static_assert((int)WEIR_START == PIECE_START && (int)WEIR_END == PIECE_END,
	       "flags of pieces are the same numbers");
_Static_assert(sizeof(struct weir_state) == sizeof(struct stream_state), "states are the same");

enum { NAME_MAX = 32 };

static struct plugin *plugin_of(const struct framed_codec *codec)
{
	return container_of(codec, struct plugin, codec);
}

static struct weir_bytes to_bytes(struct str s)
{
	return (struct weir_bytes){(const uint8_t *)s.p, s.len};
}

// Returns the error for the caller to pass on.
static int misbehaved(struct plugin *plugin, const char *what)
{
	if (!atomic_exchange(&plugin->misbehaved, true))
		plugin->report(plugin, what);
	return ERR_MALFORMED;
}

static bool plugin_usable(const struct framed_codec *codec)
{
	return !atomic_load_explicit(&plugin_of(codec)->misbehaved, memory_order_relaxed);
}

// --- frames -------------------------------------------------------------------------------------------------
static bool needs_id(uint8_t kind)
{
	return kind == FRAME_REQUEST || kind == FRAME_ONEWAY || kind == FRAME_RESPONSE;
}

// What cannot be true of any frame; NULL: nothing.
static const char *impossible_frame(const struct weir_framed *framed, const struct weir_frame *frame,
				    size_t given)
{
	size_t id_end = (size_t)frame->id_at + frame->id_size;
	if (frame->length == 0)
		return "a frame without length";
	if (frame->head > frame->length)
		return "a head that is longer than its frame";
	if (frame->kind > FRAME_GOAWAY)
		return "a kind of frame that there is not";
	if (frame->id_size > 8)
		return "an id of more than 8 bytes";
	if (frame->id_size == 0 && needs_id(frame->kind))
		return "a call without an id";
	if (frame->id_size && id_end > frame->head)
		return "an id outside of the head";
	if (id_end > given)
		return "an answer before the id is there";
	if (frame->id_size && frame->id_size < 8 && framed->last_id >> (8 * frame->id_size))
		return "an id that has no room for last_id";
	return NULL;
}

static uint64_t read_id(const struct weir_frame *frame, struct str bytes)
{
	uint64_t id = 0;
	struct reader r;
	reader_init(&r, bytes.p, bytes.len);
	reader_skip(&r, frame->id_at);
	for (unsigned i = 0; i < frame->id_size; i++)
		id = id << 8 | reader_u8(&r);
	return id;
}

static struct frame to_frame(const struct weir_frame *from)
{
	return (struct frame){
	    .id = from->id,
	    .length = from->length,
	    .head = from->head,
	    .timeout_ms = from->timeout_ms,
	    .id_at = from->id_at,
	    .id_size = from->id_size,
	    .kind = from->kind,
	    .variant = from->variant,
	    .status = from->status,
	};
}

static struct weir_frame from_frame(const struct frame *from)
{
	return (struct weir_frame){
	    .length = from->length,
	    .head = from->head,
	    .id_at = from->id_at,
	    .id_size = from->id_size,
	    .kind = from->kind,
	    .status = from->status,
	    .variant = from->variant,
	    .timeout_ms = from->timeout_ms,
	    .id = from->id,
	};
}

// The result of one of its functions. 0, or an error.
static int result_of(struct plugin *plugin, enum weir_result result)
{
	switch (result) {
	case WEIR_OK:
		return 0;
	case WEIR_MORE:
		return ERR_NEED_MORE;
	case WEIR_WRONG:
		return ERR_MALFORMED;
	}
	return misbehaved(plugin, "a result that there is not");
}

static int plugin_measure(const struct framed_codec *codec, struct str bytes, struct frame *ret_frame)
{
	struct plugin *plugin = plugin_of(codec);
	struct weir_frame frame = {0};
	int err = result_of(plugin, plugin->framed->measure(to_bytes(bytes), &frame));
	if (err == ERR_NEED_MORE && bytes.len >= LIMIT_FRAME_HEAD)
		return ERR_LIMIT;
	if (err)
		return err;
	const char *what = impossible_frame(plugin->framed, &frame, bytes.len);
	if (what)
		return misbehaved(plugin, what);
	if (frame.length > LIMIT_FRAME_BYTES || frame.head > LIMIT_FRAME_HEAD)
		return ERR_LIMIT;
	frame.id = read_id(&frame, bytes);
	*ret_frame = to_frame(&frame);
	return 0;
}

static enum detect_verdict plugin_detect(const struct framed_codec *codec, struct str bytes)
{
	struct plugin *plugin = plugin_of(codec);
	enum weir_result (*ask)(struct weir_bytes bytes) =
	    plugin->framed ? plugin->framed->detect : plugin->streamed->detect;
	if (!plugin_usable(codec) || !ask)
		return DETECT_NO;
	int err = result_of(plugin, ask(to_bytes(bytes)));
	return err == 0 ? DETECT_YES : err == ERR_NEED_MORE ? DETECT_MAYBE : DETECT_NO;
}

// --- requests -----------------------------------------------------------------------------------------------
static bool lies_in(struct weir_bytes part, struct weir_bytes whole)
{
	uintptr_t start = (uintptr_t)part.p, from = (uintptr_t)whole.p;
	return part.len == 0 ||
	       (part.len <= whole.len && start >= from && start - from <= whole.len - part.len);
}

static struct str to_str(struct weir_bytes bytes)
{
	return (struct str){bytes.len ? (const char *)bytes.p : "", bytes.len};
}

static const char *impossible_head(struct weir_bytes names, const struct weir_head *head,
				   struct weir_bytes bytes)
{
	if (head->field_count > head->fields_max)
		return "more fields than there is room for";
	if (!lies_in(head->service, bytes) || !lies_in(head->method, bytes))
		return "a service or method outside of the bytes";
	for (unsigned i = 0; i < head->field_count; i++) {
		const struct weir_field *field = &head->fields[i];
		if (!lies_in(field->value, bytes))
			return "a field outside of the bytes";
		if (!lies_in(field->name, bytes) && !lies_in(field->name, names))
			return "the name of a field outside of the bytes and of the table's names";
	}
	return NULL;
}

// Checks what was read, and hands it on. `fields` is the room that was given.
static int take_head(struct plugin *plugin, struct weir_head *head, struct weir_field *fields, uint16_t room,
		     struct weir_bytes bytes, struct head *ret_head)
{
	head->fields = fields;
	head->fields_max = room;
	const char *what = impossible_head(plugin->names, head, bytes);
	if (what)
		return misbehaved(plugin, what);
	for (unsigned i = 0; i < head->field_count; i++)
		ret_head->fields[i] =
		    (struct field){.name = to_str(fields[i].name), .value = to_str(fields[i].value)};
	*ret_head = (struct head){.method = to_str(head->method),
				  .authority = to_str(head->service),
				  .field_count = head->field_count,
				  .fields = ret_head->fields};
	return 0;
}

static int plugin_decode(const struct framed_codec *codec, struct frame *frame, struct str bytes,
			 uint16_t max_fields, struct head *ret_head)
{
	struct plugin *plugin = plugin_of(codec);
	struct weir_field fields[LIMIT_PLUGIN_FIELDS];
	const uint16_t room = MIN(max_fields, LIMIT_PLUGIN_FIELDS);
	struct weir_head head = {.fields = fields, .fields_max = room};
	const struct weir_frame from = from_frame(frame);
	if (!plugin->framed->decode) {
		*ret_head =
		    (struct head){.method = STR(""), .authority = STR(""), .fields = ret_head->fields};
		return 0;
	}
	int err = result_of(plugin, plugin->framed->decode(&from, to_bytes(bytes), &head));
	if (err == ERR_NEED_MORE)
		return misbehaved(plugin, "more wanted than the head of a frame");
	if (!err)
		err = take_head(plugin, &head, fields, room, to_bytes(bytes), ret_head);
	if (!err && head.timeout_ms)
		frame->timeout_ms = head.timeout_ms;
	return err;
}

// --- what the plug-in writes --------------------------------------------------------------------------------
// It is measured like any other frame. What is not what it should be is not sent.
static void check_written(struct plugin *plugin, struct str bytes, uint8_t kind, uint64_t id,
			  struct writer *out)
{
	struct frame frame = {0};
	if (bytes.len > CODEC_WRITE_ROOM || bytes.len == 0) {
		misbehaved(plugin, "a frame of its own that does not fit, or is empty");
		return;
	}
	int err = plugin_measure(&plugin->codec, bytes, &frame);
	bool right =
	    !err && frame.kind == kind && frame.length == bytes.len && (!frame.id_size || frame.id == id);
	if (right)
		writer_bytes(out, bytes.p, bytes.len);
	else
		misbehaved(plugin, "a frame of its own that it cannot read itself, or of another kind or id");
}

static void plugin_write_failure(const struct framed_codec *codec, const struct frame *request,
				 enum rpc_failure failure, struct str text, struct writer *out)
{
	struct plugin *plugin = plugin_of(codec);
	const struct weir_frame from = from_frame(request);
	uint8_t bytes[CODEC_WRITE_ROOM];
	size_t len = plugin->framed->write_failure(&from, (enum weir_failure)failure, to_bytes(text), bytes,
						   sizeof bytes);
	check_written(plugin, (struct str){(char *)bytes, len}, FRAME_RESPONSE, request->id, out);
}

static void plugin_write_heartbeat(const struct framed_codec *codec, uint16_t variant, uint64_t id,
				   struct writer *out)
{
	struct plugin *plugin = plugin_of(codec);
	uint8_t bytes[CODEC_WRITE_ROOM];
	size_t len = plugin->framed->write_heartbeat(variant, id, bytes, sizeof bytes);
	check_written(plugin, (struct str){(char *)bytes, len}, FRAME_HEARTBEAT, id, out);
}

static void plugin_write_heartbeat_ack(const struct framed_codec *codec, const struct frame *heartbeat,
				       struct writer *out)
{
	struct plugin *plugin = plugin_of(codec);
	const struct weir_frame from = from_frame(heartbeat);
	uint8_t bytes[CODEC_WRITE_ROOM];
	size_t len = plugin->framed->write_heartbeat_ack(&from, bytes, sizeof bytes);
	check_written(plugin, (struct str){(char *)bytes, len}, FRAME_HEARTBEAT_ACK, heartbeat->id, out);
}

static void plugin_write_goaway(const struct framed_codec *codec, uint16_t variant, uint64_t id,
				struct writer *out)
{
	struct plugin *plugin = plugin_of(codec);
	uint8_t bytes[CODEC_WRITE_ROOM];
	size_t len = plugin->framed->write_goaway(variant, id, bytes, sizeof bytes);
	check_written(plugin, (struct str){(char *)bytes, len}, FRAME_GOAWAY, id, out);
}

static uint16_t plugin_http_status(const struct framed_codec *codec, uint16_t status)
{
	struct plugin *plugin = plugin_of(codec);
	uint16_t (*ask)(uint16_t status) =
	    plugin->framed ? plugin->framed->http_status : plugin->streamed->http_status;
	if (!ask)
		return status ? 500 : 200;
	uint16_t http_status = ask(status);
	if (http_status >= 100 && http_status <= 599)
		return http_status;
	misbehaved(plugin, "a status that HTTP does not have");
	return 500;
}

// --- streamed protocols -------------------------------------------------------------------------------------
static int take_piece(struct plugin *plugin, enum weir_result result, const struct weir_piece *piece,
		      size_t given, struct stream_piece *ret_piece)
{
	int err = result_of(plugin, result);
	if (err == ERR_NEED_MORE && given >= LIMIT_FRAME_HEAD)
		return ERR_LIMIT;
	if (err)
		return err;
	if (piece->length == 0 || piece->length > given)
		return misbehaved(plugin, "a piece of no bytes, or of more than there are");
	if (piece->flags & ~(WEIR_START | WEIR_END))
		return misbehaved(plugin, "flags of a piece that there are not");
	*ret_piece = (struct stream_piece){
	    .length = piece->length,
	    .flags = piece->flags,
	    .oneway = piece->oneway,
	    .status = piece->status,
	    .tag = piece->tag,
	    .timeout_ms = piece->timeout_ms,
	};
	return 0;
}

static int plugin_read_request(const struct framed_codec *codec, struct stream_state *state, struct str bytes,
			       uint16_t max_fields, struct head *ret_head, struct stream_piece *ret_piece)
{
	struct plugin *plugin = plugin_of(codec);
	struct weir_field fields[LIMIT_PLUGIN_FIELDS];
	const uint16_t room = MIN(max_fields, LIMIT_PLUGIN_FIELDS);
	struct weir_head head = {.fields = fields, .fields_max = room};
	struct weir_piece piece = {0};
	struct weir_state *own = (struct weir_state *)state;
	enum weir_result result = plugin->streamed->read_request(own, to_bytes(bytes), &piece, &head);
	int err = take_piece(plugin, result, &piece, bytes.len, ret_piece);
	if (err || !(piece.flags & WEIR_START))
		return err;
	bytes.len = piece.length;
	return take_head(plugin, &head, fields, room, to_bytes(bytes), ret_head);
}

static int plugin_read_response(const struct framed_codec *codec, struct stream_state *state, uint32_t tag,
				struct str bytes, struct stream_piece *ret_piece)
{
	struct plugin *plugin = plugin_of(codec);
	struct weir_piece piece = {0};
	struct weir_state *own = (struct weir_state *)state;
	enum weir_result result = plugin->streamed->read_response(own, tag, to_bytes(bytes), &piece);
	return take_piece(plugin, result, &piece, bytes.len, ret_piece);
}

// Whether the bytes are one whole answer.
static bool is_answer(struct plugin *plugin, uint32_t tag, struct str bytes)
{
	struct stream_state state = {0};
	struct stream_piece piece = {0};
	bool first = true;
	while (bytes.len && plugin_read_response(&plugin->codec, &state, tag, bytes, &piece) == 0) {
		if (!(piece.flags & PIECE_START) == first)
			return false;
		first = false;
		bytes = (struct str){bytes.p + piece.length, bytes.len - piece.length};
		if (piece.flags & PIECE_END)
			return bytes.len == 0;
	}
	return false;
}

static void plugin_write_answer(const struct framed_codec *codec, uint32_t tag, enum rpc_failure failure,
				struct str text, struct writer *out)
{
	struct plugin *plugin = plugin_of(codec);
	uint8_t bytes[CODEC_WRITE_ROOM];
	size_t len = plugin->streamed->write_failure(tag, (enum weir_failure)failure, to_bytes(text), bytes,
						     sizeof bytes);
	if (len <= sizeof bytes && is_answer(plugin, tag, (struct str){(char *)bytes, len}))
		writer_bytes(out, bytes, len);
	else
		misbehaved(plugin, "an answer of its own that it cannot read itself");
}

static const struct streamed_codec plugin_streamed = {plugin_read_request, plugin_read_response,
						      plugin_write_answer};

// --- the table ----------------------------------------------------------------------------------------------
static bool is_name(const char *name)
{
	size_t len = name ? strnlen(name, NAME_MAX + 1) : 0;
	for (size_t i = 0; i < len; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') &&
		    name[i] != '-' && name[i] != '_')
			return false;
	return len > 0 && len <= NAME_MAX;
}

static const char *wrong_framed(const struct weir_framed *framed)
{
	if (framed->size != sizeof *framed)
		return "the size of its struct weir_framed is wrong";
	if (!framed->measure || !framed->write_failure)
		return "it lacks measure or write_failure";
	if (framed->first_id == 0 || framed->last_id < framed->first_id)
		return "first_id is 0, or above last_id";
	if (framed->last_id - framed->first_id < LIMIT_RPC_SLOTS)
		return "its ids are too few: it needs more than 8192 from first_id to last_id";
	return NULL;
}

static const char *wrong_streamed(const struct weir_streamed *streamed)
{
	if (streamed->size != sizeof *streamed)
		return "the size of its struct weir_streamed is wrong";
	if (!streamed->read_request || !streamed->read_response || !streamed->write_failure)
		return "it lacks read_request, read_response or write_failure";
	return NULL;
}

static const char *wrong_table(const struct weir_plugin *table)
{
	if (table->abi != WEIR_PLUGIN_ABI)
		return "it was made for another version of weir_plugin.h";
	if (table->size != sizeof *table)
		return "the size of its struct weir_plugin is wrong";
	if (!table->framed == !table->streamed)
		return "it adds no protocol, or two";
	const char *what = table->framed ? wrong_framed(table->framed) : wrong_streamed(table->streamed);
	if (!what && !is_name(table->framed ? table->framed->name : table->streamed->name))
		what = "its name is not made of 1 to 32 of a to z, 0 to 9, '-' and '_'";
	return what;
}

static struct framed_codec framed_codec_of(const struct weir_framed *framed)
{
	return (struct framed_codec){
	    .name = framed->name,
	    .protocol = PROTOCOL_PLUGIN,
	    .weak_signature = !framed->detect,
	    .first_id = framed->first_id,
	    .last_id = framed->last_id,
	    .usable = plugin_usable,
	    .detect = plugin_detect,
	    .measure = plugin_measure,
	    .decode = plugin_decode,
	    .write_heartbeat = framed->write_heartbeat ? plugin_write_heartbeat : NULL,
	    .write_heartbeat_ack = framed->write_heartbeat_ack ? plugin_write_heartbeat_ack : NULL,
	    .write_goaway = framed->write_goaway ? plugin_write_goaway : NULL,
	    .write_failure = plugin_write_failure,
	    .http_status = plugin_http_status,
	};
}

static struct framed_codec streamed_codec_of(const struct weir_streamed *streamed)
{
	return (struct framed_codec){
	    .name = streamed->name,
	    .protocol = PROTOCOL_PLUGIN,
	    .weak_signature = !streamed->detect,
	    .streamed = &plugin_streamed,
	    .usable = plugin_usable,
	    .detect = plugin_detect,
	    .http_status = plugin_http_status,
	};
}

const char *plugin_init(const struct weir_plugin *table, void (*report)(const struct plugin *, const char *),
			struct plugin *ret_plugin)
{
	const char *what = wrong_table(table);
	if (what)
		return what;
	ret_plugin->framed = table->framed;
	ret_plugin->streamed = table->streamed;
	ret_plugin->names = table->framed ? table->framed->names : table->streamed->names;
	ret_plugin->report = report;
	atomic_init(&ret_plugin->misbehaved, false);
	ret_plugin->codec =
	    table->framed ? framed_codec_of(table->framed) : streamed_codec_of(table->streamed);
	return NULL;
}
