// SPDX-License-Identifier: Apache-2.0
#include "cli/pcap_file.h"

#include "base/cursor.h"
#include "base/limits.h"
#include "base/mem.h"

#include <errno.h>

#define MAGIC_MICRO   0xa1b2c3d4u
#define MAGIC_NANO    0xa1b23c4du
#define MAGIC_PATCHED 0xa1b2cd34u // a variant with longer records, of old Linux distributions
#define MAGIC_ORDER   0x1a2b3c4du

enum {
	CLASSIC_HEADER = 24,
	CLASSIC_RECORD = 16,
	CLASSIC_LINK_MASK = 0xffff, // above: frame check sequences, and bits without a meaning
	BLOCK_SECTION = 0x0a0d0d0a,
	BLOCK_INTERFACE = 1,
	BLOCK_PACKET = 6,
	BLOCK_MIN = 12,
	BLOCK_HEAD = 8,	  // type and length
	PACKET_HEAD = 20, // behind those, up to the captured bytes
	OPTION_COMMENT = 1,
	OPTION_RESOLUTION = 9,
	COMMENT_MAX = 0xfff0,
};

static int fail(struct pcap_reader *reader, int err, const char *fault)
{
	reader->fault = fault;
	return err;
}

static uint32_t get_u32(const struct pcap_reader *reader, struct reader *r)
{
	uint32_t value = reader_u32(r);
	return reader->little ? __builtin_bswap32(value) : value;
}

static uint16_t get_u16(const struct pcap_reader *reader, struct reader *r)
{
	uint16_t value = reader_u16(r);
	return reader->little ? __builtin_bswap16(value) : value;
}

static size_t padded(size_t len)
{
	return (len + 3) & ~(size_t)3;
}

static int add_link(struct pcap_reader *reader, uint32_t link)
{
	if (reader->link_count == LIMIT_PCAP_INTERFACES)
		return fail(reader, ERR_LIMIT, "too many interfaces");
	int err = mem_grow((void **)&reader->_links, &reader->_link_cap, reader->link_count + 1,
			   sizeof *reader->_links);
	if (!err)
		reader->_links[reader->link_count++] = link;
	return err;
}

// --- pcap -------------------------------------------------------------------------------------------------
static int read_classic_header(struct pcap_reader *reader, struct reader *r, struct pcap_item *item)
{
	reader_skip(r, 4);
	uint16_t major = get_u16(reader, r);
	reader_skip(r, 14); // minor version, time zone, accuracy, snapshot length
	uint32_t link = get_u32(reader, r) & CLASSIC_LINK_MASK;
	if (r->err)
		return r->err;
	if (major != 2)
		return fail(reader, ERR_UNSUPPORTED, "a version of pcap other than 2");
	item->kind = PCAP_HEADER;
	item->link = link;
	return add_link(reader, link);
}

static int read_classic_record(struct pcap_reader *reader, struct reader *r, struct pcap_item *item)
{
	item->kind = PCAP_PACKET;
	item->link = reader->_links[0];
	item->seconds = get_u32(reader, r);
	item->fraction = get_u32(reader, r);
	uint32_t captured = get_u32(reader, r);
	item->length = get_u32(reader, r);
	if (r->err)
		return r->err;
	if (captured > LIMIT_PCAP_BLOCK)
		return fail(reader, ERR_LIMIT, "a packet of more than 16 MiB: the record is damaged");
	item->bytes = reader_bytes(r, captured);
	return r->err;
}

// --- pcapng -----------------------------------------------------------------------------------------------
static int read_order(struct pcap_reader *reader, struct reader r)
{
	reader_skip(&r, 4);
	uint32_t magic = reader_u32(&r);
	if (r.err)
		return r.err;
	if (magic != MAGIC_ORDER && magic != __builtin_bswap32(MAGIC_ORDER))
		return fail(reader, ERR_MALFORMED, "a section without a byte order");
	reader->little = magic != MAGIC_ORDER;
	return 0;
}

static int read_section(struct pcap_reader *reader, struct reader *body, struct pcap_item *item)
{
	reader_skip(body, 4); // byte order, known already
	uint16_t major = get_u16(reader, body);
	reader_skip(body, 10); // minor version, length of the section
	if (body->err)
		return fail(reader, ERR_MALFORMED, "a section's header is too short");
	if (major != 1)
		return fail(reader, ERR_UNSUPPORTED, "a version of pcapng other than 1");
	item->kind = PCAP_HEADER;
	reader->link_count = 0; // interfaces are counted anew
	return 0;
}

