// SPDX-License-Identifier: Apache-2.0
// Capture files: reads pcap (both byte orders, micro- and nanoseconds) and pcapng, and writes pcapng with a
// comment at packets. Pure and restartable: the reader is given the bytes that there are and says how many it
// took; the caller does the input and output. What a pcapng file holds beside packets is passed on as it is.
//
// Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
#pragma once

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pcap_kind { PCAP_UNKNOWN, PCAP_CLASSIC, PCAP_NG };

// Zero-initialise; pcap_reader_done frees.
struct pcap_reader {
	enum pcap_kind kind;
	bool little; // byte order of the file, or of the section
	bool nano;   // classic: fractions are nanoseconds
	uint64_t at; // bytes taken so far
	uint32_t *_links;
	size_t link_count, _link_cap; // interfaces of the section
	const char *fault;	      // what is wrong, after an error
};

enum pcap_item_kind {
	PCAP_HEADER, // of a file or a section
	PCAP_PACKET,
	PCAP_OTHER, // a block without a packet, or with one that cannot carry a comment
};

// What was taken; views into the bytes given.
struct pcap_item {
	enum pcap_item_kind kind;
	struct str raw;			    // all of it
	struct str bytes;		    // PCAP_PACKET: what was captured
	uint32_t link;			    // and on what
	uint32_t seconds, fraction, length; // classic
};

// Takes the next item. Returns its length (> 0); ERR_NEED_MORE; ERR_MALFORMED, ERR_LIMIT or ERR_UNSUPPORTED
// with a `fault`, at offset `at`; or -ENOMEM.
int pcap_read(struct pcap_reader *reader, struct str bytes, struct pcap_item *ret_item);
void pcap_reader_done(struct pcap_reader *reader);
// Appends the item as pcapng, with a comment if it is a packet and the comment is not empty.
void pcap_write(const struct pcap_reader *reader, const struct pcap_item *item, struct str comment,
		struct strbuf *out);
