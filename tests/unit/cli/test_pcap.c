// SPDX-License-Identifier: Apache-2.0
// Capture files as bytes: what is read, what is written, what is refused, and whose a packet is.
#include "test.h"

#include "base/error.h"
#include "base/mem.h"
#include "cli/packet.h"
#include "cli/pcap_file.h"

#include <stdio.h>

// --- building ---------------------------------------------------------------------------------------------
static void put(struct strbuf *out, bool little, int width, uint64_t value)
{
	for (int i = 0; i < width; i++)
		strbuf_add_char(out, (char)(value >> 8 * (little ? i : width - 1 - i)));
}

static void put_classic(struct strbuf *out, bool little, uint32_t magic, uint32_t link)
{
	put(out, little, 4, magic);
	put(out, little, 2, 2);
	put(out, little, 2, 4);
	put(out, little, 8, 0);
	put(out, little, 4, 65535);
	put(out, little, 4, link);
}

static void put_record(struct strbuf *out, bool little, struct str bytes)
{
	put(out, little, 4, 1700000000);
	put(out, little, 4, 123456);
	put(out, little, 4, bytes.len);
	put(out, little, 4, bytes.len + 9);
	strbuf_add_str(out, bytes);
}

static void put_block(struct strbuf *out, bool little, uint32_t type, struct str body)
{
	put(out, little, 4, type);
	put(out, little, 4, body.len + 12);
	strbuf_add_str(out, body);
	put(out, little, 4, body.len + 12);
}

static void put_section(struct strbuf *out, bool little)
{
	autostrbuf struct strbuf body = {0};
	put(&body, little, 4, 0x1a2b3c4d);
	put(&body, little, 4, little ? 1 : 1 << 16); // version 1.0
	put(&body, little, 8, 4711);		     // a length that will not hold
	put_block(out, little, 0x0a0d0d0a, strbuf_str(&body));
}

static void put_interface(struct strbuf *out, bool little, uint16_t link)
{
	autostrbuf struct strbuf body = {0};
	put(&body, little, 2, link);
	put(&body, little, 6, 0);
	put_block(out, little, 1, strbuf_str(&body));
}

static void put_packet(struct strbuf *out, bool little, uint32_t interface, struct str bytes,
		       struct str options)
{
	autostrbuf struct strbuf body = {0};
	put(&body, little, 4, interface);
	put(&body, little, 8, 0x0102030405060708);
	put(&body, little, 4, bytes.len);
	put(&body, little, 4, bytes.len);
	strbuf_add_str(&body, bytes);
	put(&body, little, (int)(-bytes.len & 3), 0);
	strbuf_add_str(&body, options);
	put_block(out, little, 6, strbuf_str(&body));
}

// --- reading ----------------------------------------------------------------------------------------------
struct seen {
	size_t packets;
	uint32_t link, seconds, fraction, length;
	char bytes[64];
	int err;
	uint64_t at;
	char fault[128];
};

static struct seen read_pieces(struct str file, size_t step, struct str comment, struct strbuf *written)
{
	struct pcap_reader reader = {0};
	struct seen seen = {0};
	size_t at = 0, end = 0;
	while (seen.err == 0) {
		struct pcap_item item;
		int n = pcap_read(&reader, (struct str){file.p + at, end - at}, &item);
		if (n == ERR_NEED_MORE && end < file.len) {
			end = MIN(end + step, file.len);
			continue;
		}
		seen.err = n < 0 ? n : 0;
		if (n < 0)
			break;
		at += (size_t)n;
		if (item.kind == PCAP_PACKET) {
			seen.packets++;
			seen.link = item.link;
			seen.seconds = item.seconds;
			seen.fraction = item.fraction;
			seen.length = item.length;
			snprintf(seen.bytes, sizeof seen.bytes, "%.*s", STR_ARG(item.bytes));
		}
		if (written)
			pcap_write(&reader, &item, comment, written);
	}
	seen.at = reader.at;
	snprintf(seen.fault, sizeof seen.fault, "%s", reader.fault ? reader.fault : "");
	pcap_reader_done(&reader);
	return seen;
}

static struct seen read_file(const struct strbuf *file)
{
	struct seen whole = read_pieces(strbuf_str(file), file->len, STR(""), NULL);
	struct seen bytewise = read_pieces(strbuf_str(file), 1, STR(""), NULL);
	assert_memory_equal(&whole, &bytewise, sizeof whole);
	return whole;
}

