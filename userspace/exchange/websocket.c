// SPDX-License-Identifier: Apache-2.0
#include "exchange/websocket.h"

#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <openssl/evp.h>

static const struct str GUID = STR("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");

int websocket_accept(struct arena *arena, struct str key, struct str *ret_accept)
{
	char joined[WEBSOCKET_KEY_BYTES + 36];
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	if (key.len != WEBSOCKET_KEY_BYTES)
		return ERR_MALFORMED;
	memcpy(joined, key.p, key.len);
	memcpy(joined + key.len, GUID.p, GUID.len);
	char *text = arena_alloc(arena, WEBSOCKET_ACCEPT_BYTES + 1);
	if (!text || EVP_Digest(joined, sizeof joined, digest, &len, EVP_sha1(), NULL) != 1)
		return -ENOMEM;
	EVP_EncodeBlock((unsigned char *)text, digest, (int)len);
	*ret_accept = (struct str){text, WEBSOCKET_ACCEPT_BYTES};
	return 0;
}

int websocket_begin(struct arena *arena, char ret_key[WEBSOCKET_KEY_BYTES], struct str *ret_accept)
{
	uint64_t nonce[2] = {random_u64(), random_u64()};
	unsigned char text[WEBSOCKET_KEY_BYTES + 1];
	EVP_EncodeBlock(text, (const unsigned char *)nonce, sizeof nonce);
	memcpy(ret_key, text, WEBSOCKET_KEY_BYTES);
	return websocket_accept(arena, (struct str){ret_key, WEBSOCKET_KEY_BYTES}, ret_accept);
}
