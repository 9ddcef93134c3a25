// SPDX-License-Identifier: Apache-2.0
// Opens many keep-alive connections, makes one request on each, says "open", and holds them until its input
// ends.
#include "client.h"

#include <sys/resource.h>

int main(int argc, char **argv)
{
	if (argc != 5)
		errx(2, "usage: idle ADDRESS PORT HOST CONNECTIONS");
	struct sockaddr_in address = client_address(argv[1], argv[2]);
	struct request request = client_request(argv[3]);
	struct rlimit files;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	for (int i = atoi(argv[4]); i > 0; i--)
		client_exchange(client_connect(&address), &request);
	puts("open");
	fflush(stdout);
	while (getchar() != EOF)
		continue;
	return 0;
}
