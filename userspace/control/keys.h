// SPDX-License-Identifier: Apache-2.0
// The table of configuration keys: what each is called, its type, range, default and meaning, and where its
// value goes. Data only; reader.c, show.c and schema.c walk it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum key_type {
	KEY_OBJECT, // `keys` describe it; their offsets count from the same struct. As an element of a list:
		    // a struct of its own that begins with a struct config_at
	KEY_LIST,   // `item` describes the elements; a struct config_list
	KEY_BOOL,   // bool
	KEY_UINT,   // uint32_t in min..max
	KEY_DURATION, // uint32_t milliseconds, written "5s", "250ms", "2m", "1h"; range in ms
	KEY_CHOICE,   // uint32_t index into `choices`
	KEY_TEXT,     // struct config_text, of min..max bytes
	KEY_NAME,     // const char *
	KEY_ADDR,     // struct addr, "192.0.2.1:80"
	KEY_RESOLVER, // struct addr, the port may be left out (53)
	KEY_IP,	      // struct ip
	KEY_CIDR,     // struct cidr
	KEY_PORTS,    // struct port_range, "80" or "8000-8999"
	KEY_USERS,    // struct id_range, a number, a range, or a user's name
	KEY_GROUPS,   // the same of groups
	KEY_MARK,     // struct mark_match, "0x100" or "0x100/0xff00"
};

struct key {
	const char *name; // NULL ends a table; in `item`: what one element is called
	enum key_type type;
	size_t offset;
	const char *initial; // default, as it would be written; NULL: zero, empty or absent
	const char *text;
	const char *unit;
	uint32_t min, max;
	const char *const *choices; // ended by NULL
	const struct key *keys;	    // of an object
	const struct key *item;	    // of a list
	size_t item_size;
	size_t items_max;
	bool single; // of a list: one element may stand without the brackets
	bool required;
	bool restart; // read at the start only: a change waits for the next one
	bool secret;  // what is given is not repeated in messages
};

// The top level: an object that is a struct config.
extern const struct key config_root;
