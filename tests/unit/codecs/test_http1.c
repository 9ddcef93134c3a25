// SPDX-License-Identifier: Apache-2.0
// Heads that are accepted, and what is read from them. What is refused: test_http1_smuggling.c.
#include "codecs/http1_check.h"

static const char BROWSER[] =
    "GET /shop/list?page=2&sort=price HTTP/1.1\r\n"
    "Host: shop.example.com:8080\r\n"
    "Connection: keep-alive\r\n"
    "Upgrade-Insecure-Requests: 1\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 "
    "Safari/537.36\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8\r\n"
    "sec-ch-ua-platform: \"Linux\"\r\n"
    "Referer:\thttp://shop.example.com:8080/ \t\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "X-Empty:\r\n"
    "Cookie: a=b; name=\xc3\xa9\r\n"
    "\r\n";

static void test_browser_request(void **state)
{
	(void)state;
	const struct http1_head *h = request_ok(str_from(BROWSER));
	assert_str(h->head.method, "GET");
	assert_str(h->target, "/shop/list?page=2&sort=price");
	assert_str(h->head.path, "/shop/list?page=2&sort=price");
	assert_str(h->head.authority, "shop.example.com:8080");
	assert_int_equal(h->head.field_count, 10);
	assert_int_equal(h->minor, 1);
	assert_int_equal(h->framing, HTTP1_BODY_NONE);
	assert_true(h->persistent);
	assert_int_equal(h->flags, HTTP1_HAS_HOST | HTTP1_HAS_CONNECTION | HTTP1_CONN_KEEP_ALIVE |
				       HTTP1_HAS_HOP_FIELDS);
	assert_str(head_find(&h->head, STR("REFERER"))->value, "http://shop.example.com:8080/");
	assert_str(head_find(&h->head, STR("x-empty"))->value, "");
	assert_str(head_find(&h->head, STR("cookie"))->value, "a=b; name=\xc3\xa9");
	assert_null(head_find(&h->head, STR("x-none")));
}