static int read_interface(struct pcap_reader *reader, struct reader *body)
{
	uint16_t link = get_u16(reader, body);
	reader_skip(body, 6);
	if (body->err)
		return fail(reader, ERR_MALFORMED, "an interface's description is too short");
	return add_link(reader, link);
}

static int read_packet(struct pcap_reader *reader, struct reader *body, struct pcap_item *item)
{
	uint32_t interface = get_u32(reader, body);
	reader_skip(body, 8); // time
	uint32_t captured = get_u32(reader, body);
	reader_skip(body, 4);
	item->kind = PCAP_PACKET;
	item->bytes = reader_bytes(body, captured);
	reader_skip(body, padded(captured) - captured);
	if (body->err)
		return fail(reader, ERR_MALFORMED, "a packet is longer than its block");
	if (interface >= reader->link_count)
		return fail(reader, ERR_MALFORMED, "a packet of an interface that is not described");
	item->link = reader->_links[interface];
	return 0;
}

static int read_body(struct pcap_reader *reader, uint32_t type, struct reader *body, struct pcap_item *item)
{
	item->kind = PCAP_OTHER;
	if (type == BLOCK_SECTION)
		return read_section(reader, body, item);
	if (type == BLOCK_INTERFACE)
		return read_interface(reader, body);
	if (type == BLOCK_PACKET)
		return read_packet(reader, body, item);
	return 0;
}

static int read_block(struct pcap_reader *reader, struct reader *r, struct pcap_item *item)
{
	uint32_t type = get_u32(reader, r);
	int err = !r->err && type == BLOCK_SECTION ? read_order(reader, *r) : 0;
	if (err)
		return err;
	uint32_t length = get_u32(reader, r);
	if (r->err)
		return r->err;
	if (length > LIMIT_PCAP_BLOCK)
		return fail(reader, ERR_LIMIT, "a block of more than 16 MiB");
	if (length < BLOCK_MIN || length % 4)
		return fail(reader, ERR_MALFORMED, "the length of a block is impossible");
	struct reader body = reader_sub(r, length - BLOCK_MIN);
	uint32_t again = get_u32(reader, r);
	if (r->err)
		return r->err;
	if (again != length)
		return fail(reader, ERR_MALFORMED, "the two lengths of a block differ");
	return read_body(reader, type, &body, item);
}

// --- both -------------------------------------------------------------------------------------------------
static int identify(struct pcap_reader *reader, struct reader r)
{
	uint32_t magic = reader_u32(&r), swapped = __builtin_bswap32(magic);
	if (r.err)
		return r.err;
	reader->kind = PCAP_CLASSIC;
	reader->little = swapped == MAGIC_MICRO || swapped == MAGIC_NANO;
	reader->nano = magic == MAGIC_NANO || swapped == MAGIC_NANO;
	if (magic == BLOCK_SECTION)
		reader->kind = PCAP_NG;
	else if (magic == MAGIC_PATCHED || swapped == MAGIC_PATCHED)
		return fail(reader, ERR_UNSUPPORTED, "a variant of pcap with records of another form");
	else if (!reader->little && magic != MAGIC_MICRO && magic != MAGIC_NANO)
		return fail(reader, ERR_UNSUPPORTED, "neither pcap nor pcapng");
	return 0;
}

int pcap_read(struct pcap_reader *reader, struct str bytes, struct pcap_item *ret_item)
{
	struct reader r;
	struct pcap_item item = {0};
	reader_init(&r, bytes.p, bytes.len);
	int err = reader->at == 0 ? identify(reader, r) : 0;
	if (!err)
		err = reader->kind == PCAP_NG ? read_block(reader, &r, &item)
		      : reader->at == 0	      ? read_classic_header(reader, &r, &item)
					      : read_classic_record(reader, &r, &item);
	if (err)
		return err;
	item.raw = (struct str){bytes.p, reader_tell(&r)};
	reader->at += item.raw.len;
	*ret_item = item;
	return (int)item.raw.len;
}

void pcap_reader_done(struct pcap_reader *reader)
{
	mem_free(reader->_links);
	*reader = (struct pcap_reader){0};
}

// --- writing ----------------------------------------------------------------------------------------------
// In the byte order of the section; of a pcap file the same.
static void put_u32(const struct pcap_reader *reader, uint32_t value, struct strbuf *out)
{
	uint32_t word =
	    reader->little == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? value : __builtin_bswap32(value);
	strbuf_add(out, &word, sizeof word);
}

// Two numbers of 16 bits, the first one first.
static void put_u16s(const struct pcap_reader *reader, uint16_t first, uint16_t second, struct strbuf *out)
{
	put_u32(reader, reader->little ? (uint32_t)second << 16 | first : (uint32_t)first << 16 | second,
		out);
}

