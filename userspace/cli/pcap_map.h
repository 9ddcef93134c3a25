// SPDX-License-Identifier: Apache-2.0
// What is known of the flows in a capture: from the proxy's connections (asked, or saved in a file) and from
// the kernel's connection tracking. Entries are only added, so that what ended during a long capture stays.
#pragma once

#include "base/table.h"
#include "cli/packet.h"
#include "cli/reply.h"
#include "intercept/conntrack.h"

enum { PCAP_PORTS_MAX = 16 };

// Zero-initialise but for the ports; pcap_map_done frees.
struct pcap_map {
	uint16_t ports[PCAP_PORTS_MAX]; // where the proxy listens
	size_t port_count;
	size_t count;
	struct table _flows; // by the client's end
	struct pcap_entry *_entries;
	struct table _names; // by virtual IP
	struct pcap_name *_name_list;
};

// From an answer of `conn show`; of `dns show`; of connection tracking, which tells also at which end the
// proxy is. What is there already is not added again. 0 or -ENOMEM.
int pcap_map_add_connections(struct pcap_map *map, const struct reply *reply);
int pcap_map_add_names(struct pcap_map *map, const struct reply *reply);
int pcap_map_add_redirected(struct pcap_map *map, const struct redirected_list *list);
void pcap_map_done(struct pcap_map *map);

bool pcap_map_is_port(const struct pcap_map *map, uint16_t port);
// Appends the comment for a packet: its flow with the original destination in place of the proxy's end.
// Nothing if the flow is not known.
void pcap_map_comment(const struct pcap_map *map, const struct packet_flow *flow, struct strbuf *out);
