// SPDX-License-Identifier: Apache-2.0
#include "codecs/codec.h"

#include <zlib.h>

static uint32_t crc_of(const uint8_t *bytes, size_t len)
{
	return (uint32_t)crc32_z(0, bytes, len);
}

uint32_t frame_set_id(const struct frame *frame, uint8_t *bytes, uint64_t id)
{
	size_t end = (size_t)frame->id_at + frame->id_size;
	bool checked = frame->checksum == FRAME_CHECKSUM_CRC32;
	uint32_t before = checked ? crc_of(bytes, end) : 0;
	for (size_t i = end; i-- > frame->id_at; id >>= 8)
		bytes[i] = (uint8_t)id;
	if (!checked)
		return 0;
	return (uint32_t)crc32_combine(before ^ crc_of(bytes, end), 0, (z_off_t)(frame->length - 4 - end));
}

bool frame_checksum_fits(const struct frame *frame, const uint8_t *bytes)
{
	struct reader r;
	if (frame->checksum == FRAME_CHECKSUM_NONE)
		return true;
	reader_init(&r, bytes + frame->length - 4, 4);
	return reader_u32(&r) == crc_of(bytes, frame->length - 4);
}

void frame_checksum_change(uint8_t *bytes, uint32_t change)
{
	for (size_t i = 4; i-- > 0; change >>= 8)
		bytes[i] ^= (uint8_t)change;
}
