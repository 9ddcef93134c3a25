// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/emit.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void expect(void (*describe)(struct emit *), enum emit_format format, const char *expected)
{
	autostrbuf struct strbuf out = {0};
	struct emit emit;
	emit_init(&emit, &out, format);
	describe(&emit);
	emit_done(&emit);
	assert_false(out.failed);
	assert_string_equal(out.p ? out.p : "", expected);
}

static struct addr address(const char *text)
{
	struct addr addr = {0};
	assert_int_equal(addr_parse(str_from(text), &addr), 0);
	return addr;
}

// --- a table ----------------------------------------------------------------------------------------------
static void connection(struct emit *emit, uint64_t id, const char *peer, const char *tls, uint64_t bytes)
{
	struct addr addr = {0};
	if (peer)
		addr = address(peer);
	emit_row_begin(emit);
	emit_uint(emit, "id", id);
	emit_addr(emit, "peer", &addr);
	emit_record_begin(emit, "tls");
	emit_text(emit, "version", tls);
	emit_record_end(emit);
	emit_bytes(emit, "bytes_in", bytes);
	emit_row_end(emit);
}

static void connections(struct emit *emit)
{
	emit_table_begin(emit, "connections");
	connection(emit, 7, "10.0.0.1:80", "TLSv1.3", 1536);
	connection(emit, 1234, NULL, NULL, 12);
	emit_table_end(emit);
}

static void table_plain(void **state)
{
	(void)state;
	expect(connections, EMIT_PLAIN,
	       "  ID  PEER         TLS VERSION  BYTES IN\n"
	       "   7  10.0.0.1:80  TLSv1.3       1.5 KiB\n"
	       "1234  -            -                12 B\n");
}

static void table_json(void **state)
{
	(void)state;
	expect(connections, EMIT_JSON,
	       "{\"connections\":[{\"id\":7,\"peer\":\"10.0.0.1:80\",\"tls\":{\"version\":\"TLSv1.3\"},"
	       "\"bytes_in\":1536},"
	       "{\"id\":1234,\"peer\":null,\"tls\":{\"version\":null},\"bytes_in\":12}]}\n");
}

static void empty_table(struct emit *emit)
{
	emit_table_begin(emit, "virtual_hosts");
	emit_table_end(emit);
}

static void table_empty(void **state)
{
	(void)state;
	expect(empty_table, EMIT_PLAIN, "no virtual hosts\n");
	expect(empty_table, EMIT_JSON, "{\"virtual_hosts\":[]}\n");
}

static void uneven_rows(struct emit *emit)
{
	emit_table_begin(emit, "things");
	emit_row_begin(emit);
	emit_text(emit, "a", "1");
	emit_row_end(emit);
	emit_row_begin(emit);
	emit_text(emit, "b", "2");
	emit_row_end(emit);
	emit_table_end(emit);
}

static void table_uneven(void **state)
{
	(void)state;
	expect(uneven_rows, EMIT_PLAIN, "A  B\n1  -\n-  2\n");
}

static void two_tables(struct emit *emit)
{
	uneven_rows(emit);
	empty_table(emit);
}

static void tables_get_captions(void **state)
{
	(void)state;
	expect(two_tables, EMIT_PLAIN, "things:\nA  B\n1  -\n-  2\n\nvirtual hosts:\nno virtual hosts\n");
}

// --- cells made of tables and lists -----------------------------------------------------------------------
static void routes(struct emit *emit)
{
	emit_table_begin(emit, "routes");
	emit_row_begin(emit);
	emit_text(emit, "name", "r");
	emit_table_begin(emit, "to");
	for (uint64_t i = 1; i <= 2; i++) {
		emit_row_begin(emit);
		emit_text(emit, "cluster", i == 1 ? "one" : "two");
		emit_uint(emit, "weight", i);
		emit_row_end(emit);
	}
	emit_table_end(emit);
	emit_list_begin(emit, "methods");
	emit_list_end(emit);
	emit_row_end(emit);
	emit_table_end(emit);
}

static void inline_cells(void **state)
{
	(void)state;
	expect(routes, EMIT_PLAIN, "NAME  TO            METHODS\nr     one 1, two 2  -\n");
	expect(routes, EMIT_JSON,
	       "{\"routes\":[{\"name\":\"r\",\"to\":[{\"cluster\":\"one\",\"weight\":1},"
	       "{\"cluster\":\"two\",\"weight\":2}],\"methods\":[]}]}\n");
}