static void classic_files_are_read(void **state)
{
	// With frame check sequences of 0 to 15 times 16 bits, or nothing said of them.
	static const uint32_t magics[] = {0xa1b2c3d4, 0xa1b23c4d},
			      checks[] = {0, 0x04000000, 0x14000000, 0xf4000000, 0x10000000};
	(void)state;
	for (int little = 0; little < 2; little++)
		for (size_t i = 0; i < ARRAY_SIZE(magics) * ARRAY_SIZE(checks); i++) {
			autostrbuf struct strbuf file = {0};
			put_classic(&file, little, magics[i % ARRAY_SIZE(magics)],
				    checks[i / ARRAY_SIZE(magics)] | LINK_SLL2);
			put_record(&file, little, STR("first"));
			put_record(&file, little, STR("second"));
			struct seen seen = read_file(&file);
			assert_int_equal(seen.err, ERR_NEED_MORE);
			assert_int_equal(seen.at, file.len);
			assert_int_equal(seen.packets, 2);
			assert_int_equal(seen.link, LINK_SLL2);
			assert_int_equal(seen.seconds, 1700000000);
			assert_int_equal(seen.fraction, 123456);
			assert_int_equal(seen.length, 15);
			assert_string_equal(seen.bytes, "second");
		}
}

static void sections_have_their_own_order_and_interfaces(void **state)
{
	autostrbuf struct strbuf file = {0};
	(void)state;
	put_section(&file, true);
	put_interface(&file, true, LINK_ETHERNET);
	put_interface(&file, true, LINK_RAW);
	put_packet(&file, true, 1, STR("abcde"), STR(""));
	put_section(&file, false);
	put_interface(&file, false, LINK_SLL);
	put_packet(&file, false, 0, STR("fgh"), STR(""));
	struct seen seen = read_file(&file);
	assert_int_equal(seen.err, ERR_NEED_MORE);
	assert_int_equal(seen.packets, 2);
	assert_int_equal(seen.link, LINK_SLL);
	assert_string_equal(seen.bytes, "fgh");
	// An interface of the section before is none of this one.
	put_packet(&file, false, 1, STR("x"), STR(""));
	seen = read_file(&file);
	assert_int_equal(seen.err, ERR_MALFORMED);
	assert_string_equal(seen.fault, "a packet of an interface that is not described");
}

// --- writing ----------------------------------------------------------------------------------------------
// What was written is read again, and has the comment behind the bytes of each packet.
static void check_comment(const struct strbuf *file, bool little, size_t packets)
{
	static const char comment[] = "weir: here"; // two bytes short of a multiple of four
	autostrbuf struct strbuf written = {0}, option = {0};
	read_pieces(strbuf_str(file), 7, str_from(comment), &written);
	put(&option, little, 2, 1);
	put(&option, little, 2, strlen(comment));
	strbuf_add_text(&option, comment);
	put(&option, little, 2, 0);
	size_t found = 0;
	for (size_t at = 0; at + option.len <= written.len; at++)
		found += memcmp(written.p + at, option.p, option.len) == 0;
	assert_int_equal(found, packets);
	struct seen before = read_file(file), after = read_file(&written);
	assert_int_equal(after.err, ERR_NEED_MORE);
	assert_int_equal(after.at, written.len);
	assert_int_equal(after.packets, before.packets);
	assert_int_equal(after.link, before.link);
	assert_string_equal(after.bytes, before.bytes);
}

static void comments_are_written(void **state)
{
	(void)state;
	for (int little = 0; little < 2; little++) {
		autostrbuf struct strbuf classic = {0}, ng = {0};
		put_classic(&classic, little, 0xa1b2c3d4, LINK_RAW);
		put_record(&classic, little, STR("abc"));
		put_record(&classic, little, STR(""));
		check_comment(&classic, little, 2);
		put_section(&ng, little);
		put_interface(&ng, little, LINK_RAW);
		put_packet(&ng, little, 0, STR("abcde"), STR(""));
		put_packet(&ng, little, 0, STR("abcd"), STR("\0\2\0\0\0\0\0\0"));
		put_block(&ng, little, 0x0bad,
			  STR("passed on"
			      "123"));
		check_comment(&ng, little, 2);
	}
}

// Times keep their resolution: microseconds as a count of them, in two halves.
static void times_are_kept(void **state)
{
	autostrbuf struct strbuf file = {0}, written = {0}, time = {0};
	(void)state;
	put_classic(&file, true, 0xa1b2c3d4, LINK_RAW);
	put_record(&file, true, STR("abc"));
	read_pieces(strbuf_str(&file), file.len, STR(""), &written);
	uint64_t micros = 1700000000ull * 1000000 + 123456;
	put(&time, true, 4, micros >> 32);
	put(&time, true, 4, micros & UINT32_MAX);
	put(&time, true, 4, 3);
	put(&time, true, 4, 12);
	assert_memory_equal(written.p + 28 + 32 + 12, time.p, time.len);
}

