// SPDX-License-Identifier: Apache-2.0
// Proving that what is installed works, with real connections from this process to this namespace: captured
// ones must arrive at the proxy's port with their destination recoverable, spared ones must arrive where they
// go. If the proxy runs, it is the far end, and its socket is looked up; if it does not, a listener takes its
// place for the moment. Nothing of that leaves the host as long as capture works.
#pragma once

#include "intercept/install.h"

enum check_verdict { CHECK_OK, CHECK_FAILED, CHECK_SKIPPED };

struct check_result {
	const char *what; // "outbound TCP"
	int family;	  // AF_INET or AF_INET6; 0: it concerns both, and there is no target
	enum check_verdict verdict;
	struct addr target;
	char detail[192]; // what was found
};

enum { CHECK_RESULTS_MAX = 20 };

// Checks everything that the rules promise; returns how many results there are. Takes a few seconds at most.
size_t intercept_check(const struct installed *installed, struct check_result ret_results[CHECK_RESULTS_MAX]);