// --- records ----------------------------------------------------------------------------------------------
static void settings(struct emit *emit)
{
	emit_uint(emit, "generation", 3);
	emit_bool(emit, "ok", true);
	emit_record_begin(emit, "tls");
	emit_list_begin(emit, "allow");
	emit_text(emit, NULL, "spiffe://mesh/*");
	emit_text(emit, NULL, "spiffe://other");
	emit_list_end(emit);
	emit_text(emit, "mode", "strict");
	uneven_rows(emit);
	emit_record_end(emit);
	emit_duration(emit, "uptime", 3 * 60 * NS_PER_S + 5 * NS_PER_S);
	emit_int(emit, "offset", -2);
	emit_lines(emit, "text", STR("one\ntwo\n"));
}

static void record_plain(void **state)
{
	(void)state;
	expect(settings, EMIT_PLAIN,
	       "generation: 3\n"
	       "ok:         yes\n"
	       "\n"
	       "tls:\n"
	       "    allow: spiffe://mesh/*, spiffe://other\n"
	       "    mode:  strict\n"
	       "    things:\n"
	       "    A  B\n"
	       "    1  -\n"
	       "    -  2\n"
	       "uptime: 3m5s\n"
	       "offset: -2\n"
	       "text:\n"
	       "    one\n"
	       "    two\n");
}

static void record_json(void **state)
{
	(void)state;
	expect(settings, EMIT_JSON,
	       "{\"generation\":3,\"ok\":true,\"tls\":{\"allow\":[\"spiffe://mesh/*\",\"spiffe://other\"],"
	       "\"mode\":\"strict\",\"things\":[{\"a\":\"1\"},{\"b\":\"2\"}]},\"uptime_ms\":185000,"
	       "\"offset\":-2,"
	       "\"text\":\"one\\ntwo\\n\"}\n");
	expect(empty_table, EMIT_JSON_PRETTY, "{\n    \"virtual_hosts\": []\n}\n");
}

static void nothing(struct emit *emit)
{
	(void)emit;
}

static void nothing_emitted(void **state)
{
	(void)state;
	expect(nothing, EMIT_PLAIN, "");
	expect(nothing, EMIT_JSON, "");
}

// --- values -----------------------------------------------------------------------------------------------
static void hostile(struct emit *emit)
{
	emit_str(emit, "name", STR("a\x1b[2J\n\0\xc3\xa4"));
	emit_lines(emit, "text", STR("x\x1b\ny"));
}

static void hostile_bytes(void **state)
{
	(void)state;
	expect(hostile, EMIT_PLAIN, "name: a\\x1b[2J\\x0a\\x00\\xc3\\xa4\ntext:\n    x\\x1b\n    y\n");
	expect(hostile, EMIT_JSON,
	       "{\"name\":\"a\\u001b[2J\\n\\u0000\xc3\xa4\",\"text\":\"x\\u001b\\ny\"}\n");
}

static void units(struct emit *emit)
{
	struct ip none = {0};
	emit_ip(emit, "ip", &none);
	emit_bytes(emit, "a", 1023);
	emit_bytes(emit, "b", 1024 * 1024 - 1);
	emit_bytes(emit, "c", UINT64_MAX);
	emit_duration(emit, "d", 0);
	emit_duration(emit, "e", 12 * NS_PER_MS);
	emit_duration(emit, "f", 1500 * NS_PER_MS);
	emit_duration(emit, "g", 7260 * NS_PER_S);
	emit_duration(emit, "h", 90000 * NS_PER_S);
	emit_time(emit, "i", 1700000000);
}

static void human_units(void **state)
{
	(void)state;
	expect(
	    units, EMIT_PLAIN,
	    "ip: -\na:  1023 B\nb:  1.0 MiB\nc:  16.0 EiB\nd:  0s\ne:  12ms\nf:  1.5s\ng:  2h1m\nh:  1d1h\n"
	    "i:  2023-11-14T22:13:20Z\n");
}

static void failing_allocations(void **state)
{
	(void)state;
	for (long n = 0; n < 200; n++) {
		struct strbuf out = {0};
		struct emit emit;
		emit_init(&emit, &out, EMIT_PLAIN);
		mem_fail_set(n);
		settings(&emit);
		routes(&emit);
		two_tables(&emit);
		emit_done(&emit);
		mem_fail_set(-1);
		strbuf_done(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(table_plain),	   cmocka_unit_test(table_json),
	    cmocka_unit_test(table_empty),	   cmocka_unit_test(table_uneven),
	    cmocka_unit_test(tables_get_captions), cmocka_unit_test(inline_cells),
	    cmocka_unit_test(record_plain),	   cmocka_unit_test(record_json),
	    cmocka_unit_test(nothing_emitted),	   cmocka_unit_test(hostile_bytes),
	    cmocka_unit_test(human_units),	   cmocka_unit_test(failing_allocations),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