static void without_a_comment_blocks_stay_as_they_are(void **state)
{
	autostrbuf struct strbuf file = {0}, written = {0};
	(void)state;
	put_section(&file, true);
	put_interface(&file, true, LINK_RAW);
	put_packet(&file, true, 0, STR("abcde"), STR("\1\0\1\0x\0\0\0\0\0\0\0"));
	read_pieces(strbuf_str(&file), file.len, STR(""), &written);
	assert_int_equal(written.len, file.len);
	assert_memory_equal(written.p + 28, file.p + 28, file.len - 28);
	assert_memory_equal(written.p + 16, "\xff\xff\xff\xff\xff\xff\xff\xff", 8); // the section's length
}

// --- refusing ---------------------------------------------------------------------------------------------
static void refused(struct str bytes, int err, uint64_t at, const char *fault)
{
	struct seen seen = read_pieces(bytes, bytes.len, STR(""), NULL);
	assert_int_equal(seen.err, err);
	assert_int_equal(seen.at, at);
	assert_string_equal(seen.fault, fault);
}

static void what_is_wrong_is_said(void **state)
{
	autostrbuf struct strbuf big = {0}, lengths = {0}, odd = {0}, long_packet = {0};
	(void)state;
	refused(STR("GIF89a, no capture"), ERR_UNSUPPORTED, 0, "neither pcap nor pcapng");
	refused(STR("\xa1\xb2\xcd\x34"), ERR_UNSUPPORTED, 0,
		"a variant of pcap with records of another form");
	refused(STR("\xd4\xc3\xb2\xa1\3\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0"), ERR_UNSUPPORTED, 0,
		"a version of pcap other than 2");
	refused(STR("\n\r\r\n\0\0\0\x1cthis"), ERR_MALFORMED, 0, "a section without a byte order");
	put_classic(&big, true, 0xa1b2c3d4, LINK_RAW);
	put(&big, true, 8, 0);
	put(&big, true, 4, UINT32_MAX);
	put(&big, true, 4, 1);
	refused(strbuf_str(&big), ERR_LIMIT, 24, "a packet of more than 16 MiB: the record is damaged");
	put_section(&lengths, false);
	strbuf_add(&lengths, "\0\0\0\5\0\0\0\x0c\0\0\0\x10", 12);
	refused(strbuf_str(&lengths), ERR_MALFORMED, 28, "the two lengths of a block differ");
	put_section(&odd, false);
	strbuf_add(&odd, "\0\0\0\5\0\0\0\x0d", 8);
	refused(strbuf_str(&odd), ERR_MALFORMED, 28, "the length of a block is impossible");
	put_section(&long_packet, true);
	put_interface(&long_packet, true, LINK_RAW);
	put_block(&long_packet, true, 6, STR("\0\0\0\0........\x08\0\0\0\x08\0\0\0abcd"));
	refused(strbuf_str(&long_packet), ERR_MALFORMED, 48, "a packet is longer than its block");
}

static void interfaces_have_a_limit(void **state)
{
	autostrbuf struct strbuf file = {0};
	(void)state;
	put_section(&file, true);
	for (int i = 0; i < 1025; i++)
		put_interface(&file, true, LINK_RAW);
	refused(strbuf_str(&file), ERR_LIMIT, 28 + 1024 * 20, "too many interfaces");
}

// --- whose packet it is -----------------------------------------------------------------------------------
#define PORTS "\x9c\x40\x3a\x99" // 40000 to 15001
#define IP4_AT(protocol, offset)                                                                             \
	"\x45\0\0\x28\0\1" offset "\x40" protocol "\0\0"                                                     \
	"\x0a\x4d\0\3"                                                                                       \
	"\x7f\0\0\1"
#define IP4  IP4_AT("\6", "\0\0") PORTS
#define IP4U IP4_AT("\x11", "\x20\0") PORTS // the first fragment of a datagram
#define IP6_TO(next)                                                                                         \
	"\x60\0\0\0\0\x14" next "\x40"                                                                       \
	"\xfd\0\0\x77\0\0\0\0\0\0\0\0\0\0\0\3"                                                               \
	"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"
#define IP6  IP6_TO("\6") PORTS
#define MACS "123456abcdef"