static void test_pipelined_and_empty_lines(void **state)
{
	(void)state;
	static const char text[] = "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET /second";
	struct parsed *parsed = parse_every_way(&AS_REQUEST, str_from(text));
	assert_int_equal(parsed->result, sizeof text - 1 - 11);
	assert_str(parsed->head.raw, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
	request_refused(STR("\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP1_FAULT_SYNTAX);
}

static void test_target_forms(void **state)
{
	(void)state;
	const struct http1_head *h =
	    request_ok(STR("GET http://a.example:81/x?y HTTP/1.1\r\nHost: other\r\n\r\n"));
	assert_str(h->head.path, "/x?y");
	assert_str(h->head.authority, "a.example:81");
	assert_true(h->flags & HTTP1_TARGET_ABSOLUTE);
	h = request_ok(STR("GET HTTPS://[::1] HTTP/1.1\r\nHost: [::1]\r\n\r\n"));
	assert_str(h->head.path, "/");
	assert_str(h->head.authority, "[::1]");
	h = request_ok(STR("CONNECT a.example:443 HTTP/1.1\r\nHost: b\r\n\r\n"));
	assert_str(h->head.authority, "a.example:443");
	assert_int_equal(h->head.path.len, 0);
	assert_true(h->flags & HTTP1_TARGET_AUTHORITY);
	h = request_ok(STR("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: b\r\n\r\n"));
	assert_str(h->head.authority, "[2001:db8::1]:443");
	h = request_ok(STR("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
	assert_str(h->head.path, "*");
	assert_true(h->flags & HTTP1_TARGET_ASTERISK);
	h = request_ok(STR("OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n"));
	assert_str(h->head.path, "/x");
	h = request_ok(STR("GET /\xc3\xa9|{}\"^ HTTP/1.1\r\nHost: a\r\n\r\n"));
	assert_str(h->head.path, "/\xc3\xa9|{}\"^");
}

static void test_targets_refused(void **state)
{
	(void)state;
	static const struct {
		const char *line;
		enum http1_fault fault;
	} rows[] = {
	    {"GET * HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET a.example:80 HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET x/y HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET ftp://a/ HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET http:/a/ HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET http://a?x HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET http:// HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET http:///x HTTP/1.1", HTTP1_FAULT_HOST},
	    {"GET http://user@a/ HTTP/1.1", HTTP1_FAULT_HOST},
	    {"GET http://user:pw@a/ HTTP/1.1", HTTP1_FAULT_HOST},
	    {"GET http://a:65536/ HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT / HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT a HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT a: HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT a1 HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT [::1] HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT [::1]: HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT :443 HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT u@a:443 HTTP/1.1", HTTP1_FAULT_HOST},
	    {"CONNECT http://a:443/ HTTP/1.1", HTTP1_FAULT_HOST},
	    {"GET /a#b HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET /a\x01 HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET /a\x7f HTTP/1.1", HTTP1_FAULT_SYNTAX},
	    {"GET /a\tb HTTP/1.1", HTTP1_FAULT_SYNTAX},
	};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[256];
		int len = snprintf(text, sizeof text, "%s\r\nHost: a\r\n\r\n", rows[i].line);
		request_refused((struct str){text, (size_t)len}, rows[i].fault);
	}
}

static void test_hosts(void **state)
{
	(void)state;
	static const char *const good[] = {
	    "a",	  "a.example", "a.example:80", "192.0.2.1:1", "[2001:db8::1]:443", "[::1]", "a:",
	    "my_service", "",	       "a:65535",      "A-B.c",	      "[::ffff:192.0.2.1]"};
	static const char *const bad[] = {"a b",   "a/b",  "a@b",	"a:x",	  "a:65536",	"a:123456",
					  "[::1",  "[]",   "[1.2.3.4]", "[::1]x", "[::1%eth0]", "a,b",
					  "a%41",  ":80",  "a:80:80",	"a\\b",	  "[v1.x]",	"::1",
					  "\"a\"", "a\tb", "[::g]"};
	char text[256];
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", good[i]);
		const struct http1_head *h = request_ok((struct str){text, (size_t)len});
		assert_true(str_eq(h->head.authority, str_from(good[i])));
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", bad[i]);
		request_refused((struct str){text, (size_t)len}, HTTP1_FAULT_HOST);
	}
	request_refused(STR("GET / HTTP/1.1\r\n\r\n"), HTTP1_FAULT_HOST);
	request_refused(STR("GET http://a/ HTTP/1.1\r\n\r\n"), HTTP1_FAULT_HOST);
	request_ok(STR("GET / HTTP/1.0\r\n\r\n"));
	request_refused(STR("GET / HTTP/1.0\r\nHost: a\r\nHOST: a\r\n\r\n"), HTTP1_FAULT_HOST);
}

static void test_versions(void **state)
{
	(void)state;
	assert_int_equal(request_ok(STR("GET / HTTP/1.0\r\nHost: a\r\n\r\n"))->minor, 0);
	assert_int_equal(request_ok(STR("GET / HTTP/1.9\r\nHost: a\r\n\r\n"))->minor, 9);
	request_refused(STR("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), HTTP1_FAULT_VERSION);
	request_refused(STR("GET / HTTP/0.9\r\n\r\n"), HTTP1_FAULT_VERSION);
	request_refused(STR("GET / HTTP/11.1\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.10\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / HTTP/1.x\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / http/1.1\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / XTTP/1.1\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET /\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	request_refused(STR("GET / H\r\n\r\n"), HTTP1_FAULT_SYNTAX);
	response_refused(STR("HTTP/2.0 200 OK\r\n\r\n"), HTTP1_FAULT_VERSION);
	response_refused(STR("ICY 200 OK\r\n\r\n"), HTTP1_FAULT_SYNTAX);
}

static void test_persistence(void **state)
{
	(void)state;
	static const struct {
		const char *version, *fields;
		bool persistent;
	} rows[] = {
	    {"1.1", "", true},
	    {"1.1", "Connection: close\r\n", false},
	    {"1.1", "Connection: keep-alive, Close\r\n", false},
	    {"1.1", "Connection: x\r\nConnection: close\r\n", false},
	    {"1.1", "Connection: closed\r\n", true},
	    {"1.0", "", false},
	    {"1.0", "Connection: Keep-Alive\r\n", true},
	    {"1.0", "Connection: keep-alive,close\r\n", false},
	    {"1.0", "Connection: keep-aliv\r\n", false},
	};
	char text[256];
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int len = snprintf(text, sizeof text, "GET / HTTP/%s\r\nHost: a\r\n%s\r\n", rows[i].version,
				   rows[i].fields);
		assert_int_equal(request_ok((struct str){text, (size_t)len})->persistent, rows[i].persistent);
		len = snprintf(text, sizeof text, "HTTP/%s 200 OK\r\nContent-Length: 0\r\n%s\r\n",
			       rows[i].version, rows[i].fields);
		assert_int_equal(response_ok((struct str){text, (size_t)len}, "GET")->persistent,
				 rows[i].persistent);
	}
	assert_false(
	    response_ok(STR("HTTP/1.1 200 OK\r\n\r\n"), "GET")->persistent); // ends with the connection
	assert_true(response_ok(STR("HTTP/1.1 204 OK\r\n\r\n"), "GET")->persistent);
}

static void test_upgrade_and_expect(void **state)
{
	(void)state;
	const struct http1_head *h = request_ok(STR("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"
						    "Connection: keep-alive, Upgrade\r\n\r\n"));
	assert_true(h->flags & HTTP1_CONN_UPGRADE);
	assert_str(h->upgrade, "websocket");
	assert_false(http1_field_is_hop(h, head_find(&h->head, STR("upgrade"))));
	h = request_ok(STR("GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"));
	assert_false(h->flags & HTTP1_CONN_UPGRADE);
	assert_true(h->flags & HTTP1_HAS_HOP_FIELDS);
	assert_null(h->upgrade.p);
	assert_true(http1_field_is_hop(h, head_find(&h->head, STR("upgrade"))));
	h = request_ok(STR("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n\r\n"));
	assert_false(h->flags & HTTP1_CONN_UPGRADE);
	h = request_ok(
	    STR("GET /ws HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\nExpect: 100-continue\r\n\r\n"));
	assert_false(h->flags & (HTTP1_CONN_UPGRADE | HTTP1_EXPECT_CONTINUE));
	h = request_ok(STR("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n"));
	assert_true(h->flags & HTTP1_EXPECT_CONTINUE);
	h = request_ok(STR("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continued\r\n\r\n"));
	assert_false(h->flags & HTTP1_EXPECT_CONTINUE);
}

static void test_hop_fields(void **state)
{
	(void)state;
	const struct http1_head *h =
	    request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nConnection: X-One , host,te\r\nConnection: x-two,,"
			   "transfer-encoding\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: trailers\r\n"
			   "Transfer-Encoding: chunked\r\nX-One: 1\r\nx-TWO: 2\r\nX-Three: 3\r\n"
			   "Proxy-Authorization: x\r\n\r\n"));
	static const struct {
		const char *name;
		bool hop;
	} rows[] = {{"host", false},	  {"connection", true},
		    {"keep-alive", true}, {"proxy-connection", true},
		    {"te", false},	  {"transfer-encoding", false},
		    {"x-one", true},	  {"x-two", true},
		    {"x-three", false},	  {"proxy-authorization", false}};
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		assert_int_equal(http1_field_is_hop(h, head_find(&h->head, str_from(rows[i].name))),
				 rows[i].hop);
	h = request_ok(STR("GET / HTTP/1.1\r\nHost: a\r\nTE: gzip\r\n\r\n"));
	assert_true(http1_field_is_hop(h, &h->head.fields[1]));
	assert_int_equal(h->flags, HTTP1_HAS_HOST | HTTP1_HAS_HOP_FIELDS);
}

// The flag says of every message whether any field is hop-by-hop.
static void test_hop_flag_agrees(void **state)
{
	(void)state;
	static const char *const fields[] = {
	    "TE: trailers",	   "TE: gzip",		 "Keep-Alive: x", "Keep-Alivf: x",
	    "Proxy-Connection: x", "Proxy-Authorize: x", "Upgrade: x",	  "Connection: x",
	    "Connectioo: x",	   "Trailer: x",	 "Te: TRAILERS",  "Transfer-Encoding: chunked"};
	char text[256];
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
		int len = snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n", fields[i]);
		const struct http1_head *h = request_ok((struct str){text, (size_t)len});
		bool hop = http1_field_is_hop(h, &h->head.fields[1]);
		assert_int_equal(!!(h->flags & HTTP1_HAS_HOP_FIELDS), hop);
	}
}

static void test_request_framing(void **state)
{
	(void)state;
	const struct http1_head *h =
	    request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12345\r\n\r\n"));
	assert_int_equal(h->framing, HTTP1_BODY_LENGTH);
	assert_int_equal(h->length, 12345);
	h = request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n"));
	assert_true(h->length == INT64_MAX);
	h = request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0007\r\n\r\n"));
	assert_int_equal(h->length, 7);
	h = request_ok(STR("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n"));
	assert_int_equal(h->length, 5);
	h = request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \tChunked \r\n\r\n"));
	assert_int_equal(h->framing, HTTP1_BODY_CHUNKED);
	assert_int_equal(request_ok(STR("POST / HTTP/1.1\r\nHost: a\r\n\r\n"))->framing, HTTP1_BODY_NONE);
}

static void test_response_framing(void **state)
{
	(void)state;
	static const struct {
		const char *method, *status, *fields;
		enum http1_framing framing;
	} rows[] = {
	    {"GET", "200", "", HTTP1_BODY_EOF},
	    {"GET", "200", "Content-Length: 7\r\n", HTTP1_BODY_LENGTH},
	    {"GET", "200", "Transfer-Encoding: chunked\r\n", HTTP1_BODY_CHUNKED},
	    {"HEAD", "200", "Content-Length: 7\r\n", HTTP1_BODY_NONE},
	    {"HEAD", "200", "Transfer-Encoding: chunked\r\n", HTTP1_BODY_NONE},
	    {"HEAD", "200", "", HTTP1_BODY_NONE},
	    {"head", "200", "", HTTP1_BODY_EOF}, // methods are case-sensitive
	    {"GET", "100", "", HTTP1_BODY_NONE},
	    {"GET", "103", "Content-Length: 7\r\n", HTTP1_BODY_NONE},
	    {"GET", "101", "", HTTP1_BODY_TUNNEL},
	    {"GET", "204", "Content-Length: 7\r\n", HTTP1_BODY_NONE},
	    {"GET", "304", "Content-Length: 7\r\n", HTTP1_BODY_NONE},
	    {"GET", "304", "Transfer-Encoding: chunked\r\n", HTTP1_BODY_NONE},
	    {"GET", "205", "", HTTP1_BODY_EOF},
	    {"CONNECT", "200", "Content-Length: 7\r\n", HTTP1_BODY_TUNNEL},
	    {"CONNECT", "299", "Transfer-Encoding: chunked\r\n", HTTP1_BODY_TUNNEL},
	    {"CONNECT", "204", "", HTTP1_BODY_TUNNEL},
	    {"CONNECT", "407", "Content-Length: 7\r\n", HTTP1_BODY_LENGTH},
	    {"CONNECT", "502", "", HTTP1_BODY_EOF},
	};
	char text[256];
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int len =
		    snprintf(text, sizeof text, "HTTP/1.1 %s Text\r\n%s\r\n", rows[i].status, rows[i].fields);
		const struct http1_head *h = response_ok((struct str){text, (size_t)len}, rows[i].method);
		assert_int_equal(h->framing, rows[i].framing);
		assert_int_equal(h->length, rows[i].framing == HTTP1_BODY_LENGTH ? 7 : 0);
		assert_int_equal(h->head.status, atoi(rows[i].status));
	}
}

static void test_status_lines(void **state)
{
	(void)state;
	assert_str(response_ok(STR("HTTP/1.1 200 Very \tOK \xc3\xa9\r\n\r\n"), "GET")->reason,
		   "Very \tOK \xc3\xa9");
	assert_int_equal(response_ok(STR("HTTP/1.1 200 \r\n\r\n"), "GET")->reason.len, 0);
	assert_int_equal(response_ok(STR("HTTP/1.0 999\r\n\r\n"), "GET")->head.status, 999);
	static const char *const bad[] = {"HTTP/1.1 99 x",     "HTTP/1.1 099 x",   "HTTP/1.1 2000 x",
					  "HTTP/1.1  200 x",   "HTTP/1.1 20x x",   "HTTP/1.1 200x",
					  "HTTP/1.1 -20 x",    "HTTP/1.1\t200 x",  "HTTP/1.1 200 a\rb",
					  "HTTP/1.1 200 \x01", " HTTP/1.1 200 OK", "\r\nHTTP/1.1 200 OK"};
	char text[128];
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int len = snprintf(text, sizeof text, "%s\r\n\r\n", bad[i]);
		response_refused((struct str){text, (size_t)len}, HTTP1_FAULT_SYNTAX);
	}
	response_refused(STR("HTTP/1.1 200 OK\n\n"), HTTP1_FAULT_SYNTAX);
}

// --- limits -------------------------------------------------------------------------------------------------
static char *repeat(struct strbuf *sb, const char *head, char byte, size_t count, const char *tail)
{
	strbuf_add_text(sb, head);
	memset(strbuf_reserve(sb, count), byte, count);
	sb->len += count;
	strbuf_add_text(sb, tail);
	return sb->p;
}

static void check_size(const char *head, size_t count, const char *tail, enum http1_fault fault)
{
	autostrbuf struct strbuf sb = {0};
	static struct parsed parsed;
	repeat(&sb, head, 'x', count, tail);
	parse_once(&AS_REQUEST, strbuf_str(&sb), &parsed);
	assert_int_equal(parsed.result, fault ? ERR_MALFORMED : (int)sb.len);
	if (!fault)
		return;
	assert_int_equal(parsed.fault, fault);
	int result = ERR_NEED_MORE; // the same fault once enough bytes are there, and never success before
	for (size_t len = 1; len <= sb.len && result == ERR_NEED_MORE; len += len < 64 ? 1 : 97) {
		parse_once(&AS_REQUEST, (struct str){sb.p, len}, &parsed);
		result = parsed.result;
	}
	if (result != ERR_NEED_MORE)
		assert_int_equal(parsed.fault, fault);
}

static void test_limits(void **state)
{
	(void)state;
	check_size("", LIMIT_HTTP_METHOD, " / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1_OK);
	check_size("", LIMIT_HTTP_METHOD + 1, " / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1_FAULT_METHOD);
	check_size("GET /", LIMIT_HTTP_TARGET - 1, " HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1_OK);
	check_size("GET /", LIMIT_HTTP_TARGET, " HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1_FAULT_TARGET_LONG);
	check_size("GET / HTTP/1.1\r\nHost: a\r\nA: ", LIMIT_HTTP_HEAD - 32, "\r\n\r\n", HTTP1_OK);
	check_size("GET / HTTP/1.1\r\nHost: a\r\nA: ", LIMIT_HTTP_HEAD - 31, "\r\n\r\n",
		   HTTP1_FAULT_HEAD_LARGE);
}

// A head that has not ended where the limit lies is refused, the request line with a fault of its own.
static void test_limit_while_waiting(void **state)
{
	(void)state;
	static const char text[] = "GET /abcdef HTTP/1.1\r\nHost: a\r\n\r\n";
	static struct parsed parsed;
	for (size_t limit = 1; limit < sizeof text; limit++) {
		struct parse_as as = {.limit = limit, .max_fields = 8};
		for (size_t len = 0; len < sizeof text; len++) {
			parse_once(&as, (struct str){text, len}, &parsed);
			if (len < limit && len < sizeof text - 1)
				assert_int_equal(parsed.result, ERR_NEED_MORE);
			else if (limit < sizeof text - 1) {
				assert_int_equal(parsed.result, ERR_MALFORMED);
				assert_int_equal(parsed.fault, limit < 22 ? HTTP1_FAULT_TARGET_LONG
									  : HTTP1_FAULT_HEAD_LARGE);
			} else
				assert_int_equal(parsed.result, sizeof text - 1);
		}
	}
	struct parse_as as = {.response = true, .limit = 20, .max_fields = 8};
	parse_once(&as, STR("HTTP/1.1 200 A very long"), &parsed);
	assert_int_equal(parsed.fault, HTTP1_FAULT_HEAD_LARGE);
}

static void test_field_count(void **state)
{
	(void)state;
	static struct parsed parsed;
	static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\n\r\n";
	struct parse_as as = {.limit = LIMIT_HTTP_HEAD, .max_fields = 3};
	parse_once(&as, str_from(text), &parsed);
	assert_int_equal(parsed.result, sizeof text - 1);
	as.max_fields = 2;
	parse_once(&as, str_from(text), &parsed);
	assert_int_equal(parsed.fault, HTTP1_FAULT_HEAD_LARGE);
	autostrbuf struct strbuf sb = {0};
	strbuf_add_text(&sb, "GET / HTTP/1.1\r\nHost: a\r\n");
	for (int i = 0; i < LIMIT_HTTP_HEADERS; i++)
		strbuf_add_text(&sb, "A: b\r\n");
	strbuf_add_text(&sb, "\r\n");
	as.max_fields = UINT16_MAX; // more than there is room for is never used
	parse_once(&as, strbuf_str(&sb), &parsed);
	assert_int_equal(parsed.fault, HTTP1_FAULT_HEAD_LARGE);
}

static void test_nothing(void **state)
{
	(void)state;
	static struct parsed parsed;
	parse_once(&AS_REQUEST, (struct str){NULL, 0}, &parsed);
	assert_int_equal(parsed.result, ERR_NEED_MORE);
}

static void test_fault_rows(void **state)
{
	(void)state;
	for (int i = 0; i < HTTP1_FAULT_COUNT; i++) {
		const struct http1_fault_row *row = http1_fault_describe((enum http1_fault)i);
		assert_int_equal(row->fault, i);
		assert_non_null(row->text);
		assert_true(row->status == 200 ? i == HTTP1_OK : row->status >= 400 && row->status < 600);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(row->name, http1_fault_describe((enum http1_fault)j)->name);
	}
	assert_int_equal(http1_fault_describe((enum http1_fault)1000)->status, 400);
	assert_string_equal(protocol_name(PROTOCOL_BOLT), "bolt");
	assert_string_equal(protocol_name((enum protocol)99), "-");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_browser_request),
	    cmocka_unit_test(test_pipelined_and_empty_lines),
	    cmocka_unit_test(test_target_forms),
	    cmocka_unit_test(test_targets_refused),
	    cmocka_unit_test(test_hosts),
	    cmocka_unit_test(test_versions),
	    cmocka_unit_test(test_persistence),
	    cmocka_unit_test(test_upgrade_and_expect),
	    cmocka_unit_test(test_hop_fields),
	    cmocka_unit_test(test_hop_flag_agrees),
	    cmocka_unit_test(test_request_framing),
	    cmocka_unit_test(test_response_framing),
	    cmocka_unit_test(test_status_lines),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_limit_while_waiting),
	    cmocka_unit_test(test_field_count),
	    cmocka_unit_test(test_nothing),
	    cmocka_unit_test(test_fault_rows),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
