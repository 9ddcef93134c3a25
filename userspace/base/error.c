// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <stddef.h>
#include <string.h>

static const struct {
	const char *name, *text;
} err_rows[] = {
#define ERR_ROW(name, text) {#name, text},
    ERR_TABLE(ERR_ROW)
#undef ERR_ROW
};

static int err_row(int err)
{
	int row = err > _ERR_BASE && err < 0 ? err - _ERR_BASE - 1 : -1;
	return row >= 0 && row < (int)(sizeof err_rows / sizeof err_rows[0]) ? row : -1;
}

const char *err_text(int err)
{
	if (err == 0)
		return "success";
	int row = err_row(err);
	if (row >= 0)
		return err_rows[row].text;
	const char *text = err < 0 && err > _ERR_BASE ? strerrordesc_np(-err) : NULL;
	return text ? text : "unknown error";
}

const char *err_name(int err)
{
	if (err == 0)
		return "ERR_OK";
	int row = err_row(err);
	if (row >= 0)
		return err_rows[row].name;
	const char *name = err < 0 && err > _ERR_BASE ? strerrorname_np(-err) : NULL;
	return name ? name : "UNKNOWN";
}