static void flows_are_found(void **state)
{
	static const struct {
		uint32_t link;
		struct str bytes;
		int family, protocol;
	} rows[] = {
	    {LINK_ETHERNET, STR(MACS "\x08\0" IP4), AF_INET, IPPROTO_TCP},
	    {LINK_ETHERNET, STR(MACS "\x08\0" IP4U), AF_INET, IPPROTO_UDP},
	    {LINK_ETHERNET, STR(MACS "\x86\xdd" IP6), AF_INET6, IPPROTO_TCP},
	    {LINK_ETHERNET, STR(MACS "\x81\0\0\5\x08\0" IP4), AF_INET, IPPROTO_TCP},
	    {LINK_ETHERNET, STR(MACS "\x88\xa8\0\5\x81\0\0\6\x86\xdd" IP6), AF_INET6, IPPROTO_TCP},
	    {LINK_RAW, STR(IP4), AF_INET, IPPROTO_TCP},
	    {LINK_RAW_BSD, STR(IP6), AF_INET6, IPPROTO_TCP},
	    {LINK_IPV4, STR(IP4), AF_INET, IPPROTO_TCP},
	    {LINK_IPV6, STR(IP6), AF_INET6, IPPROTO_TCP},
	    {LINK_NULL, STR("\2\0\0\0" IP4), AF_INET, IPPROTO_TCP},
	    {LINK_NULL, STR("\0\0\0\x1e" IP6), AF_INET6, IPPROTO_TCP},
	    {LINK_LOOP, STR("\0\0\0\2" IP4), AF_INET, IPPROTO_TCP},
	    {LINK_SLL, STR("0123456789abcd\x08\0" IP4), AF_INET, IPPROTO_TCP},
	    {LINK_SLL2,
	     STR("\x86\xdd"
		 "0123456789abcdefgh" IP6),
	     AF_INET6, IPPROTO_TCP},
	    {LINK_RAW, STR("\x46\0\0\x28\0\1\0\0\x40\6\0\0\x0a\x4d\0\3\x7f\0\0\1\1\1\1\1" PORTS), AF_INET,
	     IPPROTO_TCP},
	    // hop-by-hop, routing, the first fragment, AH of 24 bytes
	    {LINK_IPV6,
	     STR(IP6_TO("\0") "\x2b\0......"
			      "\x2c\1......12345678"
			      "\x33\0\0\0...."
			      "\6\4..1234567890abcdefghij" PORTS),
	     AF_INET6, IPPROTO_TCP},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct packet_flow flow;
		char text[ADDR_TEXT_MAX];
		assert_int_equal(packet_flow(rows[i].link, rows[i].bytes, &flow), 0);
		assert_int_equal(flow.protocol, rows[i].protocol);
		bool six = rows[i].family == AF_INET6;
		assert_string_equal(addr_format(&flow.source, text),
				    six ? "[fd00:77::3]:40000" : "10.77.0.3:40000");
		assert_string_equal(addr_format(&flow.dest, text), six ? "[::1]:15001" : "127.0.0.1:15001");
		// Cut anywhere, it is never found, and nothing behind the end is looked at.
		for (size_t len = 0; len < rows[i].bytes.len; len++) {
			autofree char *copy = mem_strndup(rows[i].bytes.p, len);
			assert_int_not_equal(packet_flow(rows[i].link, (struct str){copy, len}, &flow), 0);
		}
	}
}

static void other_packets_have_no_flow(void **state)
{
	static const struct {
		uint32_t link;
		struct str bytes;
		int err;
	} rows[] = {
	    {LINK_ETHERNET, STR(MACS "\x08\6...................."), ERR_UNSUPPORTED}, // ARP
	    {LINK_RAW, STR(IP4_AT("\1", "\0\0") "...."), ERR_UNSUPPORTED},	      // ICMP
	    {LINK_RAW, STR(IP4_AT("\6", "\0\1") "...."), ERR_UNSUPPORTED},	      // a later fragment
	    {LINK_RAW, STR("\x44\0\0\x28\0\1\0\0\x40\6\0\0........" PORTS),
	     ERR_MALFORMED}, // a header of 16 bytes
	    {LINK_RAW, STR("\x50..."), ERR_MALFORMED},
	    {LINK_IPV6, STR(IP6_TO("\x2c") "\6\0\0\x08...." PORTS), ERR_UNSUPPORTED}, // a later fragment
	    {LINK_NULL, STR("\7\0\0\0" IP4), ERR_UNSUPPORTED},
	    {147, STR(IP4), ERR_UNSUPPORTED},
	    {LINK_ETHERNET, STR(MACS "\x81\0\0\1\x81\0\0\1\x81\0\0\1\x81\0\0\1\x81\0\0\1\x08\0" IP4),
	     ERR_UNSUPPORTED},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct packet_flow flow;
		assert_int_equal(packet_flow(rows[i].link, rows[i].bytes, &flow), rows[i].err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(classic_files_are_read),
	    cmocka_unit_test(sections_have_their_own_order_and_interfaces),
	    cmocka_unit_test(comments_are_written),
	    cmocka_unit_test(times_are_kept),
	    cmocka_unit_test(without_a_comment_blocks_stay_as_they_are),
	    cmocka_unit_test(what_is_wrong_is_said),
	    cmocka_unit_test(interfaces_have_a_limit),
	    cmocka_unit_test(flows_are_found),
	    cmocka_unit_test(other_packets_have_no_flow),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