static void put_padded(struct str bytes, struct strbuf *out)
{
	strbuf_add_str(out, bytes);
	strbuf_add(out, "\0\0\0", padded(bytes.len) - bytes.len);
}

static void write_header(const struct pcap_reader *reader, const struct pcap_item *item, struct strbuf *out)
{
	static const uint32_t section_length = 28, interface_length = 32;
	put_u32(reader, BLOCK_SECTION, out);
	put_u32(reader, section_length, out);
	put_u32(reader, MAGIC_ORDER, out);
	put_u16s(reader, 1, 0, out);
	put_u32(reader, UINT32_MAX, out); // the length of the section is not said
	put_u32(reader, UINT32_MAX, out);
	put_u32(reader, section_length, out);
	put_u32(reader, BLOCK_INTERFACE, out);
	put_u32(reader, interface_length, out);
	put_u16s(reader, (uint16_t)item->link, 0, out);
	put_u32(reader, 0, out); // no limit to what is captured of a packet
	put_u16s(reader, OPTION_RESOLUTION, 1, out);
	strbuf_add(out, reader->nano ? "\x09\0\0" : "\x06\0\0", 4);
	put_u32(reader, 0, out);
	put_u32(reader, interface_length, out);
}

static void put_comment(const struct pcap_reader *reader, struct str comment, struct strbuf *out)
{
	put_u16s(reader, OPTION_COMMENT, (uint16_t)comment.len, out);
	put_padded(comment, out);
}

static size_t comment_size(struct str comment)
{
	return comment.len ? 4 + padded(comment.len) : 0;
}

static void write_classic_packet(const struct pcap_reader *reader, const struct pcap_item *item,
				 struct str comment, struct strbuf *out)
{
	uint64_t time = item->seconds * (reader->nano ? 1000000000ull : 1000000ull) + item->fraction;
	size_t options = comment.len ? comment_size(comment) + 4 : 0;
	uint32_t length = (uint32_t)(BLOCK_MIN + PACKET_HEAD + padded(item->bytes.len) + options);
	put_u32(reader, BLOCK_PACKET, out);
	put_u32(reader, length, out);
	put_u32(reader, 0, out);
	put_u32(reader, (uint32_t)(time >> 32), out);
	put_u32(reader, (uint32_t)time, out);
	put_u32(reader, (uint32_t)item->bytes.len, out);
	put_u32(reader, item->length, out);
	put_padded(item->bytes, out);
	if (options) {
		put_comment(reader, comment, out);
		put_u32(reader, 0, out);
	}
	put_u32(reader, length, out);
}

// The comment goes in front of the options that there are.
static void write_block_packet(const struct pcap_reader *reader, const struct pcap_item *item,
			       struct str comment, struct strbuf *out)
{
	size_t front = BLOCK_HEAD + PACKET_HEAD + padded(item->bytes.len);
	struct str options = {item->raw.p + front, item->raw.len - front - 4};
	size_t end = options.len ? 0 : 4; // the mark behind the last option
	uint32_t length = (uint32_t)(item->raw.len + comment_size(comment) + end);
	strbuf_add(out, item->raw.p, 4);
	put_u32(reader, length, out);
	strbuf_add(out, item->raw.p + BLOCK_HEAD, front - BLOCK_HEAD);
	put_comment(reader, comment, out);
	strbuf_add_str(out, options);
	if (end)
		put_u32(reader, 0, out);
	put_u32(reader, length, out);
}

// Its length changes with the comments: it is left open.
static void write_section(const struct pcap_item *item, struct strbuf *out)
{
	enum { LENGTH_AT = 16, LENGTH = 8 };
	strbuf_add(out, item->raw.p, LENGTH_AT);
	strbuf_add(out, "\xff\xff\xff\xff\xff\xff\xff\xff", LENGTH);
	strbuf_add(out, item->raw.p + LENGTH_AT + LENGTH, item->raw.len - LENGTH_AT - LENGTH);
}

void pcap_write(const struct pcap_reader *reader, const struct pcap_item *item, struct str comment,
		struct strbuf *out)
{
	comment.len = comment.len > COMMENT_MAX ? COMMENT_MAX : comment.len;
	bool ng = reader->kind == PCAP_NG;
	if (item->kind == PCAP_HEADER && ng)
		write_section(item, out);
	else if (item->kind == PCAP_HEADER)
		write_header(reader, item, out);
	else if (item->kind == PCAP_PACKET && !ng)
		write_classic_packet(reader, item, comment, out);
	else if (item->kind == PCAP_PACKET && comment.len)
		write_block_packet(reader, item, comment, out);
	else
		strbuf_add_str(out, item->raw);
}
