// SPDX-License-Identifier: Apache-2.0
// Capture files of any content: what is read whole and byte by byte is equal, and what is written is read again
// with the same packets.
#include "base/error.h"
#include "base/mem.h"
#include "check.h"
#include "cli/packet.h"
#include "cli/pcap_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
	size_t packets, bytes;
	int err; // what ended it
};

static void note(const struct pcap_item *item, struct outcome *outcome)
{
	struct packet_flow flow;
	if (item->kind != PCAP_PACKET)
		return;
	outcome->packets++;
	outcome->bytes += item->bytes.len;
	packet_flow(item->link, item->bytes, &flow);
}

// Gives the reader at most `step` bytes more each time that it wants some.
static struct outcome read_all(struct str bytes, size_t step, struct str comment, struct strbuf *written)
{
	struct pcap_reader reader = {0};
	struct outcome outcome = {0};
	size_t at = 0, end = step < bytes.len ? step : bytes.len;
	for (;;) {
		struct pcap_item item;
		int n = pcap_read(&reader, (struct str){bytes.p + at, end - at}, &item);
		if (n == ERR_NEED_MORE && end < bytes.len) {
			end = end + step < bytes.len ? end + step : bytes.len;
			continue;
		}
		if (n <= 0) {
			outcome.err = n;
			break;
		}
		CHECK((size_t)n <= end - at && reader.at == at + (size_t)n);
		note(&item, &outcome);
		if (written)
			pcap_write(&reader, &item, comment, written);
		at += (size_t)n;
	}
	pcap_reader_done(&reader);
	return outcome;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str bytes = {(const char *)data, size};
	autostrbuf struct strbuf written = {0};
	struct outcome whole = read_all(bytes, size, STR("weir: a comment"), &written);
	struct outcome pieces = read_all(bytes, 1, STR(""), NULL);
	CHECK(whole.packets == pieces.packets && whole.bytes == pieces.bytes && whole.err == pieces.err);
	struct outcome again = read_all(strbuf_str(&written), 4096, STR(""), NULL);
	CHECK(again.packets == whole.packets && again.bytes == whole.bytes);
	CHECK(again.err == ERR_NEED_MORE);
	return 0;
}
