// SPDX-License-Identifier: Apache-2.0
#include "run/signals.h"

#include "base/mem.h"

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct signals {
	struct loop *loop;
	struct loop_io io;
	void (*fn)(int number, void *arg);
	void *arg;
};

static void on_signal(struct loop_io *io, uint32_t events)
{
	struct signals *signals = container_of(io, struct signals, io);
	struct signalfd_siginfo info;
	(void)events;
	while (read(io->fd, &info, sizeof info) == sizeof info)
		signals->fn((int)info.ssi_signo, signals->arg);
}

int signals_new(struct loop *loop, const int *numbers, size_t count, void (*fn)(int number, void *arg),
		void *arg, struct signals **ret_signals)
{
	sigset_t set;
	struct signals *signals = mem_zalloc(sizeof *signals);
	if (!signals)
		return -ENOMEM;
	*signals = (struct signals){.loop = loop, .fn = fn, .arg = arg};
	sigemptyset(&set);
	for (size_t i = 0; i < count; i++)
		sigaddset(&set, numbers[i]);
	int err = -pthread_sigmask(SIG_BLOCK, &set, NULL);
	int fd = err ? -1 : signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (!err && fd < 0)
		err = -errno;
	if (!err)
		err = loop_io_add(loop, &signals->io, fd, EPOLLIN, on_signal);
	if (err) {
		if (fd >= 0)
			close(fd);
		mem_free(signals);
		return err;
	}
	*ret_signals = signals;
	return 0;
}

void signals_free(struct signals *signals)
{
	if (!signals)
		return;
	int fd = signals->io.fd;
	loop_io_del(signals->loop, &signals->io);
	close(fd);
	mem_free(signals);
}
