// SPDX-License-Identifier: Apache-2.0
// Injection with each allocation failing in turn: an error, nothing lost, nothing half done.
#include "inject/edit.h"
#include "inject/review.h"

#include "base/error.h"
#include "base/mem.h"
#include "base/pool.h"

#include <errno.h>

#include "test.h"

static const char manifest[] = "kind: Pod\n"
			       "metadata: {annotations: {weir.io/exclude-outbound-ports: '25'}}\n"
			       "spec:\n"
			       "  volumes: []\n"
			       "  containers:\n"
			       "  - name: app\n"
			       "    livenessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1}\n"
			       "    readinessProbe:\n"
			       "      tcpSocket:\n"
			       "        port: 80\n";

static const char review[] =
    "{\"kind\":\"AdmissionReview\",\"apiVersion\":\"admission.k8s.io/v1\",\"request\":{"
    "\"uid\":\"u\",\"operation\":\"CREATE\",\"kind\":{\"kind\":\"Pod\"},\"object\":{\"spec\":{"
    "\"containers\":[{\"name\":\"a\",\"livenessProbe\":{\"grpc\":{\"port\":9}}}]}}}}";

static int inject(struct strbuf *ret_text)
{
	struct settings settings;
	struct edit_result result;
	autostrbuf struct strbuf error = {0};
	settings_init(&settings);
	int err = edit_inject(str_from(manifest), &settings, ret_text, &result, &error);
	strbuf_done(&result.notes);
	arena_thread_done();
	return err;
}

static int answer(struct strbuf *ret_text)
{
	struct settings settings;
	autostrbuf struct strbuf error = {0};
	settings_init(&settings);
	int err = review_answer(str_from(review), &settings, ret_text, &error);
	arena_thread_done();
	return err;
}

// Runs it with the 1st, 2nd, ... allocation failing, until it succeeds: then the text is what it is without.
static void fail_in_turn(int (*run)(struct strbuf *ret_text))
{
	autostrbuf struct strbuf expected = {0};
	int err;
	long n = 0;
	assert_int_equal(run(&expected), 0);
	do {
		autostrbuf struct strbuf text = {0};
		mem_fail_set(n++);
		err = run(&text);
		bool failed = mem_fail_count() >= n;
		mem_fail_set(-1);
		if (err)
			assert_int_equal(err, -ENOMEM);
		else if (!failed)
			break;
		else
			assert_true(str_eq(strbuf_str(&text), strbuf_str(&expected)));
	} while (n < 10000);
	assert_int_equal(err, 0);
	assert_true(n > 20);
}

static void injection_without_memory(void **state)
{
	(void)state;
	fail_in_turn(inject);
}

static void review_without_memory(void **state)
{
	(void)state;
	fail_in_turn(answer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(injection_without_memory),
	    cmocka_unit_test(review_without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
